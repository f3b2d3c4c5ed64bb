//! A pod's volumes, made as directories of the host before its containers start.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use k8s_openapi::api::core::v1::{DownwardAPIVolumeFile, KeyToPath, Pod, Volume};

use crate::environment::{config_map_data, field, secret_data};
use crate::manifests::Manifests;
use crate::options::{Mint, TokenRequest};

type Files = BTreeMap<String, Vec<u8>>;

/// A pod's volumes by name, as host paths.
#[derive(Debug, Default)]
pub(crate) struct Volumes {
    paths: BTreeMap<String, PathBuf>,
    /// Volumes with tokens, which must be written anew before they expire.
    tokens: Vec<Volume>,
    lifetime: Option<i64>,
}

impl Volumes {
    /// Makes all volumes of `pod` below `dir`.
    pub(crate) fn make(dir: &Path, pod: &Pod, objects: &Manifests, mint: &Mint) -> Result<Self> {
        let mut volumes = Self::default();
        for volume in pod.spec.iter().flat_map(|spec| spec.volumes.iter().flatten()) {
            let path = dir.join(&volume.name);
            let path = volumes
                .one(&path, volume, pod, objects, mint)
                .with_context(|| format!("volume {}", volume.name))?;
            volumes.paths.insert(volume.name.clone(), path);
        }
        Ok(volumes)
    }

    pub(crate) fn path(&self, name: &str) -> Option<&Path> {
        self.paths.get(name).map(PathBuf::as_path)
    }

    /// After how long tokens are to be refreshed: at 80 % of the shortest lifetime, as the kubelet does.
    pub(crate) fn refresh_after(&self) -> Option<std::time::Duration> {
        let seconds = u64::try_from(self.lifetime?).ok()?;
        Some(std::time::Duration::from_secs((seconds * 4 / 5).max(1)))
    }

    /// Writes the volumes with tokens anew.
    pub(crate) fn refresh(&self, pod: &Pod, objects: &Manifests, mint: &Mint) -> Result<()> {
        for volume in &self.tokens {
            if let Some(path) = self.paths.get(&volume.name) {
                let (files, _) = projected(volume, pod, objects, mint)?;
                publish(path, &files)?;
            }
        }
        Ok(())
    }

    fn one(
        &mut self,
        path: &Path,
        volume: &Volume,
        pod: &Pod,
        objects: &Manifests,
        mint: &Mint,
    ) -> Result<PathBuf> {
        let namespace = pod.metadata.namespace.clone().unwrap_or_default();
        if let Some(host) = &volume.host_path {
            let host_path = PathBuf::from(&host.path);
            if matches!(host.type_.as_deref(), Some("DirectoryOrCreate")) {
                fs::create_dir_all(&host_path)?;
            }
            if !host_path.exists() {
                bail!("hostPath {} does not exist", host.path);
            }
            return Ok(host_path);
        }
        fs::create_dir_all(path)?;
        if let Some(source) = &volume.config_map {
            let name = &source.name;
            match objects.config_maps.get(&(namespace, name.clone())) {
                Some(map) => publish(
                    path,
                    &pick(config_map_data(map), source.items.as_deref(), "ConfigMap", name)?,
                )?,
                None if source.optional == Some(true) => {}
                None => bail!("ConfigMap {name} does not exist in the pod's namespace"),
            }
        } else if let Some(source) = &volume.secret {
            let name = source.secret_name.clone().unwrap_or_default();
            match objects.secrets.get(&(namespace, name.clone())) {
                Some(secret) => publish(
                    path,
                    &pick(secret_data(secret), source.items.as_deref(), "Secret", &name)?,
                )?,
                None if source.optional == Some(true) => {}
                None => bail!("Secret {name} does not exist in the pod's namespace"),
            }
        } else if let Some(source) = &volume.downward_api {
            publish(path, &downward(source.items.as_deref(), pod)?)?;
        } else if volume.projected.is_some() {
            let (files, lifetime) = projected(volume, pod, objects, mint)?;
            publish(path, &files)?;
            if let Some(lifetime) = lifetime {
                self.tokens.push(volume.clone());
                self.lifetime = Some(self.lifetime.map_or(lifetime, |known| known.min(lifetime)));
            }
        } else if volume.empty_dir.is_some() || is_unspecified(volume) {
            fs::set_permissions(path, fs::Permissions::from_mode(0o777))?;
        } else {
            bail!(
                "this kind of volume is not supported: use emptyDir, hostPath, configMap, secret, downwardAPI or projected"
            );
        }
        Ok(path.to_owned())
    }
}

/// A volume with a name only is an emptyDir.
fn is_unspecified(volume: &Volume) -> bool {
    *volume
        == Volume {
            name: volume.name.clone(),
            ..Volume::default()
        }
}

