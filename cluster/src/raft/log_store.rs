//! The Raft log, vote and pointers of one group, in the shared database.

use std::collections::VecDeque;
use std::fmt::Debug;
use std::io;
use std::ops::{Bound, RangeBounds};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use hearth_proto::GroupId;
use hearth_proto::limits::{RAFT_APPEND_BYTES_MAX, RAFT_RECENT_BYTES_MAX};
use openraft::entry::RaftEntry;
use openraft::storage::{IOFlushed, LogState, RaftLogReader, RaftLogStorage};
use openraft::{EntryPayload, OptionalSend};
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::database::{Database, group_key};
use super::log_family::LogBatch;
use super::types::{Entry, LogId, TypeConfig, Vote};
use super::wal_sync::WalSync;
use crate::mutant::{self, Mutant};

const VOTE: u8 = b'V';
const COMMITTED: u8 = b'C';
const PURGED: u8 = b'P';
/// What an entry of the log takes in memory besides its command, about.
const RECENT_ENTRY_BYTES: usize = 128;
/// What it takes in a batch besides, at the most: key, lengths and what names the column family.
const BATCH_ENTRY_BYTES: usize = 64;

/// One group's log. Clones read and write the same log.
#[derive(Clone, Debug)]
pub(crate) struct LogStore {
    group: GroupId,
    database: Arc<Database>,
    sync: WalSync,
    recent: Arc<Mutex<Recent>>,
}

/// The last entries of the log, as they were appended: replication and the state machine want nearly always
/// these, and need not read and decode them.
#[derive(Debug, Default)]
struct Recent {
    /// Without a gap, and up to the end of the log.
    entries: VecDeque<Entry>,
    bytes: usize,
}

impl Recent {
    fn append(&mut self, entry: Entry) {
        let index = entry.log_id().index;
        if self.entries.back().is_some_and(|last| last.log_id().index + 1 != index) {
            self.clear();
        }
        self.bytes += cost(&entry);
        self.entries.push_back(entry);
        while self.bytes > RAFT_RECENT_BYTES_MAX
            && let Some(oldest) = self.entries.pop_front()
        {
            self.bytes -= cost(&oldest);
        }
    }

    fn purge(&mut self, index: u64) {
        while self.entries.front().is_some_and(|first| first.log_id().index <= index)
            && let Some(oldest) = self.entries.pop_front()
        {
            self.bytes -= cost(&oldest);
        }
    }

    fn clear(&mut self) {
        *self = Self::default();
    }

    /// Entries from `start` up to `end`, exclusive, until there are so many bytes. `None` if the first of
    /// them is not here.
    fn read(&self, start: u64, end: u64, bytes_max: usize) -> Option<Vec<Entry>> {
        let first = self.entries.front()?.log_id().index;
        let from =
            usize::try_from(start.checked_sub(first)?).ok().filter(|from| *from < self.entries.len())?;
        let mut bytes = 0;
        let mut read = Vec::new();
        for entry in self.entries.range(from..).take_while(|entry| entry.log_id().index < end) {
            bytes += cost(entry);
            read.push(entry.clone());
            if bytes >= bytes_max {
                break;
            }
        }
        Some(read)
    }
}

/// Memory that an entry takes, about.
fn cost(entry: &Entry) -> usize {
    let command = match &entry.payload {
        EntryPayload::Normal(proposal) => proposal.command.0.len(),
        EntryPayload::Blank | EntryPayload::Membership(_) => 0,
    };
    command + RECENT_ENTRY_BYTES
}

impl LogStore {
    pub(crate) fn new(group: GroupId, database: Arc<Database>, sync: WalSync) -> Self {
        Self { group, database, sync, recent: Arc::default() }
    }

    fn remember(&self, entries: Vec<Entry>) {
        let mut recent = self.recent();
        entries.into_iter().for_each(|entry| recent.append(entry));
    }

    fn recent(&self) -> MutexGuard<'_, Recent> {
        self.recent.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn entry_key(&self, index: u64) -> [u8; 12] {
        log_key(self.group, index)
    }

    fn pointer_key(&self, name: u8) -> [u8; 5] {
        let mut key = [0; 5];
        key[..4].copy_from_slice(&group_key(self.group));
        key[4] = name;
        key
    }

    fn read_pointer<T: DeserializeOwned>(&self, name: u8) -> io::Result<Option<T>> {
        self.database.vote_value(&self.pointer_key(name))?.map(|bytes| decode(&bytes)).transpose()
    }

    fn write_pointer<T: Serialize>(&self, batch: &mut LogBatch<'_>, name: u8, value: &T) -> io::Result<()> {
        batch.put_vote(&self.pointer_key(name), encode(value)?);
        Ok(())
    }

