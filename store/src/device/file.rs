//! The slab file: opened past the page cache, lengthened with real blocks.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::{FallocateFlags, fallocate, fstatvfs};
use rustix::io::Errno;

use super::Space;

/// Unit in which stat counts the blocks of a file, whatever the file system.
const STAT_BLOCK_BYTES: u64 = 512;

/// Opens the slab file, making it if it is missing, and sees to it that its name survives a crash.
pub(crate) fn open_slab(path: &Path) -> io::Result<File> {
    let open = |flags| {
        let mut options = OpenOptions::new();
        options.read(true).write(true).create(true).truncate(false).mode(0o600).custom_flags(flags).open(path)
    };
    let file = match open(libc::O_DIRECT) {
        Err(error) if error.raw_os_error() == Some(libc::EINVAL) => {
            tracing::warn!("this file system has no direct I/O: the slab goes through the page cache");
            open(0)?
        }
        opened => opened?,
    };
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(file)
}

/// Lengthens `file` from `from_bytes` to `to_bytes` and sets the blocks aside, so that a write into them
/// cannot run out of space.
pub(super) fn extend(file: &File, from_bytes: u64, to_bytes: u64) -> io::Result<()> {
    match fallocate(file, FallocateFlags::empty(), from_bytes, to_bytes - from_bytes) {
        Err(Errno::OPNOTSUPP | Errno::NOSYS) => file.set_len(to_bytes),
        result => Ok(result?),
    }
}

/// The room that is left on the file system of `file`.
pub(super) fn space(file: &File) -> io::Result<Space> {
    let volume = fstatvfs(file)?;
    let metadata = file.metadata()?;
    // Where blocks cannot be set aside, the slab will still take what it has not written yet.
    let promised = metadata.len().saturating_sub(metadata.blocks() * STAT_BLOCK_BYTES);
    Ok(Space {
        free_bytes: volume.f_bavail.saturating_mul(volume.f_frsize).saturating_sub(promised),
        total_bytes: volume.f_blocks.saturating_mul(volume.f_frsize),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_sparse_file_will_take_is_not_free() {
        let file = tempfile::tempfile().unwrap();
        let Space { free_bytes, total_bytes } = space(&file).unwrap();
        assert!(0 < free_bytes && free_bytes <= total_bytes, "{free_bytes} of {total_bytes}");
        file.set_len(total_bytes).unwrap();
        assert_eq!(space(&file).unwrap().free_bytes, 0);
    }

    #[test]
    fn blocks_that_are_set_aside_are_counted_once() {
        let file = tempfile::tempfile().unwrap();
        extend(&file, 0, 16 << 20).unwrap();
        let metadata = file.metadata().unwrap();
        assert_eq!(metadata.len(), 16 << 20);
        assert!(metadata.blocks() * STAT_BLOCK_BYTES >= 16 << 20, "{} blocks", metadata.blocks());
    }
}
