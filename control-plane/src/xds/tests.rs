//! The session state machines against a mesh that is a map, and the cache against hand-made snapshots.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use proptest::prelude::*;
use prost_types::Any;
use weir_xds::{
    ResourceType,
    envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest},
    google::rpc,
};

use super::{
    cache::Cache,
    changes::{self, Touched},
    delta,
    machine::{Handled, Machine},
    names::{Name, Topic},
    resources::{Dialect, Encoded},
    sotw,
    view::{Moment, View},
};
use crate::{
    catalog::{Protocol, Service, ServiceKey, ServicePort, Snapshot},
    certificates::TrustBundle,
};

#[derive(Default)]
struct Mesh(BTreeMap<(ResourceType, String), Arc<Encoded>>);

impl Mesh {
    fn set(&mut self, kind: ResourceType, name: &str, version: u64) {
        let any = Any {
            type_url: kind.url().to_owned(),
            value: vec![0; 16],
        };
        self.0
            .insert((kind, name.to_owned()), Arc::new(Encoded { version, any }));
    }

    fn remove(&mut self, kind: ResourceType, name: &str) {
        self.0.remove(&(kind, name.to_owned()));
    }
}

impl View for Mesh {
    fn get(&self, kind: ResourceType, name: &str) -> Option<Arc<Encoded>> {
        self.0.get(&(kind, name.to_owned())).cloned()
    }

    fn all(&self, kind: ResourceType) -> Vec<String> {
        self.0
            .keys()
            .filter(|(other, _)| *other == kind)
            .map(|(_, name)| name.clone())
            .collect()
    }

    fn generation(&self) -> u64 {
        7
    }
}

const EDS: ResourceType = ResourceType::Endpoints;
const CDS: ResourceType = ResourceType::Cluster;

fn request(kind: ResourceType, subscribe: &[&str], unsubscribe: &[&str]) -> DeltaDiscoveryRequest {
    let owned = |names: &[&str]| names.iter().map(|&name| name.to_owned()).collect();
    DeltaDiscoveryRequest {
        type_url: kind.url().to_owned(),
        resource_names_subscribe: owned(subscribe),
        resource_names_unsubscribe: owned(unsubscribe),
        ..DeltaDiscoveryRequest::default()
    }
}

fn session() -> delta::Session {
    delta::Session::new("pod".into())
}

fn drain(session: &mut delta::Session, mesh: &Mesh) -> Vec<DeltaDiscoveryResponse> {
    std::iter::from_fn(|| session.next(mesh)).collect()
}

fn names(response: &DeltaDiscoveryResponse) -> Vec<&str> {
    response
        .resources
        .iter()
        .map(|resource| resource.name.as_str())
        .collect()
}

#[test]
fn clusters_come_before_what_refers_to_them_and_go_after() {
    let mut mesh = Mesh::default();
    for kind in ResourceType::ALL {
        mesh.set(kind, "a/b|1", 1);
    }
    let mut session = session();
    for kind in ResourceType::ALL.into_iter().rev() {
        session.request(&request(kind, &["a/b|1"], &[]), &mesh).unwrap();
    }
    let kinds = |responses: &[DeltaDiscoveryResponse]| -> Vec<_> {
        responses
            .iter()
            .filter_map(|response| ResourceType::from_url(&response.type_url))
            .collect()
    };
    assert_eq!(kinds(&drain(&mut session, &mesh)), ResourceType::ALL);
    let empty = Mesh::default();
    session.changed(&Touched::All, &empty);
    let removed = drain(&mut session, &empty);
    let order = [ResourceType::Route, CDS, EDS];
    assert_eq!(
        kinds(&removed),
        order,
        "names that cannot exist in a type are not looked at"
    );
}

#[test]
fn a_response_tells_which_state_of_the_mesh_it_is() {
    let mut mesh = Mesh::default();
    mesh.set(EDS, "a/b|1", 1);
    let mut session = session();
    session.request(&request(EDS, &["a/b|1"], &[]), &mesh).unwrap();
    assert_eq!(drain(&mut session, &mesh)[0].system_version_info, "7");
}

