//! Snapshots as files: the records of one group's state in the order in which they are put back.
//!
//! Layout, little-endian: magic, format u32, group u32, newest command version that it came about with u32,
//! length u32 and postcard of the metadata; then
//! for each record the lengths u32 of key and value and both; then `u32::MAX`, the number of records
//! u64, and the crc32 u32 of all before it.

use std::fs::File;
use std::io::{self, BufReader, BufWriter, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use hearth_proto::GroupId;
use hearth_proto::limits::SNAPSHOT_SYNC_BYTES;

use super::log_store::{decode, encode};
use super::pace::SnapshotPace;
use super::types::SnapshotMeta;
use crate::state::command;

const MAGIC: &[u8; 8] = b"HEARTHSN";
const FORMAT: u32 = 4;
const END: u32 = u32::MAX;
/// No key, value or metadata is larger; a length beyond it is damage.
const PART_BYTES_MAX: u32 = 16 << 20;

/// A complete snapshot file, held open so that it can be read after it is replaced.
#[derive(Clone, Debug)]
pub(crate) struct SnapshotFile {
    pub(super) path: PathBuf,
    pub(super) file: Arc<File>,
    pub(super) size_bytes: u64,
}

impl SnapshotFile {
    /// Opens a file that was written completely.
    pub(super) fn open(path: PathBuf) -> io::Result<Self> {
        let file = File::open(&path)?;
        let size_bytes = file.metadata()?.len();
        Ok(Self { path, file: Arc::new(file), size_bytes })
    }

    /// The checksum that ends the file.
    pub(super) fn checksum(&self) -> io::Result<u32> {
        let mut bytes = [0; 4];
        let at = self.size_bytes.checked_sub(4).ok_or_else(|| damaged("it is too short"))?;
        self.file.read_exact_at(&mut bytes, at)?;
        Ok(u32::from_le_bytes(bytes))
    }
}

/// The snapshot files of one group.
#[derive(Debug)]
pub(super) struct SnapshotFolder {
    dir: PathBuf,
    group: GroupId,
    current: Mutex<Option<(SnapshotMeta, SnapshotFile)>>,
    /// Held while a snapshot is built or installed, so that neither sees the other half done.
    pub(super) exclusive: Mutex<()>,
}

impl SnapshotFolder {
    /// Finds the newest snapshot of the group and removes what a crash left behind.
    pub(super) fn open(dir: &Path, group: GroupId) -> io::Result<Self> {
        let prefix = format!("{group}-");
        let mut found: Vec<PathBuf> = Vec::new();
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            if !name.starts_with(&prefix) {
                continue;
            }
            if name.ends_with(".snap") {
                found.push(path);
            } else {
                std::fs::remove_file(&path)?;
            }
        }
        found.sort();
        // The state is nowhere else: to do without the newest would be to go back behind what was promised.
        let current = match found.pop() {
            Some(path) => {
                let file = SnapshotFile::open(path)?;
                Some((Reader::open(&file, group)?.meta, file))
            }
            None => None,
        };
        for path in found {
            std::fs::remove_file(&path)?;
        }
        Ok(Self { dir: dir.to_owned(), group, current: Mutex::new(current), exclusive: Mutex::new(()) })
    }

    pub(super) fn current(&self) -> Option<(SnapshotMeta, SnapshotFile)> {
        self.lock_current().clone()
    }

    /// Where to write a snapshot that is not complete yet; `purpose` keeps builds and arrivals apart.
    pub(super) fn unfinished_path(&self, purpose: &str) -> PathBuf {
        self.dir.join(format!("{}-{purpose}.tmp", self.group))
    }

    /// Gives a complete, synced file its final name and forgets the older one.
    pub(super) fn adopt(&self, meta: &SnapshotMeta, written: &Path) -> io::Result<SnapshotFile> {
        let mut current = self.lock_current();
        if let Some((held, file)) = &*current
            && held.last_log_id >= meta.last_log_id
        {
            if file.path != written {
                std::fs::remove_file(written)?;
            }
            return Ok(file.clone());
        }
        let index = meta.last_log_id.map_or(0, |last| last.index);
        let path = self.dir.join(format!("{}-{index:020}.snap", self.group));
        std::fs::rename(written, &path)?;
        File::open(&self.dir)?.sync_all()?;
        let file = SnapshotFile::open(path)?;
        if let Some((_, older)) = current.replace((meta.clone(), file.clone()))
            && older.path != file.path
        {
            std::fs::remove_file(&older.path)?;
        }
        Ok(file)
    }

    fn lock_current(&self) -> MutexGuard<'_, Option<(SnapshotMeta, SnapshotFile)>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Writes a snapshot file record by record.
pub(super) struct Writer {
    out: BufWriter<File>,
    pace: SnapshotPace,
    unsynced: usize,
    crc: crc32fast::Hasher,
    records: u64,
}

impl Writer {
    pub(super) fn create(
        path: &Path,
        group: GroupId,
        needs: u32,
        meta: &SnapshotMeta,
        pace: SnapshotPace,
    ) -> io::Result<Self> {
        let out = BufWriter::with_capacity(1 << 20, File::create(path)?);
        let mut writer = Self { out, pace, unsynced: 0, crc: crc32fast::Hasher::new(), records: 0 };
        let meta = encode(meta)?;
        writer.write(MAGIC)?;
        writer.write(&FORMAT.to_le_bytes())?;
        writer.write(&group.0.to_le_bytes())?;
        writer.write(&needs.to_le_bytes())?;
        writer.write(&length(&meta)?.to_le_bytes())?;
        writer.write(&meta)?;
        Ok(writer)
    }

    pub(super) fn record(&mut self, key: &[u8], value: &[u8]) -> io::Result<()> {
        self.write(&length(key)?.to_le_bytes())?;
        self.write(&length(value)?.to_le_bytes())?;
        self.write(key)?;
        self.write(value)?;
        self.records += 1;
        self.unsynced += key.len() + value.len();
        if self.unsynced >= SNAPSHOT_SYNC_BYTES {
            self.out.flush()?;
            self.out.get_ref().sync_data()?;
            self.unsynced = 0;
        }
        std::thread::sleep(self.pace.moved(key.len() + value.len(), Instant::now()));
        Ok(())
    }

    /// Ends the file and syncs it.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.write(&END.to_le_bytes())?;
        self.write(&self.records.to_le_bytes())?;
        let crc = self.crc.clone().finalize();
        self.write(&crc.to_le_bytes())?;
        self.out.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.crc.update(bytes);
        self.out.write_all(bytes)
    }
}

