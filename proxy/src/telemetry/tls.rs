//! TLS handshakes, and the proxy's own certificate.

use std::{
    fmt,
    time::{SystemTime, UNIX_EPOCH},
};

use prometheus_client::{
    collector::Collector,
    encoding::{DescriptorEncoder, EncodeLabelSet, NoLabelSet},
    metrics::{MetricType, counter::Counter, family::Family},
    registry::Registry,
};
use tokio::sync::watch;

use super::connections::direction_label;
use crate::{identity, model::Direction, tls::Failure};

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct HandshakeLabels {
    direction: &'static str,
    result: &'static str,
    reason: &'static str,
}

/// The family of handshakes: those accepted from clients of the listener's direction, and those begun towards
/// endpoints, which are `outbound`. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handshakes(Family<HandshakeLabels, Counter>);

impl Handshakes {
    /// Registers the family.
    pub(super) fn register(registry: &mut Registry) -> Self {
        let family = Family::default();
        registry.register(
            "weir_tls_handshakes",
            "TLS handshakes with clients (inbound) and endpoints (outbound), and why they failed",
            family.clone(),
        );
        Self(family)
    }

    /// Counts a handshake.
    pub fn done(&self, direction: Direction, result: Result<(), Failure>) {
        let (result, reason) = match result {
            Ok(()) => ("success", "none"),
            Err(failure) => ("failure", failure.as_str()),
        };
        let labels = HandshakeLabels {
            direction: direction_label(direction),
            result,
            reason,
        };
        self.0.get_or_create(&labels).inc();
    }
}

/// The families of the certificate that the control plane signs, read at every scrape.
#[derive(Debug)]
pub(super) struct OwnCertificate(pub(super) watch::Receiver<identity::Status>);

impl Collector for OwnCertificate {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let (expiry, rotations, failures) = {
            let status = self.0.borrow();
            let expiry = status.current.as_ref().map(|current| seconds(current.not_after));
            (expiry, status.rotations, status.failures)
        };
        if let Some(expiry) = expiry {
            encoder
                .encode_descriptor(
                    "weir_certificate_expiry_seconds",
                    "When the proxy's certificate expires, in seconds since the Unix epoch",
                    None,
                    MetricType::Gauge,
                )?
                .encode_gauge(&expiry)?;
        }
        for (name, help, value) in [
            (
                "weir_certificate_rotations",
                "Certificates obtained after the first",
                rotations,
            ),
            (
                "weir_certificate_failures",
                "Attempts to obtain a certificate that failed",
                failures,
            ),
        ] {
            encoder
                .encode_descriptor(name, help, None, MetricType::Counter)?
                .encode_counter::<NoLabelSet, _, u64>(&value, None)?;
        }
        Ok(())
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use prometheus_client::encoding::text::encode;

    use super::*;
    use crate::{identity::Details, tls::PeerIdentity};

    fn text(registry: &Registry) -> String {
        let mut text = String::new();
        encode(&mut text, registry).unwrap();
        text
    }

    #[test]
    fn handshakes_are_counted_by_what_failed() {
        let mut registry = Registry::default();
        let handshakes = Handshakes::register(&mut registry);
        handshakes.done(Direction::Inbound, Ok(()));
        handshakes.done(Direction::Outbound, Err(Failure::WrongIdentity));
        let text = text(&registry);
        for line in [
            "weir_tls_handshakes_total{direction=\"inbound\",result=\"success\",reason=\"none\"} 1",
            "weir_tls_handshakes_total{direction=\"outbound\",result=\"failure\",reason=\"wrong_identity\"} 1",
        ] {
            assert!(text.contains(line), "{text}");
        }
    }

    #[test]
    fn the_certificate_is_read_when_asked() {
        let status = watch::Sender::new(identity::Status::default());
        let mut registry = Registry::default();
        registry.register_collector(Box::new(OwnCertificate(status.subscribe())));
        assert!(text(&registry).contains("weir_certificate_rotations_total 0\n"));
        assert!(!text(&registry).contains("weir_certificate_expiry_seconds"));
        status.send_modify(|status| {
            status.rotations = 1;
            status.current = Some(Details {
                identity: PeerIdentity::default(),
                serial: "01".to_owned(),
                not_before: UNIX_EPOCH,
                not_after: UNIX_EPOCH + Duration::from_secs(1_800_000_000),
            });
        });
        let text = text(&registry);
        assert!(
            text.contains("weir_certificate_expiry_seconds 1800000000\n"),
            "{text}"
        );
        assert!(text.contains("weir_certificate_rotations_total 1\n"), "{text}");
    }
}
