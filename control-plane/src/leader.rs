//! Which replica writes: an election over a Lease.
//!
//! Every replica serves; what changes objects of the cluster (statuses, events, `caBundle`) is done by the one that
//! holds the Lease. Whether another holder is alive is judged by how long ago its record was last *seen to change*, on
//! this machine's monotonic clock: clocks of nodes differ, and no timestamp in the Lease is believed.

use std::{sync::Arc, time::Duration};

use k8s_openapi::{
    api::coordination::v1::{Lease, LeaseSpec},
    apimachinery::pkg::apis::meta::v1::MicroTime,
    jiff::Timestamp,
};
use kube::{
    Api, Client,
    api::{ObjectMeta, PostParams},
};
use tokio::{
    sync::watch,
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};

/// Name of the Lease, in the control plane's namespace.
pub const LEASE: &str = "weir-controller";
/// How long a holder that says nothing is believed to be alive.
const DURATION: Duration = Duration::from_secs(15);
/// A leader that could not renew for so long leads no longer, well before another may take over.
const RENEW_WITHIN: Duration = Duration::from_secs(10);
const RETRY: Duration = Duration::from_secs(2);
const ANSWER: Duration = Duration::from_secs(5);

/// Whether this replica leads, now and whenever it changes.
pub type Leadership = watch::Receiver<bool>;

/// One replica's part in the election.
struct Candidate {
    api: Api<Lease>,
    identity: Arc<str>,
    seen: Option<Seen>,
    renewed: Option<Instant>,
    /// The last attempt got no answer, which has been told.
    failing: bool,
}

/// Somebody's record of the Lease, and when this replica first saw it.
struct Seen {
    version: String,
    at: Instant,
}

/// What to do about the Lease as it is.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    /// It is ours: say that we are alive.
    Renew,
    /// It is nobody's, or its holder is silent.
    Take,
    /// Its holder is alive.
    Wait,
}

/// Takes part in the election under a name that no other replica has, until told to stop; then a held Lease is given
/// back, so that another replica leads at once.
pub fn campaign(client: Client, namespace: &str, identity: &str, stop: CancellationToken) -> Leadership {
    let (tell, leads) = watch::channel(false);
    let candidate = Candidate {
        api: Api::namespaced(client, namespace),
        identity: identity.into(),
        seen: None,
        renewed: None,
        failing: false,
    };
    tokio::spawn(candidate.run(tell, stop));
    leads
}

impl Candidate {
    async fn run(mut self, tell: watch::Sender<bool>, stop: CancellationToken) {
        loop {
            self.attempt_once().await;
            let left = self.left();
            let leads = left.is_some();
            let changed = tell.send_if_modified(|led| std::mem::replace(led, leads) != leads);
            if changed {
                info!(identity = &*self.identity, leads, "the election changed");
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = sleep(left.map_or(RETRY, |left| left.min(RETRY))) => {}
            }
        }
        if tell.send_replace(false) {
            self.give_back().await;
        }
    }

    /// For how long this replica leads without a further renewal; `None`: it does not.
    fn left(&self) -> Option<Duration> {
        let left = RENEW_WITHIN.checked_sub(self.renewed?.elapsed())?;
        (!left.is_zero()).then_some(left)
    }

    async fn attempt_once(&mut self) {
        // Others count from when the API server took the record, which is somewhere between now and its answer.
        let asked = Instant::now();
        // Who leads waits for no answer beyond the end of that.
        let patience = self.left().map_or(ANSWER, |left| left.min(ANSWER));
        let failure = match timeout(patience, self.attempt()).await {
            Ok(Ok(holds)) => {
                self.renewed = holds.then_some(asked);
                None
            }
            // Somebody else was faster, and is the leader then.
            Ok(Err(kube::Error::Api(status))) if status.code == 409 => {
                self.renewed = None;
                None
            }
            Ok(Err(error)) => Some(error.to_string()),
            Err(_) => Some("no answer".to_owned()),
        };
        let failed = std::mem::replace(&mut self.failing, failure.is_some());
        match failure {
            Some(error) if !failed => warn!(
                error,
                lease = LEASE,
                "cannot take part in the election; trying again every 2 s"
            ),
            None if failed => info!(lease = LEASE, "takes part in the election again"),
            _ => {}
        }
    }

