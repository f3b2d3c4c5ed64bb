//! The configuration files of the node's programs.

use std::path::Path;

use serde_json::{Value, json};

use super::{NODE_IP, NODE_NAME, PAUSE, POD_CIDR};

/// File descriptors that a process may have open here; root of a container cannot always raise it.
fn open_files() -> u64 {
    let limits = std::fs::read_to_string("/proc/self/limits").unwrap_or_default();
    let line = limits
        .lines()
        .find_map(|line| line.strip_prefix("Max open files"));
    let hard = line.and_then(|line| line.split_whitespace().nth(1)?.parse().ok());
    hard.map_or(1024, |hard: u64| hard.min(1_000_000))
}

/// containerd's, with everything it writes below `scratch`.
pub(crate) fn containerd(scratch: &Path) -> String {
    let scratch = scratch.display();
    format!(
        r#"version = 2
root = "{scratch}/containerd"
state = "/run/containerd"
disabled_plugins = [
  "io.containerd.internal.v1.opt", "io.containerd.snapshotter.v1.aufs", "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper", "io.containerd.snapshotter.v1.zfs",
]
[grpc]
  address = "{socket}"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{PAUSE}"
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{scratch}/cni"
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
"#,
        socket = super::CONTAINERD,
    )
}

/// The network of pods: a bridge, addresses from the node's range.
pub(crate) fn cni() -> Value {
    json!({
        "cniVersion": "0.4.0",
        "name": "weir",
        "plugins": [
            {
                "type": "bridge",
                "bridge": super::BRIDGE,
                "isGateway": true,
                "hairpinMode": true,
                "ipMasq": false,
                "ipam": {
                    "type": "host-local",
                    "dataDir": "/run/cni-addresses",
                    "ranges": [[{"subnet": POD_CIDR}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            },
            {"type": "portmap", "capabilities": {"portMappings": true}},
        ],
    })
}

/// The kubelet's.
pub(crate) fn kubelet(scratch: &Path, client_ca: &Path, cgroup_root: &str) -> Value {
    json!({
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": NODE_IP,
        "authentication": {
            "anonymous": {"enabled": false},
            "webhook": {"enabled": true},
            "x509": {"clientCAFile": client_ca},
        },
        "authorization": {"mode": "Webhook"},
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": cgroup_root,
        "failCgroupV1": false,
        "containerRuntimeEndpoint": format!("unix://{}", super::CONTAINERD),
        "clusterDNS": [NODE_IP],
        "clusterDomain": "cluster.local",
        "resolvConf": scratch.join("resolv.conf"),
        "failSwapOn": false,
        // Images that no container uses yet must stay: there is no registry to get them from again.
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "evictionHard": {
            "memory.available": "100Mi", "nodefs.available": "1%", "nodefs.inodesFree": "1%", "imagefs.available": "1%",
        },
        "enforceNodeAllocatable": ["pods"],
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
        "configMapAndSecretChangeDetectionStrategy": "Watch",
        "maxPods": 250,
        "volumePluginDir": scratch.join("volume-plugins"),
        "podLogsDir": scratch.join("pod-logs"),
        "maxOpenFiles": open_files(),
        "oomScoreAdj": 0,
        "localStorageCapacityIsolation": false,
        "healthzBindAddress": "127.0.0.1",
        "registryPullQPS": 0,
        "eventRecordQPS": 0,
        "kubeAPIQPS": 200,
        "kubeAPIBurst": 400,
        "serializeImagePulls": false,
    })
}

/// kube-proxy's. Limits of the connection table are the machine's own, and stay as they are.
pub(crate) fn kube_proxy(kubeconfig: &Path) -> Value {
    json!({
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "bindAddress": NODE_IP,
        "healthzBindAddress": "127.0.0.1:10256",
        "metricsBindAddress": "127.0.0.1:10249",
        "clientConnection": {"kubeconfig": kubeconfig},
        "clusterCIDR": POD_CIDR,
        "hostnameOverride": NODE_NAME,
        "mode": "iptables",
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
        "iptables": {"minSyncPeriod": "100ms", "syncPeriod": "30s"},
        "oomScoreAdj": 0,
    })
}
