//! Clocks that jump: the process of a node believes a file that says how far its clock is off.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The library that stands between a process and the system's clock (libfaketime). Only the time of day is off: what
/// measures how long something takes goes on as it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FakeClock {
    library: PathBuf,
}

impl FakeClock {
    /// Finds the library where packages put it; `None` if it is not installed.
    pub fn find() -> Option<Self> {
        let folders = ["/usr/lib", "/usr/lib64", "/usr/local/lib"].map(PathBuf::from);
        let below = folders.iter().flat_map(|folder| std::fs::read_dir(folder).into_iter().flatten());
        let below = below.filter_map(|entry| Some(entry.ok()?.path()));
        let all: Vec<PathBuf> = below.filter(|path| path.is_dir()).chain(folders.clone()).collect();
        let names = ["faketime/libfaketime.so.1", "libfaketime.so.1"];
        let mut found = all.iter().flat_map(|folder| names.map(|name| folder.join(name)));
        found.find(|path| path.is_file()).map(|library| Self { library })
    }

    /// Lets a process that is started by `command` read its clock's offset from a file.
    pub(crate) fn apply(&self, command: &mut Command, offset_file: &Path) {
        command
            .env("LD_PRELOAD", &self.library)
            .env("FAKETIME_TIMESTAMP_FILE", offset_file)
            // It is read anew each time.
            .env("FAKETIME_NO_CACHE", "1")
            .env("FAKETIME_DONT_FAKE_MONOTONIC", "1")
            .env("FAKETIME_DISABLE_SHM", "1")
            .env("NO_FAKE_STAT", "1");
    }
}

/// Says how far the clock is off, in one step, so that nobody reads half of it.
pub(crate) fn write_offset(file: &Path, offset_ms: i64) -> io::Result<()> {
    let sign = if offset_ms < 0 { '-' } else { '+' };
    let (seconds, ms) = (offset_ms.unsigned_abs() / 1_000, offset_ms.unsigned_abs() % 1_000);
    let next = file.with_extension("next");
    std::fs::write(&next, format!("{sign}{seconds}.{ms:03}\n"))?;
    std::fs::rename(next, file)
}
