//! What `weir install` and `weir upgrade` are told.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::Context;
use clap::ValueEnum;
use serde_json::{Value, json};
use weir_controller::spec::GoDuration;

use crate::manifests::{combine, parse_set};

/// What the mesh shall be.
#[derive(clap::Args, Clone, Debug)]
pub(crate) struct Settings {
    /// Name of the mesh: namespaces labelled openservicemesh.io/monitored-by with it belong to it [default: osm].
    #[arg(long, value_name = "NAME")]
    mesh_name: Option<String>,
    /// Registry and folder of the images, such as registry.example.com/mesh.
    #[arg(long, value_name = "REGISTRY")]
    registry: Option<String>,
    /// Tag of the images [default: the version of this program].
    #[arg(long, value_name = "TAG")]
    image_tag: Option<String>,
    /// A file of values, as the chart's values.yaml describes them. May be given more than once; later ones win.
    #[arg(short = 'f', long = "values", value_name = "FILE")]
    values: Vec<PathBuf>,
    /// One value, such as meshConfig.spec.traffic.enableEgress=false. May be given more than once; wins over files.
    #[arg(long = "set", value_name = "KEY=VALUE")]
    set: Vec<String>,
}

impl Settings {
    /// Everything that was said, as one layer of values.
    ///
    /// # Errors
    /// When a file cannot be read, or a `--set` is not understood.
    pub(crate) fn layer(&self) -> anyhow::Result<Value> {
        let mut layer = json!({});
        for path in &self.values {
            let failed = || format!("cannot read the values in {}", path.display());
            let text = fs::read_to_string(path).with_context(failed)?;
            let values: Value = serde_saphyr::from_str(&text).with_context(failed)?;
            if !values.is_null() {
                combine(&mut layer, &values);
            }
        }
        let flags = [
            ("meshName", &self.mesh_name),
            ("image/registry", &self.registry),
            ("image/tag", &self.image_tag),
        ];
        for (path, value) in flags {
            if let Some(value) = value {
                let flag = path
                    .rsplit('/')
                    .fold(json!(value), |value, name| json!({ name: value }));
                combine(&mut layer, &flag);
            }
        }
        for text in &self.set {
            combine(&mut layer, &parse_set(text)?);
        }
        Ok(layer)
    }
}

/// How far a command goes, and how long.
#[derive(clap::Args, Clone, Debug)]
pub struct Pace {
    /// Ask the API server what would become of each object, and change nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Do not wait until the mesh works.
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait, such as 90s or 5m.
    #[arg(long, value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    pub timeout: Duration,
}

/// How objects are printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// One YAML document each.
    Yaml,
    /// One JSON List.
    Json,
}

/// Reads a duration as Kubernetes tools take it.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    GoDuration::parse(text)
        .map(|duration| duration.0)
        .ok_or_else(|| "write a duration such as 90s or 5m".to_owned())
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[test]
    fn set_wins_over_flags_and_flags_over_files() {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        write!(file, "image: {{registry: file, tag: file}}\nmeshName: file\n").unwrap();
        let settings = Settings {
            mesh_name: None,
            registry: Some("flag".to_owned()),
            image_tag: Some("flag".to_owned()),
            values: vec![file.path().to_owned()],
            set: vec!["image.tag=set".to_owned()],
        };
        let wanted = json!({ "image": { "registry": "flag", "tag": "set" }, "meshName": "file" });
        assert_eq!(settings.layer().unwrap(), wanted);
    }
}
