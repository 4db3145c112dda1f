//! The index in RocksDB: which blocks the slab file holds, which record size each extent serves, and
//! from where generations may be taken.
//!
//! Only the durability thread uses it after the store has opened.

use std::path::{Path, PathBuf};

use rocksdb::{
    ColumnFamilyDescriptor, DB, DEFAULT_COLUMN_FAMILY_NAME, IteratorMode, Options, WriteBatch, WriteOptions,
};

use super::entry::{BlockEntry, ExtentEntry};
use crate::error::OpenError;

/// The newest format of folder, index and records that this build reads and writes.
const FORMAT: u32 = 1;
const BLOCKS: &str = "blocks";
const EXTENTS: &str = "extents";
const FORMAT_KEY: &[u8] = b"format";
const EXTENT_BYTES_KEY: &[u8] = b"extent_bytes";
const GENERATION_KEY: &[u8] = b"generation";
const WRITE_BUFFER_BYTES: usize = 32 << 20;
/// Write-ahead log size at which families are flushed so that old logs can go. Families that seldom
/// change would otherwise keep every log since their last change.
const WAL_BYTES_MAX: u64 = 64 << 20;

/// The index of one slab file.
pub(crate) struct Catalog {
    db: DB,
    dir: PathBuf,
}

/// An index as it was found.
pub(crate) struct Opened {
    pub(crate) catalog: Catalog,
    /// Generations from here on were never used.
    pub(crate) generation: u64,
}

/// What is to change together.
pub(crate) struct Changes<'a> {
    batch: WriteBatch,
    catalog: &'a Catalog,
}

impl Catalog {
    /// Opens the index under `dir`, or founds it.
    pub(crate) fn open(dir: &Path, extent_bytes: u64) -> Result<Opened, OpenError> {
        let path = dir.join("index");
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        options.set_paranoid_checks(true);
        options.set_keep_log_file_num(2);
        options.set_max_open_files(256);
        options.set_write_buffer_size(WRITE_BUFFER_BYTES);
        options.set_max_total_wal_size(WAL_BYTES_MAX);
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
        let catalog = Self { db, dir: dir.to_path_buf() };
        let generation = catalog.check_format(extent_bytes)?;
        Ok(Opened { catalog, generation })
    }

    /// Every block that the index names; entries that cannot be read are counted in the second part.
    pub(crate) fn blocks(&self) -> Result<(Vec<BlockEntry>, u64), OpenError> {
        let mut blocks = Vec::new();
        let mut unreadable = 0;
        for item in self.db.iterator_cf(self.family(BLOCKS), IteratorMode::Start) {
            let (key, value) = item.map_err(|error| open_error(&self.dir, &error))?;
            match BlockEntry::decode(&key, &value) {
                Some(entry) => blocks.push(entry),
                None => unreadable += 1,
            }
        }
        Ok((blocks, unreadable))
    }

    /// Every extent that the index names.
    pub(crate) fn extents(&self) -> Result<Vec<ExtentEntry>, OpenError> {
        let mut extents = Vec::new();
        for item in self.db.iterator_cf(self.family(EXTENTS), IteratorMode::Start) {
            let (key, value) = item.map_err(|error| open_error(&self.dir, &error))?;
            let entry = ExtentEntry::decode(&key, &value)
                .ok_or_else(|| self.damaged("an entry of the extent table cannot be read"))?;
            extents.push(entry);
        }
        Ok(extents)
    }

