//! What a crash would leave at this moment, as the oracle looks at it.

use std::sync::{Arc, Mutex};

use hearth_proto::{BlockId, Generation};

use super::catalog::{CatalogState, Disks, SimulatedCatalog, Spot, is_durable};
use super::content::Name;
use super::device::SimulatedDevice;
use crate::sync::lock;

pub(super) struct Medium {
    pub(super) disks: Disks,
    pub(super) catalog: Arc<Mutex<CatalogState>>,
    /// The devices of this life, if a store is open.
    pub(super) devices: Vec<Arc<SimulatedDevice>>,
    /// Errors that devices made up while the store tried in vain to open for this life.
    pub(super) errors_before: u64,
}

/// A replica that survives every crash.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Durable {
    pub(super) generation: Generation,
    spot: Spot,
}

impl Medium {
    /// The index, as a store uses it.
    pub(super) fn index(&self) -> SimulatedCatalog {
        SimulatedCatalog { state: Arc::clone(&self.catalog), disks: self.disks.clone() }
    }

    /// The replica of a name that would survive a crash now; `None` if a fault is to blame that this
    /// cannot be said.
    pub(super) fn durable(&self, name: Name) -> Result<Option<Durable>, &'static str> {
        let catalog = lock(&self.catalog);
        if catalog.ready_spots().any(|spot| spot.is_excused(&self.disks)) {
            return Ok(None);
        }
        let entry = catalog.blocks.get(&name.id());
        // What lies in a ready slot counts if the index names nothing later. Of one put it is the better one.
        let ahead = catalog
            .ahead(&self.disks)
            .filter(|(found, _)| found.id == name.id())
            .max_by_key(|(found, _)| found.generation);
        let later = ahead.filter(|(found, _)| entry.is_none_or(|entry| entry.generation <= found.generation));
        if let Some((found, spot)) = later {
            return Ok(Some(Durable { generation: found.generation, spot }));
        }
        let Some(entry) = entry else {
            return Err("the index on disk does not name it, and it lies in no ready slot");
        };
        let Some(spot) = catalog.spot_of(entry) else { return Err("the index does not know its extent") };
        if spot.is_excused(&self.disks) {
            return Ok(None);
        }
        match is_durable(&self.disks, entry, spot) {
            true => Ok(Some(Durable { generation: entry.generation, spot })),
            false => Err("its record is not durable"),
        }
    }

    /// True if a write that went astray may have left the record of a block in a slot that was ready for
    /// another: it is whole, and nothing in it says that it belongs elsewhere.
    pub(super) fn ready_is_tainted(&self) -> bool {
        lock(&self.catalog).ready_spots().any(|spot| spot.is_tainted(&self.disks))
    }

    /// True if a fault may have made a read of the record fail in this life.
    pub(super) fn may_misread(&self, durable: &Durable) -> bool {
        self.devices.iter().any(|device| device.mischief().1 > 0) || self.may_have_lost(durable)
    }

    /// True if a fault may have cost a record.
    pub(super) fn may_have_lost(&self, durable: &Durable) -> bool {
        durable.spot.is_excused(&self.disks)
    }

    /// The bytes that the record of a block takes; zero if the index on disk does not name it and it lies in no
    /// ready slot.
    pub(super) fn record_len(&self, id: &BlockId) -> usize {
        let catalog = lock(&self.catalog);
        let named = catalog.blocks.get(id).and_then(|entry| catalog.spot_of(entry));
        let ahead = || catalog.ahead(&self.disks).find(|(entry, _)| entry.id == *id).map(|(_, spot)| spot);
        named.or_else(ahead).map_or(0, |spot| spot.len)
    }

    pub(super) fn volatile_count(&self) -> usize {
        self.disks.iter().map(|disk| lock(disk).volatile_count()).sum()
    }

    pub(super) fn in_flight(&self) -> usize {
        self.devices.iter().map(|device| device.in_flight()).sum()
    }

    /// Errors that the devices made up in this life.
    pub(super) fn errors(&self) -> u64 {
        self.errors_before + self.devices.iter().map(|device| device.mischief().0).sum::<u64>()
    }
}
