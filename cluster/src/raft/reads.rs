//! Reads that are no older than a given moment: what the leader confirms, and the wait for what it said.
//!
//! ReadIndex alone, never a lease: a leader confirms each read with answers of a quorum to heartbeats that
//! it sent after the read was asked for, so no clock is believed (INV-LINEAR). Reads that come together
//! share heartbeats: openraft sends one to each member however many reads wait for it.

use std::time::{Duration, Instant};

use hearth_proto::{LogIndex, NodeId};
use openraft::errors::{LinearizableReadError, RaftError};
use openraft::metrics::WaitError;
use openraft::raft::linearizable_read::LinearizerOption;

use super::group::{Group, leader_of};
use crate::mutant::{self, Mutant};

/// What came of asking this node for a read index.
#[derive(Debug)]
pub(crate) enum LocalRead {
    /// This node leads, a quorum confirmed it, and whoever applied this far reads what is newest.
    Index(LogIndex),
    /// The leader that this node knows, if any.
    NotLeader(Option<(NodeId, String)>),
    /// This node leads, and no quorum confirmed it in time.
    NoQuorum,
    /// The group has stopped on this node for good.
    Stopped,
}

/// How waiting for the log to be applied ended.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Applied {
    Reached,
    /// Not by the deadline: this far only.
    Behind(LogIndex),
    Stopped,
}

impl Group {
    /// Confirms with a quorum that this node leads, and says how far a reader must have applied.
    ///
    /// # Cancel safety
    /// Dropping it gives the read up, nothing else.
    pub(crate) async fn read_index(&self, limit: Duration) -> LocalRead {
        if mutant::is(Mutant::LeaseReadAfterPause) && self.leading_term().is_some() {
            return LocalRead::Index(LogIndex(self.replicated().applied_index()));
        }
        // No answer of a quorum is young enough but one to a heartbeat of after this call.
        let option = LinearizerOption::new(Some(Duration::ZERO), true).with_wait_timeout(limit);
        match tokio::time::timeout(limit, self.raft().get_read_linearizer(option)).await {
            Ok(Ok(linearizer)) => LocalRead::Index(LogIndex(linearizer.read_log_id().index())),
            Ok(Err(RaftError::APIError(LinearizableReadError::ForwardToLeader(forward)))) => {
                LocalRead::NotLeader(leader_of(&forward))
            }
            Ok(Err(RaftError::APIError(LinearizableReadError::QuorumNotEnough(_)))) | Err(_) => {
                LocalRead::NoQuorum
            }
            Ok(Err(RaftError::Fatal(_))) => LocalRead::Stopped,
        }
    }

    /// Waits until this node's state reflects the log up to `index`.
    pub(crate) async fn wait_applied(&self, index: LogIndex, deadline: Instant) -> Applied {
        if self.replicated().applied_index() >= index.0 {
            return Applied::Reached;
        }
        let left = deadline.saturating_duration_since(Instant::now());
        let wait = self.raft().wait(Some(left));
        match wait.applied_index_at_least(Some(index.0), "a read waits for it").await {
            Ok(_) => Applied::Reached,
            Err(WaitError::Timeout(..)) => match self.replicated().applied_index() {
                reached if reached >= index.0 => Applied::Reached,
                reached => Applied::Behind(LogIndex(reached)),
            },
            Err(WaitError::ShuttingDown) => Applied::Stopped,
        }
    }
}
