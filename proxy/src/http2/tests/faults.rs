//! Peers that do not keep to HTTP/2, or ask too much.

use proptest::prelude::*;

use super::*;

/// What a server makes of bytes after the preface.
async fn served(bytes: &[u8]) -> Result<(), Error> {
    let (mut near, far) = duplex(1024 * 1024);
    let serving = spawn(far, echo);
    near.write_all(crate::detect::PREFACE).await.unwrap();
    near.write_all(bytes).await.unwrap();
    near.shutdown().await.unwrap();
    soon(serving).await.unwrap()
}

#[tokio::test]
async fn who_breaks_the_protocol_is_told_and_left() {
    served(SETTINGS).await.unwrap();
    let wrong: [(&str, &[u8]); 12] = [
        (
            "a frame of a stream that has not begun",
            b"\0\0\x01\0\0\0\0\0\x01a",
        ),
        ("DATA on no stream", b"\0\0\x01\0\0\0\0\0\0a"),
        ("SETTINGS on a stream", b"\0\0\0\x04\0\0\0\0\x01"),
        ("half a setting", b"\0\0\x03\x04\0\0\0\0\0abc"),
        ("a short PING", b"\0\0\x03\x06\0\0\0\0\0abc"),
        ("a window of nothing", b"\0\0\x04\x08\0\0\0\0\0\0\0\0\0"),
        ("a window too large", b"\0\0\x04\x08\0\0\0\0\0\x7f\xff\xff\xff"),
        ("an even stream", b"\0\0\x01\x01\x05\0\0\0\x02\x82"),
        ("no header block", b"\0\0\x01\x01\x05\0\0\0\x01\x80"),
        ("a continuation of nothing", b"\0\0\x01\x09\x04\0\0\0\x01\x82"),
        (
            "a header block that is interrupted",
            b"\0\0\x01\x01\x01\0\0\0\x01\x82\0\0\x08\x06\0\0\0\0\0abcdefgh",
        ),
        ("a push", b"\0\0\x05\x05\x04\0\0\0\x01\0\0\0\x02\x82"),
    ];
    for (what, bytes) in wrong {
        let bytes = [SETTINGS, bytes].concat();
        let served = served(&bytes).await;
        let fatal = matches!(served, Err(Error::Protocol(..) | Error::Compression(_)));
        assert!(fatal, "{what}: {served:?}");
    }
    let (mut near, far) = duplex(1024);
    let serving = spawn(far, echo);
    near.write_all(b"GET / HTTP/1.1\r\n\r\n").await.unwrap();
    assert!(soon(serving).await.unwrap().is_err());
}

#[tokio::test]
async fn a_malformed_request_harms_no_other() {
    let (near, far) = duplex(64 * 1024);
    spawn(far, echo);
    let mut sender = h2_client(near).await;
    for (name, value) in [("content-length", "5"), ("content-length", "x")] {
        let request = Request::put("http://app/").header(name, value).body(()).unwrap();
        let (response, mut send) = sender.send_request(request, false).unwrap();
        send.send_data(Bytes::from_static(b"longer"), true).unwrap();
        let answered = soon(response).await;
        // The answer may have begun before the body was seen to be too long.
        let error = match answered {
            Err(error) => error,
            Ok(response) => soon(response.into_body().data()).await.unwrap().unwrap_err(),
        };
        assert_eq!(error.reason(), Some(Reason::PROTOCOL_ERROR), "{value}");
    }
    let (response, _) = sender
        .send_request(Request::get("http://app/").body(()).unwrap(), true)
        .unwrap();
    assert_eq!(soon(response).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn a_head_that_is_too_long_is_answered() {
    let (client, far) = client();
    spawn(far, echo);
    let mut request = get("/");
    for n in 0..6 {
        let name = http::HeaderName::try_from(format!("x-{n}")).unwrap();
        request
            .headers_mut()
            .insert(name, "v".repeat(14 * 1024).parse().unwrap());
    }
    let response = send(&client, request).await.unwrap();
    assert_eq!(response.status(), StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE);
    assert_eq!(send(&client, get("/")).await.unwrap().status(), StatusCode::OK);
}

#[tokio::test]
async fn no_more_streams_begin_than_are_taken() {
    let (client, far) = client();
    let begun = Arc::new(Mutex::new(0));
    let counted = begun.clone();
    spawn(far, move |_| {
        *counted.lock() += 1;
        pending::<Response<Body>>()
    });
    let mut sending: Vec<_> = (0..1100).map(|_| Box::pin(ask(&client, get("/")))).collect();
    let mut unsent = 0;
    for sending in &mut sending {
        unsent += usize::from(futures::poll!(sending).is_ready());
    }
    assert_eq!(unsent, 1000, "the server has not said how many it takes yet");
    soon(async {
        while *begun.lock() < 100 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}

/// Frames of all kinds, on few streams, with heads that are some or none.
fn frames() -> impl Strategy<Value = Vec<u8>> {
    let payload = prop_oneof![
        prop::collection::vec(any::<u8>(), 0..20),
        Just(vec![0x82, 0x86, 0x84]),
        Just(vec![0x88]),
        Just(vec![0, 0, 0, 1]),
        Just(b"eight by".to_vec()),
    ];
    let frame = (0..11_u8, any::<u8>(), 0..6_u8, payload).prop_map(|(kind, flags, stream, payload)| {
        let length = u8::try_from(payload.len()).unwrap();
        [&[0, 0, length, kind, flags, 0, 0, 0, stream], payload.as_slice()].concat()
    });
    prop::collection::vec(frame, 0..12).prop_map(|frames| frames.concat())
}

proptest! {
    #[test]
    fn whatever_comes_is_survived(frames in frames(), broken in prop::collection::vec(any::<u8>(), 0..20)) {
        let bytes = [&frames[..], &broken].concat();
        let _ = decode(&bytes, false);
        let _ = decode(&[crate::detect::PREFACE, &bytes].concat(), true);
    }
}
