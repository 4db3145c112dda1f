//! The one RocksDB of a node: its column families, its format, and whose data it is.
//!
//! Column family `log` holds the entries of all groups, `vote` their votes and pointers; both go
//! through the write-ahead log. Keys begin with the group's id, big-endian. What was applied is in memory
//! and in snapshot files.

use std::io;
use std::path::{Path, PathBuf};

use hearth_proto::{ClusterId, GroupId, NodeId};
use rocksdb::{ColumnFamily, ColumnFamilyDescriptor, DB, DBRecoveryMode, Options, WriteOptions};

use super::wal_check::{self, CheckError};

/// The on-disk format that this build writes and reads.
const FORMAT: u32 = 4;
const MAGIC: &[u8; 8] = b"HEARTHMD";
const IDENTITY_KEY: &[u8] = b"identity";
const IDENTITY_BYTES: usize = 8 + 4 + 8 + 16 + 4 + 4;
/// A column family of format 1, whose identity is shorter.
const FORMAT_1_FAMILY: &str = "state";
/// Write-ahead log size at which RocksDB flushes column families so that old logs can go.
const WAL_BYTES_MAX: u64 = 256 << 20;
const WRITE_BUFFER_BYTES: usize = 8 << 20;
/// Entries come in megabytes. RocksDB reserves as much again on disk for the write-ahead log, so a small disk must
/// have room for it.
const LOG_BUFFER_BYTES: usize = 32 << 20;

/// Whose data a folder holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) node: NodeId,
    pub(crate) cluster: ClusterId,
    /// Groups that share the directory: blocks were reported to these and would not be found in others.
    pub(crate) directory_groups: u32,
}

/// The folder cannot be opened, or must not be.
#[derive(Debug, thiserror::Error)]
pub(crate) enum OpenError {
    #[error("the metadata folder has format {found}, this build knows up to {supported}")]
    NewerFormat { found: u32, supported: u32 },
    #[error(
        "the metadata folder is of a build before the first release; have the node join anew with an empty one"
    )]
    OlderFormat,
    #[error("the metadata folder is damaged: {0}")]
    Damaged(String),
    #[error("the metadata folder belongs to node {}, not to node {}", found.node, expected.node)]
    OtherNode { found: Identity, expected: Identity },
    #[error("the metadata folder belongs to cluster {}, not to {}", found.cluster, expected.cluster)]
    OtherCluster { found: Identity, expected: Identity },
    #[error("the directory has {} groups, not {}", found.directory_groups, expected.directory_groups)]
    OtherDirectoryGroups { found: Identity, expected: Identity },
    #[error("the metadata folder cannot be opened")]
    Io(#[source] io::Error),
}

/// An open metadata folder.
#[derive(Debug)]
pub(crate) struct Database {
    pub(super) store: Store,
    snapshots: PathBuf,
}

/// What keeps log and votes.
#[derive(Debug)]
pub(super) enum Store {
    Rocks(DB),
    #[cfg(feature = "sim")]
    Simulated(crate::sim::SimDisk),
}

impl Database {
    /// Opens the folder, or makes it for `identity`.
    ///
    /// # Errors
    /// [`OpenError`]: the operator chooses another folder, another build, or restores the data.
    pub(crate) fn open(dir: &Path, identity: Identity) -> Result<Self, OpenError> {
        let snapshots = dir.join("snapshots");
        std::fs::create_dir_all(&snapshots).map_err(OpenError::Io)?;
        #[cfg(feature = "sim")]
        if let Some(disk) = crate::sim::disk_of(dir) {
            return Ok(Self { store: Store::Simulated(disk), snapshots });
        }
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        // A torn last record was never acknowledged and may go. What looks torn and is damaged was found
        // before this, because votes and entries behind it were acknowledged (INV-ACK).
        options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
        options.set_max_total_wal_size(WAL_BYTES_MAX);
        options.set_keep_log_file_num(4);
        let families = ["default", "log", "vote"].map(|name| {
            let mut options = Options::default();
            options.set_write_buffer_size(if name == "log" { LOG_BUFFER_BYTES } else { WRITE_BUFFER_BYTES });
            // Digests do not get smaller.
            options.set_compression_type(rocksdb::DBCompressionType::None);
            ColumnFamilyDescriptor::new(name, options)
        });
        let path = dir.join("rocksdb");
        wal_check::check(&path).map_err(|error| match error {
            CheckError::Damaged(damage) => OpenError::Damaged(damage.to_string()),
            CheckError::Io(error) => OpenError::Io(error),
        })?;
        // Whoever has a snapshot has voted: without the votes it must not vote again.
        let is_new = !path.join("CURRENT").exists();
        if is_new && has_snapshot(&snapshots).map_err(OpenError::Io)? {
            return Err(OpenError::Damaged("its log and its votes are gone, and snapshots are there".into()));
        }
        if DB::list_cf(&options, &path).is_ok_and(|names| names.iter().any(|name| name == FORMAT_1_FAMILY)) {
            return Err(OpenError::OlderFormat);
        }
        let db = DB::open_cf_descriptors(&options, path, families).map_err(open_error)?;
        let database = Self { store: Store::Rocks(db), snapshots };
        database.check_identity(identity)?;
        Ok(database)
    }

