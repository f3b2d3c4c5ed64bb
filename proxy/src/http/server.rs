//! Serving HTTP on one connection.

use std::{convert::Infallible, io, pin::pin, sync::Arc, time::Duration};

use futures::{FutureExt, StreamExt, future::Either, stream::FuturesUnordered};
use http::{Request, Response};
use hyper::{body::Incoming, server::conn::http2 as http2_server, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::time::timeout;

use super::{
    Body, Session, limits,
    respond::{reject, respond},
};
use crate::{
    detect::PREFACE,
    http1, http2,
    model::{Codec, Direction},
    net::{Io, Replay, gather},
    telemetry::Metered,
};

/// A connection whose client is not let in any more may finish what it began for so long.
const LAST_WORD: Duration = Duration::from_secs(1);

/// Serves requests until the client is done or the shutdown asks to finish.
///
/// # Errors
/// When the connection breaks or is not HTTP.
pub async fn serve(io: Metered<Io>, session: Arc<Session>, codec: Codec) -> Result<(), ServeError> {
    let drain = session.context.drain.clone();
    let serving = session.clone();
    let mut io = Replay::new(io);
    let inbound = session.direction != Direction::Outbound;
    let limit = inbound.then_some(session.context.header_timeout);
    let http2 = match codec {
        Codec::Auto => within(limit, starts_http2(&mut io)).await?,
        Codec::Http1 => false,
        Codec::Http2 => true,
    };
    if http2 && session.carries {
        let service = move |request| Box::pin(respond(serving.clone(), request));
        let finishing = drain.finishing(session.direction);
        let connection = http2::serve(io, service);
        finish(connection, finishing, session.withdrawn(), |connection| {
            connection.graceful_shutdown();
        })
        .await?;
        return Ok(());
    }
    if http2 {
        // Apart, so that it takes no memory between requests, and is not moved when it becomes a task of its own.
        let service = service_fn(move |request: Request<Incoming>| {
            let responding = respond(serving.clone(), Box::new(request.map(Body::incoming)));
            Box::pin(responding.map(Ok::<_, Infallible>))
        });
        let (io, outlet) = gather(io);
        let finishing = drain.finishing(session.direction);
        let connection = pin!(http2_builder().serve_connection(TokioIo::new(io), service));
        let driven = outlet.drive(connection);
        finish(driven, finishing, session.withdrawn(), |driven| {
            driven.user().graceful_shutdown();
        })
        .await?;
    } else {
        let service = move |request| Box::pin(answer(serving.clone(), request));
        // Sidecars send whole heads: only strangers are timed.
        let limit = limit.filter(|_| session.peer.is_none());
        let (seen, io) = io.into_parts();
        let connection = http1::Serving::new(io, seen, limit, service);
        let finishing = drain.cutting(session.direction);
        finish(connection, finishing, session.withdrawn(), |connection| {
            connection.graceful_shutdown();
        })
        .await?;
    }
    Ok(())
}

/// Why a connection ended that was not done.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The client broke off or sent what is not HTTP.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// The same of one that speaks HTTP/1.
    #[error(transparent)]
    Http1(#[from] http1::Error),
    /// The same of another sidecar.
    #[error(transparent)]
    Http2(#[from] http2::Error),
    /// The connection failed before the first request.
    #[error("the connection failed before its first request: {0}")]
    Io(#[from] io::Error),
}

/// Drives a connection; once `finishing` is done it takes no further requests, and once `withdrawn` is, it soon ends.
async fn finish<C: Future<Output = Result<(), E>> + Unpin, E>(
    mut connection: C,
    finishing: impl Future<Output = ()>,
    withdrawn: impl Future<Output = ()>,
    shut: impl Fn(&mut C),
) -> Result<(), E> {
    let finishing = Either::Left(finishing.map(|()| None));
    let withdrawn = Either::Right(withdrawn.map(|()| Some(LAST_WORD)));
    // It polls only what was woken: requests wake the connection, and have nothing to do with either.
    let mut ends = FuturesUnordered::from_iter([finishing, withdrawn]);
    loop {
        let left = tokio::select! {
            biased;
            output = &mut connection => return output,
            Some(left) = ends.next() => left,
        };
        shut(&mut connection);
        if let Some(left) = left {
            return timeout(left, connection).await.unwrap_or(Ok(()));
        }
    }
}

/// Whether the client begins with the HTTP/2 preface; one byte tells, unless it is a `P`.
async fn starts_http2(io: &mut Replay<Metered<Io>>) -> io::Result<bool> {
    loop {
        let seen = io.seen();
        let common = seen.len().min(PREFACE.len());
        if seen[..common] != PREFACE[..common] {
            return Ok(false);
        }
        if common == PREFACE.len() {
            return Ok(true);
        }
        if io.look().await? == 0 {
            return Ok(false);
        }
    }
}

async fn within<T>(limit: Option<Duration>, looking: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    match limit {
        Some(limit) => timeout(limit, looking).await?,
        None => looking.await,
    }
}

/// Answers what came as an HTTP/1 request.
async fn answer(session: Arc<Session>, request: Result<Box<Request<Body>>, http1::Fault>) -> Response<Body> {
    match request {
        Ok(request) => respond(session, request).await,
        Err(fault) => reject(&session, fault),
    }
}

fn http2_builder() -> http2_server::Builder<TokioExecutor> {
    let mut builder = http2_server::Builder::new(TokioExecutor::new());
    builder
        .initial_stream_window_size(limits::STREAM_WINDOW)
        .initial_connection_window_size(limits::CONNECTION_WINDOW)
        .max_concurrent_streams(limits::CONCURRENT_STREAMS)
        .max_header_list_size(limits::HEADER_LIST_BYTES)
        .auto_date_header(false);
    builder
}

#[cfg(test)]
mod tests {
    use std::{cell::Cell, future::pending};

    use futures::future;
    use tokio::time::Instant;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_is_let_in_no_more_may_finish_for_a_moment() {
        let connection = future::pending::<Result<(), Infallible>>();
        let shut = Cell::new(0);
        let began = Instant::now();
        let withdrawn = async { tokio::time::sleep(LAST_WORD).await };
        let done = finish(connection, future::ready(()), withdrawn, |_| {
            shut.set(shut.get() + 1)
        });
        done.await.unwrap();
        assert_eq!((shut.get(), began.elapsed()), (2, LAST_WORD * 2));
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_begun_is_finished_in_a_shutdown() {
        let connection = Box::pin(async {
            tokio::time::sleep(LAST_WORD * 10).await;
            Err("broken")
        });
        let shut = Cell::new(false);
        let done = finish(connection, future::ready(()), pending(), |_| shut.set(true)).await;
        assert_eq!((done, shut.get()), (Err("broken"), true));
    }
}
