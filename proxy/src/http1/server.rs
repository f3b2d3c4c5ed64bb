//! The end that answers.

use std::{
    marker::PhantomData,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::{Buf, Bytes, BytesMut};
use http::{
    HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, CONTENT_LENGTH, EXPECT, TE},
};
use http_body::Body;
use parking_lot::Mutex;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
    time::{Instant, Sleep, sleep},
};

use super::{
    Error, Fault, Switched,
    framing::{Framing, Marks, Outgoing},
    head::{self, After},
    receiving::poll_head,
    sending::Sending,
    upload::{OnUpgrade, Upload},
    wire::{Wire, Writer},
};
use crate::{
    http::{BodyError, limits},
    net::Replay,
};

/// A request, or what came in its place.
type Came<Q> = Result<Box<Request<Q>>, Fault>;

/// A connection that serves its client's requests when polled, one after the other, until it ends.
pub struct Serving<T: AsyncRead + AsyncWrite + Unpin, S, Q, R, B> {
    /// `None`: it is over.
    wire: Option<Arc<Mutex<Wire<T>>>>,
    service: S,
    /// The body that a request has in `service`.
    request: PhantomData<fn() -> Q>,
    step: Step<R, B>,
    asked: Asked<T>,
    patience: Option<Patience>,
    /// It takes nothing more.
    last: bool,
}

enum Step<R, B> {
    /// Waits for a request's head, which so many bytes do not complete.
    Waiting(usize),
    Answering(R),
    Writing(Box<Sending<B>>),
    /// Waits for the end of a request that is answered.
    Finishing(Finishing),
    Closing,
}

#[derive(Default)]
struct Finishing {
    /// The client was told that nothing more comes.
    shut: bool,
    /// When what no one wants is read for no longer.
    limit: Option<Pin<Box<Sleep>>>,
}

/// What an answer must know of its request.
struct Asked<T> {
    version: Version,
    head: bool,
    connect: bool,
    /// The connection goes on after the answer.
    keeps: bool,
    trailers: bool,
    upgrade: Option<oneshot::Sender<Switched<T>>>,
}

impl<T> Asked<T> {
    /// Nothing that could be understood.
    fn nothing() -> Self {
        Self {
            version: Version::HTTP_11,
            head: false,
            connect: false,
            keeps: false,
            trailers: false,
            upgrade: None,
        }
    }

    fn of<Q>(request: &Request<Q>, marks: Marks) -> Self {
        let headers = request.headers();
        Self {
            version: request.version(),
            head: request.method() == Method::HEAD,
            connect: request.method() == Method::CONNECT,
            keeps: marks.keep_alive(request.version(), headers),
            trailers: marks.te && headers.get(TE).is_some_and(|te| te == "trailers"),
            upgrade: None,
        }
    }

    /// Whether what follows an answer with this status is another protocol.
    fn switches(&self, status: StatusCode) -> bool {
        status == StatusCode::SWITCHING_PROTOCOLS || self.connect && status.is_success()
    }
}

/// How long a client may take for a head, the pause before it included.
struct Patience {
    limit: Duration,
    since: Instant,
    timer: Pin<Box<Sleep>>,
}

impl Patience {
    fn new(limit: Duration) -> Self {
        Self {
            limit,
            since: Instant::now(),
            timer: Box::pin(sleep(limit)),
        }
    }

    /// Ready when a head is late. The timer is not touched by those that come in time.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let deadline = self.since + self.limit;
        loop {
            ready!(self.timer.as_mut().poll(cx));
            if self.timer.deadline() >= deadline {
                return Poll::Ready(());
            }
            self.timer.as_mut().reset(deadline);
        }
    }
}

