//! Bags of candidates: one for each record size and effective priority.

use std::collections::{BTreeMap, BTreeSet};

use hearth_proto::{Generation, Priority};

use super::Random;

/// Candidates drawn to find a victim.
const DRAWN: usize = 128;
/// Of those drawn, the ones worth least among which a block goes that has copies elsewhere, if any has.
const FINALISTS: usize = 4;
/// Draws in which every candidate was in use, after which the whole bag is looked at.
const DRAWS_MAX: usize = 4;

/// Which bag a candidate lies in: its priority, or above all of them if it is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Level(u8);

impl Level {
    /// Never drawn.
    pub(crate) const PINNED: Self = Self(u8::MAX);

    pub(crate) fn of(priority: Priority) -> Self {
        Self(priority.value())
    }
}

/// By what a candidate stands in its bag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) level: Level,
    /// When it will stand by the default priority instead, in microseconds; `None` is never.
    pub(crate) until_us: Option<u64>,
}

/// What only the caller knows of the candidates. `H` names one.
pub(crate) trait Candidates<H> {
    /// What a candidate is worth by its reuse, and the number of its put, which decides among equals: the
    /// older goes first. `None` if it cannot go now.
    fn score(&self, candidate: H) -> Option<(u64, Generation)>;

    /// True if the cluster has another copy of the candidate, so that less is lost when it goes.
    fn is_copied(&self, candidate: H) -> bool;

    /// Notes the place of a candidate in its bag.
    fn place(&self, candidate: H, place: u32);

    /// Lets a candidate whose time has passed stand by the default priority from now on. Returns its record
    /// size, and the bag and the place it had.
    fn expire(&self, candidate: H) -> (u32, Level, u32);
}

/// The candidates of one tier.
///
/// *Invariant*: a candidate is in one bag once, and its caller remembers which and where.
pub(crate) struct Bags<H> {
    classes: BTreeMap<u32, BTreeMap<Level, Vec<H>>>,
    /// Whose time passes when, in microseconds.
    expiries: BTreeSet<(u64, H)>,
    random: Random,
}

impl<H: Copy + Ord> Bags<H> {
    pub(crate) fn new(seed: u64) -> Self {
        Self { classes: BTreeMap::new(), expiries: BTreeSet::new(), random: Random::new(seed) }
    }

    /// Puts a candidate into its bag and says its place there.
    pub(crate) fn insert(&mut self, class: u32, candidate: H, standing: Standing) -> u32 {
        if let Some(at_us) = standing.until_us {
            self.expiries.insert((at_us, candidate));
        }
        let bag = self.classes.entry(class).or_default().entry(standing.level).or_default();
        bag.push(candidate);
        bag.len() as u32 - 1
    }

    /// Takes a candidate out of its bag. Whoever took its place is returned, to be told.
    #[must_use]
    pub(crate) fn remove(&mut self, class: u32, candidate: H, standing: Standing, place: u32) -> Option<H> {
        if let Some(at_us) = standing.until_us {
            let known = self.expiries.remove(&(at_us, candidate));
            assert!(known, "a candidate is remembered under its time");
        }
        self.take(class, candidate, standing.level, place)
    }

    fn take(&mut self, class: u32, candidate: H, level: Level, place: u32) -> Option<H> {
        let bags = self.classes.get_mut(&class).expect("a candidate's record size has bags");
        let bag = bags.get_mut(&level).expect("a candidate's priority has a bag");
        let removed = bag.swap_remove(place as usize);
        assert!(removed == candidate, "a candidate lies where it was put");
        let moved = bag.get(place as usize).copied();
        if bag.is_empty() {
            bags.remove(&level);
            if bags.is_empty() {
                self.classes.remove(&class);
            }
        }
        moved
    }

    /// Lets every priority fall back whose time has passed.
    pub(crate) fn expire(&mut self, now_us: u64, candidates: &impl Candidates<H>) {
        while let Some((at_us, candidate)) = self.expiries.first().copied()
            && at_us <= now_us
        {
            self.expiries.pop_first();
            let (class, level, place) = candidates.expire(candidate);
            if let Some(moved) = self.take(class, candidate, level, place) {
                candidates.place(moved, place);
            }
            let standing = Standing { level: Level::of(Priority::DEFAULT), until_us: None };
            candidates.place(candidate, self.insert(class, candidate, standing));
        }
    }

    /// Record sizes that have candidates.
    pub(crate) fn classes(&self) -> impl Iterator<Item = u32> {
        self.classes.keys().copied()
    }

    /// The candidate of a record size that is worth least, as far as a few draws from the lowest bag can
    /// tell; `None` if none can go.
    pub(crate) fn draw(&mut self, class: u32, candidates: &impl Candidates<H>) -> Option<H> {
        let bags = self.classes.get(&class)?;
        let random = &mut self.random;
        bags.range(..Level::PINNED).find_map(|(_, bag)| draw_from(bag, random, candidates))
    }

    pub(crate) fn random(&mut self) -> &mut Random {
        &mut self.random
    }
}

fn draw_from<H: Copy>(bag: &[H], random: &mut Random, candidates: &impl Candidates<H>) -> Option<H> {
    if bag.len() > DRAWN {
        for _ in 0..DRAWS_MAX {
            let mut drawn = std::iter::repeat_with(|| bag[random.below(bag.len())]).take(DRAWN);
            let found = least(&mut drawn, candidates);
            if found.is_some() {
                return found;
            }
        }
    }
    least(&mut bag.iter().copied(), candidates)
}

/// The candidate that is worth least. Last copies go after copies: of the few that are worth least, one
/// that the cluster has elsewhere.
fn least<H: Copy>(drawn: &mut dyn Iterator<Item = H>, candidates: &impl Candidates<H>) -> Option<H> {
    let mut finalists: Vec<((u64, Generation), H)> = Vec::with_capacity(FINALISTS + 1);
    for candidate in drawn {
        let Some(score) = candidates.score(candidate) else { continue };
        let at = finalists.partition_point(|(other, _)| *other <= score);
        finalists.insert(at, (score, candidate));
        finalists.truncate(FINALISTS);
    }
    let copied = finalists.iter().find(|(_, candidate)| candidates.is_copied(*candidate));
    copied.or(finalists.first()).map(|(_, candidate)| *candidate)
}
