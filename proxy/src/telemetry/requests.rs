//! OSM's request metrics: counted on the client's side, between the pods that the labels name.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use ::http::StatusCode;
use parking_lot::Mutex;
use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, LabelSetEncoder, NoLabelSet},
    metrics::MetricType,
};

use crate::model::Workload;

/// Upper bounds of the duration's buckets in milliseconds, Envoy's defaults; one more bucket has no bound.
const BOUNDS: [f64; 19] = [
    0.5,
    1.0,
    5.0,
    10.0,
    25.0,
    50.0,
    100.0,
    250.0,
    500.0,
    1000.0,
    2500.0,
    5000.0,
    10_000.0,
    30_000.0,
    60_000.0,
    300_000.0,
    600_000.0,
    1_800_000.0,
    3_600_000.0,
];
const BUCKETS: usize = BOUNDS.len() + 1;

/// Destinations counted apart. Requests to those beyond are counted under a destination of `unknown` parts.
pub const DESTINATIONS: usize = 10_000;

/// The families `osm_request_total` and `osm_request_duration_ms` of one client pod. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Requests(Arc<Pairs>);

#[derive(Debug)]
struct Pairs {
    source: Workload,
    limit: usize,
    unknown: Arc<RequestMetrics>,
    known: Mutex<HashMap<Workload, Weak<RequestMetrics>>>,
}

/// The requests to one destination pod. Counting is a few atomic additions.
pub struct RequestMetrics {
    destination: Workload,
    /// Counts by status code, a hundred codes each, made when the first of them is seen.
    codes: [OnceLock<Box<[AtomicU64; 100]>>; 10],
    buckets: [AtomicU64; BUCKETS],
    microseconds: AtomicU64,
}

impl Requests {
    /// Those that the pod `source` makes.
    pub fn new(source: Workload) -> Self {
        Self::bounded(source, DESTINATIONS)
    }

    fn bounded(source: Workload, limit: usize) -> Self {
        Self(Arc::new(Pairs {
            source,
            limit,
            unknown: Arc::new(RequestMetrics::new(Workload::default())),
            known: Mutex::default(),
        }))
    }

    /// The counters of a destination. To be kept while the destination is configured: its series end when no one
    /// holds them any more.
    pub fn to(&self, destination: &Workload) -> Arc<RequestMetrics> {
        if *destination == self.0.unknown.destination {
            return self.unknown();
        }
        let mut known = self.0.known.lock();
        if let Some(metrics) = known.get(destination).and_then(Weak::upgrade) {
            return metrics;
        }
        if known.len() >= self.0.limit {
            known.retain(|_, metrics| metrics.strong_count() > 0);
            if known.len() >= self.0.limit {
                return self.unknown();
            }
        }
        let metrics = Arc::new(RequestMetrics::new(destination.clone()));
        known.insert(destination.clone(), Arc::downgrade(&metrics));
        metrics
    }

    /// The counters of requests that reached no endpoint.
    pub fn unknown(&self) -> Arc<RequestMetrics> {
        self.0.unknown.clone()
    }

    /// Destinations with a request so far.
    fn counted(&self) -> Vec<Arc<RequestMetrics>> {
        let mut known = self.0.known.lock();
        known.retain(|_, metrics| metrics.strong_count() > 0);
        let known: Vec<_> = known.values().filter_map(Weak::upgrade).collect();
        let all = known.into_iter().chain([self.unknown()]);
        all.filter(|metrics| metrics.count() > 0).collect()
    }
}

impl RequestMetrics {
    fn new(destination: Workload) -> Self {
        Self {
            destination,
            codes: Default::default(),
            buckets: Default::default(),
            microseconds: AtomicU64::new(0),
        }
    }

    /// Counts one request: the status it was answered with (0: the client left before), and how long it took.
    pub fn record(&self, status: u16, duration: Duration) {
        let (class, rest) = (usize::from(status / 100), usize::from(status % 100));
        if let Some(class) = self.codes.get(class) {
            let codes = class.get_or_init(|| Box::new([const { AtomicU64::new(0) }; 100]));
            codes[rest].fetch_add(1, Ordering::Relaxed);
        }
        let milliseconds = duration.as_secs_f64() * 1000.0;
        let bucket = BOUNDS.partition_point(|bound| *bound < milliseconds);
        self.buckets[bucket].fetch_add(1, Ordering::Relaxed);
        let microseconds = u64::try_from(duration.as_micros()).unwrap_or(u64::MAX);
        self.microseconds.fetch_add(microseconds, Ordering::Relaxed);
    }

