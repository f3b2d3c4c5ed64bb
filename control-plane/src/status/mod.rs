//! Tells users what became of their policy: a condition `Accepted` in each object's status, and an event when it changes.
//!
//! Only the leader writes, only what differs from what the object says already, and never faster than the API server can
//! be asked to take it.

mod condition;

use std::{collections::HashMap, sync::Arc, time::Duration};

use kube::{
    Api, Client,
    api::{ApiResource, DynamicObject, Patch, PatchParams},
    runtime::events::{Event, EventType, Recorder, Reporter},
};
use serde_json::json;
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use self::condition::Accepted;
use crate::{catalog::Snapshot, endpoints::Revision, leader::Leadership, spec::Key};

const CONTROLLER: &str = "weir-controller";
/// Between two objects, so that a mesh with thousands of policies is no burden to the API server.
const PACE: Duration = Duration::from_millis(20);
const FIRST_RETRY: Duration = Duration::from_secs(5);
const LONGEST_RETRY: Duration = Duration::from_secs(2 * 60);
const ANSWER: Duration = Duration::from_secs(10);
/// The API server refuses longer notes of events.
const NOTE: usize = 1024;

/// Writes what becomes of each policy object, as long as this replica leads, until told to stop.
pub async fn report(
    client: Client,
    instance: String,
    snapshots: watch::Receiver<Arc<Snapshot>>,
    leads: Leadership,
    stop: CancellationToken,
) {
    let reporter = Reporter {
        controller: CONTROLLER.to_owned(),
        instance: Some(instance),
    };
    let reports = Reports {
        recorder: Recorder::new(client.clone(), reporter),
        client,
        written: HashMap::new(),
    };
    stop.run_until_cancelled_owned(Box::pin(reports.run(snapshots, leads)))
        .await;
}

struct Reports {
    client: Client,
    recorder: Recorder,
    /// What was last written about an object, which the watch may not have shown yet.
    written: HashMap<Key, (Arc<Revision>, Accepted)>,
}

impl Reports {
    async fn run(mut self, mut snapshots: watch::Receiver<Arc<Snapshot>>, mut leads: Leadership) {
        let mut again: Option<Instant> = None;
        let mut pause = FIRST_RETRY;
        loop {
            let retry = async {
                match again {
                    Some(at) => sleep_until(at).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                changed = snapshots.changed() => if changed.is_err() { return },
                changed = leads.changed() => if changed.is_err() { return },
                () = retry => {}
            }
            again = None;
            if !*leads.borrow_and_update() {
                // Whoever leads meanwhile writes otherwise than this replica remembers.
                self.written.clear();
                continue;
            }
            let snapshot = snapshots.borrow_and_update().clone();
            match self.bring_up_to_date(&snapshot, &leads).await {
                true => pause = FIRST_RETRY,
                false => {
                    warn!(
                        retry_s = pause.as_secs(),
                        "not every status could be written; trying again"
                    );
                    again = Some(Instant::now() + pause);
                    pause = (pause * 2).min(LONGEST_RETRY);
                }
            }
        }
    }

    /// `false`: something could not be written.
    async fn bring_up_to_date(&mut self, snapshot: &Snapshot, leads: &Leadership) -> bool {
        self.written.retain(|key, _| snapshot.policies.contains_key(key));
        let mut all = true;
        for (key, accepted) in condition::judge(snapshot) {
            let Some(revision) = snapshot.policies.get(&key) else {
                continue;
            };
            if !*leads.borrow() {
                return true;
            }
            let known = self.written.get(&key);
            let written = known.is_some_and(|(about, last)| {
                about.uid == revision.uid && about.generation == revision.generation && *last == accepted
            });
            if written || accepted.is_said_by(revision) {
                continue;
            }
            match timeout(ANSWER, self.write(&key, revision, &accepted)).await {
                Ok(Ok(())) => {
                    self.written.insert(key, (revision.clone(), accepted));
                }
                // This object's own trouble: the others are not kept waiting.
                Ok(Err(kube::Error::Api(status))) if !of_the_server(status.code) => {
                    all = false;
                    warn!(object = %key, error = %status, "cannot write the status");
                }
                Ok(Err(error)) => {
                    warn!(object = %key, %error, "cannot write the status");
                    return false;
                }
                Err(_) => {
                    warn!(object = %key, "no answer to the status within 10 s");
                    return false;
                }
            }
            sleep(PACE).await;
        }
        all
    }

    async fn write(&self, key: &Key, revision: &Revision, accepted: &Accepted) -> kube::Result<()> {
        let (group, version) = revision
            .api_version
            .split_once('/')
            .unwrap_or(("", revision.api_version));
        let resource = ApiResource {
            group: group.to_owned(),
            version: version.to_owned(),
            api_version: revision.api_version.to_owned(),
            kind: key.kind.to_owned(),
            plural: revision.plural.to_owned(),
        };
        let api = Api::<DynamicObject>::namespaced_with(self.client.clone(), &key.name.namespace, &resource);
        let patch = json!({ "status": { "conditions": [accepted.condition(revision)] } });
        match api
            .patch_status(&key.name.name, &PatchParams::default(), &Patch::Merge(patch))
            .await
        {
            Ok(_) => {}
            // The object is gone, or its definition knows no status: events are all there is then.
            Err(kube::Error::Api(status)) if status.code == 404 => {
                debug!(object = %key, "has no status to write")
            }
            Err(error) => return Err(error),
        }
        if let Some(event) = event(revision, accepted) {
            let object = k8s_openapi::api::core::v1::ObjectReference {
                api_version: Some(revision.api_version.to_owned()),
                kind: Some(key.kind.to_owned()),
                namespace: Some(key.name.namespace.to_string()),
                name: Some(key.name.name.to_string()),
                uid: Some(revision.uid.clone()),
                ..Default::default()
            };
            self.recorder.publish(&event, &object).await?;
        }
        Ok(())
    }
}

/// Whether every object would meet the same answer now: too many requests, or a fault of the API server.
fn of_the_server(code: u16) -> bool {
    code == 429 || code >= 500
}

/// What there is to say: findings, or that those of before are gone.
fn event(revision: &Revision, accepted: &Accepted) -> Option<Event> {
    let clean = accepted.is_clean();
    if clean
        && revision
            .accepted
            .as_ref()
            .is_none_or(|last| last.status == "True")
    {
        return None;
    }
    let mut note = accepted.message.clone();
    condition::shorten(&mut note, NOTE);
    Some(Event {
        type_: if clean {
            EventType::Normal
        } else {
            EventType::Warning
        },
        reason: accepted.reason.to_owned(),
        note: Some(note),
        action: "Read".to_owned(),
        secondary: None,
    })
}