#[test]
fn a_name_subscribed_again_is_sent_again() {
    let mut mesh = Mesh::default();
    mesh.set(EDS, "a/b|1", 1);
    let mut session = session();
    for _ in 0..2 {
        session.request(&request(EDS, &["a/b|1"], &[]), &mesh).unwrap();
        assert_eq!(names(&drain(&mut session, &mesh)[0]), ["a/b|1"]);
    }
}

#[test]
fn a_wildcard_is_answered_even_when_there_is_nothing() {
    let mut session = session();
    session
        .request(&request(CDS, &[], &[]), &Mesh::default())
        .unwrap();
    assert_eq!(drain(&mut session, &Mesh::default()).len(), 1);
    session
        .request(&request(CDS, &[], &[]), &Mesh::default())
        .unwrap();
    assert_eq!(drain(&mut session, &Mesh::default()).len(), 0);
}

#[test]
fn a_wildcard_still_covers_a_name_unsubscribed_from() {
    let mut mesh = Mesh::default();
    mesh.set(CDS, "a/b|1", 1);
    let mut session = session();
    session
        .request(&request(CDS, &["*", "a/b|1"], &[]), &mesh)
        .unwrap();
    drain(&mut session, &mesh);
    session.request(&request(CDS, &[], &["a/b|1"]), &mesh).unwrap();
    assert_eq!(names(&drain(&mut session, &mesh)[0]), ["a/b|1"]);
    session.request(&request(CDS, &[], &["*"]), &mesh).unwrap();
    mesh.set(CDS, "a/b|1", 2);
    session.changed(&Touched::All, &mesh);
    assert!(drain(&mut session, &mesh).is_empty());
}

#[test]
fn giving_up_a_wildcard_gives_up_no_name() {
    let mut mesh = Mesh::default();
    mesh.set(CDS, "a/b|1", 1);
    let mut session = session();
    session.request(&request(EDS, &["a/b|1"], &[]), &mesh).unwrap();
    session.request(&request(CDS, &["*"], &[]), &mesh).unwrap();
    drain(&mut session, &mesh);
    assert!(session.interest().all);
    let followed = session.interest().take();
    assert_eq!(followed.values().collect::<Vec<_>>(), [&true]);
    session.request(&request(CDS, &[], &["*"]), &mesh).unwrap();
    assert!(!session.interest().all);
    assert!(
        session.interest().take().is_empty(),
        "the endpoints are still followed"
    );
}

#[test]
fn a_resumed_wildcard_gets_the_difference() {
    let mut mesh = Mesh::default();
    mesh.set(CDS, "same", 1);
    mesh.set(CDS, "newer", 2);
    let mut session = session();
    let mut first = request(CDS, &[], &[]);
    let held = [("same", 1), ("newer", 1), ("gone", 1)];
    first.initial_resource_versions = held
        .into_iter()
        .map(|(name, version)| (name.to_owned(), format!("{version:016x}")))
        .collect();
    session.request(&first, &mesh).unwrap();
    let responses = drain(&mut session, &mesh);
    assert_eq!(names(&responses[0]), ["newer"]);
    assert_eq!(responses[1].removed_resources, ["gone"]);
    assert_eq!(responses.len(), 2);
}

#[test]
fn a_large_set_is_split_over_responses() {
    let mut mesh = Mesh::default();
    for n in 0..30 {
        mesh.set(CDS, &format!("c{n}"), n);
    }
    for encoded in mesh.0.values_mut() {
        Arc::make_mut(encoded).any.value = vec![0; 100_000];
    }
    let mut session = session();
    session.request(&request(CDS, &[], &[]), &mesh).unwrap();
    let responses = drain(&mut session, &mesh);
    assert!(responses.len() > 2);
    assert!(responses.iter().all(|response| response.resources.len() <= 11));
    assert_eq!(
        responses
            .iter()
            .map(|response| response.resources.len())
            .sum::<usize>(),
        30
    );
}

#[test]
fn a_refusal_is_reported() {
    let mut nack = request(EDS, &[], &[]);
    nack.error_detail = Some(rpc::Status {
        code: 3,
        message: "bad".to_owned(),
    });
    let handled = session().request(&nack, &Mesh::default()).unwrap();
    assert_eq!(handled, Handled::Taken(EDS, Some("bad".to_owned())));
}

