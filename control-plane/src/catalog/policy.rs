//! What the policies come to for pods and services.

use std::{collections::BTreeSet, sync::Arc};

use super::{Authorization, MeshSettings, Service, authorization::ByAccount, pods, pods::PodInfo};

/// Who may reach whom.
#[derive(Debug)]
pub(super) struct Policy {
    permissive: bool,
    accounts: ByAccount,
    /// Principals that some TrafficTarget lets someone reach.
    allowed: BTreeSet<Arc<str>>,
    everyone: Arc<Authorization>,
    no_one: Arc<Authorization>,
}

impl Policy {
    pub(super) fn new(mesh: &MeshSettings, accounts: ByAccount) -> Self {
        let granting = accounts.iter().filter(|(_, rules)| grants_something(rules));
        let principal = |account: &crate::spec::ObjectName| {
            pods::principal(&mesh.trust_domain, &account.namespace, &account.name)
        };
        Self {
            permissive: mesh.permissive,
            allowed: granting.map(|(account, _)| principal(account)).collect(),
            accounts,
            everyone: Arc::new(Authorization::Permissive),
            no_one: Arc::new(Authorization::Rules {
                http: Vec::new(),
                tcp: Vec::new(),
            }),
        }
    }

    /// Who may use a pod.
    pub(super) fn of(&self, pod: &PodInfo) -> &Arc<Authorization> {
        match self.permissive {
            true => &self.everyone,
            false => self.accounts.get(&pod.account).unwrap_or(&self.no_one),
        }
    }

    /// What [`Self::covers`] depends on.
    pub(super) fn reach(&self) -> (bool, &BTreeSet<Arc<str>>) {
        (self.permissive, &self.allowed)
    }

    /// Whether any client may reach the pods of a service at all.
    pub(super) fn covers(&self, service: &Service) -> bool {
        self.permissive || service.principals.iter().any(|it| self.allowed.contains(it))
    }
}

fn grants_something(authorization: &Authorization) -> bool {
    match authorization {
        Authorization::Permissive => true,
        Authorization::Rules { tcp, .. } => tcp.iter().any(|rule| !rule.rule.principals.is_empty()),
    }
}
