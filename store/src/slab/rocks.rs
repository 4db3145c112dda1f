//! The index in RocksDB: which blocks the slabs hold, which record size each extent serves, and from
//! where generations may be taken.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DEFAULT_COLUMN_FAMILY_NAME,
    IteratorMode, Options, WriteBatch, WriteOptions,
};

use super::catalog::{Catalog, Change, Changes, Remembered};
use super::entry::{BlockEntry, ExtentEntry, ReadySlot};
use super::superblock::StoreId;
use crate::error::OpenError;

/// The newest format of folder, index and records that this build reads and writes.
const FORMAT: u32 = 3;
const INDEX_FOLDER: &str = "index";
const BLOCKS: &str = "blocks";
const EXTENTS: &str = "extents";
const READY_KEY: &[u8] = b"ready";
const FORMAT_KEY: &[u8] = b"format";
const STORE_KEY: &[u8] = b"store";
const EXTENT_BYTES_KEY: &[u8] = b"extent_bytes";
const GENERATION_KEY: &[u8] = b"generation";
/// Small: entries are written once and read when the store opens.
const WRITE_BUFFER_BYTES: usize = 8 << 20;
const BLOCK_CACHE_BYTES: usize = 4 << 20;
/// Write-ahead log size at which families are flushed so that old logs can go. Families that seldom
/// change would otherwise keep every log since their last change.
const WAL_BYTES_MAX: u64 = 64 << 20;

/// The index of one store, in RocksDB.
pub(crate) struct RocksCatalog {
    db: DB,
    dir: PathBuf,
    /// The ready slots by their sectors. They come and go all the time and are few, so all of them are one
    /// value.
    ready: BTreeMap<u32, ReadySlot>,
}

/// What a store is founded with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Founding {
    pub(crate) store: StoreId,
    pub(crate) extent_bytes: u64,
    /// The first generation.
    pub(crate) generation: u64,
}

impl RocksCatalog {
    /// Opens the index under `dir`, or founds it.
    pub(crate) fn open(dir: &Path, founding: Founding) -> Result<Self, OpenError> {
        let path = dir.join(INDEX_FOLDER);
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_paranoid_checks(true);
        options.set_keep_log_file_num(2);
        options.set_max_open_files(256);
        options.set_write_buffer_size(WRITE_BUFFER_BYTES);
        options.set_max_total_wal_size(WAL_BYTES_MAX);
        let mut table = BlockBasedOptions::default();
        table.set_block_cache(&Cache::new_lru_cache(BLOCK_CACHE_BYTES));
        table.set_cache_index_and_filter_blocks(true);
        options.set_block_based_table_factory(&table);
        // Families that a newer version added are opened too, so that its format can be named.
        let mut names = match path.join("CURRENT").exists() {
            true => DB::list_cf(&options, &path).map_err(|error| open_error(dir, &error))?,
            false => Vec::new(),
        };
        for name in [DEFAULT_COLUMN_FAMILY_NAME, BLOCKS, EXTENTS] {
            if !names.iter().any(|known| known == name) {
                names.push(name.into());
            }
        }
        let families = names.into_iter().map(|name| ColumnFamilyDescriptor::new(name, options.clone()));
        let db =
            DB::open_cf_descriptors(&options, &path, families).map_err(|error| open_error(dir, &error))?;
        let mut catalog = Self { db, dir: dir.to_path_buf(), ready: BTreeMap::new() };
        catalog.check_format(&founding)?;
        catalog.ready = catalog.ready_slots()?.into_iter().map(|slot| (slot.sector, slot)).collect();
        Ok(catalog)
    }

    /// Moves an index that cannot be read out of the way and says where it lies now.
    pub(crate) fn set_aside(dir: &Path, unix_ms: u64) -> io::Result<PathBuf> {
        let aside = dir.join(format!("{INDEX_FOLDER}.damaged-{unix_ms}"));
        std::fs::rename(dir.join(INDEX_FOLDER), &aside)?;
        Ok(aside)
    }

    fn check_format(&self, founding: &Founding) -> Result<(), OpenError> {
        let Some(format) = self.number(FORMAT_KEY)? else {
            if self.db.iterator(IteratorMode::Start).next().is_some() {
                return Err(self.damaged("it names no format"));
            }
            let mut batch = WriteBatch::default();
            batch.put(FORMAT_KEY, u64::from(FORMAT).to_le_bytes());
            batch.put(STORE_KEY, founding.store.0);
            batch.put(EXTENT_BYTES_KEY, founding.extent_bytes.to_le_bytes());
            batch.put(GENERATION_KEY, founding.generation.to_le_bytes());
            return self.db.write_opt(batch, &synced()).map_err(|error| open_error(&self.dir, &error));
        };
        let found = u32::try_from(format).unwrap_or(u32::MAX);
        if found > FORMAT {
            return Err(OpenError::NewerFormat { dir: self.dir.clone(), found, supported: FORMAT });
        }
        if found < FORMAT {
            return Err(OpenError::OlderFormat { dir: self.dir.clone(), found, supported: FORMAT });
        }
        let found = self.number(EXTENT_BYTES_KEY)?.ok_or_else(|| self.damaged("it names no extent size"))?;
        let asked = founding.extent_bytes;
        if found != asked {
            return Err(OpenError::ExtentBytesChanged { dir: self.dir.clone(), found, asked });
        }
        Ok(())
    }

