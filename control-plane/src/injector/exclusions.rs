//! What is left out of the redirect: MeshConfig's lists united with the pod's annotations.

use std::{collections::BTreeMap, ops::RangeInclusive};

use ipnet::IpNet;

use super::InjectError;

/// What is left out of the redirect.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Exclusions {
    /// Ports of the pod that are reached directly.
    pub inbound_ports: Vec<RangeInclusive<u16>>,
    /// Ports elsewhere that the pod reaches directly.
    pub outbound_ports: Vec<RangeInclusive<u16>>,
    /// Addresses that the pod reaches directly.
    pub outbound_ranges: Vec<IpNet>,
    /// If not empty, only these addresses are redirected.
    pub outbound_inclusions: Vec<IpNet>,
    /// Network interfaces whose traffic is not touched.
    pub interfaces: Vec<String>,
}

impl Exclusions {
    /// These and what a pod's annotations add.
    ///
    /// # Errors
    /// When an annotation is not a list of ports or of address ranges.
    pub fn with_annotations(&self, annotations: &BTreeMap<String, String>) -> Result<Self, InjectError> {
        let mut all = self.clone();
        let ports = |name: &str| {
            list(
                annotations,
                name,
                "a port (1-65535) or a range of ports such as 8000-8010",
                port,
            )
        };
        let ranges = |name: &str| list(annotations, name, "an address range such as 10.0.0.0/8", range);
        all.inbound_ports.extend(ports("inbound-port-exclusion-list")?);
        all.outbound_ports.extend(ports("outbound-port-exclusion-list")?);
        all.outbound_ranges
            .extend(ranges("outbound-ip-range-exclusion-list")?);
        all.outbound_inclusions
            .extend(ranges("outbound-ip-range-inclusion-list")?);
        Ok(all)
    }

    /// As arguments of `weir-init`.
    pub(super) fn arguments(&self) -> Vec<String> {
        let ports = |ranges: &[RangeInclusive<u16>]| {
            join(ranges, |range| match range.start() == range.end() {
                true => range.start().to_string(),
                false => format!("{}-{}", range.start(), range.end()),
            })
        };
        let addresses = |ranges: &[IpNet]| join(ranges, IpNet::to_string);
        [
            ("--exclude-inbound-ports", ports(&self.inbound_ports)),
            ("--exclude-outbound-ports", ports(&self.outbound_ports)),
            ("--exclude-outbound-cidrs", addresses(&self.outbound_ranges)),
            ("--include-outbound-cidrs", addresses(&self.outbound_inclusions)),
            ("--exclude-interfaces", join(&self.interfaces, String::clone)),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .map(|(flag, value)| format!("{flag}={value}"))
        .collect()
    }
}

fn join<T>(items: &[T], text: impl Fn(&T) -> String) -> String {
    items.iter().map(text).collect::<Vec<_>>().join(",")
}

fn list<T>(
    annotations: &BTreeMap<String, String>,
    name: &str,
    wanted: &'static str,
    parse: impl Fn(&str) -> Option<T>,
) -> Result<Vec<T>, InjectError> {
    let name = format!("openservicemesh.io/{name}");
    let value = annotations.get(&name).map(String::as_str).unwrap_or_default();
    let items = value.split(',').map(str::trim).filter(|item| !item.is_empty());
    items
        .map(|item| {
            parse(item).ok_or_else(|| InjectError::Annotation {
                annotation: name.clone(),
                value: item.to_owned(),
                wanted,
            })
        })
        .collect()
}

fn port(text: &str) -> Option<RangeInclusive<u16>> {
    let number = |text: &str| text.trim().parse().ok().filter(|port| *port != 0);
    match text.split_once('-') {
        None => number(text).map(|port| port..=port),
        Some((first, last)) => {
            let range = number(first)?..=number(last)?;
            (!range.is_empty()).then_some(range)
        }
    }
}

fn range(text: &str) -> Option<IpNet> {
    text.parse().ok()
}
