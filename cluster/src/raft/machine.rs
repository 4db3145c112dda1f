//! The state machine of one group: the pure [`State`] in memory, its records in the `state` column
//! family, and its snapshots.

use std::io;
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use futures::{Stream, TryStreamExt};
use hearth_proto::{GroupId, v1};
use openraft::entry::RaftEntry;
use openraft::storage::{EntryResponder, RaftSnapshotBuilder, RaftStateMachine, Snapshot};
use openraft::{EntryPayload, OptionalSend};
use prost::Message;
use rocksdb::{ReadOptions, WriteBatch};
use tokio::task::JoinHandle;

use super::database::{Database, group_key};
use super::log_store::{decode, encode};
use super::snapshot::{Reader, SnapshotFile, SnapshotFolder, Writer};
use super::types::{Entry, LogId, Proposal, Reply, SnapshotMeta, StoredMembership, TypeConfig};
use crate::offload::spawn_blocking;
use crate::state::{RecordKey, State, command};

/// Follows the group's prefix in the key of the record that says how far the log was applied. The
/// keys of [`RecordKey`] never begin with it.
const APPLIED: u8 = 0;
/// Touched records that are written in one batch.
const BATCH_RECORDS_MAX: usize = 16_384;
/// Batches above this are written off the async threads.
const INLINE_RECORDS_MAX: usize = 256;

/// The state of a group and how much of the log it reflects; they change together.
#[derive(Debug)]
pub(crate) struct Replicated {
    pub(crate) state: State,
    pub(super) applied: Option<LogId>,
    pub(super) membership: StoredMembership,
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
    database: Arc<Database>,
    replicated: Arc<RwLock<Replicated>>,
    snapshots: Arc<SnapshotFolder>,
}

impl StateMachine {
    /// Loads what was applied before the last stop; openraft applies the rest of the log after it.
    ///
    /// # Errors
    /// `InvalidData` if a stored record is damaged, else the disk's error.
    pub(crate) fn open(group: GroupId, database: Arc<Database>) -> io::Result<Self> {
        let mut replicated =
            Replicated { state: State::new(group), applied: None, membership: StoredMembership::default() };
        if !database.is_simulated() {
            for_each_record(&database, group, None, |key, value| {
                if key == [APPLIED] {
                    (replicated.applied, replicated.membership) = decode(value)?;
                    Ok(())
                } else {
                    replicated.state.restore(key, value).map_err(invalid_data)
                }
            })?;
        }
        let snapshots = Arc::new(SnapshotFolder::open(database.snapshot_dir(), group)?);
        Ok(Self { group, database, replicated: Arc::new(RwLock::new(replicated)), snapshots })
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
        let log_id = entry.log_id();
        let mut replicated = write(&self.replicated);
        let outcome = match entry.payload {
            EntryPayload::Blank => v1::Outcome::default(),
            EntryPayload::Normal(Proposal(bytes)) => {
                let command = v1::Command::decode(bytes).map_err(invalid_data)?;
                // Skipping what a newer build applies would make this replica differ from the others (INV-WIRE).
                if command.version > command::VERSION {
                    let version = command.version;
                    let detail = format!(
                        "the log of group {} holds a command of version {version}, this build knows {}",
                        self.group,
                        command::VERSION
                    );
                    return Err(io::Error::new(io::ErrorKind::Unsupported, detail));
                }
                replicated.state.apply(&command)
            }
            EntryPayload::Membership(membership) => {
                replicated.membership = StoredMembership::new(Some(log_id), membership);
                v1::Outcome::default()
            }
        };
        replicated.applied = Some(log_id);
        Ok(Reply(outcome))
    }

    /// Writes touched records and the applied log id in one batch, so that a crash keeps both or neither.
    async fn persist(&self, touched: Vec<RecordKey>) -> io::Result<()> {
        if self.database.is_simulated() {
            return Ok(());
        }
        let write_batch = {
            let database = self.database.clone();
            let replicated = self.replicated.clone();
            let group = self.group;
            let inline = touched.len() <= INLINE_RECORDS_MAX;
            let work = move || {
                // Only this state machine writes, so what it reads here is what it applied.
                let batch = record_batch(&database, group, &read(&replicated), &touched)?;
                database.db().write_without_wal(batch).map_err(io::Error::other)
            };
            if inline {
                return work();
            }
            work
        };
        spawn_blocking(write_batch).await.map_err(io::Error::other)?
    }