    fn extents(&self) -> Result<Vec<ExtentEntry>, OpenError> {
        let mut extents = Vec::new();
        for item in self.db.iterator_cf(self.family(EXTENTS), IteratorMode::Start) {
            let (key, value) = item.map_err(|error| open_error(&self.dir, &error))?;
            let entry = ExtentEntry::decode(&key, &value)
                .ok_or_else(|| self.damaged("an entry of the extent table cannot be read"))?;
            extents.push(entry);
        }
        Ok(extents)
    }

    fn ready_slots(&self) -> Result<Vec<ReadySlot>, OpenError> {
        let Some(value) = self.db.get(READY_KEY).map_err(|error| open_error(&self.dir, &error))? else {
            return Ok(Vec::new());
        };
        ReadySlot::decode(&value).ok_or_else(|| self.damaged("the ready slots cannot be read"))
    }

    /// Changes the ready slots in memory, and says what was in each place before.
    fn change_ready(&mut self, changes: &Changes) -> Vec<(u32, Option<ReadySlot>)> {
        let mut before = Vec::new();
        for change in &changes.list {
            match change {
                Change::PutReady(slot) => before.push((slot.sector, self.ready.insert(slot.sector, *slot))),
                Change::DeleteReady(sector) => before.push((*sector, self.ready.remove(sector))),
                _ => {}
            }
        }
        before
    }

    fn restore_ready(&mut self, before: Vec<(u32, Option<ReadySlot>)>) {
        for (sector, slot) in before.into_iter().rev() {
            match slot {
                Some(slot) => drop(self.ready.insert(sector, slot)),
                None => drop(self.ready.remove(&sector)),
            }
        }
    }

    fn number(&self, key: &[u8]) -> Result<Option<u64>, OpenError> {
        let Some(value) = self.db.get(key).map_err(|error| open_error(&self.dir, &error))? else {
            return Ok(None);
        };
        let bytes = value.as_slice().try_into().map_err(|_| self.damaged("a number has the wrong length"))?;
        Ok(Some(u64::from_le_bytes(bytes)))
    }

    fn damaged(&self, detail: &str) -> OpenError {
        OpenError::IndexDamaged { dir: self.dir.clone(), detail: detail.into() }
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("every family was opened")
    }
}

impl Catalog for RocksCatalog {
    fn remembered(&self) -> Result<Remembered, OpenError> {
        let uuid = self.db.get(STORE_KEY).map_err(|error| open_error(&self.dir, &error))?;
        let uuid = uuid.and_then(|bytes| bytes.try_into().ok());
        let generation = self.number(GENERATION_KEY)?;
        Ok(Remembered {
            store: StoreId(uuid.ok_or_else(|| self.damaged("it names no store"))?),
            generation: generation.ok_or_else(|| self.damaged("it names no generation"))?,
            extents: self.extents()?,
            ready: self.ready_slots()?,
        })
    }

    fn blocks(&self, visit: &mut dyn FnMut(BlockEntry)) -> Result<u64, OpenError> {
        let mut unreadable = 0;
        for item in self.db.iterator_cf(self.family(BLOCKS), IteratorMode::Start) {
            let (key, value) = item.map_err(|error| open_error(&self.dir, &error))?;
            match BlockEntry::decode(&key, &value) {
                Some(entry) => visit(entry),
                None => unreadable += 1,
            }
        }
        Ok(unreadable)
    }

    fn commit(&mut self, changes: &Changes) -> io::Result<()> {
        if changes.list.is_empty() {
            return Ok(());
        }
        let ready_before = self.change_ready(changes);
        let [blocks, extents] = [BLOCKS, EXTENTS].map(|name| self.family(name));
        let mut batch = WriteBatch::default();
        for change in &changes.list {
            match change {
                Change::PutBlock(entry) => batch.put_cf(blocks, BlockEntry::key_of(&entry.id), entry.value()),
                Change::DeleteBlock(id) => batch.delete_cf(blocks, BlockEntry::key_of(id)),
                Change::PutExtent(entry) => batch.put_cf(extents, entry.key(), entry.value()),
                Change::PutReady(_) | Change::DeleteReady(_) => {}
                Change::SetAside(until) => batch.put(GENERATION_KEY, until.to_le_bytes()),
            }
        }
        if !ready_before.is_empty() {
            batch.put(READY_KEY, ReadySlot::value(self.ready.values().copied()));
        }
        self.db.write_opt(batch, &synced()).map_err(|error| {
            self.restore_ready(ready_before);
            io::Error::other(error)
        })
    }
}

fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

fn open_error(dir: &Path, error: &rocksdb::Error) -> OpenError {
    let detail = error.to_string();
    let dir = dir.to_path_buf();
    match error.kind() {
        rocksdb::ErrorKind::IOError
            if detail.contains("lock hold by current process") || detail.contains("While lock file") =>
        {
            OpenError::InUse { dir, detail }
        }
        rocksdb::ErrorKind::IOError if !detail.contains("No such file") => OpenError::Io {
            what: format!("open the index at {}", dir.display()),
            source: io::Error::other(detail),
        },
        _ => OpenError::IndexDamaged { dir, detail },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FOUNDING: Founding = Founding { store: StoreId([7; 16]), extent_bytes: 1 << 20, generation: 5 };

    fn open(dir: &Path) -> Result<RocksCatalog, OpenError> {
        RocksCatalog::open(dir, FOUNDING)
    }

    #[test]
    fn what_a_store_was_founded_with_stays() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()).unwrap());
        let later = Founding { store: StoreId([8; 16]), generation: 9, ..FOUNDING };
        let found = RocksCatalog::open(dir.path(), later).unwrap().remembered().unwrap();
        assert_eq!((found.store, found.generation), (FOUNDING.store, FOUNDING.generation));
    }

    #[test]
    fn ready_slots_that_were_refused_are_as_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut catalog = open(dir.path()).unwrap();
        let slot = |sector, from| ReadySlot { sector, from: hearth_proto::Generation(from) };
        let mut changes = Changes::default();
        [slot(1, 1), slot(2, 2)].into_iter().for_each(|slot| changes.put_ready(slot));
        catalog.commit(&changes).unwrap();
        let known = catalog.ready.clone();
        let mut refused = Changes::default();
        refused.delete_ready(1);
        [slot(1, 8), slot(3, 3)].into_iter().for_each(|slot| refused.put_ready(slot));
        refused.delete_ready(3);
        refused.delete_ready(2);
        let before = catalog.change_ready(&refused);
        assert_ne!(catalog.ready, known);
        catalog.restore_ready(before);
        assert_eq!(catalog.ready, known);
    }

    #[test]
    fn a_newer_format_is_refused_and_both_versions_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = open(dir.path()).unwrap();
        catalog.db.put(FORMAT_KEY, 9_u64.to_le_bytes()).unwrap();
        drop(catalog);
        let error = open(dir.path()).err().unwrap();
        assert!(matches!(error, OpenError::NewerFormat { found: 9, supported: FORMAT, .. }), "{error}");
        assert!(error.to_string().contains("format 9") && error.to_string().contains("format 3"), "{error}");
    }

    #[test]
    fn an_older_format_is_refused_and_both_versions_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let catalog = open(dir.path()).unwrap();
        catalog.db.put(FORMAT_KEY, 2_u64.to_le_bytes()).unwrap();
        drop(catalog);
        let error = open(dir.path()).err().unwrap();
        assert!(matches!(error, OpenError::OlderFormat { found: 2, supported: FORMAT, .. }), "{error}");
    }

    #[test]
    fn a_family_of_the_future_does_not_hide_its_format() {
        let dir = tempfile::tempdir().unwrap();
        let mut catalog = open(dir.path()).unwrap();
        catalog.db.create_cf("of_the_future", &Options::default()).unwrap();
        catalog.db.put(FORMAT_KEY, 4_u64.to_le_bytes()).unwrap();
        drop(catalog);
        let error = open(dir.path()).err().unwrap();
        assert!(matches!(error, OpenError::NewerFormat { found: 4, .. }), "{error}");
    }

    #[test]
    fn an_index_in_use_is_called_so() {
        let dir = tempfile::tempdir().unwrap();
        let _first = open(dir.path()).unwrap();
        let error = open(dir.path()).err().unwrap();
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    }

    #[test]
    fn extents_of_another_size_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()).unwrap());
        let error =
            RocksCatalog::open(dir.path(), Founding { extent_bytes: 2 << 20, ..FOUNDING }).err().unwrap();
        assert!(
            matches!(error, OpenError::ExtentBytesChanged { found: 0x10_0000, asked: 0x20_0000, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_damaged_index_is_called_so() {
        let dir = tempfile::tempdir().unwrap();
        drop(open(dir.path()).unwrap());
        std::fs::write(dir.path().join("index/CURRENT"), b"nonsense\n").unwrap();
        let error = open(dir.path()).err().unwrap();
        assert!(matches!(error, OpenError::IndexDamaged { .. }), "{error}");
    }
}
