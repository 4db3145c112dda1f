//! What happens to the disks of a world, well or badly.

use super::world::World;
use crate::sync::lock;

impl World {
    /// Ends one of the submissions in flight, on whatever disk.
    pub(super) fn complete_any(&mut self) {
        self.completions += 1;
        let mut index = self.rng.index(self.medium.in_flight());
        for device in &self.medium.devices {
            let count = device.in_flight();
            if index < count {
                let done = device.complete(index, &mut self.rng, &self.faults);
                self.trace.event(self.time.now_us(), done.name, &[done.offset, done.count]);
                return;
            }
            index -= count;
        }
    }

    /// Flips a bit of a medium.
    pub(super) fn rot(&mut self) {
        let member = self.rng.index(self.medium.disks.len());
        let len = lock(&self.medium.disks[member]).len_bytes();
        if len > 0 {
            let (offset, bit) = (self.rng.index(len), self.rng.below(8) as u8);
            lock(&self.medium.disks[member]).rot(offset, bit);
            self.note("rot", &[member as u64, offset as u64, u64::from(bit)]);
        }
    }

    /// Takes or gives back room on a disk.
    pub(super) fn fill_disk(&mut self) {
        let member = self.rng.index(self.medium.disks.len());
        let extents = self.rng.below(self.shape.disk_extents + 1);
        lock(&self.medium.disks[member]).set_limit(self.shape.disk_bytes(extents));
        self.note("room", &[member as u64, extents]);
    }
}
