//! Command line of `weir-init`.

use std::net::IpAddr;
use std::process::ExitCode;

use clap::builder::{PossibleValuesParser, TypedValueParser as _};
use clap::{Parser, ValueEnum};
use ipnet::IpNet;
use weir_init::backend::Choice;
use weir_init::ports::{PortError, PortRange};
use weir_init::redirect::{ProxyIdentity, Redirect, RedirectError};

use crate::run;

/// Redirect this pod's TCP traffic through the Weir sidecar.
///
/// Runs once, before the application starts, in the pod's network namespace, with the NET_ADMIN capability.
/// All inbound TCP goes to the sidecar's inbound port and all outbound TCP to its outbound port, for IPv4 and IPv6,
/// except for what is excluded below and what the sidecar itself sends. UDP is not touched.
/// Running it again replaces the rules. Those of one address family come into force all at once or not at all.
///
/// Exit status: 0 done, 1 the rules could not be applied, 2 wrong usage, 3 applied but the redirect does not work.
#[derive(Debug, Parser)]
#[command(name = "weir-init", version, max_term_width = 100)]
pub(crate) struct Args {
    /// Port on which the sidecar takes connections to this pod
    #[arg(long, value_name = "PORT", default_value_t = 15003)]
    inbound_port: u16,

    /// Port on which the sidecar takes connections from this pod
    #[arg(long, value_name = "PORT", default_value_t = 15001)]
    outbound_port: u16,

    /// User the sidecar runs as; its own connections are not redirected
    #[arg(long, value_name = "UID", default_value_t = 1500)]
    proxy_uid: u32,

    /// Recognize the sidecar by this socket mark instead of its user (decimal or 0x…)
    #[arg(long, value_name = "MARK", env = "WEIR_PROXY_MARK", value_parser = mark)]
    proxy_mark: Option<u32>,

    /// Inbound ports that bypass the sidecar, e.g. 22,8000-8100
    ///
    /// The sidecar's own ports 15000, 15010 and 15901-15904 always do.
    #[arg(long, value_name = "PORTS", value_delimiter = ',', value_parser = port_range)]
    exclude_inbound_ports: Vec<PortRange>,

    /// Outbound ports that bypass the sidecar, e.g. 25,6379,27017-27019
    #[arg(long, value_name = "PORTS", value_delimiter = ',', value_parser = port_range)]
    exclude_outbound_ports: Vec<PortRange>,

    /// Outbound destinations that bypass the sidecar, e.g. 10.1.0.0/16,fd00::/8
    #[arg(long, value_name = "CIDRS", value_delimiter = ',', value_parser = network)]
    exclude_outbound_cidrs: Vec<IpNet>,

    /// Only these outbound destinations go through the sidecar
    #[arg(long, value_name = "CIDRS", value_delimiter = ',', value_parser = network)]
    include_outbound_cidrs: Vec<IpNet>,

    /// Network interfaces whose traffic bypasses the sidecar, e.g. net1
    #[arg(long, value_name = "NAMES", value_delimiter = ',')]
    exclude_interfaces: Vec<String>,

    /// Where the sidecar reaches the application
    #[arg(long, value_name = "MODE", value_enum, ignore_case = true, default_value_t = LocalProxyMode::Localhost)]
    local_proxy_mode: LocalProxyMode,

    /// The pod's own addresses, one per family; used with --local-proxy-mode PodIP only
    #[arg(long, value_name = "IPS", env = "POD_IP", value_delimiter = ',')]
    pod_ip: Vec<IpAddr>,

    /// How the rules are put in force; auto takes a working iptables, else nftables, which needs no program
    #[arg(long, value_name = "BACKEND", default_value = "auto", value_parser = choices())]
    pub(crate) backend: Choice,

    /// Print the rules and change nothing
    #[arg(long, conflicts_with = "cleanup")]
    pub(crate) dry_run: bool,

    /// Do not prove that the redirect works
    #[arg(long)]
    pub(crate) no_verify: bool,

    /// Apply nothing: only prove that the redirect of an earlier run still works
    #[arg(long, conflicts_with_all = ["cleanup", "dry_run", "no_verify"])]
    pub(crate) verify_only: bool,

    /// Remove the rules of an earlier run
    #[arg(long)]
    pub(crate) cleanup: bool,
}

/// Where the sidecar reaches the application.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum LocalProxyMode {
    /// At 127.0.0.1 or ::1
    Localhost,
    /// At the pod's own address: what the sidecar sends to loopback is translated
    #[value(name = "PodIP")]
    PodIp,
}

impl Args {
    /// The validated redirect these arguments ask for.
    fn redirect(&self) -> Result<Redirect, RedirectError> {
        let proxy = match self.proxy_mark {
            Some(mark) => ProxyIdentity::Mark(mark),
            None => ProxyIdentity::Uid(self.proxy_uid),
        };
        Redirect {
            exclude_inbound_ports: self.exclude_inbound_ports.clone(),
            exclude_outbound_ports: self.exclude_outbound_ports.clone(),
            exclude_outbound_cidrs: self.exclude_outbound_cidrs.clone(),
            include_outbound_cidrs: self.include_outbound_cidrs.clone(),
            exclude_interfaces: self.exclude_interfaces.clone(),
            pod_ips: match self.local_proxy_mode {
                LocalProxyMode::Localhost => Vec::new(),
                LocalProxyMode::PodIp => self.pod_ip.clone(),
            },
            ..Redirect::new(self.inbound_port, self.outbound_port, proxy)
        }
        .validated()
    }

    /// Does what the arguments ask for.
    pub(crate) fn run(&self) -> ExitCode {
        if self.local_proxy_mode == LocalProxyMode::PodIp && self.pod_ip.is_empty() {
            return run::usage("--local-proxy-mode PodIP needs --pod-ip, or POD_IP in the environment");
        }
        match self.redirect() {
            Ok(redirect) => run::run(self, &redirect),
            Err(error) => run::usage(&error.to_string()),
        }
    }
}

fn choices() -> impl clap::builder::TypedValueParser<Value = Choice> {
    PossibleValuesParser::new(Choice::ALL.map(Choice::name)).try_map(|name| name.parse::<Choice>())
}

fn port_range(text: &str) -> Result<PortRange, PortError> {
    text.parse()
}

fn network(text: &str) -> Result<IpNet, String> {
    let text = text.trim();
    let single = || text.parse::<IpAddr>().map(IpNet::from);
    text.parse::<IpNet>()
        .or_else(|_| single())
        .map_err(|_| format!("`{text}` is not a network: write for example 10.1.0.0/16 or fd00::/8"))
}

fn mark(text: &str) -> Result<u32, String> {
    let parsed = match text.strip_prefix("0x") {
        Some(digits) => u32::from_str_radix(digits, 16),
        None => text.parse(),
    };
    parsed.map_err(|_| {
        format!("`{text}` is not a mark: write a number up to 4294967295, or hexadecimal as 0x5dc")
    })
}
