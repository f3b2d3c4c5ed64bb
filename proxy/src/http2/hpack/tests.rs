use bytes::{Bytes, BytesMut};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use proptest::{collection::vec, prelude::*};

use super::{Decoder, Encoder, Error, Header, LIMIT, Outcome};

fn bytes(hex: &str) -> Bytes {
    let digits: Vec<_> = hex.bytes().filter(|digit| !digit.is_ascii_whitespace()).collect();
    let octets = digits.chunks(2).map(|two| std::str::from_utf8(two).unwrap());
    octets.map(|two| u8::from_str_radix(two, 16).unwrap()).collect()
}

fn decoded(decoder: &mut Decoder, block: impl Into<Bytes>) -> Result<(Vec<Header>, Outcome), Error> {
    let mut headers = Vec::new();
    let outcome = decoder.decode(block.into(), &mut |header| headers.push(header))?;
    Ok((headers, outcome))
}

fn good(decoder: &mut Decoder, block: impl Into<Bytes>) -> Vec<Header> {
    let (headers, outcome) = decoded(decoder, block).unwrap();
    assert_eq!(outcome, Outcome::Good);
    headers
}

fn header(name: &str, value: &str) -> Header {
    let text = HeaderValue::from_str(value).unwrap();
    match name {
        ":method" => Header::Method(value.parse().unwrap()),
        ":scheme" => Header::Scheme(text),
        ":authority" => Header::Authority(text),
        ":path" => Header::Path(value.parse().unwrap()),
        ":protocol" => Header::Protocol(text),
        ":status" => Header::Status(value.parse().unwrap()),
        _ => Header::Field(name.parse().unwrap(), text),
    }
}

fn encoded(encoder: &mut Encoder, head: &[Header]) -> Bytes {
    let text = |value: &HeaderValue| value.to_str().unwrap().to_owned();
    let mut out = BytesMut::new();
    encoder.begin(&mut out);
    for header in head {
        match header {
            Header::Method(method) => encoder.method(method, &mut out),
            Header::Scheme(value) => encoder.scheme(&text(value), &mut out),
            Header::Authority(value) => encoder.authority(&text(value), &mut out),
            Header::Path(path) => encoder.path(path.as_str(), &mut out),
            Header::Protocol(_) => unreachable!("it is never sent"),
            Header::Status(status) => encoder.status(*status, &mut out),
            Header::Field(name, value) => encoder.field(name, value, &mut out),
        }
    }
    out.freeze()
}

/// Blocks that follow one another, with the head and the table's size after each.
type Example<'a> = &'a [(&'a str, &'a [(&'a str, &'a str)], usize)];

fn assert_example(blocks: Example<'_>) {
    let mut decoder = Decoder::new();
    for (hex, head, size) in blocks {
        let head: Vec<_> = head.iter().map(|(name, value)| header(name, value)).collect();
        assert_eq!(good(&mut decoder, bytes(hex)), head);
        assert_eq!(decoder.size(), *size);
    }
}

const REQUESTS: [&[(&str, &str)]; 3] = [
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "http"),
        (":path", "/"),
        (":authority", "www.example.com"),
        ("cache-control", "no-cache"),
    ],
    &[
        (":method", "GET"),
        (":scheme", "https"),
        (":path", "/index.html"),
        (":authority", "www.example.com"),
        ("custom-key", "custom-value"),
    ],
];

const RESPONSES: [&[(&str, &str)]; 3] = [
    &[
        (":status", "302"),
        ("cache-control", "private"),
        ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("location", "https://www.example.com"),
    ],
    &[
        (":status", "307"),
        ("cache-control", "private"),
        ("date", "Mon, 21 Oct 2013 20:13:21 GMT"),
        ("location", "https://www.example.com"),
    ],
    &[
        (":status", "200"),
        ("cache-control", "private"),
        ("date", "Mon, 21 Oct 2013 20:13:22 GMT"),
        ("location", "https://www.example.com"),
        ("content-encoding", "gzip"),
        (
            "set-cookie",
            "foo=ASDJKHQKBZXOQWEOPIUAXQWEOIU; max-age=3600; version=1",
        ),
    ],
];

