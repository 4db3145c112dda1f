//! A disk in memory under the logs and votes of one node: it keeps what was synced, and of what was not, a
//! crash keeps a part of its own choice, in the order in which it was written, as a write-ahead log does.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// One change of log or votes.
#[derive(Clone, Debug)]
pub(crate) enum Change {
    PutLog(Vec<u8>, Vec<u8>),
    PutVote(Vec<u8>, Vec<u8>),
    /// From, and to, exclusive.
    DeleteLog(Vec<u8>, Vec<u8>),
}

#[derive(Clone, Debug, Default)]
struct Families {
    log: Map,
    vote: Map,
}

#[derive(Debug, Default)]
struct Contents {
    /// What a reader sees.
    now: Families,
    /// What a crash cannot take.
    synced: Families,
    /// Batches that are written and not synced, the oldest first; each is kept as a whole or not at all.
    unsynced: VecDeque<Vec<Change>>,
    /// Batches that were ever synced.
    synced_count: u64,
}

/// Handles to one disk.
#[derive(Clone, Debug, Default)]
pub struct SimDisk(Arc<Mutex<Contents>>);

impl SimDisk {
    /// An empty disk.
    pub fn new() -> Self {
        Self::default()
    }

    /// Takes the power away. Of so many unsynced batches as `keep` is given, those that it says survive, the
    /// oldest first. Returns how many were lost.
    pub fn crash(&self, keep: impl FnOnce(usize) -> usize) -> usize {
        let mut disk = self.lock();
        let unsynced = disk.unsynced.len();
        let kept = keep(unsynced).min(unsynced);
        disk.sync(kept);
        disk.unsynced.clear();
        disk.now = disk.synced.clone();
        unsynced - kept
    }

    pub(crate) fn write(&self, batch: Vec<Change>) {
        let mut disk = self.lock();
        batch.iter().for_each(|change| disk.now.apply(change));
        disk.unsynced.push_back(batch);
    }

    /// The batches that were written by now, counted from the disk's beginning.
    pub(crate) fn written(&self) -> u64 {
        let disk = self.lock();
        disk.synced_count + disk.unsynced.len() as u64
    }

    /// Makes everything up to `written` last.
    pub(crate) fn sync_to(&self, written: u64) {
        let mut disk = self.lock();
        let count = written.saturating_sub(disk.synced_count).min(disk.unsynced.len() as u64);
        disk.sync(count as usize);
    }

    pub(crate) fn vote(&self, key: &[u8]) -> Option<Vec<u8>> {
        self.lock().now.vote.get(key).cloned()
    }

    pub(crate) fn visit_log(
        &self,
        from: &[u8],
        to: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        for (key, value) in self.lock().now.log.range(from.to_vec()..to.to_vec()) {
            if !visit(key, value)? {
                break;
            }
        }
        Ok(())
    }

    pub(crate) fn last_log(&self, from: &[u8], to: &[u8]) -> Option<Vec<u8>> {
        self.lock().now.log.range(from.to_vec()..=to.to_vec()).next_back().map(|(_, value)| value.clone())
    }

    fn lock(&self) -> MutexGuard<'_, Contents> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Contents {
    fn sync(&mut self, count: usize) {
        for change in self.unsynced.drain(..count).flatten() {
            self.synced.apply(&change);
        }
        self.synced_count += count as u64;
    }
}

impl Families {
    fn apply(&mut self, change: &Change) {
        match change {
            Change::PutLog(key, value) => drop(self.log.insert(key.clone(), value.clone())),
            Change::PutVote(key, value) => drop(self.vote.insert(key.clone(), value.clone())),
            Change::DeleteLog(from, to) => self.log.retain(|key, _| key < from || key >= to),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(disk: &SimDisk, key: u8) {
        disk.write(vec![Change::PutLog(vec![key], vec![key])]);
    }

    fn keys(disk: &SimDisk) -> Vec<u8> {
        let mut keys = Vec::new();
        disk.visit_log(&[0], &[255], |key, _| {
            keys.push(key[0]);
            Ok(true)
        })
        .unwrap();
        keys
    }

    #[test]
    fn a_crash_keeps_what_was_synced_and_a_beginning_of_the_rest() {
        let disk = SimDisk::new();
        put(&disk, 1);
        put(&disk, 2);
        let written = disk.written();
        put(&disk, 3);
        put(&disk, 4);
        put(&disk, 5);
        disk.sync_to(written);
        disk.write(vec![Change::DeleteLog(vec![2], vec![4])]);
        assert_eq!(keys(&disk), [1, 4, 5]);
        assert_eq!(disk.crash(|unsynced| unsynced - 3), 3);
        assert_eq!(keys(&disk), [1, 2, 3]);
        put(&disk, 6);
        disk.sync_to(disk.written());
        assert_eq!(disk.crash(|_| 0), 0);
        assert_eq!(keys(&disk), [1, 2, 3, 6]);
    }
}
