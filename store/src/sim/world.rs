//! A store on simulated parts, and the one who decides what happens next.
//!
//! Everything runs on the caller's thread. In each step a seed picks among what could happen: a caller
//! is polled, the device ends a submission, the writer takes a turn, time passes, somebody gives up.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use hearth_proto::Tier;

use super::catalog::{CatalogState, DATA_OFFSET};
use super::content::{Name, Version, claim, is};
use super::disk::SimulatedDisk;
use super::faults::Faults;
use super::history::{Broken, broken};
use super::medium::Medium;
use super::oracle::Oracle;
use super::rng::Rng;
use super::run::Options;
use super::tasks::Tasks;
use super::trace::Trace;
use super::workload::{Answer, Call, Kind, choose_name, patience_us, perform};
use crate::arena::{Arena, Lease};
use crate::clock::SimulatedTime;
use crate::codec::Compression;
use crate::ready::ReadyLimits;
use crate::slab::Change;
use crate::store::Store;
use crate::sync::lock;
use crate::writer::Writer;

/// Calls that are open at a time.
const CALLS_MAX: usize = 8;
const LEASES_MAX: usize = 4;
/// Steps after which a run is stuck.
const STEPS_MAX: u64 = 50_000;

/// The sizes of a run's store.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) extent_bytes: usize,
    pub(super) arena_extents: u64,
    /// Extents of each disk.
    pub(super) disk_extents: u64,
    pub(super) disks: usize,
    /// True if few names are put and removed over and over, so that slots are reused all the time.
    pub(super) churns: bool,
    pub(super) compression: Compression,
    /// How many slots are kept ready.
    pub(super) ready: ReadyLimits,
}

impl Shape {
    /// The length of a disk with so many extents.
    pub(super) fn disk_bytes(&self, extents: u64) -> usize {
        DATA_OFFSET + extents as usize * self.extent_bytes
    }
}

pub(super) struct World {
    pub(super) rng: Rng,
    pub(super) trace: Trace,
    pub(super) time: Arc<SimulatedTime>,
    pub(super) shape: Shape,
    /// True if the next life lifts the fences of the lives before.
    pub(super) lifts_fences: bool,
    pub(super) faults: Faults,
    pub(super) medium: Medium,
    pub(super) oracle: Oracle,
    pub(super) tasks: Arc<Mutex<Tasks>>,
    pub(super) life: Option<Life>,
    /// Calls that are still to begin in this life.
    pub(super) calls_to_come: u32,
    pub(super) crashes: u64,
    pub(super) lives: u64,
    /// Submissions that the devices have ended.
    pub(super) completions: u64,
    calls: u64,
    stalled_until_us: u64,
    /// A name that was removed, and is put again with other bytes.
    replaced: Option<Name>,
}

/// One opened store.
pub(super) struct Life {
    pub(super) store: Store,
    /// Gone once it has ended.
    pub(super) writer: Option<Writer>,
    pub(super) arena: Arc<Arena>,
    leases: Vec<Held>,
}

struct Held {
    lease: Lease,
    name: Name,
    version: Version,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Action {
    Poll,
    Complete,
    Commit,
    Turn,
    Begin,
    PassTime,
    GiveUp,
    DropLease,
    Rot,
    Stall,
    Fill,
    Compare,
}

impl Life {
    pub(super) fn new(store: Store, writer: Writer, arena: Arc<Arena>) -> Self {
        Self { store, writer: Some(writer), arena, leases: Vec::new() }
    }
}

impl World {
    pub(super) fn new(seed: u64, options: &Options) -> Self {
        let mut rng = Rng::new(seed);
        let churns = rng.below(2) == 0;
        let shape = Shape {
            extent_bytes: rng.pick(&[32 << 10, 64 << 10]),
            arena_extents: rng.between(2, 4),
            // Where few names come and go, little room lets them take each other's slots.
            disk_extents: if churns { rng.between(1, 2) } else { rng.between(2, 4) },
            disks: rng.pick(&[1, 1, 1, 2, 3]),
            churns,
            compression: match rng.below(8) {
                0..=4 => Compression::Off,
                5 | 6 => Compression::Fast,
                _ => Compression::Dense,
            },
            ready: ReadyLimits {
                bytes_max: rng.pick(&[0, 0, 24 << 10, 1 << 20]),
                tier_divisor: rng.pick(&[2, 4, 8]),
                slots_min: 1,
            },
        };
        let faults = Faults::choose(&mut rng);
        let verbose = options.verbose;
        let catalog = CatalogState::new(shape.extent_bytes, rng.fork());
        let disk = || Arc::new(Mutex::new(SimulatedDisk::new(shape.disk_bytes(shape.disk_extents))));
        let disks = (0..shape.disks).map(|_| disk()).collect();
        let medium = Medium { disks, catalog, devices: Vec::new(), errors_before: 0 };
        Self {
            rng,
            trace: Trace::new(verbose),
            time: SimulatedTime::new(),
            shape,
            lifts_fences: false,
            faults,
            medium,
            oracle: Oracle::new(),
            tasks: Arc::default(),
            life: None,
            calls_to_come: 0,
            crashes: 0,
            lives: 0,
            completions: 0,
            calls: 0,
            stalled_until_us: 0,
            replaced: None,
        }
    }