    /// Reads entries from `start` up to `end`, exclusive, and stops early once it has `bytes_max`.
    ///
    /// # Errors
    /// `InvalidData` if an entry within the range is missing or damaged.
    fn read_entries(&self, start: u64, end: u64, bytes_max: usize) -> io::Result<Vec<Entry>> {
        if start >= end {
            return Ok(Vec::new());
        }
        if let Some(recent) = self.recent().read(start, end, bytes_max) {
            return Ok(recent);
        }
        let mut entries: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        self.database.visit_log(&self.entry_key(start), &self.entry_key(end), |key, value| {
            let entry: Entry = decode(value)?;
            let index = entry.log_id().index;
            let follows = entries.last().is_none_or(|last| last.log_id().index + 1 == index);
            if key != self.entry_key(index) || !follows {
                return Err(hole(self.group, index));
            }
            bytes += value.len();
            entries.push(entry);
            Ok(bytes < bytes_max)
        })?;
        Ok(entries)
    }

    /// Reads the vote, the pointers and the end of the log: without any one of them the node must not vote.
    /// `applied` is where the state stands that the log goes on from.
    ///
    /// # Errors
    /// `InvalidData` if one is damaged, or the log goes on from a later state.
    pub(super) fn check(&self, applied: Option<LogId>) -> io::Result<()> {
        self.read_pointer::<Vote>(VOTE)?;
        self.read_pointer::<Option<LogId>>(COMMITTED)?;
        let purged = self.read_pointer::<LogId>(PURGED)?;
        self.last_entry_id()?;
        if purged.is_some() && purged > applied {
            let group = self.group;
            let detail = format!("the snapshot that the log of group {group} goes on from is gone");
            return Err(io::Error::new(io::ErrorKind::InvalidData, detail));
        }
        Ok(())
    }

    /// Moves what is in memory to sorted files.
    #[cfg(test)]
    pub(super) fn flush(&self) {
        for family in [self.database.log(), self.database.vote()] {
            self.database.db().flush_cf(family).unwrap();
        }
    }

    fn last_entry_id(&self) -> io::Result<Option<LogId>> {
        let last = self.database.last_log_value(&self.entry_key(0), &self.entry_key(u64::MAX))?;
        Ok(last.map(|bytes| decode::<Entry>(&bytes)).transpose()?.map(|entry| entry.log_id()))
    }
}

impl RaftLogReader<TypeConfig> for LogStore {
    async fn try_get_log_entries<RB: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: RB,
    ) -> io::Result<Vec<Entry>> {
        let start = match range.start_bound() {
            Bound::Included(index) => *index,
            Bound::Excluded(index) => index + 1,
            Bound::Unbounded => 0,
        };
        let end = match range.end_bound() {
            Bound::Included(index) => index + 1,
            Bound::Excluded(index) => *index,
            Bound::Unbounded => u64::MAX,
        };
        self.read_entries(start, end, usize::MAX)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> io::Result<Vec<Entry>> {
        let entries = self.read_entries(start, end, RAFT_APPEND_BYTES_MAX)?;
        if start >= end || entries.first().is_some_and(|first| first.log_id().index == start) {
            return Ok(entries);
        }
        // A stream that the leader has given up may still ask for what was purged since. It would take nothing
        // for a pause and ask for ever, and must not send what is left: that is what it gets, and `network`
        // ends it.
        let left = self.read_pointer::<LogId>(PURGED)?.map_or(0, |purged| purged.index + 1);
        match entries.is_empty() || start < left {
            true => self.read_entries(left.max(start), u64::MAX, 1),
            false => Err(hole(self.group, start)),
        }
    }

    async fn read_vote(&mut self) -> io::Result<Option<Vote>> {
        self.read_pointer(VOTE)
    }
}

impl RaftLogStorage<TypeConfig> for LogStore {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> io::Result<LogState<TypeConfig>> {
        let last_purged_log_id = self.read_pointer(PURGED)?;
        let last_log_id = self.last_entry_id()?.or(last_purged_log_id);
        Ok(LogState { last_purged_log_id, last_log_id })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> io::Result<()> {
        let mut batch = self.database.log_batch();
        self.write_pointer(&mut batch, VOTE, vote)?;
        self.database.write_unsynced(batch)?;
        if mutant::is(Mutant::VoteNotSynced) {
            return Ok(());
        }
        self.sync.wait().await
    }

