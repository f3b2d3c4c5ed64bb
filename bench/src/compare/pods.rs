//! The client's pod and the server's: each a network namespace whose traffic is redirected as in a cluster.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener},
};

use anyhow::Context as _;
use nix::unistd::{Uid, setfsuid};
use socket2::{Domain, Socket, Type};
use weir_init::{
    backend::{Backend, Choice},
    redirect::{ProxyIdentity, Redirect},
    rules::{Family, rules},
};
use weir_testbed::{PodNetwork, Pods, Sandbox};

use crate::pin;

/// Where the application listens in its pod, as clients dial it.
pub(crate) const PORT: u16 = 8080;
/// Where the client's sidecar takes connections.
pub(crate) const OUTBOUND: u16 = 15001;
/// Where the server's sidecar takes connections.
pub(crate) const INBOUND: u16 = 15003;
/// The user that dials: the sidecars run as root here, so it is the client that is told apart from them.
const CLIENT: u32 = 1000;
/// What the sidecars mark their sockets with where there is one user only.
pub(crate) const MARK: u32 = 1500;

/// Two pods.
pub(crate) struct Pair {
    client: PodNetwork,
    server: PodNetwork,
    single_uid: bool,
}

/// One of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Pair {
    /// Makes both; with `redirected`, all TCP of the client goes to [`OUTBOUND`] and all to the server to [`INBOUND`].
    /// Every connection has this congestion control.
    ///
    /// # Errors
    /// When the kernel refuses a step, or a rule is not in force.
    pub(crate) fn new(
        pods: &mut Pods,
        sandbox: Sandbox,
        congestion: &str,
        redirected: bool,
    ) -> anyhow::Result<Self> {
        let pair = Self {
            client: pods.add("client")?,
            server: pods.add("server")?,
            single_uid: sandbox.single_uid(),
        };
        for side in [Side::Client, Side::Server] {
            pair.inside(side, None, || {
                let _ = many_connections();
                control_congestion(congestion)?;
                if redirected { redirect(sandbox) } else { Ok(()) }
            })??;
        }
        Ok(pair)
    }

    fn pod(&self, side: Side) -> &PodNetwork {
        match side {
            Side::Client => &self.client,
            Side::Server => &self.server,
        }
    }

    /// Where clients dial.
    ///
    /// # Errors
    /// When the server has no address.
    pub(crate) fn target(&self) -> anyhow::Result<SocketAddr> {
        let ip = self.server.ips().iter().find(|ip| IpAddr::is_ipv4(ip));
        Ok(SocketAddr::new(
            *ip.context("the server's pod has no address")?,
            PORT,
        ))
    }

    /// Where the application listens, with room for many connections at once.
    ///
    /// # Errors
    /// When the port cannot be bound.
    pub(crate) fn listen(&self) -> anyhow::Result<TcpListener> {
        let at = SocketAddr::from((Ipv4Addr::UNSPECIFIED, PORT));
        let listener = self.inside(Side::Server, None, || {
            let socket = Socket::new(Domain::IPV4, Type::STREAM, None)?;
            socket.bind(&at.into())?;
            socket.listen(4096)?;
            io::Result::Ok(TcpListener::from(socket))
        })?;
        listener.context("the application cannot listen")
    }

    /// Runs `work` in a pod, on a thread of its own and on one core when given; processes that it starts stay there.
    ///
    /// # Errors
    /// When the pod cannot be entered.
    pub(crate) fn inside<T: Send>(
        &self,
        side: Side,
        core: Option<usize>,
        work: impl FnOnce() -> T + Send,
    ) -> anyhow::Result<T> {
        let pod = self.pod(side);
        pin::on(core, || {
            pod.enter()?;
            Ok(work())
        })?
    }

    /// As [`Pair::inside`] the client's pod, as the user whose connections are redirected.
    ///
    /// # Errors
    /// When the pod cannot be entered.
    pub(crate) fn as_client<T: Send>(
        &self,
        core: Option<usize>,
        work: impl FnOnce() -> T + Send,
    ) -> anyhow::Result<T> {
        self.inside(Side::Client, core, || {
            if !self.single_uid {
                setfsuid(Uid::from_raw(CLIENT));
            }
            work()
        })
    }
}

/// Puts the rules of a pod in force where the calling thread is.
fn redirect(sandbox: Sandbox) -> anyhow::Result<()> {
    let proxy = match sandbox.single_uid() {
        true => ProxyIdentity::Mark(MARK),
        false => ProxyIdentity::Uid(0),
    };
    let set = rules(&Redirect::new(INBOUND, OUTBOUND, proxy), Family::V4);
    let backend = Backend::select(Choice::Auto)?;
    backend.apply(&set).context("cannot redirect a pod's traffic")?;
    Ok(())
}

/// Sets it for where the calling thread is. A pod has its node's otherwise, and that decides more than any sidecar: BBR
/// paces each connection by a timer of its own.
fn control_congestion(name: &str) -> anyhow::Result<()> {
    let set = fs::write("/proc/sys/net/ipv4/tcp_congestion_control", name);
    set.with_context(|| {
        let known = fs::read_to_string("/proc/sys/net/ipv4/tcp_available_congestion_control");
        format!(
            "the kernel does not take {name} as congestion control; name another with --congestion, of: {}",
            known.unwrap_or_default().trim()
        )
    })
}

/// Tens of thousands of short connections a second need more than the usual ports, and soon again. Where the kernel
/// does not let that be set, such scenarios are slower for all.
fn many_connections() -> io::Result<()> {
    fs::write("/proc/sys/net/ipv4/ip_local_port_range", "16000 65000")?;
    fs::write("/proc/sys/net/ipv4/tcp_tw_reuse", "1")?;
    fs::write("/proc/sys/net/core/somaxconn", "4096")?;
    fs::write("/proc/sys/net/netfilter/nf_conntrack_tcp_timeout_time_wait", "1")
}
