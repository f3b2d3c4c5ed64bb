//! What becomes of a connection between its requests, and after them.

use super::*;

#[tokio::test]
async fn requests_are_answered_one_after_the_other() {
    let (mut client, served) = serve(None, echo);
    let one = "HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\nGET /a no body";
    for _ in 0..2 {
        client.write_all(GET).await.unwrap();
        assert_eq!(until(&mut client, "no body").await, one);
    }
    // Several at once, with the empty line that some clients put behind a body.
    let post = b"POST /b HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\nabc\r\n";
    client.write_all(&[GET, post, GET].concat()).await.unwrap();
    client.shutdown().await.unwrap();
    let two = "HTTP/1.1 200 OK\r\ncontent-length: 14\r\n\r\nPOST /b abc {}";
    assert_eq!(rest(&mut client).await, [one, two, one].concat());
    soon(served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_client_is_told_to_go_on_once_its_body_is_wanted() {
    let expects = b"POST / HTTP/1.1\r\nhost: x\r\nexpect: 100-continue\r\ncontent-length: 3\r\n\r\n";
    let (mut client, _served) = serve(None, echo);
    client.write_all(expects).await.unwrap();
    assert_eq!(
        until(&mut client, "\r\n\r\n").await,
        "HTTP/1.1 100 Continue\r\n\r\n"
    );
    client.write_all(b"abc").await.unwrap();
    until(&mut client, "POST / abc {}").await;
    client.write_all(GET).await.unwrap();
    until(&mut client, "GET /a no body").await;

    // Not wanted: it may come or not, so nothing may follow.
    let (mut client, served) = serve(None, |_| std::future::ready(text("no")));
    client.write_all(expects).await.unwrap();
    let answer = rest(&mut client).await;
    assert!(
        answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("no"),
        "{answer}"
    );
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    client.write_all(GET).await.unwrap();
    drop(client);
    soon(served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_body_that_no_one_wants_is_read_for_a_moment() {
    let refuse = |_| std::future::ready(text("refused"));
    let (mut client, served) = serve(None, refuse);
    let head = |length: usize| format!("POST / HTTP/1.1\r\nhost: x\r\ncontent-length: {length}\r\n\r\n");
    let long = [head(100 * 1024).into_bytes(), vec![b'x'; 100 * 1024]].concat();
    client.write_all(&long).await.unwrap();
    until(&mut client, "refused").await;
    client.write_all(GET).await.unwrap();
    until(&mut client, "refused").await;
    let (mut read, mut write) = tokio::io::split(client);
    let endless = tokio::spawn(async move {
        write.write_all(head(usize::MAX / 2).as_bytes()).await.unwrap();
        let mut kib = 0;
        while write.write_all(&[b'x'; 1024]).await.is_ok() {
            kib += 1;
        }
        kib
    });
    let answer = rest(&mut read).await;
    assert!(answer.ends_with("refused"), "{answer}");
    soon(served).await.unwrap().unwrap();
    let kib = endless.await.unwrap();
    assert!((256..512).contains(&kib), "{kib} KiB");
}

#[tokio::test(start_paused = true)]
async fn a_body_that_no_one_wants_and_that_does_not_come_is_not_waited_for() {
    let (mut client, served) = serve(None, |_| std::future::ready(text("refused")));
    client
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 3\r\n\r\n")
        .await
        .unwrap();
    until(&mut client, "refused").await;
    let began = Instant::now();
    soon(served).await.unwrap().unwrap();
    assert_eq!(began.elapsed().as_secs(), limits::DISCARDING.as_secs());
}

#[tokio::test]
async fn an_answer_does_not_wait_for_its_request() {
    let (sender, mut bodies) = mpsc::unbounded();
    let (mut client, _served) = serve(None, move |asked: Asked| {
        sender.unbounded_send(asked.unwrap().into_body()).unwrap();
        std::future::ready(text("early"))
    });
    client
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc")
        .await
        .unwrap();
    until(&mut client, "early").await;
    let mut body = bodies.next().await.unwrap().unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "abc");
    // What follows is still the body's, and then the next request's.
    client.write_all(&[b"def", GET].concat()).await.unwrap();
    assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "def");
    assert!(body.is_end_stream());
    until(&mut client, "early").await;
    assert!(bodies.next().await.unwrap().is_none());

    // One that is given up when it is answered already is read to its end.
    client
        .write_all(b"POST / HTTP/1.1\r\nhost: x\r\ncontent-length: 6\r\n\r\nabc")
        .await
        .unwrap();
    until(&mut client, "early").await;
    let body = bodies.next().await.unwrap().unwrap();
    client.write_all(&[b"def", GET].concat()).await.unwrap();
    tokio::task::yield_now().await;
    drop(body);
    until(&mut client, "early").await;
}

#[tokio::test]
async fn a_client_that_sends_no_more_gets_its_answer() {
    let (release, released) = oneshot::channel::<()>();
    let mut released = Some(released);
    let (mut client, served) = serve(None, move |_| {
        let released = released.take().unwrap();
        async move {
            released.await.unwrap();
            text("late")
        }
        .boxed()
    });
    client.write_all(GET).await.unwrap();
    client.shutdown().await.unwrap();
    tokio::task::yield_now().await;
    release.send(()).unwrap();
    assert!(rest(&mut client).await.ends_with("late"));
    soon(served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_shutdown_ends_the_connection_with_the_answer_under_way() {
    let (ours, mut idle) = duplex(1024);
    let mut serving = Serving::new(ours, BytesMut::new(), None, echo);
    serving.graceful_shutdown();
    serving.await.unwrap();
    assert_eq!(rest(&mut idle).await, "");

    let (ours, mut busy) = duplex(1024);
    let mut serving = Serving::new(ours, BytesMut::new(), None, echo);
    busy.write_all(&GET[..10]).await.unwrap();
    assert!((&mut serving).now_or_never().is_none());
    serving.graceful_shutdown();
    assert!((&mut serving).now_or_never().is_none());
    busy.write_all(&[&GET[10..], GET].concat()).await.unwrap();
    serving.await.unwrap();
    assert_eq!(
        rest(&mut busy).await,
        "HTTP/1.1 200 OK\r\ncontent-length: 14\r\nconnection: close\r\n\r\nGET /a no body"
    );
}

#[tokio::test(start_paused = true)]
async fn a_head_that_is_late_is_not_waited_for() {
    const LIMIT: Duration = Duration::from_secs(5);
    let (mut client, served) = serve(Some(LIMIT), echo);
    let began = Instant::now();
    soon(served).await.unwrap().unwrap();
    assert_eq!(
        (rest(&mut client).await.as_str(), began.elapsed().as_secs()),
        ("", 5)
    );

    let (mut client, served) = serve(Some(LIMIT), echo);
    for _ in 0..3 {
        client.write_all(GET).await.unwrap();
        until(&mut client, "GET /a no body").await;
        tokio::time::sleep(LIMIT * 2 / 3).await;
    }
    client.write_all(&GET[..5]).await.unwrap();
    let began = Instant::now();
    let answer = rest(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 408 "), "{answer}");
    assert!(began.elapsed() < LIMIT, "the pause counts too");
    drop(client);
    soon(served).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_connection_that_changes_its_protocol_is_handed_over() {
    let asked = "GET / HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: echo\r\n\r\n";
    let connect = "CONNECT x:80 HTTP/1.1\r\nhost: x\r\n\r\n";
    for (asked, status) in [(asked, 101), (connect, 200)] {
        let (sender, mut upgrades) = mpsc::unbounded();
        let (mut client, served) = serve(None, move |asked: Asked| {
            let upgrade: OnUpgrade<DuplexStream> = asked.unwrap().extensions_mut().remove().unwrap();
            sender.unbounded_send(upgrade).unwrap();
            let mut answer = nothing();
            *answer.status_mut() = StatusCode::from_u16(status).unwrap();
            answer
                .headers_mut()
                .insert(CONNECTION, HeaderValue::from_static("upgrade"));
            std::future::ready(answer)
        });
        client
            .write_all(format!("{asked}first").as_bytes())
            .await
            .unwrap();
        let head = until(&mut client, "\r\n\r\n").await;
        assert!(
            head.contains("connection: upgrade\r\n") && !head.contains("content-length"),
            "{head}"
        );
        let upgrade = upgrades.next().await.unwrap();
        let mut switched = upgrade.switched().await.unwrap();
        let mut first = [0; 5];
        switched.read_exact(&mut first).await.unwrap();
        assert_eq!(&first, b"first");
        switched.write_all(b"back").await.unwrap();
        assert_eq!(until(&mut client, "back").await, "back");
        soon(served).await.unwrap().unwrap();
    }
    // One that is not agreed on changes nothing.
    let refused = exchange_with(|_| text("no"), &[asked.as_bytes(), GET].concat()).await;
    assert_eq!(refused.matches("HTTP/1.1 200 OK").count(), 2, "{refused}");
}
