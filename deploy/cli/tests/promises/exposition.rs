//! Metrics as they are shown to Prometheus.

use std::{collections::BTreeMap, net::SocketAddr};

use anyhow::Context;
use tokio::net::TcpStream;

use crate::{
    client::{self, Reply},
    world::{World, within},
};

const CONTROLLER: &str = "weir-system/weir-controller";
const CONTROLLER_PORT: u16 = 9091;
const STATS_PORT: u16 = 15010;

/// One line: name, labels, value.
#[derive(Debug)]
pub(crate) struct Sample {
    pub(crate) name: String,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// One scrape.
#[derive(Debug)]
pub(crate) struct Scrape(pub(crate) Vec<Sample>);

impl Scrape {
    /// Reads the text format.
    ///
    /// # Errors
    /// When a line is not of that format.
    pub(crate) fn read(text: &str) -> anyhow::Result<Self> {
        let lines = text
            .lines()
            .filter(|line| !line.starts_with('#') && !line.is_empty());
        let samples = lines.map(|line| sample(line).with_context(|| format!("not a sample: {line}")));
        Ok(Self(samples.collect::<Result<_, _>>()?))
    }

    /// The sum of the samples with these labels; 0 when there is none.
    pub(crate) fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        self.of(name, labels).map(|sample| sample.value).sum()
    }

    /// The samples with these labels.
    pub(crate) fn of<'a>(
        &'a self,
        name: &'a str,
        labels: &'a [(&str, &str)],
    ) -> impl Iterator<Item = &'a Sample> {
        self.0.iter().filter(move |sample| {
            let has =
                |(label, value): &(&str, &str)| sample.labels.get(*label).map(String::as_str) == Some(*value);
            sample.name == name && labels.iter().all(has)
        })
    }
}

/// No label value in the mesh's metrics holds a quotation mark or a comma.
fn sample(line: &str) -> Option<Sample> {
    let (series, value) = line.rsplit_once(' ')?;
    let (name, labels) = match series.split_once('{') {
        None => (series, ""),
        Some((name, labels)) => (name, labels.strip_suffix('}')?),
    };
    let pair = |pair: &str| {
        let (label, value) = pair.split_once('=')?;
        let value = value.strip_prefix('"')?.strip_suffix('"')?;
        Some((label.to_owned(), value.to_owned()))
    };
    Some(Sample {
        name: name.to_owned(),
        labels: labels
            .split(',')
            .filter(|part| !part.is_empty())
            .map(pair)
            .collect::<Option<_>>()?,
        value: value.parse().ok()?,
    })
}

/// Asks for a page of a pod from the node.
pub(crate) async fn page(world: &World, pod: &str, port: u16, path: &str) -> anyhow::Result<Reply> {
    let status = world.mesh().testbed().find(pod)?;
    let ip = *status.ips.first().context("a pod without address")?;
    let connect = TcpStream::connect(SocketAddr::new(ip, port));
    let stream = within(crate::scene::EXCHANGE, "to connect", connect).await??;
    client::get(stream, pod, path).await?.expect(200)
}

/// The metrics of a pod's sidecar.
pub(crate) async fn sidecar(world: &World, pod: &str) -> anyhow::Result<Scrape> {
    Scrape::read(&page(world, pod, STATS_PORT, "/stats/prometheus").await?.body)
}

/// The metrics of the controller.
pub(crate) async fn controller(world: &World) -> anyhow::Result<Scrape> {
    Scrape::read(&page(world, CONTROLLER, CONTROLLER_PORT, "/metrics").await?.body)
}
