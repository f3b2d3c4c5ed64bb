//! How streams and connections end.

use super::*;

/// Says when it is dropped.
struct Dropped(Option<oneshot::Sender<()>>);

impl Drop for Dropped {
    fn drop(&mut self) {
        let _ = self.0.take().map(|dropped| dropped.send(()));
    }
}

#[tokio::test(start_paused = true)]
async fn who_takes_long_to_answer_is_not_gone() {
    let (client, far) = client();
    spawn(far, |_| pending::<Response<Body>>());
    let mut sending = Box::pin(ask(&client, get("/")));
    assert!(futures::poll!(&mut sending).is_pending());
    for _ in 0..100 {
        tokio::time::sleep(Duration::from_millis(100)).await;
        assert!(!client.is_quiet());
    }
}

#[tokio::test(start_paused = true)]
async fn who_does_not_answer_any_more_may_be_gone() {
    let (client, mut far) = client();
    let mut sending = Box::pin(ask(&client, get("/")));
    assert!(futures::poll!(&mut sending).is_pending());
    tokio::time::sleep(Duration::from_millis(3500)).await;
    assert!(client.is_quiet());
    far.write_all(SETTINGS).await.unwrap();
    tokio::time::sleep(Duration::from_millis(100)).await;
    assert!(!client.is_quiet());
}

#[tokio::test]
async fn a_request_given_up_ends_its_answer() {
    let (client, far) = client();
    let (dropped, is_dropped) = oneshot::channel();
    let dropped = Mutex::new(Some(dropped));
    spawn(far, move |_| {
        let dropped = Dropped(dropped.lock().take());
        async move {
            let _dropped = dropped;
            pending().await
        }
    });
    let mut sending = Box::pin(ask(&client, get("/")));
    assert!(futures::poll!(&mut sending).is_pending());
    tokio::task::yield_now().await;
    drop(sending);
    soon(is_dropped).await.unwrap();
}

#[tokio::test]
async fn a_response_given_up_is_told_to_the_server() {
    let (client, far) = client();
    let serving = tokio::spawn(async move {
        let mut connection = h2::server::handshake(far).await.unwrap();
        let (_, mut respond) = connection.accept().await.unwrap().unwrap();
        let mut send = respond.send_response(Response::new(()), false).unwrap();
        tokio::spawn(async move { while connection.accept().await.is_some() {} });
        poll_fn(|cx| send.poll_reset(cx)).await.unwrap()
    });
    let response = send(&client, get("/")).await.unwrap();
    drop(response);
    assert_eq!(soon(serving).await.unwrap(), Reason::CANCEL);
}

