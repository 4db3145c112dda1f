//! Writes that become durable together: which sync covers which, and what a failed one costs. Pure.

use std::io;

use super::stopped;
use super::transfer::{Ended, Transfer};
use crate::mutant::{Mutant, is};

/// The writes of one device that have ended and are not durable yet.
///
/// *Invariant*: a write is covered by a sync that began after its end, or it fails (INV-ACK, INV-EIO).
#[derive(Default)]
pub(super) struct Group {
    /// Covered by no sync that has begun.
    written: Vec<Transfer>,
    /// Covered by the sync that runs.
    syncing: Option<Vec<Transfer>>,
}

impl Group {
    /// Takes a write that is on the device. It ends with the next sync.
    pub(super) fn add(&mut self, write: Transfer) {
        self.written.push(write);
    }

    /// Whether a sync is to begin now: one at a time, and not before half of the writes that are under way
    /// have ended, so that those which came together share it.
    pub(super) fn is_sync_due(&self, writes_in_flight: usize) -> bool {
        self.syncing.is_none() && !self.written.is_empty() && self.written.len() >= writes_in_flight
    }

    pub(super) fn begin_sync(&mut self) {
        self.syncing = Some(std::mem::take(&mut self.written));
    }

    /// Takes in what the sync came to, and gives the writes that have ended with it.
    ///
    /// A device that fails a sync may have forgotten whatever it had not made durable, and says so once: the
    /// next sync knows nothing of it. So writes are lost too that ended while the sync ran.
    pub(super) fn end_sync(&mut self, result: &io::Result<()>) -> impl Iterator<Item = Ended> {
        let mut covered = self.syncing.take().expect("a sync that ends has begun");
        if result.is_err() || is(Mutant::SyncCoversLaterWrites) {
            covered.append(&mut self.written);
        }
        covered.into_iter().map(move |write| write.end(again(result)))
    }

    /// Ends everything after the driver failed.
    pub(super) fn abandon(&mut self) -> impl Iterator<Item = Ended> {
        let left = self.written.drain(..).chain(self.syncing.take().into_iter().flatten());
        left.map(|write| write.end(Err(stopped())))
    }

    pub(super) fn is_empty(&self) -> bool {
        self.written.is_empty() && self.syncing.is_none()
    }
}

/// A result once more, for each of those whom it concerns.
fn again(result: &io::Result<()>) -> io::Result<()> {
    result.as_ref().copied().map_err(|error| match error.raw_os_error() {
        Some(number) => io::Error::from_raw_os_error(number),
        None => io::Error::new(error.kind(), error.to_string()),
    })
}
