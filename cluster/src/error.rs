//! What can go wrong, one type per operation.

use std::{fmt, io};

use hearth_proto::{Classified, ClusterId, ErrorKind, GroupId, Incarnation, NodeId, v1};

use crate::fresh::ReadError;
use crate::raft::{GroupError, OpenError};

/// Why a node could not start from its folder.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A later build wrote the folder: start that build.
    #[error("the metadata folder has format {found}, this build knows up to {supported}")]
    NewerFormat {
        /// The folder's format.
        found: u32,
        /// The newest format this build knows.
        supported: u32,
    },
    /// A later build applied what this one does not know: start that build.
    #[error("the metadata folder needs a newer build: {detail}")]
    NewerCommands {
        /// What is not known.
        detail: String,
    },
    /// The folder was written by a build of before the first release: empty it and join anew.
    #[error(
        "the metadata folder is of a build before the first release; have the node join anew with an empty one"
    )]
    OlderFormat,
    /// What the folder holds is not what was written. The node must not vote from what is left of it: remove
    /// it and let it join anew with an empty folder.
    #[error(
        "the metadata folder is damaged: {detail}; this node must not vote any more, since it may have forgotten \
         what it promised: remove it from the cluster (hearth node remove --force) and start it with an empty \
         --data-dir and --join"
    )]
    Damaged {
        /// What is wrong.
        detail: String,
    },
    /// The folder is another node's: choose the right one.
    #[error("the metadata folder belongs to node {found}, not to node {expected}")]
    OtherNode {
        /// The node that the folder names.
        found: NodeId,
        /// The node that was to start.
        expected: NodeId,
    },
    /// The folder is of another cluster: choose the right one.
    #[error("the metadata folder belongs to cluster {found}, not to cluster {expected}")]
    OtherCluster {
        /// The cluster that the folder names.
        found: ClusterId,
        /// The cluster that was to start.
        expected: ClusterId,
    },
    /// The folder is of a cluster that splits its directory otherwise: start with its number of groups.
    #[error("the cluster has {found} directory groups, not {expected}")]
    OtherDirectoryGroups {
        /// What the folder says.
        found: u32,
        /// What the node was to start with.
        expected: u32,
    },
    /// The operating system refused, or another process has the folder open.
    #[error("the metadata folder cannot be opened: {0}")]
    Io(#[source] io::Error),
    /// The consensus library refused what the folder holds.
    #[error("the metadata plane cannot run: {detail}")]
    Raft {
        /// What it said.
        detail: String,
    },
}

impl Classified for StartError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Stop
    }
}

impl From<OpenError> for StartError {
    fn from(error: OpenError) -> Self {
        match error {
            OpenError::NewerFormat { found, supported } => Self::NewerFormat { found, supported },
            OpenError::OlderFormat => Self::OlderFormat,
            OpenError::Damaged(detail) => Self::Damaged { detail },
            OpenError::OtherNode { found, expected } => {
                Self::OtherNode { found: found.node, expected: expected.node }
            }
            OpenError::OtherCluster { found, expected } => {
                Self::OtherCluster { found: found.cluster, expected: expected.cluster }
            }
            OpenError::OtherDirectoryGroups { found, expected } => Self::OtherDirectoryGroups {
                found: found.directory_groups,
                expected: expected.directory_groups,
            },
            OpenError::Io(error) => Self::Io(error),
        }
    }
}

impl From<GroupError> for StartError {
    fn from(error: GroupError) -> Self {
        match error {
            GroupError::Store { group, source } if source.kind() == io::ErrorKind::InvalidData => {
                Self::Damaged { detail: format!("group {group}: {source}") }
            }
            GroupError::Store { group, source } if source.kind() == io::ErrorKind::Unsupported => {
                Self::NewerCommands { detail: format!("group {group}: {source}") }
            }
            GroupError::Store { source, .. } => Self::Io(source),
            GroupError::Raft { .. } => Self::Raft { detail: error.to_string() },
        }
    }
}

/// Voters that a node cannot reach, and where it looked for them, as the end of a sentence; empty when it knows of none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Silent(pub Vec<(NodeId, String)>);

impl fmt::Display for Silent {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (position, (node, address)) in self.0.iter().enumerate() {
            f.write_str(if position == 0 { "; of its voters it cannot reach: node " } else { ", node " })?;
            write!(f, "{node} at {address}")?;
        }
        Ok(())
    }
}

/// Why a command was not committed, or is not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// No leader took the command before the deadline; it is certainly not committed.
    #[error("no leader of group {group} was reached in time{silent}")]
    NoLeader {
        /// The group without a reachable leader.
        group: GroupId,
        /// Its voters that this node cannot reach.
        silent: Silent,
    },
    /// The command went out and no answer came back: it may or may not be committed. Repeating the
    /// same command is harmless (INV-IDEMPOTENT).
    #[error("it is unknown whether the command to group {group} was committed{silent}")]
    Unknown {
        /// The group that was asked.
        group: GroupId,
        /// Its voters that this node cannot reach.
        silent: Silent,
    },
    /// The state refused the command, and always will.
    #[error("the command was refused: {detail}")]
    Refused {
        /// What kind of reason.
        reason: v1::RefusalReason,
        /// The reason, as every replica gives it.
        detail: String,
    },
    /// The group has stopped on this node.
    #[error("group {group} has stopped on this node: {detail}")]
    Stopped {
        /// The stopped group.
        group: GroupId,
        /// Why it stopped.
        detail: String,
    },
}

