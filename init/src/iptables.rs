//! The rules as `iptables-restore` input, and the comparison with what `iptables-save` prints. Pure.
//!
//! Every rule is written exactly as `iptables-save` would print it, so that reading back is a comparison of lines.

mod program;

pub use program::{Error, Program, Variant, detect, detect_all, installed};

use std::fmt::Write as _;

use crate::backend::Missing;
use crate::ports::PortRange;
use crate::redirect::ProxyIdentity;
use crate::rules::{Chain, Match, Rule, RuleSet, Verdict};

/// Marks a chain as ours, whatever version of Weir made it.
const OWN_PREFIX: &str = "WEIR_";

/// What `iptables-save -t nat` told about rules and chains of ours, of this or of an earlier run.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Saved {
    /// Chains of ours.
    chains: Vec<String>,
    /// Rules in chains of ours, in order.
    own: Vec<String>,
    /// Rules in the kernel's chains that jump to a chain of ours.
    jumps: Vec<String>,
}

impl Saved {
    /// Picks our part out of the output of `iptables-save`.
    pub fn parse(output: &str) -> Self {
        let mut saved = Self::default();
        for line in output.lines().map(str::trim) {
            if let Some(chain) = line
                .strip_prefix(':')
                .and_then(|rest| rest.split_whitespace().next())
            {
                if chain.starts_with(OWN_PREFIX) {
                    saved.chains.push(chain.to_owned());
                }
                continue;
            }
            let Some(rule) = line.strip_prefix("-A ") else {
                continue;
            };
            if rule.starts_with(OWN_PREFIX) {
                saved.own.push(rule.to_owned());
            } else if target(rule).is_some_and(|target| target.starts_with(OWN_PREFIX)) {
                saved.jumps.push(rule.to_owned());
            }
        }
        saved
    }

    /// Whether nothing of ours is left.
    pub fn is_empty(&self) -> bool {
        self.chains.is_empty() && self.own.is_empty() && self.jumps.is_empty()
    }

    /// Rules of `set` that are not in force at their place.
    pub fn missing(&self, set: &RuleSet) -> Vec<Missing> {
        let mut missing = Vec::new();
        for chain in Chain::ALL {
            let prefix = format!("{} ", chain.name());
            let in_force: Vec<&String> = self
                .own
                .iter()
                .chain(&self.jumps)
                .filter(|line| line.starts_with(&prefix))
                .collect();
            for (index, rule) in set.of_chain(chain).enumerate() {
                let text = rule_text(rule);
                if in_force.get(index).is_none_or(|line| **line != text) {
                    missing.push(Missing {
                        chain,
                        purpose: rule.purpose.to_owned(),
                    });
                }
            }
        }
        missing
    }
}

/// Input for `iptables-restore --noflush` that replaces whatever is ours by `set`, in one transaction.
///
/// Naming a chain of ours creates or empties it; jumps that `saved` holds go before the new ones come, so a second
/// run leaves what the first one left. Rules of others are untouched.
pub fn apply_text(set: &RuleSet, saved: &Saved) -> String {
    let mut text = String::from("*nat\n");
    for chain in Chain::OWN {
        _ = writeln!(text, ":{} - [0:0]", chain.name());
    }
    let stale: Vec<&String> = saved
        .chains
        .iter()
        .filter(|name| Chain::OWN.iter().all(|own| own.name() != name.as_str()))
        .collect();
    for chain in &stale {
        _ = writeln!(text, ":{chain} - [0:0]");
    }
    for jump in &saved.jumps {
        _ = writeln!(text, "-D {jump}");
    }
    for chain in &stale {
        _ = writeln!(text, "-X {chain}");
    }
    for rule in &set.rules {
        _ = writeln!(text, "-A {}", rule_text(rule));
    }
    text.push_str("COMMIT\n");
    text
}

/// Input for `iptables-restore --noflush` that removes whatever is ours; `None` when there is nothing.
pub fn cleanup_text(saved: &Saved) -> Option<String> {
    if saved.is_empty() {
        return None;
    }
    let mut text = String::from("*nat\n");
    for chain in &saved.chains {
        _ = writeln!(text, ":{chain} - [0:0]");
    }
    for jump in &saved.jumps {
        _ = writeln!(text, "-D {jump}");
    }
    for chain in &saved.chains {
        _ = writeln!(text, "-X {chain}");
    }
    text.push_str("COMMIT\n");
    Some(text)
}

/// One rule without its leading `-A`.
fn rule_text(rule: &Rule) -> String {
    let mut text = rule.chain.name().to_owned();
    for item in &rule.matches {
        match item {
            Match::Destination(network) => _ = write!(text, " -d {network}"),
            Match::NotDestination(network) => _ = write!(text, " ! -d {network}"),
            _ => {}
        }
    }
    for item in &rule.matches {
        match item {
            Match::InInterface(name) => _ = write!(text, " -i {name}"),
            Match::OutInterface(name) => _ = write!(text, " -o {name}"),
            _ => {}
        }
    }
    text.push_str(" -p tcp");
    for item in &rule.matches {
        match item {
            Match::DestinationPorts(ranges) => text.push_str(&ports_text(ranges)),
            Match::Proxy(identity) => text.push_str(&proxy_text(*identity, "")),
            Match::NotProxy(identity) => text.push_str(&proxy_text(*identity, "! ")),
            _ => {}
        }
    }
    match rule.verdict {
        Verdict::Return => text.push_str(" -j RETURN"),
        Verdict::Jump(chain) => _ = write!(text, " -j {}", chain.name()),
        Verdict::Redirect(port) => _ = write!(text, " -j REDIRECT --to-ports {port}"),
        Verdict::Dnat(ip) => _ = write!(text, " -j DNAT --to-destination {ip}"),
    }
    text
}

fn ports_text(ranges: &[PortRange]) -> String {
    let list: Vec<String> = ranges
        .iter()
        .map(|range| range.to_string().replace('-', ":"))
        .collect();
    format!(" -m multiport --dports {}", list.join(","))
}

fn proxy_text(identity: ProxyIdentity, negation: &str) -> String {
    match identity {
        ProxyIdentity::Uid(uid) => format!(" -m owner {negation}--uid-owner {uid}"),
        ProxyIdentity::Mark(mark) => format!(" -m mark {negation}--mark {mark:#x}"),
    }
}

/// The chain or target a saved rule leads to.
fn target(rule: &str) -> Option<&str> {
    let mut words = rule.split_whitespace();
    words.find(|word| matches!(*word, "-j" | "-g"))?;
    words.next()
}

#[cfg(test)]
mod tests;
