use super::*;

/// A ClientHello with this name and these protocols, in records of at most `record` bytes.
fn client_hello(sni: &str, alpn: &[&str], record: usize) -> Vec<u8> {
    let vector = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    let name = vector(&[&[0][..], &vector(sni.as_bytes())].concat());
    let protocols: Vec<u8> = alpn
        .iter()
        .flat_map(|name| [&[u8::try_from(name.len()).unwrap()], name.as_bytes()].concat())
        .collect();
    let extensions = [
        &[0x0a, 0x0a, 0, 0][..],
        &[0, 0],
        &vector(&name),
        &[0, 16],
        &vector(&vector(&protocols)),
    ]
    .concat();
    let body = [
        &[3, 3][..],
        &[7; 32],
        &[2, 1, 2],
        &vector(&[0x13, 0x01]),
        &[1, 0],
        &vector(&extensions),
    ]
    .concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1][..], &length[1..], &body].concat();
    message
        .chunks(record)
        .flat_map(|chunk| [&[0x16, 3, 1][..], &vector(chunk)].concat())
        .collect()
}

#[test]
fn tls_tells_its_name_and_protocols() {
    let expected = Detected::Tls(Hello {
        sni: "shop.example".to_owned(),
        alpn: vec!["osm".to_owned(), "h2".to_owned()],
    });
    for record in [7, 100, 16_384] {
        let bytes = client_hello("Shop.Example", &["osm", "h2"], record);
        assert_eq!(detect(&bytes), expected);
        for end in 0..bytes.len() {
            assert_eq!(
                detect(&bytes[..end]),
                Detected::NeedMore,
                "{end} bytes of records of {record}"
            );
        }
    }
}

#[test]
fn what_only_starts_like_tls_is_opaque() {
    assert_eq!(detect(b"\x16\x02\x01\x00\x05hello"), Detected::Opaque);
    assert_eq!(detect(b"\x16\x03\x01\x00\x05\x02\x00\x00\x01x"), Detected::Opaque);
    assert_eq!(detect(b"\x16\x03\x01\x00\x00"), Detected::Opaque);
    assert_eq!(detect(b"\x16\x03\x01\x00\x04\x01\xff\xff\xff"), Detected::Opaque);
}

#[test]
fn http_is_told_by_its_request_line() {
    assert_eq!(detect(b"GET / HTTP/1.1\r\n"), Detected::Http1);
    assert_eq!(detect(b"M-SEARCH * HTTP/1.0\n"), Detected::Http1);
    assert_eq!(detect(b"GET /a"), Detected::NeedMore);
    assert_eq!(detect(b"GE"), Detected::NeedMore);
    assert_eq!(detect(b""), Detected::NeedMore);
    assert_eq!(detect(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0"), Detected::Http2);
    assert_eq!(detect(b"PRI * HT"), Detected::NeedMore);
}

#[test]
fn other_protocols_are_opaque_at_once() {
    assert_eq!(detect(b"SSH-2.0-OpenSSH_9.2\r\n"), Detected::Opaque);
    assert_eq!(detect(b"*1\r\n$4\r\nPING\r\n"), Detected::Opaque);
    assert_eq!(detect(b"EHLO mail.example\r\n"), Detected::Opaque);
    assert_eq!(detect(b"\0\0\0\x08\x04\xd2\x16\x2f"), Detected::Opaque);
    assert_eq!(detect(&[b'A'; 64]), Detected::Opaque);
}

#[test]
fn a_verdict_does_not_depend_on_how_the_bytes_arrive() {
    let long = [b"GET /", &[b'a'; LONGEST_REQUEST_LINE][..], b" HTTP/1.1\r\n"].concat();
    for bytes in [
        &b"GET / HTTP/1.1\r\nhost: x\r\n\r\n"[..],
        b"PRI * x\x17 HTTP/1.1\r\n",
        b"GET /\t HTTP/1.1\n",
        b"GET /\r HTTP/1.1\n",
        &long,
    ] {
        let whole = detect(bytes);
        let ends = (0..bytes.len().min(64)).chain(bytes.len().saturating_sub(64)..bytes.len());
        for end in ends {
            let part = detect(&bytes[..end]);
            assert!(
                part == Detected::NeedMore || part == whole,
                "{part:?} became {whole:?}"
            );
        }
    }
}

#[test]
fn no_input_makes_it_panic() {
    let whole = client_hello("a.example", &["osm"], 16_384);
    for position in 0..whole.len() {
        for byte in [0, 1, 0x16, 0x7f, 0xff] {
            let mut bytes = whole.clone();
            bytes[position] = byte;
            let _ = detect(&bytes);
        }
    }
}
