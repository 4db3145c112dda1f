//! What a device lies on: a file of a file system, or a raw block device.

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::{FileTypeExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hearth_proto::limits::{DEVICE_BUSY_MS_MAX, DEVICE_BUSY_RETRY_MS, SECTOR_BYTES};
use hearth_proto::{Classified, ErrorKind};
use rustix::fs::{FallocateFlags, fallocate, fstatvfs, ioctl_blksszget};
use rustix::io::Errno;

use super::Space;
use super::disk::Disk;

/// Unit in which stat counts the blocks of a file, whatever the file system.
const STAT_BLOCK_BYTES: u64 = 512;

/// Why a file or a device cannot hold blocks.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DeviceError {
    /// It may be read but not written: its permissions, its mount or the device itself forbid it.
    #[error("{path} is read-only: blocks could never be written to it")]
    ReadOnly {
        /// The file or device.
        path: PathBuf,
        /// The refusal.
        #[source]
        source: io::Error,
    },
    /// A block device that is mounted, or that another process has opened for itself alone.
    #[error("the block device {path} is in use: it is mounted, or another process has it open")]
    InUse {
        /// The device.
        path: PathBuf,
        /// The refusal.
        #[source]
        source: io::Error,
    },
    /// Neither a file nor a block device.
    #[error("{path} is neither a file nor a block device")]
    NotADevice {
        /// What was given.
        path: PathBuf,
    },
    /// Records lie on sectors of 4,096 bytes, which the device cannot address.
    #[error("the block device {path} has sectors of {found_bytes} bytes, which must divide {SECTOR_BYTES}")]
    SectorSize {
        /// The device.
        path: PathBuf,
        /// Its logical sector size.
        found_bytes: u32,
    },
    /// The operating system refused.
    #[error("cannot {what} {path}")]
    Io {
        /// What was tried.
        what: &'static str,
        /// The file or device.
        path: PathBuf,
        /// The refusal.
        #[source]
        source: io::Error,
    },
}

impl Classified for DeviceError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotADevice { .. } | Self::SectorSize { .. } => ErrorKind::FixRequest,
            Self::InUse { .. } => ErrorKind::Retry,
            Self::ReadOnly { .. } | Self::Io { .. } => ErrorKind::Stop,
        }
    }
}

/// An open file or block device. What it holds lies at the same offsets in either.
pub(crate) struct Member {
    file: File,
    kind: Kind,
    direct: bool,
    len_bytes: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    File,
    BlockDevice,
}

impl Member {
    /// Opens `path` past the page cache, where that is possible. A file that is missing is made, and its
    /// name survives a crash.
    ///
    /// # Errors
    /// [`DeviceError`]; nothing was written.
    pub(crate) fn open(path: &Path) -> Result<Self, DeviceError> {
        let kind = kind_of(path)?;
        let (mut file, direct) = open_direct(path, kind)?;
        let refuse = |what| move |source| DeviceError::Io { what, path: path.into(), source };
        let len_bytes = match kind {
            Kind::File => {
                if let Some(folder) = path.parent().filter(|folder| !folder.as_os_str().is_empty()) {
                    let synced = File::open(folder).and_then(|folder| folder.sync_all());
                    synced.map_err(refuse("make durable the name of"))?;
                }
                file.metadata().map_err(refuse("look up the length of"))?.len()
            }
            Kind::BlockDevice => {
                check_block_device(path, &file)?;
                file.seek(SeekFrom::End(0)).map_err(refuse("look up the length of"))?
            }
        };
        Ok(Self { file, kind, direct, len_bytes: AtomicU64::new(len_bytes) })
    }

    /// The same for whatever is the same file or device, by whichever path.
    pub(crate) fn identity(&self) -> io::Result<(u64, u64)> {
        let metadata = self.file.metadata()?;
        Ok(match self.kind {
            Kind::File => (metadata.dev(), metadata.ino()),
            Kind::BlockDevice => (u64::MAX, metadata.rdev()),
        })
    }

    pub(super) fn file(&self) -> &File {
        &self.file
    }

    /// True if transfers go past the page cache.
    pub(super) fn is_direct(&self) -> bool {
        self.direct
    }

    /// The disk beneath, if it is one and sysfs knows it.
    pub(super) fn disk(&self) -> Option<Disk> {
        let metadata = self.file.metadata().ok()?;
        Disk::of(match self.kind {
            Kind::File => metadata.dev(),
            Kind::BlockDevice => metadata.rdev(),
        })
    }

    pub(super) fn len_bytes(&self) -> u64 {
        self.len_bytes.load(Ordering::Acquire)
    }

    /// The room that is left on the file system of a file.
    pub(super) fn space(&self) -> io::Result<Option<Space>> {
        if self.kind == Kind::BlockDevice {
            return Ok(None);
        }
        let volume = fstatvfs(&self.file)?;
        let metadata = self.file.metadata()?;
        // Where blocks cannot be set aside, the slab will still take what it has not written yet.
        let promised = metadata.len().saturating_sub(metadata.blocks() * STAT_BLOCK_BYTES);
        Ok(Some(Space {
            free_bytes: volume.f_bavail.saturating_mul(volume.f_frsize).saturating_sub(promised),
            total_bytes: volume.f_blocks.saturating_mul(volume.f_frsize),
        }))
    }

