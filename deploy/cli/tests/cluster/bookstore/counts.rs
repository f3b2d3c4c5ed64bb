//! What came of a customer's attempts.

use std::time::Instant;

use anyhow::ensure;
use serde::{Deserialize, de::DeserializeOwned};
use tokio::time::sleep;

use super::{ATTEMPTS, PROGRAM, SETTLED};
use crate::scene::{LOOK_AGAIN, Scene};

/// A customer's counters, as `/raw` gives them.
#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Counts {
    pub(super) books_bought: u64,
    pub(super) books_bought_v1: u64,
    pub(super) books_bought_v2: u64,
    pub(super) refused: u64,
    pub(super) failed: u64,
}

/// What becomes of all attempts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fate {
    Buys,
    Refused,
    Nothing,
}

impl Counts {
    /// A customer's; the namespace, the label and the container have one name.
    pub(super) async fn of(customer: &Scene) -> anyhow::Result<Self> {
        raw(customer, customer.namespace()).await
    }

    pub(super) fn since(self, earlier: Self) -> Self {
        Self {
            books_bought: self.books_bought - earlier.books_bought,
            books_bought_v1: self.books_bought_v1 - earlier.books_bought_v1,
            books_bought_v2: self.books_bought_v2 - earlier.books_bought_v2,
            refused: self.refused - earlier.refused,
            failed: self.failed - earlier.failed,
        }
    }

    /// The part of the books that are of the first version.
    pub(super) fn share(self) -> f64 {
        #[expect(clippy::cast_precision_loss, reason = "a few thousand purchases")]
        let count = |books: u64| books as f64;
        count(self.books_bought_v1) / count(self.books_bought_v1 + self.books_bought_v2).max(1.0)
    }
}

/// What a part shows at `/raw`. It is asked from inside its pod, where no policy is in the way.
pub(super) async fn raw<T: DeserializeOwned>(scene: &Scene, app: &str) -> anyhow::Result<T> {
    #[derive(Deserialize)]
    struct Answer {
        body: String,
    }
    let pod = scene.pod(&format!("app={app}")).await?;
    let argv = [PROGRAM, "fetch", "http://127.0.0.1:14001/raw"];
    let answer: Answer = scene.exec(&pod, app, &argv).await?.json()?;
    Ok(serde_json::from_str(&answer.body)?)
}

/// Waits until a customer's last attempts all had this fate.
pub(super) async fn settle(customer: &Scene, fate: Fate) -> anyhow::Result<Counts> {
    let what = format!("{} {fate:?}", customer.namespace());
    customer
        .eventually(&what, || async {
            let counts = window(customer, SETTLED).await?;
            let all = match fate {
                Fate::Buys => counts.refused + counts.failed == 0,
                Fate::Refused => counts.books_bought + counts.failed == 0,
                Fate::Nothing => counts.books_bought == 0,
            };
            ensure!(all, "{counts:?}");
            Ok(counts)
        })
        .await
}

/// What came of a customer's next attempts.
pub(super) async fn window(customer: &Scene, attempts: u64) -> anyhow::Result<Counts> {
    let before = Counts::of(customer).await?;
    let begun = Instant::now();
    loop {
        let counts = Counts::of(customer).await?.since(before);
        if counts.books_bought + counts.refused + counts.failed >= attempts {
            return Ok(counts);
        }
        ensure!(
            begun.elapsed() < ATTEMPTS,
            "{} makes no attempts",
            customer.namespace()
        );
        sleep(LOOK_AGAIN).await;
    }
}