    /// Whether this replica holds the Lease now.
    async fn attempt(&mut self) -> kube::Result<bool> {
        let Some(mut lease) = self.api.get_opt(LEASE).await? else {
            self.api
                .create(&PostParams::default(), &self.record(None))
                .await?;
            return Ok(true);
        };
        let version = lease.metadata.resource_version.clone().unwrap_or_default();
        if self.seen.as_ref().is_none_or(|seen| seen.version != version) {
            let at = Instant::now();
            self.seen = Some(Seen { version, at });
        }
        let silence = self
            .seen
            .as_ref()
            .map_or(Duration::ZERO, |seen| seen.at.elapsed());
        match step(lease.spec.as_ref(), &self.identity, silence) {
            Step::Wait => return Ok(false),
            Step::Renew | Step::Take => lease.spec = self.record(lease.spec).spec,
        }
        self.api.replace(LEASE, &PostParams::default(), &lease).await?;
        Ok(true)
    }

    /// The Lease as held by this replica from now on.
    fn record(&self, last: Option<LeaseSpec>) -> Lease {
        let now = MicroTime(Timestamp::now());
        let last = last.unwrap_or_default();
        let ours = last.holder_identity.as_deref() == Some(&*self.identity);
        let spec = LeaseSpec {
            holder_identity: Some(self.identity.to_string()),
            lease_duration_seconds: i32::try_from(DURATION.as_secs()).ok(),
            acquire_time: last.acquire_time.filter(|_| ours).or_else(|| Some(now.clone())),
            renew_time: Some(now),
            lease_transitions: Some(last.lease_transitions.unwrap_or(0) + i32::from(!ours)),
            ..LeaseSpec::default()
        };
        Lease {
            metadata: ObjectMeta {
                name: Some(LEASE.to_owned()),
                ..ObjectMeta::default()
            },
            spec: Some(spec),
        }
    }

    async fn give_back(&self) {
        let released = async {
            let mut lease = self.api.get(LEASE).await?;
            if let Some(spec) = &mut lease.spec
                && spec.holder_identity.as_deref() == Some(&*self.identity)
            {
                spec.holder_identity = None;
                self.api.replace(LEASE, &PostParams::default(), &lease).await?;
            }
            kube::Result::<()>::Ok(())
        };
        match timeout(ANSWER, released).await {
            Ok(Ok(())) => debug!(lease = LEASE, "gave the lease back"),
            Ok(Err(error)) => {
                debug!(%error, lease = LEASE, "could not give the lease back; it runs out by itself")
            }
            Err(_) => debug!(
                lease = LEASE,
                "could not give the lease back in time; it runs out by itself"
            ),
        }
    }
}

