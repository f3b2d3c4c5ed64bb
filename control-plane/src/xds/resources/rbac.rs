//! Authorization rules as RBAC policies.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use weir_xds::envoy::{
    config::{
        listener::v3::Filter,
        rbac::v3::{
            Permission, Policy, Principal, Rbac,
            permission::Rule as PermissionRule,
            principal::{Authenticated, Identifier},
        },
    },
    extensions::filters::{
        http::rbac::v3::{Rbac as HttpRbac, RbacPerRoute},
        network::rbac::v3::Rbac as NetworkRbac,
    },
    r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern},
};

use super::parts::network_filter;
use crate::catalog::{Rule, TcpRule};

/// The filter that decides who may connect to the port. No rule that applies: nobody.
pub(super) fn network<'a>(
    port: u16,
    rules: impl IntoIterator<Item = &'a TcpRule>,
    stat_prefix: &str,
) -> Filter {
    let config = NetworkRbac {
        rules: Some(policies(port, rules)),
        stat_prefix: stat_prefix.to_owned(),
        ..NetworkRbac::default()
    };
    network_filter("envoy.filters.network.rbac", &config)
}

/// The same decision for a request, which gets an answer then. A route's own rules take its place.
pub(super) fn requests<'a>(port: u16, rules: impl IntoIterator<Item = &'a TcpRule>) -> HttpRbac {
    HttpRbac {
        rules: Some(policies(port, rules)),
        ..HttpRbac::default()
    }
}

fn policies<'a>(port: u16, rules: impl IntoIterator<Item = &'a TcpRule>) -> Rbac {
    let mut policies = BTreeMap::new();
    for rule in rules.into_iter().filter(|rule| applies(rule, port)) {
        let permission = match rule.ports.is_empty() {
            true => PermissionRule::Any(true),
            false => PermissionRule::DestinationPort(u32::from(port)),
        };
        add(&mut policies, &rule.rule, permission);
    }
    Rbac {
        policies,
        ..Rbac::default()
    }
}

/// Everybody whom the rules let connect to the port.
pub(super) fn clients<'a>(port: u16, rules: impl IntoIterator<Item = &'a TcpRule>) -> BTreeSet<&'a Arc<str>> {
    let rules = rules.into_iter().filter(|rule| applies(rule, port));
    rules.flat_map(|rule| &rule.rule.principals).collect()
}

fn applies(rule: &TcpRule, port: u16) -> bool {
    rule.ports.is_empty() || rule.ports.contains(&port)
}

/// A route's own rules: who may make its requests.
pub(super) fn per_route(rule: &Rule) -> RbacPerRoute {
    let mut policies = BTreeMap::new();
    add(&mut policies, rule, PermissionRule::Any(true));
    RbacPerRoute {
        rbac: Some(HttpRbac {
            rules: Some(Rbac {
                policies,
                ..Rbac::default()
            }),
            ..HttpRbac::default()
        }),
    }
}

fn add(policies: &mut BTreeMap<String, Policy>, rule: &Rule, permission: PermissionRule) {
    // A policy without principals is refused by Envoy, and allows nobody anyway.
    if rule.principals.is_empty() {
        return;
    }
    let name = rule.policies.iter().cloned().collect::<Vec<_>>().join(",");
    let policy = Policy {
        permissions: vec![Permission {
            rule: Some(permission),
        }],
        principals: principals(&rule.principals),
        ..Policy::default()
    };
    match policies.get_mut(&name) {
        Some(existing) if existing.principals == policy.principals => {
            existing.permissions.extend(policy.permissions)
        }
        Some(_) => {
            let unique = format!("{name}#{}", policies.len());
            policies.insert(unique, policy);
        }
        None => {
            policies.insert(name, policy);
        }
    }
}

fn principals(uris: &BTreeSet<Arc<str>>) -> Vec<Principal> {
    let principal = |uri: &Arc<str>| Principal {
        identifier: Some(Identifier::Authenticated(Authenticated {
            principal_name: Some(exact(uri)),
        })),
    };
    uris.iter().map(principal).collect()
}

/// A matcher of exactly this text.
pub(super) fn exact(text: &str) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(MatchPattern::Exact(text.to_owned())),
        ..StringMatcher::default()
    }
}
