use std::{
    future::poll_fn,
    pin::pin,
    sync::atomic::{AtomicUsize, Ordering},
    task::{Wake, Waker},
};

use http::Request;
use tokio::io::AsyncWriteExt as _;

use super::*;

/// A stream as a test wants it.
#[derive(Clone, Default)]
struct Wire(Arc<Mutex<Ends>>);

#[derive(Default)]
struct Ends {
    /// What was written, write by write.
    written: Vec<Vec<u8>>,
    /// Bytes that it takes now.
    room: usize,
    broken: bool,
    flushed: usize,
    shut: bool,
    waiting: Option<Waker>,
}

impl Wire {
    fn with(room: usize) -> Self {
        let wire = Self::default();
        wire.0.lock().room = room;
        wire
    }

    fn all(&self) -> Vec<u8> {
        self.0.lock().written.concat()
    }

    /// Makes room, and wakes who waits for it.
    fn open(&self, room: usize) {
        let waiting = {
            let mut ends = self.0.lock();
            ends.room = room;
            ends.waiting.take()
        };
        waiting.expect("no one waits for room").wake();
    }
}

/// Brings nothing.
impl AsyncRead for Wire {
    fn poll_read(self: Pin<&mut Self>, _: &mut Context<'_>, _: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Poll::Pending
    }
}

impl AsyncWrite for Wire {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let mut ends = self.0.lock();
        if ends.broken {
            return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into()));
        }
        let length = buf.len().min(ends.room);
        if length == 0 {
            ends.waiting = Some(cx.waker().clone());
            return Poll::Pending;
        }
        ends.room -= length;
        ends.written.push(buf[..length].to_vec());
        Poll::Ready(Ok(length))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().flushed += 1;
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.0.lock().shut = true;
        Poll::Ready(Ok(()))
    }
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl Woken {
    fn times(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

/// Polls once, with what counts how often it is woken.
fn poll<F: Future>(future: Pin<&mut F>) -> (Poll<F::Output>, Arc<Woken>) {
    let woken = Arc::new(Woken::default());
    let waker = Waker::from(woken.clone());
    let polled = future.poll(&mut Context::from_waker(&waker));
    (polled, woken)
}

/// Writes in small pieces, flushing each; then sleeps until the stream fails, and gives the error.
async fn write(stream: &mut Gathered<Wire>, bytes: &[u8]) -> io::Error {
    for piece in bytes.chunks(100) {
        if let Err(error) = stream.write_all(piece).await {
            return error;
        }
        if let Err(error) = stream.flush().await {
            return error;
        }
    }
    poll_fn(|cx| match Pin::new(&mut *stream).poll_flush(cx) {
        Poll::Ready(Err(error)) => Poll::Ready(error),
        _ => Poll::Pending,
    })
    .await
}

fn bytes(length: usize) -> Vec<u8> {
    (0..=250).cycle().take(length).collect()
}

#[test]
fn what_one_poll_writes_is_written_once() {
    let wire = Wire::with(usize::MAX);
    let (mut stream, outlet) = gather(wire.clone());
    let bytes = bytes(FULL);
    let mut writing = pin!(write(&mut stream, &bytes));
    let (polled, _) = poll(pin!(outlet.drive(writing.as_mut())));
    assert!(polled.is_pending());
    assert_eq!(wire.0.lock().written, std::slice::from_ref(&bytes));
    assert_eq!(wire.0.lock().flushed, 1);
    assert_eq!(
        outlet.gather.lock().held.capacity(),
        0,
        "an idle connection holds a buffer"
    );
}

#[test]
fn frames_of_many_streams_are_written_once() {
    let wire = Wire::with(usize::MAX);
    let (stream, outlet) = gather(wire.clone());
    let mut handshake = pin!(h2::client::handshake(stream));
    let (Poll::Ready(Ok((mut sender, mut connection))), _) = poll(pin!(outlet.drive(handshake.as_mut())))
    else {
        panic!("the handshake waits for nothing");
    };
    let before = wire.0.lock().written.len();
    let streams: Vec<_> = (0..8)
        .map(|_| {
            let (response, mut body) = sender.send_request(Request::new(()), false).unwrap();
            body.send_data(bytes(2000).into(), false).unwrap();
            (response, body)
        })
        .collect();
    let (polled, _) = poll(pin!(outlet.drive(Pin::new(&mut connection))));
    assert!(polled.is_pending());
    let written = wire.0.lock().written.split_off(before);
    assert_eq!(written.len(), 1, "writes of {} frames", 2 * streams.len());
    assert!(written[0].len() > 8 * 2000);
}

#[test]
fn a_full_buffer_waits_for_room() {
    let wire = Wire::with(1000);
    let (mut stream, outlet) = gather(wire.clone());
    let bytes = bytes(4 * FULL);
    let mut writing = pin!(write(&mut stream, &bytes));
    let mut driven = outlet.drive(writing.as_mut());
    let mut written = 0;
    for room in [1000, 10, FULL, 2 * FULL] {
        if written > 0 {
            wire.open(room);
        }
        let (polled, woken) = poll(Pin::new(&mut driven));
        assert!(polled.is_pending());
        assert_eq!(woken.times(), 0, "it spins");
        written += room;
        assert_eq!(wire.all(), bytes[..written]);
        assert!(outlet.gather.lock().held.len() <= FULL);
    }
    wire.open(usize::MAX);
    assert!(poll(Pin::new(&mut driven)).0.is_pending());
    assert!(wire.all() == bytes);
}

#[test]
fn what_is_left_over_is_written_when_there_is_room() {
    let wire = Wire::with(5);
    let (mut stream, outlet) = gather(wire.clone());
    let mut writing = pin!(write(&mut stream, b"twenty bytes or more"));
    let mut driven = outlet.drive(writing.as_mut());
    let (polled, woken) = poll(Pin::new(&mut driven));
    assert!(polled.is_pending());
    assert_eq!(wire.all(), b"twent");
    wire.open(100);
    assert_eq!(woken.times(), 1);
    assert!(poll(Pin::new(&mut driven)).0.is_pending());
    assert_eq!(wire.all(), b"twenty bytes or more");
}

#[test]
fn a_failed_write_wakes_who_uses_the_stream() {
    let wire = Wire::with(100);
    wire.0.lock().broken = true;
    let (mut stream, outlet) = gather(wire.clone());
    {
        let mut writing = pin!(write(&mut stream, b"lost"));
        let mut driven = outlet.drive(writing.as_mut());
        let (polled, woken) = poll(Pin::new(&mut driven));
        assert!(polled.is_pending());
        assert_eq!(woken.times(), 1);
        let (polled, _) = poll(Pin::new(&mut driven));
        let Poll::Ready(error) = polled else {
            panic!("it was not told");
        };
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    }
    let (polled, _) = poll(pin!(stream.write_all(b"more")));
    let again = match polled {
        Poll::Ready(outcome) => outcome.unwrap_err(),
        Poll::Pending => panic!("it waits for nothing"),
    };
    assert_eq!(again.kind(), io::ErrorKind::BrokenPipe);
}

#[test]
fn a_shutdown_writes_out_first() {
    let wire = Wire::with(5);
    let (mut stream, outlet) = gather(wire.clone());
    let mut ending = pin!(async {
        stream.write_all(b"goodbye").await?;
        stream.shutdown().await
    });
    let mut driven = outlet.drive(ending.as_mut());
    assert!(poll(Pin::new(&mut driven)).0.is_pending());
    assert!(!wire.0.lock().shut, "before all was written");
    wire.open(5);
    assert!(matches!(poll(Pin::new(&mut driven)).0, Poll::Ready(Ok(()))));
    assert_eq!(wire.all(), b"goodbye");
    assert!(wire.0.lock().shut);
}

/// Writes this much whenever it is polled.
struct Writer(Gathered<Wire>, Vec<usize>);

impl Future for Writer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let length = self.1.pop().unwrap_or(0);
        let written = Pin::new(&mut self.0).poll_write(cx, &vec![1; length]);
        assert!(matches!(written, Poll::Ready(Ok(all)) if all == length));
        Poll::Pending
    }
}

