//! One Raft group on this node: what the rest of the crate may ask of it.

use std::collections::BTreeMap;
use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures::StreamExt;
use futures::stream::BoxStream;
use hearth_proto::limits::{
    QUORUM_LOST_MS, RAFT_APPEND_ENTRIES_MAX, RAFT_ELECTION_MS_MAX, RAFT_ELECTION_MS_MIN, RAFT_HEARTBEAT_MS,
    RAFT_LAG_ENTRIES_MAX, SNAPSHOT_RETRY_MS, SNAPSHOT_SEND_MS, VOTER_LAG_ENTRIES_MAX,
};
use hearth_proto::{GroupId, LogIndex, NodeId, v1};
use openraft::async_runtime::watch::WatchReceiver;
use openraft::errors::{ClientWriteError, Fatal, ForwardToLeader, InitializeError, RaftError};
use openraft::impls::BasicNode;
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, WriteResult};
use openraft::{Config, Instant as _, Raft, RaftMetrics, SnapshotPolicy};
use prost::Message;

use super::arrival::Arrival;
use super::database::Database;
use super::leader_time::LeaderTime;
use super::log_store::LogStore;
use super::machine::{Replicated, SnapshotGauge, StateMachine, read};
use super::network::Network;
use super::peers::Peers;
use super::types::{CommandBytes, Proposal, TypeConfig};
use super::wal_sync::WalSync;
use crate::cluster::now_ms;
use crate::config::Tuning;
use crate::mutant::{self, Mutant};
use crate::news::NewsDesk;
use crate::state::State;

/// The group cannot do what was asked.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GroupError {
    #[error("the store of group {group} cannot be read")]
    Store { group: GroupId, source: io::Error },
    #[error("group {group} cannot run: {detail}")]
    Raft { group: GroupId, detail: String },
}

/// What came of a proposal on this node.
#[derive(Debug)]
pub(crate) enum LocalProposal {
    Applied(LogIndex, v1::Outcome),
    /// Certainly not committed; the leader that this node knows, if any.
    NotLeader(Option<(NodeId, String)>),
    /// May or may not be committed (INV-IDEMPOTENT).
    Unknown,
    /// Certainly not committed: the group had stopped on this node for good.
    Stopped(String),
}

/// A proposal whose fate is not known yet.
pub(crate) struct Pending(Result<WriteResults, Fatal<TypeConfig>>);

type WriteResults = BoxStream<'static, Result<WriteResult<TypeConfig>, Fatal<TypeConfig>>>;

impl Pending {
    /// Waits for it.
    pub(crate) async fn outcome(self) -> LocalProposal {
        let mut results = match self.0 {
            Ok(results) => results,
            // The group did not even take it.
            Err(error) => return LocalProposal::Stopped(error.to_string()),
        };
        match results.next().await {
            Some(Ok(Ok(written))) => {
                LocalProposal::Applied(LogIndex(written.log_id.index), written.response.0)
            }
            Some(Ok(Err(ClientWriteError::ForwardToLeader(forward)))) => {
                LocalProposal::NotLeader(leader_of(&forward))
            }
            // A group that stopped meanwhile may have sent it to others, who commit it.
            Some(Ok(Err(_)) | Err(_)) | None => LocalProposal::Unknown,
        }
    }
}

/// Why a group no longer runs on this node, the gravest first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum StopReason {
    #[error(
        "has stopped: its log or state cannot be written or read; this node's log has the cause; if its disk is \
         damaged, remove the node (hearth node remove --force) and start it with an empty --data-dir and --join"
    )]
    Storage,
    #[error("has stopped: it panicked; this node's log has the cause")]
    Panicked,
    #[error("is shut down")]
    ShutDown,
}

/// A running group.
#[derive(Debug)]
pub(crate) struct Group {
    id: GroupId,
    raft: Raft<TypeConfig, StateMachine>,
    replicated: Arc<RwLock<Replicated>>,
    news: Arc<NewsDesk>,
    gauge: SnapshotGauge,
    /// The replicated time.
    time_ms: Arc<AtomicU64>,
    leader_time: Mutex<LeaderTime>,
    arrival: tokio::sync::Mutex<Arrival>,
    heard: Mutex<Heard>,
}

