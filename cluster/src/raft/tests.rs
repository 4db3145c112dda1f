//! openraft's own suite on the log store and the state machine, and what it does not cover.

use std::sync::Arc;
use std::time::Instant;

use hearth_proto::v1::command::Body;
use hearth_proto::{BlockDelta, BlockId, BlockKey, ClusterId, GroupId, NamespaceId, NodeId, Tier, v1};
use openraft::entry::RaftEntry;
use openraft::storage::{
    RaftLogReader, RaftLogStorage, RaftLogStorageExt, RaftSnapshotBuilder, RaftStateMachine,
};
use openraft::testing::log::{StoreBuilder, Suite};
use openraft::testing::{blank_ent, log_id};
use openraft::{EntryPayload, StorageError};
use prost::Message;
use tempfile::TempDir;

use super::database::{Database, Identity};
use super::group::Group;
use super::log_store::LogStore;
use super::machine::StateMachine;
use super::pace::SnapshotPace;
use super::types::{CommandBytes, Entry, Proposal, TypeConfig};
use crate::state::deltas::{DELTA_BYTES, pack_deltas};
use crate::state::{State, command};

const IDENTITY: Identity = Identity { node: NodeId(1), cluster: ClusterId([7; 16]), directory_groups: 1 };

struct Builder(GroupId);

impl StoreBuilder<TypeConfig, LogStore, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Result<(TempDir, LogStore, StateMachine), StorageError<TypeConfig>> {
        let dir = tempfile::tempdir().unwrap();
        let (log, machine) = open(&dir, self.0);
        Ok((dir, log, machine.skip_holes()))
    }
}

