//! Who this data folder belongs to: the cluster, the node, and the format of what lies in it.
//!
//! Owns `identity.json` and the `lock` file; a folder is used by one process at a time, and never by
//! another node or an older program than the one that wrote it.

use std::fs::{DirBuilder, File, TryLockError};
use std::io::Write;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use hearth_proto::{ClusterId, DirectoryGroups, NodeId};
use serde::{Deserialize, Serialize};

/// The newest format of a data folder that this program reads.
pub const FORMAT: u32 = 2;
/// The format of folders whose directory is in one group, as older programs write and read them.
const FORMAT_OF_ONE_GROUP: u32 = 1;

const IDENTITY_FILE: &str = "identity.json";
const LOCK_FILE: &str = "lock";

/// What the folder says of its node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Identity {
    /// Format of the folder.
    pub format: u32,
    /// Random, made with the folder: makes joining idempotent.
    pub node_uuid: String,
    /// Name of the node.
    pub name: String,
    /// Cluster and number, once the node has founded or joined one.
    pub member: Option<Member>,
    /// Whether the node has run its metadata plane: it may have voted, and must not do so again without
    /// knowing how.
    #[serde(default)]
    pub has_voted: bool,
}

/// The place of a node in its cluster.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Member {
    /// The cluster.
    pub cluster_id: ClusterId,
    /// The node's number there.
    pub node_id: NodeId,
    /// Whether the node founded the cluster, and so may have to finish doing that.
    pub founder: bool,
    /// Raft groups that share the directory of the cluster.
    #[serde(default)]
    pub directory_groups: DirectoryGroups,
}

/// A data folder, locked for this process until dropped.
#[derive(Debug)]
pub struct DataDir {
    root: PathBuf,
    identity: Identity,
    _lock: File,
}

/// Why a data folder cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The folder cannot be made, read or written.
    #[error("cannot use the data folder {}: {source}; check --data-dir and its permissions", path.display())]
    Io {
        /// What was touched.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// Another process has it.
    #[error("the data folder {} is in use by another hearthd; stop that one or give another --data-dir", path.display())]
    InUse {
        /// The folder.
        path: PathBuf,
    },
    /// A newer program wrote it.
    #[error(
        "the data folder {} has format {found}, and this hearthd reads formats up to {FORMAT}; \
         start a newer hearthd on it (nothing was changed)", path.display()
    )]
    Newer {
        /// The folder.
        path: PathBuf,
        /// Its format.
        found: u32,
    },
    /// The identity is not readable as one.
    #[error("{} is damaged: {problem}; restore it from a backup, or give a new --data-dir", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        problem: String,
    },
    /// The identity of a member is gone.
    #[error(
        "{} is gone, and the metadata of a member lies beside it: restore it from a backup, or remove the node from \
         the cluster and have it join anew with an empty --data-dir", path.display()
    )]
    Gone {
        /// The file.
        path: PathBuf,
    },
    /// The metadata of a member is gone.
    #[error(
        "{} is gone, and this node may have voted: mount what is missing, or remove the node from the cluster and \
         have it join anew with an empty --data-dir", path.display()
    )]
    MetadataGone {
        /// What is missing.
        path: PathBuf,
    },
    /// The folder belongs to another node.
    #[error(
        "the data folder {} belongs to node {found:?}, not {wanted:?}; give the folder of {wanted:?}, or leave --name out",
        path.display()
    )]
    OtherNode {
        /// The folder.
        path: PathBuf,
        /// Whose it is.
        found: String,
        /// Who was to be started.
        wanted: String,
    },
    /// The folder belongs to another cluster.
    #[error(
        "the data folder {} belongs to cluster {found}, not {wanted}; correct --cluster-id or give another --data-dir",
        path.display()
    )]
    OtherCluster {
        /// The folder.
        path: PathBuf,
        /// The cluster it belongs to.
        found: ClusterId,
        /// The cluster asked for.
        wanted: ClusterId,
    },
}

