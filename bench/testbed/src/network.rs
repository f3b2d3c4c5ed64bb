//! The node's network: a bridge in the sandbox, one network namespace per pod joined to it by a veth pair.
//!
//! Pods have /32 and /128 addresses and reach everything through the bridge's gateway address, so that
//! every packet between pods is routed, and translated back, by the node; none takes a short cut.

use std::fs::File;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use futures::TryStreamExt;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, setns, unshare};
use rtnetlink::packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::packet_route::link::InfoBridge;
use rtnetlink::packet_route::route::RouteScope;
use rtnetlink::{Handle, LinkBridge, LinkUnspec, LinkVeth, RouteMessageBuilder};

use crate::addresses::{GATEWAY, HostNumber};

/// Name of the bridge all pods hang on.
pub const BRIDGE: &str = "weir0";
/// Its hardware address: locally administered.
const BRIDGE_MAC: [u8; 6] = [0x02, 0x57, 0x45, 0x49, 0x52, 0x00];

/// The node's side of the network.
pub(crate) struct Network {
    handle: Handle,
    bridge: u32,
    root: Arc<File>,
    dir: PathBuf,
    ipv6: bool,
}

/// A pod's network namespace. It is freed on drop, once its processes have ended.
#[derive(Debug)]
pub struct PodNetwork {
    pub(crate) netns: PathBuf,
    pub(crate) ips: Vec<IpAddr>,
}

impl Drop for PodNetwork {
    fn drop(&mut self) {
        let _gone_already = umount2(&self.netns, MntFlags::MNT_DETACH);
        let _gone_already = std::fs::remove_file(&self.netns);
    }
}

impl Network {
    /// Sets up the bridge; namespace handles go to `dir`.
    pub(crate) async fn start(dir: PathBuf) -> Result<Self> {
        std::fs::create_dir_all(&dir).with_context(|| format!("create {}", dir.display()))?;
        let ipv6 = Path::new("/proc/sys/net/ipv6").exists();
        sysctl("ipv4/ip_forward", "1")?;
        for scope in ["all", "default"] {
            sysctl(&format!("ipv4/conf/{scope}/rp_filter"), "0")?;
            sysctl(&format!("ipv4/conf/{scope}/send_redirects"), "0")?;
        }
        quiet_ipv6(ipv6)?;
        if ipv6 {
            sysctl("ipv6/conf/all/forwarding", "1")?;
        }
        let (connection, handle, _) = rtnetlink::new_connection().context("open rtnetlink")?;
        tokio::spawn(connection);
        link_up(&handle, "lo").await?;
        // Where br_netfilter is loaded, the bridge would translate on its own and miss pods that reach themselves.
        for name in ["iptables", "ip6tables"] {
            if Path::new("/proc/sys/net/bridge").exists() {
                let result = sysctl(&format!("bridge/bridge-nf-call-{name}"), "0");
                result.unwrap_or_else(|error| tracing::debug!("{error:#}"));
            }
        }
        // A testbed that ran in this sandbox before has left its bridge.
        if let Ok(old) = link_index(&handle, BRIDGE).await {
            handle
                .link()
                .del(old)
                .execute()
                .await
                .context("remove an old bridge")?;
        }
        let bridge = LinkBridge::new(BRIDGE)
            .append_info_data(InfoBridge::MulticastSnooping(false))
            // Without one of its own, the bridge takes over a new port's address now and then, and pods that know
            // the one before send to nobody until they ask again.
            .address(BRIDGE_MAC.to_vec())
            .build();
        handle
            .link()
            .add(bridge)
            .execute()
            .await
            .context("make the bridge (kernel module `bridge`)")?;
        let bridge = link_up(&handle, BRIDGE).await?;
        address(&handle, bridge, GATEWAY.0.into(), 16).await?;
        if ipv6 {
            address(&handle, bridge, GATEWAY.1.into(), 64).await?;
        }
        let root = Arc::new(File::open("/proc/self/ns/net").context("open the node's network namespace")?);
        Ok(Self {
            handle,
            bridge,
            root,
            dir,
            ipv6,
        })
    }

    /// Whether the kernel has IPv6.
    pub(crate) fn ipv6(&self) -> bool {
        self.ipv6
    }

    /// Makes a pod's namespace with its addresses and joins it to the bridge.
    pub(crate) async fn add_pod(&self, uid: &str, number: HostNumber) -> Result<PodNetwork> {
        let netns = self.dir.join(uid);
        let (v4, v6) = number.pod();
        let ips = if self.ipv6 {
            vec![v4.into(), v6.into()]
        } else {
            vec![v4.into()]
        };
        let [_, _, high, low] = v4.octets();
        let outer = format!("veth{high:02x}{low:02x}");
        let (path, root, peer, ipv6) = (netns.clone(), Arc::clone(&self.root), outer.clone(), self.ipv6);
        // Made first, so that what a failure leaves half done is freed with it.
        let pod = PodNetwork { netns, ips };
        tokio::task::spawn_blocking(move || {
            in_thread(move || pod_side(&path, &root, &peer, v4, ipv6.then_some(v6)))
        })
        .await??
        .context("set up the pod's network")?;
        let index = link_index(&self.handle, &outer).await?;
        let join = LinkUnspec::new_with_index(index)
            .controller(self.bridge)
            .up()
            .build();
        self.handle
            .link()
            .set(join)
            .execute()
            .await
            .context("join the pod to the bridge")?;
        Ok(pod)
    }
}

