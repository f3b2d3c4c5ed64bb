//! The kinds that are watched, and what of them the API server is asked for.

use kube::{
    Api, Client,
    core::{ApiResource, GroupVersionKind},
    runtime::watcher,
};

use super::item::Item;

/// Objects per page of a list.
const PAGE: u32 = 500;
/// How long a watch is asked for, and so how long a connection that died in silence goes unnoticed, in seconds.
const WATCH_S: u32 = 60;

/// A kind that is watched.
#[derive(Debug)]
pub(super) struct Kind {
    /// Its name.
    pub(super) name: &'static str,
    /// `group/version` it is read in.
    pub(super) api_version: &'static str,
    /// Its name in addresses.
    pub(super) plural: &'static str,
    /// Part of Kubernetes, so that its absence is an error. The others need a definition.
    pub(super) built_in: bool,
    /// Those of other namespaces mean nothing.
    own_namespace: bool,
    /// Selector of labels.
    labels: Option<&'static str>,
    /// Selector of fields.
    fields: Option<&'static str>,
}

const fn built_in(name: &'static str, api_version: &'static str, plural: &'static str) -> Kind {
    Kind {
        name,
        api_version,
        plural,
        built_in: true,
        own_namespace: false,
        labels: None,
        fields: None,
    }
}

const fn policy(name: &'static str, api_version: &'static str, plural: &'static str) -> Kind {
    Kind {
        built_in: false,
        ..built_in(name, api_version, plural)
    }
}

const fn setting(name: &'static str, api_version: &'static str, plural: &'static str) -> Kind {
    Kind {
        own_namespace: true,
        ..policy(name, api_version, plural)
    }
}

/// Every kind that is watched.
pub(super) static KINDS: [Kind; 15] = [
    built_in("Namespace", "v1", "namespaces"),
    built_in("Service", "v1", "services"),
    built_in("ServiceAccount", "v1", "serviceaccounts"),
    Kind {
        // A pod that has ended is to us what a deleted one is.
        fields: Some("status.phase!=Succeeded,status.phase!=Failed"),
        ..built_in("Pod", "v1", "pods")
    },
    Kind {
        labels: Some("kubernetes.io/service-name"),
        ..built_in("EndpointSlice", "discovery.k8s.io/v1", "endpointslices")
    },
    policy("TrafficTarget", "access.smi-spec.io/v1alpha3", "traffictargets"),
    policy("HTTPRouteGroup", "specs.smi-spec.io/v1alpha4", "httproutegroups"),
    policy("TCPRoute", "specs.smi-spec.io/v1alpha4", "tcproutes"),
    policy("TrafficSplit", "split.smi-spec.io/v1alpha2", "trafficsplits"),
    policy("Egress", "policy.openservicemesh.io/v1alpha1", "egresses"),
    policy(
        "IngressBackend",
        "policy.openservicemesh.io/v1alpha1",
        "ingressbackends",
    ),
    policy("Retry", "policy.openservicemesh.io/v1alpha1", "retries"),
    policy(
        "UpstreamTrafficSetting",
        "policy.openservicemesh.io/v1alpha1",
        "upstreamtrafficsettings",
    ),
    setting("MeshConfig", "config.openservicemesh.io/v1alpha2", "meshconfigs"),
    setting(
        "MeshRootCertificate",
        "config.openservicemesh.io/v1alpha2",
        "meshrootcertificates",
    ),
];

impl Kind {
    /// Where its objects are: all of them, or with `own` those that mean something to the control plane of that
    /// namespace.
    pub(super) fn api(&self, client: Client, own: Option<&str>) -> Api<Item> {
        let (group, version) = self.group_version();
        let gvk = GroupVersionKind::gvk(group, version, self.name);
        let resource = ApiResource::from_gvk_with_plural(&gvk, self.plural);
        match own.filter(|_| self.own_namespace) {
            Some(namespace) => Api::namespaced_with(client, namespace, &resource),
            None => Api::all_with(client, &resource),
        }
    }

    /// How it is watched.
    pub(super) fn watch(&self) -> watcher::Config {
        watcher::Config {
            label_selector: self.labels.map(str::to_owned),
            field_selector: self.fields.map(str::to_owned),
            timeout: Some(WATCH_S),
            page_size: Some(PAGE),
            ..watcher::Config::default()
        }
    }

    /// API group, empty for the oldest kinds, and version.
    pub(super) fn group_version(&self) -> (&'static str, &'static str) {
        self.api_version.split_once('/').unwrap_or(("", self.api_version))
    }
}

/// Whether the API server says that it has no such kind. Any other "not found" may come from something between.
///
/// # Errors
/// When it does not answer.
pub(super) async fn is_absent(client: &Client, kind: &Kind) -> kube::Result<bool> {
    let (group, version) = kind.group_version();
    let groups = client.list_api_groups().await?.groups;
    let found = groups.iter().find(|found| found.name == group);
    if !found.is_some_and(|found| found.versions.iter().any(|it| it.version == version)) {
        return Ok(true);
    }
    let resources = client.list_api_group_resources(kind.api_version).await?.resources;
    Ok(resources.iter().all(|resource| resource.name != kind.plural))
}
