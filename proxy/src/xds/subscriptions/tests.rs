use super::*;

const KIND: ResourceType = ResourceType::Cluster;
const GRACE: Duration = Duration::from_secs(60);

fn wanted(name: &str) -> Interest {
    Interest::Wanted(KIND, name.into())
}

fn unwanted(name: &str) -> Interest {
    Interest::Unwanted(KIND, name.into())
}

fn change(subscribe: &[&str], unsubscribe: &[&str]) -> Vec<Change> {
    vec![Change {
        kind: KIND,
        subscribe: subscribe.iter().map(|name| (*name).to_owned()).collect(),
        unsubscribe: unsubscribe.iter().map(|name| (*name).to_owned()).collect(),
    }]
}

#[test]
fn the_server_hears_of_a_name_once() {
    let mut subscriptions = Subscriptions::new(GRACE, &BTreeSet::new());
    let now = Instant::now();
    assert!(!subscriptions.follow(&wanted("a"), now));
    assert!(!subscriptions.follow(&wanted("a"), now));
    assert_eq!(subscriptions.take_changes(), change(&["a"], &[]));
    assert!(!subscriptions.follow(&unwanted("a"), now));
    assert!(!subscriptions.follow(&wanted("a"), now));
    assert_eq!(subscriptions.take_changes(), vec![]);
}

#[test]
fn an_idle_name_is_given_up_after_the_grace() {
    let mut subscriptions = Subscriptions::new(GRACE, &BTreeSet::new());
    let start = Instant::now();
    assert!(!subscriptions.follow(&wanted("a"), start));
    subscriptions.take_changes();
    assert!(!subscriptions.follow(&unwanted("a"), start));
    subscriptions.expire(start + GRACE / 2, |_, _| true);
    assert!(subscriptions.contains(KIND, "a"));
    subscriptions.expire(start + GRACE, |_, _| true);
    assert_eq!(subscriptions.take_changes(), change(&[], &["a"]));
    assert_eq!(subscriptions.next_expiry(), None);
}

#[test]
fn a_name_in_use_again_stays() {
    let mut subscriptions = Subscriptions::new(GRACE, &BTreeSet::new());
    let start = Instant::now();
    assert!(!subscriptions.follow(&wanted("a"), start));
    subscriptions.take_changes();
    assert!(!subscriptions.follow(&unwanted("a"), start));
    assert!(!subscriptions.follow(&wanted("a"), start));
    assert!(!subscriptions.follow(&unwanted("a"), start + GRACE / 2));
    subscriptions.expire(start + GRACE, |_, _| true);
    assert!(subscriptions.contains(KIND, "a"));
    subscriptions.expire(start + GRACE * 2, |_, _| false);
    assert!(subscriptions.contains(KIND, "a"));
    assert_eq!(subscriptions.take_changes(), vec![]);
}

#[test]
fn a_name_given_up_before_it_was_told_is_never_told() {
    let mut subscriptions = Subscriptions::new(GRACE, &BTreeSet::new());
    let start = Instant::now();
    assert!(!subscriptions.follow(&wanted("a"), start));
    assert!(!subscriptions.follow(&unwanted("a"), start));
    subscriptions.expire(start + GRACE, |_, _| true);
    assert_eq!(subscriptions.take_changes(), vec![]);
}

#[test]
fn a_cluster_may_come_after_what_names_it() {
    let mut subscriptions = Subscriptions::new(GRACE, &BTreeSet::from([KIND]));
    let start = Instant::now();
    subscriptions.complete(KIND);
    for name in ["a", "b"] {
        assert!(!subscriptions.follow(&wanted(name), start));
    }
    assert_eq!(subscriptions.absent(KIND, start), [""; 0]);
    assert_eq!(subscriptions.next_expiry(), Some(start + ON_ITS_WAY));
    subscriptions.arrived(KIND, "a", "1".to_owned());
    let late = start + ON_ITS_WAY;
    assert_eq!(subscriptions.overdue(late), Some((KIND, "b".into())));
    assert_eq!(subscriptions.overdue(late), None);
    assert_eq!(subscriptions.absent(KIND, late), ["b"]);
    assert!(subscriptions.follow(&wanted("b"), late));
    assert_eq!(subscriptions.expected(KIND), ["a"]);
}

#[test]
fn where_everything_is_asked_for_no_name_is_told() {
    const KIND: ResourceType = ResourceType::Listener;
    let wanted = |name: &str| Interest::Wanted(KIND, name.into());
    let mut subscriptions = Subscriptions::new(GRACE, &BTreeSet::from([KIND]));
    let start = Instant::now();
    assert_eq!(subscriptions.types(), [KIND]);
    assert!(!subscriptions.follow(&wanted("a"), start), "not known yet");
    assert!(subscriptions.contains(KIND, "b"));
    subscriptions.arrived(KIND, "b", "1".to_owned());
    subscriptions.refused(KIND, "c");
    subscriptions.complete(KIND);
    assert_eq!(subscriptions.absent(KIND, start), ["a"]);
    assert!(!subscriptions.follow(&wanted("b"), start), "it is there");
    assert!(
        !subscriptions.follow(&wanted("c"), start),
        "it is there, but broken"
    );
    assert!(subscriptions.follow(&wanted("d"), start));
    assert_eq!(subscriptions.names(KIND), [""; 0]);
    assert_eq!(subscriptions.all(KIND), ["a", "b", "c", "d"]);
    assert_eq!(
        subscriptions.versions(KIND),
        BTreeMap::from([("b".to_owned(), "1".to_owned())])
    );
    assert_eq!(subscriptions.take_changes(), vec![]);
}

#[test]
fn what_the_server_has_is_kept_and_the_rest_forgotten_when_idle() {
    const KIND: ResourceType = ResourceType::Listener;
    let wanted = |name: &str| Interest::Wanted(KIND, name.into());
    let unwanted = |name: &str| Interest::Unwanted(KIND, name.into());
    let mut subscriptions = Subscriptions::new(GRACE, &BTreeSet::from([KIND]));
    let start = Instant::now();
    subscriptions.arrived(KIND, "a", "1".to_owned());
    subscriptions.complete(KIND);
    for name in ["a", "b"] {
        let absent = subscriptions.follow(&wanted(name), start);
        assert_eq!(absent, name == "b");
        assert!(!subscriptions.follow(&unwanted(name), start));
    }
    subscriptions.expire(start + GRACE, |_, name| name == "b");
    assert_eq!(subscriptions.all(KIND), ["a"]);
    assert!(subscriptions.gone(KIND, "a", start + GRACE));
    assert!(!subscriptions.gone(KIND, "never", start + GRACE));
    assert_eq!(subscriptions.absent(KIND, start), ["a"]);
    subscriptions.expire(start + GRACE * 2, |_, _| true);
    assert_eq!(subscriptions.all(KIND), [""; 0]);
    assert_eq!(subscriptions.take_changes(), vec![]);
}

#[test]
fn everything_has_an_end() {
    let mut subscriptions = Subscriptions::new(GRACE, &BTreeSet::from([KIND]));
    for number in 0..MOST_NAMES {
        let name = number.to_string();
        assert!(subscriptions.contains(KIND, &name));
        subscriptions.arrived(KIND, &name, String::new());
    }
    assert!(!subscriptions.contains(KIND, "one more"));
    assert!(subscriptions.contains(KIND, "0"), "what is there can change");
}