/// A leader said then that the log up to this index is committed.
#[derive(Clone, Copy, Debug)]
pub(super) struct Said {
    at: Instant,
    committed: u64,
}

impl Said {
    pub(super) fn now(request: &AppendEntriesRequest<TypeConfig>) -> Self {
        Self { at: Instant::now(), committed: request.leader_commit.as_ref().map_or(0, |last| last.index) }
    }
}

/// What was heard of a leader, and so how old what is applied here may be. One that is cut off from the others and
/// does not know it says what it knows.
#[derive(Debug, Default)]
struct Heard {
    /// All that was committed then, as a leader said, is applied here.
    applied: Option<Instant>,
    said: Option<Said>,
}

impl Heard {
    /// Notes what a leader said, and how far this node has come.
    fn note(&mut self, said: Said, applied: u64) {
        self.advance(applied);
        // What is not reached yet is waited for: where the log grows, what was said last never is.
        self.said.get_or_insert(said);
    }

    fn advance(&mut self, applied: u64) {
        if let Some(said) = self.said.take_if(|said| applied >= said.committed) {
            self.applied = Some(said.at);
        }
    }
}

/// The parts of a group that are ready before the group runs.
#[derive(Debug)]
pub(crate) struct Prepared {
    id: GroupId,
    log: LogStore,
    machine: StateMachine,
}

impl Prepared {
    pub(crate) fn replicated(&self) -> Arc<RwLock<Replicated>> {
        self.machine.replicated()
    }
}

impl Group {
    /// Starts the thread that all groups of `database` sync through.
    pub(crate) fn sync(database: &Arc<Database>) -> io::Result<WalSync> {
        WalSync::start(database.clone())
    }

    /// Loads the group's state.
    ///
    /// # Errors
    /// [`GroupError::Store`] if it cannot be read; the operator restores the data or joins anew.
    pub(crate) fn prepare(
        id: GroupId,
        database: &Arc<Database>,
        sync: &WalSync,
    ) -> Result<Prepared, GroupError> {
        let machine =
            StateMachine::open(id, database).map_err(|source| GroupError::Store { group: id, source })?;
        let log = LogStore::new(id, database.clone(), sync.clone());
        log.check(machine.applied()).map_err(|source| GroupError::Store { group: id, source })?;
        Ok(Prepared { id, log, machine })
    }

    /// Runs the group.
    ///
    /// # Errors
    /// [`GroupError::Raft`] if openraft refuses the stored log.
    pub(crate) async fn run(
        prepared: Prepared,
        node: NodeId,
        peers: Peers,
        tuning: &Tuning,
    ) -> Result<Self, GroupError> {
        let Prepared { id, log, machine } = prepared;
        let failed = |detail: String| GroupError::Raft { group: id, detail };
        let config = raft_config(id, tuning).map_err(failed)?;
        let (replicated, snapshots, gauge) = (machine.replicated(), machine.snapshots(), machine.gauge());
        let (news, time_ms) = (machine.news(), machine.time_ms());
        let network = Network { group: id, node, peers };
        let raft = Raft::new(node.0, Arc::new(config), network, log, machine)
            .await
            .map_err(|error| failed(error.to_string()))?;
        Ok(Self {
            id,
            raft,
            replicated,
            news,
            gauge,
            time_ms,
            leader_time: Mutex::default(),
            arrival: tokio::sync::Mutex::new(Arrival::new(snapshots.unfinished_path("arrival"))),
            heard: Mutex::default(),
        })
    }

    pub(crate) fn id(&self) -> GroupId {
        self.id
    }

