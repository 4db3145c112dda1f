//! The disk under the slab: six operations, so that a simulated device can stand in.
//!
//! Whatever memory a transfer uses is given to the device and comes back with the completion. Dropping
//! the future that waits for a transfer therefore never frees memory that the kernel still uses.

mod file;
mod ring;

use std::io;
use std::sync::Arc;
use std::time::Instant;

pub(crate) use file::open_slab;
pub(crate) use ring::{Ring, RingThread};

use crate::arena::{HostBlock, SlotMut};

/// Called once, on the device's thread, when a read ended: the slot comes back with what it now holds.
pub(crate) type ReadDone = Box<dyn FnOnce(SlotMut, io::Result<()>) + Send>;
/// Called once, on the device's thread, when a write or a sync ended.
pub(crate) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// Room on the file system that a device lies on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    /// What is free and not promised to parts of the device that have no blocks yet.
    pub(crate) free_bytes: u64,
    pub(crate) total_bytes: u64,
}

/// A device that holds records.
///
/// Completions come in any order. Callers bound what they have in flight. An error is final: the device
/// has retried what may be retried, and the state of the range is unknown (INV-EIO).
pub(crate) trait Device: Send + Sync {
    /// Length of the device now.
    fn len_bytes(&self) -> u64;

    /// Asks the file system; blocks the caller, which is no tokio thread.
    fn space(&self) -> io::Result<Space>;

    /// Lengthens the device; blocks the caller, which is no tokio thread.
    fn allocate(&self, len_bytes: u64) -> io::Result<()>;

    /// Fills the whole record of `slot`. Fails with `TimedOut` if it could not begin by `deadline`, and
    /// with `UnexpectedEof` if the device ends before the record does.
    fn read(&self, offset: u64, slot: SlotMut, deadline: Instant, done: ReadDone);

    /// Writes the whole record of `block`. It is durable after a sync that began later.
    fn write(&self, offset: u64, block: Arc<HostBlock>, done: Done);

    /// Makes durable every write that was done when this was called.
    fn sync(&self, done: Done);
}

/// The error of a device that was stopped.
pub(crate) fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the device is stopped")
}

#[cfg(test)]
mod tests;
