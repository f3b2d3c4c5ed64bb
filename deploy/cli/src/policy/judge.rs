//! Whether a pod may reach another, by what the catalog makes of the objects. Pure.

use std::sync::Arc;

use anyhow::Context;
use k8s_openapi::api::core::v1;
use weir_controller::{
    catalog::{self, Authorization, InboundPort, Pod, Protocol, Settings, Snapshot},
    endpoints::Objects,
    spec::{MeshConfig, ObjectName, TrafficTarget, has_sidecar},
};

use super::answer::{Answer, Grant, Party, Port, Remark, What};

/// Whether `source` may reach `destination`.
///
/// # Errors
/// When one of them is not there.
pub(super) fn judge(
    objects: &Objects,
    settings: &Settings,
    source: &ObjectName,
    destination: &ObjectName,
) -> anyhow::Result<Answer> {
    let snapshot = catalog::build(None, objects, settings);
    let case = Case {
        objects,
        settings,
        snapshot: &snapshot,
        source: party(objects, source)?,
        destination: party(objects, destination)?,
        namespaces: [source, destination].map(|name| &*name.namespace),
    };
    let [from, to] = [source, destination].map(|name| joined(objects, &snapshot, name));
    Ok(match (from, to) {
        (_, None) => case.outside(),
        (None, Some(_)) => case.without_identity(),
        (Some(from), Some(to)) => case.inside(from, to),
    })
}

fn pod<'a>(objects: &'a Objects, name: &ObjectName) -> anyhow::Result<&'a v1::Pod> {
    let found = objects.pods.get(name).map(|stored| &stored.value);
    found.with_context(|| {
        format!(
            "there is no running Pod {name}; see kubectl -n {} get pods",
            name.namespace
        )
    })
}

fn party(objects: &Objects, name: &ObjectName) -> anyhow::Result<Party> {
    let pod = pod(objects, name)?;
    let spec = pod.spec.as_ref();
    let account = spec.and_then(|spec| spec.service_account_name.as_deref());
    let account = account.filter(|account| !account.is_empty()).unwrap_or("default");
    Ok(Party {
        pod: name.to_string(),
        service_account: format!("{}/{account}", name.namespace),
        in_mesh: has_sidecar(pod),
    })
}

/// The pod as the catalog has it; none where it has no part in the mesh.
fn joined<'a>(objects: &Objects, snapshot: &'a Snapshot, name: &ObjectName) -> Option<&'a Arc<Pod>> {
    let uid = objects.pods.get(name)?.value.metadata.uid.as_deref()?;
    snapshot.pods.get(uid)
}

struct Case<'a> {
    objects: &'a Objects,
    settings: &'a Settings,
    snapshot: &'a Snapshot,
    source: Party,
    destination: Party,
    /// Of source and destination.
    namespaces: [&'a str; 2],
}

impl Case<'_> {
    fn answer(self, allowed: bool, ports: Vec<Port>, remarks: Vec<Remark>) -> Answer {
        Answer {
            source: self.source,
            destination: self.destination,
            allowed,
            ports,
            remarks,
        }
    }

    /// The destination has no sidecar that could refuse anything.
    fn outside(self) -> Answer {
        let mesh = &self.snapshot.mesh;
        let allowed = mesh.egress || !self.source.in_mesh;
        let config = format!("MeshConfig {}/{}", self.settings.namespace, MeshConfig::NAME);
        let mut remarks = vec![Remark {
            object: format!("Pod {}", self.destination.pod),
            message: "it is not in the mesh: no policy guards it, and what reaches it is not encrypted"
                .to_owned(),
            remedy: join_the_mesh(self.namespaces[1]),
        }];
        if !allowed {
            remarks.push(Remark {
                object: config,
                message: "spec.traffic.enableEgress is off, so that sidecars connect to the mesh only"
                    .to_owned(),
                remedy: "bring the destination into the mesh, or turn it on".to_owned(),
            });
        }
        self.answer(allowed, Vec::new(), remarks)
    }

    /// The source cannot prove who it is.
    fn without_identity(self) -> Answer {
        let remark = Remark {
            object: format!("Pod {}", self.source.pod),
            message: "it is not in the mesh, and the destination's sidecar accepts mTLS only".to_owned(),
            remedy: join_the_mesh(self.namespaces[0]),
        };
        self.answer(false, Vec::new(), vec![remark])
    }

    fn inside(self, from: &Pod, to: &Pod) -> Answer {
        let config = format!("MeshConfig {}/{}", self.settings.namespace, MeshConfig::NAME);
        let ports: Vec<Port> = to
            .inbound
            .iter()
            .map(|port| of_port(port, &from.principal, &config))
            .collect();
        let allowed = ports.iter().any(|port| !port.grants.is_empty());
        let mut remarks = Vec::new();
        if to.inbound.is_empty() {
            remarks.push(Remark {
                object: format!("Pod {}", self.destination.pod),
                message: "no Service leads to it, and the mesh reaches pods through Services".to_owned(),
                remedy: "create a Service whose selector matches the pod's labels".to_owned(),
            });
        } else if !allowed {
            remarks = self.missing(&ports);
        }
        self.answer(allowed, ports, remarks)
    }

    /// What would have to be there for something to be allowed.
    fn missing(&self, ports: &[Port]) -> Vec<Remark> {
        let mut remarks = Vec::new();
        let (namespace, account) = split(&self.destination.service_account);
        for (name, target) in self.objects.traffic_targets.iter() {
            let target = &target.value;
            if &*name.namespace != namespace || target.spec.destination.name != account {
                continue;
            }
            let object = format!("TrafficTarget {name}");
            let wrong = self
                .snapshot
                .diagnostics
                .iter()
                .filter(|found| found.object == object);
            let wrong = wrong.map(|found| Remark {
                object: object.clone(),
                message: format!("{}: {}", found.field, found.message),
                remedy: found.remedy.clone(),
            });
            remarks.extend(wrong);
            match self.names_source(target, namespace) {
                true => remarks.push(no_port(&object, ports)),
                false => remarks.push(self.no_source(&object)),
            }
        }
        if remarks.is_empty() {
            remarks.push(self.no_target());
        }
        remarks
    }

    fn names_source(&self, target: &TrafficTarget, own: &str) -> bool {
        let (namespace, account) = split(&self.source.service_account);
        let sources = &target.spec.sources;
        sources
            .iter()
            .any(|source| source.name == account && source.namespace.as_deref().unwrap_or(own) == namespace)
    }

    fn no_source(&self, object: &str) -> Remark {
        let (namespace, account) = split(&self.source.service_account);
        Remark {
            object: object.to_owned(),
            message: format!(
                "it leads to ServiceAccount {}, and {} is not among its sources",
                self.destination.service_account, self.source.service_account
            ),
            remedy: format!(
                "add to spec.sources: {{kind: ServiceAccount, name: {account}, namespace: {namespace}}}"
            ),
        }
    }

    fn no_target(&self) -> Remark {
        let (namespace, account) = split(&self.destination.service_account);
        Remark {
            object: format!("ServiceAccount {}", self.destination.service_account),
            message: "no TrafficTarget leads to it".to_owned(),
            remedy: format!(
                "apply one in namespace {namespace}, with ServiceAccount {account} as its destination and {} among its sources",
                self.source.service_account
            ),
        }
    }
}

