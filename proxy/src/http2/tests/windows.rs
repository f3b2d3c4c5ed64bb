//! How much comes over a connection to a peer that is far away, in a time that only passes when all wait.

use tokio::{
    io::{AsyncRead, ReadBuf, ReadHalf, WriteHalf, join, sink, split},
    time::{Instant, sleep, sleep_until},
};

use super::*;
use crate::http::limits;

/// To the peer, and back again as long.
const AWAY: Duration = Duration::from_millis(20);
/// More than is ever under way.
const WAY: usize = 64 << 20;
const MIB: usize = 1 << 20;

/// A client of ours, and a server that is far away, with the tunnels it is asked for.
fn far_apart() -> (Client, mpsc::UnboundedReceiver<Tunnel>) {
    let (near, here) = duplex(WAY);
    let (there, far) = duplex(WAY);
    let (here, there) = (split(here), split(there));
    tokio::spawn(carry(here.0, there.1));
    tokio::spawn(carry(there.0, here.1));
    let (client, connection) = connect(near);
    tokio::spawn(connection);
    let (sender, tunnels) = mpsc::unbounded_channel();
    tokio::spawn(serve_tunnels(far, move |tunnel| {
        let _ = sender.send(tunnel);
    }));
    (client, tunnels)
}

/// Has what comes arrive later.
async fn carry(mut from: ReadHalf<DuplexStream>, mut to: WriteHalf<DuplexStream>) {
    let (sender, mut under_way) = mpsc::unbounded_channel::<(Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((arrival, bytes)) = under_way.recv().await {
            sleep_until(arrival).await;
            to.write_all(&bytes).await.unwrap();
        }
    });
    let mut buffer = vec![0; MIB];
    while let Ok(read @ 1..) = from.read(&mut buffer).await {
        let _ = sender.send((Instant::now() + AWAY, buffer[..read].to_vec()));
    }
}

/// How long so many bytes take through a tunnel, and what is left of it.
async fn pass(near: &mut Tunnel, far: &mut Tunnel, length: usize) -> Duration {
    let begun = Instant::now();
    let bytes = vec![0; length];
    let mut came = vec![0; length];
    let passing = async { tokio::join!(near.write_all(&bytes), far.read_exact(&mut came)) };
    let (written, read) = soon(passing).await;
    written.unwrap();
    read.unwrap();
    begun.elapsed()
}

async fn tunnel(client: &Client, tunnels: &mut mpsc::UnboundedReceiver<Tunnel>) -> (Tunnel, Tunnel) {
    let near = client.tunnel("10.0.0.1:80").unwrap();
    (near, tunnels.recv().await.unwrap())
}

/// With the window that a stream begins with it would take 128 round trips, some five seconds.
#[tokio::test(start_paused = true)]
async fn much_is_under_way_to_a_peer_that_is_far_away() {
    let (client, mut tunnels) = far_apart();
    let (mut near, mut far) = tunnel(&client, &mut tunnels).await;
    let there = pass(&mut near, &mut far, 32 * MIB).await;
    let back = pass(&mut far, &mut near, 32 * MIB).await;
    assert!(there < 40 * AWAY, "{there:?}");
    assert!(back < 40 * AWAY, "{back:?}");
}

/// Its window is not what holds it up.
#[tokio::test(start_paused = true)]
async fn who_sends_slowly_is_granted_no_more_than_at_first() {
    let (client, mut tunnels) = far_apart();
    let (mut near, mut far) = tunnel(&client, &mut tunnels).await;
    for _ in 0..64 {
        pass(&mut near, &mut far, 64 << 10).await;
        sleep(2 * AWAY).await;
    }
    drop(tunnels);
    assert!(held(&mut near).await <= limits::STREAM_WINDOW as usize);
}

/// How much can be written while no one reads.
async fn held(near: &mut Tunnel) -> usize {
    let mut held = 0;
    while let Ok(written) = timeout(10 * AWAY, near.write(&[0; 1024])).await {
        held += written.unwrap();
    }
    held
}

/// What the streams of a connection can hold is bounded together, and streams that end leave it to others.
#[tokio::test(start_paused = true)]
async fn what_streams_are_granted_beyond_the_first_is_bounded() {
    let (client, mut tunnels) = far_apart();
    for _ in 0..2 {
        let mut grown = 0;
        let mut pairs = Vec::new();
        for _ in 0..6 {
            let (mut near, mut far) = tunnel(&client, &mut tunnels).await;
            pass(&mut near, &mut far, 32 * MIB).await;
            grown += held(&mut near)
                .await
                .saturating_sub(limits::STREAM_WINDOW as usize);
            pairs.push((near, far));
        }
        // Of each a little was read that its peer has not been told of.
        assert!((10 * MIB..=16 * MIB).contains(&grown), "{grown}");
        let (mut near, mut far) = tunnel(&client, &mut tunnels).await;
        pass(&mut near, &mut far, MIB).await;
    }
}

/// A stream whose end is far away, and what was read of it.
struct Endless {
    piece: &'static [u8],
    read: Arc<Mutex<usize>>,
}

impl AsyncRead for Endless {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let mut read = self.read.lock();
        while *read < WAY && buf.remaining() > 0 {
            buf.put_slice(&self.piece[*read % self.piece.len()..][..1]);
            *read += 1;
        }
        Poll::Ready(Ok(()))
    }
}

/// Those who wait for what was read run before more is.
#[tokio::test]
async fn a_peer_that_never_pauses_does_not_keep_the_connection_to_itself() {
    // A frame of a kind that no one knows, which is passed over.
    let piece = b"\0\0\x07\xfa\0\0\0\0\0nothing";
    let read = Arc::new(Mutex::new(0));
    let endless = Endless {
        piece,
        read: read.clone(),
    };
    let (_client, connection) = connect(join(endless, sink()));
    tokio::pin!(connection);
    assert!(futures::poll!(connection).is_pending());
    assert!((1..MIB).contains(&*read.lock()));
}

#[tokio::test(start_paused = true)]
async fn all_but_one_may_stand_still() {
    let (client, mut tunnels) = far_apart();
    let mut still = Vec::new();
    for _ in 1..limits::SHARED_STREAMS {
        let (mut near, far) = tunnel(&client, &mut tunnels).await;
        assert_eq!(held(&mut near).await, limits::STREAM_WINDOW as usize);
        still.push((near, far));
    }
    let (mut near, mut far) = tunnel(&client, &mut tunnels).await;
    pass(&mut near, &mut far, 64 * MIB).await;
}
