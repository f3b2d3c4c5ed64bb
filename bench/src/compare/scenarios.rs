//! What is measured, by name.

use anyhow::ensure;

use crate::application::Serves;

/// What the sidecars are told that passes through them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Protocol {
    /// HTTP/1.1.
    Http1,
    /// HTTP/2 with gRPC.
    Grpc,
    /// Bytes, under mutual TLS between the sidecars.
    Tcp,
    /// Bytes, without TLS.
    TcpPlain,
}

impl Protocol {
    /// Its name for the commands of further pairs.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Http1 => "http1",
            Self::Grpc => "grpc",
            Self::Tcp => "tcp",
            Self::TcpPlain => "tcp-plain",
        }
    }

    /// What the application serves.
    pub(crate) fn served(self) -> Serves {
        match self {
            Self::Http1 => Serves::Requests,
            Self::Grpc => Serves::GatheredCalls,
            Self::Tcp | Self::TcpPlain => Serves::Bytes,
        }
    }

    /// Whether the sidecars see requests.
    pub(crate) fn is_http(self) -> bool {
        matches!(self, Self::Http1 | Self::Grpc)
    }
}

/// What the client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Load {
    /// Each connection sends the next request when the last one is answered; bodies of so many bytes both ways, or
    /// none there and 1 KiB back.
    Closed { connections: usize, body: usize },
    /// Requests at fixed times, whether the ones before are answered or not.
    Open { connections: u32, rate: u32 },
    /// A new connection for each request, so many at a time.
    New { lanes: usize },
    /// Unary calls, so many at a time on each connection.
    Calls { connections: usize, each: usize },
    /// Streams that carry a message there and back, over and over.
    Messages { connections: usize, each: usize },
    /// One connection, as many bytes as fit.
    Stream,
    /// Bytes there and back on each connection, over and over.
    Echo { connections: usize },
    /// From the start of the sidecars to the first answer.
    Start,
    /// Memory before, during and after so many connections are busy.
    Memory { connections: usize },
    /// What a sidecar takes in a mesh of so many services, under a control plane.
    Mesh { services: usize },
}

/// One line of the comparison.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    /// Name on the command line and in reports.
    pub(crate) name: &'static str,
    /// For people.
    pub(crate) about: &'static str,
    pub(crate) protocol: Protocol,
    pub(crate) load: Load,
    /// Whether the sidecars write a line for each request.
    pub(crate) access_log: bool,
}

impl Scenario {
    /// Whether there is something to measure where there are no sidecars.
    pub(crate) fn means_something_without_sidecars(&self) -> bool {
        !self.access_log && !matches!(self.load, Load::Start | Load::Memory { .. } | Load::Mesh { .. })
    }
}

const fn scenario(name: &'static str, protocol: Protocol, load: Load, about: &'static str) -> Scenario {
    Scenario {
        name,
        about,
        protocol,
        load,
        access_log: false,
    }
}

const fn mesh(name: &'static str, services: usize, about: &'static str) -> Scenario {
    scenario(name, Protocol::Http1, Load::Mesh { services }, about)
}

const fn closed(connections: usize, body: usize) -> Load {
    Load::Closed { connections, body }
}

