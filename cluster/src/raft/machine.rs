//! The state machine of one group: the pure [`State`] in memory, and its snapshots.
//!
//! The state is nowhere else: after a stop it is the last snapshot and the log behind it.

use std::io;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::Instant;

use futures::{Stream, TryStreamExt};
use hearth_proto::limits::{SNAPSHOT_EVERY_BYTES, SNAPSHOT_PIECE_SLOTS};
use hearth_proto::{GroupId, v1};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend};
use prost::Message;
use tokio::task::JoinHandle;

use super::database::Database;
use super::pace::SnapshotPace;
use super::snapshot::{Reader, SnapshotFile, SnapshotFolder, Writer};
use super::types::{Entry, LogId, Proposal, Reply, SnapshotMeta, StoredMembership, TypeConfig};
use crate::mutant::{self, Mutant};
use crate::news::NewsDesk;
use crate::offload::spawn_blocking;
use crate::state::{Overtaken, RecordKey, State, Walk, command};

/// What an entry counts for besides its command, in bytes: applying even an empty one takes its time.
const ENTRY_BYTES: u64 = 128;

/// The state of a group and how much of the log it reflects; they change together.
#[derive(Debug)]
pub(crate) struct Replicated {
    pub(crate) state: State,
    pub(super) applied: Option<LogId>,
    pub(super) membership: StoredMembership,
    /// The newest command version that it came about with: an older build must not go on from it.
    needs: u32,
}

impl Replicated {
    /// The last applied entry.
    #[cfg(feature = "sim")]
    pub(crate) fn applied_id(&self) -> Option<LogId> {
        self.applied
    }

    /// The index of the last applied entry.
    pub(crate) fn applied_index(&self) -> u64 {
        self.applied.map_or(0, |applied| applied.index)
    }
}

/// One group's state machine.
#[derive(Debug)]
pub(crate) struct StateMachine {
    group: GroupId,
    replicated: Arc<RwLock<Replicated>>,
    snapshots: Arc<SnapshotFolder>,
    /// What was applied since the last snapshot was begun, in bytes of the log.
    unsaved: Arc<AtomicU64>,
    /// The replicated time, for whoever must not wait for the state.
    time_ms: Arc<AtomicU64>,
    news: Arc<NewsDesk>,
    snapshots_begun: u64,
    /// Whether entries may be missing, as openraft's own suite has it.
    skips: bool,
}

/// Says when a group is to be snapshotted.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotGauge {
    snapshots: Arc<SnapshotFolder>,
    unsaved: Arc<AtomicU64>,
}

impl SnapshotGauge {
    /// Whether as much was applied since the last snapshot as that one holds: so a start takes at most twice
    /// as long as reading a snapshot does, and writing them costs no more than the log.
    pub(crate) fn is_due(&self) -> bool {
        let saved = self.snapshots.current().map_or(0, |(_, file)| file.size_bytes);
        self.unsaved.load(Ordering::Relaxed) >= saved.max(SNAPSHOT_EVERY_BYTES)
    }
}

impl StateMachine {
    /// Loads the last snapshot; openraft applies the log behind it.
    ///
    /// # Errors
    /// `InvalidData` if the snapshot is damaged, else the disk's error.
    pub(crate) fn open(group: GroupId, database: &Database) -> io::Result<Self> {
        let snapshots = Arc::new(SnapshotFolder::open(database.snapshot_dir(), group)?);
        let replicated = match snapshots.current() {
            Some((meta, file)) => load(group, &meta, &file)?,
            None => Replicated {
                state: State::new(group),
                applied: None,
                membership: StoredMembership::default(),
                needs: 0,
            },
        };
        let time_ms = Arc::new(AtomicU64::new(replicated.state.time_ms()));
        let replicated = Arc::new(RwLock::new(replicated));
        Ok(Self {
            time_ms,
            group,
            replicated,
            snapshots,
            unsaved: Arc::default(),
            news: Arc::default(),
            snapshots_begun: 0,
            skips: false,
        })
    }

    /// Takes entries as they come, whatever is missing between them.
    #[cfg(test)]
    pub(super) fn skip_holes(mut self) -> Self {
        self.skips = true;
        self
    }

    pub(super) fn gauge(&self) -> SnapshotGauge {
        SnapshotGauge { snapshots: self.snapshots.clone(), unsaved: self.unsaved.clone() }
    }

    pub(super) fn time_ms(&self) -> Arc<AtomicU64> {
        self.time_ms.clone()
    }

    /// Where what is applied is told.
    pub(super) fn news(&self) -> Arc<NewsDesk> {
        self.news.clone()
    }

    /// The last entry that the loaded state reflects.
    pub(super) fn applied(&self) -> Option<LogId> {
        read(&self.replicated).applied
    }

    /// The state for readers.
    pub(crate) fn replicated(&self) -> Arc<RwLock<Replicated>> {
        self.replicated.clone()
    }

    /// The folder where arriving snapshots are put together.
    pub(super) fn snapshots(&self) -> Arc<SnapshotFolder> {
        self.snapshots.clone()
    }

