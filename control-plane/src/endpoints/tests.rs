use std::{fs, path::Path, sync::Arc, time::Duration};

use proptest::prelude::*;
use tokio::{sync::watch, time::timeout};

use super::*;
use crate::spec::Severity;

fn namespace(name: &str, label: &str) -> String {
    format!("apiVersion: v1\nkind: Namespace\nmetadata:\n  name: \"{name}\"\n  labels:\n    a: \"{label}\"\n")
}

fn label(objects: &Objects, name: &str) -> Option<String> {
    let found = objects.namespaces.get(&ObjectName::new("", name))?;
    found.value.metadata.labels.as_ref()?.get("a").cloned()
}

#[test]
fn a_later_directory_wins_and_gives_way_again() {
    let mut store = Store::new(2);
    store.put(0, "a.yaml", &namespace("n", "first"));
    store.put(1, "b.yaml", &namespace("n", "second"));
    assert_eq!(label(&store.objects(), "n").as_deref(), Some("second"));
    assert!(store.objects().diagnostics.is_empty());
    store.remove(1, "b.yaml");
    assert_eq!(label(&store.objects(), "n").as_deref(), Some("first"));
}

#[test]
fn in_a_directory_the_first_wins_with_a_warning() {
    let mut store = Store::new(1);
    store.put(0, "b.yaml", &namespace("n", "b"));
    let twice = format!("{}---\n{}", namespace("n", "a"), namespace("n", "a2"));
    store.put(0, "a.yaml", &twice);
    let objects = store.objects();
    assert_eq!(label(&objects, "n").as_deref(), Some("a"));
    let places: Vec<_> = objects
        .diagnostics
        .iter()
        .map(|it| (&*it.file, it.line, it.severity))
        .collect();
    assert_eq!(
        places,
        [("a.yaml", 7, Severity::Warning), ("b.yaml", 1, Severity::Warning)]
    );
}

#[test]
fn a_broken_file_changes_nothing_but_says_so() {
    let mut store = Store::new(1);
    store.put(
        0,
        "a.yaml",
        &format!("{}---\n{}", namespace("n", "1"), namespace("m", "1")),
    );
    store.put(0, "b.yaml", &namespace("o", "1"));
    store.put(0, "a.yaml", &format!("{}---\nkind: [\n", namespace("n", "2")));
    let objects = store.objects();
    assert_eq!(label(&objects, "n").as_deref(), Some("1"));
    assert_eq!(label(&objects, "m").as_deref(), Some("1"));
    assert_eq!(objects.diagnostics.len(), 1);
    assert!(objects.diagnostics[0].line >= 7, "{}", objects.diagnostics[0]);
    store.put(0, "b.yaml", &namespace("o", "2"));
    assert_eq!(label(&store.objects(), "o").as_deref(), Some("2"));
    store.put(0, "a.yaml", &namespace("n", "3"));
    let objects = store.objects();
    assert_eq!(label(&objects, "n").as_deref(), Some("3"));
    assert!(label(&objects, "m").is_none() && objects.diagnostics.is_empty());
}

#[test]
fn an_invalid_object_leaves_its_last_good_version() {
    let route = |port: &str| {
        format!(
            "apiVersion: specs.smi-spec.io/v1alpha4\nkind: TCPRoute\nmetadata: {{name: r, namespace: s}}\nspec:\n  matches:\n    ports: [{port}]\n"
        )
    };
    let ports = |store: &Store| {
        let objects = store.objects();
        let found = objects.tcp_routes.get(&ObjectName::new("s", "r"));
        found.map(|it| it.value.spec.matches.ports.clone())
    };
    let mut store = Store::new(1);
    store.put(0, "a.yaml", &route("1"));
    for wrong in ["0", "x", "0"] {
        store.put(
            0,
            "a.yaml",
            &format!("{}---\n{}", route(wrong), namespace("n", wrong)),
        );
        assert_eq!(ports(&store), Some(vec![1]));
        assert_eq!(label(&store.objects(), "n").as_deref(), Some(wrong));
        assert!(!store.objects().diagnostics.is_empty());
    }
    store.put(0, "a.yaml", &route("2"));
    assert_eq!(ports(&store), Some(vec![2]));
}

