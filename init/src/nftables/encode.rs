//! A table as the batch of messages that puts it in force. Pure.
//!
//! Attributes are numbered as in the kernel's `linux/netfilter/nf_tables.h`: within each message and each expression,
//! in the order of the enumeration named after it (`NFTA_TABLE_*`, `NFTA_CHAIN_*`, `NFTA_RULE_*`, `NFTA_CMP_*`, …).

use std::net::IpAddr;

use ipnet::IpNet;

use super::wire::{GENERIC, Writer};
use super::{Action, Chain, Hook, Match, Protocol, Rule, Table};
use crate::rules::Family;

const REQUEST: u16 = 0x1;
pub(super) const ACK: u16 = 0x4;
pub(super) const DUMP: u16 = 0x300;
const CREATE: u16 = 0x400;
const APPEND: u16 = 0x800;

const BATCH_BEGIN: u16 = 16;
const BATCH_END: u16 = 17;
const SUBSYSTEM: u16 = 10;
const NEW_TABLE: u16 = 0;
const DELETE_TABLE: u16 = 2;
const NEW_CHAIN: u16 = 3;
pub(super) const NEW_RULE: u16 = 6;
const GET_RULE: u16 = 7;

const VERDICT_REGISTER: u32 = 0;
const REGISTER: u32 = 1;
const PORT_REGISTER: u32 = 2;

const META_MARK: u32 = 3;
const META_IN_INTERFACE: u32 = 6;
const META_OUT_INTERFACE: u32 = 7;
const META_UID: u32 = 10;
const META_PROTOCOL: u32 = 16;
const CT_STATUS: u32 = 2;
const STATUS_DNAT: u32 = 1 << 5;

const EQUAL: u32 = 0;
const NOT_EQUAL: u32 = 1;

/// Length of an interface name, as nf_tables compares it.
const INTERFACE_NAME: usize = 16;
/// Longest part of a rule's name that is kept with it in the kernel.
pub(super) const COMMENT_MAX: usize = 100;

/// Messages, and what each is for: an error names its message by sequence number, which is the index here.
#[derive(Debug)]
pub(super) struct Batch {
    pub(super) bytes: Vec<u8>,
    pub(super) steps: Vec<String>,
}

/// The type of an nf_tables message.
pub(super) fn kind(message: u16) -> u16 {
    SUBSYSTEM << 8 | message
}

/// The transaction that leaves exactly `table` of that name.
pub(super) fn replace(table: &Table) -> Batch {
    let mut batch = Builder::begin(table.family);
    batch.clear(&table.name);
    batch.step(format!("table {}", table.name), NEW_TABLE, CREATE, |w| {
        w.string(1, &table.name)
    });
    for chain in &table.chains {
        batch.step(format!("chain {}", chain.name), NEW_CHAIN, CREATE, |w| {
            chain_body(w, &table.name, chain)
        });
    }
    for chain in &table.chains {
        for rule in &chain.rules {
            let step = format!("rule `{}` of chain {}", rule.name, chain.name);
            batch.step(step, NEW_RULE, CREATE | APPEND, |w| {
                w.string(1, &table.name);
                w.string(2, &chain.name);
                w.nested(4, |w| rule_body(w, rule, table.family));
                w.attribute(7, &comment(&rule.name));
            });
        }
    }
    batch.end()
}

/// The transaction that leaves no table of that name.
pub(super) fn delete(family: Family, name: &str) -> Batch {
    let mut batch = Builder::begin(family);
    batch.clear(name);
    batch.end()
}

/// The request for all rules of a table.
pub(super) fn dump_rules(family: Family, name: &str) -> Vec<u8> {
    let mut writer = Writer::default();
    writer.message(kind(GET_RULE), REQUEST | DUMP, 0, generic(family, 0), |w| {
        w.string(1, name)
    });
    writer.into_bytes()
}

/// A rule's name as nft keeps comments: type, length, terminated text.
fn comment(name: &str) -> Vec<u8> {
    let end = (0..=COMMENT_MAX)
        .rev()
        .find(|end| name.is_char_boundary(*end))
        .unwrap_or(0);
    let text = &name[..end];
    let length = u8::try_from(text.len() + 1).unwrap_or(u8::MAX);
    [&[0, length], text.as_bytes(), &[0]].concat()
}

fn generic(family: Family, resource: u16) -> [u8; GENERIC] {
    let [high, low] = resource.to_be_bytes();
    [family_number(family), 0, high, low]
}

fn family_number(family: Family) -> u8 {
    match family {
        Family::V4 => 2,
        Family::V6 => 10,
    }
}

