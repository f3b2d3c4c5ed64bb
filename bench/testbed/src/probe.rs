//! Probes, made from the node as the kubelet makes them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use k8s_openapi::api::core::v1::{Container, Probe};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Timing of a probe, with Kubernetes' defaults.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Timing {
    pub(crate) delay: Duration,
    pub(crate) period: Duration,
    pub(crate) timeout: Duration,
    pub(crate) successes: u32,
    pub(crate) failures: u32,
}

impl Timing {
    pub(crate) fn of(probe: &Probe) -> Self {
        let number = |value: Option<i32>, default: u32| {
            value
                .and_then(|value| u32::try_from(value).ok())
                .filter(|value| *value > 0)
                .unwrap_or(default)
        };
        let seconds =
            |value: Option<i32>, default: u32| Duration::from_secs(u64::from(number(value, default)));
        Self {
            delay: seconds(probe.initial_delay_seconds, 0),
            period: seconds(probe.period_seconds, 10),
            timeout: seconds(probe.timeout_seconds, 1),
            successes: number(probe.success_threshold, 1),
            failures: number(probe.failure_threshold, 3),
        }
    }
}

/// What a probe does.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Action {
    Http { address: SocketAddr, request: String },
    Tcp(SocketAddr),
    Exec(Vec<String>),
}

impl Action {
    /// The action of `probe` on a container at `ip`; the error says what cannot be probed.
    pub(crate) fn of(probe: &Probe, container: &Container, ip: IpAddr) -> Result<Self, String> {
        if let Some(http) = &probe.http_get {
            if http
                .scheme
                .as_deref()
                .is_some_and(|scheme| scheme.eq_ignore_ascii_case("https"))
            {
                // The kubelet does not verify the certificate either; reachability is what is left to test.
                return Ok(Self::Tcp(SocketAddr::new(ip, port(&http.port, container)?)));
            }
            let address = SocketAddr::new(ip, port(&http.port, container)?);
            return Ok(Self::Http {
                address,
                request: request(http, address),
            });
        }
        if let Some(tcp) = &probe.tcp_socket {
            return Ok(Self::Tcp(SocketAddr::new(ip, port(&tcp.port, container)?)));
        }
        if let Some(exec) = &probe.exec {
            return Ok(Self::Exec(exec.command.clone().unwrap_or_default()));
        }
        Err("the probe is none of httpGet, tcpSocket, exec".into())
    }
}

fn request(http: &k8s_openapi::api::core::v1::HTTPGetAction, address: SocketAddr) -> String {
    let path = http
        .path
        .as_deref()
        .filter(|path| !path.is_empty())
        .unwrap_or("/");
    let mut host = http.host.clone().unwrap_or_else(|| address.to_string());
    let mut extra = String::new();
    for header in http.http_headers.iter().flatten() {
        if header.name.eq_ignore_ascii_case("host") {
            host.clone_from(&header.value);
        } else {
            extra.push_str(&format!("{}: {}\r\n", header.name, header.value));
        }
    }
    format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: kube-probe/1.33\r\nAccept: */*\r\nConnection: close\r\n{extra}\r\n"
    )
}

/// Number of a port that may be given by the name of one of the container's ports.
pub(crate) fn port(port: &IntOrString, container: &Container) -> Result<u16, String> {
    match port {
        IntOrString::Int(number) => {
            u16::try_from(*number).map_err(|_| format!("port {number} is out of range"))
        }
        IntOrString::String(name) => container
            .ports
            .iter()
            .flatten()
            .find(|port| port.name.as_ref() == Some(name))
            .and_then(|port| u16::try_from(port.container_port).ok())
            .or_else(|| name.parse().ok())
            .ok_or_else(|| format!("container {} has no port named {name}", container.name)),
    }
}

/// Makes an HTTP or TCP probe once; the error says why it failed.
pub(crate) async fn network(action: &Action, timeout: Duration) -> Result<(), String> {
    let work = async {
        match action {
            Action::Tcp(address) => TcpStream::connect(address).await.map(drop),
            Action::Http { address, request } => get(*address, request).await,
            Action::Exec(_) => Err(std::io::Error::other("not a network probe")),
        }
    };
    match tokio::time::timeout(timeout, work).await {
        Ok(result) => result.map_err(|error| error.to_string()),
        Err(_) => Err(format!("no answer within {} s", timeout.as_secs())),
    }
}

async fn get(address: SocketAddr, request: &str) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(address).await?;
    stream.write_all(request.as_bytes()).await?;
    let mut head = Vec::new();
    let mut chunk = [0u8; 512];
    while !head.contains(&b'\n') && head.len() < 4096 {
        let n = stream.read(&mut chunk).await?;
        if n == 0 {
            break;
        }
        head.extend_from_slice(&chunk[..n]);
    }
    let line = String::from_utf8_lossy(&head)
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned();
    match line
        .split_whitespace()
        .nth(1)
        .and_then(|code| code.parse::<u16>().ok())
    {
        Some(code) if (200..400).contains(&code) => Ok(()),
        _ => Err(std::io::Error::other(format!("answered {line:?}"))),
    }
}