    fn check_identity(&self, expected: Identity) -> Result<(), OpenError> {
        let Some(bytes) = self.db().get(IDENTITY_KEY).map_err(open_error)? else {
            let empty = self.db().iterator_cf(self.vote(), rocksdb::IteratorMode::Start).next().is_none();
            if !empty {
                return Err(OpenError::Damaged("it has data and no identity".into()));
            }
            let mut options = WriteOptions::default();
            options.set_sync(true);
            return self.db().put_opt(IDENTITY_KEY, encode(expected), &options).map_err(open_error);
        };
        let found = decode(&bytes)?;
        if found.cluster != expected.cluster {
            return Err(OpenError::OtherCluster { found, expected });
        }
        if found.node != expected.node {
            return Err(OpenError::OtherNode { found, expected });
        }
        if found.directory_groups != expected.directory_groups {
            return Err(OpenError::OtherDirectoryGroups { found, expected });
        }
        Ok(())
    }

    pub(crate) fn db(&self) -> &DB {
        match &self.store {
            Store::Rocks(db) => db,
            #[cfg(feature = "sim")]
            Store::Simulated(_) => unreachable!("a simulated node keeps nothing but log and votes"),
        }
    }

    /// The disk in memory that stands in for RocksDB.
    #[cfg(feature = "sim")]
    pub(super) fn simulated(&self) -> Option<&crate::sim::SimDisk> {
        match &self.store {
            Store::Rocks(_) => None,
            Store::Simulated(disk) => Some(disk),
        }
    }

    /// The folder of snapshot files.
    pub(crate) fn snapshot_dir(&self) -> &Path {
        &self.snapshots
    }

    pub(crate) fn log(&self) -> &ColumnFamily {
        self.family("log")
    }

    pub(crate) fn vote(&self) -> &ColumnFamily {
        self.family("vote")
    }

    fn family(&self, name: &str) -> &ColumnFamily {
        self.db().cf_handle(name).expect("every column family is opened with the database")
    }
}

fn has_snapshot(dir: &Path) -> io::Result<bool> {
    for entry in std::fs::read_dir(dir)? {
        if entry?.path().extension().is_some_and(|extension| extension == "snap") {
            return Ok(true);
        }
    }
    Ok(false)
}

/// The prefix of a group's keys.
pub(crate) fn group_key(group: GroupId) -> [u8; 4] {
    group.0.to_be_bytes()
}

fn encode(identity: Identity) -> Vec<u8> {
    let mut out = Vec::with_capacity(IDENTITY_BYTES);
    out.extend_from_slice(MAGIC);
    out.extend_from_slice(&FORMAT.to_le_bytes());
    out.extend_from_slice(&identity.node.0.to_le_bytes());
    out.extend_from_slice(&identity.cluster.0);
    out.extend_from_slice(&identity.directory_groups.to_le_bytes());
    let crc = crc32fast::hash(&out);
    out.extend_from_slice(&crc.to_le_bytes());
    out
}

fn decode(bytes: &[u8]) -> Result<Identity, OpenError> {
    let damaged = || OpenError::Damaged("its identity record is unreadable".into());
    let rest = bytes.strip_prefix(MAGIC.as_slice()).ok_or_else(damaged)?;
    let (format, rest) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
    let found = u32::from_le_bytes(*format);
    // The version stands before everything that a later format may change, the checksum included.
    if found > FORMAT {
        return Err(OpenError::NewerFormat { found, supported: FORMAT });
    }
    if found < FORMAT {
        return Err(OpenError::OlderFormat);
    }
    let (node, rest) = rest.split_first_chunk::<8>().ok_or_else(damaged)?;
    let (cluster, rest) = rest.split_first_chunk::<16>().ok_or_else(damaged)?;
    let (groups, crc) = rest.split_first_chunk::<4>().ok_or_else(damaged)?;
    let crc: [u8; 4] = crc.try_into().map_err(|_| damaged())?;
    if crc32fast::hash(&bytes[..IDENTITY_BYTES - 4]) != u32::from_le_bytes(crc) {
        return Err(damaged());
    }
    let directory_groups = u32::from_le_bytes(*groups);
    Ok(Identity { node: NodeId(u64::from_le_bytes(*node)), cluster: ClusterId(*cluster), directory_groups })
}

