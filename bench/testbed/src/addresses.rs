//! Who gets which address: pods from 10.244.0.0/16 and fd00:244::/64, Services from 10.96.0.0/16 and
//! fd00:96::/112. Pure; the caller passes the time.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::time::{Duration, Instant};

/// The node's own addresses: the pods' gateway and where probes come from.
pub(crate) const GATEWAY: (Ipv4Addr, Ipv6Addr) = (
    Ipv4Addr::new(10, 244, 0, 1),
    Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, 1),
);

/// How long a pod's address rests after its pod is gone, so that late packets meet nobody.
const REST: Duration = Duration::from_secs(30);

/// One host number in both families.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct HostNumber(u16);

impl HostNumber {
    /// The pod's IPv4 and IPv6 address.
    pub(crate) fn pod(self) -> (Ipv4Addr, Ipv6Addr) {
        let [high, low] = self.0.to_be_bytes();
        (
            Ipv4Addr::new(10, 244, high, low),
            Ipv6Addr::new(0xfd00, 0x244, 0, 0, 0, 0, 0, self.0),
        )
    }

    fn service(self) -> (Ipv4Addr, Ipv6Addr) {
        let [high, low] = self.0.to_be_bytes();
        (
            Ipv4Addr::new(10, 96, high, low),
            Ipv6Addr::new(0xfd00, 0x96, 0, 0, 0, 0, 0, self.0),
        )
    }
}

/// No address is free.
#[derive(Debug, thiserror::Error)]
#[error("all {0} addresses are in use: delete some, or wait 30 s for those of deleted pods")]
pub(crate) struct Exhausted(&'static str);

/// Pod addresses: handed out in turn, so that a freed one is reused as late as possible.
#[derive(Debug, Default)]
pub(crate) struct Pods {
    used: BTreeSet<u16>,
    resting: VecDeque<(Instant, u16)>,
    last: u16,
}

impl Pods {
    pub(crate) fn allocate(&mut self, now: Instant) -> Result<HostNumber, Exhausted> {
        while self
            .resting
            .front()
            .is_some_and(|(since, _)| now.duration_since(*since) >= REST)
        {
            if let Some((_, number)) = self.resting.pop_front() {
                self.used.remove(&number);
            }
        }
        let start = self.last.max(1);
        (start..=65_000)
            .skip(1)
            .chain(2..=start)
            .find(|number| !self.used.contains(number))
            .map(|number| {
                self.used.insert(number);
                self.last = number;
                HostNumber(number)
            })
            .ok_or(Exhausted("pod"))
    }

    pub(crate) fn release(&mut self, number: HostNumber, now: Instant) {
        self.resting.push_back((now, number.0));
    }
}

/// Service addresses: a name keeps its address for as long as the testbed runs.
#[derive(Debug, Default)]
pub(crate) struct Services {
    by_name: BTreeMap<(String, String), HostNumber>,
    requested: BTreeSet<u16>,
}

impl Services {
    /// The addresses of `namespace/name`; `requested` is the manifest's own `clusterIP`, if it names one.
    pub(crate) fn assign(
        &mut self,
        namespace: &str,
        name: &str,
        requested: Option<IpAddr>,
    ) -> Result<(Ipv4Addr, Ipv6Addr), Exhausted> {
        let key = (namespace.to_owned(), name.to_owned());
        if let Some(IpAddr::V4(address)) = requested
            && let [10, 96, high, low] = address.octets()
        {
            let number = u16::from_be_bytes([high, low]);
            self.requested.insert(number);
            self.by_name.insert(key, HostNumber(number));
            return Ok(HostNumber(number).service());
        }
        if let Some(number) = self.by_name.get(&key) {
            return Ok(number.service());
        }
        let used: BTreeSet<u16> = self
            .by_name
            .values()
            .map(|number| number.0)
            .chain(self.requested.iter().copied())
            .collect();
        let number = (10..=65_000)
            .find(|number| !used.contains(number))
            .map(HostNumber)
            .ok_or(Exhausted("Service"))?;
        self.by_name.insert(key, number);
        Ok(number.service())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_freed_pod_address_rests() {
        let start = Instant::now();
        let mut pods = Pods {
            last: 64_999,
            ..Pods::default()
        };
        let first = pods.allocate(start).unwrap();
        assert_eq!(first.pod().0, Ipv4Addr::new(10, 244, 253, 232));
        pods.release(first, start);
        pods.used.extend(2..65_000);
        assert!(pods.allocate(start + Duration::from_secs(29)).is_err());
        assert_eq!(pods.allocate(start + REST).unwrap(), first);
    }

    #[test]
    fn pod_addresses_go_round_and_never_are_the_gateway() {
        let mut pods = Pods::default();
        let numbers: Vec<_> = (0..300).map(|_| pods.allocate(Instant::now()).unwrap()).collect();
        assert_eq!(numbers[0].pod().0, Ipv4Addr::new(10, 244, 0, 2));
        assert!(numbers.iter().all(|number| number.pod().0 != GATEWAY.0));
        assert_eq!(numbers.iter().collect::<BTreeSet<_>>().len(), 300);
    }

    #[test]
    fn a_service_keeps_its_address() {
        let mut services = Services::default();
        let a = services.assign("shop", "a", None).unwrap();
        let b = services.assign("shop", "b", None).unwrap();
        assert_ne!(a, b);
        assert_eq!(services.assign("shop", "a", None).unwrap(), a);
        let asked = services
            .assign("shop", "c", Some(IpAddr::from([10, 96, 7, 7])))
            .unwrap();
        assert_eq!(asked.0, Ipv4Addr::new(10, 96, 7, 7));
    }
}
