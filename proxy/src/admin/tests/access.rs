//! Who is answered, and what is asked too much.

use super::*;

#[tokio::test]
async fn only_the_admin_server_has_more() {
    let served = serve();
    for path in ["/config_dump", "/certs", "/clusters", "/logging", "/"] {
        assert_eq!(get(served.stats, path).await.status, 404, "{path}");
        assert_eq!(get(served.health, path).await.status, 404, "{path}");
    }
    for path in ["/quitquitquit", "/shutdown", "/drain_listeners"] {
        assert_eq!(ask(served.stats, "POST", path, "").await.status, 405, "{path}");
        assert_eq!(ask(served.health, "POST", path, "").await.status, 405, "{path}");
    }
    assert_eq!(served.fake.stops.load(Ordering::Relaxed), 0);
}

#[tokio::test]
async fn foreign_hosts_and_origins_are_refused() {
    let served = serve();
    for (host, status) in [
        ("localhost:1", 200),
        ("LOCALHOST", 200),
        ("127.0.0.1", 200),
        ("127.8.8.8:15000", 200),
        ("[::1]:15000", 200),
        ("[::1]", 200),
        ("evil.example", 403),
        ("10.0.0.1:15000", 403),
        ("localhost.evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("", 403),
    ] {
        let request = format!("GET /live HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(raw(served.admin, &request).await.status, status, "{host}");
    }
    let two = "GET /live HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n";
    assert_eq!(raw(served.admin, two).await.status, 403);
    let absolute = "GET http://evil.example/live HTTP/1.1\r\nHost: localhost\r\n\r\n";
    assert_eq!(raw(served.admin, absolute).await.status, 403);
    assert_eq!(raw(served.admin, "GET /live HTTP/1.1\r\n\r\n").await.status, 400);
    assert_eq!(raw(served.admin, "GET /live HTTP/1.0\r\n\r\n").await.status, 200);
    for (origin, status) in [
        ("http://evil.example", 403),
        ("null", 403),
        ("http://localhost:15000", 200),
    ] {
        let answer = ask(
            served.admin,
            "POST",
            "/drain_listeners",
            &format!("Origin: {origin}\r\n"),
        )
        .await;
        assert_eq!(answer.status, status, "{origin}");
    }
    let pod = raw(
        served.stats,
        "GET /metrics HTTP/1.1\r\nHost: 10.1.2.3:15010\r\n\r\n",
    )
    .await;
    assert_eq!(pod.status, 200);
}

#[tokio::test]
async fn requests_are_bounded() {
    let served = serve();
    let answer = ask(served.admin, "POST", "/drain_listeners", "Content-Length: 2\r\n").await;
    assert_eq!(answer.status, 413);
    let answer = ask(
        served.admin,
        "POST",
        "/drain_listeners",
        "Transfer-Encoding: chunked\r\n",
    )
    .await;
    assert_eq!(answer.status, 413);
    assert_eq!(served.fake.drains.load(Ordering::Relaxed), 0);
    let long = format!("X: {}\r\n", "x".repeat(20_000));
    assert_eq!(ask(served.stats, "GET", "/metrics", &long).await.status, 431);
    let many: String = (0..100).map(|n| format!("x{n}: y\r\n")).collect();
    assert_eq!(ask(served.stats, "GET", "/metrics", &many).await.status, 431);
}

#[tokio::test]
async fn a_client_that_sends_no_request_is_sent_away() {
    let served = serve();
    let mut stream = TcpStream::connect(served.health).await.unwrap();
    stream.write_all(b"GET /ready HTTP/1.1\r\n").await.unwrap();
    let mut answer = Vec::new();
    let _ = timeout(LIMIT, stream.read_to_end(&mut answer)).await.unwrap();
    assert!(!answer.starts_with(b"HTTP/1.1 200"));
}

#[tokio::test]
async fn a_taken_port_is_told_with_what_sets_it() {
    let served = serve();
    let state = Arc::new(state(&Arc::default(), &Store::new().0, None));
    let error = Role::Stats.serve(served.stats, &state).unwrap_err().to_string();
    assert!(error.contains("--stats-address"), "{error}");
    let error = Role::Health.serve(served.stats, &state).unwrap_err().to_string();
    assert!(error.contains("--health-address"), "{error}");
    let error = Role::Admin.serve(served.stats, &state).unwrap_err().to_string();
    assert!(error.contains("admin.address"), "{error}");
}

#[tokio::test]
async fn an_ipv6_wildcard_answers_ipv4_too() {
    let socket = bind((Ipv6Addr::UNSPECIFIED, 0).into()).unwrap();
    let port = socket.local_addr().unwrap().port();
    assert!(TcpStream::connect((Ipv4Addr::LOCALHOST, port)).await.is_ok());
}