    /// Requests so far.
    pub fn count(&self) -> u64 {
        let counts = self.buckets.iter().map(|bucket| bucket.load(Ordering::Relaxed));
        counts.sum()
    }

    fn codes(&self) -> impl Iterator<Item = (usize, u64)> {
        let classes = self.codes.iter().enumerate();
        let seen = classes.filter_map(|(class, codes)| Some((class, codes.get()?)));
        seen.flat_map(|(class, codes)| {
            let counts = codes.iter().map(|count| count.load(Ordering::Relaxed));
            let coded = counts.enumerate().filter(|(_, count)| *count > 0);
            coded.map(move |(rest, count)| (class * 100 + rest, count))
        })
    }

    fn histogram(&self) -> (f64, u64, [(f64, u64); BUCKETS]) {
        let counts = self.buckets.each_ref().map(|count| count.load(Ordering::Relaxed));
        let mut buckets = [(f64::INFINITY, 0); BUCKETS];
        for (index, bucket) in buckets.iter_mut().enumerate() {
            *bucket = (BOUNDS.get(index).copied().unwrap_or(f64::INFINITY), counts[index]);
        }
        let sum = Duration::from_micros(self.microseconds.load(Ordering::Relaxed));
        (sum.as_secs_f64() * 1000.0, counts.iter().sum(), buckets)
    }
}

/// One request under way, counted when this is dropped: with the end of its response, or when the client leaves.
#[derive(Debug)]
pub struct Measured {
    metrics: Option<Arc<RequestMetrics>>,
    started: Instant,
    status: u16,
}

impl Measured {
    /// A request that arrived just now.
    pub fn begin() -> Self {
        Self {
            metrics: None,
            started: Instant::now(),
            status: 0,
        }
    }

    /// It goes to this endpoint.
    pub fn sent_to(&mut self, metrics: &Arc<RequestMetrics>) {
        self.metrics = Some(metrics.clone());
    }

    /// It has its response; without an endpoint it counts as one to an unknown destination.
    #[must_use]
    pub fn answered(mut self, status: StatusCode, requests: &Requests) -> Self {
        self.status = status.as_u16();
        self.metrics.get_or_insert_with(|| requests.unknown());
        self
    }
}

impl Drop for Measured {
    fn drop(&mut self) {
        if let Some(metrics) = &self.metrics {
            metrics.record(self.status, self.started.elapsed());
        }
    }
}

impl fmt::Debug for RequestMetrics {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RequestMetrics")
            .field("destination", &self.destination)
            .field("count", &self.count())
            .finish_non_exhaustive()
    }
}

impl Collector for Requests {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let counted = self.counted();
        let mut family = encoder.encode_descriptor(
            "osm_request",
            "Requests sent by this pod, by the status of their response; 0: the client left before it",
            None,
            MetricType::Counter,
        )?;
        for metrics in &counted {
            for (code, count) in metrics.codes() {
                let labels = Labels {
                    code: Some(code),
                    source: &self.0.source,
                    destination: &metrics.destination,
                };
                family
                    .encode_family(&labels)?
                    .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        let mut family = encoder.encode_descriptor(
            "osm_request_duration_ms",
            "Milliseconds from a request's arrival to the end of its response",
            None,
            MetricType::Histogram,
        )?;
        for metrics in &counted {
            let labels = Labels {
                code: None,
                source: &self.0.source,
                destination: &metrics.destination,
            };
            let (sum, count, buckets) = metrics.histogram();
            family
                .encode_family(&labels)?
                .encode_histogram::<NoLabelSet>(sum, count, &buckets, None)?;
        }
        Ok(())
    }
}

struct Labels<'a> {
    code: Option<usize>,
    source: &'a Workload,
    destination: &'a Workload,
}

impl EncodeLabelSet for Labels<'_> {
    fn encode(&self, encoder: &mut LabelSetEncoder<'_>) -> fmt::Result {
        if let Some(code) = self.code {
            prometheus_client::encoding::EncodeLabel::encode(
                &("response_code", code.to_string()),
                encoder.encode_label(),
            )?;
        }
        [
            ("source_namespace", self.source.namespace.as_str()),
            ("source_kind", self.source.kind.as_str()),
            ("source_name", self.source.name.as_str()),
            ("source_pod", self.source.pod.as_str()),
            ("destination_namespace", self.destination.namespace.as_str()),
            ("destination_kind", self.destination.kind.as_str()),
            ("destination_name", self.destination.name.as_str()),
            ("destination_pod", self.destination.pod.as_str()),
        ]
        .encode(encoder)
    }
}

