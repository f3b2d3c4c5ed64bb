//! Why the sandbox could not be entered, and what to do about it.

use nix::errno::Errno;

/// The sandbox could not be entered.
#[derive(Debug, thiserror::Error)]
pub enum EnterError {
    /// The kernel refused the namespaces.
    #[error("cannot create Linux namespaces ({errno}): {hint}")]
    Namespaces {
        /// What the kernel answered.
        errno: Errno,
        /// The setting that forbids it and the way round.
        hint: String,
    },
    /// Only root can run what is to run.
    #[error("a whole node needs the machine's own root: run as root, or give KUBECONFIG of a cluster")]
    NotRoot,
    /// A fresh /proc could not be mounted.
    #[error(
        "cannot mount /proc in the sandbox ({0}): a container runtime masks parts of /proc. \
         Run outside the container, or start it with --security-opt systempaths=unconfined (Docker, Podman), \
         procMount: Unmasked (Kubernetes) or --privileged"
    )]
    Proc(Errno),
    /// User ids could not be mapped.
    #[error("cannot map user ids into the sandbox: {0}. Run as root, or see user_namespaces(7)")]
    Map(String),
    /// A stage could not be started.
    #[error("cannot start the sandbox's {stage}: {source}. Is /proc mounted?")]
    Spawn {
        /// Which stage.
        stage: &'static str,
        /// What the system answered.
        source: std::io::Error,
    },
    /// A system call that never fails on a sound system did.
    #[error("cannot {what} in the sandbox: {errno}")]
    Step {
        /// What was being done.
        what: &'static str,
        /// What the kernel answered.
        errno: Errno,
    },
}

impl EnterError {
    pub(crate) fn step(what: &'static str, errno: Errno) -> Self {
        Self::Step { what, errno }
    }

    pub(crate) fn namespaces(errno: Errno) -> Self {
        let read = |path: &str| {
            std::fs::read_to_string(path)
                .ok()
                .map(|text| text.trim().to_owned())
        };
        Self::Namespaces {
            errno,
            hint: hint(
                errno,
                read("/proc/sys/user/max_user_namespaces").as_deref(),
                read("/proc/sys/kernel/unprivileged_userns_clone").as_deref(),
                read("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").as_deref(),
            ),
        }
    }

    /// Whether the machine forbids sandboxes, as opposed to an error of ours: tests are then skipped.
    #[must_use]
    pub fn is_forbidden(&self) -> bool {
        matches!(
            self,
            Self::Namespaces { .. } | Self::NotRoot | Self::Proc(_) | Self::Map(_)
        )
    }
}

/// The most likely cause, from the kernel's answer and the settings as read.
fn hint(errno: Errno, max: Option<&str>, debian: Option<&str>, apparmor: Option<&str>) -> String {
    if max == Some("0") || errno == Errno::ENOSPC {
        return "user namespaces are switched off or used up by user.max_user_namespaces; \
                as root: sysctl -w user.max_user_namespaces=15000. Or run as root"
            .into();
    }
    if debian == Some("0") {
        return "kernel.unprivileged_userns_clone is 0; as root: sysctl -w kernel.unprivileged_userns_clone=1. \
                Or run as root"
            .into();
    }
    if apparmor == Some("1") {
        return "AppArmor restricts unprivileged user namespaces; as root: \
                sysctl -w kernel.apparmor_restrict_unprivileged_userns=0, or give the program a profile with `userns,`. \
                Or run as root"
            .into();
    }
    if errno == Errno::EINVAL || errno == Errno::ENOSYS {
        return "the kernel was built without user or network namespaces (CONFIG_USER_NS, CONFIG_NET_NS)"
            .into();
    }
    "a seccomp profile or capability set most likely forbids unshare(2), as container runtimes do; \
     run outside the container, or start it with --security-opt seccomp=unconfined (Docker, Podman), \
     seccompProfile: Unconfined (Kubernetes) or --privileged"
        .into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hint_names_the_setting_that_forbids() {
        assert!(hint(Errno::ENOSPC, Some("0"), None, None).contains("user.max_user_namespaces"));
        assert!(hint(Errno::EPERM, Some("9"), Some("0"), None).contains("kernel.unprivileged_userns_clone"));
        assert!(
            hint(Errno::EPERM, Some("9"), None, Some("1")).contains("apparmor_restrict_unprivileged_userns")
        );
        assert!(hint(Errno::EPERM, Some("9"), None, None).contains("seccomp"));
    }
}