/// Runs `work` on a thread of its own, which may change its namespaces.
fn in_thread<T: Send>(work: impl FnOnce() -> T + Send) -> Result<T> {
    std::thread::scope(|scope| scope.spawn(work).join()).map_err(|_| anyhow!("a network thread panicked"))
}

/// Runs `work` inside the network namespace at `netns`, on a thread of its own.
pub(crate) fn inside<T: Send>(netns: &Path, work: impl FnOnce() -> T + Send) -> Result<T> {
    let file = File::open(netns).with_context(|| format!("open network namespace {}", netns.display()))?;
    in_thread(move || {
        setns(file, CloneFlags::CLONE_NEWNET).context("join the pod's network namespace")?;
        Ok(work())
    })?
}

fn pod_side(path: &Path, root: &File, peer: &str, v4: Ipv4Addr, v6: Option<Ipv6Addr>) -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNET).context("make a network namespace")?;
    File::create(path).with_context(|| format!("create {}", path.display()))?;
    let none: Option<&str> = None;
    mount(
        Some("/proc/thread-self/ns/net"),
        path,
        none,
        MsFlags::MS_BIND,
        none,
    )
    .context("keep the network namespace")?;
    quiet_ipv6(v6.is_some())?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (connection, handle, _) = rtnetlink::new_connection().context("open rtnetlink")?;
        tokio::spawn(connection);
        link_up(&handle, "lo").await?;
        handle
            .link()
            .add(LinkVeth::new("eth0", peer).build())
            .execute()
            .await
            .context("make a veth pair")?;
        let outer = link_index(&handle, peer).await?;
        let leave = LinkUnspec::new_with_index(outer)
            .setns_by_fd(root.as_raw_fd())
            .build();
        handle
            .link()
            .set(leave)
            .execute()
            .await
            .context("move the veth's end to the node")?;
        let eth0 = link_up(&handle, "eth0").await?;
        address(&handle, eth0, v4.into(), 32).await?;
        routes(&handle, eth0, GATEWAY.0.into()).await?;
        if let Some(v6) = v6 {
            address(&handle, eth0, v6.into(), 128).await?;
            routes(&handle, eth0, GATEWAY.1.into()).await?;
        }
        Ok(())
    })
}

/// Routes of a pod in the gateway's family: to the gateway over the link, to everything else through the gateway.
async fn routes(handle: &Handle, link: u32, gateway: IpAddr) -> Result<()> {
    let (any, prefix): (IpAddr, u8) = match gateway {
        IpAddr::V4(_) => (Ipv4Addr::UNSPECIFIED.into(), 32),
        IpAddr::V6(_) => (Ipv6Addr::UNSPECIFIED.into(), 128),
    };
    let route = || RouteMessageBuilder::<IpAddr>::new().output_interface(link);
    let onlink = route()
        .destination_prefix(gateway, prefix)?
        .scope(RouteScope::Link)
        .build();
    let default = route().destination_prefix(any, 0)?.gateway(gateway)?.build();
    for (message, what) in [(onlink, "gateway"), (default, "outside")] {
        handle
            .route()
            .add(message)
            .execute()
            .await
            .with_context(|| format!("add the route to the {what} by {gateway}"))?;
    }
    Ok(())
}

/// IPv6 on, addresses usable at once: no duplicate detection, no router solicitations.
fn quiet_ipv6(ipv6: bool) -> Result<()> {
    if ipv6 {
        for scope in ["all", "default"] {
            for (name, value) in [
                ("disable_ipv6", "0"),
                ("accept_dad", "0"),
                ("dad_transmits", "0"),
                ("accept_ra", "0"),
                // IPv6 has no way to forbid their sending: pods would learn short cuts around the node.
                ("accept_redirects", "0"),
            ] {
                sysctl(&format!("ipv6/conf/{scope}/{name}"), value)?;
            }
        }
    }
    Ok(())
}

/// Writes a sysctl below `net/` of the calling thread's network namespace.
fn sysctl(name: &str, value: &str) -> Result<()> {
    std::fs::write(Path::new("/proc/sys/net").join(name), value)
        .with_context(|| format!("set sysctl net/{name} (is /proc/sys read-only in this container?)"))
}

async fn link_index(handle: &Handle, name: &str) -> Result<u32> {
    let mut links = handle.link().get().match_name(name.to_owned()).execute();
    let link = links
        .try_next()
        .await
        .with_context(|| format!("find link {name}"))?;
    Ok(link.with_context(|| format!("find link {name}"))?.header.index)
}

async fn link_up(handle: &Handle, name: &str) -> Result<u32> {
    let index = link_index(handle, name).await?;
    let up = LinkUnspec::new_with_index(index).up().build();
    handle
        .link()
        .set(up)
        .execute()
        .await
        .with_context(|| format!("bring {name} up"))?;
    Ok(index)
}

async fn address(handle: &Handle, link: u32, ip: IpAddr, prefix: u8) -> Result<()> {
    let mut request = handle.address().add(link, ip, prefix);
    if ip.is_ipv6() {
        request
            .message_mut()
            .attributes
            .push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    request
        .execute()
        .await
        .with_context(|| format!("add address {ip}/{prefix}"))
}
