//! What the mesh promises in a cluster, one file a theme.

mod client;
mod commands;
mod exclusion;
mod lifecycle;
mod load;
mod manifest;
mod metrics;
mod names;
mod permissive;
mod ports;
mod probes;
mod split;
mod stateful;
mod targets;
mod tcp;

use crate::Tests;

/// Adds all cases.
pub(crate) fn tests(tests: &mut Tests<'_>) {
    targets::tests(tests);
    split::tests(tests);
    tcp::tests(tests);
    ports::tests(tests);
    stateful::tests(tests);
    metrics::tests(tests);
    commands::tests(tests);
    probes::tests(tests);
    names::tests(tests);
    permissive::tests(tests);
    exclusion::tests(tests);
    lifecycle::tests(tests);
}