/// What is written, poll by poll, by a patient connection that writes as much.
fn patiently(lengths: &[usize]) -> Vec<usize> {
    let wire = Wire::with(usize::MAX);
    let (stream, outlet) = gather(wire.clone());
    let mut writer = Writer(stream, lengths.iter().rev().copied().collect());
    let mut driven = outlet.drive(Pin::new(&mut writer));
    driven.patience = Some(Patience::default());
    let each = lengths.iter().map(|_| {
        let (polled, woken) = poll(Pin::new(&mut driven));
        assert!(polled.is_pending());
        let written = wire.0.lock().written.drain(..).map(|bytes| bytes.len()).sum();
        let held = outlet.gather.lock().held.len();
        assert!(held == 0 || woken.times() == 1, "no one wakes it");
        written
    });
    each.collect()
}

#[test]
fn among_threads_others_are_let_go_first() {
    assert_eq!(patiently(&[10, 5, 7, 0]), [0, 15, 0, 7]);
    assert_eq!(patiently(&[0, FULL, 1]), [0, FULL, 0]);
}

#[test]
fn where_no_others_write_none_is_waited_for() {
    let (vain, tried) = (usize::from(VAIN), usize::from(TRIED));
    let lengths = [[1, 0].repeat(vain), vec![1; tried], vec![0; 1], vec![1; tried]].concat();
    let expected = [
        [0, 1].repeat(vain),
        vec![1; tried - 1],
        vec![0, 1],
        vec![1; tried - 1],
        vec![0],
    ];
    assert_eq!(patiently(&lengths), expected.concat());
}