    fn take_touched(&self, into: &mut Vec<RecordKey>) {
        into.extend(write(&self.replicated).state.take_touched());
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
        let mut touched = Vec::new();
        while let Some((entry, responder)) = entries.try_next().await? {
            let reply = self.apply_entry(entry)?;
            self.take_touched(&mut touched);
            if let Some(responder) = responder {
                // Committed is enough: after a crash the log is applied again from where the records end.
                responder.send(reply);
            }
            if touched.len() >= BATCH_RECORDS_MAX {
                self.persist(std::mem::take(&mut touched)).await?;
            }
        }
        self.persist(touched).await
    }

    async fn get_snapshot_builder(&mut self) -> SnapshotBuild {
        let (database, snapshots, group) = (self.database.clone(), self.snapshots.clone(), self.group);
        #[cfg(feature = "sim")]
        if database.is_simulated() {
            let (meta, records) = {
                let replicated = read(&self.replicated);
                let (last_log_id, last_membership) = (replicated.applied, replicated.membership.clone());
                (SnapshotMeta { last_log_id, last_membership }, replicated.state.encode())
            };
            let write = move || write_snapshot(&snapshots, group, meta, &records);
            return SnapshotBuild { task: Some(spawn_blocking(write)) };
        }
        let (taken, view_taken) = tokio::sync::oneshot::channel();
        let build = move || {
            build(&database, &snapshots, group, || {
                taken.send(()).ok();
            })
        };
        let task = spawn_blocking(build);
        // Entries that are applied from here on must not show in the snapshot. If the task fails before
        // it has its view, the failure comes out of `build_snapshot`.
        view_taken.await.ok();
        SnapshotBuild { task: Some(task) }
    }