fn open(dir: &TempDir, group: GroupId) -> (LogStore, StateMachine) {
    let database = Arc::new(Database::open(dir.path(), IDENTITY).unwrap());
    let sync = Group::sync(&database).unwrap();
    (LogStore::new(group, database.clone(), sync), StateMachine::open(group, &database).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_suite_passes_on_the_control_group() {
    Suite::test_all(Builder(GroupId::CONTROL)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn openraft_suite_passes_on_a_directory_group() {
    Suite::test_all(Builder(GroupId::DIRECTORY)).await.unwrap();
}

fn report(index: u64, sequence: u64, blocks: std::ops::Range<u32>) -> Entry {
    let deltas: Vec<BlockDelta> = blocks
        .map(|number| {
            let mut key = [0; 32];
            key[..4].copy_from_slice(&number.to_le_bytes());
            BlockDelta {
                id: BlockId { namespace: NamespaceId(0), key: BlockKey(key) },
                tier: Tier::Nvme,
                added: true,
                payload_len: 4_096,
            }
        })
        .collect();
    let command = command::new(Body::BlockReport(v1::BlockReport {
        node_id: 1,
        incarnation: 1,
        sequence,
        reset: sequence == 1,
        deltas: pack_deltas(deltas.iter().copied()),
        ..Default::default()
    }));
    let payload = EntryPayload::Normal(proposal(&command));
    Entry::new(log_id::<TypeConfig>(1, 1, index), payload)
}

fn proposal(command: &v1::Command) -> Proposal {
    Proposal { stamp_ms: 1, command: CommandBytes(command.encode_to_vec().into()) }
}

fn records(machine: &StateMachine) -> Vec<(Vec<u8>, Vec<u8>)> {
    machine.replicated().read().unwrap().state.encode()
}

async fn apply(machine: &mut StateMachine, entries: Vec<Entry>) {
    let entries = entries.into_iter().map(|entry| Ok((entry, None)));
    machine.apply(futures::stream::iter(entries)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn groups_in_one_database_do_not_see_each_other() {
    let dir = tempfile::tempdir().unwrap();
    let database = Arc::new(Database::open(dir.path(), IDENTITY).unwrap());
    let sync = Group::sync(&database).unwrap();
    let mut logs = [0, 1, 2].map(|group| LogStore::new(GroupId(group), database.clone(), sync.clone()));
    let [a, b, c] = &mut logs;
    let entries = |range: std::ops::Range<u64>| range.map(|index| blank_ent::<TypeConfig>(1, 1, index));
    let (left, right) = futures::join!(
        a.blocking_append(entries(0..10)),
        b.blocking_append(entries(0..4).collect::<Vec<_>>())
    );
    left.unwrap();
    right.unwrap();
    a.purge(log_id::<TypeConfig>(1, 1, 3)).await.unwrap();
    b.truncate_after(Some(log_id::<TypeConfig>(1, 1, 1))).await.unwrap();
    let indexes = async |log: &mut LogStore| -> Vec<u64> {
        log.try_get_log_entries(..).await.unwrap().iter().map(|entry| entry.log_id().index).collect()
    };
    assert_eq!(indexes(a).await, [4, 5, 6, 7, 8, 9]);
    assert_eq!(indexes(b).await, [0, 1]);
    assert_eq!(indexes(c).await, [0; 0]);
    assert_eq!(c.get_log_state().await.unwrap().last_log_id, None);
    assert_eq!(b.get_log_state().await.unwrap().last_log_id, Some(log_id::<TypeConfig>(1, 1, 1)));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_entry_that_does_not_follow_is_not_applied() {
    let dir = tempfile::tempdir().unwrap();
    let (_log, mut machine) = open(&dir, GroupId::DIRECTORY);
    apply(&mut machine, vec![report(1, 1, 0..5)]).await;
    let before = records(&machine);
    for wrong in [3, 1] {
        let entry = report(wrong, 2, 5..9);
        let error = machine.apply(futures::stream::iter([Ok((entry, None))])).await.unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
        assert_eq!(records(&machine), before);
    }
    apply(&mut machine, vec![report(2, 2, 5..9)]).await;
    assert_ne!(records(&machine), before);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hole_in_the_log_is_an_error() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _machine) = open(&dir, GroupId::CONTROL);
    let holed = [1, 2, 4].map(|index| blank_ent::<TypeConfig>(1, 1, index));
    log.blocking_append(holed).await.unwrap();
    let error = log.try_get_log_entries(1..5).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
    // Those after it must not be sent as if they followed what is before it.
    let error = log.limited_get_log_entries(3, 5).await.unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData, "{error}");
    assert_eq!(log.limited_get_log_entries(4, 5).await.unwrap().len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_left_of_a_log_is_given_so_that_it_shows_what_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _machine) = open(&dir, GroupId::DIRECTORY);
    log.blocking_append((0..10).map(|index| blank_ent::<TypeConfig>(1, 1, index))).await.unwrap();
    log.purge(log_id::<TypeConfig>(1, 1, 5)).await.unwrap();
    for (start, end, first) in
        [(3, 10, Some(6)), (1, 4, Some(6)), (6, 10, Some(6)), (3, 3, None), (10, 12, None)]
    {
        let read = log.limited_get_log_entries(start, end).await.unwrap();
        assert_eq!(read.first().map(|entry| entry.log_id().index), first, "{start}..{end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_read_for_replication_is_bounded_in_bytes_and_never_empty() {
    let dir = tempfile::tempdir().unwrap();
    let (mut log, _machine) = open(&dir, GroupId::DIRECTORY);
    let large = (1..=40).map(|index| report(index, index, 0..8_192)).collect::<Vec<_>>();
    log.blocking_append(large).await.unwrap();
    let read = log.limited_get_log_entries(1, 41).await.unwrap();
    let bytes = read.len() * 8_192 * DELTA_BYTES;
    let limit = hearth_proto::limits::RAFT_APPEND_BYTES_MAX;
    assert!(!read.is_empty() && read.len() < 40 && bytes < limit * 2, "{} entries", read.len());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_applied_before_a_stop_is_loaded_again() {
    let dir = tempfile::tempdir().unwrap();
    let (_log, mut machine) = open(&dir, GroupId::DIRECTORY);
    apply(&mut machine, vec![report(1, 1, 0..600), report(2, 2, 600..700)]).await;
    let before = records(&machine);
    let applied = machine.applied_state().await.unwrap();
    assert_eq!(before.len(), 701);
    machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    // The log may be purged from here on, so a crash must leave the records behind (INV-ACK).
    let (_log, mut machine) = open(&crash_image(&dir), GroupId::DIRECTORY);
    assert_eq!(records(&machine), before);
    assert_eq!(machine.applied_state().await.unwrap(), applied);
}

/// The folder as a power cut would leave it: what was written to files, and nothing that is written when
/// a database is closed.
fn crash_image(dir: &TempDir) -> TempDir {
    let image = tempfile::tempdir().unwrap();
    crate::tests::copy_dir(dir.path(), image.path());
    image
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_of_the_moment_it_was_asked_for_and_installs_elsewhere() {
    let dir = tempfile::tempdir().unwrap();
    let (_log, mut machine) = open(&dir, GroupId::DIRECTORY);
    apply(&mut machine, vec![report(1, 1, 0..5_000)]).await;
    let at_snapshot = records(&machine);
    let mut builder = machine.get_snapshot_builder().await;
    apply(&mut machine, vec![report(2, 2, 5_000..9_000)]).await;
    let snapshot = builder.build_snapshot().await.unwrap();
    assert_eq!(snapshot.meta.last_log_id, Some(log_id::<TypeConfig>(1, 1, 1)));

    let other_dir = tempfile::tempdir().unwrap();
    let (_log, mut other) = open(&other_dir, GroupId::DIRECTORY);
    apply(&mut other, vec![report(1, 1, 70_000..70_100)]).await;
    other.install_snapshot(&snapshot.meta, arrived(&other, &snapshot.snapshot.path)).await.unwrap();
    assert_eq!(records(&other), at_snapshot);
    let (_log, mut other) = open(&crash_image(&other_dir), GroupId::DIRECTORY);
    assert_eq!(records(&other), at_snapshot);
    let current = other.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta, snapshot.meta);
}

fn arrived(machine: &StateMachine, from: &std::path::Path) -> super::snapshot::SnapshotFile {
    let to = machine.snapshots().unfinished_path("arrival");
    std::fs::copy(from, &to).unwrap();
    super::snapshot::SnapshotFile::open(to).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_snapshot_is_refused_and_changes_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (_log, mut machine) = open(&dir, GroupId::DIRECTORY);
    apply(&mut machine, vec![report(1, 1, 0..50)]).await;
    let before = records(&machine);
    let snapshot = machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    let good = std::fs::read(&snapshot.snapshot.path).unwrap();
    let path = machine.snapshots().unfinished_path("arrival");
    let step = good.len() / 97;
    let flipped = (0..good.len()).step_by(step).map(|at| {
        let mut bad = good.clone();
        bad[at] ^= 0x40;
        bad
    });
    let cut = [0, 1, 11, good.len() / 2, good.len() - 1].map(|size| good[..size].to_vec());
    for bad in flipped.chain(cut) {
        std::fs::write(&path, &bad).unwrap();
        let arrived = super::snapshot::SnapshotFile::open(path.clone()).unwrap();
        machine.install_snapshot(&snapshot.meta, arrived).await.unwrap_err();
        assert_eq!(records(&machine), before);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_committed_command_of_the_future_stops_the_machine() {
    let dir = tempfile::tempdir().unwrap();
    let (_log, mut machine) = open(&dir, GroupId::DIRECTORY);
    let future = v1::Command { version: command::VERSION + 1, ..Default::default() };
    let payload = EntryPayload::Normal(proposal(&future));
    let entry = Entry::new(log_id::<TypeConfig>(1, 1, 1), payload);
    let error = machine.apply(futures::stream::iter([Ok((entry, None))])).await.unwrap_err();
    assert!(error.to_string().contains("version 4, this build knows 3"), "{error}");
    assert!(matches!(&machine.replicated().read().unwrap().state, State::Directory(_)));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_that_a_newer_build_made_is_refused_and_kept() {
    use super::snapshot::{SnapshotFile, Writer, verify};

    let dir = tempfile::tempdir().unwrap();
    let (_log, mut machine) = open(&dir, GroupId::DIRECTORY);
    apply(&mut machine, vec![report(1, 1, 0..5)]).await;
    let ours = machine.get_snapshot_builder().await.build_snapshot().await.unwrap();
    verify(&ours.snapshot, GroupId::DIRECTORY).unwrap();
    let path = ours.snapshot.path.clone();
    let pace = SnapshotPace::new(Arc::default(), Instant::now());
    let writer = Writer::create(&path, GroupId::DIRECTORY, command::VERSION + 1, &ours.meta, pace).unwrap();
    writer.finish().unwrap();
    let refused = verify(&SnapshotFile::open(path.clone()).unwrap(), GroupId::DIRECTORY).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::Unsupported);
    assert!(refused.to_string().contains("needs command version 4, this build knows 3"), "{refused}");
    let image = crash_image(&dir);
    let database = Database::open(image.path(), IDENTITY).unwrap();
    let refused = StateMachine::open(GroupId::DIRECTORY, &database).unwrap_err();
    assert_eq!(refused.kind(), std::io::ErrorKind::Unsupported);
    assert!(path.exists());
}
