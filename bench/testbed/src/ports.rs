//! Ports for servers that must be told theirs before they start.

use std::{
    io,
    net::{Ipv4Addr, TcpListener},
    process,
    sync::atomic::{AtomicU32, Ordering},
};

/// Below what Linux gives to outgoing connections, so that none of those takes a port before its server does.
const FIRST: u32 = 20_000;
const COUNT: u32 = 12_000;

/// Ports of loopback that nobody listens on, and that this process is given once only.
///
/// # Errors
/// [`io::ErrorKind::AddrInUse`] when there are none left.
pub fn free_ports<const N: usize>() -> io::Result<[u16; N]> {
    let mut ports = [0; N];
    for port in &mut ports {
        *port = free_port()?;
    }
    Ok(ports)
}

fn free_port() -> io::Result<u16> {
    static GIVEN: AtomicU32 = AtomicU32::new(0);
    // Processes that run side by side begin at different places.
    let begin = process::id().wrapping_mul(97);
    for _ in 0..COUNT {
        let offset = begin.wrapping_add(GIVEN.fetch_add(1, Ordering::Relaxed)) % COUNT;
        let Ok(port) = u16::try_from(FIRST + offset) else {
            continue;
        };
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return Ok(port);
        }
    }
    Err(io::ErrorKind::AddrInUse.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_port_is_given_twice_and_none_that_is_taken() {
        let [first, second] = free_ports().unwrap();
        assert_ne!(first, second);
        let next = u16::try_from(FIRST + (u32::from(second) - FIRST + 1) % COUNT).unwrap();
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, next));
        let [third] = free_ports().unwrap();
        assert_ne!(third, next);
    }
}
