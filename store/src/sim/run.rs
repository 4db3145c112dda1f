//! One seed: several lives of a store, and what came of them.

use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};

use super::history::Broken;
use super::rng::Rng;
use super::world::World;

/// How a run is made.
#[derive(Clone, Copy, Debug, Default)]
pub struct Options {
    /// Keeps every event in words.
    pub verbose: bool,
}

/// What a run did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Steps of the simulation.
    pub steps: u64,
    /// Events of the trace.
    pub events: u64,
    /// Times that the store was opened.
    pub lives: u64,
    /// Times that the power failed.
    pub crashes: u64,
    /// Gets that found bytes.
    pub hits: u64,
    /// Gets that found nothing.
    pub misses: u64,
    /// Puts that were acknowledged.
    pub acknowledged: u64,
    /// Those of them that were acknowledged as durable.
    pub durable: u64,
}

/// A run in which every invariant held.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The seed.
    pub seed: u64,
    /// Hash of every event in order.
    pub digest: u64,
    /// What happened.
    pub counters: Counters,
    /// The events, if they were asked for.
    pub log: Vec<String>,
}

/// A run in which an invariant did not hold.
#[derive(Clone, Debug)]
pub struct Violation {
    /// The seed.
    pub seed: u64,
    /// The invariant, by its id.
    pub invariant: &'static str,
    /// What was seen.
    pub detail: String,
    /// The events, if they were asked for.
    pub log: Vec<String>,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "seed {} breaks {}: {}", self.seed, self.invariant, self.detail)
    }
}

impl std::error::Error for Violation {}

impl Counters {
    /// Adds what another run did.
    pub fn add(&mut self, other: &Self) {
        self.steps += other.steps;
        self.events += other.events;
        self.lives += other.lives;
        self.crashes += other.crashes;
        self.hits += other.hits;
        self.misses += other.misses;
        self.acknowledged += other.acknowledged;
        self.durable += other.durable;
    }
}

/// Runs one seed.
///
/// # Errors
/// [`Violation`], which names the seed: the same run can be had again, with every event in words.
pub fn run(seed: u64, options: &Options) -> Result<Outcome, Box<Violation>> {
    watch(seed, options, live)
}

/// Makes a world, lets `play` run in it, and turns panics of the store into violations.
pub(super) fn watch(
    seed: u64,
    options: &Options,
    play: impl FnOnce(&mut World) -> Result<(), Broken>,
) -> Result<Outcome, Box<Violation>> {
    let mut world = World::new(seed, options);
    let result = catch_unwind(AssertUnwindSafe(|| play(&mut world))).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let detail = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("no message").into();
        Err(Broken { invariant: "PANIC", detail })
    });
    let log = world.trace.take_log();
    match result {
        Ok(()) => Ok(Outcome { seed, digest: world.trace.digest(), counters: counters(&world), log }),
        Err(Broken { invariant, detail }) => Err(Box::new(Violation { seed, invariant, detail, log })),
    }
}

/// Lives of one store, each ended by a crash or a close, and a last look at what is left.
fn live(world: &mut World) -> Result<(), Broken> {
    let mut plan: Rng = world.rng.fork();
    for _ in 0..plan.between(1, 5) {
        world.open()?;
        match plan.below(4) {
            0 => world.verify()?,
            1 | 2 => world.put_all_again()?,
            _ => {}
        }
        world.calls_to_come = plan.between(4, 40) as u32;
        let (step, completions) = match plan.below(5) {
            0 => (u64::MAX, u64::MAX),
            1 | 2 => (world.oracle.step + plan.between(10, 300), u64::MAX),
            _ => (u64::MAX, world.completions + plan.between(1, 30)),
        };
        let crashes_by_plan = step < u64::MAX || completions < u64::MAX;
        while !world.power_failed() && world.oracle.step < step && world.completions < completions {
            if world.calls_to_come == 0 && !crashes_by_plan || !world.step()? {
                break;
            }
        }
        let crashes = world.power_failed() || crashes_by_plan;
        world.calls_to_come = 0;
        if crashes {
            world.crash()?;
        } else {
            if plan.below(2) == 0 {
                world.run_calls()?;
            }
            world.close()?;
        }
    }
    world.faults = super::faults::Faults::default();
    world.open()?;
    world.verify()?;
    world.close()
}

fn counters(world: &World) -> Counters {
    Counters {
        steps: world.oracle.step,
        events: world.trace.events(),
        lives: world.lives,
        crashes: world.crashes,
        hits: world.oracle.hits,
        misses: world.oracle.misses,
        acknowledged: world.oracle.acknowledged,
        durable: world.oracle.durable,
    }
}