#[test]
fn each_form_of_a_field_is_read_as_in_appendix_c_2() {
    assert_example(&[(
        "400a 6375 7374 6f6d 2d6b 6579 0d63 7573 746f 6d2d 6865 6164 6572",
        &[("custom-key", "custom-header")],
        55,
    )]);
    assert_example(&[(
        "040c 2f73 616d 706c 652f 7061 7468",
        &[(":path", "/sample/path")],
        0,
    )]);
    assert_example(&[(
        "1008 7061 7373 776f 7264 0673 6563 7265 74",
        &[("password", "secret")],
        0,
    )]);
    assert_example(&[("82", &[(":method", "GET")], 0)]);
}

#[test]
fn requests_are_read_as_in_appendices_c_3_and_c_4() {
    assert_example(&[
        (
            "8286 8441 0f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            REQUESTS[0],
            57,
        ),
        ("8286 84be 5808 6e6f 2d63 6163 6865", REQUESTS[1], 110),
        (
            "8287 85bf 400a 6375 7374 6f6d 2d6b 6579 0c63 7573 746f 6d2d 7661 6c75 65",
            REQUESTS[2],
            164,
        ),
    ]);
    assert_example(&[
        ("8286 8441 8cf1 e3c2 e5f2 3a6b a0ab 90f4 ff", REQUESTS[0], 57),
        ("8286 84be 5886 a8eb 1064 9cbf", REQUESTS[1], 110),
        (
            "8287 85bf 4088 25a8 49e9 5ba9 7d7f 8925 a849 e95b b8e8 b4bf",
            REQUESTS[2],
            164,
        ),
    ]);
}

/// The examples' table has 256 octets, as the first block is made to say.
#[test]
fn responses_that_evict_are_read_as_in_appendices_c_5_and_c_6() {
    assert_example(&[
        (
            "3fe101 4803 3330 3258 0770 7269 7661 7465 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a
             3133 3a32 3120 474d 546e 1768 7474 7073 3a2f 2f77 7777 2e65 7861 6d70 6c65 2e63 6f6d",
            RESPONSES[0],
            222,
        ),
        ("4803 3330 37c1 c0bf", RESPONSES[1], 222),
        (
            "88c1 611d 4d6f 6e2c 2032 3120 4f63 7420 3230 3133 2032 303a 3133 3a32 3220 474d 54c0 5a04 677a 6970
             7738 666f 6f3d 4153 444a 4b48 514b 425a 584f 5157 454f 5049 5541 5851 5745 4f49 553b 206d 6178 2d61
             6765 3d33 3630 303b 2076 6572 7369 6f6e 3d31",
            RESPONSES[2],
            215,
        ),
    ]);
    assert_example(&[
        (
            "3fe101 4882 6402 5885 aec3 771a 4b61 96d0 7abe 9410 54d4 44a8 2005 9504 0b81 66e0 82a6 2d1b ff6e
             919d 29ad 1718 63c7 8f0b 97c8 e9ae 82ae 43d3",
            RESPONSES[0],
            222,
        ),
        ("4883 640e ffc1 c0bf", RESPONSES[1], 222),
        (
            "88c1 6196 d07a be94 1054 d444 a820 0595 040b 8166 e084 a62d 1bff c05a 839b d9ab 77ad 94e7 821d d7f2
             e6c7 b335 dfdf cd5b 3960 d5af 2708 7f36 72c1 ab27 0fb5 291f 9587 3160 65c0 03ed 4ee5 b106 3d50 07",
            RESPONSES[2],
            215,
        ),
    ]);
}