impl Classified for ProposeError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoLeader { .. } | Self::Unknown { .. } => ErrorKind::Retry,
            Self::Refused { .. } => ErrorKind::FixRequest,
            Self::Stopped { .. } => ErrorKind::Stop,
        }
    }
}

/// Why what an operator asked for was not done, or is not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OperateError {
    /// It was refused, or could not be committed.
    #[error(transparent)]
    Propose(#[from] ProposeError),
    /// The cluster as it is now could not be looked at first.
    #[error("the state of the cluster could not be read: {0}")]
    Read(#[from] ReadError),
    /// The leader answered something else.
    #[error("the leader gave the outcome of another command: {detail}")]
    Unexpected {
        /// What it gave.
        detail: String,
    },
}

impl Classified for OperateError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Propose(error) => error.kind(),
            Self::Read(error) => error.kind(),
            Self::Unexpected { .. } => ErrorKind::Stop,
        }
    }
}

/// Why a cluster could not be founded.
#[derive(Debug, thiserror::Error)]
pub enum FoundError {
    /// Only node 1 founds a cluster.
    #[error("only node 1 can found a cluster, this is node {0}")]
    NotFirst(NodeId),
    /// The groups could not be initialised.
    #[error("the first members could not be set: {0}")]
    Raft(String),
    /// The identity could not be committed; founding again is harmless.
    #[error("the cluster's identity could not be committed")]
    Commit(#[from] ProposeError),
}

impl Classified for FoundError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotFirst(_) => ErrorKind::FixRequest,
            Self::Raft(_) => ErrorKind::Stop,
            Self::Commit(error) => error.kind(),
        }
    }
}

/// Why a node could not join.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The seed's address is not of the form `host:port`.
    #[error("the seed {seed:?} is not an address of the form host:port")]
    BadAddress {
        /// The address as given.
        seed: String,
    },
    /// Nothing answered at the seed before the deadline.
    #[error(
        "the seed {seed} cannot be reached: {detail}; check that hearthd runs there and that --join names \
         its --listen address"
    )]
    Unreachable {
        /// The seed's address.
        seed: String,
        /// The last failure.
        detail: String,
    },
    /// The seed belongs to another cluster than this node.
    #[error(
        "the seed {seed} belongs to cluster {found}, this node belongs to cluster {expected}; correct --join \
         or --cluster-id"
    )]
    OtherCluster {
        /// The seed's address.
        seed: String,
        /// The seed's cluster.
        found: ClusterId,
        /// The cluster that was to be joined.
        expected: ClusterId,
    },
    /// The seed answered, but its cluster had no leader before the deadline.
    #[error("the cluster behind seed {seed} has no leader: {detail}")]
    NoLeader {
        /// The seed's address.
        seed: String,
        /// The last failure.
        detail: String,
    },
    /// The cluster does not take this node.
    #[error("the cluster behind seed {seed} refused this node: {detail}")]
    Refused {
        /// The seed's address.
        seed: String,
        /// The cluster's reason.
        detail: String,
    },
}

impl Classified for JoinError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::BadAddress { .. } | Self::OtherCluster { .. } | Self::Refused { .. } => {
                ErrorKind::FixRequest
            }
            Self::Unreachable { .. } => ErrorKind::Reroute,
            Self::NoLeader { .. } => ErrorKind::Retry,
        }
    }
}

/// Why a member must stop.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MemberError {
    /// Another process registered under this node's identity, most likely from a copy of its folder.
    /// This one must serve nothing any more (INV-FENCE).
    #[error("another process took the identity of node {node}: it holds incarnation {newer} now")]
    Superseded {
        /// This node.
        node: NodeId,
        /// The incarnation of the other process.
        newer: Incarnation,
    },
    /// The node was removed for good and votes nowhere any more. It must serve nothing; to come in again it
    /// joins with an empty folder.
    #[error(
        "node {node} was removed from the cluster: it serves nothing any more; to come in again, start it with \
         an empty --data-dir and --join"
    )]
    Removed {
        /// This node.
        node: NodeId,
    },
    /// The cluster does not know this node, or not its build.
    #[error("the cluster refused node {node}: {detail}")]
    Refused {
        /// This node.
        node: NodeId,
        /// The cluster's reason.
        detail: String,
    },
    /// The metadata plane of this node stopped, after a failed disk or a newer command.
    #[error("the metadata plane has stopped: {detail}")]
    Stopped {
        /// Why it stopped.
        detail: String,
    },
}

impl Classified for MemberError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Stop
    }
}
