//! The demo's manifests, and the changes that its phases make to them.

use std::{fs, io, path::Path};

macro_rules! files {
    ($directory:literal: $($name:literal),+ $(,)?) => {
        [$(($name, include_str!(concat!("../../../demo/", $directory, "/", $name)))),+]
    };
}

/// What a user has before any policy: the application, and MeshConfig.
const APPLICATION: [(&str, &str); 7] = files!("manifests":
    "bookbuyer.yaml", "bookstore.yaml", "bookthief.yaml", "bookwarehouse.yaml",
    "mesh-config.yaml", "mysql.yaml", "namespaces.yaml",
);

/// What the phases add.
const POLICIES: [(&str, &str); 5] = files!("policies":
    "allow-bookbuyer.yaml", "allow-bookthief.yaml", "allow-warehouse.yaml", "routes.yaml", "split.yaml",
);

const MESH_CONFIG: &str = "mesh-config.yaml";
const PERMISSIVE: &str = "enablePermissiveTrafficPolicyMode: true";
const ENFORCING: &str = "enablePermissiveTrafficPolicyMode: false";

/// Writes the application's manifests into a directory, and takes away policies of an earlier run.
pub(crate) fn begin(directory: &Path) -> io::Result<()> {
    fs::create_dir_all(directory)?;
    for (name, _) in POLICIES {
        match fs::remove_file(directory.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    for (name, text) in APPLICATION {
        write(directory, name, text)?;
    }
    Ok(())
}

/// Turns permissive mode off.
pub(crate) fn enforce(directory: &Path) -> io::Result<()> {
    let text = fs::read_to_string(directory.join(MESH_CONFIG))?;
    write(directory, MESH_CONFIG, &text.replace(PERMISSIVE, ENFORCING))
}

/// Adds a policy file.
pub(crate) fn apply(directory: &Path, name: &str) -> io::Result<()> {
    write(directory, name, policy(name)?)
}

/// Shares the bookstore's traffic out.
pub(crate) fn split(directory: &Path, v1: u32, v2: u32) -> io::Result<()> {
    let mut weights = [v1, v2].into_iter();
    let lines = policy("split.yaml")?
        .lines()
        .map(|line| match line.trim_start().starts_with("weight:") {
            true => format!("      weight: {}\n", weights.next().unwrap_or(0)),
            false => format!("{line}\n"),
        });
    write(directory, "split.yaml", &lines.collect::<String>())
}

fn policy(name: &str) -> io::Result<&'static str> {
    let found = POLICIES.iter().find(|(known, _)| *known == name);
    found
        .map(|(_, text)| *text)
        .ok_or_else(|| io::Error::new(io::ErrorKind::NotFound, name.to_owned()))
}

/// Written beside and renamed, as a careful editor does: no reader sees half a file.
fn write(directory: &Path, name: &str, text: &str) -> io::Result<()> {
    let draft = directory.join(format!(".{name}.new"));
    fs::write(&draft, text)?;
    fs::rename(draft, directory.join(name))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_phases_change_what_they_mean_to() {
        let directory = tempfile::tempdir().unwrap();
        let read = |name: &str| fs::read_to_string(directory.path().join(name)).unwrap();
        begin(directory.path()).unwrap();
        assert!(read(MESH_CONFIG).contains(PERMISSIVE));
        enforce(directory.path()).unwrap();
        assert!(read(MESH_CONFIG).contains(ENFORCING));
        split(directory.path(), 25, 75).unwrap();
        let weights: Vec<_> = read("split.yaml")
            .lines()
            .filter(|line| line.contains("weight"))
            .map(str::to_owned)
            .collect();
        assert_eq!(weights, ["      weight: 25", "      weight: 75"]);
        begin(directory.path()).unwrap();
        assert!(!directory.path().join("split.yaml").exists());
    }
}