#[test]
fn a_block_that_is_none_ends_the_connection() {
    let numbers = ["ffffffffff7f", "ff8080808080", "7fffffffffffff01"];
    for (error, blocks) in [
        (Error::Index, &["80", "be", "ff00", "7f0000"][..]),
        (Error::Number, &numbers),
        (
            Error::Short,
            &["ff", "ff80", "00", "0003612d", "0001", "000161", "04032f"],
        ),
        (Error::Resize, &["3fe21f", "8220"]),
        (Error::Huffman, &["0484ffffffff", "04821fff", "048118", "0481ff"]),
    ] {
        for block in blocks {
            assert_eq!(decoded(&mut Decoder::new(), bytes(block)), Err(error), "{block}");
        }
    }
}

#[test]
fn what_http_does_not_know_is_left_out_and_counted() {
    let mut decoder = Decoder::new();
    // `A: v`, a line end in a value, `:a: v`, no name, a status of two digits, all of them entries, and `GET`.
    let block = bytes("4001410176 4001620376 0d0a 40023a610176 40000176 4802 3230 82");
    let (headers, outcome) = decoded(&mut decoder, block).unwrap();
    assert_eq!(headers, [header(":method", "GET")]);
    assert_eq!(
        outcome,
        Outcome::Malformed("a field's name is malformed or unknown")
    );
    assert_eq!(decoder.size(), 5 * 32 + 2 + 4 + 3 + 1 + 9);
    // The first has index 66, and the second 65: its name can be used.
    let (headers, outcome) = decoded(&mut decoder, bytes("c1 0f3200 82 0f3300")).unwrap();
    assert_eq!(headers, [header("b", ""), header(":method", "GET")]);
    assert_eq!(outcome, Outcome::Malformed("a field's value is malformed"));
}

#[test]
fn what_never_becomes_an_entry_is_secret_on_the_way_on() {
    let headers = good(&mut Decoder::new(), bytes("1001610162 0001610162"));
    let secret: Vec<_> = headers
        .iter()
        .map(|header| matches!(header, Header::Field(_, value) if value.is_sensitive()))
        .collect();
    assert_eq!(secret, [true, false]);
}

#[test]
fn a_head_that_comes_again_is_one_octet_for_each_field_from_the_third_time_on() {
    let head = [
        (":method", "PUT"),
        (":scheme", "http"),
        (":authority", "a.example:8080"),
        (":path", "/some/path?and=query"),
        (":status", "418"),
        ("user-agent", "a client"),
        ("accept", "*/*"),
        ("accept-encoding", "gzip, deflate"),
        ("x-mine", "value"),
    ]
    .map(|(name, value)| header(name, value));
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    for time in 1..10 {
        let block = encoded(&mut encoder, &head);
        assert!(time < 3 || block.len() == head.len(), "{time}: {}", block.len());
        assert_eq!(good(&mut decoder, block), head);
    }
}

#[test]
fn values_that_never_come_again_leave_the_table_alone() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    let head = |value: usize| {
        let (path, id) = (format!("/{value}"), format!("id-{value:020}"));
        [(":path", path), ("from", id.clone()), ("x-request-id", id)]
            .map(|(name, value)| header(name, &value))
    };
    for value in 0..1000 {
        let head = head(value);
        let block = encoded(&mut encoder, &head);
        assert_eq!(good(&mut decoder, block), head);
        // The name that has no index gets one when it comes for the second time.
        let expected = if value == 0 { 0 } else { head[2].size() };
        assert_eq!((encoder.size(), decoder.size()), (expected, expected), "{value}");
    }
}