    fn apply_entry(&self, entry: Entry) -> io::Result<Reply> {
        self.unsaved.fetch_add(ENTRY_BYTES, Ordering::Relaxed);
        let log_id = entry.log_id();
        let command = match &entry.payload {
            EntryPayload::Normal(proposal) => Some(self.read_command(proposal)?),
            EntryPayload::Blank | EntryPayload::Membership(_) => None,
        };
        let mut replicated = write(&self.replicated);
        self.check_follows(replicated.applied, log_id)?;
        if let EntryPayload::Membership(membership) = entry.payload {
            replicated.membership = StoredMembership::new(Some(log_id), membership);
        }
        let version = command.as_ref().map_or(0, |command| command.version);
        replicated.needs = replicated.needs.max(version);
        let outcome = command.as_ref().map(|command| replicated.state.apply(command)).unwrap_or_default();
        replicated.applied = Some(log_id);
        #[cfg(feature = "sim")]
        crate::sim::applied(self.group, log_id.index, command, replicated.state.time_ms(), &outcome);
        self.time_ms.store(replicated.state.time_ms(), Ordering::Relaxed);
        self.news.post(replicated.state.take_news());
        Ok(Reply(outcome))
    }

    /// A log that lacks an entry must stop the group: to go on behind it would make this replica differ from
    /// the others.
    fn check_follows(&self, applied: Option<LogId>, next: LogId) -> io::Result<()> {
        let follows = applied.is_none_or(|applied| applied.index + 1 == next.index);
        if follows || self.skips {
            return Ok(());
        }
        let (group, applied) = (self.group, applied.map_or(0, |applied| applied.index));
        let detail =
            format!("the log of group {group} has a hole: entry {} comes after {applied}", next.index);
        Err(invalid_data(detail))
    }

    fn read_command(&self, proposal: &Proposal) -> io::Result<v1::Command> {
        let bytes = &proposal.command.0;
        self.unsaved.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        let command = v1::Command::decode(bytes.clone()).map_err(invalid_data)?;
        // Skipping what a newer build applies would make this replica differ from the others (INV-WIRE).
        if command.version > command::VERSION {
            let detail = format!(
                "the log of group {} holds a command of version {}, this build knows {}",
                self.group,
                command.version,
                command::VERSION
            );
            return Err(io::Error::new(io::ErrorKind::Unsupported, detail));
        }
        let stamp_ms = match mutant::is(Mutant::FollowersClock) {
            true => crate::cluster::now_ms(),
            false => proposal.stamp_ms,
        };
        Ok(v1::Command { stamp_ms, ..command })
    }
}

impl RaftStateMachine<TypeConfig> for StateMachine {
    type SnapshotData = SnapshotFile;
    type SnapshotBuilder = SnapshotBuild;

    async fn applied_state(&mut self) -> io::Result<(Option<LogId>, StoredMembership)> {
        let replicated = read(&self.replicated);
        Ok((replicated.applied, replicated.membership.clone()))
    }

    async fn apply<Strm>(&mut self, mut entries: Strm) -> io::Result<()>
    where
        Strm: Stream<Item = io::Result<EntryResponder<TypeConfig>>> + Unpin + OptionalSend,
    {
        while let Some((entry, responder)) = entries.try_next().await? {
            let reply = self.apply_entry(entry)?;
            if let Some(responder) = responder {
                // Committed is enough: after a crash the log is applied again from the last snapshot on.
                responder.send(reply);
            }
        }
        Ok(())
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuild {
        self.unsaved.store(0, Ordering::Relaxed);
        // Entries that are applied from here on must not show in the snapshot.
        self.snapshots_begun += 1;
        let number = self.snapshots_begun;
        let (replicated, snapshots) = (self.replicated.clone(), self.snapshots.clone());
        let build = Build::begin(self.group, number, replicated, snapshots, self.unsaved.clone());
        SnapshotBuild { task: Some(spawn_blocking(move || build.write())) }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
        let (snapshots, group) = (self.snapshots.clone(), self.group);
        let meta = meta.clone();
        let install = move || {
            let _exclusive = snapshots.exclusive.lock().unwrap_or_else(PoisonError::into_inner);
            let replicated = load(group, &meta, &snapshot).inspect_err(|_| {
                std::fs::remove_file(&snapshot.path).ok();
            })?;
            snapshots.adopt(&meta, &snapshot.path)?;
            Ok::<_, io::Error>(replicated)
        };
        let installed = spawn_blocking(install).await.map_err(io::Error::other)??;
        self.time_ms.store(installed.state.time_ms(), Ordering::Relaxed);
        let replaced = std::mem::replace(&mut *write(&self.replicated), installed);
        // Millions of blocks are given back, which readers need not wait for.
        spawn_blocking(move || drop(replaced));
        self.news.replaced();
        Ok(())
    }

    async fn get_current_snapshot(
        &mut self,
    ) -> io::Result<Option<Snapshot<CommittedLeaderId, u64, Node, SnapshotFile>>> {
        Ok(self.snapshots.current().map(|(meta, snapshot)| Snapshot { meta, snapshot }))
    }
}

type CommittedLeaderId = openraft::alias::CommittedLeaderIdOf<TypeConfig>;
type Node = openraft::alias::NodeOf<TypeConfig>;

/// A snapshot whose view is fixed and whose file is being written.
#[derive(Debug)]
pub(crate) struct SnapshotBuild {
    task: Option<JoinHandle<io::Result<(SnapshotMeta, SnapshotFile)>>>,
}

impl RaftSnapshotBuilder<TypeConfig> for SnapshotBuild {
    type SnapshotData = SnapshotFile;

