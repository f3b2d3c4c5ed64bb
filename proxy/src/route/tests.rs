use http::StatusCode;
use proptest::prelude::*;

use super::*;
use crate::model::{Destination, HeaderMatcher, HeaderValueMatch, Regex, StringMatcher, WeightedCluster};

fn destination() -> Destination {
    Destination {
        clusters: vec![WeightedCluster {
            cluster: "a".to_owned(),
            weight: 1,
        }],
        timeout: None,
        idle_timeout: None,
        retry: None,
        rewrite: None,
        host_rewrite: None,
        upgrades: Vec::new(),
    }
}

fn route(name: &str, path: PathMatch) -> Route {
    Route {
        name: name.to_owned(),
        matches: RouteMatch {
            path,
            headers: Vec::new(),
            query: Vec::new(),
            grpc: false,
        },
        action: RouteAction::Forward(destination()),
        rbac: None,
        headers: HeaderMutations::default(),
    }
}

fn host(name: &str, domains: &[&str], routes: Vec<Route>) -> VirtualHost {
    VirtualHost {
        name: name.to_owned(),
        domains: domains.iter().map(|&domain| domain.to_owned()).collect(),
        routes: routes.into_iter().map(Arc::new).collect(),
        headers: HeaderMutations::default(),
    }
}

fn table(virtual_hosts: Vec<VirtualHost>) -> RouteTable {
    RouteTable {
        virtual_hosts,
        ..RouteTable::default()
    }
}

fn request<'a>(authority: &'a str, target: &'a str, headers: &'a HeaderMap) -> Request<'a> {
    Request {
        method: "GET",
        authority,
        scheme: "http",
        target,
        headers,
    }
}

#[test]
fn the_most_specific_domain_wins() {
    let domains: [&[&str]; 6] = [
        &["*"],
        &["*.cluster.local"],
        &["*.svc.cluster.local"],
        &["bookstore.*"],
        &["bookstore.*.svc.cluster.local:80", "bookstore", "bookstore:80"],
        &["[fd00::1]:80"],
    ];
    let hosts = domains
        .iter()
        .map(|domains| host(domains[0], domains, Vec::new()));
    let table = table(hosts.collect());
    let found = |authority| virtual_host(&table, authority).map(|host| host.name.as_str());
    assert_eq!(found("Bookstore:80"), Some(domains[4][0]));
    assert_eq!(found("bookstore"), Some(domains[4][0]));
    assert_eq!(found("bookstore:81"), Some("*"));
    assert_eq!(
        found("bookstore.x.SVC.cluster.local"),
        Some("*.svc.cluster.local")
    );
    assert_eq!(found("x.cluster.local"), Some("*.cluster.local"));
    assert_eq!(found("bookstore.x"), Some("bookstore.*"));
    assert_eq!(found("bookstore."), Some("*"));
    assert_eq!(found(".cluster.local"), Some("*"));
    assert_eq!(found("[FD00::1]:80"), Some("[fd00::1]:80"));
    assert_eq!(found(""), Some("*"));
}

#[test]
fn paths_match_by_kind_and_without_the_query() {
    let cases = [
        (PathMatch::Prefix("/buy".into(), false), "/buyer?x", true),
        (PathMatch::Prefix("/BUY".into(), true), "/buyer", true),
        (PathMatch::Exact("/buy".into(), false), "/buy?x=1", true),
        (PathMatch::Exact("/buy".into(), false), "/buyer", false),
        (PathMatch::Segment("/buy".into()), "/buy/book", true),
        (PathMatch::Segment("/buy/".into()), "/buy", true),
        (PathMatch::Segment("/buy".into()), "/buyer", false),
        (PathMatch::Regex(Regex::new("/b.y").unwrap()), "/buy?x", true),
        (PathMatch::Regex(Regex::new("/b.y").unwrap()), "/buy/", false),
        (PathMatch::Regex(Regex::new("/a|/b").unwrap()), "/ab", false),
    ];
    let headers = HeaderMap::new();
    for (path, target, expected) in cases {
        let label = format!("{path:?} {target}");
        let route = route("r", path);
        assert_eq!(
            matches(&route.matches, &request("a", target, &headers)),
            expected,
            "{label}"
        );
    }
}

#[test]
fn headers_query_and_grpc_are_conditions() {
    let mut conditions = route("r", PathMatch::Prefix("/".into(), false)).matches;
    conditions.headers.push(HeaderMatcher {
        name: ":method".to_owned(),
        value: HeaderValueMatch::String(StringMatcher::Exact("GET".to_owned())),
        invert: false,
        missing_as_empty: false,
    });
    conditions.query.push(QueryMatcher {
        name: "x".to_owned(),
        value: Some(StringMatcher::Exact("1".to_owned())),
    });
    let mut headers = HeaderMap::new();
    assert!(matches(&conditions, &request("a", "/?y&x=1&x=2", &headers)));
    assert!(!matches(&conditions, &request("a", "/?y&x=2&x=1", &headers)));
    assert!(!matches(&conditions, &request("a", "/", &headers)));
    conditions.grpc = true;
    assert!(!matches(&conditions, &request("a", "/?x=1", &headers)));
    headers.insert("content-type", "application/grpc+proto".parse().unwrap());
    assert!(matches(&conditions, &request("a", "/?x=1", &headers)));
    headers.insert("content-type", "application/grpc-web".parse().unwrap());
    assert!(!matches(&conditions, &request("a", "/?x=1", &headers)));
}

