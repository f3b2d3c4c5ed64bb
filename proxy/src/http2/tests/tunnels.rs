use tokio::io::split;

use super::*;

/// A client of ours, and the tunnels that its server is asked for.
fn ends() -> (Client, mpsc::UnboundedReceiver<Tunnel>) {
    let (client, far) = client();
    let (sender, tunnels) = mpsc::unbounded_channel();
    tokio::spawn(serve_tunnels(far, move |tunnel| {
        let _ = sender.send(tunnel);
    }));
    (client, tunnels)
}

async fn tunnel() -> (Client, Tunnel, Tunnel) {
    let (client, mut tunnels) = ends();
    let near = client.tunnel("10.0.0.1:80").unwrap();
    let far = soon(tunnels.recv()).await.unwrap();
    (client, near, far)
}

async fn rest(tunnel: &mut Tunnel) -> std::io::Result<Vec<u8>> {
    let mut rest = Vec::new();
    soon(tunnel.read_to_end(&mut rest)).await.map(|_| rest)
}

#[tokio::test]
async fn bytes_pass_through_a_tunnel_and_each_direction_ends_by_itself() {
    let (_client, mut near, mut far) = tunnel().await;
    far.write_all(b"220 welcome").await.unwrap();
    let mut greeting = [0; 11];
    soon(near.read_exact(&mut greeting)).await.unwrap();
    assert_eq!(&greeting, b"220 welcome");
    near.write_all(b"question").await.unwrap();
    near.shutdown().await.unwrap();
    assert_eq!(rest(&mut far).await.unwrap(), b"question");
    far.write_all(b"answer").await.unwrap();
    drop(far);
    assert_eq!(rest(&mut near).await.unwrap(), b"answer");
    assert!(near.write_all(b"more").await.is_err());
}

#[tokio::test]
async fn what_is_sent_through_a_tunnel_does_not_wait_for_the_peer() {
    let (client, mut far) = client();
    let mut near = client.tunnel("10.0.0.1:80").unwrap();
    near.write_all(b"at once").await.unwrap();
    let mut seen = Vec::new();
    while !seen.ends_with(b"at once") {
        assert!(soon(far.read_buf(&mut seen)).await.unwrap() > 0);
    }
}

#[tokio::test]
async fn more_than_the_windows_passes_both_ways_at_once() {
    const LENGTH: usize = 3 << 20;
    let (_client, near, far) = tunnel().await;
    let pass = |tunnel: Tunnel| async {
        let (mut read, mut write) = split(tunnel);
        let sending = async {
            write.write_all(&vec![b'x'; LENGTH]).await.unwrap();
            write.shutdown().await.unwrap();
        };
        let mut came = Vec::new();
        let (_, read) = tokio::join!(sending, read.read_to_end(&mut came));
        read.unwrap()
    };
    assert_eq!(
        soon(async { tokio::join!(pass(near), pass(far)) }).await,
        (LENGTH, LENGTH)
    );
}

#[tokio::test]
async fn one_that_no_one_reads_does_not_stop_the_others() {
    let (client, mut tunnels) = ends();
    let mut stalled = client.tunnel("10.0.0.1:80").unwrap();
    let _unread = soon(tunnels.recv()).await.unwrap();
    let endless = timeout(Duration::from_millis(100), async {
        loop {
            stalled.write_all(&[0; 16 * 1024]).await.unwrap();
        }
    });
    assert!(endless.await.is_err());
    let mut near = client.tunnel("10.0.0.1:80").unwrap();
    near.write_all(b"through").await.unwrap();
    near.shutdown().await.unwrap();
    let mut far = soon(tunnels.recv()).await.unwrap();
    assert_eq!(rest(&mut far).await.unwrap(), b"through");
}

#[tokio::test]
async fn a_tunnel_that_is_reset_breaks_off_at_both_ends() {
    for of_server in [false, true] {
        let (_client, mut near, mut far) = tunnel().await;
        let (reset, other) = match of_server {
            true => (&mut far, &mut near),
            false => (&mut near, &mut far),
        };
        other.write_all(b"a").await.unwrap();
        reset.write_all(b"before").await.unwrap();
        reset.reset();
        let mut before = [0; 6];
        soon(other.read_exact(&mut before)).await.unwrap();
        let broken = rest(other).await.unwrap_err();
        assert_eq!(broken.kind(), std::io::ErrorKind::ConnectionReset);
        assert!(other.write_all(b"b").await.is_err());
        assert!(reset.write_all(b"c").await.is_err());
    }
}

