//! Where the programs of Kubernetes are, and how they get there: built with Go from the modules beside this crate, once,
//! into the user's cache.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
    time::Instant,
};

use anyhow::{Context, ensure};

/// The version of Kubernetes, without the `v`. The module's `go.mod` says the same.
pub const VERSION: &str = "1.33.13";
/// What an API server is made of, without etcd.
pub const API_SERVER: &[&str] = &["kube-apiserver"];
/// What a node is made of, without what Debian packages.
pub const NODE: &[&str] = &[
    "kube-apiserver",
    "kube-controller-manager",
    "kube-scheduler",
    "kubelet",
    "kube-proxy",
];
/// What people use a cluster with.
pub const CLIENTS: &[&str] = &["kubectl", "helm"];

/// The directory that holds these programs: the one that `KUBEBUILDER_ASSETS` names, else that of [`build`].
///
/// # Errors
/// When one is missing; the text says how to get it.
pub fn find(programs: &[&str]) -> Result<PathBuf, String> {
    let given = env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from);
    let directories = [given, cache()];
    let whole = |directory: &PathBuf| programs.iter().all(|program| directory.join(program).is_file());
    match directories.into_iter().flatten().find(whole) {
        Some(directory) => Ok(directory),
        None => Err(format!(
            "needs {} of Kubernetes {VERSION}: `cargo run -p weir-cluster -- build` makes them with Go (10 minutes), or \
             KUBEBUILDER_ASSETS names the directory that has them",
            programs.join(", ")
        )),
    }
}

/// Builds the programs that are missing in the user's cache, and says where they are.
///
/// # Errors
/// When there is no Go, or a build fails.
pub fn build(programs: &[&str]) -> anyhow::Result<PathBuf> {
    let directory = cache().context("neither XDG_CACHE_HOME nor HOME is set")?;
    fs::create_dir_all(&directory).with_context(|| format!("cannot create {}", directory.display()))?;
    for program in programs {
        if directory.join(program).is_file() {
            continue;
        }
        let begun = Instant::now();
        eprintln!("building {program} {VERSION}");
        build_one(program, &directory)?;
        eprintln!("built {program} in {} s", begun.elapsed().as_secs());
    }
    Ok(directory)
}

fn build_one(program: &str, directory: &Path) -> anyhow::Result<()> {
    let (module, package, stamps) = match program {
        "helm" => ("helm", "helm.sh/helm/v3/cmd/helm".to_owned(), String::new()),
        program => ("kubernetes", format!("k8s.io/kubernetes/cmd/{program}"), stamps()),
    };
    // Not there under its name before it is whole.
    let unfinished = directory.join(format!("{program}.{}", std::process::id()));
    let status = Command::new("go")
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join(module))
        .env("CGO_ENABLED", "0")
        .args([
            "build",
            "-trimpath",
            "-mod=readonly",
            "-ldflags",
            &format!("-s -w {stamps}"),
            "-o",
        ])
        .arg(&unfinished)
        .arg(package)
        .status()
        .context("cannot start go; install Go 1.24 or later")?;
    ensure!(status.success(), "go build of {program} failed ({status})");
    fs::rename(&unfinished, directory.join(program))?;
    Ok(())
}

/// The linker's flags that tell a program its version: clients that read it misbehave when it is missing.
fn stamps() -> String {
    let (major, rest) = VERSION.split_once('.').unwrap_or((VERSION, ""));
    let minor = rest.split('.').next().unwrap_or_default();
    let version = format!("v{VERSION}");
    let stamps = [
        ("gitVersion", version.as_str()),
        ("gitMajor", major),
        ("gitMinor", minor),
    ];
    let stamps = stamps.map(|(name, value)| format!("-X k8s.io/component-base/version.{name}={value}"));
    stamps.join(" ")
}

fn cache() -> Option<PathBuf> {
    let home = || Some(PathBuf::from(env::var_os("HOME")?).join(".cache"));
    let cache = env::var_os("XDG_CACHE_HOME").map(PathBuf::from).or_else(home)?;
    Some(cache.join("weir/kubernetes").join(format!("v{VERSION}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_module_has_the_same_version() {
        let module = include_str!("../kubernetes/go.mod");
        let requirement = format!("k8s.io/kubernetes v{VERSION}");
        assert!(module.lines().any(|line| line.contains(&requirement)));
        for program in NODE.iter().chain(&["kubectl"]) {
            let tool = format!("k8s.io/kubernetes/cmd/{program}");
            assert!(module.lines().any(|line| line.trim() == tool), "{tool}");
        }
    }

    #[test]
    fn what_is_missing_is_said_with_the_way_to_get_it() {
        let error = find(&["no-such-program"]).unwrap_err();
        assert!(error.contains("cargo run -p weir-cluster -- build"), "{error}");
    }
}