    pub(crate) fn changes(&self) -> Changes<'_> {
        Changes { batch: WriteBatch::default(), catalog: self }
    }

    /// Sets generations below `until` aside. Synced.
    pub(crate) fn reserve_generations(&self, until: u64) -> Result<(), rocksdb::Error> {
        let mut batch = WriteBatch::default();
        batch.put(GENERATION_KEY, until.to_le_bytes());
        self.db.write_opt(batch, &synced())
    }

    fn check_format(&self, extent_bytes: u64) -> Result<u64, OpenError> {
        let Some(format) = self.number(FORMAT_KEY)? else {
            if self.db.iterator(IteratorMode::Start).next().is_some() {
                return Err(self.damaged("it names no format"));
            }
            let mut batch = WriteBatch::default();
            batch.put(FORMAT_KEY, u64::from(FORMAT).to_le_bytes());
            batch.put(EXTENT_BYTES_KEY, extent_bytes.to_le_bytes());
            batch.put(GENERATION_KEY, 1_u64.to_le_bytes());
            self.db.write_opt(batch, &synced()).map_err(|error| open_error(&self.dir, &error))?;
            return Ok(1);
        };
        if format > u64::from(FORMAT) {
            let found = u32::try_from(format).unwrap_or(u32::MAX);
            return Err(OpenError::NewerFormat { dir: self.dir.clone(), found, supported: FORMAT });
        }
        let found = self.number(EXTENT_BYTES_KEY)?.ok_or_else(|| self.damaged("it names no extent size"))?;
        if found != extent_bytes {
            return Err(OpenError::ExtentBytesChanged { dir: self.dir.clone(), found, asked: extent_bytes });
        }
        self.number(GENERATION_KEY)?.ok_or_else(|| self.damaged("it names no generation"))
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

    fn family(&self, name: &str) -> &rocksdb::ColumnFamily {
        self.db.cf_handle(name).expect("every family was opened")
    }
}

impl Changes<'_> {
    pub(crate) fn put_block(&mut self, entry: &BlockEntry) {
        self.batch.put_cf(self.catalog.family(BLOCKS), BlockEntry::key_of(&entry.id), entry.value());
    }

    pub(crate) fn delete_block(&mut self, id: &hearth_proto::BlockId) {
        self.batch.delete_cf(self.catalog.family(BLOCKS), BlockEntry::key_of(id));
    }

    pub(crate) fn put_extent(&mut self, entry: &ExtentEntry) {
        self.batch.put_cf(self.catalog.family(EXTENTS), entry.key(), entry.value());
    }

    /// Makes the changes durable, all or none.
    pub(crate) fn commit(self) -> Result<(), rocksdb::Error> {
        if self.batch.is_empty() {
            return Ok(());
        }
        self.catalog.db.write_opt(self.batch, &synced())
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
            source: std::io::Error::other(detail),
        },
        _ => OpenError::IndexDamaged { dir, detail },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_newer_format_is_refused_and_both_versions_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let opened = Catalog::open(dir.path(), 1 << 20).unwrap();
        opened.catalog.db.put(FORMAT_KEY, 9_u64.to_le_bytes()).unwrap();
        drop(opened);
        let error = Catalog::open(dir.path(), 1 << 20).err().unwrap();
        assert!(matches!(error, OpenError::NewerFormat { found: 9, supported: FORMAT, .. }), "{error}");
        assert!(error.to_string().contains("format 9") && error.to_string().contains("format 1"), "{error}");
    }

    #[test]
    fn a_family_of_the_future_does_not_hide_its_format() {
        let dir = tempfile::tempdir().unwrap();
        let mut opened = Catalog::open(dir.path(), 1 << 20).unwrap();
        opened.catalog.db.create_cf("of_the_future", &Options::default()).unwrap();
        opened.catalog.db.put(FORMAT_KEY, 2_u64.to_le_bytes()).unwrap();
        drop(opened);
        let error = Catalog::open(dir.path(), 1 << 20).err().unwrap();
        assert!(matches!(error, OpenError::NewerFormat { found: 2, .. }), "{error}");
    }

    #[test]
    fn an_index_in_use_is_called_so() {
        let dir = tempfile::tempdir().unwrap();
        let _first = Catalog::open(dir.path(), 1 << 20).unwrap();
        let error = Catalog::open(dir.path(), 1 << 20).err().unwrap();
        assert!(matches!(error, OpenError::InUse { .. }), "{error}");
    }

    #[test]
    fn extents_of_another_size_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(Catalog::open(dir.path(), 1 << 20).unwrap());
        let error = Catalog::open(dir.path(), 2 << 20).err().unwrap();
        assert!(
            matches!(error, OpenError::ExtentBytesChanged { found: 0x10_0000, asked: 0x20_0000, .. }),
            "{error}"
        );
    }

    #[test]
    fn a_damaged_index_is_called_so() {
        let dir = tempfile::tempdir().unwrap();
        drop(Catalog::open(dir.path(), 1 << 20).unwrap());
        std::fs::write(dir.path().join("index/CURRENT"), b"nonsense\n").unwrap();
        let error = Catalog::open(dir.path(), 1 << 20).err().unwrap();
        assert!(matches!(error, OpenError::IndexDamaged { .. }), "{error}");
    }
}