struct Builder {
    family: Family,
    writer: Writer,
    steps: Vec<String>,
}

impl Builder {
    fn begin(family: Family) -> Self {
        let mut writer = Writer::default();
        let [high, low] = SUBSYSTEM.to_be_bytes();
        writer.message(BATCH_BEGIN, REQUEST, 0, [0, 0, high, low], |_| {});
        Self {
            family,
            writer,
            steps: vec!["the transaction".to_owned()],
        }
    }

    fn step(&mut self, name: String, message: u16, flags: u16, body: impl FnOnce(&mut Writer)) {
        let sequence = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        self.writer.message(
            kind(message),
            REQUEST | flags,
            sequence,
            generic(self.family, 0),
            body,
        );
        self.steps.push(name);
    }

    /// Deletes a table whether it exists or not.
    fn clear(&mut self, name: &str) {
        self.step(format!("table {name}"), NEW_TABLE, CREATE, |w| w.string(1, name));
        self.step(format!("removal of table {name}"), DELETE_TABLE, 0, |w| {
            w.string(1, name)
        });
    }

    /// Only the last step asks to be acknowledged: many acknowledgements would overflow the socket.
    fn end(mut self) -> Batch {
        self.writer.flag_last(ACK);
        let [high, low] = SUBSYSTEM.to_be_bytes();
        let sequence = u32::try_from(self.steps.len()).unwrap_or(u32::MAX);
        self.writer
            .message(BATCH_END, REQUEST, sequence, [0, 0, high, low], |_| {});
        Batch {
            bytes: self.writer.into_bytes(),
            steps: self.steps,
        }
    }
}

fn chain_body(w: &mut Writer, table: &str, chain: &Chain) {
    w.string(1, table);
    w.string(3, &chain.name);
    let Some(hook) = chain.hook else { return };
    let (number, priority): (u32, i32) = match hook {
        Hook::Prerouting => (0, -100),
        Hook::Output => (3, -100),
        Hook::Postrouting => (4, 100),
    };
    w.nested(4, |w| {
        w.number(1, number);
        w.attribute(2, &priority.to_be_bytes());
    });
    w.number(5, 1);
    w.string(7, "nat");
}

fn rule_body(w: &mut Writer, rule: &Rule, family: Family) {
    for item in &rule.matches {
        match_expressions(w, item, family);
    }
    action_expressions(w, &rule.action, family);
}

/// One expression of a rule: its name and its attributes.
fn expression(w: &mut Writer, name: &str, body: impl FnOnce(&mut Writer)) {
    w.nested(1, |w| {
        w.string(1, name);
        w.nested(2, body);
    });
}

fn match_expressions(w: &mut Writer, item: &Match, family: Family) {
    match item {
        Match::Protocol(protocol) => {
            let number = match protocol {
                Protocol::Tcp => 6,
                Protocol::Udp => 17,
            };
            meta(w, META_PROTOCOL);
            compare(w, EQUAL, &[number]);
        }
        Match::InInterface(name) => interface(w, META_IN_INTERFACE, name),
        Match::OutInterface(name) => interface(w, META_OUT_INTERFACE, name),
        Match::Source(network) => address(w, family, End::Source, EQUAL, *network),
        Match::NotSource(network) => address(w, family, End::Source, NOT_EQUAL, *network),
        Match::Destination(network) => address(w, family, End::Destination, EQUAL, *network),
        Match::NotDestination(network) => address(w, family, End::Destination, NOT_EQUAL, *network),
        Match::DestinationPort { first, last } => port(w, *first, *last),
        Match::Uid(uid) => meta_number(w, META_UID, EQUAL, *uid),
        Match::NotUid(uid) => meta_number(w, META_UID, NOT_EQUAL, *uid),
        Match::Mark(mark) => meta_number(w, META_MARK, EQUAL, *mark),
        Match::NotMark(mark) => meta_number(w, META_MARK, NOT_EQUAL, *mark),
        Match::Translated => {
            expression(w, "ct", |w| {
                w.number(1, REGISTER);
                w.number(2, CT_STATUS);
            });
            mask(w, &STATUS_DNAT.to_ne_bytes());
            compare(w, NOT_EQUAL, &[0; 4]);
        }
        Match::OneIn(count) => {
            expression(w, "numgen", |w| {
                w.number(1, REGISTER);
                w.number(2, (*count).max(1));
                w.number(3, 1);
            });
            compare(w, EQUAL, &[0; 4]);
        }
    }
}

