//! Real files with flipped bytes and cut ends: what was promised is read back, or nothing is.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use hearth_proto::{ClusterId, GroupId, NodeId};
use openraft::storage::{RaftLogReader, RaftLogStorage, RaftLogStorageExt};
use openraft::testing::{blank_ent, log_id};
use rocksdb::{DB, DBRecoveryMode, Options};
use tempfile::TempDir;

use super::database::{Database, Identity};
use super::group::Group;
use super::log_store::LogStore;
use super::types::{Entry, TypeConfig, Vote};

const IDENTITY: Identity = Identity { node: NodeId(1), cluster: ClusterId([7; 16]), directory_groups: 1 };
const GROUP: GroupId = GroupId::DIRECTORY;

/// What a group promised: its vote and its entries.
type Promised = (Option<Vote>, Vec<Entry>);

fn log_store(dir: &Path) -> Result<LogStore, String> {
    let database = Database::open(dir, IDENTITY).map_err(|error| error.to_string())?;
    let database = Arc::new(database);
    let sync = Group::sync(&database).map_err(|error| error.to_string())?;
    Ok(LogStore::new(GROUP, database, sync))
}

/// Votes and appends in turn, every one synced.
async fn promise(log: &mut LogStore, terms: std::ops::Range<u64>) {
    for term in terms {
        log.save_vote(&Vote::new_committed(term, 1)).await.unwrap();
        log.blocking_append((term * 2..term * 2 + 2).map(|index| blank_ent::<TypeConfig>(term, 1, index)))
            .await
            .unwrap();
    }
}

/// What a folder gives after a crash, or why it gives nothing.
async fn read_back(dir: &Path) -> Result<Promised, String> {
    let mut log = log_store(dir)?;
    log.check(None).map_err(|error| error.to_string())?;
    let vote = log.read_vote().await.map_err(|error| error.to_string())?;
    let entries = log.try_get_log_entries(..).await.map_err(|error| error.to_string())?;
    Ok((vote, entries))
}

fn copy(dir: &Path) -> TempDir {
    let image = tempfile::tempdir().unwrap();
    crate::tests::copy_dir(dir, image.path());
    image
}

/// The folder of a node that crashed: with `flushed`, half of what it promised is in sorted files.
async fn crashed(flushed: bool) -> TempDir {
    let dir = tempfile::tempdir().unwrap();
    let mut log = log_store(dir.path()).unwrap();
    promise(&mut log, 1..9).await;
    if flushed {
        log.flush();
        promise(&mut log, 9..12).await;
    }
    copy(dir.path())
}

fn files(dir: &Path, wanted: impl Fn(&str) -> bool) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(dir.join("rocksdb")).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> =
        entries.filter(|path| wanted(path.file_name().unwrap().to_str().unwrap())).collect();
    found.sort();
    assert!(!found.is_empty());
    found
}

fn is_log_file(name: &str) -> bool {
    name.ends_with(".log") || name.starts_with("MANIFEST-")
}

