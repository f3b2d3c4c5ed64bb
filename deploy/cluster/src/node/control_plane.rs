//! The command lines of the cluster's own programs.

use std::path::Path;

use super::{NODE_IP, POD_CIDR, SERVICE_CIDR};
use crate::pki::{Pair, Pki};

/// The first address of [`SERVICE_CIDR`]: the API server's own Service.
const KUBERNETES: &str = "10.96.0.1";
const ETCD: &str = "http://127.0.0.1:2379";
const ETCD_PEER: &str = "http://127.0.0.1:2380";

pub(crate) fn etcd(data: &Path) -> Vec<String> {
    vec![
        flag("data-dir", data.display()),
        flag("listen-client-urls", ETCD),
        flag("advertise-client-urls", ETCD),
        flag("listen-peer-urls", ETCD_PEER),
        flag("initial-advertise-peer-urls", ETCD_PEER),
        flag("initial-cluster", format!("default={ETCD_PEER}")),
    ]
}

/// The API server's, on the node's address, with everything that it needs to reach the kubelet.
pub(crate) fn api_server(pki: &Pki) -> anyhow::Result<Vec<String>> {
    let names = [
        "kubernetes",
        "kubernetes.default",
        "kubernetes.default.svc",
        "kubernetes.default.svc.cluster.local",
        "localhost",
        "127.0.0.1",
        KUBERNETES,
        NODE_IP,
    ];
    let serving = pki.server("kube-apiserver", &names)?;
    let kubelet = pki.client("kube-apiserver-kubelet", "kube-apiserver", Some("system:masters"))?;
    let front = pki.client("front-proxy", "front-proxy-client", None)?;
    let root = pki.root().certificate.display();
    let mut flags = pair("tls-cert-file", "tls-private-key-file", &serving);
    flags.extend(pair("kubelet-client-certificate", "kubelet-client-key", &kubelet));
    flags.extend(pair("proxy-client-cert-file", "proxy-client-key-file", &front));
    flags.extend([
        flag("etcd-servers", ETCD),
        flag("bind-address", "0.0.0.0"),
        flag("secure-port", super::API_PORT),
        flag("advertise-address", NODE_IP),
        flag("client-ca-file", &root),
        flag("service-account-key-file", pki.token_public_key().display()),
        flag("service-account-signing-key-file", pki.token_key().display()),
        flag(
            "service-account-issuer",
            "https://kubernetes.default.svc.cluster.local",
        ),
        flag("kubelet-preferred-address-types", "InternalIP"),
        flag("requestheader-client-ca-file", &root),
        flag("requestheader-allowed-names", "front-proxy-client"),
        flag("requestheader-username-headers", "X-Remote-User"),
        flag("requestheader-group-headers", "X-Remote-Group"),
        flag("requestheader-extra-headers-prefix", "X-Remote-Extra-"),
        flag("authorization-mode", "Node,RBAC"),
        flag("enable-admission-plugins", "NodeRestriction"),
        flag("service-cluster-ip-range", SERVICE_CIDR),
        flag("allow-privileged", true),
        // Two cores are shared with everything that is tested.
        flag("enable-priority-and-fairness", false),
    ]);
    Ok(flags)
}

/// The controllers that a test may count on, as the cluster's administrator: accounts of their own would cost
/// seconds to make.
pub(crate) fn controller_manager(pki: &Pki, kubeconfig: &Path) -> Vec<String> {
    let mut flags = manager(kubeconfig);
    let root = pki.root();
    flags.extend(pair(
        "cluster-signing-cert-file",
        "cluster-signing-key-file",
        root,
    ));
    flags.extend([
        flag("service-account-private-key-file", pki.token_key().display()),
        flag("root-ca-file", root.certificate.display()),
        flag("allocate-node-cidrs", true),
        flag("cluster-cidr", POD_CIDR),
        flag("node-cidr-mask-size", 24),
        flag("service-cluster-ip-range", SERVICE_CIDR),
        flag("kube-api-qps", 500),
        flag("kube-api-burst", 1000),
    ]);
    flags
}

pub(crate) fn scheduler(kubeconfig: &Path) -> Vec<String> {
    let mut flags = manager(kubeconfig);
    flags.extend([flag("kube-api-qps", 500), flag("kube-api-burst", 1000)]);
    flags
}

fn manager(kubeconfig: &Path) -> Vec<String> {
    let kubeconfig = kubeconfig.display();
    vec![
        flag("kubeconfig", &kubeconfig),
        flag("authentication-kubeconfig", &kubeconfig),
        flag("authorization-kubeconfig", &kubeconfig),
        flag("bind-address", "127.0.0.1"),
        flag("leader-elect", false),
    ]
}

fn pair(certificate: &str, key: &str, pair: &Pair) -> Vec<String> {
    vec![
        flag(certificate, pair.certificate.display()),
        flag(key, pair.key.display()),
    ]
}

fn flag(name: &str, value: impl std::fmt::Display) -> String {
    format!("--{name}={value}")
}
