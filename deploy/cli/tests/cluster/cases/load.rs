//! Requests one after the other for as long as something else happens.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use anyhow::ensure;
use tokio::task::JoinHandle;

use super::client::fetch;
use crate::scene::Scene;

/// Requests of one client over one connection, before it begins anew.
const BATCH: u32 = 200;

/// Clients that ask until they are told to stop.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    clients: Vec<JoinHandle<anyhow::Result<u64>>>,
}

impl Load {
    /// So many clients in a pod, all of the same server.
    pub(super) fn start(scene: &Arc<Scene>, pod: &str, url: &str, clients: usize) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let client = |_| {
            let (scene, stop) = (Arc::clone(scene), Arc::clone(&stop));
            let (pod, url) = (pod.to_owned(), url.to_owned());
            tokio::spawn(async move {
                let mut count = 0;
                while !stop.load(Ordering::Relaxed) {
                    let answers = fetch(&scene, &pod, &url, BATCH).await?;
                    count += answers.len() as u64;
                    let failed = answers.iter().find(|answer| answer.status != 200);
                    ensure!(failed.is_none(), "after some {count} requests: {failed:?}");
                }
                Ok(count)
            })
        };
        Self {
            clients: (0..clients).map(client).collect(),
            stop,
        }
    }

    /// Ends it. Every request must have been answered with 200, and there must have been this many.
    pub(super) async fn end(self, at_least: u64) -> anyhow::Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        let mut count = 0;
        for client in self.clients {
            count += client.await??;
        }
        ensure!(count >= at_least, "only {count} requests were made");
        Ok(())
    }
}
