//! What a change makes stale.

use std::{collections::HashSet, net::IpAddr, sync::Arc};

use super::ServiceKey;
use crate::spec::ObjectName;

/// What must be made anew, step by step: each step finds more for those after it.
#[derive(Debug, Default)]
pub(super) struct Stale {
    /// Pods to read.
    pub(super) pods: HashSet<ObjectName>,
    /// Services to join.
    pub(super) services: HashSet<ServiceKey>,
    /// Services to compare with those that lead to the same ports.
    pub(super) disagreements: HashSet<ServiceKey>,
    /// Whether the TrafficTargets must be read.
    pub(super) policies: bool,
    /// Whether the TrafficSplits must be read.
    pub(super) splits: bool,
    /// Services to finish.
    pub(super) finish: HashSet<ServiceKey>,
    /// Addresses that other services claim.
    pub(super) claims: HashSet<IpAddr>,
    /// Addresses that are the endpoints of other services.
    pub(super) leading: HashSet<IpAddr>,
    /// Pods to finish.
    pub(super) uids: HashSet<Arc<str>>,
    /// Whether anything else is wrong than was.
    pub(super) findings: bool,
}
