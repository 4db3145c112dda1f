//! What a checker may see of a member: its logs, who leads, and what it has applied.

use std::hash::{DefaultHasher, Hash, Hasher};

use hearth_proto::{BlockId, Fingerprint, GroupId, Incarnation, NodeId, Tier, v1};
use openraft::EntryPayload;
use openraft::entry::RaftEntry;

use super::SimDisk;
use crate::cluster::Cluster;
use crate::raft::{LogId, log_entries, stored_vote};
use crate::state::{State, Timed, tier_bit};

/// A leadership: the term, and the node that leads in it.
pub type LeaderView = (u64, u64);

/// A record's key and value.
pub type RecordBytes = (Vec<u8>, Vec<u8>);

/// One group of one member at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GroupView {
    /// The group.
    pub group: GroupId,
    /// The leadership that this member has now.
    pub leads: Option<LeaderView>,
    /// Whose votes count, as this member knows.
    pub voters: Vec<NodeId>,
    /// The last entry that it applied, and the leadership that made the entry.
    pub applied: Option<(u64, LeaderView)>,
}

/// One entry of a log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EntryView {
    /// Its index.
    pub index: u64,
    /// The leadership that made it.
    pub leader: LeaderView,
    /// A digest of what it says.
    pub digest: u64,
    /// The command, if it is one, encoded.
    pub command: Option<bytes::Bytes>,
}

/// What one entry did on one member.
#[derive(Clone, Debug, PartialEq)]
pub struct AppliedView {
    /// The group.
    pub group: GroupId,
    /// The entry's index.
    pub index: u64,
    /// The command, if the entry is one, with the time that it was applied with.
    pub command: Option<v1::Command>,
    /// The replicated time after it.
    pub time_ms: u64,
    /// What whoever proposed it is told.
    pub outcome: v1::Outcome,
}

/// The right to compute a block, as a member has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimView {
    /// The block.
    pub block: BlockId,
    /// Who may compute it.
    pub claimant: bytes::Bytes,
    /// Names the grant.
    pub token: u64,
    /// Replicated time at which it ends.
    pub expires_at_ms: u64,
}

/// How a block is to be kept, as a member has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RetentionView {
    /// The block.
    pub block: BlockId,
    /// The priority.
    pub priority: u8,
    /// Replicated time at which it ends; zero is never.
    pub expires_at_ms: u64,
}

impl Cluster {
    /// The claims of a directory group, in the order of their blocks.
    pub fn claimed(&self, group: GroupId) -> Vec<ClaimView> {
        self.read_timed(group, |timed| {
            let view = |block: &BlockId| {
                let claim = timed.claims().find(block)?;
                Some(ClaimView {
                    block: *block,
                    claimant: claim.claimant.clone(),
                    token: claim.token,
                    expires_at_ms: claim.expires_at_ms,
                })
            };
            let mut claims: Vec<_> = timed.claims().blocks().filter_map(view).collect();
            claims.sort_unstable_by_key(|claim| claim.block);
            claims
        })
    }

    /// The retentions of a directory group that have not ended, in the order of their blocks.
    pub fn retained(&self, group: GroupId) -> Vec<RetentionView> {
        self.read_timed(group, |timed| {
            let now_ms = timed.time_ms();
            let view = |block: &BlockId| {
                let retention = timed.retentions().find(block, now_ms)?;
                Some(RetentionView {
                    block: *block,
                    priority: retention.priority.value(),
                    expires_at_ms: retention.duration_ms.map_or(0, |left_ms| now_ms + left_ms),
                })
            };
            let mut retentions: Vec<_> = timed.retentions().blocks().filter_map(view).collect();
            retentions.sort_unstable_by_key(|retention| retention.block);
            retentions
        })
    }

    fn read_timed<T>(&self, group: GroupId, read: impl FnOnce(&Timed) -> Vec<T>) -> Vec<T> {
        let Some(group) = self.group(group) else { return Vec::new() };
        match &group.replicated().state {
            State::Directory(directory) => read(directory.timed()),
            State::Control(_) => Vec::new(),
        }
    }

