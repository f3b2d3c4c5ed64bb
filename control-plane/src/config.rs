//! The controller's flags.

use std::{net::SocketAddr, path::PathBuf};

use clap::{Parser, ValueEnum};

/// The control plane of the Weir service mesh: reads the mesh's objects, adds sidecars to pods, signs the sidecars'
/// certificates and serves them their configuration over xDS.
///
/// The objects come from the Kubernetes cluster that it runs in (or that KUBECONFIG names), or from directories of
/// manifests.
#[derive(Clone, Debug, Parser)]
#[command(name = "weir-controller", version)]
pub struct Args {
    /// Directory of Kubernetes manifests (YAML or JSON) to serve and watch, in place of a cluster.
    ///
    /// May be given more than once; where two directories hold the same object, the later one wins.
    #[arg(long = "manifests", value_name = "DIR", requires = "state_dir")]
    pub manifests: Vec<PathBuf>,

    /// With --manifests: directory for the mesh's root (ca.key, ca.crt) and the key of join tokens (join.key).
    ///
    /// Made with access for its owner only; what is missing in it is made at the first start. Keep it: a mesh
    /// whose root is lost must restart every sidecar. In a cluster the root is in Secret weir-ca-bundle.
    #[arg(long, value_name = "DIR", requires = "manifests")]
    pub state_dir: Option<PathBuf>,

    /// SPIFFE trust domain of the mesh's identities.
    #[arg(long, value_name = "NAME", default_value = "cluster.local")]
    pub trust_domain: String,

    /// Name of the mesh: namespaces labelled openservicemesh.io/monitored-by with it belong to it.
    #[arg(long, value_name = "NAME", default_value = "osm")]
    pub mesh_name: String,

    /// Kubernetes namespace of the control plane; it is part of the names in the controller's certificate.
    #[arg(long, value_name = "NAME", default_value = "weir-system")]
    pub namespace: String,

    /// Where sidecars connect: xDS and certificate signing, over TLS.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:15128")]
    pub xds_address: SocketAddr,

    /// Where health, metrics and debug pages are served, in plain HTTP.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:9091")]
    pub health_address: SocketAddr,

    /// In a cluster: where the API server has pods injected, over TLS.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:9090")]
    pub injector_address: SocketAddr,

    /// In a cluster: where the API server has policy objects checked, over TLS.
    #[arg(long, value_name = "ADDRESS", default_value = "[::]:9093")]
    pub validator_address: SocketAddr,

    /// Image of the sidecar.
    #[arg(long, value_name = "IMAGE", default_value = concat!("weir-proxy:", env!("CARGO_PKG_VERSION")))]
    pub proxy_image: String,

    /// Image of the init container that redirects traffic.
    #[arg(long, value_name = "IMAGE", default_value = concat!("weir-init:", env!("CARGO_PKG_VERSION")))]
    pub init_image: String,

    /// When these images are pulled.
    #[arg(long, value_name = "POLICY", default_value = "IfNotPresent",
          value_parser = ["Always", "IfNotPresent", "Never"])]
    pub image_pull_policy: String,

    /// Name of this replica, which no other has; one is made up where it is not given.
    #[arg(long, value_name = "NAME", env = "POD_NAME")]
    pub replica: Option<String>,

    /// What is logged: off, error, warn, info, debug, trace, or directives such as "info,weir_controller::xds=debug".
    #[arg(long, value_name = "LEVEL", default_value = "info", env = "WEIR_LOG")]
    pub log_level: String,

    /// How it is logged.
    #[arg(long, value_enum, value_name = "FORMAT", default_value_t = LogFormat::Text)]
    pub log_format: LogFormat,
}

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn defaults_are_those_of_a_cluster() {
        let args = Args::try_parse_from(["weir-controller", "--manifests", "m", "--state-dir", "s"]).unwrap();
        assert_eq!(args.xds_address.to_string(), "[::]:15128");
        assert_eq!(args.health_address.to_string(), "[::]:9091");
        assert_eq!(args.trust_domain, "cluster.local");
    }

    #[test]
    fn a_cluster_needs_no_flag() {
        let args = Args::try_parse_from(["weir-controller"]).unwrap();
        assert!(args.manifests.is_empty() && args.state_dir.is_none());
    }

    #[test]
    fn manifests_need_a_state_directory_and_the_other_way_round() {
        assert!(Args::try_parse_from(["weir-controller", "--manifests", "m"]).is_err());
        assert!(Args::try_parse_from(["weir-controller", "--state-dir", "s"]).is_err());
    }

    #[test]
    fn several_directories_keep_their_order() {
        let args = [
            "weir-controller",
            "--manifests",
            "a",
            "--manifests",
            "b",
            "--state-dir",
            "s",
        ];
        let args = Args::try_parse_from(args).unwrap();
        assert_eq!(args.manifests, [PathBuf::from("a"), PathBuf::from("b")]);
    }
}
