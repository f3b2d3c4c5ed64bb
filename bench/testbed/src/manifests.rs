//! The user's manifests: directories of YAML or JSON files, as `kubectl apply -f` takes them.
//!
//! Kinds the testbed does not run (policies, CRDs, RBAC) are left to others. A file that does not parse
//! keeps its last good objects.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::batch::v1::Job;
use k8s_openapi::api::core::v1::{ConfigMap, Namespace, Pod, Secret, Service};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::Value;

/// Namespace and name.
pub(crate) type Key = (String, String);

/// Something in a manifest is wrong; the file's last good objects stay in force.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {message}. The file's last good state stays in force", file.display())]
pub struct ManifestError {
    /// The file at fault.
    pub file: PathBuf,
    /// What is wrong, with the place or the object and its field.
    pub message: String,
}

/// One object of a kind the testbed runs.
#[derive(Debug, Clone, PartialEq)]
enum Object {
    Namespace(Box<Namespace>),
    Deployment(Box<Deployment>),
    StatefulSet(Box<StatefulSet>),
    Job(Box<Job>),
    Pod(Box<Pod>),
    Service(Box<Service>),
    ConfigMap(Box<ConfigMap>),
    Secret(Box<Secret>),
}

/// All objects, by kind. Of two objects with one name, the later directory's wins; within one directory, the first
/// by file name and then by place in the file.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Manifests {
    pub(crate) namespaces: BTreeMap<String, Namespace>,
    pub(crate) deployments: BTreeMap<Key, Deployment>,
    pub(crate) stateful_sets: BTreeMap<Key, StatefulSet>,
    pub(crate) jobs: BTreeMap<Key, Job>,
    pub(crate) pods: BTreeMap<Key, Pod>,
    pub(crate) services: BTreeMap<Key, Service>,
    pub(crate) config_maps: BTreeMap<Key, ConfigMap>,
    pub(crate) secrets: BTreeMap<Key, Secret>,
}

/// Directories of manifests with each file's last good objects.
#[derive(Debug)]
pub(crate) struct Directories {
    paths: Vec<PathBuf>,
    files: BTreeMap<PathBuf, (String, Vec<Object>)>,
}

impl Directories {
    pub(crate) fn new(paths: Vec<PathBuf>) -> Self {
        Self {
            paths,
            files: BTreeMap::new(),
        }
    }

    /// Reads what changed. The second part tells what is wrong with files that changed.
    pub(crate) fn read(&mut self) -> (Manifests, Vec<ManifestError>) {
        let mut errors = Vec::new();
        let mut found = Vec::new();
        for path in &self.paths {
            list(path, &mut found, &mut errors);
        }
        self.files.retain(|path, _| found.contains(path));
        for path in found {
            let text = match std::fs::read_to_string(&path) {
                Ok(text) => text,
                Err(error) => {
                    errors.push(ManifestError {
                        file: path,
                        message: error.to_string(),
                    });
                    continue;
                }
            };
            if self.files.get(&path).is_some_and(|(known, _)| *known == text) {
                continue;
            }
            match parse(&text) {
                Ok(objects) => {
                    self.files.insert(path, (text, objects));
                }
                Err(message) => {
                    self.files.entry(path.clone()).or_default().0 = text;
                    errors.push(ManifestError { file: path, message });
                }
            }
        }
        (self.join(), errors)
    }

    fn join(&self) -> Manifests {
        let mut all = Manifests::default();
        for directory in &self.paths {
            let files = self.files.iter().filter(|(path, _)| path.starts_with(directory));
            // The first is to win, so it is inserted last.
            for object in files.rev().flat_map(|(_, (_, objects))| objects.iter().rev()) {
                all.insert(object.clone());
            }
        }
        all
    }
}

fn list(dir: &Path, found: &mut Vec<PathBuf>, errors: &mut Vec<ManifestError>) {
    let entries = match std::fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) => {
            errors.push(ManifestError {
                file: dir.to_owned(),
                message: error.to_string(),
            });
            return;
        }
    };
    for path in entries.flatten().map(|entry| entry.path()) {
        let hidden = path
            .file_name()
            .is_some_and(|name| name.to_string_lossy().starts_with('.'));
        if path.is_dir() && !hidden {
            list(&path, found, errors);
        } else if !hidden
            && path
                .extension()
                .is_some_and(|e| e == "yaml" || e == "yml" || e == "json")
        {
            found.push(path);
        }
    }
}

/// All objects of a file. Blank lines stand in for the documents before, so that errors name the right line.
fn parse(text: &str) -> Result<Vec<Object>, String> {
    let mut objects = Vec::new();
    let mut document = String::new();
    let mut seen = 0;
    let mut flush = |document: &mut String, seen: usize| -> Result<(), String> {
        let blank = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
        if !document.lines().all(blank) {
            let value = serde_saphyr::from_str(document).map_err(|error| error.to_string())?;
            one(&value, &mut objects)?;
        }
        *document = "\n".repeat(seen);
        Ok(())
    };
    for line in text.lines() {
        seen += 1;
        if line == "---" || line.starts_with("--- ") {
            flush(&mut document, seen)?;
        } else {
            document.push_str(line);
            document.push('\n');
        }
    }
    flush(&mut document, seen)?;
    Ok(objects)
}

