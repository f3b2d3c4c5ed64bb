//! Who may reach a ServiceAccount: TrafficTargets and the routes they name.
//!
//! - The TrafficTargets of an account are united; the same request in several of them is one rule with all their
//!   principals, as in OSM (a rule is one path, one method, one set of headers).
//! - A proxy takes the first rule that matches a request. So that an overlap cannot take away what another
//!   TrafficTarget grants, a rule that covers another comes after it and shares its principals with it; otherwise
//!   rules are ordered by the name of their HTTPRouteGroup.
//! - A TrafficTarget with TCPRoutes grants connections to their ports; with HTTP rules only, to any port. The latter
//!   is no grant of opaque bytes on a port whose protocol is told by its clients' sidecars: there a client could pass
//!   by the HTTP rules merely by being silent at first.
//! - What names an object that does not exist grants nothing.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use super::{Authorization, HttpRule, Rule, TcpRule, mesh::Monitored, pods};
use crate::{
    endpoints::Objects,
    spec::{Diagnostic, Finding, HttpMatch, HttpRouteGroup, ObjectName, Stored, TargetRule, TrafficTarget},
};

const EVERY_PATH: &str = ".*";

/// What may be asked of a ServiceAccount; accounts without an entry: nothing.
pub(super) type ByAccount = HashMap<ObjectName, Arc<Authorization>>;

#[derive(Default)]
struct Grants {
    http: BTreeMap<RouteKey, Rule>,
    tcp: Vec<TcpRule>,
}

/// A request, as one rule knows it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct RouteKey {
    path_regex: String,
    headers: BTreeMap<String, String>,
    method: Option<String>,
}

impl RouteKey {
    /// Whether every request of `other` is one of these too, as far as can be told.
    fn covers(&self, other: &Self) -> bool {
        (self.path_regex == EVERY_PATH || self.path_regex == other.path_regex)
            && (self.method.is_none() || self.method == other.method)
            && self
                .headers
                .iter()
                .all(|(name, value)| other.headers.get(name) == Some(value))
    }

    fn generality(&self) -> (bool, bool, usize) {
        let headers = usize::MAX - self.headers.len();
        (self.path_regex == EVERY_PATH, self.method.is_none(), headers)
    }
}

/// Unites the TrafficTargets of monitored namespaces by the account they lead to.
pub(super) fn by_account(
    objects: &Objects,
    monitored: &Monitored,
    trust_domain: &str,
    diagnostics: &mut Vec<Diagnostic>,
) -> ByAccount {
    let mut accounts: HashMap<ObjectName, Grants> = HashMap::new();
    for (name, target) in objects.traffic_targets.iter() {
        let mut reading = Reading {
            name,
            target,
            objects,
            diagnostics,
        };
        if !reading.counts(monitored) {
            continue;
        }
        let destination = ObjectName {
            namespace: name.namespace.clone(),
            name: target.value.spec.destination.name.as_str().into(),
        };
        let rule = Rule {
            policies: BTreeSet::from([name.to_string()]),
            principals: reading.principals(trust_domain),
        };
        reading.grant(&rule, accounts.entry(destination).or_default());
    }
    let finish = |(account, grants): (ObjectName, Grants)| (account, Arc::new(rules(grants)));
    accounts.into_iter().map(finish).collect()
}

fn rules(grants: Grants) -> Authorization {
    let mut routes: Vec<(RouteKey, Rule)> = grants.http.into_iter().collect();
    routes.sort_by(|(a, _), (b, _)| a.generality().cmp(&b.generality()).then_with(|| a.cmp(b)));
    let http = (0..routes.len()).map(|index| {
        let (key, rule) = &routes[index];
        let mut rule = rule.clone();
        for (_, wider) in routes[index + 1..].iter().filter(|(other, _)| other.covers(key)) {
            unite(&mut rule, wider);
        }
        HttpRule {
            path_regex: key.path_regex.clone(),
            methods: key.method.iter().cloned().collect(),
            headers: key.headers.clone(),
            rule,
        }
    });
    Authorization::Rules {
        http: http.collect(),
        tcp: grants.tcp,
    }
}

fn unite(rule: &mut Rule, other: &Rule) {
    rule.policies.extend(other.policies.iter().cloned());
    rule.principals.extend(other.principals.iter().cloned());
}

/// One TrafficTarget being read.
struct Reading<'a> {
    name: &'a ObjectName,
    target: &'a Stored<TrafficTarget>,
    objects: &'a Objects,
    diagnostics: &'a mut Vec<Diagnostic>,
}

