//! What is measured of each way, in order, on fresh processes.

use std::time::Duration;

use serde::Serialize;

use crate::{
    load,
    peers::{HOST, Running},
    pin::Cores,
};

/// Connections of the highest rate.
const CONNECTIONS: usize = 64;
/// Connections and requests a second of the open loop.
const OPEN: (u32, u32) = (32, 1500);

/// The figures of one way in one round; absent where a figure has no meaning.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(crate) struct Figures {
    /// Highest rate, requests a second.
    pub(crate) max_rate: f64,
    /// Median latency at the highest rate, microseconds.
    pub max_p50_us: f64,
    /// CPU microseconds of the pair for a request at the highest rate.
    pub(crate) max_cpu_us: Option<f64>,
    /// Median latency at the fixed rate, microseconds.
    pub open_p50_us: f64,
    /// 99th percentile of latency at the fixed rate, microseconds.
    pub open_p99_us: f64,
    /// CPU microseconds of the pair for a request at the fixed rate.
    pub(crate) open_cpu_us: Option<f64>,
    /// One byte stream, MB a second.
    pub(crate) stream_mb: f64,
    /// CPU seconds of the pair for a GB of the byte stream.
    pub(crate) stream_cpu_s: Option<f64>,
    /// Memory of a sidecar after its start, MiB.
    pub(crate) rss_idle_mib: Option<f64>,
    /// Memory of a sidecar after all of it, MiB.
    pub(crate) rss_after_mib: Option<f64>,
}

/// Measures everything, each part for `time`.
///
/// # Errors
/// When a request fails or a sidecar ends.
pub(crate) fn run(way: &Running, time: Duration, cores: Cores) -> anyhow::Result<Figures> {
    let mut figures = Figures {
        rss_idle_mib: mib(way.rss()?),
        ..Figures::default()
    };
    load::closed(way.http, HOST, CONNECTIONS, time / 5)?;
    let (max, cpu) = with_cpu(way, || load::closed(way.http, HOST, CONNECTIONS, time))?;
    figures.max_rate = max.count as f64 / max.elapsed.as_secs_f64();
    figures.max_p50_us = micros(max.latency.value_at_quantile(0.5));
    figures.max_cpu_us = cpu.map(|cpu| per_request(cpu, max.count));

    let (open, cpu) = with_cpu(way, || {
        load::open(way.http, HOST, OPEN.0, OPEN.1, time, cores.load)
    })?;
    figures.open_p50_us = micros(open.latency.value_at_quantile(0.5));
    figures.open_p99_us = micros(open.latency.value_at_quantile(0.99));
    figures.open_cpu_us = cpu.map(|cpu| per_request(cpu, open.count));

    let (rate, cpu) = with_cpu(way, || load::stream(way.tcp, time))?;
    figures.stream_mb = rate / 1e6;
    figures.stream_cpu_s = cpu.map(|cpu| cpu.as_secs_f64() / (rate * time.as_secs_f64() / 1e9));
    figures.rss_after_mib = mib(way.rss()?);
    Ok(figures)
}

/// Runs a part, and gives the CPU time that the sidecars used in it; `None` without sidecars.
fn with_cpu<T>(
    way: &Running,
    part: impl FnOnce() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Option<Duration>)> {
    let before = way.cpu()?;
    let result = part()?;
    let used = way.cpu()?.saturating_sub(before);
    Ok((result, (!used.is_zero()).then_some(used)))
}

fn micros(nanos: u64) -> f64 {
    nanos as f64 / 1e3
}

fn per_request(cpu: Duration, count: u64) -> f64 {
    cpu.as_secs_f64() * 1e6 / count as f64
}

fn mib(bytes: Option<u64>) -> Option<f64> {
    bytes.map(|bytes| bytes as f64 / f64::from(1 << 20))
}
