//! The docker-archive format: a tar of a configuration, a layer (a tar itself) and a manifest that names both.
//!
//! Source: the image specification v1.2 of Moby. Everything written depends on the input only, so that the same
//! programs make the same bytes.

use std::{
    collections::BTreeSet,
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};

use anyhow::{Context, ensure};
use aws_lc_rs::digest::{SHA256, digest};
use serde_json::json;
use tar::{Builder, EntryType, Header};

/// Directories that programs expect to find, whatever the image holds.
const DIRECTORIES: [(&str, u32); 4] = [
    ("etc", 0o755),
    ("run", 0o755),
    ("tmp", 0o1777),
    ("var/run", 0o755),
];

/// An image of one layer.
#[derive(Clone, Debug, Default)]
pub struct Image {
    reference: String,
    entrypoint: Vec<String>,
    user: String,
    files: Vec<File>,
}

#[derive(Clone, Debug)]
struct File {
    /// Without a leading slash.
    path: PathBuf,
    content: Content,
}

#[derive(Clone, Debug)]
enum Content {
    Copy(PathBuf),
    Text(Vec<u8>),
}

impl Image {
    /// An image called `reference` (`name:tag`), empty so far.
    #[must_use]
    pub fn new(reference: impl Into<String>) -> Self {
        Self {
            reference: reference.into(),
            ..Self::default()
        }
    }

    /// The name and tag.
    #[must_use]
    pub fn reference(&self) -> &str {
        &self.reference
    }

    /// What a container of the image runs, before the arguments of the pod.
    #[must_use]
    pub fn entrypoint(mut self, argv: &[&str]) -> Self {
        self.entrypoint = argv.iter().map(|&word| word.to_owned()).collect();
        self
    }

    /// The user and group that a container runs as, as numbers: `1500:1500`. Root, unless it is said.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// Adds a copy of a file, readable and executable by all.
    #[must_use]
    pub fn file(mut self, from: impl Into<PathBuf>, to: &str) -> Self {
        self.add(to, Content::Copy(from.into()));
        self
    }

    /// Adds a file with this content.
    #[must_use]
    pub fn text(mut self, to: &str, content: &str) -> Self {
        self.add(to, Content::Text(content.as_bytes().to_vec()));
        self
    }

    fn add(&mut self, to: &str, content: Content) {
        let path = PathBuf::from(to.trim_start_matches('/'));
        self.files.retain(|file| file.path != path);
        self.files.push(File { path, content });
    }

    /// Writes the archive; the size of its layer in bytes, which is what the image takes on a node.
    ///
    /// # Errors
    /// When a file cannot be read, or the archive not be written.
    pub fn write(&self, out: impl Write) -> anyhow::Result<u64> {
        ensure!(
            self.reference.contains(':'),
            "image {:?} has no tag: give it as name:tag",
            self.reference
        );
        let layer = self.layer()?;
        let configuration = self.configuration(&sha256(&layer))?;
        let named = format!("{}.json", sha256(&configuration));
        let manifest = json!([{
            "Config": named,
            "RepoTags": [self.reference],
            "Layers": ["layer.tar"],
        }]);
        let mut archive = Builder::new(out);
        for (path, bytes) in [
            (named.as_str(), &configuration),
            ("layer.tar", &layer),
            ("manifest.json", &serde_json::to_vec(&manifest)?),
        ] {
            append(&mut archive, Path::new(path), EntryType::Regular, 0o644, bytes)?;
        }
        archive.into_inner()?.flush()?;
        Ok(layer.len() as u64)
    }

    /// Writes the archive into a file.
    ///
    /// # Errors
    /// As [`Image::write`].
    pub fn save(&self, path: &Path) -> anyhow::Result<u64> {
        let file = fs::File::create(path).with_context(|| format!("cannot create {}", path.display()))?;
        self.write(io::BufWriter::new(file))
            .with_context(|| format!("cannot write image {} to {}", self.reference, path.display()))
    }

    fn layer(&self) -> anyhow::Result<Vec<u8>> {
        let mut layer = Builder::new(Vec::new());
        let mut made = BTreeSet::new();
        for (directory, mode) in DIRECTORIES {
            directories(&mut layer, &mut made, Path::new(directory), mode)?;
        }
        for file in &self.files {
            let bytes = match &file.content {
                Content::Copy(from) => {
                    &fs::read(from).with_context(|| format!("cannot read {}", from.display()))?
                }
                Content::Text(bytes) => bytes,
            };
            if let Some(parent) = file.path.parent() {
                directories(&mut layer, &mut made, parent, 0o755)?;
            }
            append(&mut layer, &file.path, EntryType::Regular, 0o755, bytes)?;
        }
        Ok(layer.into_inner()?)
    }