impl DataDir {
    /// Locks the folder, made if it is not there, and reads or makes its identity.
    ///
    /// # Errors
    /// [`IdentityError`]; nothing in the folder is changed by a refusal.
    pub fn open(
        root: &Path,
        name: Option<&str>,
        default_name: &str,
        cluster: Option<ClusterId>,
    ) -> Result<Self, IdentityError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| IdentityError::Io { path, source }
        };
        // KV blocks are the users' prompts: nobody else on the machine shall read them.
        DirBuilder::new().recursive(true).mode(0o700).create(root).map_err(io(root))?;
        let lock_path = root.join(LOCK_FILE);
        let lock = File::create(&lock_path).map_err(io(&lock_path))?;
        match lock.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(IdentityError::InUse { path: root.to_owned() }),
            Err(TryLockError::Error(source)) => return Err(io(&lock_path)(source)),
        }
        let path = root.join(IDENTITY_FILE);
        let (identity, is_new) = match std::fs::read(&path) {
            Ok(bytes) => (read_identity(root, &path, &bytes)?, false),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {
                if root.join("meta").join("rocksdb").join("CURRENT").exists() {
                    return Err(IdentityError::Gone { path });
                }
                let name = name.unwrap_or(default_name).to_owned();
                let node_uuid = uuid::Uuid::new_v4().simple().to_string();
                (
                    Identity { format: FORMAT_OF_ONE_GROUP, node_uuid, name, member: None, has_voted: false },
                    true,
                )
            }
            Err(source) => return Err(io(&path)(source)),
        };
        identity.refuse_other(root, name, cluster)?;
        let dir = Self { root: root.to_owned(), identity, _lock: lock };
        if is_new {
            dir.save()?;
        }
        Ok(dir)
    }

    /// What the folder says of its node.
    pub fn identity(&self) -> &Identity {
        &self.identity
    }

    /// A folder inside.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// Fixes the node's place in a cluster, durably.
    ///
    /// # Errors
    /// [`IdentityError::Io`] if it cannot be written; the folder then says what it said before.
    pub fn become_member(&mut self, member: Member) -> Result<(), IdentityError> {
        assert!(self.identity.member.is_none(), "a node has one place for ever");
        if member.directory_groups != DirectoryGroups::ONE {
            self.identity.format = FORMAT;
        }
        self.identity.member = Some(member);
        self.save()
    }

    /// Checks that the metadata which the node voted with is there.
    ///
    /// # Errors
    /// [`IdentityError::MetadataGone`]: with an empty one it could vote for two leaders of one term.
    pub fn check_metadata(&self) -> Result<(), IdentityError> {
        let path = self.path("meta").join("rocksdb");
        if self.identity.has_voted && !path.join("CURRENT").exists() {
            return Err(IdentityError::MetadataGone { path });
        }
        Ok(())
    }

    /// Remembers that the metadata plane has run.
    ///
    /// # Errors
    /// [`IdentityError::Io`] if it cannot be written.
    pub fn note_metadata(&mut self) -> Result<(), IdentityError> {
        if self.identity.has_voted {
            return Ok(());
        }
        self.identity.has_voted = true;
        self.save()
    }

    /// Writes beside, syncs, renames, syncs the folder: a torn write leaves the old identity.
    fn save(&self) -> Result<(), IdentityError> {
        let path = self.root.join(IDENTITY_FILE);
        let write = || -> std::io::Result<()> {
            let beside = self.root.join("identity.json.new");
            let mut file = File::create(&beside)?;
            file.write_all(&serde_json::to_vec_pretty(&self.identity)?)?;
            file.sync_all()?;
            std::fs::rename(&beside, &path)?;
            File::open(&self.root)?.sync_all()
        };
        write().map_err(|source| IdentityError::Io { path: path.clone(), source })
    }
}

impl Identity {
    /// The uuid as bytes.
    pub fn uuid_bytes(&self) -> [u8; 16] {
        hearth_proto::hex::decode_array(&self.node_uuid).expect("checked when the identity was read or made")
    }

    fn refuse_other(
        &self,
        root: &Path,
        name: Option<&str>,
        cluster: Option<ClusterId>,
    ) -> Result<(), IdentityError> {
        if let Some(wanted) = name.filter(|&wanted| wanted != self.name) {
            return Err(IdentityError::OtherNode {
                path: root.to_owned(),
                found: self.name.clone(),
                wanted: wanted.to_owned(),
            });
        }
        match (self.member, cluster) {
            (Some(member), Some(wanted)) if member.cluster_id != wanted => {
                Err(IdentityError::OtherCluster { path: root.to_owned(), found: member.cluster_id, wanted })
            }
            _ => Ok(()),
        }
    }
}

