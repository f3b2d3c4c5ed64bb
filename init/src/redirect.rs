//! What to redirect: the validated settings from which the rules are computed.

use std::net::IpAddr;

use ipnet::IpNet;

use crate::ports::{self, PortRange};

/// Ports of the sidecar itself that inbound traffic always reaches directly: admin, metrics and probes.
pub const SIDECAR_PORTS: [(u16, u16); 3] = [(15000, 15000), (15010, 15010), (15901, 15904)];

/// Longest interface name the kernel accepts, in bytes (`IFNAMSIZ` less its terminator).
const INTERFACE_NAME_MAX: usize = 15;

/// How the rules tell the proxy's own sockets from the application's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyIdentity {
    /// The proxy is the only process running as this user.
    Uid(u32),
    /// The proxy sets this `SO_MARK` on its sockets; for sandboxes that have a single user.
    Mark(u32),
}

/// The redirect of one pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Port on which the proxy takes connections to the pod.
    pub inbound_port: u16,
    /// Port on which the proxy takes connections from the pod.
    pub outbound_port: u16,
    /// How the proxy is recognized.
    pub proxy: ProxyIdentity,
    /// Inbound ports that bypass the proxy, beside [`SIDECAR_PORTS`].
    pub exclude_inbound_ports: Vec<PortRange>,
    /// Outbound ports that bypass the proxy.
    pub exclude_outbound_ports: Vec<PortRange>,
    /// Outbound destinations that bypass the proxy.
    pub exclude_outbound_cidrs: Vec<IpNet>,
    /// When not empty, only these outbound destinations go through the proxy, in either family.
    pub include_outbound_cidrs: Vec<IpNet>,
    /// Interfaces whose traffic bypasses the proxy, both ways.
    pub exclude_interfaces: Vec<String>,
    /// With local proxy mode `PodIP`: the pod's addresses, to which the proxy's dials of loopback are sent.
    pub pod_ips: Vec<IpAddr>,
}

/// Why a [`Redirect`] was refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RedirectError {
    /// A port of the proxy is 0.
    #[error("the {0} port must not be 0")]
    ZeroPort(&'static str),
    /// Inbound and outbound would land on one listener.
    #[error("the inbound and outbound ports are both {0}: the proxy needs two different ports")]
    SamePort(u16),
    /// The proxy would not be told from the application.
    #[error("proxy mark 0 is what every unmarked socket has: choose another mark")]
    ZeroMark,
    /// The proxy would not be told from processes of root.
    #[error(
        "proxy uid 0 would exempt every process of root: run the proxy as its own user, or use --proxy-mark"
    )]
    RootProxy,
    /// A name that no interface can have.
    #[error("`{0}` is not an interface name: 1 to 15 letters, digits, or any of `. _ - : @`")]
    Interface(String),
    /// Two addresses of one family, or one that is not the pod's own.
    #[error("pod address {0}: give one unicast address per family, not loopback")]
    PodIp(IpAddr),
}

impl Redirect {
    /// The settings a pod has when nobody asks for anything else.
    pub fn new(inbound_port: u16, outbound_port: u16, proxy: ProxyIdentity) -> Self {
        Self {
            inbound_port,
            outbound_port,
            proxy,
            exclude_inbound_ports: Vec::new(),
            exclude_outbound_ports: Vec::new(),
            exclude_outbound_cidrs: Vec::new(),
            include_outbound_cidrs: Vec::new(),
            exclude_interfaces: Vec::new(),
            pod_ips: Vec::new(),
        }
    }

