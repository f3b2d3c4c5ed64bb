//! Secrets out of files, read at start and again whenever the files change.

use std::{
    collections::BTreeSet,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use notify::{RecursiveMode, Watcher as _};
use rustls::sign::CertifiedKey;
use tokio::{
    sync::mpsc,
    time::{sleep, timeout},
};
use weir_xds::envoy::{
    config::core::v3::{DataSource, data_source::Specifier},
    extensions::transport_sockets::tls::v3::{Secret as Message, secret::Type},
};

use super::{BootstrapError, read};
use crate::{
    model::Secret,
    tls,
    xds::{
        Source, State, Store,
        decode::{Context, Decode as _, Origin},
    },
};

/// Several files of one rotation change together: so long nothing more must change before they are read.
const SETTLE: Duration = Duration::from_millis(50);
/// Where changes are not told (some network file systems), they are seen within this.
const LOOK: Duration = Duration::from_secs(60);

/// A secret whose bytes are in files.
#[derive(Clone, Debug)]
pub struct FileSecret {
    /// Its name.
    pub name: String,
    pub(super) from: From,
    /// Where to look for changes beside the files' own directories.
    pub(super) watched: Option<PathBuf>,
}

/// Where a secret is described.
#[derive(Clone, Debug)]
pub(super) enum From {
    /// In a file that holds a `DiscoveryResponse`.
    Sds(PathBuf),
    /// In the bootstrap, which names files with the bytes.
    Bootstrap(Box<Message>),
}

impl FileSecret {
    /// The message that describes it.
    pub(super) fn message(&self) -> Result<Message, BootstrapError> {
        match &self.from {
            From::Sds(path) => described(&self.name, path),
            From::Bootstrap(message) => Ok((**message).clone()),
        }
    }

    /// Directories in which something changes when the secret does.
    fn directories(&self) -> BTreeSet<PathBuf> {
        let mut files: Vec<PathBuf> = Vec::new();
        if let From::Sds(path) = &self.from {
            files.push(path.clone());
        }
        if let Ok(message) = self.message() {
            files.extend(sources(&message).into_iter().filter_map(path_of));
            files.extend(watched_directory(&message).map(|directory| directory.join("any")));
        }
        let parents = files.iter().map(|file| match file.parent() {
            Some(parent) if parent != Path::new("") => parent.to_owned(),
            _ => PathBuf::from("."),
        });
        parents.chain(self.watched.clone()).collect()
    }

    /// Reads it, and checks that certificate and key belong together: they may be written one after the other.
    fn load(&self) -> Result<Secret, BootstrapError> {
        let secret = self.message()?.decode(&mut Context::new(Origin::Bootstrap))?;
        if let Secret::Certificate(certificate) = &secret {
            let (chain, key) = (certificate.chain.clone(), certificate.key.clone_key());
            CertifiedKey::from_der(chain, key, &tls::provider()).map_err(|error| {
                BootstrapError::Invalid(format!(
                    "secret {:?}: the certificate and its key do not fit: {error}",
                    self.name
                ))
            })?;
        }
        Ok(secret)
    }
}

/// The secret of this name in a file that holds a `DiscoveryResponse`.
fn described(name: &str, path: &Path) -> Result<Message, BootstrapError> {
    let origin = path.display().to_string();
    let mut content = read::file(path)?;
    let resources = content
        .get_mut("resources")
        .and_then(serde_json::Value::as_array_mut)
        .ok_or_else(|| BootstrapError::Field {
            origin: origin.clone(),
            path: "resources".to_owned(),
            reason: "expected a list of secrets".to_owned(),
        })?;
    for resource in resources {
        if let Some(fields) = resource.as_object_mut() {
            fields.remove("@type");
        }
        let secret: Message = read::typed(resource.take(), &origin)?;
        if secret.name == name {
            return Ok(secret);
        }
    }
    Err(BootstrapError::Invalid(format!(
        "{origin} holds no secret named {name:?}"
    )))
}

fn sources(message: &Message) -> Vec<&DataSource> {
    match &message.r#type {
        Some(Type::TlsCertificate(certificate)) => {
            let both = certificate
                .certificate_chain
                .iter()
                .chain(&certificate.private_key);
            both.collect()
        }
        Some(Type::ValidationContext(validation)) => validation.trusted_ca.iter().collect(),
        None => Vec::new(),
    }
}

fn path_of(source: &DataSource) -> Option<PathBuf> {
    match &source.specifier {
        Some(Specifier::Filename(path)) => Some(path.into()),
        _ => None,
    }
}

/// The directory that a secret asks to be watched.
pub(super) fn watched_directory(message: &Message) -> Option<PathBuf> {
    let watched = match &message.r#type {
        Some(Type::TlsCertificate(certificate)) => certificate.watched_directory.as_ref(),
        Some(Type::ValidationContext(validation)) => validation.watched_directory.as_ref(),
        None => None,
    };
    watched.map(|watched| PathBuf::from(&watched.path))
}

/// Reads the secrets again whenever their files change, for ever. What cannot be used is told, and the last good
/// one stays.
pub(super) async fn follow(secrets: Vec<FileSecret>, store: Store) {
    let (changed, mut changes) = mpsc::channel(1);
    let directories: BTreeSet<_> = secrets.iter().flat_map(FileSecret::directories).collect();
    // Held for as long as it is to watch.
    let _watcher = watch(&directories, changed);
    loop {
        for secret in &secrets {
            renew(secret, &store);
        }
        if let Ok(None) = timeout(LOOK, changes.recv()).await {
            sleep(LOOK).await;
            continue;
        }
        while let Ok(Some(())) = timeout(SETTLE, changes.recv()).await {}
    }
}

fn watch(directories: &BTreeSet<PathBuf>, changed: mpsc::Sender<()>) -> Option<notify::RecommendedWatcher> {
    let told = move |event: Result<notify::Event, notify::Error>| {
        if event.is_ok_and(|event| !event.kind.is_access()) {
            // Full: a reading is due already.
            let _ = changed.try_send(());
        }
    };
    let mut watcher = notify::recommended_watcher(told)
        .inspect_err(|error| tracing::warn!(%error, ?LOOK, "files of secrets are not watched but looked at"))
        .ok()?;
    for directory in directories {
        if let Err(error) = watcher.watch(directory, RecursiveMode::NonRecursive) {
            tracing::warn!(?directory, %error, "a directory with secrets cannot be watched");
        }
    }
    Some(watcher)
}

fn renew(secret: &FileSecret, store: &Store) {
    let name = &secret.name;
    match secret.load() {
        Ok(read) => {
            let known = store.peek::<Secret>(name);
            let same = known
                .as_ref()
                .and_then(State::ready)
                .is_some_and(|known| **known == read);
            if !same {
                tracing::info!(name, "a secret changed in its files");
                store.publish_from(name, Arc::new(read), Source::default());
            }
        }
        Err(error) => tracing::warn!(name, %error, "the last good secret stays in force"),
    }
}
