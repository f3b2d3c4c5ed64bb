//! How a pod comes to be: injected, given a network and volumes, adopted.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context as _, Result};
use k8s_openapi::api::core::v1::{Namespace, Pod, PodIP, PodStatus as ApiStatus};
use tokio::sync::{oneshot, watch};

use super::{Entry, Node, label};
use crate::addresses::{GATEWAY, HostNumber};
use crate::controllers::Owner;
use crate::manifests::Key;
use crate::pod::{self, Context, Orders, Phase, PodStatus};
use crate::testbed::Event;
use crate::volumes::Volumes;

const NODE_NAME: &str = "weir-node";

/// Lets a pod's task begin.
pub(super) type Start = oneshot::Sender<()>;

impl Node {
    /// Creates a pod for its owner, to be started once it is published. That one cannot be created is told once for
    /// each reason.
    pub(super) async fn create(&mut self, owner: Owner, pod: Pod) -> Option<Start> {
        match self.try_create(&owner, pod).await {
            Ok((key, start)) => {
                self.rejected.remove(&owner);
                self.tell(Event::Created(label(&key)));
                Some(start)
            }
            Err(error) => {
                let reason = format!("{error:#}");
                if self.rejected.insert(owner.clone(), reason.clone()).as_ref() != Some(&reason) {
                    tracing::error!(owner = label(&owner.key), reason, "pod not created");
                    self.tell(Event::Rejected {
                        owner: label(&owner.key),
                        reason,
                    });
                }
                None
            }
        }
    }

    async fn try_create(&mut self, owner: &Owner, pod: Pod) -> Result<(Key, Start)> {
        let (uid, pod) = self.admit(&owner.key.0, pod)?;
        let key = (owner.key.0.clone(), pod.metadata.name.clone().unwrap_or_default());
        let dir = self.options.run_dir.join("pods").join(&uid);
        let number = self.pod_addresses.allocate(Instant::now())?;
        match self.furnish(&key, uid, pod, number, &dir).await {
            Ok(context) => {
                let start = self.adopt(key.clone(), owner.clone(), number, Arc::new(context));
                Ok((key, start))
            }
            Err(error) => {
                self.pod_addresses.release(number, Instant::now());
                let _perhaps_not_made = std::fs::remove_dir_all(&dir);
                Err(error)
            }
        }
    }

    /// What the API server does with a new pod: gives it a UID and asks the mutating webhook.
    fn admit(&self, namespace: &str, mut pod: Pod) -> Result<(String, Pod)> {
        let namespace = self.manifests.namespaces.get(namespace).cloned();
        let namespace = namespace.unwrap_or_else(|| {
            let mut unwritten = Namespace::default();
            unwritten.metadata.name = pod.metadata.namespace.clone();
            unwritten
        });
        pod.metadata.uid = Some(fresh_uid());
        let mut pod = (self.options.mutate)(&namespace, pod).context("the injector refused the pod")?;
        let uid = pod.metadata.uid.get_or_insert_with(fresh_uid).clone();
        Ok((uid, pod))
    }

    /// Makes the pod's network, directory and volumes.
    async fn furnish(
        &self,
        key: &Key,
        uid: String,
        mut pod: Pod,
        number: HostNumber,
        dir: &Path,
    ) -> Result<Context> {
        let network = self.network.add_pod(&uid, number).await?;
        pod.spec.get_or_insert_default().node_name = Some(NODE_NAME.into());
        let ip = |ip: &std::net::IpAddr| PodIP { ip: ip.to_string() };
        pod.status = Some(ApiStatus {
            host_ip: Some(GATEWAY.0.to_string()),
            pod_ip: network.ips.first().map(ToString::to_string),
            pod_ips: Some(network.ips.iter().map(ip).collect()),
            ..ApiStatus::default()
        });
        std::fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let volumes = Volumes::make(&dir.join("volumes"), &pod, &self.manifests, &self.options.mint)?;
        let resolver = dir.join("resolv.conf");
        std::fs::write(&resolver, "options timeout:1 attempts:1\n")
            .with_context(|| format!("write {}", resolver.display()))?;
        let status = PodStatus {
            namespace: key.0.clone(),
            name: key.1.clone(),
            uid,
            labels: pod.metadata.labels.clone().unwrap_or_default(),
            ips: network.ips.clone(),
            phase: Phase::Pending,
            initialized: false,
            terminating: false,
            message: None,
            containers: BTreeMap::new(),
        };
        Ok(Context {
            options: self.options.clone(),
            pod,
            network,
            objects: Arc::clone(&self.manifests),
            hosts: dir.join("hosts"),
            dir: dir.to_owned(),
            volumes,
            status: watch::Sender::new(status),
        })
    }

    /// Takes a pod in; its task waits for the start, until the pod's hosts file is in place.
    fn adopt(&mut self, key: Key, owner: Owner, number: HostNumber, context: Arc<Context>) -> Start {
        let (orders, received) = watch::channel(Orders::default());
        let (start, wait) = oneshot::channel();
        let (task_context, poke) = (Arc::clone(&context), Arc::clone(&self.poke));
        let task = tokio::spawn(async move {
            if wait.await.is_ok() {
                pod::run(task_context, received).await;
            }
            poke.notify_one();
        });
        let (mut seen, poke) = (context.status.subscribe(), Arc::clone(&self.poke));
        let watcher = tokio::spawn(async move {
            while seen.changed().await.is_ok() {
                poke.notify_one();
            }
        });
        self.pods.insert(
            key,
            Entry {
                owner,
                number,
                context,
                orders,
                task,
                watcher,
                was_ready: false,
            },
        );
        start
    }
}

/// A random UUID (RFC 9562 version 4).
fn fresh_uid() -> String {
    let bits = (rand::random::<u128>() & !(0xf << 76 | 0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}
