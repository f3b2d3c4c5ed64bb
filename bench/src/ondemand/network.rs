//! A network without wires: every address of the mesh is this machine's, and services are redirected to the sidecar.

use std::process::Command;

use anyhow::{Context as _, ensure};

/// Addresses of pods and services.
const MESH: &str = "10.0.0.0/8";
/// Addresses of services.
const SERVICES: &str = "10.96.0.0/12";
/// Where the sidecar takes outbound connections.
const OUTBOUND: &str = "15001";

/// Sets it up, in the sandbox.
///
/// # Errors
/// When a program is missing or the kernel refuses.
pub(super) fn set_up() -> anyhow::Result<()> {
    run("ip", &["link", "set", "lo", "up"])?;
    run("ip", &["route", "add", "local", MESH, "dev", "lo"])?;
    let redirect = ["-p", "tcp", "-j", "REDIRECT", "--to-ports", OUTBOUND];
    run(
        "iptables",
        &[&["-t", "nat", "-A", "OUTPUT", "-d", SERVICES], &redirect[..]].concat(),
    )
}

fn run(program: &str, arguments: &[&str]) -> anyhow::Result<()> {
    let output = Command::new(program)
        .args(arguments)
        .output()
        .with_context(|| format!("cannot run {program}; is it installed (iproute2, iptables)?"))?;
    ensure!(
        output.status.success(),
        "{program} {}: {}",
        arguments.join(" "),
        String::from_utf8_lossy(&output.stderr)
    );
    Ok(())
}
