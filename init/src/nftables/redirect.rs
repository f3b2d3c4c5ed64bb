//! The redirect's rules as a table of our own. Pure.

use super::{Action, Chain, Hook, InForce, Match, Protocol, Rule, Table};
use crate::backend::Missing;
use crate::redirect::ProxyIdentity;
use crate::rules;

/// Name of the table, in both families.
pub const TABLE: &str = "weir";

/// The table that puts `set` in force: one chain of ours for each of the rule set's, of the same names.
pub fn table(set: &rules::RuleSet) -> Table {
    let mut table = Table::new(set.family, TABLE);
    for chain in [rules::Chain::Prerouting, rules::Chain::Output]
        .into_iter()
        .chain(rules::Chain::OWN)
    {
        let filled = match chain {
            rules::Chain::Prerouting => table.hook(chain.name(), Hook::Prerouting),
            rules::Chain::Output => table.hook(chain.name(), Hook::Output),
            _ => table.chain(chain.name()),
        };
        for rule in set.of_chain(chain) {
            add(filled, rule);
        }
    }
    table
}

/// Rules of `set` that `in_force` does not hold at their place, recognized by their names.
pub fn missing(set: &rules::RuleSet, in_force: &[InForce]) -> Vec<Missing> {
    let mut missing = Vec::new();
    for (chain, wanted) in rules::Chain::ALL.into_iter().zip(table(set).chains) {
        let held: Vec<&InForce> = in_force.iter().filter(|rule| rule.chain == wanted.name).collect();
        for (index, rule) in wanted.rules.into_iter().enumerate() {
            if held.get(index).is_none_or(|held| held.name != rule.name) {
                missing.push(Missing {
                    chain,
                    purpose: rule.name,
                });
            }
        }
    }
    missing
}

/// A rule over several port ranges becomes one rule for each range.
fn add(chain: &mut Chain, rule: &rules::Rule) {
    let mut matches = vec![Match::Protocol(Protocol::Tcp)];
    let mut ranges = Vec::new();
    for item in &rule.matches {
        matches.push(match item {
            rules::Match::InInterface(name) => Match::InInterface(name.clone()),
            rules::Match::OutInterface(name) => Match::OutInterface(name.clone()),
            rules::Match::Destination(network) => Match::Destination(*network),
            rules::Match::NotDestination(network) => Match::NotDestination(*network),
            rules::Match::Proxy(ProxyIdentity::Uid(uid)) => Match::Uid(*uid),
            rules::Match::Proxy(ProxyIdentity::Mark(mark)) => Match::Mark(*mark),
            rules::Match::NotProxy(ProxyIdentity::Uid(uid)) => Match::NotUid(*uid),
            rules::Match::NotProxy(ProxyIdentity::Mark(mark)) => Match::NotMark(*mark),
            rules::Match::DestinationPorts(group) => {
                ranges.extend_from_slice(group);
                continue;
            }
        });
    }
    let action = match rule.verdict {
        rules::Verdict::Return => Action::Return,
        rules::Verdict::Jump(chain) => Action::Jump(chain.name().to_owned()),
        rules::Verdict::Redirect(port) => Action::Redirect(port),
        rules::Verdict::Dnat(address) => Action::Dnat { address, port: None },
    };
    if ranges.is_empty() {
        chain.rule(Rule::new(rule.purpose, matches, action));
        return;
    }
    for range in ranges {
        let mut matches = matches.clone();
        matches.push(Match::DestinationPort {
            first: range.first(),
            last: range.last(),
        });
        chain.rule(Rule::new(
            format!("{} {range}", rule.purpose),
            matches,
            action.clone(),
        ));
    }
}
