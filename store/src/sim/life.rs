//! How a store's life begins and ends: opening, crashing, closing.

use std::ops::Range;
use std::sync::Arc;

use hearth_proto::limits::SECTOR_BYTES;
use hearth_proto::{BlockId, Tier, Urgency};

use super::catalog::{DATA_OFFSET, Fenced};
use super::content::Name;
use super::device::SimulatedDevice;
use super::disk::Fate;
use super::faults::Faults;
use super::history::{Broken, broken};
use super::medium::Medium;
use super::rng::Rng;
use super::workload::Kind;
use super::world::{Life, World};
use crate::ahead::Wait;
use crate::arena::Arena;
use crate::clock::Clock;
use crate::config::{NvmeConfig, StoreConfig};
use crate::device::Device;
use crate::extents::class_of;
use crate::recovery::{Parts, assemble};
use crate::slab::Place;
use crate::store::Store;
use crate::sync::lock;
use crate::volume::VolumeMember;
use crate::writer::{Message, Writer};

/// Attempts to open a store whose index refuses changes or whose power fails.
const OPENINGS_MAX: usize = 4;
/// Long enough for every call of a verification.
const PATIENCE_US: u64 = 60_000_000;

impl World {
    /// Opens the store, however often the power fails meanwhile.
    pub(super) fn open(&mut self) -> Result<(), Broken> {
        self.medium.errors_before = 0;
        for attempt in 0..OPENINGS_MAX {
            let faults = if attempt + 1 == OPENINGS_MAX { Faults::default() } else { self.faults };
            lock(&self.medium.catalog).begin_life(faults);
            self.lifts_fences = self.rng.below(4) == 0;
            let fenced = lock(&self.medium.catalog).fenced();
            let config = self.config();
            let arena = Arena::new(config.arena_bytes, config.extent_bytes)
                .map_err(|error| Broken { invariant: "OPEN", detail: error.to_string() })?;
            let parts = self.parts(faults);
            match assemble(&config, Arc::clone(&arena), parts) {
                Ok((core, _, report)) => {
                    let writer = Writer::new(Arc::clone(&core), Box::new(self.medium.index()));
                    let store = Store::new(core, None);
                    self.oracle.reopened(&store, &self.medium)?;
                    self.trace_changes();
                    self.check_lifted(&store, &fenced)?;
                    self.note("opened", &[report.blocks, report.dropped]);
                    self.life = Some(Life::new(store, writer, arena));
                    self.lives += 1;
                    return Ok(());
                }
                Err(error) => {
                    self.medium.errors_before = self.medium.errors();
                    self.note("refused to open", &[error.to_string().len() as u64]);
                }
            }
        }
        broken("OPEN", "a store does not open on an index that takes changes")
    }

    /// Whether a store that was to lift fences did, and forgot what lay behind them (INV-EIO).
    fn check_lifted(&self, store: &Store, fenced: &Fenced) -> Result<(), Broken> {
        let catalog = lock(&self.medium.catalog);
        let left = (store.stats().fenced_extents, catalog.fenced().extents.len());
        let expected = if self.lifts_fences { 0 } else { fenced.extents.len() };
        // A slot that was ready and cannot be read costs its extent while the store opens.
        let fenced_now = self.medium.errors() > 0 && left.0 == left.1 as u64;
        if left != (expected as u64, expected) && !fenced_now {
            return broken("INV-EIO", format!("{left:?} extents are fenced, expected {expected}"));
        }
        let came_back = |block: &&BlockId| {
            let entry = catalog.blocks.get(block);
            entry.is_some_and(|entry| fenced.extents.contains(&catalog.extent_of(entry)))
        };
        match fenced.blocks.iter().find(came_back) {
            Some(block) => broken("INV-EIO", format!("{block:?} came back from a fenced extent")),
            None => Ok(()),
        }
    }

    /// Devices and an index for one life.
    fn parts(&mut self, faults: Faults) -> Parts {
        let device = |disk| SimulatedDevice::new(Arc::clone(disk), Arc::clone(&self.time));
        self.medium.devices = self.medium.disks.iter().map(device).collect();
        let member = |(number, device): (u16, &Arc<SimulatedDevice>)| VolumeMember {
            device: Arc::clone(device) as _,
            number,
            data_offset: DATA_OFFSET as u64,
            extents_max: self.shape.disk_extents as u32,
        };
        let members = (0..).zip(&self.medium.devices).map(member).collect();
        let catalog = Box::new(self.medium.index());
        let clock = Clock::simulated(Arc::clone(&self.time));
        let wait = wait_for_reads(&self.medium, self.rng.fork(), faults);
        Parts { members, catalog, clock, wait, ready: self.shape.ready, seed: self.rng.next() }
    }

