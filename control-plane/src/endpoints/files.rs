//! The files provider: directories of manifests, watched.
//!
//! A thread of its own reads the files that changed, and no others: one that was closed or moved into place at once, one
//! that is being written or was removed when nothing has happened to it for 20 ms, so that a rewrite or a rename in
//! several steps is one change. Every 2 s it looks for what no event told, a directory that was not there before among
//! it.

mod pending;

use std::{
    collections::HashMap,
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{self, Path, PathBuf},
    sync::{
        Arc,
        mpsc::{self, Receiver, Sender},
    },
    thread,
    time::{Duration, Instant},
};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use thiserror::Error;
use tokio::sync::watch;
use tracing::{debug, warn};

use self::pending::{Event, Pending};
use super::{Objects, Provider, Store};

const POLL: Duration = Duration::from_secs(2);
/// Looking at everything takes no more than this part of the time.
const POLL_SHARE: u32 = 500;
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
            // The reader is gone only when the provider is.
            let _ = Event::of(event).map(|event| notices.send(event));
        })?;
        let mut reader = Reader::new(directories, watcher);
        reader.look();
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
    /// As it was told; files are named so.
    path: PathBuf,
    /// As events name it.
    absolute: PathBuf,
    /// Device and inode of the directory that is watched.
    watched: Option<(u64, u64)>,
    stamps: HashMap<PathBuf, Stamp>,
}

struct Reader {
    store: Store,
    directories: Vec<Directory>,
    watcher: RecommendedWatcher,
    pending: Pending,
    /// When everything is looked at again.
    next_look: Instant,
}

impl Reader {
    fn new(directories: &[PathBuf], watcher: RecommendedWatcher) -> Self {
        let directory = |path: &PathBuf| Directory {
            path: path.clone(),
            absolute: path::absolute(path).unwrap_or_else(|_| path.clone()),
            watched: None,
            stamps: HashMap::new(),
        };
        Self {
            store: Store::new(directories.len()),
            directories: directories.iter().map(directory).collect(),
            watcher,
            pending: Pending::default(),
            next_look: Instant::now(),
        }
    }

    fn run(mut self, events: &Receiver<Event>, publish: &watch::Sender<Arc<Objects>>) {
        loop {
            let until = if self.directories.iter().any(|it| it.watched.is_none()) {
                self.next_look.min(Instant::now() + POLL_MISSING)
            } else {
                self.next_look
            };
            if self.pending.wait(events, until).is_none() {
                return;
            }
            let mut changed = self.look_for_missing();
            for path in self.pending.due(Instant::now()) {
                changed |= self.look_at(&path);
            }
            if self.pending.take_anything() || Instant::now() >= self.next_look {
                changed |= self.look();
            }
            if changed {
                publish.send_replace(Arc::new(self.store.objects()));
            }
        }
    }

    /// Looks for everything that changed. Whether anything did.
    fn look(&mut self) -> bool {
        let started = Instant::now();
        let mut any = false;
        for index in 0..self.directories.len() {
            self.watch(index);
            any |= self.look_into(index);
        }
        self.next_look = Instant::now() + POLL.max(started.elapsed() * POLL_SHARE);
        any
    }

    /// Looks into directories that were not there before.
    fn look_for_missing(&mut self) -> bool {
        let mut any = false;
        for index in 0..self.directories.len() {
            if self.directories.get(index).is_some_and(|it| it.watched.is_none()) {
                self.watch(index);
                any |= self.look_into(index);
            }
        }
        any
    }

    /// Reads one file of which an event told. Whether anything changed.
    fn look_at(&mut self, changed: &Path) -> bool {
        let of = |directory: &Directory| changed.parent() == Some(&directory.absolute);
        let Some(index) = self.directories.iter().position(of) else {
            // A directory itself.
            self.pending.anything();
            return false;
        };
        if !is_manifest(changed) {
            // A link that others lead through. Temporary files are nobody's business.
            if fs::symlink_metadata(changed).is_ok_and(|meta| !meta.is_file()) {
                self.pending.anything();
            }
            return false;
        }
        let Some((directory, name)) = self.directories.get_mut(index).zip(changed.file_name()) else {
            return false;
        };
        let path = directory.path.join(name);
        let stamp = fs::metadata(&path).ok().filter(fs::Metadata::is_file);
        match stamp.map(|meta| stamp_of(&meta)) {
            Some(stamp) => {
                let again = directory.stamps.insert(path.clone(), stamp).is_some();
                let rewritten = read(&mut self.store, index, &path, again);
                if rewritten.is_none() {
                    self.pending.again(changed);
                }
                rewritten.unwrap_or(false)
            }
            None => {
                directory.stamps.remove(&path);
                debug!(file = %path.display(), "removed");
                self.store.remove(index, &path.to_string_lossy())
            }
        }
    }

    /// Watches the directory that is now at the path. A watch follows the inode, not the path.
    fn watch(&mut self, index: usize) {
        let Some(directory) = self.directories.get_mut(index) else {
            return;
        };
        let now = fs::metadata(&directory.path).ok().filter(fs::Metadata::is_dir);
        let now = now.map(|meta| (meta.dev(), meta.ino()));
        if now == directory.watched {
            return;
        }
        if directory.watched.take().is_some() {
            // The kernel has dropped the watch of a removed directory already.
            let _ = self.watcher.unwatch(&directory.absolute);
        }
        if now.is_none() {
            return;
        }
        match self
            .watcher
            .watch(&directory.absolute, RecursiveMode::NonRecursive)
        {
            Ok(()) => directory.watched = now,
            Err(error) => {
                warn!(directory = %directory.path.display(), %error, "cannot watch; looking every 250 ms instead");
            }
        }
    }

    fn look_into(&mut self, index: usize) -> bool {
        let Some(directory) = self.directories.get_mut(index) else {
            return false;
        };
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
                any |= self.store.remove(index, &path.to_string_lossy());
            }
        }
        for (path, stamp) in &found {
            if directory.stamps.get(path) != Some(stamp) {
                any |= read(&mut self.store, index, path, false).unwrap_or(false);
            }
        }
        directory.stamps = found;
        any
    }
}

/// Whether anything changed; `None`: the file is empty, as one is that is being written, and `patient` was to be told.
fn read(store: &mut Store, directory: usize, path: &Path, patient: bool) -> Option<bool> {
    let name = path.to_string_lossy();
    match fs::read_to_string(path) {
        Ok(text) if text.is_empty() && patient => None,
        Ok(text) => Some(store.put(directory, &name, &text)),
        // Gone since it was listed: the next look notices.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Some(false),
        Err(error) => {
            store.unreadable(directory, &name, &error.to_string());
            Some(true)
        }
    }
}

fn stamp_of(meta: &fs::Metadata) -> Stamp {
    (
        meta.dev(),
        meta.ino(),
        meta.len(),
        meta.mtime(),
        meta.mtime_nsec(),
    )
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
            found.insert(path, stamp_of(&meta));
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