    async fn install_snapshot(&mut self, meta: &SnapshotMeta, snapshot: SnapshotFile) -> io::Result<()> {
        let (database, snapshots, group) = (self.database.clone(), self.snapshots.clone(), self.group);
        let meta = meta.clone();
        let install = move || install(&database, &snapshots, group, &meta, &snapshot);
        let installed = spawn_blocking(install).await.map_err(io::Error::other)??;
        *write(&self.replicated) = installed;
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

#[cfg(feature = "sim")]
fn write_snapshot(
    snapshots: &SnapshotFolder,
    group: GroupId,
    meta: SnapshotMeta,
    records: &[(Vec<u8>, Vec<u8>)],
) -> io::Result<(SnapshotMeta, SnapshotFile)> {
    let path = snapshots.unfinished_path("build");
    let mut writer = Writer::create(&path, group, &meta)?;
    records.iter().try_for_each(|(key, value)| writer.record(key, value))?;
    writer.finish()?;
    let file = snapshots.adopt(&meta, &path)?;
    Ok((meta, file))
}

fn build(
    database: &Database,
    snapshots: &SnapshotFolder,
    group: GroupId,
    view_taken: impl FnOnce(),
) -> io::Result<(SnapshotMeta, SnapshotFile)> {
    let view = database.db().snapshot();
    view_taken();
    let _exclusive = snapshots.exclusive.lock().unwrap_or_else(PoisonError::into_inner);
    // openraft purges the log up to this snapshot, so the records must be on disk by themselves.
    database.db().flush_cf(database.state()).map_err(io::Error::other)?;
    let mut applied_key = group_key(group).to_vec();
    applied_key.push(APPLIED);
    let meta = match view.get_cf(database.state(), applied_key).map_err(io::Error::other)? {
        Some(bytes) => {
            let (last_log_id, last_membership): (Option<LogId>, StoredMembership) = decode(&bytes)?;
            SnapshotMeta { last_log_id, last_membership }
        }
        None => SnapshotMeta::default(),
    };
    let path = snapshots.unfinished_path("build");
    let mut writer = Writer::create(&path, group, &meta)?;
    for_each_record(database, group, Some(&view), |key, value| {
        if key == [APPLIED] { Ok(()) } else { writer.record(key, value) }
    })?;
    writer.finish()?;
    let file = snapshots.adopt(&meta, &path)?;
    Ok((meta, file))
}

fn install(
    database: &Database,
    snapshots: &SnapshotFolder,
    group: GroupId,
    meta: &SnapshotMeta,
    snapshot: &SnapshotFile,
) -> io::Result<Replicated> {
    let _exclusive = snapshots.exclusive.lock().unwrap_or_else(PoisonError::into_inner);
    let mut reader = Reader::open(snapshot, group)?;
    let mut state = State::new(group);
    let mut batch = WriteBatch::default();
    let from = group_key(group);
    let to = group_key(GroupId(group.0 + 1));
    if database.is_simulated() {
        while let Some((key, value)) = reader.next_record()? {
            state.restore(&key, &value).map_err(invalid_data)?;
        }
        snapshots.adopt(meta, &snapshot.path)?;
        return Ok(Replicated { state, applied: meta.last_log_id, membership: meta.last_membership.clone() });
    }
    batch.delete_range_cf(database.state(), from, to);
    while let Some((key, value)) = reader.next_record()? {
        state.restore(&key, &value).map_err(invalid_data)?;
        batch.put_cf(database.state(), [&from[..], &key].concat(), value);
    }
    let replicated =
        Replicated { state, applied: meta.last_log_id, membership: meta.last_membership.clone() };
    put_applied(&mut batch, database, group, &replicated)?;
    // One batch, then a flush: the log below is purged after this, and nothing else holds the state.
    database.db().write_without_wal(batch).map_err(io::Error::other)?;
    database.db().flush_cf(database.state()).map_err(io::Error::other)?;
    snapshots.adopt(meta, &snapshot.path)?;
    Ok(replicated)
}

fn record_batch(
    database: &Database,
    group: GroupId,
    replicated: &Replicated,
    touched: &[RecordKey],
) -> io::Result<WriteBatch> {
    let mut batch = WriteBatch::default();
    let family = database.state();
    let (mut key, mut value) = (Vec::with_capacity(64), Vec::with_capacity(64));
    for record in touched {
        key.clear();
        value.clear();
        key.extend_from_slice(&group_key(group));
        record.encode_to(&mut key);
        if replicated.state.read_record(record, &mut value) {
            batch.put_cf(family, &key, &value);
        } else {
            batch.delete_cf(family, &key);
        }
    }
    put_applied(&mut batch, database, group, replicated)?;
    Ok(batch)
}

fn put_applied(
    batch: &mut WriteBatch,
    database: &Database,
    group: GroupId,
    replicated: &Replicated,
) -> io::Result<()> {
    let mut key = group_key(group).to_vec();
    key.push(APPLIED);
    batch.put_cf(database.state(), key, encode(&(&replicated.applied, &replicated.membership))?);
    Ok(())
}

/// Walks the group's records in key order, without the group's prefix, as of `view` if one is given.
fn for_each_record(
    database: &Database,
    group: GroupId,
    view: Option<&rocksdb::Snapshot<'_>>,
    mut visit: impl FnMut(&[u8], &[u8]) -> io::Result<()>,
) -> io::Result<()> {
    let mut options = ReadOptions::default();
    options.set_iterate_upper_bound(group_key(GroupId(group.0 + 1)).to_vec());
    if let Some(view) = view {
        options.set_snapshot(view);
    }
    let mut iterator = database.db().raw_iterator_cf_opt(database.state(), options);
    let prefix = group_key(group);
    iterator.seek(prefix);
    while let Some((key, value)) = iterator.item() {
        let key = key.strip_prefix(&prefix[..]).ok_or_else(|| invalid_data("a record outside its group"))?;
        visit(key, value)?;
        iterator.next();
    }
    iterator.status().map_err(io::Error::other)
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
