//! What the pure checks look at.

use weir_controller::{
    catalog::{Settings, Snapshot},
    endpoints::Objects,
    injector::{self, NamespaceMeta},
    spec::{ObjectName, is_monitored},
};

/// The mesh's objects, and what the catalog makes of them.
pub(super) struct View<'a> {
    pub(super) objects: &'a Objects,
    pub(super) settings: &'a Settings,
    pub(super) snapshot: &'a Snapshot,
    /// Only these are looked at; none: all.
    pub(super) namespaces: &'a [String],
}

impl View<'_> {
    /// Whether a namespace is looked at. Objects of the cluster as a whole always are.
    pub(super) fn has(&self, namespace: &str) -> bool {
        let all = self.namespaces.is_empty() || namespace.is_empty();
        all || self.namespaces.iter().any(|wanted| wanted == namespace)
    }

    /// A namespace's labels and annotations.
    pub(super) fn namespace(&self, name: &str) -> Option<NamespaceMeta> {
        let stored = self.objects.namespaces.get(&ObjectName::new("", name))?;
        Some(NamespaceMeta::of(&stored.value))
    }

    /// Whether a namespace belongs to the mesh.
    pub(super) fn is_monitored(&self, name: &str) -> bool {
        self.namespace(name)
            .is_some_and(|found| is_monitored(&found.labels, &self.settings.mesh_name))
    }

    /// What the injector goes by.
    pub(super) fn injection(&self) -> injector::Settings {
        injector::Settings {
            mesh_name: self.settings.mesh_name.clone(),
            mesh_namespace: self.settings.namespace.clone(),
            ..injector::Settings::default()
        }
    }
}