/// `silence`: for how long the record has not changed, as far as this replica saw.
fn step(spec: Option<&LeaseSpec>, identity: &str, silence: Duration) -> Step {
    let holder = spec
        .and_then(|spec| spec.holder_identity.as_deref())
        .unwrap_or_default();
    let seconds = spec.and_then(|spec| spec.lease_duration_seconds);
    let believed = seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map_or(DURATION, Duration::from_secs);
    match holder {
        "" => Step::Take,
        holder if holder == identity => Step::Renew,
        _ if silence >= believed => Step::Take,
        _ => Step::Wait,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use http::{Method, Request, Response, StatusCode};
    use http_body_util::BodyExt as _;
    use kube::client::Body;
    use parking_lot::Mutex;

    use super::*;

    /// An API server that knows one Lease.
    #[derive(Default)]
    struct Server {
        lease: Mutex<Option<(u64, serde_json::Value)>>,
        silent: AtomicBool,
    }

    impl Server {
        fn client(self: &Arc<Self>) -> Client {
            let server = self.clone();
            let service = tower::service_fn(move |request: Request<Body>| {
                let server = server.clone();
                async move { Ok::<_, std::convert::Infallible>(server.answer(request).await) }
            });
            Client::new(service, "weir-system")
        }

        async fn answer(&self, request: Request<Body>) -> Response<Body> {
            if self.silent.load(Ordering::SeqCst) {
                std::future::pending::<()>().await;
            }
            let method = request.method().clone();
            let body = request.into_body().collect().await.unwrap().to_bytes();
            let mut held = self.lease.lock();
            let version = held.as_ref().map_or(0, |(version, _)| *version);
            let given = serde_json::from_slice::<serde_json::Value>(&body).unwrap_or_default();
            let code = match method {
                Method::GET if held.is_none() => StatusCode::NOT_FOUND,
                Method::POST if held.is_some() => StatusCode::CONFLICT,
                Method::PUT
                    if given["metadata"]["resourceVersion"].as_str() != Some(&*version.to_string()) =>
                {
                    StatusCode::CONFLICT
                }
                Method::GET => StatusCode::OK,
                _ => {
                    let mut lease = given;
                    lease["metadata"]["resourceVersion"] = (version + 1).to_string().into();
                    *held = Some((version + 1, lease));
                    StatusCode::OK
                }
            };
            let body = match &*held {
                Some((_, lease)) if code.is_success() => lease.clone(),
                _ => serde_json::json!({
                    "kind": "Status", "status": "Failure", "code": code.as_u16(), "message": "",
                    "reason": if code == StatusCode::NOT_FOUND { "NotFound" } else { "Conflict" },
                }),
            };
            let mut response = Response::new(Body::from(body.to_string().into_bytes()));
            *response.status_mut() = code;
            response
        }
    }

    fn candidate(server: &Arc<Server>, identity: &str) -> Candidate {
        Candidate {
            api: Api::namespaced(server.client(), "weir-system"),
            identity: identity.into(),
            seen: None,
            renewed: None,
            failing: false,
        }
    }

    #[tokio::test]
    async fn one_leads_and_another_when_it_leaves() {
        let server = Arc::new(Server::default());
        let (mut first, mut second) = (candidate(&server, "a"), candidate(&server, "b"));
        for _ in 0..3 {
            first.attempt_once().await;
            second.attempt_once().await;
            assert!(first.left().is_some() && second.left().is_none());
        }
        first.give_back().await;
        second.attempt_once().await;
        assert!(second.left().is_some());
        first.attempt_once().await;
        assert!(first.left().is_none());
    }

    #[tokio::test]
    async fn who_is_cut_off_leads_no_longer_than_it_may() {
        let server = Arc::new(Server::default());
        let mut leader = candidate(&server, "a");
        leader.attempt_once().await;
        assert!(leader.left().is_some());
        server.silent.store(true, Ordering::SeqCst);
        let asked = Instant::now();
        leader.renewed = asked.checked_sub(RENEW_WITHIN - Duration::from_millis(20));
        assert!(leader.left().is_some());
        leader.attempt_once().await;
        assert!(leader.left().is_none());
        assert!(asked.elapsed() < ANSWER / 2, "{:?}", asked.elapsed());
    }

    fn held_by(holder: &str) -> LeaseSpec {
        LeaseSpec {
            holder_identity: Some(holder.to_owned()),
            lease_duration_seconds: Some(15),
            ..LeaseSpec::default()
        }
    }

    #[test]
    fn a_lease_of_nobody_is_taken() {
        assert_eq!(step(None, "a", Duration::ZERO), Step::Take);
        assert_eq!(step(Some(&held_by("")), "a", Duration::ZERO), Step::Take);
    }

    #[test]
    fn ones_own_lease_is_renewed() {
        assert_eq!(
            step(Some(&held_by("a")), "a", Duration::from_secs(60)),
            Step::Renew
        );
    }

    #[test]
    fn a_silent_holder_loses_it_after_its_own_time_only() {
        assert_eq!(
            step(Some(&held_by("b")), "a", Duration::from_secs(14)),
            Step::Wait
        );
        assert_eq!(
            step(Some(&held_by("b")), "a", Duration::from_secs(15)),
            Step::Take
        );
    }
}