fn of_port(port: &InboundPort, source: &Arc<str>, config: &str) -> Port {
    let grants = match &*port.authorization {
        Authorization::Permissive => vec![Grant {
            what: What::Everything,
            by: vec![format!("{config}, which is permissive")],
        }],
        Authorization::Rules { .. } => grants(port, source),
    };
    Port {
        port: port.port,
        protocol: word(port.protocol),
        services: port.services.iter().map(ToString::to_string).collect(),
        grants,
    }
}

/// What the rules of a port grant, as the sidecar applies them: requests need a rule for them beside the connection.
fn grants(port: &InboundPort, source: &Arc<str>) -> Vec<Grant> {
    let Authorization::Rules { http, tcp } = &*port.authorization else {
        return Vec::new();
    };
    let by = |policies: &std::collections::BTreeSet<String>| {
        policies
            .iter()
            .map(|name| format!("TrafficTarget {name}"))
            .collect()
    };
    let connections: Vec<_> = tcp
        .iter()
        .filter(|rule| rule.rule.principals.contains(source))
        .filter(|rule| rule.ports.is_empty() || rule.ports.contains(&port.port))
        .collect();
    if connections.is_empty() {
        return Vec::new();
    }
    let opaque = matches!(port.protocol, Protocol::Tcp | Protocol::TcpServerFirst);
    let mut grants: Vec<Grant> = connections
        .iter()
        .filter(|rule| opaque || !rule.for_requests)
        .map(|rule| Grant {
            what: What::Connections,
            by: by(&rule.rule.policies),
        })
        .collect();
    if !opaque {
        let requests = http.iter().filter(|rule| rule.rule.principals.contains(source));
        grants.extend(requests.map(|rule| Grant {
            what: What::Requests {
                methods: rule.methods.iter().cloned().collect(),
                path_regex: rule.path_regex.clone(),
                headers: rule.headers.clone(),
            },
            by: by(&rule.rule.policies),
        }));
    }
    grants
}

fn no_port(object: &str, ports: &[Port]) -> Remark {
    let ports: Vec<String> = ports.iter().map(|port| port.port.to_string()).collect();
    Remark {
        object: object.to_owned(),
        message: format!("its rules allow nothing on the pod's ports, {}", ports.join(", ")),
        remedy: "name an HTTPRouteGroup in spec.rules, or a TCPRoute with one of these ports".to_owned(),
    }
}

fn join_the_mesh(namespace: &str) -> String {
    format!(
        "bring it in: weir namespace add {namespace}, then kubectl -n {namespace} rollout restart deployment"
    )
}

fn word(protocol: Protocol) -> &'static str {
    match protocol {
        Protocol::Http => "http",
        Protocol::Grpc => "grpc",
        Protocol::Tcp => "tcp",
        Protocol::TcpServerFirst => "tcp-server-first",
        Protocol::Undeclared => "protocol not declared",
    }
}

/// Namespace and name.
fn split(account: &str) -> (&str, &str) {
    account.split_once('/').unwrap_or(("", account))
}