/// The format is read on its own first, so that a newer one is named as such whatever else changed.
fn read_identity(root: &Path, path: &Path, bytes: &[u8]) -> Result<Identity, IdentityError> {
    #[derive(Deserialize)]
    struct Format {
        format: u32,
    }
    let damaged = |problem: String| IdentityError::Damaged { path: path.to_owned(), problem };
    let Format { format } = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
    if format > FORMAT {
        return Err(IdentityError::Newer { path: root.to_owned(), found: format });
    }
    let identity: Identity = serde_json::from_slice(bytes).map_err(|e| damaged(e.to_string()))?;
    if hearth_proto::hex::decode_array::<16>(&identity.node_uuid).is_none() {
        return Err(damaged("node_uuid is not 32 hexadecimal digits".into()));
    }
    Ok(identity)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLUSTER: ClusterId = ClusterId([7; 16]);

    fn open(root: &Path, name: Option<&str>, cluster: Option<ClusterId>) -> Result<DataDir, IdentityError> {
        DataDir::open(root, name, "node-1", cluster)
    }

    #[test]
    fn an_identity_is_made_once_and_kept() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let mut dir = open(root.path(), None, None).expect("a new folder");
        let uuid = dir.identity().node_uuid.clone();
        let member = Member {
            cluster_id: CLUSTER,
            node_id: NodeId(3),
            founder: false,
            directory_groups: DirectoryGroups::ONE,
        };
        dir.become_member(member).expect("the folder is writable");
        drop(dir);
        let dir = open(root.path(), Some("node-1"), Some(CLUSTER)).expect("the same folder");
        assert_eq!((dir.identity().node_uuid.clone(), dir.identity().member), (uuid, Some(member)));
        assert_eq!(dir.identity().format, FORMAT_OF_ONE_GROUP, "an older program reads it too");
    }

    #[test]
    fn a_folder_with_metadata_and_no_identity_is_refused() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let meta = root.path().join("meta").join("rocksdb");
        std::fs::create_dir_all(&meta).expect("the folder is writable");
        std::fs::write(meta.join("CURRENT"), "MANIFEST-000004").expect("the folder is writable");
        let refused = open(root.path(), None, None).err();
        assert!(matches!(refused, Some(IdentityError::Gone { .. })), "{refused:?}");
        assert!(!root.path().join(IDENTITY_FILE).exists(), "no other identity takes its place");
    }

    #[test]
    fn a_folder_of_several_directory_groups_is_none_for_older_programs() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let mut dir = open(root.path(), None, None).expect("a new folder");
        let directory_groups = DirectoryGroups::new(4).expect("few");
        let member = Member { cluster_id: CLUSTER, node_id: NodeId(1), founder: true, directory_groups };
        dir.become_member(member).expect("the folder is writable");
        drop(dir);
        let dir = open(root.path(), None, None).expect("the same folder");
        assert_eq!((dir.identity().format, dir.identity().member), (FORMAT, Some(member)));
    }

    #[test]
    fn a_folder_from_before_there_could_be_several_has_one() {
        let member = r#"{"cluster_id":"07070707070707070707070707070707","node_id":3,"founder":false}"#;
        let member: Member = serde_json::from_str(member).expect("as it was written then");
        assert_eq!(member.directory_groups, DirectoryGroups::ONE);
        let none = r#"{"cluster_id":"07070707070707070707070707070707","node_id":3,"founder":false,"directory_groups":0}"#;
        assert!(serde_json::from_str::<Member>(none).is_err());
    }

    #[test]
    fn a_member_whose_metadata_is_gone_does_not_start() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let mut dir = open(root.path(), None, None).expect("a new folder");
        dir.check_metadata().expect("it has not voted yet");
        dir.note_metadata().expect("the folder is writable");
        drop(dir);
        let rocksdb = root.path().join("meta/rocksdb");
        let dir = open(root.path(), None, None).expect("the folder is its own");
        assert!(matches!(dir.check_metadata(), Err(IdentityError::MetadataGone { .. })));
        std::fs::create_dir_all(&rocksdb).expect("the folder is writable");
        std::fs::write(rocksdb.join("CURRENT"), b"MANIFEST-1").expect("the folder is writable");
        dir.check_metadata().expect("it is there");
    }

    #[test]
    fn a_folder_of_another_owner_is_refused_untouched() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let mut dir = open(root.path(), Some("a"), None).expect("a new folder");
        let directory_groups = DirectoryGroups::new(4).expect("few");
        dir.become_member(Member {
            cluster_id: CLUSTER,
            node_id: NodeId(1),
            founder: true,
            directory_groups,
        })
        .expect("written");
        assert!(matches!(open(root.path(), None, None), Err(IdentityError::InUse { .. })));
        drop(dir);
        let file = root.path().join(IDENTITY_FILE);
        let before = std::fs::read(&file).expect("the identity");
        assert!(matches!(open(root.path(), Some("b"), None), Err(IdentityError::OtherNode { .. })));
        let other = ClusterId([8; 16]);
        assert!(matches!(open(root.path(), None, Some(other)), Err(IdentityError::OtherCluster { .. })));
        assert_eq!(std::fs::read(&file).expect("the identity"), before);
    }

    #[test]
    fn a_newer_or_damaged_folder_is_refused_with_the_mend() {
        let root = tempfile::tempdir().expect("a temporary folder");
        let file = root.path().join(IDENTITY_FILE);
        std::fs::write(&file, br#"{"format": 9, "unknown": []}"#).expect("written");
        let error = open(root.path(), None, None).expect_err("a newer folder");
        assert!(matches!(error, IdentityError::Newer { found: 9, .. }), "{error}");
        for damaged in [&b"{"[..], br#"{"format":1,"node_uuid":"x","name":"a","member":null}"#] {
            std::fs::write(&file, damaged).expect("written");
            let error = open(root.path(), None, None).expect_err("a damaged folder");
            assert!(matches!(error, IdentityError::Damaged { .. }), "{error}");
        }
    }
}