/// An error of the database as the rest knows errors: damage is `InvalidData`.
pub(super) fn io_error(error: rocksdb::Error) -> io::Error {
    match error.kind() {
        rocksdb::ErrorKind::Corruption => io::Error::new(io::ErrorKind::InvalidData, error),
        _ => io::Error::other(error),
    }
}

fn open_error(error: rocksdb::Error) -> OpenError {
    match error.kind() {
        rocksdb::ErrorKind::Corruption => OpenError::Damaged(error.into_string()),
        _ => OpenError::Io(io::Error::other(error)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn identity(node: u64, cluster: u8) -> Identity {
        Identity { node: NodeId(node), cluster: ClusterId([cluster; 16]), directory_groups: 1 }
    }

    #[test]
    fn a_folder_opens_only_for_its_own_node_and_cluster() {
        let dir = tempfile::tempdir().unwrap();
        drop(Database::open(dir.path(), identity(1, 1)).unwrap());
        drop(Database::open(dir.path(), identity(1, 1)).unwrap());
        let error = Database::open(dir.path(), identity(2, 1)).unwrap_err();
        assert!(matches!(&error, OpenError::OtherNode { .. }), "{error}");
        assert!(error.to_string().contains("node 1, not to node 2"), "{error}");
        let split = Identity { directory_groups: 2, ..identity(1, 1) };
        let error = Database::open(dir.path(), split).unwrap_err();
        assert!(matches!(&error, OpenError::OtherDirectoryGroups { .. }), "{error}");
        let error = Database::open(dir.path(), identity(1, 2)).unwrap_err();
        let [found, expected] = [1, 2].map(|cluster| ClusterId([cluster; 16]).to_string());
        assert!(error.to_string().contains(&found) && error.to_string().contains(&expected), "{error}");
    }

    #[test]
    fn a_folder_whose_votes_are_gone_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        drop(Database::open(dir.path(), identity(1, 1)).unwrap());
        std::fs::write(dir.path().join("snapshots/1-7.snap"), b"").unwrap();
        drop(Database::open(dir.path(), identity(1, 1)).unwrap());
        std::fs::remove_dir_all(dir.path().join("rocksdb")).unwrap();
        let error = Database::open(dir.path(), identity(1, 1)).unwrap_err();
        assert!(matches!(&error, OpenError::Damaged(detail) if detail.contains("votes are gone")), "{error}");
    }

    #[test]
    fn a_folder_of_before_the_first_release_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let mut options = Options::default();
        options.create_if_missing(true);
        options.create_missing_column_families(true);
        let families = ["log", "vote", FORMAT_1_FAMILY];
        drop(DB::open_cf(&options, dir.path().join("rocksdb"), families).unwrap());
        let error = Database::open(dir.path(), identity(1, 1)).unwrap_err();
        assert!(matches!(error, OpenError::OlderFormat), "{error}");
    }

    #[test]
    fn a_newer_or_damaged_identity_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let bytes = encode(identity(1, 1));
        let open_with = |bytes: &[u8]| {
            let database = Database::open(dir.path(), identity(1, 1)).unwrap();
            database.db().put(IDENTITY_KEY, bytes).unwrap();
            drop(database);
            let result = Database::open(dir.path(), identity(1, 1)).map(drop);
            let good = encode(identity(1, 1));
            let db = DB::open_cf(&Options::default(), dir.path().join("rocksdb"), ["log", "vote"]);
            db.unwrap().put(IDENTITY_KEY, good).unwrap();
            result
        };
        let mut newer = bytes.clone();
        newer[8] = 5;
        let error = open_with(&newer).unwrap_err();
        assert!(matches!(error, OpenError::NewerFormat { found: 5, supported: 4 }), "{error}");
        assert!(error.to_string().contains("format 5") && error.to_string().contains("up to 4"), "{error}");
        newer[8] = 3;
        let error = open_with(&newer).unwrap_err();
        assert!(matches!(error, OpenError::OlderFormat), "{error}");
        for at in [0, 12, 20, IDENTITY_BYTES - 1] {
            let mut bad = bytes.clone();
            bad[at] ^= 1;
            let error = open_with(&bad).unwrap_err();
            assert!(matches!(error, OpenError::Damaged(_)), "byte {at}: {error}");
        }
        let error = open_with(&bytes[..20]).unwrap_err();
        assert!(matches!(error, OpenError::Damaged(_)), "{error}");
    }
}