fn action_expressions(w: &mut Writer, action: &Action, family: Family) {
    const ACCEPT: i32 = 1;
    const RETURN: i32 = -5;
    const JUMP: i32 = -3;
    match action {
        Action::Accept => verdict(w, ACCEPT, None),
        Action::Return => verdict(w, RETURN, None),
        Action::Jump(chain) => verdict(w, JUMP, Some(chain)),
        Action::Redirect(port) => {
            load(w, REGISTER, &port.to_be_bytes());
            expression(w, "redir", |w| w.number(1, REGISTER));
        }
        Action::Dnat { address, port } => {
            load(w, REGISTER, &octets(*address));
            if let Some(port) = port {
                load(w, PORT_REGISTER, &port.to_be_bytes());
            }
            expression(w, "nat", |w| {
                w.number(1, 1);
                w.number(2, u32::from(family_number(family)));
                w.number(3, REGISTER);
                if port.is_some() {
                    w.number(5, PORT_REGISTER);
                }
            });
        }
        Action::Masquerade => expression(w, "masq", |_| {}),
    }
}

fn verdict(w: &mut Writer, code: i32, chain: Option<&str>) {
    expression(w, "immediate", |w| {
        w.number(1, VERDICT_REGISTER);
        w.nested(2, |w| {
            w.nested(2, |w| {
                w.attribute(1, &code.to_be_bytes());
                if let Some(chain) = chain {
                    w.string(2, chain);
                }
            });
        });
    });
}

fn load(w: &mut Writer, register: u32, value: &[u8]) {
    expression(w, "immediate", |w| {
        w.number(1, register);
        w.nested(2, |w| w.attribute(1, value));
    });
}

fn meta(w: &mut Writer, key: u32) {
    expression(w, "meta", |w| {
        w.number(1, REGISTER);
        w.number(2, key);
    });
}

/// Numbers of the kernel's own are compared in its byte order, unlike what comes from packets.
fn meta_number(w: &mut Writer, key: u32, operator: u32, value: u32) {
    meta(w, key);
    compare(w, operator, &value.to_ne_bytes());
}

fn interface(w: &mut Writer, key: u32, name: &str) {
    let mut padded = name.as_bytes().to_vec();
    padded.resize(INTERFACE_NAME, 0);
    meta(w, key);
    compare(w, EQUAL, &padded);
}

fn compare(w: &mut Writer, operator: u32, value: &[u8]) {
    expression(w, "cmp", |w| {
        w.number(1, REGISTER);
        w.number(2, operator);
        w.nested(3, |w| w.attribute(1, value));
    });
}

fn mask(w: &mut Writer, bits: &[u8]) {
    expression(w, "bitwise", |w| {
        w.number(1, REGISTER);
        w.number(2, REGISTER);
        w.number(3, u32::try_from(bits.len()).unwrap_or(u32::MAX));
        w.nested(4, |w| w.attribute(1, bits));
        w.nested(5, |w| w.attribute(1, &vec![0; bits.len()]));
    });
}

fn payload(w: &mut Writer, base: u32, offset: u32, length: u32) {
    expression(w, "payload", |w| {
        w.number(1, REGISTER);
        w.number(2, base);
        w.number(3, offset);
        w.number(4, length);
    });
}

fn port(w: &mut Writer, first: u16, last: u16) {
    const TRANSPORT_HEADER: u32 = 2;
    payload(w, TRANSPORT_HEADER, 2, 2);
    if first == last {
        return compare(w, EQUAL, &first.to_be_bytes());
    }
    expression(w, "range", |w| {
        w.number(1, REGISTER);
        w.number(2, EQUAL);
        w.nested(3, |w| w.attribute(1, &first.to_be_bytes()));
        w.nested(4, |w| w.attribute(1, &last.to_be_bytes()));
    });
}

#[derive(Clone, Copy)]
enum End {
    Source,
    Destination,
}

fn address(w: &mut Writer, family: Family, end: End, operator: u32, network: IpNet) {
    const NETWORK_HEADER: u32 = 1;
    let (offset, length) = match (family, end) {
        (Family::V4, End::Source) => (12, 4),
        (Family::V4, End::Destination) => (16, 4),
        (Family::V6, End::Source) => (8, 16),
        (Family::V6, End::Destination) => (24, 16),
    };
    payload(w, NETWORK_HEADER, offset, length);
    if network.prefix_len() < network.max_prefix_len() {
        mask(w, &octets(network.netmask()));
    }
    compare(w, operator, &octets(network.network()));
}

fn octets(ip: IpAddr) -> Vec<u8> {
    match ip {
        IpAddr::V4(ip) => ip.octets().to_vec(),
        IpAddr::V6(ip) => ip.octets().to_vec(),
    }
}
