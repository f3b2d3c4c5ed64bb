//! Files of the state directory: made once, whole or not at all, readable by their owner only.

use std::{
    fs::{self, OpenOptions},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::Path,
    process,
    sync::atomic::{AtomicU64, Ordering},
};

use tracing::warn;

use super::CertificateError;

/// Makes the directory, with access for its owner only, unless it is there.
pub(super) fn ensure_directory(path: &Path) -> Result<(), CertificateError> {
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|source| failed("create", path, source))
}

/// The file's content, or `None` when there is no such file.
pub(super) fn read(path: &Path) -> Result<Option<Vec<u8>>, CertificateError> {
    match fs::read(path) {
        Ok(content) => Ok(Some(content)),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(source) => Err(failed("read", path, source)),
    }
}

/// Warns when others than the owner can read a key.
pub(super) fn check_private(path: &Path) {
    if let Ok(metadata) = fs::metadata(path)
        && metadata.permissions().mode() & 0o077 != 0
    {
        warn!(path = %path.display(), "this key can be read by others than its owner: chmod 600 it");
    }
}

/// Creates the file with this content, unless someone was faster; returns what the file holds then.
pub(super) fn create_once(path: &Path, content: &[u8]) -> Result<Vec<u8>, CertificateError> {
    static COUNTER: AtomicU64 = AtomicU64::new(0);
    let unique = COUNTER.fetch_add(1, Ordering::Relaxed);
    let temporary = path.with_extension(format!("{}-{unique}.tmp", process::id()));
    let written = write_private(&temporary, content)
        // A hard link fails when the name is taken, where a rename would silently replace another writer's key.
        .and_then(|()| fs::hard_link(&temporary, path));
    let cleaned = fs::remove_file(&temporary);
    match written {
        Ok(()) => cleaned
            .map(|()| content.to_vec())
            .map_err(|source| failed("remove", &temporary, source)),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            fs::read(path).map_err(|source| failed("read", path, source))
        }
        Err(source) => Err(failed("create", path, source)),
    }
}

fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn failed(action: &'static str, path: &Path, source: io::Error) -> CertificateError {
    CertificateError::State {
        action,
        path: path.display().to_string(),
        source,
    }
}
