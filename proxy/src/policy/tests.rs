use http::HeaderMap;

use super::*;
use crate::model::{HeaderMatcher, HeaderValueMatch, Regex};

const BUYER: &str = "spiffe://cluster.local/ns/bookbuyer/sa/bookbuyer";

fn peer(uri: &str) -> PeerIdentity {
    PeerIdentity {
        uris: vec![uri.to_owned()],
        dns: vec!["bookbuyer.bookbuyer.cluster.local".to_owned()],
        subject: "CN=uid".to_owned(),
    }
}

fn facts(peer: Option<&PeerIdentity>) -> Facts<'_> {
    Facts {
        peer,
        source: [10, 0, 0, 1].into(),
        destination: ([10, 0, 0, 2], 14001).into(),
        sni: "",
        request: None,
    }
}

fn exact(name: &str) -> Principal {
    Principal::Authenticated(Some(StringMatcher::Exact(name.to_owned())))
}

fn rules(action: Action, permission: Permission, principal: Principal) -> Rbac {
    Rbac {
        action,
        policies: vec![Policy {
            name: "bookstore/buy".to_owned(),
            permissions: vec![permission],
            principals: vec![principal],
        }],
    }
}

fn allowed(rules: &Rbac, facts: &Facts<'_>) -> bool {
    decide(Some(rules), facts).is_allowed()
}

#[test]
fn no_rules_allow_and_no_policies_deny() {
    assert!(decide(None, &facts(None)).is_allowed());
    let none = Rbac {
        action: Action::Allow,
        policies: Vec::new(),
    };
    let Decision::Denied { text } = decide(Some(&none), &facts(None)) else {
        panic!("allowed");
    };
    assert!(
        text.contains("10.0.0.1") && text.contains("no policies"),
        "{text}"
    );
}

#[test]
fn a_principal_is_the_uri_then_the_dns_name_then_the_subject() {
    let rules = rules(Action::Allow, Permission::Any(true), exact(BUYER));
    let buyer = peer(BUYER);
    assert_eq!(
        decide(Some(&rules), &facts(Some(&buyer))),
        Decision::Allowed {
            policy: Some("bookstore/buy")
        }
    );
    let thief = peer("spiffe://cluster.local/ns/bookthief/sa/bookthief");
    let Decision::Denied { text } = decide(Some(&rules), &facts(Some(&thief))) else {
        panic!("allowed");
    };
    assert!(
        text.contains("bookthief") && text.contains("bookstore/buy"),
        "{text}"
    );
    assert!(!allowed(&rules, &facts(None)));

    let by_dns = self::rules(Action::Allow, Permission::Any(true), exact(&buyer.dns[0]));
    assert!(!allowed(&by_dns, &facts(Some(&buyer))));
    let mut bare = buyer.clone();
    bare.uris.clear();
    assert!(allowed(&by_dns, &facts(Some(&bare))));
    bare.dns.clear();
    let by_subject = self::rules(Action::Allow, Permission::Any(true), exact("CN=uid"));
    assert!(allowed(&by_subject, &facts(Some(&bare))));
}

#[test]
fn deny_and_log_rules_mean_what_they_say() {
    let deny = rules(Action::Deny, Permission::Any(true), exact(BUYER));
    let buyer = peer(BUYER);
    assert!(!allowed(&deny, &facts(Some(&buyer))));
    assert!(allowed(&deny, &facts(None)));
    let log = rules(Action::Log, Permission::Any(true), exact("nobody"));
    assert!(allowed(&log, &facts(Some(&buyer))));
}

#[test]
fn ports_addresses_and_logic_are_evaluated() {
    let cases = [
        (Permission::DestinationPort(14001), true),
        (Permission::DestinationPort(14002), false),
        (Permission::DestinationPorts(14000, 14001), false),
        (Permission::DestinationPorts(14001, 14002), true),
        (Permission::Not(Box::new(Permission::DestinationPort(1))), true),
        (
            Permission::All(vec![Permission::Any(true), Permission::Any(false)]),
            false,
        ),
        (
            Permission::OneOf(vec![Permission::Any(true), Permission::Any(false)]),
            true,
        ),
        (Permission::ServerName(StringMatcher::Exact(String::new())), true),
        (Permission::Path(StringMatcher::Exact("/".to_owned())), false),
    ];
    for (permission, expected) in cases {
        let label = format!("{permission:?}");
        let rules = rules(Action::Allow, permission, Principal::Any(true));
        assert_eq!(allowed(&rules, &facts(None)), expected, "{label}");
    }
    let inside = rules(
        Action::Allow,
        Permission::DestinationIp("10.0.0.0/24".parse().unwrap()),
        Principal::SourceIp("10.0.0.1/32".parse().unwrap()),
    );
    assert!(allowed(&inside, &facts(None)));
}

fn header(name: &str, value: HeaderValueMatch) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        value,
        invert: false,
        missing_as_empty: false,
    }
}

#[test]
fn headers_and_pseudo_headers_match() {
    let mut headers = HeaderMap::new();
    headers.append("x-a", "1".parse().unwrap());
    headers.append("x-a", "2".parse().unwrap());
    headers.append("x-n", "42".parse().unwrap());
    let request = Request {
        method: "GET",
        authority: "bookstore",
        scheme: "http",
        target: "/buy/a-book?x=1",
        headers: &headers,
    };
    let text = |value: &str| HeaderValueMatch::String(StringMatcher::Exact(value.to_owned()));
    let holds = |matcher: &HeaderMatcher| header_matches(matcher, &request);
    assert!(holds(&header(":method", text("GET"))));
    assert!(holds(&header(":path", text("/buy/a-book?x=1"))));
    assert!(holds(&header("host", text("bookstore"))));
    assert!(holds(&header("x-a", text("1,2"))));
    assert!(holds(&header("x-n", HeaderValueMatch::Range(42..43))));
    assert!(!holds(&header("x-n", HeaderValueMatch::Range(0..42))));
    assert!(holds(&header("x-b", HeaderValueMatch::Present(false))));
    let mut inverted = header("x-b", text("1"));
    inverted.invert = true;
    assert!(!holds(&inverted));
    inverted.missing_as_empty = true;
    assert!(holds(&inverted));
    assert_eq!(request.path(), "/buy/a-book");
    assert_eq!(request.query(), Some("x=1"));
}

#[test]
fn strings_match_by_kind() {
    let regex = |pattern| StringMatcher::Regex(Regex::new(pattern).unwrap());
    assert!(string_matches(&regex("/buy.*"), "/buyer"));
    assert!(!string_matches(&regex("buy"), "/buy"));
    assert!(!string_matches(&regex("a|b"), "ab"));
    let cased = |ignore_case| StringMatcher::Suffix {
        suffix: ".LOCAL".to_owned(),
        ignore_case,
    };
    assert!(string_matches(&cased(true), "a.local"));
    assert!(!string_matches(&cased(false), "a.local"));
    let contains = StringMatcher::Contains {
        part: "OO".to_owned(),
        ignore_case: true,
    };
    assert!(string_matches(&contains, "book"));
}
