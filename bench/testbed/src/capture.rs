//! Records TCP payload that crosses the bridge between pods, flow by flow, so that a text can be searched for.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::net::if_::if_nametoindex;
use nix::sys::socket::{
    AddressFamily, LinkAddr, SockFlag, SockProtocol, SockType, recvfrom, setsockopt, socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike};

use crate::network::BRIDGE;

/// The sender and receiver of one direction of a connection.
pub type Flow = (SocketAddr, SocketAddr);

/// Largest frame: the kernel hands over segments before they are cut to the link's size.
const FRAME: usize = 1 << 17;

/// Payload by flow.
#[derive(Debug, Default)]
struct Store {
    flows: BTreeMap<Flow, Stream>,
    bytes: usize,
}

#[derive(Debug, Default)]
struct Stream {
    /// Sequence number after the last byte kept.
    next: Option<u32>,
    data: Vec<u8>,
}

/// A running record; it ends when dropped.
#[derive(Debug)]
pub struct Capture {
    store: Arc<Mutex<Store>>,
    end: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Capture {
    pub(crate) fn start(limit: usize) -> Result<Self> {
        Self::on(BRIDGE, limit)
    }

    /// Records what passes a bridge of the calling thread's network namespace, `limit` bytes at most.
    ///
    /// # Errors
    /// When there is no such bridge, or no permission.
    pub fn on(bridge: &str, limit: usize) -> Result<Self> {
        let bridge = if_nametoindex(bridge).with_context(|| format!("find the bridge {bridge}"))?;
        let bridge = usize::try_from(bridge)?;
        let socket = socket(
            AddressFamily::Packet,
            SockType::Raw,
            SockFlag::SOCK_CLOEXEC,
            SockProtocol::EthAll,
        )
        .context("open a packet socket")?;
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50)).context("set a timeout")?;
        let _best_effort = setsockopt(&socket, sockopt::RcvBufForce, &(16 << 20));
        let (store, end) = (Arc::<Mutex<Store>>::default(), Arc::new(AtomicBool::new(false)));
        let (kept, ended) = (Arc::clone(&store), Arc::clone(&end));
        let thread = std::thread::Builder::new()
            .name("capture".into())
            .spawn(move || record(&socket, bridge, &kept, &ended, limit))
            .context("start the capture thread")?;
        Ok(Self {
            store,
            end,
            thread: Some(thread),
        })
    }

    /// Whether `text` was seen in any flow, even cut over several segments.
    #[must_use]
    pub fn contains(&self, text: &[u8]) -> bool {
        !self.flows_with(text).is_empty()
    }

    /// The flows in which `text` was seen.
    #[must_use]
    pub fn flows_with(&self, text: &[u8]) -> Vec<Flow> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        let seen =
            |stream: &Stream| text.is_empty() || stream.data.windows(text.len()).any(|window| window == text);
        store
            .flows
            .iter()
            .filter(|(_, stream)| seen(stream))
            .map(|(flow, _)| *flow)
            .collect()
    }

    /// All flows and how many bytes of each were kept.
    #[must_use]
    pub fn flows(&self) -> Vec<(Flow, usize)> {
        let store = self.store.lock().unwrap_or_else(PoisonError::into_inner);
        store
            .flows
            .iter()
            .map(|(flow, stream)| (*flow, stream.data.len()))
            .collect()
    }

    /// Payload bytes kept so far.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.store.lock().unwrap_or_else(PoisonError::into_inner).bytes
    }
}

impl Drop for Capture {
    fn drop(&mut self) {
        self.end.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _panicked = thread.join();
        }
    }
}

fn record(socket: &OwnedFd, bridge: usize, store: &Mutex<Store>, end: &AtomicBool, limit: usize) {
    let mut frame = vec![0u8; FRAME];
    while !end.load(Ordering::Relaxed) {
        match recvfrom::<LinkAddr>(socket.as_raw_fd(), &mut frame) {
            Ok((length, Some(from))) if from.ifindex() == bridge => {
                if let Some((flow, sequence, payload)) = segment(&frame[..length]) {
                    store
                        .lock()
                        .unwrap_or_else(PoisonError::into_inner)
                        .add(flow, sequence, payload, limit);
                }
            }
            Ok(_) | Err(Errno::EAGAIN | Errno::EINTR) => {}
            Err(_) => return,
        }
    }
}

