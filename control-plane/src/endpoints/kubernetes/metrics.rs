//! What the provider counts, under OSM's names where OSM counts it.

use std::{fmt, sync::Arc};

use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, EncodeMetric as _},
    metrics::{MetricType, family::Family, gauge::ConstGauge, gauge::Gauge},
    registry::Registry,
};

use super::{
    contact::Contact,
    kinds::{KINDS, Kind},
    state::Effect,
};
use crate::spec::ObjectName;

/// Events of the API server, the namespaces of the mesh, and how old the state is.
#[derive(Clone, Debug, Default)]
pub struct KubernetesMetrics {
    // A gauge to the exposition format, which ends the name of every counter in `_total`; OSM's ends in `_count`.
    events: Family<Event, Gauge>,
    namespaces: Gauge,
    ages: Ages,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Event {
    r#type: String,
    namespace: String,
}

impl KubernetesMetrics {
    /// Makes them and adds them to a registry.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        registry.register(
            "osm_k8s_api_event_count",
            "Changes of objects, by kind and what happened, and by namespace",
            metrics.events.clone(),
        );
        registry.register(
            "osm_resource_namespace_count",
            "Namespaces of the mesh",
            metrics.namespaces.clone(),
        );
        registry.register_collector(Box::new(metrics.ages.clone()));
        metrics
    }

    pub(super) fn watching(&self, contact: Arc<Contact>) {
        self.ages.0.lock().push(contact);
    }

    pub(super) fn monitored(&self, namespaces: usize) {
        self.namespaces.set(i64::try_from(namespaces).unwrap_or(i64::MAX));
    }

    pub(super) fn changed(&self, kind: &Kind, effect: Effect, name: &ObjectName) {
        let Some(what) = word(effect) else {
            return;
        };
        let event = Event {
            r#type: event_type(kind, what),
            namespace: name.namespace.to_string(),
        };
        self.events.get_or_create(&event).inc();
        if kind.name == "Namespace" && effect == Effect::Deleted {
            self.forget(&name.name);
        }
    }

    /// Drops what was counted of a namespace that is gone, so that the series are as many as there are namespaces.
    fn forget(&self, namespace: &str) {
        for kind in &KINDS {
            for what in ["added", "updated", "deleted"] {
                self.events.remove(&Event {
                    r#type: event_type(kind, what),
                    namespace: namespace.to_owned(),
                });
            }
        }
    }
}

fn event_type(kind: &Kind, what: &str) -> String {
    format!("{}-{what}", kind.name.to_ascii_lowercase())
}

fn word(effect: Effect) -> Option<&'static str> {
    match effect {
        Effect::Added => Some("added"),
        Effect::Updated => Some("updated"),
        Effect::Deleted => Some("deleted"),
        Effect::Other | Effect::None => None,
    }
}

/// How old the state of each kind is, told when asked.
#[derive(Clone, Debug, Default)]
struct Ages(Arc<Mutex<Vec<Arc<Contact>>>>);

impl Collector for Ages {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let contacts = self.0.lock().clone();
        let mut family = encoder.encode_descriptor(
            "weir_k8s_state_age_seconds",
            "How long the API server has not answered a watch; 0 while it does",
            None,
            MetricType::Gauge,
        )?;
        for contact in contacts {
            let labels = [("kind", contact.kind.name)];
            ConstGauge::new(contact.age().as_secs_f64()).encode(family.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
