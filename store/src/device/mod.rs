//! The disk under the slab: five operations, so that a simulated device can stand in.
//!
//! Whatever memory a transfer uses is given to the device and comes back with the completion. Dropping
//! the future that waits for a transfer therefore never frees memory that the kernel still uses.

mod disk;
mod file;
mod group;
mod pool;
pub(crate) mod request;
mod ring;
mod rings;
pub(crate) mod transfer;
pub(crate) mod transfers;
mod waiting;

use std::io;
use std::sync::Arc;

pub use file::DeviceError;
pub(crate) use file::Member;
pub(crate) use request::{Done, ReadDone, ReadEnd, Request};

use crate::arena::Arena;
use crate::config::{Driver, DriverOptions};

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

    /// Asks the file system; `None` for a raw block device, which lies on none. Blocks the caller, which
    /// is no tokio thread.
    fn space(&self) -> io::Result<Option<Space>>;

    /// Lengthens the device; blocks the caller, which is no tokio thread. A raw block device refuses what
    /// goes beyond its size.
    fn allocate(&self, len_bytes: u64) -> io::Result<()>;

    /// Queues a request. It ends exactly once, through what it carries, on a thread of the device or, if
    /// the device is stopped, on the caller's.
    fn submit(&self, request: Request);

    /// Refuses new requests, completes those that were taken, and waits for that. Whoever calls it again
    /// waits for the same. Not to be called from a completion.
    fn stop(&self);
}

/// A device that takes requests, and may still be preparing to serve them.
pub(crate) struct Started {
    pub(crate) device: Arc<dyn Device>,
    ready: std::sync::mpsc::Receiver<()>,
}

impl Started {
    /// Waits until the device serves what it took: lending the arena to the kernel touches every page of
    /// it, so the caller does other things first.
    pub(crate) fn wait_until_ready(&self) {
        // A device that ended before it was ready has refused every request, and says so itself.
        let _ = self.ready.recv();
    }
}

/// Starts a device on `member` whose transfers use the slots of `arena`.
///
/// Options that the kernel or the device refuses are left out, and threads stand in for a ring that may
/// not be, each with a line in the log.
///
/// # Errors
/// The system has no threads to give, or no ring where the options ask for one.
pub(crate) fn start(member: Member, arena: &Arc<Arena>, options: DriverOptions) -> io::Result<Started> {
    let member = Arc::new(member);
    if options.driver != Driver::Threads {
        match ring::start(&member, arena, options) {
            Ok(started) => {
                tracing::info!("the slab is read and written through io_uring");
                return Ok(started);
            }
            Err(error) if options.driver == Driver::IoUring => return Err(error),
            Err(error) => tracing::warn!(
                %error,
                "the system refuses io_uring: the slab is read and written by threads, at more CPU"
            ),
        }
    } else {
        tracing::info!("the slab is read and written by threads, as configured");
    }
    pool::start(&member, arena)
}

/// The error of a device that was stopped.
pub(crate) fn stopped() -> io::Error {
    io::Error::new(io::ErrorKind::NotConnected, "the device is stopped")
}

#[cfg(test)]
mod tests;
