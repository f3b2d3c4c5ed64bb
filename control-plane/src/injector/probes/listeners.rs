//! The listeners of the sidecar that the kubelet asks.

use std::collections::BTreeMap;

use serde_json::Value;

use super::{Kind, PROBES};

/// What the sidecar must listen on for the kubelet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::injector) struct ProbeListeners {
    /// By port of the sidecar.
    listeners: BTreeMap<u16, ProbeListener>,
}

/// One listener. It forwards what has no path to tell apart to one port only.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(in crate::injector) struct ProbeListener {
    pub(in crate::injector) http: Vec<HttpProbe>,
    /// Port asked in HTTPS; its TLS is the application's own.
    pub(in crate::injector) https: Option<u16>,
    /// Port asked in gRPC.
    pub(in crate::injector) grpc: Option<u16>,
}

/// One HTTP probe or hook.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::injector) struct HttpProbe {
    /// Path that the kubelet asks the sidecar for.
    pub(in crate::injector) path: String,
    /// Path of the application.
    pub(in crate::injector) original: String,
    /// Port of the application.
    pub(in crate::injector) port: u16,
    /// Whole exchange, in seconds; 0: as long as it takes.
    pub(in crate::injector) timeout: u32,
}

/// What a listener forwards to one port only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::injector) enum Slot {
    Https,
    Grpc,
}

impl Slot {
    const fn name(self) -> &'static str {
        match self {
            Self::Https => "HTTPS",
            Self::Grpc => "gRPC",
        }
    }
}

impl ProbeListeners {
    /// By port of the sidecar.
    pub(in crate::injector) fn iter(&self) -> impl Iterator<Item = (u16, &ProbeListener)> {
        self.listeners.iter().map(|(port, listener)| (*port, listener))
    }

    /// Forwards a path; the last word on a path counts.
    pub(super) fn http(&mut self, kind: Kind, probe: HttpProbe) {
        let http = &mut self.listeners.entry(kind.port()).or_default().http;
        http.retain(|known| known.path != probe.path);
        http.push(probe);
    }

    /// Forwards a port that has no paths. Gives the sidecar's port for it: the kind's own, unless that is taken by
    /// another port of the application.
    pub(super) fn forward(&mut self, slot: Slot, kind: Kind, port: u16) -> Result<u16, String> {
        let others = PROBES.map(Kind::port);
        let known = |at: &u16| {
            self.listeners
                .get(at)
                .is_some_and(|it| it.slot(slot) == Some(port))
        };
        let free = |at: &u16| self.listeners.get(at).is_none_or(|it| it.slot(slot).is_none());
        let own = Some(kind.port()).filter(|at| known(at) || free(at));
        let chosen = own
            .or_else(|| others.into_iter().find(known))
            .or_else(|| others.into_iter().find(free));
        let Some(chosen) = chosen else {
            return Err(format!(
                "port {port} is the fourth that the pod is asked at in {}, and 3 can be told apart; let two share a port",
                slot.name()
            ));
        };
        let listener = self.listeners.entry(chosen).or_default();
        match slot {
            Slot::Https => listener.https = Some(port),
            Slot::Grpc => listener.grpc = Some(port),
        }
        Ok(chosen)
    }

    /// Those of a bootstrap, where it is one that the injector wrote.
    pub(in crate::injector) fn read(bootstrap: &Value) -> Option<Self> {
        let listeners = bootstrap.pointer("/static_resources/listeners")?.as_array()?;
        let listeners = listeners.iter().map(ProbeListener::read).collect::<Option<_>>()?;
        Some(Self { listeners })
    }
}

impl ProbeListener {
    /// Ports of the application that it forwards to.
    pub(in crate::injector) fn ports(&self) -> impl Iterator<Item = u16> {
        let http = self.http.iter().map(|probe| probe.port);
        http.chain(self.https).chain(self.grpc)
    }

    fn slot(&self, slot: Slot) -> Option<u16> {
        match slot {
            Slot::Https => self.https,
            Slot::Grpc => self.grpc,
        }
    }

    fn read(listener: &Value) -> Option<(u16, Self)> {
        let port = listener.pointer("/address/socket_address/port_value")?.as_u64()?;
        let routes = "/default_filter_chain/filters/0/typed_config/route_config/virtual_hosts/0/routes";
        let mut read = Self::default();
        for route in listener.pointer(routes)?.as_array()? {
            let port = forwarded(route.pointer("/route/cluster")?)?;
            let Some(path) = route.pointer("/match/path") else {
                read.grpc = Some(port);
                continue;
            };
            read.http.push(HttpProbe {
                path: path.as_str()?.to_owned(),
                original: route.pointer("/route/prefix_rewrite")?.as_str()?.to_owned(),
                port,
                timeout: route
                    .pointer("/route/timeout")?
                    .as_str()?
                    .strip_suffix('s')?
                    .parse()
                    .ok()?,
            });
        }
        read.https = match listener.pointer("/filter_chains/0/filters/0/typed_config/cluster") {
            Some(cluster) => Some(forwarded(cluster)?),
            None => None,
        };
        Some((u16::try_from(port).ok()?, read))
    }
}

/// A listener's name, after the probe that OSM has there.
pub(in crate::injector) fn name(port: u16) -> &'static str {
    let kind = PROBES.iter().find(|kind| kind.port() == port);
    kind.map_or("probe", |kind| kind.name())
}

/// Prefix of the clusters that are a port of the application.
pub(in crate::injector) const CLUSTER: &str = "probe|";

fn forwarded(cluster: &Value) -> Option<u16> {
    cluster.as_str()?.strip_prefix(CLUSTER)?.parse().ok()
}