/// Everything, in the order of the table.
pub(crate) const SCENARIOS: [Scenario; 23] = {
    use Protocol::{Grpc, Http1, Tcp, TcpPlain};
    [
        scenario("http1-1", Http1, closed(1, 0), "HTTP/1.1, 1 KiB, 1 connection"),
        scenario(
            "http1-64",
            Http1,
            closed(64, 0),
            "HTTP/1.1, 1 KiB, 64 connections, highest rate",
        ),
        Scenario {
            access_log: true,
            ..scenario(
                "http1-log",
                Http1,
                closed(64, 0),
                "HTTP/1.1, 1 KiB, 64 connections, highest rate, with an access log in JSON on both sides",
            )
        },
        scenario(
            "http1-1000",
            Http1,
            closed(1000, 0),
            "HTTP/1.1, 1 KiB, 1,000 connections, highest rate",
        ),
        scenario(
            "http1-rate",
            Http1,
            Load::Open {
                connections: 32,
                rate: 1500,
            },
            "HTTP/1.1, 1 KiB, 1,500 requests/s over 32 connections, latency from the scheduled time",
        ),
        scenario(
            "http1-new",
            Http1,
            Load::New { lanes: 16 },
            "HTTP/1.1, 1 KiB, a new connection per request, 16 at a time",
        ),
        scenario(
            "http1-64k",
            Http1,
            closed(16, 64 << 10),
            "HTTP/1.1, 64 KiB there and back, 16 connections",
        ),
        scenario(
            "http1-1m",
            Http1,
            closed(4, 1 << 20),
            "HTTP/1.1, 1 MiB there and back, 4 connections",
        ),
        scenario(
            "grpc-unary",
            Grpc,
            Load::Calls {
                connections: 4,
                each: 16,
            },
            "gRPC, unary, 4 connections with 16 calls at a time",
        ),
        scenario(
            "grpc-stream",
            Grpc,
            Load::Messages {
                connections: 4,
                each: 16,
            },
            "gRPC, 64 streams on 4 connections, 256 bytes there and back",
        ),
        scenario("tcp-stream", Tcp, Load::Stream, "one TCP stream, mTLS"),
        scenario(
            "tcp-stream-plain",
            TcpPlain,
            Load::Stream,
            "one TCP stream, plain",
        ),
        scenario(
            "tcp-1",
            Tcp,
            Load::Echo { connections: 1 },
            "TCP, 256 bytes there and back, 1 connection, mTLS",
        ),
        scenario(
            "tcp-echo",
            Tcp,
            Load::Echo { connections: 64 },
            "TCP, 256 bytes there and back, 64 connections, mTLS",
        ),
        scenario(
            "tcp-echo-plain",
            TcpPlain,
            Load::Echo { connections: 64 },
            "TCP, 256 bytes there and back, 64 connections, plain",
        ),
        scenario(
            "tcp-new",
            Tcp,
            Load::New { lanes: 16 },
            "a new TCP connection per request, mTLS, 16 at a time",
        ),
        scenario(
            "tcp-new-plain",
            TcpPlain,
            Load::New { lanes: 16 },
            "a new TCP connection per request, plain, 16 at a time",
        ),
        scenario(
            "start",
            Http1,
            Load::Start,
            "from the start of both sidecars to the first answer",
        ),
        scenario(
            "memory",
            Http1,
            Load::Memory { connections: 1000 },
            "program and memory of one sidecar: idle, with 1,000 busy connections, after",
        ),
        mesh("mesh-10", 10, "a mesh of 10 services, all in use"),
        mesh("mesh-100", 100, "a mesh of 100 services, 10 in use"),
        mesh("mesh-1000", 1_000, "a mesh of 1,000 services, 10 in use"),
        mesh("mesh-10000", 10_000, "a mesh of 10,000 services, 10 in use"),
    ]
};

/// Those that `only` names, each by its name or by the part before a dash; all when it names none.
///
/// # Errors
/// When a name is unknown.
pub(crate) fn chosen(only: &[String]) -> anyhow::Result<Vec<&'static Scenario>> {
    let matches = |name: &str, wanted: &str| {
        name == wanted
            || name
                .strip_prefix(wanted)
                .is_some_and(|rest| rest.starts_with('-'))
    };
    for wanted in only {
        let known = SCENARIOS.iter().any(|scenario| matches(scenario.name, wanted));
        let names = SCENARIOS.map(|scenario| scenario.name).join(", ");
        ensure!(known, "there is no scenario {wanted}; there are {names}");
    }
    let wanted =
        |scenario: &&Scenario| only.is_empty() || only.iter().any(|wanted| matches(scenario.name, wanted));
    Ok(SCENARIOS.iter().filter(wanted).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scenarios_are_chosen_by_name_and_by_group() {
        let names = |only: &[&str]| {
            let only: Vec<_> = only.iter().map(ToString::to_string).collect();
            chosen(&only).map(|scenarios| scenarios.iter().map(|scenario| scenario.name).collect::<Vec<_>>())
        };
        assert_eq!(names(&["grpc"]).unwrap(), ["grpc-unary", "grpc-stream"]);
        assert_eq!(names(&["http1-1"]).unwrap(), ["http1-1"]);
        assert_eq!(names(&["tcp-stream", "mesh"]).unwrap().len(), 6);
        assert_eq!(names(&[]).unwrap().len(), SCENARIOS.len());
        assert!(names(&["http2"]).is_err());
    }
}