/// Reads a snapshot file record by record; every length is checked before it is believed.
pub(super) struct Reader {
    input: BufReader<File>,
    crc: crc32fast::Hasher,
    records: u64,
    pub(super) meta: SnapshotMeta,
    /// The newest command version that the snapshot came about with.
    pub(super) needs: u32,
}

impl Reader {
    pub(super) fn open(file: &SnapshotFile, group: GroupId) -> io::Result<Self> {
        let input = BufReader::with_capacity(1 << 20, File::open(&file.path)?);
        let (crc, meta) = (crc32fast::Hasher::new(), SnapshotMeta::default());
        let mut reader = Self { input, crc, records: 0, meta, needs: 0 };
        if reader.array::<8>()? != *MAGIC {
            return Err(damaged("it does not begin as one"));
        }
        let format = u32::from_le_bytes(reader.array()?);
        if format != FORMAT {
            return Err(damaged(&format!("it has format {format}, this build knows {FORMAT}")));
        }
        let found = u32::from_le_bytes(reader.array()?);
        if found != group.0 {
            return Err(damaged(&format!("it is of group {found}, not of group {group}")));
        }
        reader.needs = u32::from_le_bytes(reader.array()?);
        if reader.needs > command::VERSION {
            let (needs, known) = (reader.needs, command::VERSION);
            let detail = format!("the snapshot needs command version {needs}, this build knows {known}");
            return Err(io::Error::new(io::ErrorKind::Unsupported, detail));
        }
        let size = u32::from_le_bytes(reader.array()?);
        let meta = reader.bytes(size)?;
        reader.meta = decode(&meta)?;
        Ok(reader)
    }

    /// The next record, or `None` after the last, once count and checksum were found right.
    pub(super) fn next_record(&mut self) -> io::Result<Option<(Vec<u8>, Vec<u8>)>> {
        let key_size = u32::from_le_bytes(self.array()?);
        if key_size == END {
            let records = u64::from_le_bytes(self.array()?);
            let crc = self.crc.clone().finalize();
            if records != self.records || u32::from_le_bytes(self.array()?) != crc {
                return Err(damaged("its checksum or record count is wrong"));
            }
            return Ok(None);
        }
        let value_size = u32::from_le_bytes(self.array()?);
        self.records += 1;
        Ok(Some((self.bytes(key_size)?, self.bytes(value_size)?)))
    }

    fn array<const N: usize>(&mut self) -> io::Result<[u8; N]> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes).map_err(cut)?;
        self.crc.update(&bytes);
        Ok(bytes)
    }

    fn bytes(&mut self, size: u32) -> io::Result<Vec<u8>> {
        if size > PART_BYTES_MAX {
            return Err(damaged("a length is impossible"));
        }
        let mut bytes = vec![0; size as usize];
        self.input.read_exact(&mut bytes).map_err(cut)?;
        self.crc.update(&bytes);
        Ok(bytes)
    }
}

/// Reads a snapshot file to its end, without believing anything of it.
///
/// # Errors
/// `InvalidData` if it is damaged, `Unsupported` if only a newer build can go on from it.
pub(super) fn verify(file: &SnapshotFile, group: GroupId) -> io::Result<()> {
    let mut reader = Reader::open(file, group)?;
    while reader.next_record()?.is_some() {}
    Ok(())
}

fn length(bytes: &[u8]) -> io::Result<u32> {
    let length = u32::try_from(bytes.len()).ok().filter(|length| *length <= PART_BYTES_MAX);
    length.ok_or_else(|| io::Error::new(io::ErrorKind::InvalidInput, "a snapshot record is too large"))
}

/// A file that ends early is damaged; the disk is well.
fn cut(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => damaged("it ends early"),
        _ => error,
    }
}

fn damaged(detail: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the snapshot is damaged: {detail}"))
}
