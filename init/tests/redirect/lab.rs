//! A pod and a peer: two network namespaces joined by a veth pair, living as long as the test that made them.

#![allow(clippy::expect_used, reason = "a broken lab should stop its test")]

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream};
use std::path::PathBuf;
use std::process::Command;
use std::sync::mpsc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use libtest_mimic::Failed;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{Gid, Uid, getegid, geteuid, gettid, setfsuid};
use socket2::{Domain, SockRef, Socket, Type};
use weir_init::nftables::{self, Netlink};
use weir_init::redirect::{ProxyIdentity, Redirect};
use weir_init::rules::{Chain, Family, rules};

pub(crate) const POD_V4: &str = "10.77.0.2";
pub(crate) const POD_V6: &str = "fd77::2";
pub(crate) const PEER_V4: &str = "10.77.0.1";
pub(crate) const PEER_V6: &str = "fd77::1";
/// Another address of the peer, in a network of its own.
pub(crate) const PEER_ELSEWHERE_V4: &str = "10.78.0.1";

const MARK: u32 = 0x5dc;
const UID: u32 = 1500;
const PATIENCE: Duration = Duration::from_secs(5);

/// How the proxy is recognized in a test.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Proxy {
    Mark,
    Uid,
}

/// Becomes able to make network namespaces; called before there are threads.
pub(crate) fn enter() -> Result<(), String> {
    if find("ip").is_none() {
        return Err("the `ip` program (iproute2) is not installed".to_owned());
    }
    let (uid, gid) = (geteuid(), getegid());
    if uid.is_root() && unshare(CloneFlags::CLONE_NEWNET).is_ok() {
        return Ok(());
    }
    unshare(CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET)
        .map_err(|error| format!("user namespaces are not allowed here: {error}"))?;
    map_root(uid, gid).map_err(|error| format!("cannot map this user into a user namespace: {error}"))
}

fn map_root(uid: Uid, gid: Gid) -> std::io::Result<()> {
    fs::write("/proc/self/setgroups", "deny")?;
    fs::write("/proc/self/uid_map", format!("0 {uid} 1"))?;
    fs::write("/proc/self/gid_map", format!("0 {gid} 1"))
}

/// Whether the proxy's user exists here.
pub(crate) fn has_uid() -> bool {
    let map = fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    let fields: Vec<u64> = map
        .split_whitespace()
        .filter_map(|field| field.parse().ok())
        .collect();
    fields
        .chunks(3)
        .any(|range| matches!(range, [first, _, count] if (*first..first + count).contains(&UID.into())))
}

pub(crate) fn backend_present(backend: &str) -> bool {
    match backend {
        "iptables-nft" => find("iptables-nft-restore").is_some(),
        "iptables-legacy" => find("iptables-legacy-restore").is_some(),
        _ => true,
    }
}

fn find(program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(program))
        .find(|path| path.is_file())
}

/// A socket address from its parts.
pub(crate) fn on(address: &str, port: u16) -> SocketAddr {
    SocketAddr::new(address.parse::<IpAddr>().expect("a literal address"), port)
}

type Job = Box<dyn FnOnce() + Send>;

/// The calling thread is in the pod's network namespace; another one is in the peer's.
pub(crate) struct Lab {
    backend: &'static str,
    proxy: Proxy,
    jobs: Option<mpsc::Sender<Job>>,
    peer: Option<JoinHandle<()>>,
}

impl Drop for Lab {
    fn drop(&mut self) {
        drop(self.jobs.take());
        if let Some(peer) = self.peer.take() {
            _ = peer.join();
        }
    }
}

impl Lab {
    pub(crate) fn new(backend: &'static str, proxy: Proxy) -> Result<Self, Failed> {
        unshare(CloneFlags::CLONE_NEWNET)?;
        let (jobs, queue) = mpsc::channel::<Job>();
        let (ready, started) = mpsc::channel();
        let peer = thread::spawn(move || {
            _ = ready.send(unshare(CloneFlags::CLONE_NEWNET).map(|()| gettid()));
            for job in queue {
                job();
            }
        });
        let tid = started.recv().map_err(|error| error.to_string())??;
        let lab = Self {
            backend,
            proxy,
            jobs: Some(jobs),
            peer: Some(peer),
        };
        ip("link set lo up")?;
        ip(&format!("link add eth0 type veth peer name eth0 netns {tid}"))?;
        for (address, length) in [(POD_V4, 24), (POD_V6, 64)] {
            address_on_eth0(address, length)?;
        }
        ip("link set eth0 up")?;
        lab.in_peer(|| {
            ip("link set lo up")?;
            for (address, length) in [(PEER_V4, 24), (PEER_V6, 64), (PEER_ELSEWHERE_V4, 32)] {
                address_on_eth0(address, length)?;
            }
            ip("link set eth0 up")
        })?;
        ip(&format!("route add default via {PEER_V4}"))?;
        ip(&format!("-6 route add default via {PEER_V6}"))?;
        Ok(lab)
    }