#[tokio::test]
async fn an_answer_given_up_is_not_held() {
    let (near, far) = duplex(64 * 1024);
    let mut serving = serve(far, echo);
    let (shut, shutting) = oneshot::channel::<()>();
    let serving = tokio::spawn(async move {
        tokio::select! {
            ended = &mut serving => return ended,
            _ = shutting => serving.graceful_shutdown(),
        }
        serving.await
    });
    let mut sender = h2_client(near).await;
    let request = Request::put("http://app/").body(()).unwrap();
    let (response, mut body) = sender.send_request(request, false).unwrap();
    soon(response).await.unwrap();
    body.send_reset(Reason::CANCEL);
    shut.send(()).unwrap();
    soon(serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_request_that_breaks_off_is_no_whole_one() {
    let (client, far) = client();
    let (told, tells) = oneshot::channel();
    let told = Mutex::new(Some(told));
    spawn(far, move |request: Box<Request<Body>>| {
        let told = told.lock().take().unwrap();
        async move {
            let _ = told.send(request.into_body().collect().await.map(|_| ()));
            Response::new(Body::empty())
        }
    });
    let (frames, body) = mpsc::unbounded_channel();
    let mut request = put(Channel(body));
    request
        .headers_mut()
        .insert("content-length", "10".parse().unwrap());
    frames.send(Frame::data(Bytes::from_static(b"five."))).unwrap();
    drop(frames);
    let sent = send(&client, request).await;
    assert!(
        matches!(sent, Err(Error::Reset(_) | Error::Malformed(_))),
        "{sent:?}"
    );
    assert!(soon(tells).await.unwrap().is_err());
}

#[tokio::test]
async fn a_response_that_breaks_off_is_no_whole_one() {
    for reason in [Reason::NO_ERROR, Reason::CANCEL] {
        let (client, far) = client();
        tokio::spawn(async move {
            let mut connection = h2::server::handshake(far).await.unwrap();
            let (_, mut respond) = connection.accept().await.unwrap().unwrap();
            let mut send = respond.send_response(Response::new(()), false).unwrap();
            send.send_data(Bytes::from_static(b"half"), false).unwrap();
            tokio::spawn(async move {
                tokio::task::yield_now().await;
                send.send_reset(reason);
            });
            while connection.accept().await.is_some() {}
        });
        let response = send(&client, get("/")).await;
        let read = async { response?.into_body().collect().await };
        assert_eq!(soon(read).await.unwrap_err().reason(), Some(reason));
    }
}

#[tokio::test]
async fn an_answer_without_a_body_ends_once() {
    let (near, far) = duplex(64 * 1024);
    spawn(far, |request: Box<Request<Body>>| async {
        // Read beside the answer.
        tokio::spawn(request.into_body().collect());
        Response::new(Body::empty())
    });
    let mut sender = h2_client(near).await;
    let request = Request::put("http://app/").body(()).unwrap();
    let (response, mut body) = sender.send_request(request, false).unwrap();
    assert!(soon(response).await.unwrap().body().is_end_stream());
    // A frame too many would have ended the stream.
    let (second, _) = sender
        .send_request(Request::get("http://app/").body(()).unwrap(), true)
        .unwrap();
    soon(second).await.unwrap();
    body.send_data(Bytes::from_static(b"rest"), true).unwrap();
    assert!(futures::poll!(poll_fn(|cx| body.poll_reset(cx))).is_pending());
}

#[tokio::test]
async fn an_early_answer_ends_the_request_without_harm() {
    let (client, far) = client();
    spawn(far, |_| async { Response::new(Body::full("enough")) });
    let (frames, body) = mpsc::unbounded_channel::<Frame<Bytes>>();
    let response = send(&client, put(Channel(body))).await.unwrap();
    assert_eq!(
        soon(response.into_body().collect()).await.unwrap().to_bytes(),
        "enough"
    );
    soon(frames.closed()).await;
}

#[tokio::test]
async fn a_connection_ends_with_its_last_user() {
    let (client, far) = client();
    let serving = spawn(far, echo);
    let response = send(&client, put(Body::full("bytes"))).await.unwrap();
    drop(client);
    assert_eq!(
        soon(response.into_body().collect()).await.unwrap().to_bytes(),
        "bytes"
    );
    soon(serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn a_shutdown_lets_what_has_begun_end() {
    let (near, far) = duplex(64 * 1024);
    let (client, connection) = connect(near);
    tokio::spawn(connection);
    let (answer, answered) = oneshot::channel::<()>();
    let answered = Mutex::new(Some(answered));
    let mut serving = serve(far, move |_| {
        let answered = answered.lock().take();
        async move {
            if let Some(answered) = answered {
                let _ = answered.await;
            }
            Response::new(Body::full("done"))
        }
    });
    let (shut, shutting) = oneshot::channel::<()>();
    let serving = tokio::spawn(async move {
        tokio::select! {
            ended = &mut serving => return ended,
            _ = shutting => serving.graceful_shutdown(),
        }
        serving.await
    });
    let mut first = Box::pin(send(&client, get("/")));
    assert!(futures::poll!(&mut first).is_pending());
    let second = send(&client, get("/")).await;
    let second = second.unwrap().into_body().collect();
    assert_eq!(soon(second).await.unwrap().to_bytes(), "done");
    shut.send(()).unwrap();
    soon(async {
        while !client.is_closed() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    assert!(matches!(ask(&client, get("/")).await, Err(Unanswered::Unsent(_))));
    answer.send(()).unwrap();
    let first = first.await.unwrap();
    assert_eq!(first.into_body().collect().await.unwrap().to_bytes(), "done");
    soon(serving).await.unwrap().unwrap();
}

#[tokio::test]
async fn what_a_server_will_not_do_may_be_asked_elsewhere() {
    let (client, mut far) = client();
    let sending = tokio::spawn(async move { send(&client, get("/")).await });
    far.read_u8().await.unwrap();
    far.write_all(b"\0\0\0\x04\0\0\0\0\0").await.unwrap();
    far.write_all(b"\0\0\x08\x07\0\0\0\0\0\0\0\0\0\0\0\0\0")
        .await
        .unwrap();
    let error = soon(sending).await.unwrap().unwrap_err();
    assert_eq!(error.reason(), Some(Reason::REFUSED_STREAM));
}

#[tokio::test]
async fn a_connection_that_breaks_breaks_its_streams() {
    let (client, mut far) = client();
    let sending = tokio::spawn({
        let client = client.clone();
        async move { send(&client, get("/")).await }
    });
    far.read_u8().await.unwrap();
    drop(far);
    assert!(soon(sending).await.unwrap().is_err());
    assert!(client.is_closed());
}
