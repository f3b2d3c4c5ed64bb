//! Reads a cluster once, for tools.

use kube::{Client, api::ListParams};
use thiserror::Error;

use super::{
    super::Objects,
    kinds::{self, KINDS, Kind},
    state::State,
    watch::{Change, What},
};

/// Objects per page of a list.
const PAGE: u32 = 500;
/// How often a list is begun anew when its continuation has expired.
const ATTEMPTS: u32 = 3;

/// Why a cluster could not be read.
#[derive(Debug, Error)]
#[error("cannot list {kind}: {source}; {remedy}")]
pub struct ListError {
    /// What was listed.
    pub kind: &'static str,
    /// What the API server or the way to it said.
    pub source: Box<kube::Error>,
    /// What to do.
    pub remedy: &'static str,
}

/// Reads every object of the mesh once, whole. Kinds without a definition are in [`Objects::missing`].
///
/// # Errors
/// When a kind cannot be listed.
pub async fn list(client: &Client) -> Result<Objects, ListError> {
    let kinds = KINDS.iter().map(|kind| one(client, kind));
    let mut state = State::default();
    for change in futures::future::try_join_all(kinds).await?.into_iter().flatten() {
        state.apply(change);
    }
    Ok(state.objects())
}

async fn one(client: &Client, kind: &'static Kind) -> Result<Vec<Change>, ListError> {
    for _ in 1..ATTEMPTS {
        match pages(client, kind).await {
            Err(kube::Error::Api(status)) if status.code == 410 => {}
            other => return told(client, kind, other).await,
        }
    }
    told(client, kind, pages(client, kind).await).await
}

async fn pages(client: &Client, kind: &'static Kind) -> kube::Result<Vec<Change>> {
    let api = kind.api(client.clone(), None);
    let watched = kind.watch();
    let mut page = ListParams {
        label_selector: watched.label_selector,
        field_selector: watched.field_selector,
        ..ListParams::default().limit(PAGE)
    };
    let mut changes = Vec::new();
    loop {
        let list = api.list(&page).await?;
        changes.extend(list.items.into_iter().map(|item| Change {
            kind,
            what: What::Put(Box::new(item.read(kind, true))),
        }));
        match list.metadata.continue_.filter(|token| !token.is_empty()) {
            Some(token) => page = page.continue_token(&token),
            None => return Ok(changes),
        }
    }
}

async fn told(
    client: &Client,
    kind: &'static Kind,
    listed: kube::Result<Vec<Change>>,
) -> Result<Vec<Change>, ListError> {
    let error = match listed {
        Ok(changes) => return Ok(changes),
        Err(error) => error,
    };
    let code = match &error {
        kube::Error::Api(status) => status.code,
        _ => 0,
    };
    if code == 404 && !kind.built_in && matches!(kinds::is_absent(client, kind).await, Ok(true)) {
        let what = What::Absent;
        return Ok(vec![Change { kind, what }]);
    }
    Err(ListError {
        kind: kind.name,
        remedy: match code {
            401 => "log in to the cluster again",
            403 => "ask for the right to list it, or use another context",
            0 => "see that the cluster can be reached, and which context is in use",
            _ => "see what the API server says about it",
        },
        source: Box::new(error),
    })
}