#[test]
fn secrets_and_large_values_never_become_entries() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    let mut sensitive = HeaderValue::from_static("sensitive");
    sensitive.set_sensitive(true);
    let secret = [
        header("authorization", "Basic eDp5"),
        header("proxy-authorization", "Basic eDp5"),
        header("cookie", "short=1"),
        header("set-cookie", "long=123456789012345678901234567890"),
        Header::Field(HeaderName::from_static("user-agent"), sensitive),
    ];
    for _ in 0..5 {
        for header in &secret {
            let block = encoded(&mut encoder, std::slice::from_ref(header));
            assert_eq!(block[0] & 0xf0, 0x10, "{header:?}");
            assert_eq!(good(&mut decoder, block), std::slice::from_ref(header));
        }
        encoded(&mut encoder, &[header("from", &"x".repeat(LIMIT / 4))]);
    }
    assert_eq!(encoder.size(), 0);
    let cookie = [header("cookie", "session=12345678901234567890")];
    let lengths = [0; 3].map(|_| encoded(&mut encoder, &cookie).len());
    assert_eq!(lengths[2], 1);
}

#[test]
fn a_change_of_the_limit_is_told_before_the_next_field() {
    let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
    let head = [header("accept", "*/*")];
    encoder.set_limit(1 << 20);
    for _ in 0..3 {
        good(&mut decoder, encoded(&mut encoder, &head));
    }
    assert_eq!(encoder.size(), head[0].size());
    encoder.set_limit(0);
    encoder.set_limit(LIMIT);
    let block = encoded(&mut encoder, &head);
    assert_eq!(block[..4], bytes("203fe11f"));
    assert_eq!(good(&mut decoder, block), head);
    assert_eq!((encoder.size(), decoder.size()), (41, head[0].size()));
    encoder.set_limit(40);
    for block in [encoded(&mut encoder, &head), encoded(&mut encoder, &head)] {
        assert_eq!(good(&mut decoder, block), head);
    }
    assert_eq!((encoder.size(), decoder.size()), (0, 0));
}

#[test]
fn static_names_and_values_are_found() {
    let mut encoder = Encoder::new();
    let mut out = BytesMut::new();
    for code in [200, 204, 206, 304, 400, 404, 500] {
        encoder.status(StatusCode::from_u16(code).unwrap(), &mut out);
    }
    encoder.method(&Method::POST, &mut out);
    encoder.scheme("https", &mut out);
    assert_eq!(out, bytes("88898a8b8c8d8e 83 87"));
    for (name, value) in &super::table::STATIC[14..] {
        let block = encoded(&mut Encoder::new(), &[header(name, value)]);
        assert_eq!(block.len(), 1, "{name}");
        assert_eq!(good(&mut Decoder::new(), block), [header(name, value)]);
    }
}

fn some_header() -> impl Strategy<Value = Header> {
    let names = [
        ":authority",
        "host",
        "from",
        "cookie",
        "x-a",
        "x-bcdefghijklmnopq",
    ];
    let values = ("[a-d]", prop::sample::select(&[0, 1, 7, 20, 150, 500, 1000][..]));
    (prop::sample::select(names.to_vec()), values)
        .prop_map(|(name, (letter, length))| header(name, &letter.repeat(length)))
}

proptest! {
    #[test]
    fn whatever_is_encoded_is_decoded(
        blocks in vec((vec(some_header(), 0..20), prop::option::weighted(0.1, 0_usize..5000)), 0..40),
    ) {
        let (mut encoder, mut decoder) = (Encoder::new(), Decoder::new());
        for (head, limit) in blocks {
            limit.into_iter().for_each(|limit| encoder.set_limit(limit));
            let block = encoded(&mut encoder, &head);
            prop_assert_eq!(good(&mut decoder, block), head);
            prop_assert_eq!(encoder.size(), decoder.size());
            prop_assert!(decoder.size() <= LIMIT);
        }
    }

    #[test]
    fn whatever_comes_is_decoded_or_refused(blocks in vec(vec(any::<u8>(), 0..200), 0..10)) {
        let mut decoder = Decoder::new();
        for block in blocks {
            if decoded(&mut decoder, block).is_err() {
                break;
            }
            prop_assert!(decoder.size() <= LIMIT);
        }
    }
}