    pub(super) fn note(&mut self, name: &'static str, numbers: &[u64]) {
        self.trace.event(self.time.now_us(), name, numbers);
    }

    /// True once a crash came in the middle of a commit.
    pub(super) fn power_failed(&self) -> bool {
        lock(&self.medium.catalog).crashed
    }

    /// Begins a call.
    pub(super) fn begin(&mut self, kind: Kind, name: Name, patience_us: u64) {
        let Some(life) = &self.life else { return };
        self.calls += 1;
        let deadline_us = self.time.now_us() + patience_us;
        let call = Call { number: self.calls, kind, name, began: self.oracle.step, deadline_us };
        let deadline = self.time.now() + Duration::from_micros(patience_us);
        let work = perform(&life.store, &call, deadline);
        self.oracle.began(&call);
        lock(&self.tasks).spawn(call, work);
        self.note(kind.name(), &[call.number, u64::from(name.0), kind.number(), patience_us]);
    }

    /// Steps until every call has ended and none is to come, or the power fails.
    pub(super) fn run_calls(&mut self) -> Result<(), Broken> {
        while !self.power_failed() && (self.calls_to_come > 0 || lock(&self.tasks).len() > 0) {
            if !self.step()? {
                return broken("INV-DEADLINE", "calls wait, and nothing is left that could end them");
            }
        }
        Ok(())
    }

    /// Lets one thing happen. False if nothing can.
    pub(super) fn step(&mut self) -> Result<bool, Broken> {
        self.oracle.step += 1;
        if self.oracle.step > STEPS_MAX {
            return broken("INV-DEADLINE", "the run does not come to an end");
        }
        let Some(action) = self.choose() else { return Ok(false) };
        self.act(action)?;
        let pause_us = self.rng.below(40);
        self.time.advance_to(self.time.now_us() + pause_us);
        self.look()?;
        Ok(true)
    }

    /// Looks at what came of a step.
    pub(super) fn look(&mut self) -> Result<(), Broken> {
        let Some(life) = &mut self.life else { return Ok(()) };
        self.medium.devices.iter().for_each(|device| device.pump());
        self.oracle.now_us = self.time.now_us();
        let followed = self.oracle.follow(&life.store, &self.medium);
        self.trace_changes();
        followed?;
        if let Some(entry) = lock(&self.medium.catalog).premature.take() {
            return broken("INV-PUBLISH", format!("the index on disk names what is not durable: {entry:?}"));
        }
        if self.power_failed() {
            return Ok(());
        }
        let ended = lock(&self.tasks).take_ended();
        for (call, answer) in ended {
            let now_us = self.time.now_us();
            self.trace.event(now_us, "ended", &[call.number]);
            // A store that was closed promises nothing about what it forgets.
            let closed = self.life.as_ref().is_none_or(|life| life.writer.is_none());
            if closed && matches!(answer, Answer::Removed(_)) {
                self.oracle.abandoned(&call);
                continue;
            }
            if let Some(lease) = self.oracle.check(&call, answer, now_us, &self.medium)? {
                self.trace.event(now_us, "hit", &[lease.generation().0, u64::from(lease.crc32())]);
                if let Some((name, version)) = claim(&lease)
                    && let Some(life) = &mut self.life
                {
                    life.leases.push(Held { lease, name, version });
                }
            }
        }
        Ok(())
    }

    /// Notes what the index on disk was told, and what the store reported.
    pub(super) fn trace_changes(&mut self) {
        let now_us = self.time.now_us();
        for change in std::mem::take(&mut lock(&self.medium.catalog).committed) {
            let (name, numbers) = match change {
                Change::PutBlock(entry) => {
                    let name = u64::from(Name::of(&entry.id).0);
                    ("index: put", [name, u64::from(entry.sector), entry.generation.0])
                }
                Change::DeleteBlock(id) => ("index: delete", [u64::from(Name::of(&id).0), 0, 0]),
                Change::PutExtent(entry) => {
                    let numbers = [entry.extent, entry.class, u32::from(entry.fenced)].map(u64::from);
                    ("index: extent", numbers)
                }
                Change::PutReady(slot) => ("index: ready", [u64::from(slot.sector), slot.from.0, 0]),
                Change::DeleteReady(sector) => ("index: not ready", [u64::from(sector), 0, 0]),
                Change::SetAside(until) => ("index: set aside", [until, 0, 0]),
            };
            self.trace.event(now_us, name, &numbers);
        }
        for delta in self.oracle.deltas() {
            let numbers =
                [Name::of(&delta.id).0, u32::from(delta.tier == Tier::Nvme), u32::from(delta.added)];
            self.trace.event(now_us, "delta", &numbers.map(u64::from));
        }
    }