    /// The replicated time of a group.
    pub fn replicated_time_ms(&self, group: GroupId) -> u64 {
        self.group(group).map_or(0, |group| group.replicated().state.time_ms())
    }

    /// The groups of this member.
    pub fn observe(&self) -> Vec<GroupView> {
        let view = |group: &std::sync::Arc<crate::raft::Group>| GroupView {
            group: group.id(),
            leads: group.leading_term().map(|term| (term, self.node_id().0)),
            voters: group.members().0,
            applied: group.replicated().applied_id().map(entry_id),
        };
        self.all_groups().map(view).collect()
    }

    /// The records of a group's state in the order of their keys, and the last entry that they reflect.
    pub fn records(&self, group: GroupId) -> (Option<u64>, Vec<RecordBytes>) {
        let Some(group) = self.group(group) else { return (None, Vec::new()) };
        let replicated = group.replicated();
        (replicated.applied_id().map(|id| id.index), replicated.state.encode())
    }

    /// The last entry that a group's state reflects.
    pub fn records_applied(&self, group: GroupId) -> Option<u64> {
        self.group(group)?.replicated().applied_id().map(|id| id.index)
    }

    /// Which nodes claim to hold a block, each with the incarnation of its claims and the tiers, bit n for the one with wire number n; whether
    /// a claim counts is not asked.
    pub fn claims(&self, group: GroupId, name: &Fingerprint) -> Vec<(NodeId, Incarnation, u8)> {
        let Some(group) = self.group(group) else { return Vec::new() };
        let replicated = group.replicated();
        let State::Directory(directory) = &replicated.state else { return Vec::new() };
        let mut claims = Vec::new();
        directory.find(&[*name], |_, replica| {
            let held = Tier::ALL.into_iter().filter(|tier| replica.tiers & tier_bit(*tier) != 0);
            let tiers = held.fold(0, |tiers, tier| tiers | 1 << tier as u8);
            claims.push((replica.node, replica.incarnation, tiers));
        });
        claims.sort_unstable();
        claims
    }

    /// The incarnation of every node in this member's copy of the control state.
    pub fn incarnations(&self) -> Vec<(NodeId, u64)> {
        let replicated = self.0.control.replicated();
        let State::Control(control) = &replicated.state else { return Vec::new() };
        control.nodes().map(|node| (NodeId(node.node_id), node.incarnation)).collect()
    }
}

impl SimDisk {
    /// The vote of a group that a node has on this disk, synced or not.
    pub fn vote_of(&self, group: GroupId) -> Option<LeaderView> {
        let vote = stored_vote(self, group).ok()??;
        Some((vote.leader_id.term, vote.leader_id.node_id))
    }

    /// The entries of a group's log from `from` on, as a reader of the disk sees them now.
    ///
    /// # Errors
    /// What is wrong with the log, if it has a hole or holds what cannot be read.
    pub fn entries(&self, group: GroupId, from: u64) -> Result<Vec<EntryView>, String> {
        let entries = log_entries(self, group, from).map_err(|error| error.to_string())?;
        let view = |entry: crate::raft::Entry| {
            let (index, leader) = entry_id(entry.log_id());
            let (stamp_ms, command) = match &entry.payload {
                EntryPayload::Normal(proposal) => (Some(proposal.stamp_ms), Some(proposal.command.0.clone())),
                EntryPayload::Blank | EntryPayload::Membership(_) => (None, None),
            };
            let mut hasher = DefaultHasher::new();
            format!("{:?}", entry.payload).hash(&mut hasher);
            (stamp_ms, &command).hash(&mut hasher);
            EntryView { index, leader, digest: hasher.finish(), command }
        };
        Ok(entries.into_iter().map(view).collect())
    }
}

fn entry_id(id: LogId) -> (u64, LeaderView) {
    (id.index, (id.leader_id.term, id.leader_id.node_id))
}
