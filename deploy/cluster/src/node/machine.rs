//! What the sandbox has to look like for a node: mounts, kernel settings, a network.

use std::{
    fs,
    io::Write,
    path::Path,
    process::{Command, Stdio},
};

use anyhow::{Context, bail};
use nix::mount::{MsFlags, mount};

use super::NODE_IP;

/// Makes the sandbox ready; `scratch` is in memory and gone with it.
pub(crate) fn prepare(scratch: &Path) -> anyhow::Result<()> {
    let none: Option<&str> = None;
    // Volumes mounted by the kubelet have to show up in containers.
    mount(none, "/", none, MsFlags::MS_REC | MsFlags::MS_SHARED, none).context("cannot share mounts")?;
    overlay(scratch)?;
    for directory in ["/run/netns", "/run/lock"] {
        fs::create_dir_all(directory)?;
    }
    settings(scratch)?;
    network()
}

/// Lays a file system in memory over /var: the kubelet and the network plugins write there whatever they are told.
fn overlay(scratch: &Path) -> anyhow::Result<()> {
    let (upper, work) = (scratch.join("var"), scratch.join("var-work"));
    fs::create_dir_all(&upper)?;
    fs::create_dir_all(&work)?;
    let options = format!(
        "lowerdir=/var,upperdir={},workdir={}",
        upper.display(),
        work.display()
    );
    mount(
        Some("overlay"),
        "/var",
        Some("overlay"),
        MsFlags::empty(),
        Some(options.as_str()),
    )
    .context("cannot lay a file system in memory over /var")?;
    // Of these, what the machine itself keeps there must not be seen.
    for directory in ["/var/lib/kubelet", "/var/lib/cni", "/var/log"] {
        fs::create_dir_all(directory)?;
        mount(
            Some("tmpfs"),
            directory,
            Some("tmpfs"),
            MsFlags::empty(),
            Some("mode=755"),
        )
        .with_context(|| format!("cannot mount a file system in memory on {directory}"))?;
    }
    Ok(())
}

/// The kubelet wants settings of the whole machine: it sees files with the wanted values in their place.
fn settings(scratch: &Path) -> anyhow::Result<()> {
    for (name, value) in [
        ("vm/overcommit_memory", "1"),
        ("kernel/panic", "10"),
        ("kernel/panic_on_oops", "1"),
    ] {
        let file = scratch.join(name.replace('/', "-"));
        fs::write(&file, format!("{value}\n"))?;
        let none: Option<&str> = None;
        let place = Path::new("/proc/sys").join(name);
        mount(Some(&file), &place, none, MsFlags::MS_BIND, none)
            .with_context(|| format!("cannot cover {}", place.display()))?;
    }
    Ok(())
}

/// One link for the node's address; it leads nowhere. ClusterIPs need a route to be rewritten on.
fn network() -> anyhow::Result<()> {
    ip(&format!(
        "link set lo up\n\
         link add node0 type veth peer name node1\n\
         link set node1 up\n\
         address add {NODE_IP}/24 dev node0\n\
         link set node0 up\n\
         route add default dev node0\n"
    ))?;
    for (name, value, needed) in [
        ("ipv4/ip_forward", "1", true),
        // Traffic between pods of the bridge has to pass kube-proxy's rules. No such file: no such module, no need.
        ("bridge/bridge-nf-call-iptables", "1", false),
    ] {
        let written = fs::write(Path::new("/proc/sys/net").join(name), value);
        if needed {
            written.with_context(|| format!("cannot set net/{name}"))?;
        }
    }
    Ok(())
}

fn ip(batch: &str) -> anyhow::Result<()> {
    let mut ip = Command::new("ip")
        .args(["-batch", "-"])
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .context("cannot start ip (package iproute2)")?;
    if let Some(mut input) = ip.stdin.take() {
        input.write_all(batch.as_bytes())?;
    }
    let output = ip.wait_with_output()?;
    if !output.status.success() {
        bail!("ip: {}", String::from_utf8_lossy(&output.stderr).trim());
    }
    Ok(())
}