    /// The replicated state, for as short as possible: entries wait while it is held.
    pub(crate) fn replicated(&self) -> RwLockReadGuard<'_, Replicated> {
        read(&self.replicated)
    }

    /// What the entries applied here did.
    pub(crate) fn news(&self) -> &NewsDesk {
        &self.news
    }

    pub(super) fn raft(&self) -> &Raft<TypeConfig, StateMachine> {
        &self.raft
    }

    pub(super) fn arrival(&self) -> &tokio::sync::Mutex<Arrival> {
        &self.arrival
    }

    /// Notes what a leader said with an append, unless that was refused.
    pub(super) fn note_append(&self, answer: &AppendEntriesResponse<TypeConfig>, said: Said) {
        if matches!(answer, AppendEntriesResponse::Success | AppendEntriesResponse::PartialSuccess(_)) {
            let applied = self.replicated().applied_index();
            self.lock_heard().note(said, applied);
        }
    }

    /// How old what is applied here may be: since when a leader, or here a quorum, last confirmed that it was all.
    /// `None` if none has since the start.
    pub(crate) fn staleness(&self, applied: u64) -> Option<Duration> {
        let receiver = self.raft.metrics();
        let metrics = receiver.borrow_watched();
        if metrics.running_state.is_ok() && metrics.state.is_leader() {
            let alone = metrics.membership_config.voter_ids().eq([metrics.id]);
            if alone {
                return Some(Duration::ZERO);
            }
            if let Some(acked) = metrics.last_quorum_acked {
                return Some(acked.elapsed());
            }
        }
        let mut heard = self.lock_heard();
        heard.advance(applied);
        heard.applied.map(|at| at.elapsed())
    }

    fn lock_heard(&self) -> MutexGuard<'_, Heard> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The leader that this node knows. A group that has stopped here knows none: its metrics say for
    /// ever what they said last.
    pub(crate) fn leader(&self) -> Option<NodeId> {
        let receiver = self.raft.metrics();
        let metrics = receiver.borrow_watched();
        metrics.current_leader.filter(|_| metrics.running_state.is_ok()).map(NodeId)
    }

    /// Whether a leader is known that a majority was with a while ago, or that this node heard.
    pub(crate) fn is_led(&self) -> bool {
        let applied = self.replicated().applied_index();
        let quiet = self.staleness(applied).unwrap_or_default();
        self.leader().is_some() && quiet < Duration::from_millis(QUORUM_LOST_MS)
    }

    /// Resolves once this node knows that `leader` no longer leads: it knows another one, or none.
    pub(crate) async fn deposed(&self, leader: NodeId) {
        let mut receiver = self.raft.metrics();
        // A group that has stopped says so otherwise.
        while receiver.borrow_watched().current_leader == Some(leader.0) {
            if receiver.changed().await.is_err() {
                return std::future::pending().await;
            }
        }
    }

    /// The term in which this node leads now.
    pub(crate) fn leading_term(&self) -> Option<u64> {
        let receiver = self.raft.metrics();
        let metrics = receiver.borrow_watched();
        let leads = metrics.state.is_leader() && metrics.current_leader == Some(metrics.id);
        (leads && metrics.running_state.is_ok()).then_some(metrics.current_term)
    }

    /// The address of a member, as the membership has it.
    pub(crate) fn member_address(&self, node: NodeId) -> Option<String> {
        let receiver = self.raft.metrics();
        let metrics = receiver.borrow_watched();
        metrics.membership_config.membership().get_node(&node.0).map(|node| node.addr.clone())
    }

    /// Makes this node the first and only voter. Without effect if the group has members.
    pub(crate) async fn initialize(&self, node: NodeId, address: &str) -> Result<(), GroupError> {
        let members = BTreeMap::from([(node.0, BasicNode::new(address))]);
        match self.raft.initialize(members).await {
            Ok(()) | Err(RaftError::APIError(InitializeError::NotAllowed(_))) => Ok(()),
            Err(error) => Err(self.failed(&error)),
        }
    }

    /// The time that a command has which is proposed now.
    pub(crate) fn stamp_ms(&self) -> u64 {
        let replicated_ms = self.time_ms.load(Ordering::Relaxed);
        let mut time = self.leader_time.lock().unwrap_or_else(PoisonError::into_inner);
        time.now_ms(replicated_ms, now_ms(), Instant::now())
    }

    /// Stamps and proposes a command, if this node leads.
    ///
    /// # Cancel safety
    /// A proposal that is dropped may still be committed.
    pub(crate) async fn propose(&self, command: &v1::Command) -> LocalProposal {
        self.begin_propose(command.encode_to_vec().into()).await.outcome().await
    }

    /// Gives the group an encoded command. Those that are given one after the other stand in the log in that
    /// order, if they come to stand there at all.
    pub(crate) async fn begin_propose(&self, command: Bytes) -> Pending {
        let stamp_ms = self.stamp_ms();
        Pending(self.raft.client_write_many([Proposal { stamp_ms, command: CommandBytes(command) }]).await)
    }

    /// Adds a member that gets the log and does not vote.
    pub(crate) async fn add_learner(&self, node: NodeId, address: &str) -> Result<(), GroupError> {
        self.raft
            .add_learner(node.0, BasicNode::new(address), false)
            .await
            .map(drop)
            .map_err(|error| self.failed(&error))
    }

    /// Begins a snapshot if one is due.
    pub(crate) async fn snapshot_if_due(&self) {
        if self.gauge.is_due()
            && let Err(error) = self.raft.trigger().snapshot().await
        {
            tracing::debug!(group = %self.id, %error, "no snapshot was begun");
        }
    }

    /// Writes a snapshot of what is applied now.
    ///
    /// # Cancel safety
    /// Dropping it does not stop the writing.
    pub(crate) async fn write_snapshot(&self) -> Result<(), GroupError> {
        let index = self.replicated().applied_index();
        let mut metrics = self.raft.metrics();
        let is_done = |metrics: &RaftMetrics<TypeConfig>| {
            metrics.snapshot.is_some_and(|snapshot| snapshot.index >= index) || metrics.running_state.is_err()
        };
        while !is_done(&metrics.borrow_watched()) {
            // While another one is being written, which began earlier, this is of no effect.
            self.raft.trigger().snapshot().await.map_err(|error| self.failed(&error))?;
            let changed =
                tokio::time::timeout(Duration::from_millis(SNAPSHOT_RETRY_MS), metrics.changed()).await;
            changed.unwrap_or(Ok(())).map_err(|error| self.failed(&error))?;
        }
        match self.failure() {
            None => Ok(()),
            Some(detail) => Err(GroupError::Raft { group: self.id, detail }),
        }
    }

    /// The members as this node knows them: voters, then learners.
    pub(crate) fn members(&self) -> (Vec<NodeId>, Vec<NodeId>) {
        let receiver = self.raft.metrics();
        let metrics = receiver.borrow_watched();
        let voters = metrics.membership_config.voter_ids().map(NodeId).collect();
        (voters, metrics.membership_config.membership().learner_ids().map(NodeId).collect())
    }

    /// Whether a member's log is close enough to the leader's for it to vote; asked of the leader.
    pub(crate) fn is_caught_up(&self, node: NodeId) -> bool {
        let receiver = self.raft.metrics();
        let metrics = receiver.borrow_watched();
        let last = metrics.last_log_index.unwrap_or(0);
        let matched =
            metrics.replication.as_ref().and_then(|progress| progress.get(&node.0).copied().flatten());
        matched.is_some_and(|matched| matched.index + VOTER_LAG_ENTRIES_MAX >= last)
    }

    /// What an operator wants to know of the group.
    pub(crate) fn status(&self) -> v1::GroupStatus {
        let metrics = self.metrics();
        let replicated = self.replicated();
        let blocks = match &replicated.state {
            State::Directory(directory) => directory.block_count() as u64,
            State::Control(_) => 0,
        };
        v1::GroupStatus {
            group_id: self.id.0,
            leader: self.leader().map_or(0, |leader| leader.0),
            term: metrics.current_term,
            last_log_index: metrics.last_log_index.unwrap_or(0),
            applied_index: replicated.applied_index(),
            voters: metrics.membership_config.voter_ids().collect(),
            learners: metrics.membership_config.membership().learner_ids().collect(),
            blocks,
            stopped: self.stopped().map_or_else(String::new, |reason| reason.to_string()),
        }
    }

    /// Whether the group no longer runs on this node, and why, for people elsewhere.
    pub(crate) fn stopped(&self) -> Option<StopReason> {
        let receiver = self.raft.metrics();
        let metrics = receiver.borrow_watched();
        Some(match metrics.running_state.as_ref().err()? {
            Fatal::StorageError(_) => StopReason::Storage,
            Fatal::Panicked => StopReason::Panicked,
            Fatal::Stopped => StopReason::ShutDown,
        })
    }

    /// Why the group no longer runs on this node, if it does not: the whole cause, for the log.
    pub(crate) fn failure(&self) -> Option<String> {
        self.raft.metrics().borrow_watched().running_state.as_ref().err().map(ToString::to_string)
    }

    /// Stops the group; the log and the state stay as they are.
    pub(crate) async fn shutdown(&self) {
        if let Err(error) = self.raft.shutdown().await {
            tracing::warn!(group = %self.id, %error, "a group did not stop cleanly");
        }
    }

    #[cfg(test)]
    pub(crate) fn purged_index(&self) -> Option<u64> {
        self.metrics().purged.map(|purged| purged.index)
    }

    fn metrics(&self) -> RaftMetrics<TypeConfig> {
        self.raft.metrics().borrow_watched().clone()
    }

    pub(super) fn failed(&self, error: &dyn std::error::Error) -> GroupError {
        GroupError::Raft { group: self.id, detail: error.to_string() }
    }
}

