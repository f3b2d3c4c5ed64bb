//! Admission: the API server asks about an object before it stores it, and a [`Reviewer`] answers.
//!
//! `server` speaks HTTPS and is what an attacker on the network would reach, so everything there is bounded: connections,
//! sizes, times, reviews at once. `review` turns bytes into a question and an answer into bytes.

mod review;
mod server;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use futures::future::BoxFuture;
use kube::core::{
    DynamicObject,
    admission::{AdmissionRequest, AdmissionResponse},
};
use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family, histogram::Histogram},
    registry::Registry,
};

pub use server::serve;

/// Answers questions of the API server.
pub trait Reviewer: Send + Sync + 'static {
    /// The path it is asked at.
    fn path(&self) -> &'static str;

    /// What to do with the object.
    fn review(&self, request: AdmissionRequest<DynamicObject>) -> BoxFuture<'_, AdmissionResponse>;
}

/// What is counted of admission, of all reviewers together.
#[derive(Clone)]
pub struct Metrics {
    responses: Family<Labels, Counter>,
    time: Histogram,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Labels {
    kind: Arc<str>,
    success: &'static str,
}

impl Metrics {
    /// Makes them and adds them to a registry.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            responses: Family::default(),
            time: Histogram::new([0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0]),
        };
        registry.register(
            "osm_admission_webhook_response",
            "Answers to the API server, by kind of object; success: the object was let in",
            metrics.responses.clone(),
        );
        registry.register(
            "weir_admission_review_seconds",
            "Time to answer the API server",
            metrics.time.clone(),
        );
        metrics
    }

    fn answered(&self, kind: Arc<str>, allowed: bool, seconds: f64) {
        let success = if allowed { "true" } else { "false" };
        self.responses.get_or_create(&Labels { kind, success }).inc();
        self.time.observe(seconds);
    }
}
