//! One history: a cluster is founded, faults come and go under load, everything heals.

use std::sync::Arc;
use std::time::Duration;

use mad_turmoil::time::SimClocksGuard;
use rand_010::SeedableRng;
use turmoil::Sim;

use crate::faults::{Counts, Faults};
use crate::invariants::Checks;
use crate::machine::Machine;
use crate::rng::Rng;
use crate::trace::Trace;
use crate::workload::{Clients, Done};
use crate::world::World;

/// Virtual time in which every machine founds or joins, before the first fault.
const FOUNDING_MS: u64 = 2_000;
/// Virtual time in which a cluster without faults must be whole again.
pub(crate) const HEALING_MS: u64 = 20_000;
/// How often the invariants are looked at.
const CHECK_EVERY_MS: u64 = 3;
/// Whether it is whole costs more to see.
const HEALED_EVERY_MS: u64 = 50;

/// What a history came to.
#[derive(Debug, serde::Serialize)]
pub(crate) struct Outcome {
    pub(crate) seed: u64,
    pub(crate) nodes: usize,
    pub(crate) digest: String,
    pub(crate) events: u64,
    pub(crate) virtual_ms: u64,
    #[serde(flatten)]
    pub(crate) done: Done,
    pub(crate) committed: u64,
    pub(crate) leaderships: u64,
    pub(crate) snapshots_installed: u64,
    pub(crate) faults: Counts,
    /// The invariant that does not hold, and how.
    pub(crate) violation: Option<String>,
}

impl Outcome {
    pub(crate) fn to_json(&self) -> String {
        serde_json::to_string(self).unwrap_or_else(|error| error.to_string())
    }
}

/// Runs the history of a seed.
pub(crate) fn run(seed: u64, faults_ms: u64, verbose: bool) -> Outcome {
    let mut rng = Rng::new(seed);
    let nodes = rng.between(3, 5) as usize;
    // Its name is the system's choice, so it is made before that is simulated.
    let folder = tempfile::tempdir().expect("the system gives a temporary folder");
    let machines = (0..nodes).map(|index| Arc::new(Machine::new(index, folder.path()))).collect();
    mad_turmoil::rand::set_rng(rand_010::rngs::StdRng::seed_from_u64(seed));
    let _clocks = SimClocksGuard::init();
    let mut sim = turmoil::Builder::new()
        .rng_seed(rng.next())
        .tick_duration(Duration::from_millis(1))
        .min_message_latency(Duration::from_micros(100))
        .max_message_latency(Duration::from_millis(rng.between(2, 12)))
        .tcp_capacity(1 << 14)
        .simulation_duration(Duration::from_secs(3_600))
        .enable_random_order()
        .build();
    let world = World::begin(machines, rng, Trace::new(verbose));
    let clients = Clients::default();
    for machine in &world.machines {
        let machine = machine.clone();
        sim.host(machine.name.clone(), move || machine.clone().live());
    }
    let of_host = clients.clone();
    sim.host("clients", move || of_host.clone().live());
    let mut faults = Faults::new(FOUNDING_MS);
    let mut checks = Checks::new(clients.clone());
    let violation = live(&mut sim, world, &mut faults, &mut checks, faults_ms).err();
    if let Some(violation) = &violation {
        world.note(&format!("VIOLATION: {violation}"));
    }
    let trace = world.trace();
    let outcome = Outcome {
        seed,
        nodes,
        digest: format!("{:016x}", trace.digest()),
        events: trace.events(),
        virtual_ms: world.now_ms(),
        done: clients.ledger().done,
        committed: checks.committed_count(),
        leaderships: checks.leaderships(),
        snapshots_installed: checks.snapshots_installed(),
        faults: faults.counts,
        violation,
    };
    drop(trace);
    // Runtimes that end while the clocks are simulated would find no world.
    std::mem::forget(sim);
    outcome
}

fn live(
    sim: &mut Sim<'_>,
    world: &World,
    faults: &mut Faults,
    checks: &mut Checks,
    faults_ms: u64,
) -> Result<(), String> {
    let mut until = FOUNDING_MS + faults_ms;
    loop {
        sim.step().map_err(|error| format!("PANIC: {error}"))?;
        let now = u64::try_from(sim.elapsed().as_millis()).unwrap_or(u64::MAX);
        world.set_now_ms(now);
        if !world.is_quiet() {
            faults.step(sim, world, checks.leaderships());
        }
        if now.is_multiple_of(CHECK_EVERY_MS) {
            checks.check(world)?;
        }
        if world.is_quiet() && now.is_multiple_of(HEALED_EVERY_MS) && checks.is_healed(world)? {
            world.note("healed");
            return Ok(());
        }
        if now < until {
            continue;
        }
        if world.is_quiet() {
            return Err(format!(
                "must-heal: not whole {HEALING_MS} ms after the last fault: {}",
                checks.ailing()
            ));
        }
        world.note("the faults end");
        faults.heal(sim, world);
        world.be_quiet();
        checks.begin_healing(world);
        until = now + HEALING_MS;
    }
}
