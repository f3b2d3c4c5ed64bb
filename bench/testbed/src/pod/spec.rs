//! From a container of a pod to the [`Spec`] of its process.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use k8s_openapi::api::core::v1::Container;

use super::Context;
use crate::container::{Mount, Spec, capabilities};
use crate::environment;

const PATH: &str = "/:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Resolves everything `container` needs to be started.
pub(super) fn resolve(context: &Context, container: &Container) -> Result<Spec> {
    let pod_spec = context.pod.spec.as_ref().context("the pod has no spec")?;
    let image_name = container.image.as_deref().unwrap_or_default();
    let image = context.options.image(image_name);
    let single_uid = context.options.sandbox.single_uid();

    let mut env = vec![
        ("PATH".to_owned(), PATH.to_owned()),
        (
            "HOSTNAME".to_owned(),
            context.pod.metadata.name.clone().unwrap_or_default(),
        ),
        ("HOME".to_owned(), "/root".to_owned()),
    ];
    let (uid, gid, groups) = user(context, container);
    let mut caps = security(container)?;
    if single_uid {
        env.push(("WEIR_PROXY_MARK".into(), "1500".into()));
        if uid != 0 {
            env.push(("WEIR_SOCKET_MARK".into(), uid.to_string()));
            caps |= rustix::thread::CapabilitySet::NET_ADMIN.bits();
        }
    }
    for variable in container.env.iter().flatten() {
        let source = variable.value_from.as_ref();
        if source.is_some_and(|source| source.resource_field_ref.is_some()) {
            tracing::warn!(
                container = container.name,
                variable = variable.name,
                "left out: resourceFieldRef has no figure here, as resources are not limited; write a value if it is needed"
            );
        }
    }
    let own = environment::resolve(&context.pod, container, &context.objects)?;
    env.retain(|(name, _)| !own.iter().any(|(known, _)| known == name));
    env.extend(own);

    let mut mounts = vec![
        Mount {
            source: context.hosts.clone(),
            target: "/etc/hosts".into(),
            read_only: true,
        },
        Mount {
            source: context.dir.join("resolv.conf"),
            target: "/etc/resolv.conf".into(),
            read_only: true,
        },
    ];
    let mut argv = Vec::new();
    let expand = |text: &String| environment::expand(text, &env);
    if let Some(image) = image {
        let file = image
            .executable
            .file_name()
            .ok_or_else(|| anyhow!("image {image_name} names no executable"))?;
        if !image.executable.exists() {
            bail!(
                "image {image_name}: {} does not exist; build it first",
                image.executable.display()
            );
        }
        let inside = Path::new("/").join(file);
        mounts.push(Mount {
            source: image.executable.clone(),
            target: inside.clone(),
            read_only: true,
        });
        if container.command.is_none() {
            argv.push(inside.to_string_lossy().into_owned());
            argv.extend(image.args.iter().map(expand));
        }
    } else if container.command.is_none() {
        bail!("image {image_name:?} is not in the image table and the container gives no command");
    }
    argv.extend(container.command.iter().flatten().map(expand));
    argv.extend(container.args.iter().flatten().map(expand));

    for mount in container.volume_mounts.iter().flatten() {
        let volume = context.volumes.path(&mount.name).ok_or_else(|| {
            anyhow!(
                "container {} mounts volume {}, which the pod does not have",
                container.name,
                mount.name
            )
        })?;
        let source = match mount.sub_path.as_deref().filter(|path| !path.is_empty()) {
            Some(sub) => volume.join(sub),
            None => volume.to_owned(),
        };
        mounts.push(Mount {
            source,
            target: PathBuf::from(&mount.mount_path),
            read_only: mount.read_only == Some(true),
        });
    }
    let security = container.security_context.as_ref();
    Ok(Spec {
        netns: context.network.netns.clone(),
        hostname: pod_spec
            .hostname
            .clone()
            .or_else(|| context.pod.metadata.name.clone())
            .unwrap_or_default(),
        root: context.dir.join("root").join(&container.name),
        join: None,
        mounts,
        read_only_root: security.and_then(|security| security.read_only_root_filesystem) == Some(true),
        uid,
        gid,
        groups,
        single_uid,
        capabilities: caps,
        no_new_privileges: security.and_then(|security| security.allow_privilege_escalation) == Some(false),
        env,
        working_dir: container
            .working_dir
            .clone()
            .map_or_else(|| "/".into(), PathBuf::from),
        argv,
    })
}

/// User, group and further groups: the container's, else the pod's, else root.
fn user(context: &Context, container: &Container) -> (u32, u32, Vec<u32>) {
    let pod = context
        .pod
        .spec
        .as_ref()
        .and_then(|spec| spec.security_context.as_ref());
    let own = container.security_context.as_ref();
    let id = |value: Option<i64>| value.and_then(|value| u32::try_from(value).ok());
    let uid = id(own.and_then(|own| own.run_as_user))
        .or_else(|| id(pod.and_then(|pod| pod.run_as_user)))
        .unwrap_or(0);
    let gid = id(own.and_then(|own| own.run_as_group))
        .or_else(|| id(pod.and_then(|pod| pod.run_as_group)))
        .unwrap_or(0);
    let mut groups: Vec<u32> = pod
        .and_then(|pod| pod.supplemental_groups.as_ref())
        .into_iter()
        .flatten()
        .filter_map(|group| id(Some(*group)))
        .collect();
    groups.extend(id(pod.and_then(|pod| pod.fs_group)));
    (uid, gid, groups)
}

/// Capabilities as a bit set. A container not run as root has only what it asks for.
fn security(container: &Container) -> Result<u64> {
    let own = container.security_context.as_ref();
    if own.and_then(|own| own.privileged) == Some(true) {
        bail!(
            "container {}: privileged containers are not run; ask for the capabilities it needs",
            container.name
        );
    }
    let asked = own.and_then(|own| own.capabilities.as_ref());
    let add = asked.and_then(|asked| asked.add.clone()).unwrap_or_default();
    let mut drop = asked.and_then(|asked| asked.drop.clone()).unwrap_or_default();
    if own.and_then(|own| own.run_as_user).is_some_and(|uid| uid != 0) {
        drop.push("ALL".into());
    }
    let set = capabilities::resolve(&add, &drop)
        .map_err(|name| anyhow!("container {}: unknown capability {name}", container.name))?;
    Ok(set.bits())
}