impl<T, S, Q, R, B> Serving<T, S, Q, R, B>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: FnMut(Came<Q>) -> R,
    Q: Default + From<Upload<T>>,
    R: Future<Output = Response<B>> + Unpin,
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    /// A connection of which these bytes were `read` already. Each request is answered by the future that `service`
    /// gives; so is what is none, before the connection ends. A head that takes longer than `limit` is not waited for.
    pub fn new(io: T, read: BytesMut, limit: Option<Duration>, service: S) -> Self {
        Self {
            wire: Some(Arc::new(Mutex::new(Wire::new(io, read)))),
            service,
            request: PhantomData,
            step: Step::Waiting(0),
            asked: Asked::nothing(),
            patience: limit.map(Patience::new),
            last: false,
        }
    }

    /// Takes nothing more; the connection ends with the answer to what has begun.
    pub fn graceful_shutdown(&mut self) {
        self.last = true;
    }

    fn wait(&mut self) -> Step<R, B> {
        if let Some(patience) = &mut self.patience {
            patience.since = Instant::now();
        }
        Step::Waiting(0)
    }

    /// The next request, or what came in its place; `None`: the client is done.
    fn poll_request(&mut self, cx: &mut Context<'_>, seen: usize) -> Poll<Result<Option<Came<Q>>, Error>> {
        let Some(wire) = &self.wire else {
            return Poll::Ready(Ok(None));
        };
        let wire = &mut *wire.lock();
        let mut seen = seen;
        loop {
            if let Some(head) = next_head(&mut wire.read, seen).transpose() {
                if wire.read.is_empty() {
                    // The head's bytes are the fields' now.
                    wire.read = BytesMut::new();
                }
                return Poll::Ready(Ok(Some(head)));
            }
            seen = wire.read.len();
            if self.last && seen == 0 {
                return Poll::Ready(Ok(None));
            }
            match poll_head(&mut wire.io, cx, &mut wire.read)? {
                Poll::Ready(0) if seen == 0 => return Poll::Ready(Ok(None)),
                Poll::Ready(0) => return Poll::Ready(Err(Error::Closed)),
                Poll::Ready(_) => {}
                Poll::Pending => break,
            }
        }
        self.step = Step::Waiting(seen);
        if let Some(patience) = &mut self.patience {
            ready!(patience.poll(cx));
            let nothing = seen == 0;
            return Poll::Ready(Ok((!nothing).then_some(Err(Fault::TooSlow))));
        }
        Poll::Pending
    }

    fn begin(&mut self, request: Came<Q>) {
        let Some(wire) = &self.wire else { return };
        let framed = request.and_then(|mut request| {
            let marks = Marks::of(request.headers());
            Ok((Framing::of_request(&mut request, marks)?, marks, request))
        });
        let request = match framed {
            Ok((framing, marks, mut request)) => {
                self.asked = Asked::of(&request, marks);
                if self.asked.connect || marks.upgrade {
                    let (upgrade, on_upgrade) = OnUpgrade::new();
                    request.extensions_mut().insert(on_upgrade);
                    self.asked.upgrade = Some(upgrade);
                }
                if framing != Framing::Empty {
                    let expects = marks.expect && expects_continue(&request);
                    *request.body_mut() = Upload::begin(wire, framing, expects).into();
                }
                Ok(request)
            }
            Err(fault) => {
                self.asked = Asked::nothing();
                wire.lock().begin(Framing::UntilClose, false);
                Err(fault)
            }
        };
        self.step = Step::Answering((self.service)(request));
    }

    fn answer(&mut self, mut response: Response<B>) -> Result<(), Error> {
        let Some(wire) = &self.wire else { return Ok(()) };
        let ahead = wire.lock().break_promise();
        let marks = Marks::of(response.headers());
        let asked = &mut self.asked;
        let switches = asked.switches(response.status());
        // A client that was not told to go on may send the body or not.
        asked.keeps &= !switches
            && !self.last
            && ahead.is_some()
            && marks.keep_alive(Version::HTTP_11, response.headers());
        if switches {
            response.headers_mut().remove(CONTENT_LENGTH);
        } else {
            asked.upgrade = None;
            if marks.connection {
                response.headers_mut().remove(CONNECTION);
            }
        }
        let framing = Outgoing::of_response(&mut response, marks, asked.version, asked.head || switches)?;
        asked.keeps &= framing != Outgoing::UntilClose;
        let after = match (asked.version, asked.keeps) {
            _ if switches => After::Switches,
            (Version::HTTP_10, true) => After::KeptOld,
            (Version::HTTP_10, false) => After::EndsOld,
            (_, true) => After::Kept,
            (_, false) => After::Ends,
        };
        let ahead = ahead.unwrap_or_default();
        let sending = Sending::response(response, framing, after, asked.trailers, ahead);
        self.step = Step::Writing(Box::new(sending));
        Ok(())
    }

    /// Gives the connection to whoever speaks the other protocol.
    fn switch(&mut self, upgrade: oneshot::Sender<Switched<T>>) {
        // A body that is still in use has it too: what would follow that is not known.
        if let Some(wire) = self.wire.take().and_then(Arc::into_inner) {
            let Wire { io, read, .. } = wire.into_inner();
            let _ = upgrade.send(Replay::after(read, io));
        }
    }

    /// Ready when a request that is answered came to its end, with whether another may follow.
    fn poll_finish(&mut self, cx: &mut Context<'_>) -> Poll<Result<bool, Error>> {
        let (Some(wire), Step::Finishing(finishing)) = (&self.wire, &mut self.step) else {
            return Poll::Ready(Ok(false));
        };
        let mut wire = wire.lock();
        if !self.asked.keeps && !finishing.shut {
            ready!(Pin::new(&mut wire.io).poll_shutdown(cx))?;
            finishing.shut = true;
        }
        if let Poll::Ready(complete) = wire.poll_rest(cx) {
            return Poll::Ready(Ok(complete && self.asked.keeps));
        }
        if !wire.is_held() {
            let limit = finishing
                .limit
                .get_or_insert_with(|| Box::pin(sleep(limits::DISCARDING)));
            ready!(limit.as_mut().poll(cx));
            return Poll::Ready(Ok(false));
        }
        Poll::Pending
    }
}