#[test]
fn what_did_not_change_is_the_same_object() {
    let mut store = Store::new(1);
    let text = |last: &str| format!("{}---\n{}", namespace("n", "1"), namespace("m", last));
    store.put(0, "a.yaml", &text("1"));
    let before = store.objects();
    store.put(0, "a.yaml", &text("2"));
    let after = store.objects();
    let (n, m) = (ObjectName::new("", "n"), ObjectName::new("", "m"));
    assert!(Arc::ptr_eq(
        before.namespaces.get(&n).unwrap(),
        after.namespaces.get(&n).unwrap()
    ));
    assert!(!Arc::ptr_eq(
        before.namespaces.get(&m).unwrap(),
        after.namespaces.get(&m).unwrap()
    ));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However files came and went, what is in force is what the files that are there say.
    #[test]
    fn the_order_of_changes_leaves_no_trace(
        changes in prop::collection::vec(
            (0..2_usize, 0..3_u8, prop::option::weighted(0.8, prop::collection::vec((0..4_u8, 0..3_u8), 0..4))),
            1..24,
        ),
    ) {
        let mut store = Store::new(2);
        let mut files = std::collections::BTreeMap::new();
        for (directory, file, documents) in changes {
            let file = format!("{file}.yaml");
            match documents {
                Some(documents) => {
                    let document = |(name, label): &(u8, u8)| {
                        format!("---\n{}", namespace(&format!("n{name}"), &label.to_string()))
                    };
                    let text: String = documents.iter().map(document).collect();
                    store.put(directory, &file, &text);
                    files.insert((directory, file), text);
                }
                None => {
                    let known = files.remove(&(directory, file.clone())).is_some();
                    prop_assert_eq!(store.remove(directory, &file), known);
                }
            }
            let mut anew = Store::new(2);
            for ((directory, file), text) in files.iter().rev() {
                anew.put(*directory, file, text);
            }
            let (now, anew) = (store.objects(), anew.objects());
            prop_assert_eq!(now.namespaces, anew.namespaces);
            prop_assert_eq!(now.diagnostics, anew.diagnostics);
        }
    }
}

#[test]
fn what_is_written_again_as_it_was_changes_nothing() {
    let mut store = Store::new(1);
    assert!(store.put(0, "a.yaml", &namespace("n", "1")));
    assert!(!store.put(0, "a.yaml", &namespace("n", "1")));
    assert!(store.put(0, "a.yaml", "kind: ["));
    assert!(store.put(0, "a.yaml", &namespace("n", "1")));
    assert!(store.objects().diagnostics.is_empty());
}

/// Waits until the objects are as wanted.
async fn until(objects: &mut watch::Receiver<Arc<Objects>>, wanted: impl Fn(&Objects) -> bool) {
    let seen = timeout(
        Duration::from_secs(10),
        objects.wait_for(|objects| wanted(objects)),
    )
    .await;
    seen.expect("in time").expect("provider lives");
}

fn replace(path: &Path, text: &str) {
    let temporary = path.with_extension("tmp");
    fs::write(&temporary, text).unwrap();
    fs::rename(&temporary, path).unwrap();
}

#[tokio::test]
async fn follows_edits_renames_deletions_and_late_directories() {
    let root = tempfile::tempdir().unwrap();
    let (first, second) = (root.path().join("first"), root.path().join("second"));
    fs::create_dir(&first).unwrap();
    fs::write(first.join("a.yaml"), namespace("n", "1")).unwrap();
    let files = Files::start(&[first.clone(), second.clone()]).unwrap();
    let mut objects = files.objects();
    assert_eq!(label(&objects.borrow(), "n").as_deref(), Some("1"));

    fs::write(first.join("a.yaml"), namespace("n", "2")).unwrap();
    until(&mut objects, |it| label(it, "n").as_deref() == Some("2")).await;
    replace(&first.join("a.yaml"), &namespace("n", "3"));
    until(&mut objects, |it| label(it, "n").as_deref() == Some("3")).await;
    fs::create_dir(&second).unwrap();
    fs::write(second.join("b.yml"), namespace("n", "4")).unwrap();
    until(&mut objects, |it| label(it, "n").as_deref() == Some("4")).await;
    fs::remove_dir_all(&second).unwrap();
    until(&mut objects, |it| label(it, "n").as_deref() == Some("3")).await;
    fs::remove_file(first.join("a.yaml")).unwrap();
    until(&mut objects, |it| it.namespaces.is_empty()).await;
}
