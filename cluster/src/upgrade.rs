//! The gate before the logs: no command is proposed that a node of the cluster may not know.
//!
//! Builds differ in the newest command version that they apply. A cluster runs at a *finalized* version; a
//! newer command is refused until an operator has finalized it, which the leader allows once every node that
//! is not removed has said that it knows it (INV-WIRE). There is no way back: a build that knows less stops
//! at the first command that it does not know.

use std::time::{Duration, Instant};

use hearth_proto::limits::HEARTBEAT_MS;
use hearth_proto::v1::command::Body;
use hearth_proto::{Incarnation, NodeId, v1};
use v1::RefusalReason;

use crate::cluster::Cluster;
use crate::error::OperateError;
use crate::fresh::Freshness;
use crate::state::{Control, FINALIZED_FIRST, State};

impl Cluster {
    /// The newest command version that may be in the logs, as this node's copy of the control state has it.
    pub fn finalized_version(&self) -> u32 {
        match &self.0.control.replicated().state {
            State::Control(control) => control.finalized_version(),
            State::Directory(_) => FINALIZED_FIRST,
        }
    }

    /// Lets commands up to `version` into the logs; zero is the newest that this node knows. Gives the version
    /// and whether that changed anything.
    ///
    /// # Errors
    /// [`OperateError`]: refused while a node that is not removed knows less, with the nodes' names.
    pub async fn finalize_version(
        &self,
        version: u32,
        deadline: Instant,
    ) -> Result<(u32, bool), OperateError> {
        let version = if version == 0 { self.newest_version() } else { version };
        let changed = self.operate(Body::FinalizeVersion(v1::FinalizeVersion { version }), deadline).await?;
        Ok((version, changed))
    }

    /// Whether commands of this version may be in the logs. What this node has of the log may be old, never
    /// too new, so a no of its own is asked about once more.
    pub(crate) async fn may_say(&self, version: u32) -> bool {
        if self.finalized_version() >= version {
            return true;
        }
        let deadline = Instant::now() + Duration::from_millis(HEARTBEAT_MS * 2);
        let finalized =
            self.read_control(&Freshness::Linearizable, deadline, Control::finalized_version).await;
        finalized.is_ok_and(|finalized| finalized >= version)
    }

    /// The newest command version that this node says it knows.
    pub(crate) fn newest_version(&self) -> u32 {
        self.0.tuning.command_version
    }

    /// Why the leader must not propose a command, if it must not.
    pub(crate) fn version_refusal(&self, command: &v1::Command) -> Option<v1::CommandRefused> {
        let replicated = self.0.control.replicated();
        let State::Control(control) = &replicated.state else { return None };
        let finalized = control.finalized_version();
        let refused =
            |detail: String| Some(v1::CommandRefused { reason: RefusalReason::Version.into(), detail });
        if let Some(Body::FinalizeVersion(finalize)) = &command.body {
            let wanted = finalize.version.max(command.version);
            let held_up = self.who_knows_less(control, wanted);
            return if finalize.version <= finalized || held_up.is_empty() {
                None
            } else {
                let nodes = held_up.join(", ");
                refused(format!(
                    "not every node knows version {wanted}: {nodes}; upgrade them, or remove them"
                ))
            };
        }
        if command.version > self.newest_version()
            && let Some(detail) = too_old(self.newest_version(), finalized)
        {
            return refused(detail);
        }
        // In the log it would stop every replica that is as old as the oldest.
        if command.version <= finalized.min(self.newest_version()) {
            return None;
        }
        let held_up = self.who_knows_less(control, command.version);
        let next = match held_up.as_slice() {
            [] => "run `hearth upgrade finalize` first".to_owned(),
            nodes => format!("upgrade these nodes, then run `hearth upgrade finalize`: {}", nodes.join(", ")),
        };
        refused(format!("this needs version {} and the cluster is at {finalized}: {next}", command.version))
    }

    /// What each node that is not removed said last: when it registered, or with its heartbeats, since the
    /// records of a replica that was upgraded after it may lack it.
    fn who_knows_less(&self, control: &Control, wanted: u32) -> Vec<String> {
        let known = |node: &v1::NodeRecord| {
            let id = NodeId(node.node_id);
            if id == self.node_id() {
                return self.newest_version();
            }
            let heard = self.0.liveness.command_version(id, Incarnation(node.incarnation));
            node.command_version.max(heard.unwrap_or(0)).max(FINALIZED_FIRST)
        };
        let staying = control.nodes().filter(|node| node.state() != v1::NodeState::Removed);
        staying
            .filter(|node| known(node) < wanted)
            .map(|node| format!("node {} {} (knows {})", node.node_id, node.name, known(node)))
            .collect()
    }
}

/// Why a node whose build knows so little cannot be part of a cluster at this version.
pub(crate) fn too_old(known: u32, finalized: u32) -> Option<String> {
    let known = if known == 0 { FINALIZED_FIRST } else { known };
    (known < finalized).then(|| {
        format!("the cluster is at version {finalized} and this build knows {known}: start a newer build")
    })
}