#[cfg(test)]
mod tests {
    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::*;

    fn pod(name: &str) -> Workload {
        Workload {
            namespace: "bookstore".to_owned(),
            kind: "Deployment".to_owned(),
            name: "bookstore".to_owned(),
            pod: name.to_owned(),
        }
    }

    fn text(requests: &Requests) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(requests.clone()));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    fn buyer() -> Workload {
        Workload {
            namespace: "bookbuyer".to_owned(),
            kind: "Deployment".to_owned(),
            name: "bookbuyer".to_owned(),
            pod: "bookbuyer-1".to_owned(),
        }
    }

    #[test]
    fn requests_are_written_under_the_names_of_osm() {
        let requests = Requests::new(buyer());
        let pair = requests.to(&pod("bookstore-1"));
        pair.record(200, Duration::from_micros(500));
        pair.record(200, Duration::from_millis(7));
        pair.record(503, Duration::from_secs(7200));
        let text = text(&requests);
        let labels = "source_namespace=\"bookbuyer\",source_kind=\"Deployment\",source_name=\"bookbuyer\",\
                      source_pod=\"bookbuyer-1\",destination_namespace=\"bookstore\",\
                      destination_kind=\"Deployment\",destination_name=\"bookstore\",\
                      destination_pod=\"bookstore-1\"";
        for line in [
            "# TYPE osm_request counter".to_owned(),
            format!("osm_request_total{{response_code=\"200\",{labels}}} 2"),
            format!("osm_request_total{{response_code=\"503\",{labels}}} 1"),
            "# TYPE osm_request_duration_ms histogram".to_owned(),
            format!("osm_request_duration_ms_sum{{{labels}}} 7200007.5"),
            format!("osm_request_duration_ms_count{{{labels}}} 3"),
            format!("osm_request_duration_ms_bucket{{le=\"0.5\",{labels}}} 1"),
            format!("osm_request_duration_ms_bucket{{le=\"5.0\",{labels}}} 1"),
            format!("osm_request_duration_ms_bucket{{le=\"10.0\",{labels}}} 2"),
            format!("osm_request_duration_ms_bucket{{le=\"3600000.0\",{labels}}} 2"),
            format!("osm_request_duration_ms_bucket{{le=\"+Inf\",{labels}}} 3"),
        ] {
            assert!(
                text.lines().any(|written| written == line),
                "{line} is not in\n{text}"
            );
        }
    }

    #[test]
    fn a_destination_is_counted_until_no_one_holds_it() {
        let requests = Requests::new(buyer());
        let pair = requests.to(&pod("gone"));
        let again = requests.to(&pod("gone"));
        assert!(Arc::ptr_eq(&pair, &again));
        pair.record(200, Duration::ZERO);
        drop(pair);
        assert!(text(&requests).contains("destination_pod=\"gone\""));
        drop(again);
        assert!(!text(&requests).contains("gone"));
        assert_eq!(requests.0.known.lock().len(), 0);
    }

    #[test]
    fn destinations_beyond_the_bound_are_counted_together() {
        let requests = Requests::bounded(buyer(), 2);
        let first = requests.to(&pod("a"));
        let _second = requests.to(&pod("b"));
        let third = requests.to(&pod("c"));
        assert!(Arc::ptr_eq(&third, &requests.unknown()));
        third.record(200, Duration::ZERO);
        assert!(text(&requests).contains("destination_pod=\"unknown\"} 1"));
        drop(first);
        assert!(!Arc::ptr_eq(&requests.to(&pod("c")), &third));
    }

    #[test]
    fn a_client_that_leaves_is_counted_without_a_status() {
        let requests = Requests::new(buyer());
        let pair = requests.to(&pod("a"));
        let mut measured = Measured::begin();
        measured.sent_to(&pair);
        drop(measured);
        drop(Measured::begin());
        drop(Measured::begin().answered(StatusCode::NOT_FOUND, &requests));
        assert_eq!(pair.codes().collect::<Vec<_>>(), [(0, 1)]);
        assert_eq!(requests.unknown().codes().collect::<Vec<_>>(), [(404, 1)]);
    }

    #[test]
    fn any_status_is_counted() {
        let requests = Requests::new(buyer());
        for status in [0, 100, 599, 999, u16::MAX] {
            requests.unknown().record(status, Duration::MAX);
        }
        let text = text(&requests);
        assert!(text.contains("response_code=\"0\"") && text.contains("response_code=\"999\""));
        assert_eq!(requests.unknown().count(), 5);
    }
}
