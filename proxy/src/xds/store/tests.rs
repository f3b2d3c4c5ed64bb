use super::*;
use crate::model::Endpoints;

fn ready() -> State<Endpoints> {
    State::Ready(Arc::default())
}

#[test]
fn interest_follows_the_first_and_the_last_watcher() {
    let (store, mut interest) = Store::new();
    let first = store.watch::<Endpoints>("a");
    let second = store.watch::<Endpoints>("a");
    assert_eq!(
        interest.try_recv(),
        Ok(Interest::Wanted(ResourceType::Endpoints, "a".into()))
    );
    drop(first);
    assert!(interest.try_recv().is_err());
    assert!(!store.forget(ResourceType::Endpoints, "a"));
    drop(second);
    assert_eq!(
        interest.try_recv(),
        Ok(Interest::Unwanted(ResourceType::Endpoints, "a".into()))
    );
    assert!(store.forget(ResourceType::Endpoints, "a"));
    assert!(store.dump().is_empty());
}

#[test]
fn own_resources_are_neither_asked_for_nor_replaced() {
    let (store, mut interest) = Store::new();
    store.publish::<Endpoints>("a", ready());
    store.reserve::<Endpoints>("b");
    let a = store.watch::<Endpoints>("a");
    let _b = store.watch::<Endpoints>("b");
    assert!(interest.try_recv().is_err());
    store.apply::<Endpoints>("a", State::Absent, Source::default());
    assert!(a.current().ready().is_some());
}

#[test]
fn a_seed_is_replaced_but_not_taken_away() {
    let (store, mut interest) = Store::new();
    store.seed::<Endpoints>("a", Arc::default(), Source::default());
    let a = store.watch::<Endpoints>("a");
    assert!(interest.try_recv().is_ok());
    store.apply::<Endpoints>("a", State::Absent, Source::default());
    assert!(a.current().ready().is_some());
    let version = "2".to_owned();
    store.apply::<Endpoints>(
        "a",
        ready(),
        Source {
            version,
            message: None,
        },
    );
    assert_eq!(store.dump()[0].version, "2");
}

#[test]
fn with_no_server_what_is_not_there_is_absent() {
    let (store, mut interest) = Store::new();
    store.reserve::<Endpoints>("b");
    store.seal();
    assert!(matches!(store.watch::<Endpoints>("a").current(), State::Absent));
    assert!(matches!(store.watch::<Endpoints>("b").current(), State::Pending));
    assert!(interest.try_recv().is_err());
}

#[test]
fn a_rejection_keeps_the_last_good_one() {
    let (store, _interest) = Store::new();
    let a = store.watch::<Endpoints>("a");
    store.apply::<Endpoints>("a", ready(), Source::default());
    store.reject(ResourceType::Endpoints, "a", "bad".into());
    assert!(a.current().ready().is_some());
    assert_eq!(store.dump()[0].error.as_deref(), Some("bad"));
}
