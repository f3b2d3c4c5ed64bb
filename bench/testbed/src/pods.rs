//! Pods without a kubelet: networks only, for programs that start processes themselves.

use std::fs::File;
use std::net::IpAddr;
use std::time::Instant;

use anyhow::{Context as _, Result};
use nix::sched::{CloneFlags, setns};
use tokio::runtime::Runtime;

use crate::addresses;
use crate::network::{Network, PodNetwork};
use crate::sandbox::Sandbox;

/// A node on whose bridge pods can be hung.
pub struct Pods {
    network: Network,
    addresses: addresses::Pods,
    // Last, so that netlink's task outlives what it serves.
    runtime: Runtime,
}

impl Pods {
    /// Sets up the bridge. One at a time in a sandbox.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn start(sandbox: &Sandbox) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let network = runtime.block_on(Network::start(sandbox.scratch().join("netns")))?;
        Ok(Self {
            network,
            addresses: addresses::Pods::default(),
            runtime,
        })
    }

    /// Makes a pod's network. It is freed when the value is dropped and its last thread and process have ended.
    ///
    /// # Errors
    /// When the kernel refuses a step.
    pub fn add(&mut self, name: &str) -> Result<PodNetwork> {
        let number = self.addresses.allocate(Instant::now())?;
        let name = format!("{name}-{}", number.pod().0);
        self.runtime.block_on(self.network.add_pod(&name, number))
    }
}

impl PodNetwork {
    /// Moves the calling thread into the pod's network; threads and processes that it starts are in it too.
    ///
    /// # Errors
    /// When the network is gone.
    pub fn enter(&self) -> Result<()> {
        let netns = File::open(&self.netns).with_context(|| format!("open {}", self.netns.display()))?;
        setns(netns, CloneFlags::CLONE_NEWNET).context("join the pod's network namespace")
    }

    /// The pod's addresses, IPv4 first.
    #[must_use]
    pub fn ips(&self) -> &[IpAddr] {
        &self.ips
    }
}
