//! What all parts of one simulation share, and what the nodes find in place of the real world.

use std::collections::HashMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use hearth_cluster::sim::{AppliedView, Hooks, SimDisk};
use tokio::runtime;

use crate::machine::Machine;
use crate::network::connect;
use crate::rng::Rng;
use crate::trace::Trace;

static WORLD: OnceLock<World> = OnceLock::new();

/// The shared parts; there is one world in a process.
pub(crate) struct World {
    pub(crate) machines: Vec<Arc<Machine>>,
    rng: Mutex<Rng>,
    trace: Mutex<Trace>,
    /// Each life of a machine has a runtime of its own, by which it is known.
    runtimes: Mutex<HashMap<runtime::Id, usize>>,
    now_ms: AtomicU64,
    /// Nothing new is begun any more.
    quiet: AtomicBool,
    /// What nodes applied and no checker has looked at yet.
    applied: Mutex<Vec<Heard>>,
    /// What a node did that no node may.
    wrong: Mutex<Vec<String>>,
}

/// What an entry did on a node.
#[derive(Debug)]
pub(crate) struct Heard {
    pub(crate) machine: usize,
    pub(crate) applied: AppliedView,
}

impl World {
    /// Makes the world and puts it in place of the real one.
    pub(crate) fn begin(machines: Vec<Arc<Machine>>, rng: Rng, trace: Trace) -> &'static Self {
        let world = Self {
            machines,
            rng: Mutex::new(rng),
            trace: Mutex::new(trace),
            runtimes: Mutex::default(),
            now_ms: AtomicU64::new(0),
            quiet: AtomicBool::new(false),
            applied: Mutex::default(),
            wrong: Mutex::default(),
        };
        hearth_cluster::sim::install(Hooks { connect, disk, sync_takes, clock_ahead_ms, applied });
        WORLD.get_or_init(|| world)
    }

    pub(crate) fn rng(&self) -> MutexGuard<'_, Rng> {
        self.rng.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn trace(&self) -> MutexGuard<'_, Trace> {
        self.trace.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn note(&self, event: &str) {
        self.trace().note(self.now_ms(), event);
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now_ms.load(Ordering::Relaxed)
    }

    pub(crate) fn set_now_ms(&self, now_ms: u64) {
        self.now_ms.store(now_ms, Ordering::Relaxed);
    }

    pub(crate) fn is_quiet(&self) -> bool {
        self.quiet.load(Ordering::Relaxed)
    }

    pub(crate) fn be_quiet(&self) {
        self.quiet.store(true, Ordering::Relaxed);
    }

    /// Takes what was applied since the last call.
    pub(crate) fn take_applied(&self) -> Vec<Heard> {
        std::mem::take(&mut self.applied.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Says that a node did what none may.
    pub(crate) fn went_wrong(&self, what: String) {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).push(what);
    }

    pub(crate) fn wrong(&self) -> Option<String> {
        self.wrong.lock().unwrap_or_else(PoisonError::into_inner).first().cloned()
    }

    /// The machine whose life the calling runtime is.
    fn machine_here(&self) -> Option<&Arc<Machine>> {
        let here = runtime::Handle::try_current().ok()?.id();
        let runtimes = self.runtimes.lock().unwrap_or_else(PoisonError::into_inner);
        runtimes.get(&here).map(|machine| &self.machines[*machine])
    }

    /// The calling runtime is the life of this machine.
    pub(crate) fn belongs_to(&self, machine: usize) {
        let mut runtimes = self.runtimes.lock().unwrap_or_else(PoisonError::into_inner);
        runtimes.insert(runtime::Handle::current().id(), machine);
    }
}

/// The world of this process.
pub(crate) fn world() -> &'static World {
    WORLD.get().expect("the world is there before anybody lives in it")
}

fn disk(dir: &Path) -> Option<SimDisk> {
    world().machines.iter().find(|machine| machine.dir() == dir).map(|machine| machine.disk.clone())
}

/// Mostly quick, and now and then as slow as a disk that is busy.
fn sync_takes() -> Duration {
    let mut rng = world().rng();
    let micros = if rng.chance(3) { rng.between(5_000, 120_000) } else { rng.between(100, 3_000) };
    Duration::from_micros(micros)
}

fn clock_ahead_ms() -> u64 {
    world().machine_here().map_or(0, |machine| machine.clock_ahead_ms.load(Ordering::Relaxed))
}

fn applied(applied: AppliedView) {
    let Some(machine) = world().machine_here() else { return };
    let heard = Heard { machine: machine.index, applied };
    world().applied.lock().unwrap_or_else(PoisonError::into_inner).push(heard);
}
