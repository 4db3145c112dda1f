//! A crash at every boundary of a small history, with every fate of every write that was volatile there.

use super::catalog::PowerFails;
use super::disk::Fate;
use super::faults::Faults;
use super::history::Broken;
use super::run::{Options, Outcome, Violation, watch};
use super::world::World;
use crate::sync::lock;

/// Calls of one history.
const CALLS: u32 = 24;
/// Crashes at one boundary; with more than three volatile writes not all fates are crossed.
const CRASHES_PER_BOUNDARY_MAX: u64 = 128;
/// Fates of one write: kept, lost, torn either way.
const FATES: u64 = 4;

/// What was crossed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Crossed {
    /// Ends of writes and syncs, and both halves of commits.
    pub boundaries: u64,
    /// Histories that crashed.
    pub crashes: u64,
    /// The most writes that were volatile at one boundary.
    pub volatile_max: u64,
}

impl Crossed {
    /// Adds what another history crossed.
    pub fn add(&mut self, other: &Self) {
        self.boundaries += other.boundaries;
        self.crashes += other.crashes;
        self.volatile_max = self.volatile_max.max(other.volatile_max);
    }
}

/// Where a history crashes.
#[derive(Clone, Copy, Debug)]
enum Boundary {
    /// After so many submissions have ended.
    Completions(u64),
    /// In the middle of a commit.
    Commit(PowerFails),
}

/// Crashes the history of `seed` at every boundary in every way.
///
/// # Errors
/// [`Violation`]; the detail says where the history crashed.
pub fn exhaust(seed: u64) -> Result<Crossed, Box<Violation>> {
    let mut crossed = Crossed::default();
    let (mut completions, mut commits) = (0, 0);
    play(seed, |world| {
        begin(world)?;
        while world.step()? {}
        completions = world.completions;
        commits = lock(&world.medium.catalog).commits;
        Ok(())
    })?;
    let halves = [false, true];
    let in_commit = |commit| halves.map(|applied| Boundary::Commit(PowerFails { commit, applied }));
    // The first commit is part of opening.
    let boundaries = (0..=completions).map(Boundary::Completions).chain((1..commits).flat_map(in_commit));
    for boundary in boundaries {
        crossed.boundaries += 1;
        let mut fates = 0;
        let mut ways = 1;
        while fates < ways {
            let volatile = crash_at(seed, boundary, fates)?;
            ways = FATES.saturating_pow(volatile.min(8) as u32).min(CRASHES_PER_BOUNDARY_MAX);
            crossed.crashes += 1;
            crossed.volatile_max = crossed.volatile_max.max(volatile);
            fates += 1;
        }
    }
    Ok(crossed)
}

/// Plays a history up to a boundary, crashes there, and looks at what is left. Says how many writes were
/// volatile.
fn crash_at(seed: u64, boundary: Boundary, fates: u64) -> Result<u64, Box<Violation>> {
    let mut volatile = 0;
    let played = play(seed, |world| {
        if let Boundary::Commit(power_fails) = boundary {
            lock(&world.medium.catalog).power_fails = Some(power_fails);
        }
        begin(world)?;
        let until = match boundary {
            Boundary::Completions(count) => count,
            Boundary::Commit(_) => u64::MAX,
        };
        while world.completions < until && !world.power_failed() && world.step()? {}
        lock(&world.medium.catalog).power_fails = None;
        let mut rest = fates;
        world.crash_with(
            |lens| if fates.is_multiple_of(2) { lens.end } else { lens.start },
            |order| {
                if fates.is_multiple_of(3) {
                    order.reverse();
                }
            },
            |_, atoms| {
                volatile += 1;
                let fate = [Fate::Keep, Fate::Lose, Fate::Prefix(atoms / 2), Fate::Suffix(atoms / 2)];
                let chosen = fate[(rest % FATES) as usize];
                rest /= FATES;
                chosen
            },
        )?;
        world.open()?;
        world.verify()?;
        world.close()
    });
    played.map(|_| volatile).map_err(|mut violation| {
        violation.detail = format!("{} (crash at {boundary:?}, fates {fates})", violation.detail);
        violation
    })
}

fn play(
    seed: u64,
    history: impl FnOnce(&mut World) -> Result<(), Broken>,
) -> Result<Outcome, Box<Violation>> {
    watch(seed, &Options::default(), |world| {
        world.faults = Faults::default();
        history(world)
    })
}

fn begin(world: &mut World) -> Result<(), Broken> {
    world.open()?;
    world.calls_to_come = CALLS;
    Ok(())
}
