//! A slab at its path: what is there before anything is changed, and how a new one begins.
//!
//! The superblock is read and written through the page cache, before and beside the direct transfers that
//! never touch it.

use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use hearth_proto::limits::{SLAB_DATA_OFFSET_BYTES, SUPERBLOCK_BYTES};

use super::superblock::{Superblock, SuperblockError};
use crate::error::OpenError;

/// How far beyond the beginning of the first extent is looked for what is not ours.
const LOOKED_AT_BEYOND: usize = 64 << 10;

/// What lies at the path of a slab.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Found {
    /// Nothing: a file may be made.
    Absent,
    /// An empty file or device.
    Blank,
    /// A slab of some store.
    Slab(Superblock),
    /// A slab whose superblock is damaged.
    Damaged,
}

/// Looks at the path of a slab; changes nothing.
pub(crate) fn look(path: &Path) -> Result<Found, OpenError> {
    // What others keep on devices begins anywhere in here: labels of volumes, superblocks of file systems.
    let mut looked_at = vec![0; SLAB_DATA_OFFSET_BYTES as usize + LOOKED_AT_BEYOND];
    let read = File::open(path).and_then(|file| fill(file, &mut looked_at));
    let len = match read {
        Ok(len) => len,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Found::Absent),
        Err(error) => return Err(OpenError::io(format!("read {}", path.display()))(error)),
    };
    let (bytes, rest) = looked_at.split_first_chunk().expect("more is looked at than a superblock");
    let is_blank = rest.iter().all(|byte| *byte == 0);
    match Superblock::decode(bytes) {
        Ok(superblock) => Ok(Found::Slab(superblock)),
        Err(SuperblockError::Blank) if is_blank => Ok(Found::Blank),
        // A file that ends within the superblock is one whose making was interrupted.
        Err(_) if len < SUPERBLOCK_BYTES && Superblock::may_begin_with(&bytes[..len]) => Ok(Found::Damaged),
        Err(SuperblockError::Newer { found, supported }) => Err(OpenError::NewerFormat {
            dir: path.into(),
            found: u32::from(found),
            supported: u32::from(supported),
        }),
        Err(SuperblockError::Blank | SuperblockError::NoSuperblock) => {
            Err(OpenError::NotASlab { path: path.into() })
        }
        Err(SuperblockError::Checksum | SuperblockError::Field(_)) => Ok(Found::Damaged),
    }
}

/// Begins a slab. It is durable when this returns.
pub(crate) fn begin(path: &Path, superblock: &Superblock) -> Result<(), OpenError> {
    let write = || {
        let mut file = OpenOptions::new().write(true).open(path)?;
        file.write_all(&superblock.encode())?;
        file.sync_all()
    };
    write().map_err(OpenError::io(format!("write the superblock of {}", path.display())))
}

/// Moves a damaged slab file out of the way and says where it lies now. A device cannot be moved: it is
/// begun anew where it is.
pub(crate) fn set_aside(path: &Path, unix_ms: u64) -> Result<Option<PathBuf>, OpenError> {
    let refuse = |error| OpenError::io(format!("set {} aside", path.display()))(error);
    if !std::fs::metadata(path).map_err(refuse)?.is_file() {
        return Ok(None);
    }
    let mut name = path.as_os_str().to_owned();
    name.push(format!(".damaged-{unix_ms}"));
    let aside = PathBuf::from(name);
    std::fs::rename(path, &aside).map_err(refuse)?;
    Ok(Some(aside))
}

/// Fills `bytes` as far as the file goes.
fn fill(mut file: File, bytes: &mut [u8]) -> io::Result<usize> {
    let mut len = 0;
    while len < bytes.len() {
        match file.read(&mut bytes[len..]) {
            Ok(0) => break,
            Ok(count) => len += count,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(len)
}
