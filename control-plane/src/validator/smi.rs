//! Rules for SMI objects.

use std::collections::BTreeSet;

use regex::bytes::RegexBuilder;

use crate::spec::{Finding, HttpRouteGroup, TcpRoute, TrafficSplit, TrafficTarget};

/// What a proxy lets one compiled expression take.
const EXPRESSION_BYTES: usize = 1 << 20;

/// What is wrong with a TrafficTarget.
#[must_use]
pub fn traffic_target(target: &TrafficTarget) -> Vec<Finding> {
    let mut findings = Vec::new();
    let destination = std::iter::once(("spec.destination".to_owned(), &target.spec.destination));
    let sources = (0..).zip(&target.spec.sources);
    let sources = sources.map(|(index, source): (usize, _)| (format!("spec.sources[{index}]"), source));
    for (field, subject) in destination.chain(sources) {
        if subject.kind != "ServiceAccount" {
            findings.push(Finding::error(
                format!("{field}.kind"),
                format!("{} is not an identity of the mesh", subject.kind),
                "write kind: ServiceAccount",
            ));
        }
        if subject.name.is_empty() {
            findings.push(Finding::error(
                format!("{field}.name"),
                "the name is empty",
                "name a ServiceAccount",
            ));
        }
    }
    let namespace = target.metadata.namespace.as_deref().unwrap_or("default");
    if let Some(other) = &target.spec.destination.namespace
        && other != namespace
    {
        findings.push(Finding::error(
            "spec.destination.namespace",
            format!(
                "the destination is in namespace {other}, the TrafficTarget in {namespace}; it is ignored"
            ),
            format!("move the TrafficTarget to namespace {other}"),
        ));
    }
    if target.spec.sources.is_empty() {
        findings.push(Finding::warning(
            "spec.sources",
            "there are no sources; nobody is allowed by it",
            "name at least one ServiceAccount",
        ));
    }
    if target.spec.rules.is_empty() {
        findings.push(Finding::error(
            "spec.rules",
            "there are no rules",
            "name at least one HTTPRouteGroup or TCPRoute",
        ));
    }
    for (index, rule) in target.spec.rules.iter().enumerate() {
        if !["HTTPRouteGroup", "TCPRoute"].contains(&rule.kind.as_str()) {
            findings.push(Finding::error(
                format!("spec.rules[{index}].kind"),
                format!("a rule cannot be a {}", rule.kind),
                "write kind: HTTPRouteGroup or kind: TCPRoute",
            ));
        } else if rule.kind == "TCPRoute" && rule.matches.is_some() {
            findings.push(Finding::warning(
                format!("spec.rules[{index}].matches"),
                "a TCPRoute has no named matches; the whole route is meant",
                "remove the field",
            ));
        }
    }
    findings
}

/// What is wrong with an HTTPRouteGroup.
#[must_use]
pub fn http_route_group(group: &HttpRouteGroup) -> Vec<Finding> {
    let mut findings = Vec::new();
    if group.spec.matches.is_empty() {
        findings.push(Finding::warning(
            "spec.matches",
            "there are no matches; no request is allowed by it",
            "give at least one match",
        ));
    }
    let mut names = BTreeSet::new();
    for (index, matched) in group.spec.matches.iter().enumerate() {
        let field = format!("spec.matches[{index}]");
        if !names.insert(matched.name.as_str()) {
            findings.push(Finding::warning(
                format!("{field}.name"),
                format!(
                    "a second match is called {}; a name means all matches that have it",
                    matched.name
                ),
                "give it a name of its own",
            ));
        }
        if let Some(path) = &matched.path_regex {
            check_regex(&format!("{field}.pathRegex"), path, &mut findings);
        }
        for (at, method) in matched.methods.iter().flatten().enumerate() {
            if !is_token(method) {
                findings.push(Finding::error(
                    format!("{field}.methods[{at}]"),
                    format!("{method:?} is not an HTTP method"),
                    "write a method such as GET, or *",
                ));
            }
        }
        check_headers(&field, matched.headers.iter().flatten(), &mut findings);
    }
    findings
}

fn check_headers<'a>(
    field: &str,
    headers: impl Iterator<Item = &'a std::collections::BTreeMap<String, String>>,
    findings: &mut Vec<Finding>,
) {
    let mut seen = std::collections::BTreeMap::new();
    for (at, map) in headers.enumerate() {
        for (name, value) in map {
            let field = format!("{field}.headers[{at}].{name}");
            if !is_token(name.strip_prefix(':').unwrap_or(name)) {
                findings.push(Finding::error(
                    &field,
                    format!("{name:?} is not a header name"),
                    "correct the name",
                ));
            }
            if seen
                .insert(name.to_ascii_lowercase(), value)
                .is_some_and(|other| other != value)
            {
                findings.push(Finding::error(
                    &field,
                    format!("header {name} is matched twice with different expressions"),
                    "join them in one expression",
                ));
            }
            check_regex(&field, value, findings);
        }
    }
}

/// Takes exactly what a proxy takes: it refuses all routes of a port for one expression that it cannot use, and would
/// keep to the rules from before.
pub(super) fn check_regex(field: &str, expression: &str, findings: &mut Vec<Finding>) {
    let compile = |pattern: &str| {
        RegexBuilder::new(pattern)
            .unicode(false)
            .size_limit(EXPRESSION_BYTES)
            .build()
    };
    let why = match compile(expression).and_then(|_| compile(&format!("^(?:{expression})$"))) {
        Ok(_) if expression.is_empty() => "it is empty".to_owned(),
        Ok(_) => return,
        Err(error) => error.to_string(),
    };
    let why = why
        .lines()
        .last()
        .unwrap_or_default()
        .trim_start_matches("error: ");
    findings.push(Finding::error(
        field,
        format!("{expression:?} is not a regular expression: {why}"),
        "write it in RE2 syntax, in ASCII",
    ));
}

fn is_token(text: &str) -> bool {
    !text.is_empty()
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte))
}

/// What is wrong with a TCPRoute.
#[must_use]
pub fn tcp_route(route: &TcpRoute) -> Vec<Finding> {
    let ports = route.spec.matches.ports.iter().enumerate();
    ports
        .filter(|&(_, &port)| port == 0)
        .map(|(index, _)| {
            Finding::error(
                format!("spec.matches.ports[{index}]"),
                "0 is not a port",
                "write a port from 1 to 65535",
            )
        })
        .collect()
}

/// What is wrong with a TrafficSplit.
#[must_use]
pub fn traffic_split(split: &TrafficSplit) -> Vec<Finding> {
    let mut findings = Vec::new();
    if split.spec.matches.is_some() {
        findings.push(Finding::error(
            "spec.matches",
            "a split for some requests only is not supported yet; the split is not in force",
            "remove the matches, if the split may hold for all requests",
        ));
    }
    if split.spec.service.is_empty() {
        findings.push(Finding::error(
            "spec.service",
            "the name is empty",
            "name a Service",
        ));
    }
    if split.spec.backends.iter().all(|backend| backend.weight == 0) {
        findings.push(Finding::warning(
            "spec.backends",
            "the weights add up to 0; the split is ignored and the service keeps its own endpoints",
            "give at least one backend a weight above 0",
        ));
    }
    let mut names = BTreeSet::new();
    for (index, backend) in split.spec.backends.iter().enumerate() {
        if !names.insert(backend.service.as_str()) {
            findings.push(Finding::warning(
                format!("spec.backends[{index}].service"),
                format!("{} is named twice; the first weight counts", backend.service),
                "remove one of them",
            ));
        }
    }
    findings
}