fn sotw_request(nonce: &str, version: &str, names: &[&str]) -> DiscoveryRequest {
    DiscoveryRequest {
        type_url: EDS.url().to_owned(),
        version_info: version.to_owned(),
        response_nonce: nonce.to_owned(),
        resource_names: names.iter().map(|&name| name.to_owned()).collect(),
        ..DiscoveryRequest::default()
    }
}

#[test]
fn state_of_the_world_answers_added_names_and_ignores_stale_nonces() {
    let mut mesh = Mesh::default();
    mesh.set(EDS, "a/a|1", 1);
    mesh.set(EDS, "b/b|1", 1);
    let mut session = sotw::Session::new("pod".into());
    session.request(&sotw_request("", "", &["a/a|1"]), &mesh).unwrap();
    let first = session.next(&mesh).unwrap();
    assert_eq!(first.resources.len(), 1);
    session
        .request(
            &sotw_request(&first.nonce, &first.version_info, &["a/a|1"]),
            &mesh,
        )
        .unwrap();
    assert!(session.next(&mesh).is_none(), "an ACK gets no answer");
    session
        .request(
            &sotw_request(&first.nonce, &first.version_info, &["a/a|1", "b/b|1"]),
            &mesh,
        )
        .unwrap();
    let second = session.next(&mesh).unwrap();
    assert_eq!(second.resources.len(), 2);
    let stale = session
        .request(&sotw_request(&first.nonce, &first.version_info, &[]), &mesh)
        .unwrap();
    assert_eq!(stale, Handled::Stale);

    let mut resumed = sotw::Session::new("pod".into());
    resumed
        .request(
            &sotw_request("", &second.version_info, &["a/a|1", "b/b|1"]),
            &mesh,
        )
        .unwrap();
    assert!(
        resumed.next(&mesh).is_none(),
        "the version it came with is current"
    );
    mesh.set(EDS, "b/b|1", 2);
    resumed.changed(&Touched::All, &mesh);
    assert_eq!(resumed.next(&mesh).unwrap().resources.len(), 2);
}

#[derive(Clone, Debug)]
enum Step {
    Subscribe(u8),
    Unsubscribe(u8),
    Wildcard(bool),
    Set(u8, u64),
    Remove(u8),
    Deliver,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        (0..4u8).prop_map(Step::Subscribe),
        (0..4u8).prop_map(Step::Unsubscribe),
        any::<bool>().prop_map(Step::Wildcard),
        (0..4u8, 1..4u64).prop_map(|(n, version)| Step::Set(n, version)),
        (0..4u8).prop_map(Step::Remove),
        Just(Step::Deliver),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 500, failure_persistence: None, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order, a client that applies what it is sent ends up with what the mesh has
    /// of the names it asked for.
    #[test]
    fn a_client_ends_up_with_what_the_mesh_has(steps in prop::collection::vec(step(), 1..60)) {
        let name = |n: u8| format!("a/s{n}|80");
        let mut mesh = Mesh::default();
        let mut session = session();
        let mut wanted: BTreeMap<String, ()> = BTreeMap::new();
        let mut wildcard = false;
        let mut client: HashMap<String, String> = HashMap::new();
        // A first request with a name, so that an empty one does not mean "everything".
        session.request(&request(CDS, &["a/s0|80"], &[]), &mesh).unwrap();
        wanted.insert(name(0), ());
        for step in steps.into_iter().chain([Step::Deliver]) {
            match step {
                Step::Subscribe(n) => {
                    session.request(&request(CDS, &[&name(n)], &[]), &mesh).unwrap();
                    wanted.insert(name(n), ());
                }
                Step::Unsubscribe(n) => {
                    session.request(&request(CDS, &[], &[&name(n)]), &mesh).unwrap();
                    wanted.remove(&name(n));
                }
                Step::Wildcard(true) => {
                    session.request(&request(CDS, &["*"], &[]), &mesh).unwrap();
                    wildcard = true;
                }
                Step::Wildcard(false) => {
                    session.request(&request(CDS, &[], &["*"]), &mesh).unwrap();
                    wildcard = false;
                }
                Step::Set(n, version) => {
                    mesh.set(CDS, &name(n), version);
                    session.changed(&Touched::All, &mesh);
                }
                Step::Remove(n) => {
                    mesh.remove(CDS, &name(n));
                    session.changed(&Touched::All, &mesh);
                }
                Step::Deliver => for response in drain(&mut session, &mesh) {
                    for resource in response.resources {
                        client.insert(resource.name, resource.version);
                    }
                    for name in response.removed_resources {
                        client.remove(&name);
                    }
                },
            }
            client.retain(|name, _| wildcard || wanted.contains_key(name));
        }
        let expected: HashMap<String, String> = mesh.0.iter()
            .filter(|((_, name), _)| wildcard || wanted.contains_key(name))
            .map(|((_, name), encoded)| (name.clone(), format!("{:016x}", encoded.version)))
            .collect();
        prop_assert_eq!(client, expected);
    }
}