pub(super) fn leader_of(forward: &ForwardToLeader<TypeConfig>) -> Option<(NodeId, String)> {
    let address = forward.leader_node.as_ref().map(|node| node.addr.clone()).unwrap_or_default();
    forward.leader_id.map(|leader| (NodeId(leader), address))
}

fn raft_config(id: GroupId, tuning: &Tuning) -> Result<Config, String> {
    let config = Config {
        cluster_name: format!("group-{id}"),
        heartbeat_interval: RAFT_HEARTBEAT_MS,
        election_timeout_min: RAFT_ELECTION_MS_MIN,
        election_timeout_max: RAFT_ELECTION_MS_MAX,
        install_snapshot_timeout: SNAPSHOT_SEND_MS,
        max_payload_entries: RAFT_APPEND_ENTRIES_MAX,
        snapshot_policy: SnapshotPolicy::LogsSinceLast(tuning.snapshot_every_entries),
        max_in_snapshot_log_to_keep: tuning.snapshot_keep_entries,
        replication_lag_threshold: RAFT_LAG_ENTRIES_MAX,
        enable_pre_vote: Some(true),
        // A leader that lost power may have lost entries that it had sent already, and would give their places
        // to others under the same leadership: whoever comes back has itself elected anew.
        enable_leader_restore: Some(mutant::is(Mutant::LeaderRestored)),
        ..Config::default()
    };
    config.validate().map_err(|error| error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_applied_is_as_old_as_the_last_word_that_it_has_reached() {
        let began = Instant::now();
        let said = |seconds, committed| Said { at: began + Duration::from_secs(seconds), committed };
        let mut heard = Heard::default();
        assert_eq!(heard.applied, None, "no leader was heard");
        heard.note(said(1, 10), 4);
        heard.advance(9);
        assert_eq!(heard.applied, None, "not all of it is here");
        heard.note(said(2, 20), 9);
        heard.advance(10);
        assert_eq!(heard.applied, Some(began + Duration::from_secs(1)), "what grows is reached in between");
        heard.note(said(3, 20), 15);
        heard.note(said(4, 20), 20);
        assert_eq!(heard.applied, Some(began + Duration::from_secs(3)));
    }
}
