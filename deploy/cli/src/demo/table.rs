//! The live table: what flows between the workloads, from two scrapes of every sidecar. Pure.

use std::{collections::BTreeMap, fmt::Write};

use super::scrape::{Sample, Scrape};

const WIDTH: usize = 80;

/// One row: a client workload and a server workload.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Edge {
    pub(crate) from: String,
    pub(crate) to: String,
    /// Requests per second.
    pub(crate) rate: f64,
    /// Share of responses below 400, from 0 to 1.
    pub(crate) success: f64,
    /// Whether the client's connections to other pods were under mTLS: all, some or none.
    pub(crate) mtls: Mtls,
    /// Responses 403 per second.
    pub(crate) denied: f64,
    /// Latency in milliseconds below which half of the responses were.
    pub(crate) p50: Option<f64>,
    /// Latency in milliseconds below which 99 % of the responses were.
    pub(crate) p99: Option<f64>,
    /// Share of the client's requests, from 0 to 1.
    pub(crate) share: f64,
}

/// How many of some connections were under mTLS.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mtls {
    All,
    Some,
    None,
}

impl Mtls {
    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::All => "yes",
            Self::Some => "part",
            Self::None => "no",
        }
    }

    fn of(scrape: &Scrape) -> Self {
        let opened = |tls: &str| -> f64 {
            let samples = scrape.of("weir_upstream_connections_total");
            samples
                .filter(|sample| sample.label("tls") == tls)
                .map(|sample| sample.value)
                .sum()
        };
        match (opened("true") > 0.0, opened("false") > 0.0) {
            (true, false) => Self::All,
            (true, true) => Self::Some,
            (false, _) => Self::None,
        }
    }
}

type Key = (String, String);

/// The edges with traffic between two scrapes of the same sidecars, `seconds` apart.
pub(crate) fn edges(before: &[Scrape], after: &[Scrape], seconds: f64) -> Vec<Edge> {
    let requests = growth(before, after, "osm_request_total");
    let buckets = growth(before, after, "osm_request_duration_ms_bucket");
    let mut totals: BTreeMap<Key, (f64, f64, f64)> = BTreeMap::new();
    for (sample, grown) in &requests {
        let total = totals.entry(key(sample)).or_default();
        let code = sample.label("response_code");
        total.0 += grown;
        total.1 += if code.starts_with(['1', '2', '3']) {
            *grown
        } else {
            0.0
        };
        total.2 += if code == "403" { *grown } else { 0.0 };
    }
    let sent = |from: &str| -> f64 {
        let of_client = totals.iter().filter(|((client, _), _)| client == from);
        of_client.map(|(_, (all, ..))| all).sum()
    };
    let mtls = |from: &str| {
        let of_client = |scrape: &&Scrape| {
            scrape
                .of("osm_request_total")
                .any(|sample| sample.label("source_name") == from)
        };
        after.iter().find(of_client).map_or(Mtls::None, Mtls::of)
    };
    let edges = totals.iter().filter(|(_, (all, ..))| *all > 0.0);
    edges
        .map(|(edge, (all, good, denied))| Edge {
            from: edge.0.clone(),
            to: edge.1.clone(),
            rate: all / seconds,
            success: good / all,
            mtls: mtls(&edge.0),
            denied: denied / seconds,
            p50: quantile(&buckets, edge, 0.5),
            p99: quantile(&buckets, edge, 0.99),
            share: all / sent(&edge.0),
        })
        .collect()
}

fn key(sample: &Sample) -> Key {
    (
        sample.label("source_name").to_owned(),
        sample.label("destination_name").to_owned(),
    )
}

/// By how much each sample grew; one that shrank began anew with its process.
fn growth(before: &[Scrape], after: &[Scrape], name: &str) -> Vec<(Sample, f64)> {
    let old: BTreeMap<_, _> = before
        .iter()
        .flat_map(|scrape| scrape.of(name))
        .map(|sample| (&sample.labels, sample.value))
        .collect();
    let grown = |sample: &Sample| {
        let delta = sample.value - old.get(&sample.labels).copied().unwrap_or(0.0);
        if delta < 0.0 { sample.value } else { delta }
    };
    let samples = after.iter().flat_map(|scrape| scrape.of(name));
    samples.map(|sample| (sample.clone(), grown(sample))).collect()
}