    /// The power fails.
    pub(super) fn crash(&mut self) -> Result<(), Broken> {
        let mut rng = self.rng.fork();
        let style = rng.below(5);
        let shuffles = rng.below(2) == 0;
        let mut order = rng.fork();
        let mut len = rng.fork();
        self.crash_with(
            |lens: Range<usize>| {
                if style == 0 { lens.end } else { len.between(lens.start as u64, lens.end as u64) as usize }
            },
            |sequence| {
                if shuffles {
                    order.shuffle(sequence);
                }
            },
            |_, atoms| match style {
                0 => Fate::Keep,
                1 => Fate::Lose,
                _ => fate(&mut rng, atoms),
            },
        )
    }

    /// The power fails, and the caller says what becomes of each volatile write.
    pub(super) fn crash_with(
        &mut self,
        mut len_bytes: impl FnMut(Range<usize>) -> usize,
        mut order: impl FnMut(&mut [usize]),
        mut fate: impl FnMut(usize, usize) -> Fate,
    ) -> Result<(), Broken> {
        let Some(mut life) = self.life.take() else { return Ok(()) };
        self.oracle.follow(&life.store, &self.medium)?;
        self.trace_changes();
        life.end_leases()?;
        self.abandon_calls();
        if lock(&self.medium.catalog).refusals > 0 {
            self.oracle.history.forget_removals();
        }
        self.medium.devices.iter().for_each(|device| device.crash());
        self.medium.devices.clear();
        self.medium.index().crash();
        if self.medium.ready_is_tainted() {
            self.oracle.history.forget_removals();
        }
        let volatile = self.medium.volatile_count() as u64;
        for disk in &self.medium.disks {
            lock(disk).crash(&mut len_bytes, &mut order, &mut fate);
        }
        self.crashes += 1;
        self.note("crash", &[volatile]);
        Ok(())
    }

    /// Closes the store as its owner would, with calls still open, and looks for what was left behind.
    pub(super) fn close(&mut self) -> Result<(), Broken> {
        self.begin(Kind::Close, Name(0), PATIENCE_US);
        let Some(nvme) = self.life.as_ref().and_then(|life| life.store.core().nvme.as_ref()) else {
            return Ok(());
        };
        let mailbox = Arc::clone(&nvme.mailbox);
        // Refused only by a writer that has ended.
        let _ = mailbox.send(Message::Stop);
        while !self.power_failed() && !self.writer_has_ended() {
            if !self.step()? {
                let writer = self.life.as_ref().and_then(|life| life.writer.as_ref());
                let waits_for = writer.map_or_else(String::new, Writer::waits_for);
                return broken("INV-LEAK", format!("the writer waits for what never comes: {waits_for}"));
            }
        }
        if self.power_failed() {
            return self.crash();
        }
        if let Some(mut writer) = self.life.as_mut().and_then(|life| life.writer.take()) {
            writer.end();
        }
        self.medium.devices.iter().for_each(|device| device.stop());
        self.look()?;
        if self.power_failed() {
            return self.crash();
        }
        self.calls_to_come = 0;
        self.run_calls()?;
        self.end_life()
    }

    /// Nothing is left of a closed store but what it holds (INV-LEAK).
    fn end_life(&mut self) -> Result<(), Broken> {
        let Some(mut life) = self.life.take() else { return Ok(()) };
        life.end_leases()?;
        self.oracle.compare(&life.store)?;
        let stats = life.store.stats();
        let (mut host_bytes, mut nvme_bytes) = (0, 0);
        for delta in life.store.inventory() {
            match delta.tier {
                Tier::Host => host_bytes += class_of(delta.payload_len as usize) as usize * SECTOR_BYTES,
                _ => nvme_bytes += self.medium.record_len(&delta.id),
            }
        }
        let (host_bytes, nvme_bytes) = (host_bytes as u64, nvme_bytes as u64);
        if (stats.host_used_bytes, stats.nvme_used_bytes) != (host_bytes, nvme_bytes) {
            return broken("INV-LEAK", format!("blocks take {host_bytes} and {nvme_bytes} bytes: {stats:?}"));
        }
        if stats.pending_writes > 0 {
            return broken("INV-LEAK", format!("writes are pending after the end: {stats:?}"));
        }
        let errors = self.medium.errors();
        let refusals = lock(&self.medium.catalog).refusals;
        if errors + refusals == 0 && stats.io_errors > 0 {
            return broken("INV-EIO", format!("errors are counted that nobody made: {stats:?}"));
        }
        self.check_fences(&life)?;
        let numbers = [stats.puts, stats.gets_host, stats.gets_nvme, stats.gets_missed, stats.evicted_nvme];
        self.note("closed", &numbers);
        let arena = Arc::clone(&life.arena);
        drop(life);
        self.medium.devices.clear();
        if refusals > 0 {
            self.oracle.history.forget_removals();
        }
        let slots = lock(arena.slots());
        match slots.used_bytes() {
            0 if slots.anything_is_reserved() => {
                broken("INV-LEAK", "an extent of the arena is reserved for nobody")
            }
            0 => Ok(()),
            bytes => broken("INV-LEAK", format!("{bytes} bytes of the arena are in use by nobody")),
        }
    }