    fn choose(&mut self) -> Option<Action> {
        let life = self.life.as_ref()?;
        let (open, ready) = {
            let tasks = lock(&self.tasks);
            (tasks.len(), tasks.ready_count())
        };
        let answers = self.medium.in_flight() > 0;
        let stalls = self.time.now_us() < self.stalled_until_us;
        let nvme = life.store.core().nvme.as_ref();
        let mail = life.writer.is_some() && nvme.is_some_and(|nvme| !nvme.mailbox.is_empty());
        let commits = self.medium.index().is_committing();
        let later = self.time.next_alarm_us().is_some() || stalls && answers;
        let quiet = ready == 0 && !mail && !commits && (stalls || !answers);
        let begins = self.calls_to_come > 0 && open < CALLS_MAX;
        let possible = [
            (Action::Poll, 300, ready > 0),
            (Action::Complete, 200, answers && !stalls),
            (Action::Commit, 20, commits),
            (Action::Turn, 150, mail),
            (Action::Begin, 100, begins),
            (Action::PassTime, if quiet { 100 } else { 8 }, later && ready == 0),
            (Action::GiveUp, 6, open > 0 && self.calls_to_come > 0),
            (
                Action::DropLease,
                30 + 200 * u64::from(life.leases.len() > LEASES_MAX),
                !life.leases.is_empty(),
            ),
            (Action::Rot, u64::from(self.faults.rot), self.calls_to_come > 0),
            (Action::Stall, u64::from(self.faults.stall), answers && !stalls),
            (Action::Fill, u64::from(self.faults.full) / 100, self.calls_to_come > 0),
            (Action::Compare, 5, open > 0),
        ];
        let total: u64 = possible.iter().filter(|(.., may)| *may).map(|(_, weight, _)| weight).sum();
        if total == 0 {
            return None;
        }
        let mut choice = self.rng.below(total);
        for (action, weight, _) in possible.iter().filter(|(.., may)| *may) {
            if choice < *weight {
                return Some(*action);
            }
            choice -= weight;
        }
        None
    }

    fn act(&mut self, action: Action) -> Result<(), Broken> {
        let Some(life) = &mut self.life else { return Ok(()) };
        let now_us = self.time.now_us();
        match action {
            Action::Poll => {
                let choice = self.rng.next();
                let number = lock(&self.tasks).poll_any(choice).unwrap_or(0);
                self.trace.event(now_us, "polled", &[number]);
            }
            Action::Complete => self.complete_any(),
            Action::Commit => {
                self.medium.index().end_commit();
                let commits = lock(&self.medium.catalog).commits;
                self.trace.event(now_us, "commit", &[commits]);
            }
            Action::Turn => {
                if let Some(writer) = &mut life.writer {
                    writer.turn();
                }
                self.trace.event(now_us, "turn", &[self.medium.in_flight() as u64]);
            }
            Action::Begin => {
                self.calls_to_come -= 1;
                let replaced = self.replaced.take();
                let churns = self.shape.churns;
                let name = replaced.unwrap_or_else(|| choose_name(&mut self.rng, churns));
                let oracle = &mut self.oracle;
                let kind = match replaced {
                    Some(name) => Kind::put(oracle.replace_version(name), self.rng.below(2) == 0),
                    None if churns && self.rng.below(4) == 0 => Kind::Remove,
                    None => Kind::choose(&mut self.rng, |rng| oracle.choose_version(name, rng)),
                };
                self.replaced = Some(name).filter(|_| kind == Kind::Remove && self.rng.below(2) == 0);
                let patience_us = patience_us(&mut self.rng);
                let patience_us = if matches!(kind, Kind::Pin { .. }) { 0 } else { patience_us };
                self.begin(kind, name, patience_us);
            }
            Action::PassTime => {
                let next_us = self.time.next_alarm_us().unwrap_or(u64::MAX);
                let next_us =
                    if now_us < self.stalled_until_us { next_us.min(self.stalled_until_us) } else { next_us };
                self.time.advance_to(next_us);
                self.trace.event(now_us, "time", &[next_us]);
            }
            Action::GiveUp => {
                let call = {
                    let mut tasks = lock(&self.tasks);
                    let index = self.rng.index(tasks.len());
                    tasks.cancel(index)
                };
                self.oracle.abandoned(&call);
                self.trace.event(now_us, "gave up", &[call.number]);
            }
            Action::DropLease => {
                let held = life.leases.swap_remove(self.rng.index(life.leases.len()));
                self.trace.event(now_us, "lease ends", &[held.lease.generation().0]);
                held.end()?;
            }
            Action::Rot => self.rot(),
            Action::Stall => {
                self.stalled_until_us = now_us + self.rng.between(1_000, 200_000);
                self.trace.event(now_us, "the device stalls", &[self.stalled_until_us]);
            }
            Action::Fill => self.fill_disk(),
            Action::Compare => self.oracle.compare(&life.store)?,
        }
        Ok(())
    }
}

impl Life {
    pub(super) fn end_leases(&mut self) -> Result<(), Broken> {
        self.leases.drain(..).try_for_each(Held::end)
    }
}

impl Held {
    /// A lease shows the same bytes to its end.
    fn end(self) -> Result<(), Broken> {
        match is(&self.lease, self.name, self.version) {
            true => Ok(()),
            false => broken("INV-BYTES", format!("{:?} changed under a lease", self.name)),
        }
    }
}
