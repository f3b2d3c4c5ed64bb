//! Services: ports whose protocol is not said, and selectors that match nothing. Pure.

use k8s_openapi::{
    api::core::v1::{Container, Pod, ServiceSpec},
    apimachinery::pkg::util::intstr::IntOrString,
};
use weir_controller::{
    catalog::{Protocol, ServiceKey},
    spec::ObjectName,
};

use super::{
    mesh::View,
    report::{Section, many},
};

/// Checks the services of the mesh's namespaces.
pub(super) fn check(view: &View<'_>) -> Section {
    let mut section = Section::new("services");
    let mut count = 0;
    for (name, stored) in view.objects.services.iter() {
        if !view.has(&name.namespace) || !view.is_monitored(&name.namespace) {
            continue;
        }
        count += 1;
        let object = format!("Service {name}");
        if let Some(spec) = &stored.value.spec {
            selector(view, name, spec, &object, &mut section);
        }
        protocols(view, name, &object, &mut section);
    }
    section.note(many(count, "service"));
    for found in view.snapshot.diagnostics.iter() {
        if let Some(name) = found.object.strip_prefix("Service ")
            && view.has(name.split('/').next().unwrap_or_default())
        {
            section.diagnostic(found);
        }
    }
    section
}

fn selector(view: &View<'_>, name: &ObjectName, spec: &ServiceSpec, object: &str, section: &mut Section) {
    let selector = match &spec.selector {
        Some(selector) if !selector.is_empty() => selector,
        _ => return,
    };
    let selected: Vec<&Pod> = view
        .objects
        .pods
        .iter()
        .filter(|(pod, _)| pod.namespace == name.namespace)
        .map(|(_, stored)| &stored.value)
        .filter(|pod| {
            let labels = pod.metadata.labels.as_ref();
            selector
                .iter()
                .all(|(key, value)| labels.and_then(|labels| labels.get(key)) == Some(value))
        })
        .collect();
    if selected.is_empty() {
        let wanted: Vec<String> = selector
            .iter()
            .map(|(key, value)| format!("{key}={value}"))
            .collect();
        section.warning(
            object,
            format!("its selector {} matches no pod", wanted.join(",")),
            "correct the selector or the pods' labels, or scale the workload up",
        );
        return;
    }
    for port in spec.ports.iter().flatten() {
        if let Some(IntOrString::String(target)) = &port.target_port
            && !selected.iter().any(|pod| has_port(pod, target))
        {
            section.warning(
                object,
                format!(
                    "port {} leads to the port named {target}, which none of its pods has",
                    port.port
                ),
                "correct spec.ports, or name the port in the pods' containers",
            );
        }
    }
}

fn has_port(pod: &Pod, name: &str) -> bool {
    let Some(spec) = &pod.spec else {
        return false;
    };
    let named = |container: &Container| {
        let mut ports = container.ports.iter().flatten();
        ports.any(|port| port.name.as_deref() == Some(name))
    };
    spec.containers
        .iter()
        .chain(spec.init_containers.iter().flatten())
        .any(named)
}

fn protocols(view: &View<'_>, name: &ObjectName, object: &str, section: &mut Section) {
    let key = ServiceKey {
        namespace: name.namespace.clone(),
        name: name.name.clone(),
    };
    let Some(service) = view.snapshot.services.get(&key) else {
        return;
    };
    let undeclared = service
        .ports
        .iter()
        .filter(|port| port.protocol == Protocol::Undeclared);
    let undeclared: Vec<String> = undeclared.map(|port| port.number.to_string()).collect();
    if undeclared.is_empty() {
        return;
    }
    let ports = match undeclared.len() {
        1 => "port",
        _ => "ports",
    };
    section.warning(
        object,
        format!(
            "{ports} {} declare no protocol; it is told by the client's first bytes, for which a server that speaks first waits in vain for a while",
            undeclared.join(", ")
        ),
        "set appProtocol to http, grpc, tcp or tcp-server-first, or begin the port's name with it",
    );
}
