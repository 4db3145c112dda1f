//! What the log store asks of the database. In a simulation a disk in memory answers instead of RocksDB; the
//! log store does not know.

use std::io;

use rocksdb::{ReadOptions, WriteBatch, WriteOptions};

use super::database::{Database, Store, io_error};
#[cfg(feature = "sim")]
use crate::sim::Change;

/// Changes of log and votes that happen together.
pub(super) struct LogBatch<'a> {
    database: &'a Database,
    rocks: WriteBatch,
    #[cfg(feature = "sim")]
    simulated: Vec<Change>,
}

impl LogBatch<'_> {
    pub(super) fn put_log(&mut self, key: &[u8], value: Vec<u8>) {
        match &self.database.store {
            Store::Rocks(_) => self.rocks.put_cf(self.database.log(), key, value),
            #[cfg(feature = "sim")]
            Store::Simulated(_) => self.simulated.push(Change::PutLog(key.to_vec(), value)),
        }
    }

    pub(super) fn put_vote(&mut self, key: &[u8], value: Vec<u8>) {
        match &self.database.store {
            Store::Rocks(_) => self.rocks.put_cf(self.database.vote(), key, value),
            #[cfg(feature = "sim")]
            Store::Simulated(_) => self.simulated.push(Change::PutVote(key.to_vec(), value)),
        }
    }

    /// Deletes entries from `from` up to `to`, exclusive.
    pub(super) fn delete_log(&mut self, from: &[u8], to: &[u8]) {
        match &self.database.store {
            Store::Rocks(_) => self.rocks.delete_range_cf(self.database.log(), from, to),
            #[cfg(feature = "sim")]
            Store::Simulated(_) => self.simulated.push(Change::DeleteLog(from.to_vec(), to.to_vec())),
        }
    }
}

impl Database {
    pub(super) fn log_batch(&self) -> LogBatch<'_> {
        self.log_batch_for(0)
    }

    /// A batch with room for so many bytes, which are not copied again and again while it grows.
    pub(super) fn log_batch_for(&self, bytes: usize) -> LogBatch<'_> {
        LogBatch {
            database: self,
            rocks: WriteBatch::with_capacity_bytes(bytes),
            #[cfg(feature = "sim")]
            simulated: Vec::new(),
        }
    }

    /// Writes through the write-ahead log and returns before it is synced.
    pub(super) fn write_unsynced(&self, batch: LogBatch<'_>) -> io::Result<()> {
        match &self.store {
            Store::Rocks(db) => db.write_opt(batch.rocks, &WriteOptions::default()).map_err(io_error),
            #[cfg(feature = "sim")]
            Store::Simulated(disk) => {
                disk.write(batch.simulated);
                Ok(())
            }
        }
    }

    pub(super) fn vote_value(&self, key: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match &self.store {
            Store::Rocks(db) => db.get_cf(self.vote(), key).map_err(io_error),
            #[cfg(feature = "sim")]
            Store::Simulated(disk) => Ok(disk.vote(key)),
        }
    }

    /// Shows `visit` the entries from `from` up to `to`, exclusive, in order, until it has enough.
    pub(super) fn visit_log(
        &self,
        from: &[u8],
        to: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> io::Result<bool>,
    ) -> io::Result<()> {
        match &self.store {
            Store::Rocks(db) => {
                let mut options = ReadOptions::default();
                options.set_iterate_upper_bound(to.to_vec());
                let mut iterator = db.raw_iterator_cf_opt(self.log(), options);
                iterator.seek(from);
                while let Some((key, value)) = iterator.item() {
                    if !visit(key, value)? {
                        break;
                    }
                    iterator.next();
                }
                iterator.status().map_err(io_error)
            }
            #[cfg(feature = "sim")]
            Store::Simulated(disk) => disk.visit_log(from, to, visit),
        }
    }

    /// The last entry from `from` up to `to`, inclusive.
    pub(super) fn last_log_value(&self, from: &[u8], to: &[u8]) -> io::Result<Option<Vec<u8>>> {
        match &self.store {
            Store::Rocks(db) => {
                let mut options = ReadOptions::default();
                options.set_iterate_lower_bound(from.to_vec());
                let mut iterator = db.raw_iterator_cf_opt(self.log(), options);
                iterator.seek_for_prev(to);
                let last = iterator.value().map(<[u8]>::to_vec);
                iterator.status().map_err(io_error)?;
                Ok(last)
            }
            #[cfg(feature = "sim")]
            Store::Simulated(disk) => Ok(disk.last_log(from, to)),
        }
    }
}