    /// An extent that failed a write is out of service, and whatever is stays so when the store opens again
    /// (INV-EIO).
    fn check_fences(&self, life: &Life) -> Result<(), Broken> {
        let Some(nvme) = &life.store.core().nvme else { return Ok(()) };
        let catalog = lock(&self.medium.catalog);
        let slots = lock(&nvme.slots);
        for (member, device) in (0..).zip(&self.medium.devices) {
            for offset in device.failed_writes() {
                let local = ((offset - DATA_OFFSET) / self.shape.extent_bytes) as u32;
                let place = Some(Place { member, local });
                let extent = (0..slots.count()).find(|extent| nvme.volume.place_of(*extent) == place);
                if !extent.is_some_and(|extent| slots.is_fenced(extent)) {
                    return broken("INV-EIO", format!("{place:?} failed a write and is in service"));
                }
            }
        }
        for extent in (0..slots.count()).filter(|extent| slots.is_fenced(*extent)) {
            let remembered = catalog.extents.get(&extent).is_some_and(|entry| entry.fenced);
            if !remembered && catalog.refusals == 0 {
                return broken("INV-EIO", format!("extent {extent} is back in service after a restart"));
            }
        }
        Ok(())
    }

    /// Reads every block that the store says it holds, on a device without faults.
    pub(super) fn verify(&mut self) -> Result<(), Broken> {
        let faults = std::mem::take(&mut self.faults);
        lock(&self.medium.catalog).set_faults(Faults::default());
        for name in self.oracle.held() {
            self.begin(Kind::Get(Urgency::Normal), name, PATIENCE_US);
            self.run_calls()?;
        }
        lock(&self.medium.catalog).set_faults(faults);
        self.faults = faults;
        Ok(())
    }

    /// Puts every block that the store says it holds once more, which must not take a former life's word
    /// for it.
    pub(super) fn put_all_again(&mut self) -> Result<(), Broken> {
        for name in self.oracle.held() {
            let Some((version, len)) = self.oracle.latest(name) else { continue };
            self.begin(Kind::put((version, len), true), name, PATIENCE_US);
        }
        self.run_calls()
    }

    fn writer_has_ended(&self) -> bool {
        self.life.as_ref().and_then(|life| life.writer.as_ref()).is_none_or(|writer| writer.has_ended())
    }

    fn abandon_calls(&mut self) {
        let mut tasks = lock(&self.tasks);
        while tasks.len() > 0 {
            let call = tasks.cancel(0);
            self.oracle.abandoned(&call);
        }
        for (call, answer) in tasks.take_ended() {
            drop(answer);
            self.oracle.abandoned(&call);
        }
    }

    fn config(&self) -> StoreConfig {
        let extent_bytes = self.shape.extent_bytes as u64;
        StoreConfig {
            arena_bytes: self.shape.arena_extents * extent_bytes,
            nvme: Some(NvmeConfig {
                compression: self.shape.compression,
                lift_fences: self.lifts_fences,
                ..NvmeConfig::one_file("simulated", self.shape.disk_extents * extent_bytes)
            }),
            extent_bytes: self.shape.extent_bytes,
        }
    }
}

/// Lets the devices work until a read has ended.
fn wait_for_reads(medium: &Medium, mut rng: Rng, faults: Faults) -> Wait {
    let (devices, catalog) = (medium.devices.clone(), Arc::clone(&medium.catalog));
    Box::new(move |mut end| {
        loop {
            devices.iter().for_each(|device| device.pump());
            if let Some(answer) = end.try_take() {
                lock(&catalog).misread |= devices.iter().any(|device| device.mischief().1 > 0);
                return answer;
            }
            let busy: Vec<_> = devices.iter().filter(|device| device.in_flight() > 0).collect();
            let device = busy[rng.index(busy.len())];
            device.complete(rng.index(device.in_flight()), &mut rng, &faults);
        }
    })
}

fn fate(rng: &mut Rng, atoms: usize) -> Fate {
    match rng.below(10) {
        0..=3 => Fate::Keep,
        4..=6 => Fate::Lose,
        7 => Fate::Prefix(rng.index(atoms + 1)),
        8 => Fate::Suffix(rng.index(atoms + 1)),
        _ => Fate::Atoms(rng.next()),
    }
}