    /// Checks the settings and brings the lists into a canonical form: merged, sorted, without duplicates.
    ///
    /// # Errors
    /// The first setting that cannot be turned into rules.
    pub fn validated(mut self) -> Result<Self, RedirectError> {
        for (name, port) in [("inbound", self.inbound_port), ("outbound", self.outbound_port)] {
            if port == 0 {
                return Err(RedirectError::ZeroPort(name));
            }
        }
        if self.inbound_port == self.outbound_port {
            return Err(RedirectError::SamePort(self.inbound_port));
        }
        match self.proxy {
            ProxyIdentity::Mark(0) => return Err(RedirectError::ZeroMark),
            ProxyIdentity::Uid(0) => return Err(RedirectError::RootProxy),
            ProxyIdentity::Mark(_) | ProxyIdentity::Uid(_) => {}
        }
        if let Some(bad) = self
            .exclude_interfaces
            .iter()
            .find(|name| !is_interface_name(name))
        {
            return Err(RedirectError::Interface(bad.clone()));
        }
        for (index, ip) in self.pod_ips.iter().enumerate() {
            let repeated = self.pod_ips[..index]
                .iter()
                .any(|other| other.is_ipv4() == ip.is_ipv4());
            if repeated || ip.is_loopback() || ip.is_unspecified() || ip.is_multicast() {
                return Err(RedirectError::PodIp(*ip));
            }
        }
        self.exclude_inbound_ports = ports::merge(self.exclude_inbound_ports);
        self.exclude_outbound_ports = ports::merge(self.exclude_outbound_ports);
        self.exclude_outbound_cidrs = aggregate(&self.exclude_outbound_cidrs);
        self.include_outbound_cidrs = aggregate(&self.include_outbound_cidrs);
        self.exclude_interfaces.sort();
        self.exclude_interfaces.dedup();
        Ok(self)
    }
}

/// Sorted, with host bits cleared, and without networks that another one contains.
fn aggregate(networks: &[IpNet]) -> Vec<IpNet> {
    IpNet::aggregate(&networks.iter().map(IpNet::trunc).collect())
}

/// Narrower than the kernel's own rule: no character that has a meaning in iptables' text.
fn is_interface_name(name: &str) -> bool {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"._-:@".contains(&byte);
    (1..=INTERFACE_NAME_MAX).contains(&name.len()) && !name.starts_with('-') && name.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn checked(change: impl FnOnce(&mut Redirect)) -> Result<Redirect, RedirectError> {
        let mut redirect = Redirect::new(15003, 15001, ProxyIdentity::Uid(1500));
        change(&mut redirect);
        redirect.validated()
    }

    #[test]
    fn what_cannot_work_is_refused() {
        assert_eq!(
            checked(|r| r.inbound_port = 0),
            Err(RedirectError::ZeroPort("inbound"))
        );
        assert_eq!(
            checked(|r| r.outbound_port = 15003),
            Err(RedirectError::SamePort(15003))
        );
        assert_eq!(
            checked(|r| r.proxy = ProxyIdentity::Uid(0)),
            Err(RedirectError::RootProxy)
        );
        assert_eq!(
            checked(|r| r.proxy = ProxyIdentity::Mark(0)),
            Err(RedirectError::ZeroMark)
        );
        for name in ["", "-j", "a b", "eth0\n-A", "sixteen-letters-"] {
            let refused = checked(|r| r.exclude_interfaces = vec![name.to_owned()]);
            assert_eq!(refused, Err(RedirectError::Interface(name.to_owned())));
        }
        for ips in [vec!["127.0.0.1"], vec!["10.0.0.1", "10.0.0.2"], vec!["::"]] {
            let refused = checked(|r| r.pod_ips = ips.iter().map(|ip| ip.parse().unwrap()).collect());
            assert!(matches!(refused, Err(RedirectError::PodIp(_))), "{ips:?}");
        }
    }

    #[test]
    fn lists_are_brought_into_one_form() {
        let redirect = checked(|r| {
            r.exclude_outbound_cidrs = ["10.1.2.3/8", "10.5.0.0/16", "fd00::1/8"]
                .map(|network| network.parse().unwrap())
                .to_vec();
            r.exclude_interfaces = ["net2", "net1", "net2"].map(str::to_owned).to_vec();
        })
        .unwrap();
        let networks: Vec<String> = redirect
            .exclude_outbound_cidrs
            .iter()
            .map(IpNet::to_string)
            .collect();
        assert_eq!(networks, ["10.0.0.0/8", "fd00::/8"]);
        assert_eq!(redirect.exclude_interfaces, ["net1", "net2"]);
    }
}
