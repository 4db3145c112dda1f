//! The slab file: opened past the page cache, lengthened with real blocks.
#![allow(unsafe_code)] // fallocate has no safe form in std.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

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
    let offset = libc::off_t::try_from(from_bytes).map_err(io::Error::other)?;
    let length = libc::off_t::try_from(to_bytes - from_bytes).map_err(io::Error::other)?;
    // SAFETY: the descriptor is open for writing; the call touches no memory.
    if unsafe { libc::fallocate(file.as_raw_fd(), 0, offset, length) } == 0 {
        return Ok(());
    }
    let error = io::Error::last_os_error();
    match error.raw_os_error() {
        Some(libc::EOPNOTSUPP | libc::ENOSYS) => file.set_len(to_bytes),
        _ => Err(error),
    }
}
