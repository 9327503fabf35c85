//! `Service.attest`: what a process must be for an agent to give it the identity of a service.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::subject::AgentName;

/// One entry of `Service.attest`. The identity is given to a process of which one entry holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attest {
    /// On which machines; empty means on any.
    pub agents: Vec<AgentName>,
    /// What the process must be: one at least is there.
    pub selectors: Selectors,
}

impl Attest {
    /// Whether it can hold on the machine of this agent.
    pub fn is_for(&self, agent: &AgentName) -> bool {
        self.agents.is_empty() || self.agents.contains(agent)
    }
}

/// What is asked of a process; all that is there must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Selectors {
    /// Its effective user, by number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    /// Its effective group, by number; supplementary ones do not count.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    /// The name of its effective user on the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<Arc<str>>,
    /// The name of its effective group on the machine.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<Arc<str>>,
    /// The file that it runs, an absolute path without links as the agent sees it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<Arc<str>>,
    /// SHA-256 of the file that it runs, 64 lower-case hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sha256: Option<Arc<str>>,
    /// The unit of the machine's systemd that it is in, like `web.service`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub systemd_unit: Option<Arc<str>>,
    /// Its control group or one above that; in a segment `*` is any letters, also none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cgroup: Option<Arc<str>>,
    /// Its container, 64 lower-case hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub container_id: Option<Arc<str>>,
}

impl Selectors {
    /// How many of them are there.
    pub fn count(&self) -> u32 {
        let Self { uid, gid, user, group, path, sha256, systemd_unit, cgroup, container_id } = self;
        let numbers = [uid, gid].into_iter().flatten().count();
        let texts = [user, group, path, sha256, systemd_unit, cgroup, container_id].into_iter().flatten().count();
        (numbers + texts) as u32
    }

    /// Whether nothing is asked: such an entry would hold of everybody.
    pub fn is_empty(&self) -> bool {
        self.count() == 0
    }
}
