//! Policies: what the control plane finds wrong with them, and what is named by nothing. Pure.

use std::collections::BTreeSet;

use weir_controller::spec::{MeshConfig, ObjectName};

use super::{
    mesh::View,
    report::{Section, many},
};

/// Checks MeshConfig and the policies.
pub(super) fn check(view: &View<'_>) -> Section {
    let mut section = Section::new("policies");
    mode(view, &mut section);
    for found in view.snapshot.diagnostics.iter() {
        let (kind, name) = found.object.split_once(' ').unwrap_or(("", ""));
        let namespace = name.split_once('/').map_or("", |(namespace, _)| namespace);
        // MeshConfig is everybody's.
        if kind != "Service" && (kind == "MeshConfig" || view.has(namespace)) {
            section.diagnostic(found);
        }
    }
    for kind in &view.objects.missing {
        section.error(
            format!("CustomResourceDefinition of {kind}"),
            "it is not installed, so that there can be no such policy",
            "run `weir install` again, or apply deploy/chart/crds",
        );
    }
    unused(view, &mut section);
    without_pods(view, &mut section);
    unreachable(view, &mut section);
    section
}

fn mode(view: &View<'_>, section: &mut Section) {
    let name = ObjectName::new(&view.settings.namespace, MeshConfig::NAME);
    if !view.objects.mesh_configs.contains_key(&name) {
        section.error(
            format!("MeshConfig {name}"),
            "it does not exist, and the defaults are in force",
            "run `weir install` again",
        );
    }
    section.note(match view.snapshot.mesh.permissive {
        true => "permissive: every pod of the mesh may reach every other".to_owned(),
        false => "enforced: only what a TrafficTarget allows".to_owned(),
    });
    section.note(many(view.objects.traffic_targets.len(), "TrafficTarget"));
    section.note(many(view.objects.traffic_splits.len(), "TrafficSplit"));
}

/// Routes that no TrafficTarget names.
fn unused(view: &View<'_>, section: &mut Section) {
    let mut used: BTreeSet<(&str, ObjectName)> = BTreeSet::new();
    for (name, target) in view.objects.traffic_targets.iter() {
        for rule in &target.value.spec.rules {
            used.insert((&rule.kind, ObjectName::new(&name.namespace, &rule.name)));
        }
    }
    let groups = view
        .objects
        .http_route_groups
        .keys()
        .map(|name| ("HTTPRouteGroup", name));
    let routes = view.objects.tcp_routes.keys().map(|name| ("TCPRoute", name));
    for (kind, name) in groups.chain(routes).filter(|(_, name)| view.has(&name.namespace)) {
        if !used.contains(&(kind, name.clone())) {
            section.warning(
                format!("{kind} {name}"),
                "no TrafficTarget of its namespace names it, so that it allows nothing",
                "name it in a TrafficTarget's spec.rules, or delete it",
            );
        }
    }
}

/// TrafficTargets that lead to nobody.
fn without_pods(view: &View<'_>, section: &mut Section) {
    let pods: BTreeSet<(&str, &str)> = view
        .objects
        .pods
        .iter()
        .map(|(name, pod)| {
            let spec = pod.value.spec.as_ref();
            let account = spec.and_then(|spec| spec.service_account_name.as_deref());
            (&*name.namespace, account.unwrap_or("default"))
        })
        .collect();
    for (name, target) in view
        .objects
        .traffic_targets
        .iter()
        .filter(|(name, _)| view.has(&name.namespace))
    {
        let account = target.value.spec.destination.name.as_str();
        let known = view
            .objects
            .service_accounts
            .contains_key(&ObjectName::new(&name.namespace, account));
        if known && !pods.contains(&(&*name.namespace, account)) {
            section.warning(
                format!("TrafficTarget {name}"),
                format!("spec.destination.name: no pod runs as ServiceAccount {account}"),
                "set serviceAccountName in the pods' spec, or correct the name",
            );
        }
    }
}

/// Services with pods that nobody may reach.
fn unreachable(view: &View<'_>, section: &mut Section) {
    for (key, service) in view
        .snapshot
        .services
        .iter()
        .filter(|(key, _)| view.has(&key.namespace))
    {
        if service.reachable || service.principals.is_empty() {
            continue;
        }
        let accounts = service.principals.iter().filter_map(|uri| uri.rsplit('/').next());
        section.warning(
            format!("Service {key}"),
            "no TrafficTarget lets anyone reach it",
            format!(
                "if someone should, apply one in namespace {} whose destination is ServiceAccount {}",
                key.namespace,
                accounts.collect::<Vec<_>>().join(" or ")
            ),
        );
    }
}
