//! The answer, and how a person reads it.

use std::{collections::BTreeMap, fmt};

use serde::Serialize;

/// Whether one pod may reach another.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Answer {
    /// Who asks.
    pub(super) source: Party,
    /// Who is asked.
    pub(super) destination: Party,
    /// Whether anything at all is allowed.
    pub(super) allowed: bool,
    /// What is allowed, by port of the destination.
    pub(super) ports: Vec<Port>,
    /// What is in the way, or what else there is to know.
    pub(super) remarks: Vec<Remark>,
}

/// A pod and who it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Party {
    /// `namespace/name`.
    pub(super) pod: String,
    /// Its identity, `namespace/name`.
    pub(super) service_account: String,
    /// Whether it has a sidecar.
    pub(super) in_mesh: bool,
}

/// A port of the destination.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Port {
    /// The port of the pod.
    pub(super) port: u16,
    /// What is spoken on it.
    pub(super) protocol: &'static str,
    /// The services that lead to it.
    pub(super) services: Vec<String>,
    /// What is allowed. Nothing: nothing.
    pub(super) grants: Vec<Grant>,
}

/// Something that is allowed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Grant {
    /// What: every request, some, or connections.
    #[serde(flatten)]
    pub(super) what: What,
    /// The objects that allow it, `Kind namespace/name`.
    pub(super) by: Vec<String>,
}

/// What may be done.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase", tag = "what")]
pub(super) enum What {
    /// Anything.
    Everything,
    /// Bytes of any kind.
    Connections,
    /// Requests like these.
    Requests {
        /// Methods; empty: every one.
        methods: Vec<String>,
        /// Expression that the whole path matches.
        path_regex: String,
        /// Expressions that the whole values of headers match.
        headers: BTreeMap<String, String>,
    },
}

/// Something to know.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Remark {
    /// The object, `Kind namespace/name`.
    pub(super) object: String,
    /// What about it.
    pub(super) message: String,
    /// What to do.
    pub(super) remedy: String,
}

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let verdict = if self.allowed { "allowed" } else { "denied" };
        writeln!(f, "{verdict}: {} to {}", self.source, self.destination)?;
        for port in &self.ports {
            writeln!(f, "  {port}")?;
            for grant in &port.grants {
                writeln!(f, "    {grant}")?;
            }
            if port.grants.is_empty() {
                writeln!(f, "    nothing")?;
            }
        }
        for remark in &self.remarks {
            writeln!(f, "  {remark}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Party {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pod {} (ServiceAccount {})", self.pod, self.service_account)
    }
}

impl fmt::Display for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "port {}, {}", self.port, self.protocol)?;
        match self.services.as_slice() {
            [] => Ok(()),
            services => write!(f, ", of Service {}", services.join(", ")),
        }
    }
}

impl fmt::Display for Grant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, by {}", self.what, self.by.join(", "))
    }
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (methods, path_regex, headers) = match self {
            Self::Everything => return f.write_str("everything"),
            Self::Connections => return f.write_str("connections"),
            Self::Requests {
                methods,
                path_regex,
                headers,
            } => (methods, path_regex, headers),
        };
        match methods.as_slice() {
            [] => write!(f, "requests {path_regex}")?,
            methods => write!(f, "{} {path_regex}", methods.join("|"))?,
        }
        for (place, (name, value)) in headers.iter().enumerate() {
            let word = if place == 0 { "with" } else { "and" };
            write!(f, " {word} {name}: {value}")?;
        }
        Ok(())
    }
}

impl fmt::Display for Remark {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.object, self.message, self.remedy)
    }
}
