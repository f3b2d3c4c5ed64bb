//! The text given to `iptables-restore`, word by word.

use std::net::IpAddr;

use ipnet::IpNet;
use proptest::prelude::*;

use super::*;
use crate::ports::{MULTIPORT_SLOTS, PortRange};
use crate::redirect::Redirect;
use crate::rules::{Family, rules};

fn redirect() -> Redirect {
    Redirect::new(15003, 15001, ProxyIdentity::Uid(1500))
}

fn ports(text: &str) -> Vec<PortRange> {
    text.split(',').map(|port| port.parse().unwrap()).collect()
}

fn networks(text: &str) -> Vec<IpNet> {
    text.split(',').map(|network| network.parse().unwrap()).collect()
}

fn text(redirect: Redirect, family: Family) -> String {
    apply_text(&rules(&redirect.validated().unwrap(), family), &Saved::default())
}

#[test]
fn plain_redirect() {
    let expected = "\
*nat
:WEIR_INBOUND - [0:0]
:WEIR_IN_REDIRECT - [0:0]
:WEIR_OUTBOUND - [0:0]
:WEIR_OUT_REDIRECT - [0:0]
-A PREROUTING -p tcp -j WEIR_INBOUND
-A WEIR_INBOUND -p tcp -m multiport --dports 15000,15010,15901:15904 -j RETURN
-A WEIR_INBOUND -p tcp -j WEIR_IN_REDIRECT
-A WEIR_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15003
-A OUTPUT -p tcp -j WEIR_OUTBOUND
-A WEIR_OUTBOUND ! -d 127.0.0.1/32 -o lo -p tcp -m owner --uid-owner 1500 -j WEIR_IN_REDIRECT
-A WEIR_OUTBOUND -o lo -p tcp -m owner ! --uid-owner 1500 -j RETURN
-A WEIR_OUTBOUND -p tcp -m owner --uid-owner 1500 -j RETURN
-A WEIR_OUTBOUND -d 127.0.0.1/32 -p tcp -j RETURN
-A WEIR_OUTBOUND -p tcp -j WEIR_OUT_REDIRECT
-A WEIR_OUT_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
";
    assert_eq!(text(redirect(), Family::V4), expected);
    assert_eq!(
        text(redirect(), Family::V6),
        expected.replace("127.0.0.1/32", "::1/128")
    );
}

#[test]
fn everything_at_once() {
    let redirect = Redirect {
        proxy: ProxyIdentity::Mark(0x5dc),
        exclude_inbound_ports: ports("9000"),
        exclude_outbound_ports: ports("25,6379,27017-27019"),
        exclude_outbound_cidrs: networks("10.1.2.3/16,fd00::/8"),
        include_outbound_cidrs: networks("10.0.0.0/8"),
        exclude_interfaces: vec!["net1".to_owned()],
        pod_ips: vec![
            IpAddr::from([10, 244, 0, 7]),
            IpAddr::from([0xfd02, 0, 0, 0, 0, 0, 0, 7]),
        ],
        ..redirect()
    };
    let v4 = "\
*nat
:WEIR_INBOUND - [0:0]
:WEIR_IN_REDIRECT - [0:0]
:WEIR_OUTBOUND - [0:0]
:WEIR_OUT_REDIRECT - [0:0]
-A PREROUTING -p tcp -j WEIR_INBOUND
-A WEIR_INBOUND -i net1 -p tcp -j RETURN
-A WEIR_INBOUND -p tcp -m multiport --dports 9000 -j RETURN
-A WEIR_INBOUND -p tcp -m multiport --dports 15000,15010,15901:15904 -j RETURN
-A WEIR_INBOUND -p tcp -j WEIR_IN_REDIRECT
-A WEIR_IN_REDIRECT -p tcp -j REDIRECT --to-ports 15003
-A OUTPUT -p tcp -j WEIR_OUTBOUND
-A WEIR_OUTBOUND -d 127.0.0.1/32 -o lo -p tcp -m mark --mark 0x5dc -j DNAT --to-destination 10.244.0.7
-A WEIR_OUTBOUND ! -d 127.0.0.1/32 -o lo -p tcp -m mark --mark 0x5dc -j WEIR_IN_REDIRECT
-A WEIR_OUTBOUND -o lo -p tcp -m mark ! --mark 0x5dc -j RETURN
-A WEIR_OUTBOUND -p tcp -m mark --mark 0x5dc -j RETURN
-A WEIR_OUTBOUND -d 127.0.0.1/32 -p tcp -j RETURN
-A WEIR_OUTBOUND -o net1 -p tcp -j RETURN
-A WEIR_OUTBOUND -d 10.1.0.0/16 -p tcp -j RETURN
-A WEIR_OUTBOUND -p tcp -m multiport --dports 25,6379,27017:27019 -j RETURN
-A WEIR_OUTBOUND -d 10.0.0.0/8 -p tcp -j WEIR_OUT_REDIRECT
-A WEIR_OUT_REDIRECT -p tcp -j REDIRECT --to-ports 15001
COMMIT
";
    assert_eq!(text(redirect.clone(), Family::V4), v4);
    let v6 = text(redirect, Family::V6);
    assert!(v6.contains("-A WEIR_OUTBOUND -d fd00::/8 -p tcp -j RETURN\n"));
    assert!(v6.contains("-m mark --mark 0x5dc -j DNAT --to-destination fd02::7\n"));
    assert!(
        !v6.contains("-j WEIR_OUT_REDIRECT"),
        "an inclusion list without IPv6 includes no IPv6"
    );
}

