//! Whatever a server sends, the store holds the last good version of what it has, and nothing else.

use std::collections::BTreeMap;

use proptest::prelude::*;
use weir_xds::{
    envoy::config::{
        cluster::v3::{Cluster as ClusterMessage, cluster},
        listener::v3::Listener as ListenerMessage,
    },
    pack,
};

use super::*;
use crate::{
    model::{Cluster, Listener},
    xds::{State, Summary},
};

/// A version of a cluster; an odd one is not usable.
fn message(name: &str, version: u8) -> Any {
    let original = cluster::ClusterDiscoveryType::Type(cluster::DiscoveryType::OriginalDst as i32);
    let timeout = i64::from(version) + 1;
    pack(&ClusterMessage {
        name: name.to_owned(),
        cluster_discovery_type: Some(original),
        connect_timeout: Some(prost_types::Duration {
            seconds: if version % 2 == 1 { -timeout } else { timeout },
            nanos: 0,
        }),
        ..ClusterMessage::default()
    })
}

fn version_of(state: &State<Cluster>) -> Option<u8> {
    let seconds = state.ready()?.connect_timeout.as_secs();
    u8::try_from(seconds - 1).ok()
}

#[derive(Clone, Debug)]
enum Step {
    /// An incremental response: versions of names, and names removed.
    Delta(BTreeMap<u8, u8>, Vec<u8>),
    /// The full set.
    Full(BTreeMap<u8, u8>),
    Want(u8),
    Leave(u8),
    Pass,
}

fn step() -> impl Strategy<Value = Step> {
    let versions = || prop::collection::btree_map(0..6_u8, 0..8_u8, 0..5);
    prop_oneof![
        (versions(), prop::collection::vec(0..6_u8, 0..3))
            .prop_map(|(sent, removed)| Step::Delta(sent, removed)),
        versions().prop_map(Step::Full),
        (0..6_u8).prop_map(Step::Want),
        (0..6_u8).prop_map(Step::Leave),
        Just(Step::Pass),
    ]
}

/// The last usable version of what the server has.
#[derive(Default)]
struct Expected {
    good: BTreeMap<u8, u8>,
}

impl Expected {
    fn take(&mut self, sent: &BTreeMap<u8, u8>, removed: &[u8]) {
        self.good
            .extend(sent.iter().filter(|(_, version)| *version % 2 == 0));
        for name in removed {
            self.good.remove(name);
        }
    }
}

fn name(number: u8) -> String {
    format!("name {number}")
}

fn run(steps: Vec<Step>) {
    let mut proxy = Rehearsal::new(true);
    let (mut expected, mut wanted) = (Expected::default(), BTreeMap::new());
    let resources = |sent: &BTreeMap<u8, u8>| -> Vec<(String, Any)> {
        let sent = sent.iter();
        sent.map(|(one, version)| (name(*one), message(&name(*one), *version)))
            .collect()
    };
    for step in steps {
        match step {
            Step::Delta(sent, mut removed) => {
                removed.retain(|one| !sent.contains_key(one));
                let names = removed.iter().map(|one| name(*one)).collect();
                let refused = proxy.delta(Rehearsal::response(
                    ResourceType::Cluster,
                    resources(&sent),
                    names,
                ));
                assert_eq!(refused.is_some(), sent.values().any(|version| version % 2 == 1));
                expected.take(&sent, &removed);
            }
            Step::Full(sent) => {
                let messages = resources(&sent).into_iter().map(|(_, message)| message);
                proxy.state_of_the_world(DiscoveryResponse {
                    type_url: ResourceType::Cluster.url().to_owned(),
                    resources: messages.collect(),
                    ..DiscoveryResponse::default()
                });
                let removed = (0..6).filter(|one| !sent.contains_key(one)).collect::<Vec<_>>();
                expected.take(&sent, &removed);
            }
            Step::Want(one) => {
                wanted.insert(one, proxy.want::<Cluster>(&name(one)));
            }
            Step::Leave(one) => drop(wanted.remove(&one)),
            Step::Pass => proxy.pass(GRACE * 2),
        }
        for one in 0..6 {
            let state = proxy.store.peek::<Cluster>(&name(one));
            let version = state.as_ref().and_then(version_of);
            assert_eq!(version, expected.good.get(&one).copied(), "of {}", name(one));
        }
    }
    // When nobody wants anything any more, what the server has is all that is kept.
    wanted.clear();
    proxy.pass(Duration::ZERO);
    proxy.pass(GRACE * 2);
    proxy.pass(GRACE * 2);
    let dump = proxy.store.dump();
    let kept = dump.iter().filter(|one| one.state == Summary::Ready);
    assert_eq!(kept.count(), expected.good.len());
    for other in dump.iter().filter(|one| one.state != Summary::Ready) {
        assert!(other.error.is_some(), "{other:?} is neither there nor refused");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(256))]

    #[test]
    fn the_store_holds_the_last_good_version_of_what_the_server_has(steps in prop::collection::vec(step(), 1..20)) {
        run(steps);
    }
}

#[test]
fn what_is_not_in_the_whole_is_absent_at_once() {
    let mut proxy = Rehearsal::new(true);
    let early = proxy.want::<Listener>("10.0.0.1:80");
    assert!(matches!(early.current(), State::Pending), "nothing was said yet");
    let broken = pack(&ListenerMessage {
        name: "10.0.0.2:80".to_owned(),
        bind_to_port: Some(false),
        transparent: Some(true),
        ..ListenerMessage::default()
    });
    let sent = vec![("10.0.0.2:80".to_owned(), broken)];
    let refused = proxy.delta(Rehearsal::response(ResourceType::Listener, sent, Vec::new()));
    assert!(refused.is_some_and(|reason| reason.contains("transparent")));
    assert!(matches!(early.current(), State::Absent));
    assert!(matches!(
        proxy.want::<Listener>("10.0.0.3:80").current(),
        State::Absent
    ));
    // It is there, though broken: to pass it by would not be what the server wants.
    assert!(matches!(
        proxy.want::<Listener>("10.0.0.2:80").current(),
        State::Pending
    ));

    let mut by_name = Rehearsal::new(false);
    let early = by_name.want::<Listener>("10.0.0.1:80");
    by_name.delta(Rehearsal::response(
        ResourceType::Listener,
        Vec::new(),
        Vec::new(),
    ));
    assert!(
        matches!(early.current(), State::Pending),
        "the server has not spoken of it"
    );
}

#[test]
fn a_cluster_is_waited_for() {
    let mut proxy = Rehearsal::new(true);
    proxy.delta(Rehearsal::response(ResourceType::Cluster, Vec::new(), Vec::new()));
    let late = proxy.want::<Cluster>("late");
    assert!(matches!(late.current(), State::Pending));
    proxy.pass(Duration::from_secs(10));
    assert!(matches!(late.current(), State::Absent));
    let sent = vec![("late".to_owned(), message("late", 0))];
    proxy.delta(Rehearsal::response(ResourceType::Cluster, sent, Vec::new()));
    assert_eq!(version_of(&late.current()), Some(0));
}
