//! Requests and connections made from inside a pod.

use std::collections::BTreeMap;

use anyhow::{Context, ensure};
use serde::Deserialize;

use crate::scene::Scene;

/// How many answers in a row must agree.
pub(super) const IN_A_ROW: u32 = 5;

/// What came of a request.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(super) struct Answer {
    /// The status; 0 when there was no answer.
    pub(super) status: u16,
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: String,
    /// Why there was no answer.
    pub(super) error: String,
}

/// What a mirror saw of a request.
#[derive(Clone, Debug, Deserialize)]
pub(super) struct Seen {
    pub(super) name: String,
    pub(super) pod: String,
    pub(super) port: u16,
}

impl Answer {
    /// What the mirror that answered saw.
    pub(super) fn seen(&self) -> anyhow::Result<Seen> {
        ensure!(self.status == 200, "{self:?}");
        serde_json::from_str(&self.body).with_context(|| format!("not a mirror's: {}", self.body))
    }
}

/// Asks for a URL several times over kept connections.
pub(super) async fn fetch(scene: &Scene, pod: &str, url: &str, times: u32) -> anyhow::Result<Vec<Answer>> {
    let times = format!("--times={times}");
    let output = scene
        .exec(
            pod,
            "app",
            &["weir-bookstore", "fetch", url, &times, "--timeout-ms=3000"],
        )
        .await?;
    let answers: Vec<Answer> = output
        .stdout
        .lines()
        .map(serde_json::from_str)
        .collect::<Result<_, _>>()
        .with_context(|| format!("{output:?}"))?;
    ensure!(!answers.is_empty(), "{output:?}");
    Ok(answers)
}

/// Waits until several answers in a row have this status; 0: no answer at all.
pub(super) async fn gets(scene: &Scene, pod: &str, url: &str, status: u16) -> anyhow::Result<Vec<Answer>> {
    scene
        .eventually(&format!("{pod} to get {status} of {url}"), || async {
            let answers = fetch(scene, pod, url, IN_A_ROW).await?;
            ensure!(answers.iter().all(|it| it.status == status), "{answers:?}");
            Ok(answers)
        })
        .await
}

/// Waits until several requests in a row reach nobody, be it that none is answered or that the sidecar answers for
/// want of a server.
pub(super) async fn gets_nothing(scene: &Scene, pod: &str, url: &str) -> anyhow::Result<()> {
    scene
        .eventually(&format!("{pod} to get nothing of {url}"), || async {
            let answers = fetch(scene, pod, url, IN_A_ROW).await?;
            let reached = |it: &Answer| it.status != 0 && it.status < 500;
            ensure!(!answers.iter().any(reached), "{answers:?}");
            Ok(())
        })
        .await
}

/// Tells a TCP server a text and gives what it said; an error when the exchange failed.
pub(super) async fn tell(
    scene: &Scene,
    pod: &str,
    to: &str,
    text: &str,
    hear: usize,
) -> anyhow::Result<String> {
    let hear = format!("--hear={hear}");
    let argv = ["weir-bookstore", "tell", to, text, &hear, "--timeout-ms=4000"];
    scene.exec(pod, "app", &argv).await?.success()
}