    async fn build_snapshot(&mut self) -> io::Result<Snapshot<CommittedLeaderId, u64, Node, SnapshotFile>> {
        let task = self.task.take().ok_or_else(|| io::Error::other("a snapshot is built once"))?;
        let (meta, snapshot) = task.await.map_err(io::Error::other)??;
        Ok(Snapshot { meta, snapshot })
    }
}

/// A snapshot of the moment at which it was begun.
struct Build {
    group: GroupId,
    replicated: Arc<RwLock<Replicated>>,
    snapshots: Arc<SnapshotFolder>,
    applied_bytes: Arc<AtomicU64>,
    meta: SnapshotMeta,
    needs: u32,
    records: Vec<(RecordKey, Vec<u8>)>,
    walk: Option<Walk>,
}

impl Build {
    fn begin(
        group: GroupId,
        number: u64,
        replicated: Arc<RwLock<Replicated>>,
        snapshots: Arc<SnapshotFolder>,
        applied_bytes: Arc<AtomicU64>,
    ) -> Self {
        let (meta, needs, (records, walk)) = {
            let mut replicated = write(&replicated);
            let last_membership = replicated.membership.clone();
            let meta = SnapshotMeta { last_log_id: replicated.applied, last_membership };
            (meta, replicated.needs, replicated.state.begin_snapshot(number))
        };
        Self { group, replicated, snapshots, applied_bytes, meta, needs, records, walk }
    }

    fn write(mut self) -> io::Result<(SnapshotMeta, SnapshotFile)> {
        let snapshots = self.snapshots.clone();
        let _exclusive = snapshots.exclusive.lock().unwrap_or_else(PoisonError::into_inner);
        let path = self.snapshots.unfinished_path("build");
        let pace = SnapshotPace::new(self.applied_bytes.clone(), Instant::now());
        let mut writer = Writer::create(&path, self.group, self.needs, &self.meta, pace)?;
        if mutant::is(Mutant::SnapshotForgets) {
            self.records.pop();
        }
        for (key, value) in std::mem::take(&mut self.records) {
            writer.record(&key.encode(), &value)?;
        }
        let key = RecordKey::Blocks.encode();
        let mut piece = Vec::new();
        while let Some(walk) = &self.walk {
            piece.clear();
            // Entries wait only as long as one piece takes.
            let written = read(&self.replicated).state.write_snapshot(walk, SNAPSHOT_PIECE_SLOTS, &mut piece);
            let more = match (written, self.snapshots.current()) {
                (Ok(more), _) => more,
                // One that arrived meanwhile has replaced the state: it is the newer one.
                (Err(Overtaken), Some(current)) => return Ok(current),
                (Err(overtaken), None) => return Err(io::Error::other(overtaken)),
            };
            if !piece.is_empty() {
                writer.record(&key, &piece)?;
            }
            if !more {
                break;
            }
        }
        writer.finish()?;
        let file = self.snapshots.adopt(&self.meta, &path)?;
        Ok((self.meta.clone(), file))
    }
}

impl Drop for Build {
    /// What was kept for the snapshot is let go of, whatever became of it.
    fn drop(&mut self) {
        if let Some(walk) = &self.walk {
            let kept = write(&self.replicated).state.end_snapshot(walk);
            // There may be a lot of it, and nobody waits any more.
            drop(kept);
        }
    }
}

fn load(group: GroupId, meta: &SnapshotMeta, snapshot: &SnapshotFile) -> io::Result<Replicated> {
    let mut reader = Reader::open(snapshot, group)?;
    let mut state = State::new(group);
    while let Some((key, value)) = reader.next_record()? {
        state.restore(&key, &value).map_err(invalid_data)?;
    }
    let (membership, needs) = (meta.last_membership.clone(), reader.needs);
    Ok(Replicated { state, applied: meta.last_log_id, membership, needs })
}

/// A poisoned lock is taken over: the panic that poisoned it has already stopped the group.
pub(super) fn read(replicated: &RwLock<Replicated>) -> RwLockReadGuard<'_, Replicated> {
    replicated.read().unwrap_or_else(PoisonError::into_inner)
}

fn write(replicated: &RwLock<Replicated>) -> RwLockWriteGuard<'_, Replicated> {
    replicated.write().unwrap_or_else(PoisonError::into_inner)
}

fn invalid_data(error: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}
