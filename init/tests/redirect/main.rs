//! The redirect in real network namespaces: a pod and a peer joined by a veth pair, for every backend found here.
//!
//! Needs the `ip` program, and either root or unprivileged user namespaces; without them the tests are ignored and
//! the reason is printed.

mod lab;

use std::process::ExitCode;

use lab::{Lab, PEER_ELSEWHERE_V4, PEER_V4, PEER_V6, POD_V4, POD_V6, Proxy, on};
use libtest_mimic::{Arguments, Failed, Trial};
use weir_init::nftables::{Action, Hook, Match, Netlink, Protocol, Rule, Table};
use weir_init::rules::Family;

type Test = fn(&Lab) -> Result<(), Failed>;

const TESTS: [(&str, Test); 9] = [
    ("outbound_is_captured", outbound_is_captured),
    ("excluded_outbound_is_untouched", excluded_outbound_is_untouched),
    (
        "only_included_networks_are_captured",
        only_included_networks_are_captured,
    ),
    ("inbound_is_captured", inbound_is_captured),
    (
        "self_call_passes_the_inbound_proxy",
        self_call_passes_the_inbound_proxy,
    ),
    ("pod_ip_mode_does_not_loop", pod_ip_mode_does_not_loop),
    ("forty_excluded_ports", forty_excluded_ports),
    (
        "second_run_is_identical_and_cleanup_leaves_nothing",
        second_run_and_cleanup,
    ),
    ("verify_notices_a_missing_rule", verify_notices_a_missing_rule),
];

