//! What a crash would leave at this moment, as the oracle looks at it.

use std::sync::{Arc, Mutex};

use hearth_proto::Generation;

use super::catalog::{CatalogState, is_durable, range_of};
use super::content::Name;
use super::device::SimulatedDevice;
use super::disk::SimulatedDisk;
use crate::sync::lock;

pub(super) struct Medium {
    pub(super) disk: Arc<Mutex<SimulatedDisk>>,
    pub(super) catalog: Arc<Mutex<CatalogState>>,
    /// The device of this life, if a store is open.
    pub(super) device: Option<Arc<SimulatedDevice>>,
}

/// A replica that survives every crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Durable {
    pub(super) generation: Generation,
    offset: usize,
    len: usize,
}

impl Medium {
    /// The replica of a name that would survive a crash now; `None` if a fault is to blame that this
    /// cannot be said.
    pub(super) fn durable(&self, name: Name) -> Result<Option<Durable>, &'static str> {
        let disk = lock(&self.disk);
        let Some(entry) = lock(&self.catalog).blocks.get(&name.id()).copied() else {
            return Err("the index on disk does not name it");
        };
        let (offset, len) = range_of(&entry);
        if disk.has_lied() || disk.is_tainted(offset, len) {
            return Ok(None);
        }
        match is_durable(&disk, &entry) {
            true => Ok(Some(Durable { generation: entry.generation, offset, len })),
            false => Err("its record is not durable"),
        }
    }

    /// True if a fault may have made a read of the record fail in this life.
    pub(super) fn may_misread(&self, durable: &Durable) -> bool {
        let misreads = self.device.as_ref().map_or(0, |device| device.mischief().1);
        misreads > 0 || self.may_have_lost(durable)
    }

    /// True if a fault may have cost a record.
    pub(super) fn may_have_lost(&self, durable: &Durable) -> bool {
        let disk = lock(&self.disk);
        disk.has_lied() || disk.is_tainted(durable.offset, durable.len)
    }
}
