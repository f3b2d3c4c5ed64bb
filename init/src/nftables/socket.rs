//! The socket to the kernel's nf_tables: sends transactions, reads rules back, explains errors.

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, bind, recv, send, setsockopt,
    socket, sockopt,
};
use nix::sys::time::{TimeVal, TimeValLike as _};

use super::wire::{self, GENERIC, HEADER, Message};
use super::{Table, encode};
use crate::rules::Family;

/// Size of a received datagram at most: the kernel fills pages, and an error repeats the failed message.
const RECEIVE: usize = 1 << 16;
/// Wanted size of the send buffer, in bytes: a transaction travels as one datagram.
const SEND: usize = 8 << 20;
/// How long the kernel may take to answer, in seconds.
const PATIENCE: i64 = 10;

const ERROR: u16 = 2;
const DONE: u16 = 3;

/// Why nf_tables could not be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No socket.
    #[error("cannot open a netfilter netlink socket: {source}; {hint}")]
    Open {
        /// What the system said.
        source: io::Error,
        /// What to do about it.
        hint: &'static str,
    },
    /// Sending or receiving failed.
    #[error(
        "netfilter netlink socket: {0}; try again, and if it persists check that no seccomp profile blocks netlink"
    )]
    Talk(#[source] io::Error),
    /// The transaction is larger than the kernel takes at once.
    #[error(
        "table {table} takes {size} bytes, more than one netlink message can hold here; split it into several tables, or raise net.core.wmem_max"
    )]
    TooLarge {
        /// The table's name.
        table: String,
        /// The size of the transaction.
        size: usize,
    },
    /// The kernel refused a step; nothing has changed.
    #[error("the kernel refused {step} of {family} nf_tables: {source}; {hint}")]
    Refused {
        /// Which part of the transaction.
        step: String,
        /// The address family.
        family: Family,
        /// What the kernel said.
        source: io::Error,
        /// What to do about it.
        hint: &'static str,
    },
}

/// A rule the kernel holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct InForce {
    /// The name of its chain.
    pub chain: String,
    /// The name it was given, cut as [`super::Rule::name`] says; empty when it has none.
    pub name: String,
}

/// A connection to the nf_tables of the network namespace in which it was opened.
#[derive(Debug)]
pub struct Netlink {
    socket: OwnedFd,
}