/// The upper bound of the bucket that the quantile falls into.
fn quantile(buckets: &[(Sample, f64)], edge: &Key, quantile: f64) -> Option<f64> {
    let mut counts: BTreeMap<u64, f64> = BTreeMap::new();
    for (sample, grown) in buckets.iter().filter(|(sample, _)| key(sample) == *edge) {
        let bound: f64 = sample.label("le").parse().ok()?;
        // Bounds are non-negative, so their bits sort as they do.
        *counts.entry(bound.to_bits()).or_default() += grown;
    }
    let all = *counts.values().last()?;
    let bound = counts
        .iter()
        .find(|(_, count)| all > 0.0 && **count >= quantile * all)?;
    Some(f64::from_bits(*bound.0))
}

/// The table as text of at most 80 columns.
pub(crate) fn render(edges: &[Edge]) -> String {
    let mut text = format!(
        "{:<31}{:>6}{:>9}{:>7}{:>7}{:>6}{:>8}{:>6}\n",
        "FROM -> TO", "RPS", "SUCCESS", "P50 ms", "P99 ms", "mTLS", "DENIED", "SPLIT"
    );
    if edges.is_empty() {
        text.push_str("no traffic\n");
    }
    for edge in edges {
        let name = format!("{} -> {}", edge.from, edge.to);
        let millis = |value: Option<f64>| match value {
            Some(value) if value.is_finite() => format!("<{value}"),
            Some(_) => "slow".to_owned(),
            None => "-".to_owned(),
        };
        let _ = writeln!(
            text,
            "{:<31}{:>6.0}{:>8.0}%{:>7}{:>7}{:>6}{:>6.0}/s{:>5.0}%",
            clip(&name, 30),
            edge.rate,
            edge.success * 100.0,
            millis(edge.p50),
            millis(edge.p99),
            edge.mtls.text(),
            edge.denied,
            edge.share * 100.0,
        );
    }
    debug_assert!(text.lines().all(|line| line.chars().count() <= WIDTH));
    text
}

fn clip(text: &str, width: usize) -> String {
    match text.chars().count() <= width {
        true => text.to_owned(),
        false => text.chars().take(width - 1).chain(['~']).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scrape(v1: u32, v2: u32, denied: u32) -> Vec<Scrape> {
        let line = |to: &str, code: u32, count: u32| {
            format!(
                "osm_request_total{{source_name=\"buyer\",destination_name=\"{to}\",response_code=\"{code}\"}} {count}\n"
            )
        };
        let bucket = |to: &str, le: &str, count: u32| {
            format!(
                "osm_request_duration_ms_bucket{{source_name=\"buyer\",destination_name=\"{to}\",le=\"{le}\"}} {count}\n"
            )
        };
        let text = "weir_upstream_connections_total{tls=\"true\"} 2\n".to_owned()
            + &line("v1", 200, v1)
            + &line("v2", 200, v2)
            + &line("v1", 403, denied)
            + &bucket("v1", "5.0", v1 / 2)
            + &bucket("v1", "10.0", v1)
            + &bucket("v1", "+Inf", v1 + denied);
        vec![Scrape::parse(&text)]
    }

    #[test]
    fn edges_are_what_grew_between_two_scrapes() {
        let edges = edges(&scrape(100, 100, 0), &scrape(160, 120, 20), 10.0);
        assert_eq!(edges.len(), 2);
        assert_eq!(
            (edges[0].to.as_str(), edges[0].rate, edges[0].denied),
            ("v1", 8.0, 2.0)
        );
        assert_eq!(edges[0].success, 0.75);
        assert_eq!(edges[0].mtls, Mtls::All);
        assert_eq!(edges[0].p50, Some(10.0));
        assert_eq!(edges[0].p99, Some(f64::INFINITY));
        assert_eq!((edges[1].share, edges[1].p50), (0.2, None));
    }

    #[test]
    fn the_table_fits_eighty_columns() {
        let mut edges = edges(&scrape(0, 0, 0), &scrape(123_456, 99, 7), 1.0);
        edges[0].from = "a-deployment-with-quite-a-long-name".to_owned();
        let text = render(&edges);
        assert!(text.lines().all(|line| line.chars().count() <= 80), "{text}");
        assert!(render(&[]).contains("no traffic"));
    }
}
