//! The mesh as a directory of manifests: a file for each app, and one for the endpoints of each service.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use serde_json::Value;

use super::{layout::Layout, manifests};

/// A directory that a controller watches.
pub(crate) struct Files {
    directory: PathBuf,
}

impl Files {
    /// A new directory that has a MeshConfig and no service yet.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn new(directory: PathBuf) -> anyhow::Result<Self> {
        fs::create_dir(&directory).with_context(|| format!("cannot make {}", directory.display()))?;
        let files = Self { directory };
        files.put("mesh", &[manifests::mesh_config()])?;
        Ok(files)
    }

    pub(crate) fn path(&self) -> &Path {
        &self.directory
    }

    /// Adds a part of the mesh.
    ///
    /// # Errors
    /// When a file cannot be written.
    pub(crate) fn add(&self, layout: &Layout) -> anyhow::Result<()> {
        let namespaces: Vec<Value> = layout
            .namespaces()
            .map(|name| manifests::namespace(&name))
            .collect();
        self.put(layout.name, &namespaces)?;
        for app in 0..layout.apps() {
            self.put(&layout.app_name(app), &manifests::app(layout, app))?;
        }
        for service in 0..layout.services {
            self.change(layout, service, true)?;
        }
        Ok(())
    }

    /// Makes the first endpoint of a service ready or not.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub(crate) fn change(&self, layout: &Layout, service: usize, first_is_ready: bool) -> anyhow::Result<()> {
        let slice = manifests::slice(layout, service, first_is_ready);
        self.put(&layout.service_name(service), &[slice])
    }

    /// Written aside and renamed: a reader sees the whole file or the one before.
    fn put(&self, name: &str, objects: &[Value]) -> anyhow::Result<()> {
        let mut text = String::new();
        for object in objects {
            text.push_str("---\n");
            text.push_str(&serde_json::to_string_pretty(object)?);
            text.push('\n');
        }
        let (aside, path) = (
            self.directory.join(format!(".{name}.new")),
            self.directory.join(format!("{name}.yaml")),
        );
        fs::write(&aside, text).with_context(|| format!("cannot write {}", aside.display()))?;
        fs::rename(&aside, &path).with_context(|| format!("cannot put {} in place", path.display()))
    }
}