impl Reading<'_> {
    fn counts(&mut self, monitored: &Monitored) -> bool {
        let namespace = &self.name.namespace;
        if !monitored.contains(&**namespace) {
            self.report(Finding::warning(
                "metadata.namespace",
                format!("namespace {namespace} does not belong to the mesh; the TrafficTarget is ignored"),
                format!("add the namespace to the mesh: weir namespace add {namespace}"),
            ));
            return false;
        }
        let destination = &self.target.value.spec.destination;
        if let Some(other) = destination
            .namespace
            .as_deref()
            .filter(|other| *other != &**namespace)
        {
            self.report(Finding::error(
                "spec.destination.namespace",
                format!(
                    "the destination is in namespace {other}, the TrafficTarget in {namespace}; it is ignored"
                ),
                format!("move the TrafficTarget to namespace {other}"),
            ));
            return false;
        }
        self.check_account("spec.destination.name", namespace, &destination.name);
        true
    }

    fn principals(&mut self, trust_domain: &str) -> BTreeSet<Arc<str>> {
        let sources = &self.target.value.spec.sources;
        let own = &self.name.namespace;
        let mut principals = BTreeSet::new();
        for (index, source) in sources.iter().enumerate() {
            let namespace = source.namespace.as_deref().unwrap_or(own);
            self.check_account(&format!("spec.sources[{index}].name"), namespace, &source.name);
            principals.insert(pods::principal(trust_domain, namespace, &source.name));
        }
        principals
    }

    /// Every namespace has the account `default`.
    fn check_account(&mut self, field: &str, namespace: &str, account: &str) {
        if account != "default"
            && !self
                .objects
                .service_accounts
                .contains_key(&ObjectName::new(namespace, account))
        {
            self.report(Finding::warning(
                field,
                format!("there is no ServiceAccount {namespace}/{account}; no pod has this identity"),
                "correct the name, or create the ServiceAccount",
            ));
        }
    }

    fn grant(&mut self, rule: &Rule, grants: &mut Grants) {
        let (mut http, mut tcp_routes) = (false, false);
        // Some(empty): every port.
        let mut ports: Option<BTreeSet<u16>> = None;
        for (index, route) in self.target.value.spec.rules.iter().enumerate() {
            if route.kind == "TCPRoute" {
                tcp_routes = true;
                let Some(found) = self.tcp_ports(index, route) else {
                    continue;
                };
                ports = Some(match ports {
                    Some(ports) if ports.is_empty() || found.is_empty() => BTreeSet::new(),
                    Some(mut ports) => {
                        ports.extend(found);
                        ports
                    }
                    None => found,
                });
            } else {
                for key in self.http_routes(index, route) {
                    http = true;
                    unite(grants.http.entry(key).or_default(), rule);
                }
            }
        }
        let for_requests = !tcp_routes && http;
        if for_requests {
            ports = Some(BTreeSet::new());
        }
        if let Some(ports) = ports {
            grants.tcp.push(TcpRule {
                ports,
                for_requests,
                rule: rule.clone(),
            });
        }
    }

    fn tcp_ports(&mut self, index: usize, route: &TargetRule) -> Option<BTreeSet<u16>> {
        let found = self.objects.tcp_routes.get(&self.beside(&route.name));
        if found.is_none() {
            self.missing(index, route);
        }
        Some(found?.value.spec.matches.ports.iter().copied().collect())
    }

    fn http_routes(&mut self, index: usize, route: &TargetRule) -> Vec<RouteKey> {
        let Some(group) = self.objects.http_route_groups.get(&self.beside(&route.name)) else {
            self.missing(index, route);
            return Vec::new();
        };
        let wanted = route.matches.as_deref().filter(|wanted| !wanted.is_empty());
        for (at, name) in wanted.unwrap_or_default().iter().enumerate() {
            if !group
                .value
                .spec
                .matches
                .iter()
                .any(|matched| matched.name == *name)
            {
                self.report(Finding::error(
                    format!("spec.rules[{index}].matches[{at}]"),
                    format!(
                        "HTTPRouteGroup {} has no match {name}; nothing is allowed by it",
                        route.name
                    ),
                    format!("write one of: {}", names(&group.value)),
                ));
            }
        }
        let meant = group.value.spec.matches.iter();
        meant
            .filter(|matched| wanted.is_none_or(|wanted| wanted.contains(&matched.name)))
            .flat_map(route_keys)
            .collect()
    }

    fn beside(&self, name: &str) -> ObjectName {
        ObjectName {
            namespace: self.name.namespace.clone(),
            name: name.into(),
        }
    }

    fn missing(&mut self, index: usize, route: &TargetRule) {
        let namespace = &self.name.namespace;
        self.report(Finding::error(
            format!("spec.rules[{index}].name"),
            format!(
                "there is no {} {namespace}/{}; nothing is allowed by it",
                route.kind, route.name
            ),
            format!("correct the name, or create it in namespace {namespace}"),
        ));
    }

    fn report(&mut self, finding: Finding) {
        let object = format!("TrafficTarget {}", self.name);
        self.diagnostics
            .push(self.target.source.diagnostic(object, finding));
    }
}

fn names(group: &HttpRouteGroup) -> String {
    let names: Vec<&str> = group
        .spec
        .matches
        .iter()
        .map(|matched| matched.name.as_str())
        .collect();
    names.join(", ")
}

/// One key for each method of a match.
fn route_keys(matched: &HttpMatch) -> Vec<RouteKey> {
    let headers = matched.headers.iter().flatten().flatten().map(|(name, value)| {
        let name = name.to_ascii_lowercase();
        let name = if name == "host" {
            ":authority".to_owned()
        } else {
            name
        };
        (name, value.clone())
    });
    let any = RouteKey {
        path_regex: matched
            .path_regex
            .clone()
            .unwrap_or_else(|| EVERY_PATH.to_owned()),
        headers: headers.collect(),
        method: None,
    };
    let methods = matched.methods.as_deref().unwrap_or_default();
    if methods.is_empty() || methods.iter().any(|method| method == "*") {
        return vec![any];
    }
    let methods = methods.iter().map(|method| RouteKey {
        method: Some(method.to_ascii_uppercase()),
        ..any.clone()
    });
    methods.collect()
}