impl<T, S, Q, R, B> Future for Serving<T, S, Q, R, B>
where
    T: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    S: FnMut(Came<Q>) -> R + Unpin,
    Q: Default + From<Upload<T>>,
    R: Future<Output = Response<B>> + Unpin,
    B: Body<Data = Bytes, Error = BodyError> + Unpin,
{
    type Output = Result<(), Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let serving = &mut *self;
        while let Some(wire) = &serving.wire {
            match &mut serving.step {
                Step::Waiting(seen) => {
                    let seen = *seen;
                    match ready!(serving.poll_request(cx, seen))? {
                        Some(request) => serving.begin(request),
                        None => serving.step = Step::Closing,
                    }
                }
                Step::Answering(answering) => {
                    let response = ready!(Pin::new(answering).poll(cx));
                    serving.answer(response)?;
                }
                Step::Writing(sending) => {
                    let Poll::Ready(written) = sending.poll(cx, &mut Writer(wire)) else {
                        // Some clients read nothing before they have sent everything.
                        let _ = wire.lock().poll_rest(cx);
                        return Poll::Pending;
                    };
                    written?;
                    serving.step = Step::Finishing(Finishing::default());
                    if let Some(upgrade) = serving.asked.upgrade.take() {
                        serving.switch(upgrade);
                    }
                }
                Step::Finishing(_) => {
                    serving.step = match ready!(serving.poll_finish(cx))? {
                        true => serving.wait(),
                        false => Step::Closing,
                    };
                }
                Step::Closing => {
                    ready!(Pin::new(&mut wire.lock().io).poll_shutdown(cx))?;
                    serving.wire = None;
                }
            }
        }
        Poll::Ready(Ok(()))
    }
}

/// Takes the next head off the bytes read; so many of them do not complete one.
fn next_head<Q: Default>(read: &mut BytesMut, seen: usize) -> Result<Option<Box<Request<Q>>>, Fault> {
    // Some clients end a body with an empty line (RFC 9112 §2.2).
    while let Some(line) = [&b"\r\n"[..], b"\n"].iter().find(|line| read.starts_with(line)) {
        read.advance(line.len());
    }
    // A head ends with a line: it is looked at once for each, however few bytes come at a time.
    let line = read.get(seen..).is_some_and(|new| new.contains(&b'\n'));
    match line || read.len() >= limits::HEADER_BYTES {
        true => head::parse_request(read),
        false => Ok(None),
    }
}

fn expects_continue<Q>(request: &Request<Q>) -> bool {
    let expected = request.headers().get(EXPECT).map(HeaderValue::as_bytes);
    request.version() == Version::HTTP_11
        && expected.is_some_and(|expected| expected.eq_ignore_ascii_case(b"100-continue"))
}

#[cfg(test)]
mod tests;
