//! The configuration stream, and what it brought.

use std::{fmt, time::SystemTime};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, NoLabelSet},
    metrics::MetricType,
};
use weir_xds::ResourceType;

use crate::xds::{Status, TypeStatus};

/// The families of the stream, read at every scrape.
#[derive(Debug)]
pub(super) struct ConfigStream {
    pub(super) status: Status,
    pub(super) started: SystemTime,
}

impl ConfigStream {
    /// Zero while the stream is up: HTTP/2 pings prove that the control plane would have told of changes.
    fn age(&self, now: SystemTime) -> f64 {
        if self.status.connected() {
            return 0.0;
        }
        let heard = self.status.last_heard().unwrap_or(self.started);
        now.duration_since(heard).unwrap_or_default().as_secs_f64()
    }

    fn updates(&self, encoder: &mut DescriptorEncoder<'_>, types: &[(&str, TypeStatus)]) -> fmt::Result {
        let mut family = encoder.encode_descriptor(
            "weir_config_updates",
            "Responses of the control plane, taken whole (ack) or not (nack)",
            None,
            MetricType::Counter,
        )?;
        for (name, status) in types {
            for (result, count) in [("ack", status.acks), ("nack", status.nacks)] {
                family
                    .encode_family(&[("type", *name), ("result", result)])?
                    .encode_counter::<NoLabelSet, _, u64>(&count, None)?;
            }
        }
        Ok(())
    }

    fn versions(&self, encoder: &mut DescriptorEncoder<'_>, types: &[(&str, TypeStatus)]) -> fmt::Result {
        let mut family = encoder.encode_descriptor(
            "weir_config_version",
            "The control plane's version of the last response taken whole",
            None,
            MetricType::Info,
        )?;
        for (name, status) in types {
            if !status.version.is_empty() {
                family.encode_info(&[("type", *name), ("version", status.version.as_str())])?;
            }
        }
        Ok(())
    }
}

impl Collector for ConfigStream {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        encoder
            .encode_descriptor(
                "weir_xds_connected",
                "Whether the stream to the control plane is up",
                None,
                MetricType::Gauge,
            )?
            .encode_gauge(&i64::from(self.status.connected()))?;
        encoder
            .encode_descriptor(
                "weir_config_age_seconds",
                "Seconds since the stream to the control plane was lost, or since the start when there was none; \
                 0 while it is up",
                None,
                MetricType::Gauge,
            )?
            .encode_gauge(&self.age(SystemTime::now()))?;
        let types = ResourceType::ALL.map(|kind| (type_label(kind), self.status.of(kind)));
        self.updates(&mut encoder, &types)?;
        self.versions(&mut encoder, &types)
    }
}

fn type_label(kind: ResourceType) -> &'static str {
    match kind {
        ResourceType::Cluster => "cluster",
        ResourceType::Endpoints => "endpoints",
        ResourceType::Secret => "secret",
        ResourceType::Listener => "listener",
        ResourceType::Route => "route",
    }
}

/// The family of endpoints by cluster, read at every scrape.
pub(super) struct EndpointCounts<F>(pub(super) F);

impl<F> fmt::Debug for EndpointCounts<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EndpointCounts")
    }
}

impl<F> Collector for EndpointCounts<F>
where
    F: Fn() -> Vec<(String, usize)> + Send + Sync + 'static,
{
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut family = encoder.encode_descriptor(
            "weir_endpoints",
            "Endpoints of each cluster in use",
            None,
            MetricType::Gauge,
        )?;
        for (service, count) in (self.0)() {
            family
                .encode_family(&[("service", service.as_str())])?
                .encode_gauge(&(count as u64))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::{encoding::text::encode, registry::Registry};

    use super::*;

    fn text(collector: impl Collector) -> String {
        let mut registry = Registry::default();
        registry.register_collector(Box::new(collector));
        let mut text = String::new();
        encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn the_stream_is_read_when_asked() {
        let status = Status::default();
        let stream = |status: &Status| ConfigStream {
            status: status.clone(),
            started: SystemTime::UNIX_EPOCH,
        };
        let before = text(stream(&status));
        assert!(before.contains("weir_xds_connected 0\n"), "{before}");
        assert!(before.contains("weir_config_updates_total{type=\"cluster\",result=\"ack\"} 0\n"));
        assert!(stream(&status).age(SystemTime::UNIX_EPOCH + Duration::from_secs(7)) > 6.9);

        status.opened();
        status.acked(ResourceType::Cluster, "7", 0);
        status.nacked(ResourceType::Listener, "no");
        let during = text(stream(&status));
        for line in [
            "weir_xds_connected 1\n",
            "weir_config_age_seconds 0.0\n",
            "weir_config_updates_total{type=\"cluster\",result=\"ack\"} 1\n",
            "weir_config_updates_total{type=\"listener\",result=\"nack\"} 1\n",
            "weir_config_version_info{type=\"cluster\",version=\"7\"} 1\n",
        ] {
            assert!(during.contains(line), "{line} is not in\n{during}");
        }

        status.failed("gone");
        let lost = SystemTime::now() + Duration::from_secs(100);
        assert!((99.0..102.0).contains(&stream(&status).age(lost)));
    }

    #[test]
    fn endpoints_are_named_by_their_cluster() {
        let text = text(EndpointCounts(|| vec![("ns/svc|80".to_owned(), 3)]));
        assert!(
            text.contains("weir_endpoints{service=\"ns/svc|80\"} 3\n"),
            "{text}"
        );
    }
}