    async fn save_committed(&mut self, committed: Option<LogId>) -> io::Result<()> {
        // Unsynced: an older pointer after a crash only means that more of the log is applied later.
        let mut batch = self.database.log_batch();
        self.write_pointer(&mut batch, COMMITTED, &committed)?;
        self.database.write_unsynced(batch)
    }

    async fn read_committed(&mut self) -> io::Result<Option<LogId>> {
        Ok(self.read_pointer::<Option<LogId>>(COMMITTED)?.flatten())
    }

    async fn append<I>(&mut self, entries: I, callback: IOFlushed<TypeConfig>) -> io::Result<()>
    where
        I: IntoIterator<Item = Entry> + OptionalSend,
        I::IntoIter: OptionalSend,
    {
        let entries: Vec<Entry> = entries.into_iter().collect();
        let bytes = entries.iter().map(|entry| cost(entry) + BATCH_ENTRY_BYTES).sum();
        let mut batch = self.database.log_batch_for(bytes);
        for entry in &entries {
            batch.put_log(&self.entry_key(entry.log_id().index), encode(entry)?);
        }
        // Readable now; acknowledged only after the sync (INV-ACK).
        self.database.write_unsynced(batch)?;
        self.remember(entries);
        if mutant::is(Mutant::AppendNotSynced) {
            callback.io_completed(Ok(()));
            return Ok(());
        }
        self.sync.notify(callback).await;
        Ok(())
    }

    async fn truncate_after(&mut self, last_log_id: Option<LogId>) -> io::Result<()> {
        if mutant::is(Mutant::TruncateIgnored) {
            return Ok(());
        }
        let from = last_log_id.map_or(0, |last| last.index + 1);
        let mut batch = self.database.log_batch();
        batch.delete_log(&self.entry_key(from), &self.entry_key(u64::MAX));
        // Later appends follow it in the same write-ahead log, so it cannot be lost before them.
        self.recent().clear();
        self.database.write_unsynced(batch)
    }

    async fn purge(&mut self, log_id: LogId) -> io::Result<()> {
        let mut batch = self.database.log_batch();
        self.write_pointer(&mut batch, PURGED, &log_id)?;
        batch.delete_log(&self.entry_key(0), &self.entry_key(log_id.index + 1));
        self.recent().purge(log_id.index);
        self.database.write_unsynced(batch)
    }
}

/// The entries of a group's log on a simulated disk.
#[cfg(feature = "sim")]
pub(crate) fn log_entries(disk: &crate::sim::SimDisk, group: GroupId, from: u64) -> io::Result<Vec<Entry>> {
    let mut entries: Vec<Entry> = Vec::new();
    disk.visit_log(&log_key(group, from), &log_key(group, u64::MAX), |_, value| {
        entries.push(decode(value)?);
        Ok(true)
    })?;
    Ok(entries)
}

/// The vote of a group on a simulated disk.
#[cfg(feature = "sim")]
pub(crate) fn stored_vote(disk: &crate::sim::SimDisk, group: GroupId) -> io::Result<Option<Vote>> {
    let mut key = group_key(group).to_vec();
    key.push(VOTE);
    disk.vote(&key).map(|bytes| decode(&bytes)).transpose()
}

fn hole(group: GroupId, index: u64) -> io::Error {
    let detail = format!("the log of group {group} has a hole or a misplaced entry at {index}");
    io::Error::new(io::ErrorKind::InvalidData, detail)
}

fn log_key(group: GroupId, index: u64) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&group_key(group));
    key[4..].copy_from_slice(&index.to_be_bytes());
    key
}

/// Postcard, for what builds with the same openraft read back.
pub(super) fn encode<T: Serialize>(value: &T) -> io::Result<Vec<u8>> {
    let encoded = postcard::experimental::serialized_size(value)
        .and_then(|size| postcard::serialize_with_flavor(value, Encoded(Vec::with_capacity(size))));
    encoded.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}

/// Bytes whose number is known: entries are large, and must not be copied each time that they outgrow a buffer.
struct Encoded(Vec<u8>);

impl postcard::ser_flavors::Flavor for Encoded {
    type Output = Vec<u8>;

    fn try_extend(&mut self, data: &[u8]) -> postcard::Result<()> {
        self.0.extend_from_slice(data);
        Ok(())
    }

    fn try_push(&mut self, data: u8) -> postcard::Result<()> {
        self.0.push(data);
        Ok(())
    }

    fn finalize(self) -> postcard::Result<Vec<u8>> {
        Ok(self.0)
    }
}

/// The inverse of [`encode`]; bytes that it did not write are `InvalidData`.
pub(super) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> io::Result<T> {
    postcard::from_bytes(bytes).map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))
}