    /// Lengthens a file and sets the blocks aside, so that a write into them cannot run out of space.
    /// A length that is there already is no error.
    pub(super) fn allocate(&self, len_bytes: u64) -> io::Result<()> {
        let from_bytes = self.len_bytes();
        if len_bytes <= from_bytes {
            return Ok(());
        }
        if self.kind == Kind::BlockDevice {
            return Err(io::Error::new(
                io::ErrorKind::StorageFull,
                format!("the block device has {from_bytes} bytes and cannot get {len_bytes}"),
            ));
        }
        match fallocate(&self.file, FallocateFlags::empty(), from_bytes, len_bytes - from_bytes) {
            Err(Errno::OPNOTSUPP | Errno::NOSYS) => self.file.set_len(len_bytes)?,
            result => result?,
        }
        self.len_bytes.store(len_bytes, Ordering::Release);
        Ok(())
    }
}

/// What lies at `path`; a file is what will be made if there is nothing.
fn kind_of(path: &Path) -> Result<Kind, DeviceError> {
    match std::fs::metadata(path) {
        Ok(metadata) if metadata.is_file() => Ok(Kind::File),
        Ok(metadata) if metadata.file_type().is_block_device() => Ok(Kind::BlockDevice),
        Ok(_) => Err(DeviceError::NotADevice { path: path.into() }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Kind::File),
        Err(source) => Err(DeviceError::Io { what: "look up", path: path.into(), source }),
    }
}

/// Opens with direct I/O, or without where the file system has none; true if with.
fn open_direct(path: &Path, kind: Kind) -> Result<(File, bool), DeviceError> {
    let open = |flags| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).mode(0o600);
        match kind {
            Kind::File => options.create(true).truncate(false).custom_flags(flags),
            // For block devices alone, it refuses one that is mounted or opened likewise.
            Kind::BlockDevice => options.custom_flags(flags | libc::O_EXCL),
        };
        options.open(path)
    };
    let opened = match open_when_free(|| open(libc::O_DIRECT)) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            tracing::warn!("there is no direct I/O here: the slab goes through the page cache");
            open(0).map(|file| (file, false))
        }
        opened => opened.map(|file| (file, true)),
    };
    opened.map_err(|source| {
        let path = path.into();
        match source.raw_os_error() {
            Some(libc::EROFS | libc::EACCES | libc::EPERM) => DeviceError::ReadOnly { path, source },
            Some(libc::EBUSY) => DeviceError::InUse { path, source },
            _ => DeviceError::Io { what: "open", path, source },
        }
    })
}

/// Tries again for a while as long as a former user of the device is not quite gone.
fn open_when_free(open: impl Fn() -> io::Result<File>) -> io::Result<File> {
    for _ in 0..DEVICE_BUSY_MS_MAX / DEVICE_BUSY_RETRY_MS {
        match open() {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {
                std::thread::sleep(Duration::from_millis(DEVICE_BUSY_RETRY_MS));
            }
            opened => return opened,
        }
    }
    open()
}

fn check_block_device(path: &Path, file: &File) -> Result<(), DeviceError> {
    let refuse = |what| move |source| DeviceError::Io { what, path: path.into(), source };
    let found_bytes =
        ioctl_blksszget(file).map_err(io::Error::from).map_err(refuse("look up the sector size of"))?;
    if found_bytes == 0 || !SECTOR_BYTES.is_multiple_of(found_bytes as usize) {
        return Err(DeviceError::SectorSize { path: path.into(), found_bytes });
    }
    // Some kernels open a write-protected device for writing and fail each write. Where sysfs does not
    // say, the first write will.
    let number = file.metadata().map_err(refuse("look up"))?.rdev();
    if Disk::of(number).is_some_and(|disk| disk.is_read_only()) {
        let source = io::Error::from_raw_os_error(libc::EROFS);
        return Err(DeviceError::ReadOnly { path: path.into(), source });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use tempfile::tempdir;

    use super::*;

    fn sparse(len_bytes: u64) -> (tempfile::TempDir, Member) {
        let dir = tempdir().unwrap();
        let member = Member::open(&dir.path().join("slab")).unwrap();
        member.file().set_len(len_bytes).unwrap();
        (dir, member)
    }

    #[test]
    fn what_a_sparse_file_will_take_is_not_free() {
        let (_dir, member) = sparse(0);
        let Space { free_bytes, total_bytes } = member.space().unwrap().unwrap();
        assert!(0 < free_bytes && free_bytes <= total_bytes, "{free_bytes} of {total_bytes}");
        let (_dir, member) = sparse(total_bytes);
        assert_eq!(member.space().unwrap().unwrap().free_bytes, 0);
    }

    #[test]
    fn blocks_that_are_set_aside_are_counted_once() {
        let (_dir, member) = sparse(0);
        member.allocate(16 << 20).unwrap();
        member.allocate(1 << 20).unwrap();
        let metadata = member.file().metadata().unwrap();
        assert_eq!((metadata.len(), member.len_bytes()), (16 << 20, 16 << 20));
        assert!(metadata.blocks() * STAT_BLOCK_BYTES >= 16 << 20, "{} blocks", metadata.blocks());
    }

    #[test]
    fn what_is_neither_a_file_nor_a_block_device_is_refused() {
        let dir = tempdir().unwrap();
        for path in [dir.path(), Path::new("/dev/null")] {
            assert!(matches!(Member::open(path), Err(DeviceError::NotADevice { .. })), "{}", path.display());
        }
    }
}