#[test]
fn rules_of_an_earlier_run_are_replaced_and_those_of_others_kept() {
    let saved = Saved::parse(
        "*nat\n:PREROUTING ACCEPT [0:0]\n:WEIR_INBOUND - [3:180]\n:WEIR_OLD - [0:0]\n:OTHER - [0:0]\n\
         -A PREROUTING -p tcp -j WEIR_INBOUND\n-A PREROUTING -j OTHER\n-A OUTPUT -p tcp -j WEIR_OLD\n\
         -A WEIR_OLD -j RETURN\nCOMMIT\n",
    );
    let text = apply_text(&rules(&redirect().validated().unwrap(), Family::V4), &saved);
    let head = "*nat\n:WEIR_INBOUND - [0:0]\n:WEIR_IN_REDIRECT - [0:0]\n:WEIR_OUTBOUND - [0:0]\n\
                :WEIR_OUT_REDIRECT - [0:0]\n:WEIR_OLD - [0:0]\n-D PREROUTING -p tcp -j WEIR_INBOUND\n\
                -D OUTPUT -p tcp -j WEIR_OLD\n-X WEIR_OLD\n-A PREROUTING -p tcp -j WEIR_INBOUND\n";
    assert!(text.starts_with(head), "{text}");
    assert_eq!(
        cleanup_text(&saved).unwrap(),
        "*nat\n:WEIR_INBOUND - [0:0]\n:WEIR_OLD - [0:0]\n-D PREROUTING -p tcp -j WEIR_INBOUND\n\
         -D OUTPUT -p tcp -j WEIR_OLD\n-X WEIR_INBOUND\n-X WEIR_OLD\nCOMMIT\n"
    );
    assert_eq!(
        cleanup_text(&Saved::parse(
            "*nat\n:OTHER - [0:0]\n-A OTHER -j RETURN\nCOMMIT\n"
        )),
        None
    );
}

#[test]
fn a_rule_out_of_place_counts_as_missing() {
    let set = rules(&redirect().validated().unwrap(), Family::V4);
    let applied = apply_text(&set, &Saved::default());
    assert_eq!(Saved::parse(&applied).missing(&set), []);
    let shadowed = applied.replace(
        "-A WEIR_OUTBOUND !",
        "-A WEIR_OUTBOUND -j RETURN\n-A WEIR_OUTBOUND !",
    );
    assert!(!Saved::parse(&shadowed).missing(&set).is_empty());
    let without = applied.replace("-A OUTPUT -p tcp -j WEIR_OUTBOUND\n", "");
    let missing: Vec<String> = Saved::parse(&without)
        .missing(&set)
        .iter()
        .map(Missing::to_string)
        .collect();
    assert_eq!(missing, ["`all outbound` in chain OUTPUT"]);
}

proptest! {
    #[test]
    fn no_multiport_rule_is_too_long(list in prop::collection::vec((1..60000_u16, 0..3_u16), 0..60)) {
        let ranges = list.into_iter().filter_map(|(first, more)| PortRange::new(first, first + more)).collect();
        let text = text(Redirect { exclude_outbound_ports: ranges, ..redirect() }, Family::V4);
        for line in text.lines().filter(|line| line.contains("--dports")) {
            let list = line.split(' ').skip_while(|word| *word != "--dports").nth(1).unwrap();
            let slots: usize = list.split(',').map(|entry| 1 + usize::from(entry.contains(':'))).sum();
            prop_assert!(slots <= MULTIPORT_SLOTS, "{}", line);
        }
    }

    #[test]
    fn a_second_run_appends_what_the_first_did(list in prop::collection::vec(1..=u16::MAX, 0..40)) {
        let ranges = list.into_iter().filter_map(PortRange::single).collect();
        let set = rules(&Redirect { exclude_inbound_ports: ranges, ..redirect() }.validated().unwrap(), Family::V6);
        let first = apply_text(&set, &Saved::default());
        let saved = Saved::parse(&first);
        prop_assert!(saved.missing(&set).is_empty());
        let second = apply_text(&set, &saved);
        let appended = |text: &str| text.lines().filter(|line| line.starts_with("-A")).map(str::to_owned).collect::<Vec<_>>();
        prop_assert_eq!(appended(&first), appended(&second));
        prop_assert_eq!(second.lines().filter(|line| line.starts_with("-D")).count(), 2);
    }

    #[test]
    fn any_saved_text_is_survived(text in ".{0,200}") {
        _ = cleanup_text(&Saved::parse(&text));
    }
}