impl Store {
    /// Adds what a segment has beyond the bytes already kept; the bridge shows most segments twice.
    fn add(&mut self, flow: Flow, sequence: u32, payload: &[u8], limit: usize) {
        if payload.is_empty() || self.bytes >= limit {
            return;
        }
        let stream = self.flows.entry(flow).or_default();
        let known = stream.next.map_or(0, |next| next.wrapping_sub(sequence));
        // Within half the number space the segment starts before `next`: that much of it is known.
        let skip = if known < 1 << 31 {
            usize::try_from(known).unwrap_or(usize::MAX)
        } else {
            0
        };
        let Some(fresh) = payload.get(skip..).filter(|fresh| !fresh.is_empty()) else {
            return;
        };
        stream.data.extend_from_slice(fresh);
        self.bytes += fresh.len();
        stream.next = Some(sequence.wrapping_add(u32::try_from(payload.len()).unwrap_or(0)));
    }
}

/// Flow, sequence number and payload of an Ethernet frame with TCP in it.
fn segment(frame: &[u8]) -> Option<(Flow, u32, &[u8])> {
    let number = |bytes: &[u8]| {
        bytes
            .iter()
            .fold(0usize, |all, byte| all << 8 | usize::from(*byte))
    };
    let packet = frame.get(14..)?;
    let (source, target, protocol, tcp): (IpAddr, IpAddr, u8, &[u8]) = match number(frame.get(12..14)?) {
        0x0800 => {
            let header = usize::from(packet.first()? & 0xf) * 4;
            let total = number(packet.get(2..4)?);
            let end = if total == 0 {
                packet.len()
            } else {
                total.min(packet.len())
            };
            let v4 = |at: usize| Some(Ipv4Addr::from(<[u8; 4]>::try_from(packet.get(at..at + 4)?).ok()?));
            (
                v4(12)?.into(),
                v4(16)?.into(),
                *packet.get(9)?,
                packet.get(header..end)?,
            )
        }
        0x86dd => {
            let length = number(packet.get(4..6)?);
            let end = if length == 0 {
                packet.len()
            } else {
                (40 + length).min(packet.len())
            };
            let v6 = |at: usize| {
                Some(Ipv6Addr::from(
                    <[u8; 16]>::try_from(packet.get(at..at + 16)?).ok()?,
                ))
            };
            (
                v6(8)?.into(),
                v6(24)?.into(),
                *packet.get(6)?,
                packet.get(40..end)?,
            )
        }
        _ => return None,
    };
    if protocol != 6 {
        return None;
    }
    let port = |at: usize| u16::try_from(number(tcp.get(at..at + 2)?)).ok();
    let sequence = u32::try_from(number(tcp.get(4..8)?)).ok()?;
    let header = usize::from(tcp.get(12)? >> 4) * 4;
    let flow = (
        SocketAddr::new(source, port(0)?),
        SocketAddr::new(target, port(2)?),
    );
    Some((flow, sequence, tcp.get(header..)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn segments_seen_twice_or_overlapping_are_kept_once() {
        let flow = ("10.0.0.1:1".parse().unwrap(), "10.0.0.2:2".parse().unwrap());
        let mut store = Store::default();
        for (sequence, payload) in [
            (u32::MAX - 1, &b"GET "[..]),
            (u32::MAX - 1, b"GET "),
            (2, b"/se"),
            (4, b"ecret"),
        ] {
            store.add(flow, sequence, payload, 1 << 20);
        }
        assert_eq!(store.flows[&flow].data, b"GET /secret");
    }

    #[test]
    fn short_frames_are_no_segments() {
        for length in 0..60 {
            let mut frame = vec![0u8; length];
            if length > 14 {
                frame[12] = 8;
                frame[14] = 0x45;
            }
            assert_eq!(segment(&frame), None);
        }
    }
}
