//! The files provider: directories of manifests, watched.
//!
//! A thread of its own reads; a change is published some 20 ms after the last event of it, so that a rewrite or a
//! rename in several steps is one change. Every 2 s it looks for what no event told, a directory that was not there
//! before among it.

use std::{
    collections::{BTreeSet, HashMap},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, Receiver, RecvTimeoutError, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use thiserror::Error;
use tokio::sync::watch;
use tracing::{debug, warn};

use super::{Objects, Provider, Store};

const DEBOUNCE: Duration = Duration::from_millis(20);
/// A file that is written without pause is read all the same.
const LONGEST_DEBOUNCE: Duration = Duration::from_millis(200);
const POLL: Duration = Duration::from_secs(2);
const POLL_MISSING: Duration = Duration::from_millis(250);

/// Why watching could not start.
#[derive(Debug, Error)]
pub enum FilesError {
    /// The kernel gave no watch.
    #[error("cannot watch for changes of manifests: {0}; raise fs.inotify.max_user_instances")]
    Watch(#[from] notify::Error),
    /// No thread.
    #[error("cannot start the thread that reads manifests: {0}; raise the limit on processes")]
    Thread(#[from] io::Error),
}

/// The files provider. Dropping it ends the watch.
#[derive(Debug)]
pub struct Files {
    objects: watch::Receiver<Arc<Objects>>,
    events: Sender<Event>,
}

#[derive(Debug)]
enum Event {
    Changed(Vec<PathBuf>),
    /// Events were lost, or there is no telling what changed.
    Anything,
    Stop,
}

impl Files {
    /// Reads the directories, the later ones winning over the earlier, and goes on watching them. A directory that
    /// is not there counts as empty until it is.
    ///
    /// # Errors
    /// When there is no way to watch.
    pub fn start(directories: &[PathBuf]) -> Result<Self, FilesError> {
        let (events, incoming) = mpsc::channel();
        let notices = events.clone();
        let watcher = notify::recommended_watcher(move |event: notify::Result<notify::Event>| {
            let event = match event {
                Ok(event) if event.kind.is_access() => return,
                Ok(event) if !event.need_rescan() => Event::Changed(event.paths),
                _ => Event::Anything,
            };
            // The reader is gone only when the provider is.
            let _ = notices.send(event);
        })?;
        let mut reader = Reader::new(directories, watcher);
        reader.look(&BTreeSet::new());
        let (publish, objects) = watch::channel(Arc::new(reader.store.objects()));
        thread::Builder::new()
            .name("manifests".to_owned())
            .spawn(move || reader.run(&incoming, &publish))?;
        Ok(Self { objects, events })
    }
}

impl Provider for Files {
    fn objects(&self) -> watch::Receiver<Arc<Objects>> {
        self.objects.clone()
    }
}

impl Drop for Files {
    fn drop(&mut self) {
        let _ = self.events.send(Event::Stop);
    }
}

/// What tells one state of a file from another without reading it.
type Stamp = (u64, u64, u64, i64, i64);

struct Directory {
    path: PathBuf,
    /// Device and inode of the directory that is watched.
    watched: Option<(u64, u64)>,
    stamps: HashMap<PathBuf, Stamp>,
}

struct Reader {
    store: Store,
    directories: Vec<Directory>,
    watcher: RecommendedWatcher,
}

impl Reader {
    fn new(directories: &[PathBuf], watcher: RecommendedWatcher) -> Self {
        let directory = |path: &PathBuf| Directory {
            path: path.clone(),
            watched: None,
            stamps: HashMap::new(),
        };
        Self {
            store: Store::new(directories.len()),
            directories: directories.iter().map(directory).collect(),
            watcher,
        }
    }

    fn run(mut self, events: &Receiver<Event>, publish: &watch::Sender<Arc<Objects>>) {
        loop {
            let missing = self
                .directories
                .iter()
                .any(|directory| directory.watched.is_none());
            let poll = if missing { POLL_MISSING } else { POLL };
            let Some(changed) = gather(events, poll) else {
                return;
            };
            if self.look(&changed) {
                publish.send_replace(Arc::new(self.store.objects()));
            }
        }
    }

    /// Reads what changed since the last look, and the files of `changed` in any case. Whether anything did.
    fn look(&mut self, changed: &BTreeSet<PathBuf>) -> bool {
        let mut any = false;
        for index in 0..self.directories.len() {
            self.watch(index);
            any |= self.look_into(index, changed);
        }
        any
    }

    /// Watches the directory that is now at the path. A watch follows the inode, not the path.
    fn watch(&mut self, index: usize) {
        let directory = &mut self.directories[index];
        let now = fs::metadata(&directory.path).ok().filter(fs::Metadata::is_dir);
        let now = now.map(|meta| (meta.dev(), meta.ino()));
        if now == directory.watched {
            return;
        }
        if directory.watched.take().is_some() {
            // The kernel has dropped the watch of a removed directory already.
            let _ = self.watcher.unwatch(&directory.path);
        }
        if now.is_none() {
            return;
        }
        match self.watcher.watch(&directory.path, RecursiveMode::NonRecursive) {
            Ok(()) => directory.watched = now,
            Err(error) => {
                warn!(directory = %directory.path.display(), %error, "cannot watch; looking every 250 ms instead");
            }
        }
    }

    fn look_into(&mut self, index: usize, changed: &BTreeSet<PathBuf>) -> bool {
        let directory = &mut self.directories[index];
        let found = match list(&directory.path) {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => HashMap::new(),
            Err(error) => {
                warn!(
                    directory = %directory.path.display(), %error,
                    "cannot list the manifests; the last ones stay in force; make the directory readable"
                );
                return false;
            }
        };
        let mut any = false;
        for path in directory.stamps.keys() {
            if !found.contains_key(path) {
                debug!(file = %path.display(), "removed");
                self.store.remove(index, &path.to_string_lossy());
                any = true;
            }
        }
        for (path, stamp) in &found {
            if directory.stamps.get(path) != Some(stamp) || changed.contains(path) {
                any |= read(&mut self.store, index, path);
            }
        }
        directory.stamps = found;
        any
    }
}

fn read(store: &mut Store, directory: usize, path: &Path) -> bool {
    let name = path.to_string_lossy();
    match fs::read_to_string(path) {
        Ok(text) => store.put(directory, &name, &text),
        // Gone since it was listed: the next look notices.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return false,
        Err(error) => store.unreadable(directory, &name, &error.to_string()),
    }
    true
}

fn list(directory: &Path) -> io::Result<HashMap<PathBuf, Stamp>> {
    let mut found = HashMap::new();
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        if !is_manifest(&path) {
            continue;
        }
        if let Ok(meta) = fs::metadata(&path)
            && meta.is_file()
        {
            let stamp = (
                meta.dev(),
                meta.ino(),
                meta.len(),
                meta.mtime(),
                meta.mtime_nsec(),
            );
            found.insert(path, stamp);
        }
    }
    Ok(found)
}

/// Whether a name is that of a manifest; editors' temporary files are not.
fn is_manifest(path: &Path) -> bool {
    let name = path
        .file_name()
        .and_then(|name| name.to_str())
        .unwrap_or_default();
    let extension = path.extension().and_then(|extension| extension.to_str());
    !name.starts_with(['.', '#', '~']) && matches!(extension, Some("yaml" | "yml" | "json"))
}

/// Waits for events and for quiet after them, at most `poll`. `None`: stop.
fn gather(events: &Receiver<Event>, poll: Duration) -> Option<BTreeSet<PathBuf>> {
    let mut changed = BTreeSet::new();
    let mut wait = poll;
    let mut first = None;
    loop {
        match events.recv_timeout(wait) {
            Ok(Event::Changed(paths)) => changed.extend(paths),
            Ok(Event::Anything) => {}
            Ok(Event::Stop) | Err(RecvTimeoutError::Disconnected) => return None,
            Err(RecvTimeoutError::Timeout) => return Some(changed),
        }
        let since = *first.get_or_insert_with(Instant::now);
        wait = DEBOUNCE.min(LONGEST_DEBOUNCE.saturating_sub(since.elapsed()));
    }
}