#[test]
fn paths_are_rewritten() {
    let mut probe = route("r", PathMatch::Prefix("/osm-liveness-probe/app".into(), false));
    let mut forward = destination();
    forward.rewrite = Some(PathRewrite::Prefix("/healthz".into()));
    probe.action = RouteAction::Forward(forward.clone());
    let rewrite = |route: &Route, target: &str| {
        let table = table(vec![host("h", &["*"], vec![route.clone()])]);
        let headers = HeaderMap::new();
        let matched = find(&table, &request("a", target, &headers)).unwrap();
        matched
            .rewrite(&target.parse().unwrap())
            .map(|target| target.to_string())
    };
    assert_eq!(
        rewrite(&probe, "/osm-liveness-probe/app?x=1").as_deref(),
        Some("/healthz?x=1")
    );
    forward.rewrite = Some(PathRewrite::Regex {
        pattern: Regex::search("^/([a-z]+)/([a-z]+)").unwrap(),
        substitution: "/\\2/\\1".into(),
    });
    let mut swap = route("r", PathMatch::Prefix("/".into(), false));
    swap.action = RouteAction::Forward(forward);
    assert_eq!(rewrite(&swap, "/a/b/c?d").as_deref(), Some("/b/a/c?d"));
    assert_eq!(
        rewrite(&route("r", PathMatch::Prefix("/".into(), false)), "/a"),
        None
    );
}

#[test]
fn redirects_change_what_they_name() {
    let location = |action: RouteAction| {
        let mut route = route("r", PathMatch::Prefix("/".into(), false));
        route.action = action;
        let table = table(vec![host("h", &["*"], vec![route])]);
        let headers = HeaderMap::new();
        let request = request("a:8080", "/p?q", &headers);
        let matched = find(&table, &request).unwrap();
        matched.location(&request).map(|uri| uri.to_string())
    };
    let redirect =
        |scheme: Option<&str>, host: Option<&str>, port, path: Option<&str>| RouteAction::Redirect {
            status: StatusCode::MOVED_PERMANENTLY,
            scheme: scheme.map(str::to_owned),
            host: host.map(str::to_owned),
            port,
            path: path.map(str::to_owned),
        };
    assert_eq!(
        location(redirect(Some("https"), None, None, None)).as_deref(),
        Some("https://a/p?q")
    );
    assert_eq!(
        location(redirect(None, Some("b"), None, Some("/n"))).as_deref(),
        Some("http://b:8080/n?q")
    );
    assert_eq!(
        location(redirect(None, None, Some(81), Some("/n?m"))).as_deref(),
        Some("http://a:81/n?m")
    );
}

proptest! {
    #[test]
    fn shares_follow_weights(weights in prop::collection::vec(0u32..100, 1..6)) {
        const DRAWS: u32 = 4096;
        let total: u32 = weights.iter().sum();
        let mut drawn = vec![0u32; weights.len()];
        for draw in 0..DRAWS {
            let random = u64::from(draw) << 52;
            match pick(weights.iter().copied(), random) {
                Some(index) => drawn[index] += 1,
                None => prop_assert_eq!(total, 0),
            }
        }
        for (weight, drawn) in weights.iter().zip(drawn) {
            if *weight == 0 {
                prop_assert_eq!(drawn, 0);
            } else {
                let expected = f64::from(DRAWS) * f64::from(*weight) / f64::from(total);
                prop_assert!((f64::from(drawn) - expected).abs() <= 2.0);
            }
        }
    }

    #[test]
    fn any_thousand_turns_in_a_row_are_shared_within_a_point(
        weights in prop::collection::vec(0u32..100, 1..5), start: u64,
    ) {
        let total: u32 = weights.iter().sum();
        prop_assume!(total > 0);
        let turns = Turns::starting_at(start);
        let mut drawn = vec![0u32; weights.len()];
        for _ in 0..1000 {
            drawn[pick(weights.iter().copied(), turns.next()).unwrap()] += 1;
        }
        for (weight, drawn) in weights.iter().zip(drawn) {
            let expected = 1000.0 * f64::from(*weight) / f64::from(total);
            prop_assert!((f64::from(drawn) - expected).abs() <= 10.0, "{drawn} instead of {expected}");
        }
    }

    #[test]
    fn a_zero_weight_is_never_chosen(weights in prop::collection::vec(0u32..3, 1..8), random: u64) {
        match pick(weights.iter().copied(), random) {
            Some(index) => prop_assert!(weights[index] > 0),
            None => prop_assert!(weights.iter().all(|weight| *weight == 0)),
        }
    }

    #[test]
    fn the_first_matching_route_is_taken(prefixes in prop::collection::vec("/[ab]{0,2}", 0..6), path in "/[ab]{0,3}") {
        let routes = prefixes.iter().map(|prefix| route(prefix, PathMatch::Prefix(prefix.clone(), false)));
        let table = table(vec![host("h", &["*"], routes.collect())]);
        let headers = HeaderMap::new();
        let found = find(&table, &request("a", &path, &headers)).map(|matched| matched.route.name.clone());
        prop_assert_eq!(found, prefixes.into_iter().find(|prefix| path.starts_with(prefix.as_str())));
    }

    #[test]
    fn expressions_match_the_whole_path(pattern in "[ab]{1,3}", path in "[ab]{1,4}") {
        prop_assert_eq!(Regex::new(&pattern).unwrap().is_match(&path), pattern == path);
    }
}