fn snapshot(services: u8) -> Snapshot {
    let mut snapshot = Snapshot::default();
    for n in 0..services {
        let key = ServiceKey {
            namespace: "ns".into(),
            name: format!("s{n}").into(),
        };
        let service = Service {
            key: key.clone(),
            cluster_ips: vec![[10, 0, 0, n].into()],
            ports: vec![ServicePort {
                number: 80,
                name: String::new(),
                protocol: Protocol::Http,
                endpoints: Vec::new(),
            }],
            principals: Default::default(),
            split: None,
            reachable: true,
        };
        snapshot.addresses.insert(service.cluster_ips[0], key.clone());
        snapshot.services.insert(key, Arc::new(service));
    }
    snapshot
}

fn moment(snapshot: &Snapshot) -> Moment {
    let root = rcgen::generate_simple_self_signed(Vec::new()).unwrap().cert.pem();
    Moment {
        snapshot: Arc::new(snapshot.clone()),
        trust: Arc::new(TrustBundle::from_pem(&root).unwrap()),
    }
}

#[test]
fn a_change_touches_the_service_and_its_addresses_only() {
    let old = snapshot(3);
    let mut new = old.clone();
    let key = new.services.keys().next().unwrap().clone();
    let mut service = (**new.services.get(&key).unwrap()).clone();
    service.reachable = false;
    new.services.insert(key.clone(), Arc::new(service));
    let expected = [Topic::Service(key), Topic::Address([10, 0, 0, 0].into())];
    assert_eq!(
        changes::between(&old, &new),
        Touched::Topics(expected.into_iter().collect())
    );
    assert!(changes::between(&old, &old.clone()).is_empty());
}

#[test]
fn shared_resources_are_built_once_and_forgotten_with_their_service() {
    let cache = Cache::default();
    let before = snapshot(2);
    let name = |n: u8| Name::parse(CDS, &format!("ns/s{n}|80")).unwrap();
    let get = |snapshot: &Snapshot, n| cache.get(&name(n), &moment(snapshot), Dialect::Weir);
    let first = get(&before, 0).unwrap();
    assert!(Arc::ptr_eq(&first, &get(&before, 0).unwrap()));
    get(&before, 1).unwrap();

    let mut rebuilt = before.clone();
    let key = before.services.keys().next().unwrap();
    rebuilt.services.insert(
        key.clone(),
        Arc::new((**before.services.get(key).unwrap()).clone()),
    );
    assert!(
        Arc::ptr_eq(&first, &get(&rebuilt, 0).unwrap()),
        "equal content stays one allocation"
    );

    let after = snapshot(1);
    cache.forget_missing(&changes::between(&rebuilt, &after), &after);
    assert!(get(&after, 1).is_none());
    assert_eq!(cache.len(), 1);
}

#[test]
fn asking_for_what_is_not_there_fills_no_memory() {
    let cache = Cache::default();
    let moment = moment(&snapshot(1));
    for port in 1..2000 {
        for (kind, name) in [
            (ResourceType::Listener, format!("10.0.0.0:{port}")),
            (ResourceType::Listener, format!("10.9.0.0:{port}")),
            (CDS, format!("ns/none|{port}")),
            (ResourceType::Route, format!("ns/s0|{port}")),
        ] {
            cache.get(&Name::parse(kind, &name).unwrap(), &moment, Dialect::Weir);
        }
    }
    assert!(cache.len() <= 2, "{} entries", cache.len());
}
