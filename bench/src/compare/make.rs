//! The makes of sidecars, and how one of each is started.

use std::{
    fs,
    net::SocketAddr,
    os::unix::process::CommandExt as _,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::Context as _;
use serde_json::Value;

use super::{
    haproxy,
    pods::{INBOUND, MARK, OUTBOUND, PORT, Side},
    scenarios::Protocol,
    static_pair,
};
use crate::bootstrap::{Between, CLIENT, Identities, SERVER};

/// What both sidecars are.
#[derive(Clone, Debug)]
pub(crate) enum Make {
    /// weir-proxy.
    Weir(PathBuf, Between),
    /// weir-proxy that forwards bytes, without TLS and without a policy: what two more hops take where no two requests
    /// share a write, nearly all of it the kernel's.
    Forward(PathBuf),
    /// Envoy.
    Envoy(PathBuf, Between),
    /// HAProxy.
    Haproxy(PathBuf, Between),
    /// A command for each side, for a shell.
    Commands { outbound: String, inbound: String },
}

/// Where one sidecar is.
pub(crate) struct Place<'a> {
    pub(crate) side: Side,
    pub(crate) protocol: Protocol,
    /// Whether to write a line in JSON for each request, on stdout.
    pub(crate) access_log: bool,
    /// The server, as the client's sidecar dials it.
    pub(crate) target: SocketAddr,
    pub(crate) identities: &'a Identities,
    pub(crate) directory: &'a Path,
    pub(crate) single_uid: bool,
}

impl Place<'_> {
    /// Where the sidecar takes connections.
    pub(crate) fn port(&self) -> u16 {
        match self.side {
            Side::Client => OUTBOUND,
            Side::Server => INBOUND,
        }
    }

    /// Where it takes them to.
    pub(crate) fn next(&self) -> SocketAddr {
        match self.side {
            Side::Client => self.target,
            Side::Server => SocketAddr::from(([127, 0, 0, 1], PORT)),
        }
    }

    /// Its certificate and key.
    pub(crate) fn identity(&self) -> &(String, String) {
        match self.side {
            Side::Client => &self.identities.client,
            Side::Server => &self.identities.server,
        }
    }

    /// Writes a file of its configuration.
    ///
    /// # Errors
    /// When it cannot be written.
    pub(crate) fn write(&self, name: &str, content: &str) -> anyhow::Result<PathBuf> {
        let path = self.directory.join(format!("{:?}-{name}", self.side));
        fs::write(&path, content).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(path)
    }
}

impl Make {
    /// The command of one side, whose configuration it writes.
    ///
    /// # Errors
    /// When that cannot be written.
    pub(crate) fn command(&self, place: &Place<'_>) -> anyhow::Result<Command> {
        match self {
            Self::Weir(program, between) => weir(program, place, *between),
            Self::Forward(program) => {
                let protocol = Protocol::TcpPlain;
                weir(program, &Place { protocol, ..*place }, Between::AsClient)
            }
            Self::Envoy(program, between) => {
                let mut command = with_bootstrap(program, place, &static_pair::bootstrap(place, *between))?;
                command.arg("--disable-hot-restart");
                Ok(command)
            }
            Self::Haproxy(program, between) => haproxy::command(program, place, *between),
            Self::Commands { outbound, inbound } => {
                let line = match place.side {
                    Side::Client => outbound,
                    Side::Server => inbound,
                };
                by_shell(line, place)
            }
        }
    }

    /// Whether it can be told from the client where there is one user only.
    pub(crate) fn marks_sockets(&self) -> bool {
        matches!(self, Self::Weir(..) | Self::Forward(_))
    }
}

fn weir(program: &Path, place: &Place<'_>, between: Between) -> anyhow::Result<Command> {
    let mut command = with_bootstrap(program, place, &static_pair::bootstrap(place, between))?;
    command.args(["--stats-address", "off", "--health-address", "off"]);
    if place.single_uid {
        command.arg("--socket-mark").arg(MARK.to_string());
    }
    Ok(command)
}

fn with_bootstrap(program: &Path, place: &Place<'_>, bootstrap: &Value) -> anyhow::Result<Command> {
    let file = place.write("bootstrap.json", &serde_json::to_string_pretty(bootstrap)?)?;
    let mut command = Command::new(program);
    command
        .arg("-c")
        .arg(file)
        .args(["--concurrency", "1", "-l", "warning"]);
    Ok(command)
}

/// What a further pair is told, as environment variables.
fn by_shell(line: &str, place: &Place<'_>) -> anyhow::Result<Command> {
    let (certificate, key) = place.identity();
    let mut command = Command::new("sh");
    command
        .args(["-c", line])
        .env("WEIR_BENCH_PROTOCOL", place.protocol.name())
        .env("WEIR_BENCH_LISTEN", place.port().to_string())
        .env("WEIR_BENCH_NEXT", place.next().to_string())
        .env("WEIR_BENCH_CERTIFICATE", place.write("cert.pem", certificate)?)
        .env("WEIR_BENCH_KEY", place.write("key.pem", key)?)
        .env(
            "WEIR_BENCH_ROOT",
            place.write("root.pem", &place.identities.root)?,
        )
        .env("WEIR_BENCH_CLIENT", CLIENT)
        .env("WEIR_BENCH_SERVER", SERVER)
        .process_group(0);
    if place.access_log {
        command.env("WEIR_BENCH_ACCESS_LOG", "1");
    }
    Ok(command)
}

#[cfg(test)]
mod tests;