    fn configuration(&self, layer: &str) -> anyhow::Result<Vec<u8>> {
        let configuration = json!({
            "architecture": architecture(),
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint, "User": self.user},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{layer}")]},
            "history": [{"created_by": "weir-images"}],
        });
        Ok(serde_json::to_vec(&configuration)?)
    }
}

/// The machine's kind, as images name it.
fn architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

fn sha256(bytes: &[u8]) -> String {
    let digest = digest(&SHA256, bytes);
    digest.as_ref().iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Adds a directory after those above it, each once.
fn directories(
    tar: &mut Builder<Vec<u8>>,
    made: &mut BTreeSet<PathBuf>,
    path: &Path,
    mode: u32,
) -> io::Result<()> {
    if path.as_os_str().is_empty() || !made.insert(path.to_owned()) {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        directories(tar, made, parent, 0o755)?;
    }
    append(tar, path, EntryType::Directory, mode, &[])
}

fn append(
    tar: &mut Builder<impl Write>,
    path: &Path,
    kind: EntryType,
    mode: u32,
    bytes: &[u8],
) -> io::Result<()> {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(bytes.len() as u64);
    tar.append_data(&mut header, path, bytes)
}

#[cfg(test)]
mod tests {
    use std::{collections::BTreeMap, io::Read};

    use super::*;

    fn read(archive: &[u8]) -> BTreeMap<String, (EntryType, u32, Vec<u8>)> {
        let mut archive = tar::Archive::new(archive);
        let entries = archive.entries().unwrap().map(|entry| {
            let mut entry = entry.unwrap();
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).unwrap();
            let header = entry.header();
            let path = entry.path().unwrap().to_str().unwrap().to_owned();
            (path, (header.entry_type(), header.mode().unwrap(), bytes))
        });
        entries.collect()
    }

    fn packed(image: &Image) -> Vec<u8> {
        let mut bytes = Vec::new();
        image.write(&mut bytes).unwrap();
        bytes
    }

    #[test]
    fn the_manifest_leads_to_the_configuration_and_the_layer_it_names() {
        let image = Image::new("a:1")
            .entrypoint(&["/a"])
            .user("7:8")
            .text("/opt/a/b", "hello");
        let files = read(&packed(&image));
        let manifest: serde_json::Value = serde_json::from_slice(&files["manifest.json"].2).unwrap();
        assert_eq!(manifest[0]["RepoTags"][0], "a:1");
        let configuration = &files[manifest[0]["Config"].as_str().unwrap()].2;
        assert_eq!(
            format!("{}.json", sha256(configuration)),
            manifest[0]["Config"].as_str().unwrap()
        );
        let configuration: serde_json::Value = serde_json::from_slice(configuration).unwrap();
        assert_eq!(configuration["config"]["User"], "7:8");
        assert_eq!(configuration["config"]["Entrypoint"][0], "/a");
        let layer = &files["layer.tar"].2;
        assert_eq!(
            configuration["rootfs"]["diff_ids"][0].as_str().unwrap(),
            format!("sha256:{}", sha256(layer))
        );
        let layer = read(layer);
        assert_eq!(layer["opt/a/b"], (EntryType::Regular, 0o755, b"hello".to_vec()));
        assert_eq!(layer["opt/a"].0, EntryType::Directory);
        assert_eq!(layer["tmp"].1, 0o1777);
    }

    #[test]
    fn the_same_files_make_the_same_archive() {
        let image = Image::new("a:1").text("/b", "x").text("/c/d/e", "y");
        assert_eq!(packed(&image), packed(&image));
    }

    #[test]
    fn what_is_missing_is_named() {
        let mut nowhere = Vec::new();
        let error = Image::new("a:1")
            .file("/no/such/program", "/a")
            .write(&mut nowhere)
            .unwrap_err();
        assert!(format!("{error:#}").contains("/no/such/program"), "{error:#}");
        let error = Image::new("a").write(&mut nowhere).unwrap_err();
        assert!(error.to_string().contains("no tag"), "{error}");
    }
}