    /// Runs something in the peer's network namespace.
    fn in_peer<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = mpsc::channel();
        let job = Box::new(move || _ = sender.send(work()));
        self.jobs
            .as_ref()
            .expect("the lab is alive")
            .send(job)
            .expect("the peer is alive");
        receiver.recv().expect("the peer's work does not panic")
    }

    fn identity(&self) -> ProxyIdentity {
        match self.proxy {
            Proxy::Mark => ProxyIdentity::Mark(MARK),
            Proxy::Uid => ProxyIdentity::Uid(UID),
        }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_weir-init"));
        if !arguments.iter().any(|argument| argument.starts_with("--backend")) {
            command.arg(format!("--backend={}", self.backend));
        }
        if self.proxy == Proxy::Mark {
            command.arg(format!("--proxy-mark={MARK}"));
        }
        command.args(arguments);
        command
    }

    /// Runs `weir-init`, which must succeed.
    pub(crate) fn init(&self, arguments: &[&str]) -> Result<(), Failed> {
        finish(self.command(arguments)).map(drop)
    }

    /// Runs `weir-init` where it finds no other program.
    pub(crate) fn init_without_programs(&self, arguments: &[&str]) -> Result<String, Failed> {
        let mut command = self.command(arguments);
        command.env("PATH", "/nonexistent");
        finish(command)
    }

    /// Runs `weir-init` and returns its exit status and everything it said.
    pub(crate) fn init_exit(&self, arguments: &[&str]) -> Result<(Option<i32>, String), Failed> {
        let output = self.command(arguments).output()?;
        let said = [output.stdout, output.stderr].concat();
        Ok((output.status.code(), String::from_utf8_lossy(&said).into_owned()))
    }

    /// The rules in force, as text, without counters.
    pub(crate) fn rules(&self) -> Result<String, Failed> {
        let mut text = String::new();
        for (family, tool) in [(Family::V4, "iptables"), (Family::V6, "ip6tables")] {
            let Some(variant) = self.backend.strip_prefix("iptables") else {
                text.push_str(&format!(
                    "{:?}\n",
                    Netlink::open()?.rules(family, nftables::TABLE)?
                ));
                continue;
            };
            let mut command = Command::new(format!("{tool}{variant}-save"));
            command.args(["-t", "nat"]);
            let lines = finish(command)?;
            let kept = lines.lines().filter(|line| !line.starts_with('#'));
            kept.for_each(|line| text.push_str(&format!("{}\n", line.split('[').next().unwrap_or_default())));
        }
        Ok(text)
    }

    /// Takes away the rule that hands outbound connections to the proxy.
    pub(crate) fn damage(&self) -> Result<(), Failed> {
        if let Some(variant) = self.backend.strip_prefix("iptables") {
            let mut command = Command::new(format!("iptables{variant}"));
            command.args(["-t", "nat", "-D", Chain::OutRedirect.name(), "1"]);
            command.env("XTABLES_LOCKFILE", "/proc/self/ns/net");
            return finish(command).map(drop);
        }
        let redirect = Redirect::new(15003, 15001, self.identity()).validated()?;
        let mut set = rules(&redirect, Family::V4);
        set.rules.retain(|rule| rule.chain != Chain::OutRedirect);
        Netlink::open()?.replace(&nftables::table(&set))?;
        Ok(())
    }

    /// Puts the proxy's two listeners in the pod; they answer with the original destination.
    pub(crate) fn listen_proxy(&self) -> Result<(), Failed> {
        for any in ["0.0.0.0", "::"] {
            answer(on(any, 15001), "outbound", true)?;
            answer(on(any, 15003), "inbound", true)?;
        }
        Ok(())
    }

    pub(crate) fn app_listens(&self, port: u16) -> Result<(), Failed> {
        self.app_listens_at(on("0.0.0.0", port))?;
        self.app_listens_at(on("::", port))
    }

    pub(crate) fn app_listens_at(&self, address: SocketAddr) -> Result<(), Failed> {
        answer(address, "app", false)
    }

    pub(crate) fn peer_listens(&self, port: u16) -> Result<(), Failed> {
        self.peer_listens_as(on("0.0.0.0", port), "peer")?;
        self.peer_listens_as(on("::", port), "peer")
    }

    pub(crate) fn peer_listens_as(&self, address: SocketAddr, name: &str) -> Result<(), Failed> {
        let name = name.to_owned();
        self.in_peer(move || answer(address, &name, false))
    }

    /// What the application is answered when it dials `target`.
    pub(crate) fn app_dials(&self, target: SocketAddr) -> String {
        dial(target, None).unwrap_or_else(|error| format!("error: {error}"))
    }

    pub(crate) fn expect_app(&self, target: SocketAddr, expected: &str) -> Result<(), Failed> {
        expect("the application", target, &self.app_dials(target), expected)
    }

    pub(crate) fn expect_proxy(&self, target: SocketAddr, expected: &str) -> Result<(), Failed> {
        let answer = dial(target, Some(self.identity())).unwrap_or_else(|error| format!("error: {error}"));
        expect("the proxy", target, &answer, expected)
    }

    pub(crate) fn expect_peer(&self, target: SocketAddr, expected: &str) -> Result<(), Failed> {
        let answer =
            self.in_peer(move || dial(target, None).unwrap_or_else(|error| format!("error: {error}")));
        expect("the peer", target, &answer, expected)
    }
}