/// Flips bits of a file in a copy of `dir`, `step` bytes apart, and gives each copy's answer.
async fn flip(dir: &Path, file: &Path, step: usize, mut judge: impl FnMut(usize, Result<Promised, String>)) {
    let good = std::fs::read(file).unwrap();
    for at in (0..good.len()).step_by(step) {
        let image = copy(dir);
        let mut bad = good.clone();
        bad[at] ^= 1 << (at % 8);
        std::fs::write(image.path().join(file.strip_prefix(dir).unwrap()), bad).unwrap();
        judge(at, read_back(image.path()).await);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_anywhere_in_a_log_of_the_database_is_refused() {
    for flushed in [false, true] {
        let dir = crashed(flushed).await;
        let promised = read_back(copy(dir.path()).path()).await.unwrap();
        let last = if flushed { 11 } else { 8 };
        assert_eq!(promised.0, Some(Vote::new_committed(last, 1)));
        for file in files(dir.path(), is_log_file) {
            flip(dir.path(), &file, 1, |at, read| {
                let refused = read.expect_err("an answer from a damaged file");
                assert!(refused.contains("damaged"), "byte {at} of {file:?}: {refused}");
            })
            .await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flipped_byte_in_a_sorted_file_is_refused_or_changes_nothing() {
    let dir = crashed(true).await;
    let promised = read_back(copy(dir.path()).path()).await.unwrap();
    let mut refused = 0;
    for file in files(dir.path(), |name| name.ends_with(".sst") || name == "CURRENT") {
        flip(dir.path(), &file, 7, |at, read| match read {
            Ok(read) => assert_eq!(read, promised, "byte {at} of {file:?}: an older vote or log"),
            Err(_) => refused += 1,
        })
        .await;
    }
    assert!(refused > 50, "{refused}: the checksums of the sorted files are not looked at");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_torn_end_is_dropped_and_what_was_before_it_stays() {
    let dir = crashed(false).await;
    let (vote, mut entries) = read_back(copy(dir.path()).path()).await.unwrap();
    let log = files(dir.path(), |name| name.ends_with(".log")).pop().unwrap();
    let size = std::fs::metadata(&log).unwrap().len();
    // The last write was of two entries; it comes back whole or not at all.
    entries.truncate(entries.len() - 2);
    for cut in 1..60 {
        let image = copy(dir.path());
        let log = image.path().join(log.strip_prefix(dir.path()).unwrap());
        std::fs::File::options().write(true).open(&log).unwrap().set_len(size - cut).unwrap();
        let read = read_back(image.path()).await.unwrap();
        assert_eq!(read, (vote, entries.clone()), "{cut} bytes were cut off");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_that_is_longer_than_what_was_written_of_it_is_read() {
    let dir = crashed(false).await;
    let promised = read_back(copy(dir.path()).path()).await.unwrap();
    for zeros in [16, 4_096, 100_000] {
        for file in files(dir.path(), is_log_file) {
            let image = copy(dir.path());
            let file = image.path().join(file.strip_prefix(dir.path()).unwrap());
            let size = std::fs::metadata(&file).unwrap().len();
            std::fs::File::options().write(true).open(&file).unwrap().set_len(size + zeros).unwrap();
            assert_eq!(read_back(image.path()).await.unwrap(), promised, "{zeros} zeros behind {file:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn rocksdb_alone_takes_a_wrong_length_for_a_torn_end() {
    // If this fails RocksDB finds it by itself by now, and `wal_check` has nothing left to do.
    let dir = crashed(false).await;
    let promised = read_back(copy(dir.path()).path()).await.unwrap();
    let log = files(dir.path(), |name| name.ends_with(".log")).pop().unwrap();
    let mut bytes = std::fs::read(&log).unwrap();
    let first = usize::from(u16::from_le_bytes([bytes[4], bytes[5]])) + 7;
    bytes[first + 5] ^= 0x40;
    std::fs::write(&log, bytes).unwrap();
    assert!(read_back(copy(dir.path()).path()).await.unwrap_err().contains("damaged"));
    let mut options = Options::default();
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    drop(DB::open_cf(&options, dir.path().join("rocksdb"), ["log", "vote"]).unwrap());
    let forgotten = read_back(dir.path()).await;
    assert!(forgotten.is_ok_and(|(vote, _)| vote < promised.0), "it has the vote after all");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_log_whose_snapshot_is_gone_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let mut log = log_store(dir.path()).unwrap();
    promise(&mut log, 1..9).await;
    log.purge(log_id::<TypeConfig>(4, 1, 9)).await.unwrap();
    let error = log.check(Some(log_id::<TypeConfig>(4, 1, 8))).unwrap_err();
    assert_eq!(error.kind(), std::io::ErrorKind::InvalidData);
    assert!(error.to_string().contains("is gone"), "{error}");
    log.check(Some(log_id::<TypeConfig>(4, 1, 9))).unwrap();
}