const NETLINK_TESTS: [(&str, Test); 3] = [
    ("dnat_spreads_over_endpoints", dnat_spreads_over_endpoints),
    (
        "a_refused_rule_is_named_and_changes_nothing",
        a_refused_rule_is_named,
    ),
    ("auto_without_iptables_uses_netlink", auto_without_iptables),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let obstacle = lab::enter().err();
    if let Some(reason) = &obstacle {
        eprintln!("network namespace tests are ignored: {reason}");
    }
    let mut trials = Vec::new();
    for backend in ["nftables", "iptables-nft", "iptables-legacy"] {
        let mut missing = obstacle.is_some();
        if !lab::backend_present(backend) {
            eprintln!("{backend} tests are ignored: its programs are not installed");
            missing = true;
        }
        let tests = TESTS.iter().chain(if backend == "nftables" {
            &NETLINK_TESTS[..]
        } else {
            &[]
        });
        for (name, test) in tests {
            for proxy in [Proxy::Mark, Proxy::Uid] {
                let ignored = missing || (proxy == Proxy::Uid && !lab::has_uid());
                let run = move || test(&Lab::new(backend, proxy)?);
                trials.push(
                    Trial::test(format!("{name}::{backend}::{proxy:?}"), run).with_ignored_flag(ignored),
                );
            }
        }
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

fn outbound_is_captured(lab: &Lab) -> Result<(), Failed> {
    lab.init(&[])?;
    lab.listen_proxy()?;
    lab.peer_listens(8080)?;
    for address in [PEER_V4, PEER_V6] {
        let target = on(address, 8080);
        lab.expect_app(target, &format!("outbound {target}"))?;
        lab.expect_proxy(target, "peer")?;
    }
    lab.app_listens(8080)?;
    for address in ["127.0.0.1", "::1", POD_V4, POD_V6] {
        lab.expect_app(on(address, 8080), "app")?;
    }
    Ok(())
}

fn excluded_outbound_is_untouched(lab: &Lab) -> Result<(), Failed> {
    lab.init(&[
        "--exclude-outbound-ports=8081,8085-8090",
        "--exclude-outbound-cidrs=10.78.0.0/16,fd99::/16",
        "--no-verify",
    ])?;
    lab.listen_proxy()?;
    for port in [8080, 8081, 8084, 8085, 8090, 8091] {
        lab.peer_listens(port)?;
        for address in [PEER_V4, PEER_V6] {
            let target = on(address, port);
            let excluded = matches!(port, 8081 | 8085..=8090);
            let captured = format!("outbound {target}");
            lab.expect_app(target, if excluded { "peer" } else { &captured })?;
        }
    }
    lab.expect_app(on(PEER_ELSEWHERE_V4, 8080), "peer")
}

fn only_included_networks_are_captured(lab: &Lab) -> Result<(), Failed> {
    lab.init(&["--include-outbound-cidrs=10.78.0.0/16"])?;
    lab.listen_proxy()?;
    lab.peer_listens(8080)?;
    let included = on(PEER_ELSEWHERE_V4, 8080);
    lab.expect_app(included, &format!("outbound {included}"))?;
    lab.expect_app(on(PEER_V4, 8080), "peer")?;
    lab.expect_app(on(PEER_V6, 8080), "peer")
}

fn inbound_is_captured(lab: &Lab) -> Result<(), Failed> {
    lab.init(&["--exclude-inbound-ports=9000,9100-9101"])?;
    lab.listen_proxy()?;
    for port in [8080, 9000, 9100, 9101, 15000, 15010, 15901, 15904] {
        lab.app_listens(port)?;
        for address in [POD_V4, POD_V6] {
            let target = on(address, port);
            let captured = format!("inbound {target}");
            lab.expect_peer(target, if port == 8080 { &captured } else { "app" })?;
        }
    }
    Ok(())
}

fn self_call_passes_the_inbound_proxy(lab: &Lab) -> Result<(), Failed> {
    lab.init(&[])?;
    lab.listen_proxy()?;
    lab.app_listens(8080)?;
    for address in [POD_V4, POD_V6] {
        let target = on(address, 8080);
        lab.expect_proxy(target, &format!("inbound {target}"))?;
        lab.expect_app(target, "app")?;
    }
    lab.expect_proxy(on("127.0.0.1", 8080), "app")?;
    lab.expect_proxy(on("::1", 8080), "app")
}

fn pod_ip_mode_does_not_loop(lab: &Lab) -> Result<(), Failed> {
    lab.init(&["--local-proxy-mode=PodIP", &format!("--pod-ip={POD_V4},{POD_V6}")])?;
    lab.listen_proxy()?;
    lab.app_listens_at(on(POD_V4, 8080))?;
    lab.app_listens_at(on(POD_V6, 8080))?;
    lab.expect_proxy(on("127.0.0.1", 8080), "app")?;
    lab.expect_proxy(on("::1", 8080), "app")?;
    for address in [POD_V4, POD_V6] {
        let target = on(address, 8080);
        lab.expect_peer(target, &format!("inbound {target}"))?;
    }
    Ok(())
}

fn forty_excluded_ports(lab: &Lab) -> Result<(), Failed> {
    let ports: Vec<u16> = (0..40).map(|index| 20000 + index * 7).collect();
    let list = ports.iter().map(u16::to_string).collect::<Vec<_>>().join(",");
    lab.init(&[
        &format!("--exclude-outbound-ports={list}"),
        &format!("--exclude-inbound-ports={list}"),
    ])?;
    lab.listen_proxy()?;
    for port in ports {
        lab.peer_listens(port)?;
        lab.app_listens(port)?;
        lab.expect_app(on(PEER_V4, port), "peer")?;
        lab.expect_peer(on(POD_V6, port), "app")?;
        let neighbour = on(PEER_V4, port + 1);
        lab.expect_app(neighbour, &format!("outbound {neighbour}"))?;
    }
    Ok(())
}

fn second_run_and_cleanup(lab: &Lab) -> Result<(), Failed> {
    let arguments = ["--exclude-outbound-ports=25,80-90", "--exclude-interfaces=net1"];
    lab.init(&["--exclude-inbound-ports=1,3,5"])?;
    lab.init(&arguments)?;
    let first = lab.rules()?;
    lab.init(&arguments)?;
    let second = lab.rules()?;
    if first != second {
        return Err(format!("the second run changed the rules:\n{first}\n-- became --\n{second}").into());
    }
    lab.init(&["--cleanup"])?;
    let left = lab.rules()?;
    if left.to_uppercase().contains("WEIR") {
        return Err(format!("cleanup left rules:\n{left}").into());
    }
    lab.init(&["--cleanup"])
}

fn verify_notices_a_missing_rule(lab: &Lab) -> Result<(), Failed> {
    lab.init(&[])?;
    lab.init(&["--verify-only"])?;
    lab.damage()?;
    let (code, output) = lab.init_exit(&["--verify-only"])?;
    if code != Some(3) || !output.contains("not in force") {
        return Err(format!("expected exit status 3 and a reason, got {code:?}: {output}").into());
    }
    lab.init(&[])?;
    lab.init(&["--verify-only"])
}

fn dnat_spreads_over_endpoints(lab: &Lab) -> Result<(), Failed> {
    for (service, peer, family) in [
        ("10.96.0.7", PEER_V4, Family::V4),
        ("fd96::7", PEER_V6, Family::V6),
    ] {
        let endpoints = [on(peer, 7001), on(peer, 7002), on(peer, 7003)];
        let mut table = Table::new(family, "services");
        let matches = [
            Match::Protocol(Protocol::Tcp),
            Match::Destination(
                service
                    .parse::<std::net::IpAddr>()
                    .map_err(|e| e.to_string())?
                    .into(),
            ),
            Match::DestinationPort { first: 80, last: 80 },
        ];
        table
            .hook("output", Hook::Output)
            .dnat_one_of("service", &matches, &endpoints);
        table.hook("postrouting", Hook::Postrouting).rule(Rule::new(
            "hairpin",
            vec![Match::Translated],
            Action::Masquerade,
        ));
        Netlink::open()?.replace(&table)?;
        for endpoint in endpoints {
            lab.peer_listens_as(endpoint, &format!("endpoint {}", endpoint.port()))?;
        }
        let mut counts = [0_u32; 3];
        for _ in 0..300 {
            let answer = lab.app_dials(on(service, 80));
            let index = (0..3).find(|index| answer == format!("endpoint {}", 7001 + index));
            counts[index.ok_or_else(|| format!("{service} answered `{answer}`"))?] += 1;
        }
        // 300 draws of one in three: mean 100, deviation 8.2; six deviations.
        if counts.iter().any(|count| !(50..=150).contains(count)) {
            return Err(format!("{service}: connections were spread {counts:?}").into());
        }
        Netlink::open()?.delete(family, "services")?;
    }
    Ok(())
}

fn a_refused_rule_is_named(lab: &Lab) -> Result<(), Failed> {
    lab.init(&[])?;
    let before = lab.rules()?;
    let mut table = Table::new(Family::V4, weir_init::nftables::TABLE);
    table
        .hook("output", Hook::Output)
        .rule(Rule::new("good", vec![], Action::Return))
        .rule(Rule::new("astray", vec![], Action::Jump("nowhere".to_owned())));
    let netlink = Netlink::open()?;
    match netlink.replace(&table) {
        Ok(()) => return Err("a jump to a chain that does not exist was accepted".into()),
        Err(error) if error.to_string().contains("rule `astray`") => {}
        Err(error) => return Err(format!("the error does not name the rule: {error}").into()),
    }
    if lab.rules()? != before {
        return Err("a refused transaction changed the rules".into());
    }
    netlink.delete(Family::V4, weir_init::nftables::TABLE)?;
    Ok(())
}

fn auto_without_iptables(lab: &Lab) -> Result<(), Failed> {
    let output = lab.init_without_programs(&["--backend=auto"])?;
    if !output.contains("nftables over netlink") || !output.contains("was captured") {
        return Err(format!("expected nftables over netlink, proved by a dial: {output}").into());
    }
    Ok(())
}