impl Netlink {
    /// Opens a connection for the calling thread's network namespace.
    ///
    /// # Errors
    /// [`Error::Open`]: the kernel has no netfilter netlink, or a sandbox forbids it.
    pub fn open() -> Result<Self, Error> {
        let open = |errno: Errno| Error::Open {
            source: errno.into(),
            hint: hint(errno),
        };
        let flags = SockFlag::SOCK_CLOEXEC;
        let protocol = SockProtocol::NetlinkNetFilter;
        let socket = socket(AddressFamily::Netlink, SockType::Raw, flags, protocol).map_err(open)?;
        bind(socket.as_raw_fd(), &NetlinkAddr::new(0, 0)).map_err(open)?;
        if setsockopt(&socket, sockopt::SndBufForce, &SEND).is_err() {
            setsockopt(&socket, sockopt::SndBuf, &SEND).map_err(open)?;
        }
        setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::seconds(PATIENCE)).map_err(open)?;
        Ok(Self { socket })
    }

    /// Makes the kernel hold exactly `table` under its name and family, all or nothing.
    ///
    /// # Errors
    /// [`Error::Refused`] names the rule and the reason; then nothing has changed.
    pub fn replace(&self, table: &Table) -> Result<(), Error> {
        self.commit(table.family, &table.name, &encode::replace(table))
    }

    /// Removes a table if it exists.
    ///
    /// # Errors
    /// As [`Netlink::replace`].
    pub fn delete(&self, family: Family, name: &str) -> Result<(), Error> {
        self.commit(family, name, &encode::delete(family, name))
    }

    /// The rules of a table, chain by chain in order; none when there is no such table.
    ///
    /// # Errors
    /// As [`Netlink::replace`].
    pub fn rules(&self, family: Family, name: &str) -> Result<Vec<InForce>, Error> {
        self.send(&encode::dump_rules(family, name)).map_err(talk)?;
        let mut rules = Vec::new();
        let mut buffer = vec![0; RECEIVE];
        loop {
            let length = self.receive(&mut buffer)?;
            for message in wire::messages(&buffer[..length]) {
                match message.kind {
                    DONE => return Ok(rules),
                    ERROR => match error_number(&message) {
                        Errno::ENOENT => return Ok(Vec::new()),
                        Errno::UnknownErrno => {}
                        errno => return Err(refused(format!("reading table {name}"), family, errno)),
                    },
                    kind if kind == encode::kind(encode::NEW_RULE) => {
                        rules.extend(rule(message.payload, name))
                    }
                    _ => {}
                }
            }
        }
    }

    fn commit(&self, family: Family, table: &str, batch: &encode::Batch) -> Result<(), Error> {
        match self.send(&batch.bytes) {
            Err(Errno::EMSGSIZE) => {
                return Err(Error::TooLarge {
                    table: table.to_owned(),
                    size: batch.bytes.len(),
                });
            }
            sent => sent.map_err(talk)?,
        }
        let mut buffer = vec![0; RECEIVE];
        loop {
            let length = self.receive(&mut buffer)?;
            for message in wire::messages(&buffer[..length]).filter(|message| message.kind == ERROR) {
                let step = usize::try_from(message.sequence).unwrap_or(usize::MAX);
                let errno = error_number(&message);
                if errno != Errno::UnknownErrno {
                    let name = batch
                        .steps
                        .get(step)
                        .cloned()
                        .unwrap_or_else(|| format!("step {step}"));
                    return Err(refused(name, family, errno));
                }
                if step + 1 == batch.steps.len() {
                    return Ok(());
                }
            }
        }
    }

    fn send(&self, bytes: &[u8]) -> Result<(), Errno> {
        // What a refused transaction left unread must not be taken for an answer to this one.
        let mut stale = [0; HEADER];
        while recv(self.socket.as_raw_fd(), &mut stale, MsgFlags::MSG_DONTWAIT).is_ok() {}
        send(self.socket.as_raw_fd(), bytes, MsgFlags::empty()).map(drop)
    }

    fn receive(&self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            match recv(self.socket.as_raw_fd(), buffer, MsgFlags::empty()) {
                Err(Errno::EINTR) => {}
                received => return received.map_err(talk),
            }
        }
    }
}

fn talk(errno: Errno) -> Error {
    Error::Talk(errno.into())
}

fn refused(step: String, family: Family, errno: Errno) -> Error {
    Error::Refused {
        step,
        family,
        source: errno.into(),
        hint: hint(errno),
    }
}

/// The error a message reports; [`Errno::UnknownErrno`], which is 0, for an acknowledgement.
fn error_number(message: &Message<'_>) -> Errno {
    let code = wire::array(message.payload, 0).map_or(-(Errno::EBADMSG as i32), i32::from_ne_bytes);
    Errno::from_raw(code.saturating_neg())
}

/// A rule out of a message, if it belongs to `table`.
fn rule(payload: &[u8], table: &str) -> Option<InForce> {
    let mut rule = InForce {
        chain: String::new(),
        name: String::new(),
    };
    let mut ours = false;
    for (kind, value) in wire::attributes(payload.get(GENERIC..)?) {
        match kind {
            1 => ours = wire::text(value) == table,
            2 => rule.chain = wire::text(value),
            7 => rule.name = value.get(2..).map(wire::text).unwrap_or_default(),
            _ => {}
        }
    }
    ours.then_some(rule)
}

fn hint(errno: Errno) -> &'static str {
    match errno {
        Errno::EPERM | Errno::EACCES => "the init container needs the NET_ADMIN capability",
        Errno::EPROTONOSUPPORT | Errno::EAFNOSUPPORT => "load the kernel module nf_tables on the node",
        Errno::ENOENT | Errno::EOPNOTSUPP => {
            "the node's kernel lacks a part of nf_tables: load nft_chain_nat, nft_redir, nft_nat and nf_nat there"
        }
        Errno::EBUSY => "another program is changing the rules: try again",
        _ => "check the kernel's log on the node",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_answer_is_survived(payload in prop::collection::vec(any::<u8>(), 0..256)) {
            _ = rule(&payload, "weir");
            _ = error_number(&Message { kind: ERROR, sequence: 0, payload: &payload });
        }
    }
}
