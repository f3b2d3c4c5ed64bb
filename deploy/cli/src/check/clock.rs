//! Clocks: certificates are of no use where the time is another. Pure.

use k8s_openapi::jiff::{Timestamp, fmt::rfc2822};

use super::report::Section;

/// A clock this much ahead is reported: the difference the rest of the path makes is less.
const AHEAD_S: i64 = 10;
/// A kubelet renews its Lease every 10 seconds, and is given up after 40; a working one whose Lease is this old has a
/// clock that is late.
const BEHIND_S: i64 = 90;
/// This machine's clock matters less.
const OWN_S: i64 = 60;

/// A node and what its own clock said when it last renewed its Lease, in seconds since the epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) name: String,
    pub(super) ready: bool,
    pub(super) renewed: Option<i64>,
}

/// Seconds since the epoch of an HTTP `Date`.
pub(super) fn date(header: &str) -> Option<i64> {
    let parser = rfc2822::DateTimeParser::new();
    parser.parse_timestamp(header).ok().map(Timestamp::as_second)
}

/// Compares the clocks of the nodes and of this machine (`own`) with the API server's.
pub(super) fn check(server: i64, own: i64, nodes: &[Node], section: &mut Section) {
    if (own - server).abs() > OWN_S {
        section.warning(
            "this machine",
            format!("its clock is {} from the API server's", seconds(own - server)),
            "synchronize it, or times printed here are wrong",
        );
    }
    for node in nodes {
        let difference = match node.renewed {
            Some(renewed) => renewed - server,
            None => continue,
        };
        if difference > AHEAD_S || (difference < -BEHIND_S && node.ready) {
            section.error(
                format!("Node {}", node.name),
                format!("its clock is {} from the API server's", seconds(difference)),
                "synchronize it with NTP: sidecars there take certificates for expired or not yet valid",
            );
        }
    }
}

fn seconds(difference: i64) -> String {
    format!("{difference:+} seconds")
}
