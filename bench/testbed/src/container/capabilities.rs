//! Linux capabilities by their Kubernetes names.

use rustix::thread::CapabilitySet;

/// What a container runtime leaves a root container by default.
pub(crate) const DEFAULT: CapabilitySet = CapabilitySet::CHOWN
    .union(CapabilitySet::DAC_OVERRIDE)
    .union(CapabilitySet::FSETID)
    .union(CapabilitySet::FOWNER)
    .union(CapabilitySet::MKNOD)
    .union(CapabilitySet::NET_RAW)
    .union(CapabilitySet::SETGID)
    .union(CapabilitySet::SETUID)
    .union(CapabilitySet::SETFCAP)
    .union(CapabilitySet::SETPCAP)
    .union(CapabilitySet::NET_BIND_SERVICE)
    .union(CapabilitySet::SYS_CHROOT)
    .union(CapabilitySet::KILL)
    .union(CapabilitySet::AUDIT_WRITE);

const NAMES: [(&str, CapabilitySet); 20] = [
    ("CHOWN", CapabilitySet::CHOWN),
    ("DAC_OVERRIDE", CapabilitySet::DAC_OVERRIDE),
    ("DAC_READ_SEARCH", CapabilitySet::DAC_READ_SEARCH),
    ("FSETID", CapabilitySet::FSETID),
    ("FOWNER", CapabilitySet::FOWNER),
    ("MKNOD", CapabilitySet::MKNOD),
    ("NET_RAW", CapabilitySet::NET_RAW),
    ("NET_ADMIN", CapabilitySet::NET_ADMIN),
    ("SETGID", CapabilitySet::SETGID),
    ("SETUID", CapabilitySet::SETUID),
    ("SETFCAP", CapabilitySet::SETFCAP),
    ("SETPCAP", CapabilitySet::SETPCAP),
    ("NET_BIND_SERVICE", CapabilitySet::NET_BIND_SERVICE),
    ("SYS_CHROOT", CapabilitySet::SYS_CHROOT),
    ("KILL", CapabilitySet::KILL),
    ("AUDIT_WRITE", CapabilitySet::AUDIT_WRITE),
    ("SYS_PTRACE", CapabilitySet::SYS_PTRACE),
    ("SYS_ADMIN", CapabilitySet::SYS_ADMIN),
    ("SYS_NICE", CapabilitySet::SYS_NICE),
    ("IPC_LOCK", CapabilitySet::IPC_LOCK),
];

fn named(name: &str) -> Option<CapabilitySet> {
    let name = name.to_ascii_uppercase();
    let name = name.strip_prefix("CAP_").unwrap_or(&name);
    if name == "ALL" {
        return Some(
            NAMES
                .iter()
                .fold(CapabilitySet::empty(), |all, (_, bit)| all.union(*bit)),
        );
    }
    NAMES
        .iter()
        .find(|(known, _)| *known == name)
        .map(|(_, bit)| *bit)
}

/// The bit set a container keeps: the default, less `drop`, plus `add`. An unknown name is the error.
pub(crate) fn resolve(add: &[String], drop: &[String]) -> Result<CapabilitySet, String> {
    let mut set = DEFAULT;
    for name in drop {
        set = set.difference(named(name).ok_or_else(|| name.clone())?);
    }
    for name in add {
        set = set.union(named(name).ok_or_else(|| name.clone())?);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn additions_survive_dropping_all() {
        let set = resolve(&["NET_ADMIN".into()], &["ALL".into()]);
        assert_eq!(set, Ok(CapabilitySet::NET_ADMIN));
        assert_eq!(resolve(&["FLY".into()], &[]), Err("FLY".into()));
    }
}