#[tokio::test]
async fn a_tunnel_that_is_dropped_ends_as_a_closed_socket_does() {
    let (near, far) = duplex(64 * 1024);
    let (client, connection) = connect(near);
    let connection = tokio::spawn(connection);
    let (sender, mut tunnels) = mpsc::unbounded_channel();
    tokio::spawn(serve_tunnels(far, move |tunnel| {
        let _ = sender.send(tunnel);
    }));
    drop(client.tunnel("10.0.0.1:80").unwrap());
    let mut far = soon(tunnels.recv()).await.unwrap();
    assert_eq!(rest(&mut far).await.unwrap(), b"");
    let failing = async {
        while far.write_all(b"x").await.is_ok() {
            tokio::task::yield_now().await;
        }
    };
    soon(failing).await;
    drop((client, far));
    soon(connection).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_tunnel_goes_on_while_its_connection_takes_no_more() {
    let (client, far) = client();
    let (sender, mut tunnels) = mpsc::unbounded_channel();
    let (shut, shutting) = oneshot::channel::<()>();
    let serving = tokio::spawn(async move {
        let mut connection = serve_tunnels(far, |tunnel| {
            let _ = sender.send(tunnel);
        });
        tokio::select! {
            _ = &mut connection => {}
            _ = shutting => {
                connection.graceful_shutdown();
                connection.await.unwrap();
            }
        }
    });
    let mut near = client.tunnel("10.0.0.1:80").unwrap();
    let mut far = soon(tunnels.recv()).await.unwrap();
    shut.send(()).unwrap();
    soon(async {
        while !client.is_closed() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(client.tunnel("10.0.0.1:80").is_err());
    near.write_all(b"still").await.unwrap();
    near.shutdown().await.unwrap();
    assert_eq!(rest(&mut far).await.unwrap(), b"still");
    drop(far);
    assert_eq!(rest(&mut near).await.unwrap(), b"");
    drop(near);
    soon(serving).await.unwrap();
}

#[tokio::test]
async fn tunnels_and_requests_are_not_taken_for_each_other() {
    let (requests, far) = client();
    spawn(far, echo);
    let mut tunnel = requests.tunnel("10.0.0.1:80").unwrap();
    assert!(rest(&mut tunnel).await.is_err());
    let (tunnels, _asked) = ends();
    let refused = send(&tunnels, get("/")).await.unwrap_err();
    assert_eq!(refused.reason(), Some(Reason::PROTOCOL_ERROR));
}

#[tokio::test]
async fn a_tunnel_that_is_refused_gives_nothing() {
    let (client, far) = client();
    let server = tokio::spawn(async move {
        let mut connection = h2::server::handshake(far).await.unwrap();
        let (request, mut respond) = connection.accept().await.unwrap().unwrap();
        assert_eq!(request.uri().to_string(), "10.0.0.1:80");
        let response = Response::builder().status(403).body(()).unwrap();
        respond.send_response(response, true).unwrap();
        while connection.accept().await.is_some() {}
    });
    let mut near = client.tunnel("10.0.0.1:80").unwrap();
    let refused = rest(&mut near).await.unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::ConnectionRefused);
    drop((near, client));
    soon(server).await.unwrap();
}

#[tokio::test]
async fn a_tunnel_to_h2_and_back_is_plain_http2() {
    let (client, mut tunnels) = {
        let (near, far) = duplex(64 * 1024);
        let (sender, tunnels) = mpsc::unbounded_channel();
        tokio::spawn(serve_tunnels(far, move |tunnel| {
            let _ = sender.send(tunnel);
        }));
        (h2_client(near).await, tunnels)
    };
    let request = Request::connect("10.0.0.1:80").body(()).unwrap();
    let (response, mut to) = client.clone().send_request(request, false).unwrap();
    let response = soon(response).await.unwrap();
    assert_eq!(response.status(), StatusCode::OK);
    let mut far = soon(tunnels.recv()).await.unwrap();
    to.send_data(Bytes::from_static(b"question"), true).unwrap();
    assert_eq!(rest(&mut far).await.unwrap(), b"question");
    far.write_all(b"answer").await.unwrap();
    far.shutdown().await.unwrap();
    let answer = response.into_body().data().await.unwrap().unwrap();
    assert_eq!(answer, "answer");
}

/// A tunnel may be idle for days: its peer is asked whether it is there when something was sent, and then no more.
#[tokio::test]
async fn who_owes_nothing_is_not_asked() {
    const ACCEPTED: &[u8] = b"\0\0\x01\x01\x04\0\0\0\x01\x88";
    const THERE: &[u8] = b"\0\0\x08\x06\x01\0\0\0\0weir-ask";
    let (client, mut far) = client();
    let mut tunnel = client.tunnel("10.0.0.1:80").unwrap();
    far.write_all(&[SETTINGS, ACCEPTED].concat()).await.unwrap();
    tokio::time::pause();
    let mut asked = 0;
    for _ in 0..2 {
        tunnel.write_all(b"something").await.unwrap();
        // No PING for long: as long as nothing is owed.
        let mut seen = Vec::new();
        while let Ok(read) = timeout(60 * SOON, far.read_buf(&mut seen)).await {
            assert!(read.unwrap() > 0);
            if seen.ends_with(b"weir-ask") {
                asked += 1;
                assert!(asked <= 2, "it is asked while it owes nothing");
                seen.clear();
                far.write_all(THERE).await.unwrap();
            }
        }
    }
    assert_eq!(asked, 2);
}
