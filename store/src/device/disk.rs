//! What the kernel says in sysfs of the disk beneath a file or a block device.

use std::path::{Path, PathBuf};
use std::str::FromStr;

use rustix::fs::{Dev, major, minor};

/// The smallest page: memory that lies in single pages makes as many segments.
const PAGE_BYTES: u64 = 4_096;

/// A disk, or a partition of one.
pub(super) struct Disk {
    path: PathBuf,
}

impl Disk {
    /// The disk with a device number; `None` where that is not a disk's, as with file systems that lie on
    /// several or on none.
    pub(super) fn of(number: Dev) -> Option<Self> {
        let path = PathBuf::from(format!("/sys/dev/block/{}:{}", major(number), minor(number)));
        path.exists().then_some(Self { path })
    }

    /// True if it takes no writes.
    pub(super) fn is_read_only(&self) -> bool {
        value(&self.path.join("ro")) == Some(1)
    }

    /// True if it has queues whose completions can be asked for.
    pub(super) fn can_be_polled(&self) -> bool {
        self.queue("io_poll") == Some(1)
    }

    /// The longest transfer that surely stays in one piece, wherever its memory lies; `None` if unknown.
    pub(super) fn piece_bytes_max(&self) -> Option<u64> {
        let bytes = self.queue("max_sectors_kb")? * 1_024;
        Some(bytes.min(self.queue("max_segments")? * PAGE_BYTES))
    }

    fn queue(&self, name: &str) -> Option<u64> {
        // A partition has the queue of its disk.
        let folder = ["queue", "../queue"].map(|queue| self.path.join(queue));
        folder.iter().find_map(|folder| value(&folder.join(name)))
    }
}

fn value<T: FromStr>(path: &Path) -> Option<T> {
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn every_disk_says_how_long_a_piece_may_be_and_memory_is_no_disk() {
        let Ok(disks) = std::fs::read_dir("/sys/dev/block") else {
            return println!("SKIPPED: there is no sysfs here");
        };
        for disk in disks {
            let disk = Disk { path: disk.unwrap().path() };
            assert!(disk.piece_bytes_max().is_some_and(|bytes| bytes >= PAGE_BYTES), "{:?}", disk.path);
        }
        assert!(Disk::of(std::fs::metadata("/proc/self").unwrap().dev()).is_none());
    }
}