fn expect(who: &str, target: SocketAddr, answer: &str, expected: &str) -> Result<(), Failed> {
    if answer == expected {
        return Ok(());
    }
    Err(format!("{who} dialled {target} and was answered `{answer}` instead of `{expected}`").into())
}

fn address_on_eth0(address: &str, length: u8) -> Result<(), Failed> {
    let nodad = if address.contains(':') { " nodad" } else { "" };
    ip(&format!("addr add {address}/{length} dev eth0{nodad}"))
}

fn ip(arguments: &str) -> Result<(), Failed> {
    let mut command = Command::new("ip");
    command.args(arguments.split_whitespace());
    finish(command).map(drop)
}

fn finish(mut command: Command) -> Result<String, Failed> {
    let output = command
        .output()
        .map_err(|error| format!("{command:?}: {error}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    Err(format!(
        "{command:?}: {}: {}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    )
    .into())
}

/// Listens in the calling thread's network namespace and greets whoever connects.
fn answer(address: SocketAddr, name: &str, original: bool) -> Result<(), Failed> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, None)?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        socket.set_only_v6(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(64)?;
    let listener = TcpListener::from(socket);
    let name = name.to_owned();
    thread::spawn(move || {
        for stream in listener.incoming().map_while(Result::ok) {
            let greeting = if original {
                format!("{name} {}", original_destination(&stream))
            } else {
                name.clone()
            };
            _ = (&stream).write_all(greeting.as_bytes());
        }
    });
    Ok(())
}

fn original_destination(stream: &TcpStream) -> String {
    let socket = SockRef::from(stream);
    let address = match stream.local_addr() {
        Ok(local) if local.is_ipv6() => socket.original_dst_v6(),
        _ => socket.original_dst_v4(),
    };
    match address.map(|address| address.as_socket()) {
        Ok(Some(address)) => address.to_string(),
        Ok(None) => "no internet address".to_owned(),
        Err(error) => error.to_string(),
    }
}

/// Dials, as the proxy if an identity is given, and reads the greeting.
fn dial(target: SocketAddr, identity: Option<ProxyIdentity>) -> std::io::Result<String> {
    // A socket belongs to the file system user of the thread that makes it.
    let owner = match identity {
        Some(ProxyIdentity::Uid(uid)) => Some(setfsuid(Uid::from_raw(uid))),
        _ => None,
    };
    let socket = Socket::new(Domain::for_address(target), Type::STREAM, None);
    if let Some(owner) = owner {
        setfsuid(owner);
    }
    let socket = socket?;
    if let Some(ProxyIdentity::Mark(mark)) = identity {
        socket.set_mark(mark)?;
    }
    socket.connect_timeout(&target.into(), PATIENCE)?;
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE))?;
    let mut greeting = String::new();
    stream.read_to_string(&mut greeting)?;
    Ok(greeting)
}