/// Adds what a document holds; the items of a List each as a document of their own.
fn one(document: &Value, objects: &mut Vec<Object>) -> Result<(), String> {
    objects.push(match document["kind"].as_str() {
        None => return Err("an object without `kind`".into()),
        Some("List") => {
            let items: Vec<Value> = match &document["items"] {
                Value::Null => Vec::new(),
                items => Vec::deserialize(items).map_err(|error| format!("items: {error}"))?,
            };
            for (index, item) in items.iter().enumerate() {
                one(item, objects).map_err(|error| format!("items[{index}]: {error}"))?;
            }
            return Ok(());
        }
        Some("Namespace") => Object::Namespace(typed(document)?),
        Some("Deployment") => Object::Deployment(typed(document)?),
        Some("StatefulSet") => Object::StatefulSet(typed(document)?),
        Some("Job") => Object::Job(typed(document)?),
        Some("Pod") => Object::Pod(typed(document)?),
        Some("Service") => Object::Service(typed(document)?),
        Some("ConfigMap") => Object::ConfigMap(typed(document)?),
        Some("Secret") => Object::Secret(typed(document)?),
        Some(_) => return Ok(()),
    });
    Ok(())
}

/// Reads an object as its kind demands. Not from YAML itself: that would be code of its own for each field of Kubernetes.
fn typed<T: DeserializeOwned>(document: &Value) -> Result<T, String> {
    serde_path_to_error::deserialize(document).map_err(|error| {
        let [kind, name] = [&document["kind"], &document["metadata"]["name"]];
        let [kind, name] = [kind, name].map(|text| text.as_str().unwrap_or_default());
        format!("{kind} {name}: {error}")
    })
}

impl Manifests {
    fn insert(&mut self, object: Object) {
        fn key(meta: &mut k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta) -> Key {
            let namespace = meta.namespace.get_or_insert_with(|| "default".into()).clone();
            (namespace, meta.name.clone().unwrap_or_default())
        }
        match object {
            Object::Namespace(object) => {
                self.namespaces
                    .insert(object.metadata.name.clone().unwrap_or_default(), *object);
            }
            Object::Deployment(mut object) => {
                drop(self.deployments.insert(key(&mut object.metadata), *object))
            }
            Object::StatefulSet(mut object) => {
                drop(self.stateful_sets.insert(key(&mut object.metadata), *object))
            }
            Object::Job(mut object) => drop(self.jobs.insert(key(&mut object.metadata), *object)),
            Object::Pod(mut object) => drop(self.pods.insert(key(&mut object.metadata), *object)),
            Object::Service(mut object) => drop(self.services.insert(key(&mut object.metadata), *object)),
            Object::ConfigMap(mut object) => {
                drop(self.config_maps.insert(key(&mut object.metadata), *object))
            }
            Object::Secret(mut object) => drop(self.secrets.insert(key(&mut object.metadata), *object)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "# a comment\n---\nkind: Service\nmetadata: {name: a, namespace: ns}\n---\nkind: TrafficSplit\nmetadata: {name: x}\nspec: {}\n";

    #[test]
    fn kinds_of_others_are_left_alone() {
        assert!(matches!(parse(GOOD).unwrap().as_slice(), [Object::Service(_)]));
    }

    #[test]
    fn the_items_of_a_list_are_objects() {
        let list =
            "apiVersion: v1\nitems:\n- kind: Service\n  metadata: {name: a}\n- kind: Role\nkind: List\n";
        assert!(matches!(parse(list).unwrap().as_slice(), [Object::Service(_)]));
        let error = parse(&list.replace("{name: a}", "7")).unwrap_err();
        assert!(error.starts_with("items[0]: "), "{error}");
        let error = parse("kind: List\nitems: 7\n").unwrap_err();
        assert!(error.starts_with("items: "), "{error}");
        assert!(parse("kind: List\n").unwrap().is_empty());
    }

    #[test]
    fn errors_name_the_line_or_the_field() {
        let error = parse("kind: Service\n---\nkind: Service\nspec: [\n").unwrap_err();
        assert!(error.contains("line 4") || error.contains("line 5"), "{error}");
        let error = parse("kind: Service\nmetadata: {name: a}\nspec:\n  ports: 7\n").unwrap_err();
        assert!(error.starts_with("Service a: spec.ports: "), "{error}");
    }

    #[test]
    fn a_broken_file_keeps_its_last_good_objects() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("a.yaml");
        std::fs::write(&file, GOOD).unwrap();
        let mut directory = Directories::new(vec![dir.path().to_owned()]);
        assert_eq!(directory.read().0.services.len(), 1);
        std::fs::write(&file, "kind: [").unwrap();
        let (kept, errors) = directory.read();
        assert_eq!((kept.services.len(), errors.len()), (1, 1));
        assert_eq!(directory.read().1.len(), 0, "an error is told once");
        std::fs::remove_file(&file).unwrap();
        assert_eq!(directory.read().0.services.len(), 0);
    }

    #[test]
    fn a_later_directory_and_an_earlier_file_win() {
        let service = |ip: &str| {
            format!("kind: Service\nmetadata: {{name: a, namespace: ns}}\nspec: {{clusterIP: {ip}}}\n")
        };
        let (first, second) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        std::fs::write(first.path().join("a.yaml"), service("10.96.0.1")).unwrap();
        std::fs::write(second.path().join("a.yaml"), service("10.96.0.2")).unwrap();
        std::fs::write(second.path().join("b.yaml"), service("10.96.0.3")).unwrap();
        let mut directories = Directories::new(vec![first.path().to_owned(), second.path().to_owned()]);
        let services = directories.read().0.services;
        let ips: Vec<_> = services
            .values()
            .map(|service| service.spec.clone().unwrap().cluster_ip.unwrap())
            .collect();
        assert_eq!(ips, ["10.96.0.2"]);
    }
}
