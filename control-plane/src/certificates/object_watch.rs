//! Follows one object of the cluster, however long the API server is away.

use std::{fmt::Debug, time::Duration};

use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use kube::{
    Api,
    runtime::{WatchStreamExt as _, watcher},
};
use serde::de::DeserializeOwned;
use tokio::time::sleep;
use tracing::{info, warn};

/// There are few of these watches: asking again so often burdens nobody, and after an outage they are current soon.
const RETRY: Duration = Duration::from_secs(2);

/// The object of this name, as it is and after each change. A failure is told once, and that it is over.
pub(super) fn named<K>(api: Api<K>, name: &'static str) -> BoxStream<'static, K>
where
    K: kube::Resource<DynamicType = ()> + Clone + Debug + DeserializeOwned + Send + 'static,
{
    let only = watcher::Config::default().fields(&format!("metadata.name={name}"));
    let changes = watcher(api, only).applied_objects().boxed();
    let kind = K::kind(&());
    let objects = stream::unfold((changes, false), move |(mut changes, mut failing)| {
        let kind = kind.clone();
        async move {
            loop {
                match changes.next().await? {
                    Ok(object) => {
                        if failing {
                            info!(%kind, name, "is watched again");
                        }
                        return Some((object, (changes, false)));
                    }
                    Err(error) => {
                        if !failing {
                            warn!(%kind, name, %error, "cannot be watched; what is known of it stays; trying every 2 s");
                        }
                        failing = true;
                        sleep(RETRY).await;
                    }
                }
            }
        }
    });
    objects.boxed()
}