/// Files of a projected volume, and the shortest token lifetime in seconds.
fn projected(volume: &Volume, pod: &Pod, objects: &Manifests, mint: &Mint) -> Result<(Files, Option<i64>)> {
    let namespace = pod.metadata.namespace.clone().unwrap_or_default();
    let (mut files, mut lifetime) = (Files::new(), None);
    for source in volume
        .projected
        .iter()
        .flat_map(|projected| projected.sources.iter().flatten())
    {
        if let Some(token) = &source.service_account_token {
            let seconds = token.expiration_seconds.unwrap_or(3600);
            let request = TokenRequest {
                namespace: namespace.clone(),
                service_account: field(pod, "spec.serviceAccountName").unwrap_or_default(),
                pod_name: pod.metadata.name.clone().unwrap_or_default(),
                pod_uid: pod.metadata.uid.clone().unwrap_or_default(),
                audience: token.audience.clone().unwrap_or_default(),
                expiration: std::time::Duration::from_secs(u64::try_from(seconds).unwrap_or(3600)),
            };
            files.insert(
                token.path.clone(),
                mint(&request)
                    .context("mint a ServiceAccount token")?
                    .into_bytes(),
            );
            lifetime = Some(lifetime.map_or(seconds, |known: i64| known.min(seconds)));
        }
        if let Some(source) = &source.downward_api {
            files.extend(downward(source.items.as_deref(), pod)?);
        }
        if let Some(source) = &source.config_map {
            match objects.config_maps.get(&(namespace.clone(), source.name.clone())) {
                Some(map) => {
                    files.extend(pick(
                        config_map_data(map),
                        source.items.as_deref(),
                        "ConfigMap",
                        &source.name,
                    )?);
                }
                None if source.optional == Some(true) => {}
                None => bail!("ConfigMap {} does not exist in the pod's namespace", source.name),
            }
        }
        if let Some(source) = &source.secret {
            match objects.secrets.get(&(namespace.clone(), source.name.clone())) {
                Some(secret) => {
                    files.extend(pick(
                        secret_data(secret),
                        source.items.as_deref(),
                        "Secret",
                        &source.name,
                    )?);
                }
                None if source.optional == Some(true) => {}
                None => bail!("Secret {} does not exist in the pod's namespace", source.name),
            }
        }
    }
    Ok((files, lifetime))
}

fn downward(items: Option<&[DownwardAPIVolumeFile]>, pod: &Pod) -> Result<Files> {
    let mut files = Files::new();
    for item in items.unwrap_or_default() {
        let path = item
            .field_ref
            .as_ref()
            .map(|reference| reference.field_path.as_str())
            .unwrap_or_default();
        let value = field(pod, path).with_context(|| format!("downwardAPI has no field {path:?}"))?;
        files.insert(item.path.clone(), value.into_bytes());
    }
    Ok(files)
}

/// All of `data`, or only `items` under their own paths.
fn pick(mut data: Files, items: Option<&[KeyToPath]>, kind: &str, name: &str) -> Result<Files> {
    let Some(items) = items else { return Ok(data) };
    items
        .iter()
        .map(|item| {
            let content = data
                .remove(&item.key)
                .with_context(|| format!("{kind} {name} has no key {}", item.key))?;
            Ok((item.path.clone(), content))
        })
        .collect()
}

/// Replaces a volume's content at once: a new directory, then the link `..data` is swung over to it.
fn publish(dir: &Path, files: &Files) -> Result<()> {
    let version = (0u64..)
        .map(|number| format!("..{number}"))
        .find(|name| !dir.join(name).exists())
        .context("no version is free")?;
    let old = fs::read_link(dir.join("..data")).ok();
    for (name, content) in files {
        let path = dir.join(&version).join(name);
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent)?;
        }
        fs::write(&path, content)?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))?;
        let first = Path::new(name).components().next().context("an empty path")?;
        let visible = dir.join(first);
        if fs::symlink_metadata(&visible).is_err() {
            symlink(Path::new("..data").join(first), &visible)?;
        }
    }
    fs::create_dir_all(dir.join(&version))?;
    let fresh = dir.join("..data_new");
    symlink(&version, &fresh)?;
    fs::rename(&fresh, dir.join("..data"))?;
    if let Some(old) = old {
        fs::remove_dir_all(dir.join(old))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_is_replaced_in_one_step_and_old_versions_go() {
        let dir = tempfile::tempdir().unwrap();
        let files = |text: &str| Files::from([("token".to_owned(), text.as_bytes().to_vec())]);
        for text in ["one", "two", "three"] {
            publish(dir.path(), &files(text)).unwrap();
            assert_eq!(fs::read_to_string(dir.path().join("token")).unwrap(), text);
        }
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 3);
    }
}
