//! What comes out is what would have come over HTTP/1.

use super::app::{App, Case, END, GET, NO_CONTENT, answer, case, handshakes, hold, secured};

fn cases() -> Vec<Case> {
    let plain = (GET, END);
    let ok = (NO_CONTENT, END);
    let long = format!(
        "GET /{} HTTP/1.1\r\nhost: app\r\nx-long: {}\r\n\r\n",
        "p".repeat(4096),
        "v".repeat(48 * 1024)
    );
    let many: String = (0..200).map(|n| format!("x-{n}: {n}\r\n")).collect();
    let many = format!("GET / HTTP/1.1\r\nhost: app\r\n{many}\r\n");
    let long_answer = format!(
        "HTTP/1.1 200 OK\r\nx-long: {}\r\ncontent-length: 2\r\n\r\nhi",
        "v".repeat(160 * 1024)
    );
    vec![
        case(
            "plain",
            plain,
            (
                "HTTP/1.1 200 OK\r\nserver: mine\r\ncontent-length: 2\r\n\r\nhi",
                "hi",
            ),
        ),
        case(
            "sized",
            (
                "POST /p HTTP/1.1\r\nhost: app\r\ncontent-length: 4\r\nx-after: 1\r\n\r\nbody",
                "body",
            ),
            ok,
        ),
        case(
            "sized-empty",
            ("POST /p HTTP/1.1\r\nhost: app\r\ncontent-length: 0\r\n\r\n", END),
            ok,
        ),
        case(
            "chunked",
            (
                "PUT /p HTTP/1.1\r\ntransfer-encoding: chunked\r\nhost: app\r\nx-a: 1\r\nx-b: 2\r\n\r\n5\r\nfirst\r\n0\r\n\r\n",
                "0\r\n\r\n",
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nx-a: 1\r\n\r\n3\r\none\r\n0\r\n\r\n",
                "0\r\n\r\n",
            ),
        ),
        case(
            "chunked-empty",
            (
                "POST /p HTTP/1.1\r\nhost: app\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
                "\r\n\r\n0\r\n\r\n",
            ),
            (
                "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
                "\r\n\r\n0\r\n\r\n",
            ),
        ),
        case(
            "trailers",
            (
                "POST /p HTTP/1.1\r\nhost: app\r\nte: trailers\r\nconnection: te\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n5\r\nfirst\r\n0\r\nx-sum: 1\r\nx-not-named: 2\r\n\r\n",
                "x-sum: 1\r\n\r\n",
            ),
            (
                "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n0\r\nx-sum: 2\r\n\r\n",
                "x-sum: 2\r\n\r\n",
            ),
        ),
        case(
            "trailers-unwanted",
            plain,
            (
                "HTTP/1.1 200 OK\r\ntrailer: x-sum\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n0\r\nx-sum: 2\r\n\r\n",
                "0\r\n\r\n",
            ),
        ),
        case(
            "get-with-body",
            (
                "GET /p HTTP/1.1\r\nhost: app\r\ncontent-length: 5\r\n\r\nquery",
                "query",
            ),
            ok,
        ),
        case(
            "head",
            ("HEAD /p HTTP/1.1\r\nhost: app\r\n\r\n", END),
            ("HTTP/1.1 200 OK\r\ncontent-length: 1234\r\n\r\n", END),
        ),
        case(
            "head-chunked",
            ("HEAD /p HTTP/1.1\r\nhost: app\r\n\r\n", END),
            ("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n", END),
        ),
        case(
            "no-content",
            plain,
            ("HTTP/1.1 204 No Content\r\nx-a: 1\r\n\r\n", END),
        ),
        case(
            "not-modified",
            plain,
            (
                "HTTP/1.1 304 Not Modified\r\ncontent-length: 77\r\netag: \"x\"\r\n\r\n",
                END,
            ),
        ),
        case(
            "empty",
            plain,
            ("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n", END),
        ),
        case(
            "until-close",
            plain,
            (
                "HTTP/1.1 200 OK\r\nconnection: close\r\n\r\nall of it",
                "0\r\n\r\n",
            ),
        ),
        case(
            "phrase",
            plain,
            ("HTTP/1.1 503 Very Busy Now\r\ncontent-length: 0\r\n\r\n", END),
        ),
        case(
            "no-phrase",
            plain,
            ("HTTP/1.1 200 \r\ncontent-length: 0\r\n\r\n", END),
        ),
        case(
            "odd-status",
            plain,
            ("HTTP/1.1 799 Odd\r\ncontent-length: 2\r\n\r\nhi", "hi"),
        ),
        case(
            "interim",
            plain,
            (
                "HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi",
                "hi",
            ),
        ),
        case(
            "fields",
            (
                "GET /a//b;c=%2F?x=%20&y#frag HTTP/1.1\r\nX-Dup: one\r\nHost: app.example:8080\r\nx-empty:\r\nCookie: a=1\r\nx-dup: two\r\nCookie: b=2; c=3\r\nX-Bytes: caf\u{e9}\r\naccept: */*\r\nx-dup: three\r\n\r\n",
                END,
            ),
            (
                "HTTP/1.1 200 OK\r\nSet-Cookie: a=1\r\nx-dup: 1\r\nSet-Cookie: b=2\r\nX-Empty:\r\nx-dup: 2\r\nVia: 1.1 x\r\ncontent-length: 2\r\n\r\nhi",
                "hi",
            ),
        ),
        case(
            "hop-by-hop",
            (
                "GET / HTTP/1.1\r\nx-a: 1\r\nconnection: keep-alive, x-mine\r\nx-b: 2\r\nkeep-alive: 5\r\nx-mine: 1\r\nhost: app\r\nx-c: 3\r\nte: gzip, trailers\r\nproxy-connection: x\r\nx-d: 4\r\n\r\n",
                END,
            ),
            (
                "HTTP/1.1 200 OK\r\nx-a: 1\r\nkeep-alive: timeout=5\r\nx-b: 2\r\nconnection: keep-alive\r\nx-c: 3\r\nupgrade: h2c\r\ncontent-length: 0\r\n\r\n",
                END,
            ),
        ),
        case(
            "absolute",
            (
                "GET http://other.example/p?q HTTP/1.1\r\nhost: app\r\nx-a: 1\r\n\r\n",
                END,
            ),
            ok,
        ),
        case(
            "absolute-alone",
            ("GET http://other.example HTTP/1.1\r\nx-a: 1\r\n\r\n", END),
            ok,
        ),
        case("no-host", ("GET /p HTTP/1.1\r\n\r\n", END), ok),
        case(
            "odd-host",
            ("GET /p HTTP/1.1\r\nhost: not a host\r\n\r\n", END),
            ok,
        ),
        case(
            "two-hosts",
            ("GET /p HTTP/1.1\r\nhost: app\r\nhost: other\r\n\r\n", END),
            ok,
        ),
        case(
            "odd-method",
            ("M-SEARCH /p HTTP/1.1\r\nhost: app\r\n\r\n", END),
            ok,
        ),
        case("lower-method", ("get /p HTTP/1.1\r\nhost: app\r\n\r\n", END), ok),
        case(
            "expect",
            (
                "PUT /p HTTP/1.1\r\nhost: app\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\nbody",
                "body",
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", "hi"),
        ),
        case(
            "forged",
            (
                "GET /p HTTP/1.1\r\nhost: app\r\nx-weir-http1: chunked\r\n\r\n",
                END,
            ),
            (
                "HTTP/1.1 200 OK\r\nx-weir-http1: chunked Forged\r\ncontent-length: 2\r\n\r\nhi",
                "hi",
            ),
        ),
        case("long", (&long, END), ok),
        case("many", (&many, END), ok),
        case("long-answer", plain, (&long_answer, "\r\n\r\nhi")),
        // Last, since it leaves a connection of HTTP/1 behind.
        case(
            "http-1.0",
            (
                "GET /p HTTP/1.0\r\nhost: app\r\nconnection: keep-alive\r\n\r\n",
                END,
            ),
            ("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nhi", "hi"),
        ),
    ]
}

#[tokio::test]
async fn neither_end_can_tell_that_a_request_was_carried() {
    let app = App::new(cases());
    let pair = secured(&app).await;
    let mut answered = Vec::new();
    for case in app.cases.iter() {
        answered.push(answer(&pair, case).await);
    }
    let got = std::mem::take(&mut *app.seen.lock().await);
    for (case, answered) in app.cases.iter().zip(&answered) {
        let answered = String::from_utf8_lossy(answered);
        assert!(
            got.contains_key(case.name),
            "{} was answered {answered}",
            case.name
        );
    }
    let _held = hold(&pair, &app).await;
    for (case, answered) in app.cases.iter().zip(answered) {
        let before = handshakes(&pair);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        assert_eq!(text(&answer(&pair, case).await), text(&answered), "{}", case.name);
        let seen = app.seen.lock().await.remove(case.name).unwrap_or_default();
        assert_eq!(text(&seen), text(&got[case.name]), "{}", case.name);
        let carried = handshakes(&pair) == before;
        assert_eq!(carried, case.name != "http-1.0", "{}", case.name);
    }
}
