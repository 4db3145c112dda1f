//! Candidates in order of their last use, in bags of those that were used at about the same time.
//!
//! Bags stand in lines, one line for each record size, level and class of reuse, the oldest bag first. A use
//! changes nothing here: when a bag comes to the front of its line, whoever was used since moves to the bag
//! where it belongs by now, so each use costs at most one move, and only if room is needed. Within a class
//! worth falls with age, so only the fronts of the lines of a level need to be compared.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use hearth_proto::{Generation, Priority};

use super::reuse::Class;
use super::{Random, Reuse, Tick};

/// Bits of a place that say where in its bag a candidate lies; the others say which bag.
const SPOT_BITS: u32 = 12;
/// The most candidates in a bag: what is put into order at a time.
const BAG_MAX: usize = 1 << SPOT_BITS;
/// Candidates from which on the last bag of a line is closed and the next one begins.
const BAG_FULL: usize = BAG_MAX / 8;
/// Of the candidates at the front, the ones among which a block goes that has copies elsewhere, if any has.
const FINALISTS: usize = 4;
/// Candidates of one line and one moment that go before lines are compared again.
const RUN_MAX: u32 = 32;

/// In which lines a candidate stands: by its priority, or above all of them if it is pinned.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Level(u8);

impl Level {
    /// Never chosen.
    pub(crate) const PINNED: Self = Self(u8::MAX);

    pub(crate) fn of(priority: Priority) -> Self {
        Self(priority.value())
    }
}

/// By what a candidate stands among the others.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Standing {
    pub(crate) level: Level,
    /// When it will stand by the default priority instead, in microseconds; `None` is never.
    pub(crate) until_us: Option<u64>,
}

/// What a candidate is at this moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look {
    pub(crate) reuse: Reuse,
    /// Position in its chain: of those used at one moment the deepest goes first.
    pub(crate) depth: u16,
    /// The number of its put, which decides among equals: the older goes first.
    pub(crate) generation: Generation,
    /// False if it cannot go now.
    pub(crate) is_free: bool,
}

/// What only the caller knows of the candidates. `H` names one.
pub(crate) trait Candidates<H> {
    fn look(&self, candidate: H) -> Look;

    /// Uses per tick that keeping such a block will bring.
    fn uses(&self, reuse: Reuse) -> f32;

    /// Ticks that have passed, as blocks in use count as used now.
    fn now(&self) -> Tick;

    /// True if the cluster has another copy of the candidate, so that less is lost when it goes.
    fn is_copied(&self, candidate: H) -> bool;

    /// Notes the place of a candidate.
    fn place(&self, candidate: H, place: u32);

    /// Lets a candidate whose time has passed stand by the default priority from now on. Returns the place
    /// it has.
    fn expire(&self, candidate: H) -> u32;
}

/// The candidates of one tier.
///
/// *Invariant*: a candidate is in one bag once, and its caller remembers its place.
pub(crate) struct Bags<H> {
    lines: BTreeMap<u32, BTreeMap<(Level, Class), Line>>,
    bags: Vec<Bag<H>>,
    free: Vec<u32>,
    /// Whose time passes when, in microseconds.
    expiries: BTreeSet<(u64, H)>,
    /// The line and the moment of those that go one after the other, and how many still may.
    run: Option<(Home, Tick, u32)>,
    random: Random,
}

/// The line in which a bag stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Home {
    size: u32,
    level: Level,
    class: Class,
}

struct Bag<H> {
    home: Home,
    /// Its candidates were used from here on, and not after the next bag begins, when they came in.
    from: Tick,
    candidates: Vec<H>,
    /// Once the bag is in order, whoever goes first last: when each candidate was used last.
    used_at: Vec<Tick>,
}

#[derive(Default)]
struct Line {
    bags: VecDeque<u32>,
    /// What the candidate at the front was when it was last looked at, and its depth.
    front: Option<(Reuse, u16)>,
    /// When every candidate of the line was found to be in use.
    busy_at: Option<Tick>,
}

impl<H: Copy + Ord> Bags<H> {
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            lines: BTreeMap::new(),
            bags: Vec::new(),
            free: Vec::new(),
            expiries: BTreeSet::new(),
            run: None,
            random: Random::new(seed),
        }
    }

    /// Takes a candidate in and says its place.
    pub(crate) fn insert(&mut self, size: u32, candidate: H, standing: Standing, reuse: Reuse) -> u32 {
        if let Some(at_us) = standing.until_us {
            self.expiries.insert((at_us, candidate));
        }
        let home = Home { size, level: standing.level, class: reuse.class() };
        self.put(home, candidate, reuse.used_at())
    }

    /// Takes a candidate out. Whoever took its place is returned, to be told.
    #[must_use]
    pub(crate) fn remove(&mut self, candidate: H, standing: Standing, place: u32) -> Option<H> {
        if let Some(at_us) = standing.until_us {
            let known = self.expiries.remove(&(at_us, candidate));
            assert!(known, "a candidate is remembered under its time");
        }
        self.take(candidate, place)
    }

    /// Lets every priority fall back whose time has passed.
    pub(crate) fn expire(&mut self, now_us: u64, candidates: &impl Candidates<H>) {
        while let Some((at_us, candidate)) = self.expiries.first().copied()
            && at_us <= now_us
        {
            self.expiries.pop_first();
            let place = candidates.expire(candidate);
            let home = self.bags[bag_of(place)].home;
            if let Some(moved) = self.take(candidate, place) {
                candidates.place(moved, place);
            }
            let reuse = candidates.look(candidate).reuse;
            let home = Home { level: Level::of(Priority::DEFAULT), class: reuse.class(), ..home };
            candidates.place(candidate, self.put(home, candidate, reuse.used_at()));
        }
    }

    /// Record sizes that have candidates.
    pub(crate) fn sizes(&self) -> impl Iterator<Item = u32> {
        self.lines.keys().copied()
    }

    /// The candidate of a record size that goes next; `None` if none can go.
    ///
    /// The lowest level goes first, strictly. A line whose candidates were all in use a moment ago is only
    /// looked at again if there is nobody else, so that those in use are not gone through for every victim.
    pub(crate) fn next(&mut self, size: u32, candidates: &impl Candidates<H>) -> Option<H> {
        if let Some(next) = self.go_on(size, candidates) {
            return Some(next);
        }
        let levels: BTreeSet<Level> = self.lines.get(&size)?.keys().map(|(level, _)| *level).collect();
        [false, true].into_iter().find_map(|busy_too| {
            let mut unpinned = levels.range(..Level::PINNED);
            unpinned.find_map(|level| self.next_of(size, *level, busy_too, candidates))
        })
    }

    pub(crate) fn random(&mut self) -> &mut Random {
        &mut self.random
    }

    /// The next of the run, if nobody of a lower level came meanwhile.
    fn go_on(&mut self, size: u32, candidates: &impl Candidates<H>) -> Option<H> {
        let (home, at, left) = self.run?;
        let lowest = self.lines.get(&size)?.first_key_value()?.0.0;
        if home.size != size || home.level != lowest || left == 0 {
            return None;
        }
        let mut busy = Vec::new();
        let front = self.settle(home, candidates, &mut busy);
        let next = front.filter(|(reuse, _)| reuse.used_at() == at).map(|_| self.finalist(home, candidates));
        self.put_back(busy, candidates);
        self.run = next.is_some().then_some((home, at, left - 1));
        next
    }

    /// The candidate of a level that goes next.
    fn next_of(
        &mut self,
        size: u32,
        level: Level,
        busy_too: bool,
        candidates: &impl Candidates<H>,
    ) -> Option<H> {
        let mut busy = Vec::new();
        let mut next = None;
        while let Some(home) = self.least(size, level, busy_too, candidates) {
            let before = self.line(home).front;
            let Some(front) = self.settle(home, candidates, &mut busy) else { continue };
            // Whoever was used since it was looked at may be worth more than the front of another line.
            if before == Some(front) {
                next = Some(self.finalist(home, candidates));
                self.run = Some((home, front.0.used_at(), RUN_MAX));
                break;
            }
        }
        self.put_back(busy, candidates);
        next
    }

    /// The line of a level whose front is worth least, or that has not been looked at yet.
    fn least(
        &self,
        size: u32,
        level: Level,
        busy_too: bool,
        candidates: &impl Candidates<H>,
    ) -> Option<Home> {
        let now = candidates.now();
        let lines = self.lines.get(&size)?.range((level, Class::FIRST)..=(level, Class::LAST));
        let looked = lines.filter(|(_, line)| busy_too || line.busy_at != Some(now));
        let worth = |line: &Line| {
            line.front.map(|(front, depth)| {
                (candidates.uses(front).to_bits(), u32::MAX - now.since(front.used_at()), u16::MAX - depth)
            })
        };
        let least = looked.min_by_key(|(_, line)| worth(line))?;
        Some(Home { size, level, class: least.0.1 })
    }

    /// Brings the front of a line up to date, and says what stands there. Those in use are taken out into
    /// `busy`; if nobody else is left the line is gone.
    fn settle(
        &mut self,
        home: Home,
        candidates: &impl Candidates<H>,
        busy: &mut Vec<(Home, H)>,
    ) -> Option<(Reuse, u16)> {
        loop {
            let number = *self.lines.get(&home.size)?.get(&(home.level, home.class))?.bags.front()?;
            let bag = &mut self.bags[number as usize];
            if bag.used_at.is_empty() {
                self.sort(number, candidates, busy);
                continue;
            }
            let at = bag.candidates.len() - 1;
            let (candidate, used_at) = (bag.candidates[at], bag.used_at[at]);
            let look = candidates.look(candidate);
            if look.is_free && look.reuse.used_at() == used_at {
                self.line(home).front = Some((look.reuse, look.depth));
                return self.line(home).front;
            }
            let nobody = self.take(candidate, place_of(number, at));
            debug_assert!(nobody.is_none(), "it was the last of its bag");
            if look.is_free {
                self.move_on(home, candidate, look.reuse, candidates);
            } else {
                busy.push((home, candidate));
            }
        }
    }

    /// Puts the first bag of a line into order, and whoever was used since it came in where it belongs.
    fn sort(&mut self, number: u32, candidates: &impl Candidates<H>, busy: &mut Vec<(Home, H)>) {
        let now = candidates.now();
        let Bag { home, from, .. } = self.bags[number as usize];
        let next = self.line(home).bags.get(1).copied().map(|next| self.bags[next as usize].from);
        // What was used when the next bag begins moves there, so that a moment is not torn apart.
        let is_here = |used_at| next.is_none_or(|next: Tick| next.is_after(used_at) || next == from);
        let all = std::mem::take(&mut self.bags[number as usize].candidates);
        let mut gone = Vec::new();
        let mut stay = Vec::with_capacity(all.len());
        for candidate in all {
            let look = candidates.look(candidate);
            let (used_at, class) = (look.reuse.used_at(), look.reuse.class());
            if !look.is_free {
                busy.push((home, candidate));
            } else if class == home.class && is_here(used_at) {
                stay.push((now.since(used_at), look.depth, u64::MAX - look.generation.0, candidate, used_at));
            } else {
                gone.push((u32::MAX - now.since(used_at), candidate, look.reuse));
            }
        }
        stay.sort_unstable_by_key(|(age, depth, newness, candidate, _)| (*age, *depth, *newness, *candidate));
        for (at, (.., candidate, _)) in stay.iter().enumerate() {
            candidates.place(*candidate, place_of(number, at));
        }
        let bag = &mut self.bags[number as usize];
        bag.candidates = stay.iter().map(|(.., candidate, _)| *candidate).collect();
        bag.used_at = stay.iter().map(|(.., used_at)| *used_at).collect();
        if bag.candidates.is_empty() {
            self.drop_bag(number);
        }
        // Oldest first, so that bags that begin with them are met by those that follow.
        gone.sort_unstable_by_key(|(age, candidate, _)| (*age, *candidate));
        for (_, candidate, reuse) in gone {
            self.move_on(home, candidate, reuse, candidates);
        }
    }

    fn move_on(&mut self, home: Home, candidate: H, reuse: Reuse, candidates: &impl Candidates<H>) {
        let home = Home { class: reuse.class(), ..home };
        self.split(home, reuse.used_at(), candidates);
        candidates.place(candidate, self.put(home, candidate, reuse.used_at()));
    }

    /// Halves the bag to which a moment belongs if it is full. Uses outnumber what comes in, so many move to
    /// where few were put.
    fn split(&mut self, home: Home, used_at: Tick, candidates: &impl Candidates<H>) {
        let Some(line) = self.lines.get(&home.size).and_then(|lines| lines.get(&(home.level, home.class)))
        else {
            return;
        };
        let first = line.bags.partition_point(|bag| used_at.is_after(self.bags[*bag as usize].from));
        let Some(at) = first.checked_sub(1) else { return };
        let number = line.bags[at];
        let (from, len) = (self.bags[number as usize].from, self.bags[number as usize].candidates.len());
        if len < BAG_MAX {
            return;
        }
        let end = line.bags.get(first).map(|next| self.bags[*next as usize].from);
        let bound = |used_at: Tick| end.filter(|end| used_at.is_after(*end)).unwrap_or(used_at);
        let taken = self.bags[number as usize].candidates.iter();
        let mut all: Vec<_> = taken
            .map(|candidate| {
                let used_at = bound(candidates.look(*candidate).reuse.used_at());
                (used_at.since(from), *candidate, used_at)
            })
            .collect();
        all.sort_unstable_by_key(|(since, candidate, _)| (*since, *candidate));
        // A moment is not torn apart: where half of them are of one, it stays with those before or after.
        let middle = all[len / 2].0;
        let before = all.partition_point(|(since, ..)| *since < middle);
        let after = all.partition_point(|(since, ..)| *since <= middle);
        let upper = all.split_off(if before > 0 { before } else { after });
        let Some((_, _, begins)) = upper.first().copied() else { return };
        let [lower, upper] = [all, upper].map(|half| half.into_iter().map(|(_, it, _)| it).collect());
        self.fill(number, lower, candidates);
        let number = self.new_bag(home, begins, at + 1);
        self.fill(number, upper, candidates);
    }

    fn fill(&mut self, number: u32, all: Vec<H>, candidates: &impl Candidates<H>) {
        for (at, candidate) in all.iter().enumerate() {
            candidates.place(*candidate, place_of(number, at));
        }
        let bag = &mut self.bags[number as usize];
        (bag.candidates, bag.used_at) = (all, Vec::new());
    }

    /// Candidates in use stand as if they were used now.
    fn put_back(&mut self, busy: Vec<(Home, H)>, candidates: &impl Candidates<H>) {
        let now = candidates.now();
        for (home, candidate) in busy {
            let nobody_else = !self.has(home) || self.line(home).busy_at == Some(now);
            let place = self.put(home, candidate, now);
            candidates.place(candidate, place);
            self.line(home).busy_at = nobody_else.then_some(now);
        }
    }

    /// The candidate at the front of a line that was just settled. Last copies go after copies: of the few
    /// at the front, one that the cluster has elsewhere.
    fn finalist(&mut self, home: Home, candidates: &impl Candidates<H>) -> H {
        let number = self.line(home).bags[0];
        let bag = &self.bags[number as usize];
        let last = bag.candidates.len() - 1;
        let is_as_it_was = |at: &usize| {
            let look = candidates.look(bag.candidates[*at]);
            look.is_free && look.reuse.used_at() == bag.used_at[*at]
        };
        let mut front = (0..=last).rev().take(FINALISTS);
        let copied = front.find(|at| candidates.is_copied(bag.candidates[*at]) && is_as_it_was(at));
        bag.candidates[copied.unwrap_or(last)]
    }

    fn put(&mut self, home: Home, candidate: H, used_at: Tick) -> u32 {
        let number = self.bag_for(home, used_at);
        let bag = &mut self.bags[number as usize];
        bag.candidates.push(candidate);
        place_of(number, bag.candidates.len() - 1)
    }

    /// The bag of a line that takes in what was used at this moment.
    fn bag_for(&mut self, home: Home, used_at: Tick) -> u32 {
        let line = self.lines.entry(home.size).or_default().entry((home.level, home.class)).or_default();
        line.busy_at = None;
        let bags = &self.bags;
        let from = |bag: &u32| bags[*bag as usize].from;
        // Of several bags of one moment the first takes in: what comes later lies deeper, and goes first.
        let first = line.bags.partition_point(|bag| used_at.is_after(from(bag)));
        let is_of_moment = line.bags.get(first).is_some_and(|bag| from(bag) == used_at);
        let at = if is_of_moment { first } else { first.saturating_sub(1) };
        if let Some(number) = line.bags.get(at).copied() {
            let bag = &mut self.bags[number as usize];
            let is_full = !is_of_moment && first == line.bags.len() && bag.candidates.len() >= BAG_FULL;
            let is_newest = bag.used_at.first().is_some_and(|newest| !newest.is_after(used_at));
            if bag.candidates.len() < BAG_MAX && !is_full && !is_newest {
                if !bag.used_at.is_empty() {
                    // Somebody belongs between those that are in order: they are put into order again.
                    bag.used_at.clear();
                    line.front = None;
                }
                return number;
            }
        }
        self.new_bag(home, used_at, first)
    }

    /// An empty bag at a place of its line.
    fn new_bag(&mut self, home: Home, from: Tick, at: usize) -> u32 {
        let bag = Bag { home, from, candidates: Vec::new(), used_at: Vec::new() };
        let number = self.free.pop().unwrap_or(self.bags.len() as u32);
        assert!(number < u32::MAX >> SPOT_BITS, "a place names every bag, and is never all ones");
        match self.bags.get_mut(number as usize) {
            Some(place) => *place = bag,
            None => self.bags.push(bag),
        }
        let line = self.line(home);
        line.bags.insert(at, number);
        if at == 0 {
            line.front = None;
        }
        number
    }

    fn take(&mut self, candidate: H, place: u32) -> Option<H> {
        let (number, at) = (bag_of(place), place as usize % BAG_MAX);
        let bag = &mut self.bags[number];
        let removed = bag.candidates.swap_remove(at);
        assert!(removed == candidate, "a candidate lies where it was put");
        if !bag.used_at.is_empty() {
            bag.used_at.swap_remove(at);
        }
        let moved = bag.candidates.get(at).copied();
        if bag.candidates.is_empty() {
            self.drop_bag(number as u32);
        }
        moved
    }

    fn drop_bag(&mut self, number: u32) {
        let Bag { home, from, .. } = self.bags[number as usize];
        let lines = self.lines.get_mut(&home.size).expect("a bag's record size has lines");
        let line = lines.get_mut(&(home.level, home.class)).expect("a bag stands in a line");
        let first = line.bags.partition_point(|bag| from.is_after(self.bags[*bag as usize].from));
        let at = (first..line.bags.len()).find(|at| line.bags[*at] == number);
        let at = at.expect("a bag stands among those that begin when it does");
        line.bags.remove(at);
        if at == 0 {
            line.front = None;
        }
        if line.bags.is_empty() {
            lines.remove(&(home.level, home.class));
            if lines.is_empty() {
                self.lines.remove(&home.size);
            }
        }
        let bag = &mut self.bags[number as usize];
        (bag.candidates, bag.used_at) = (Vec::new(), Vec::new());
        self.free.push(number);
    }

    fn has(&self, home: Home) -> bool {
        self.lines.get(&home.size).is_some_and(|lines| lines.contains_key(&(home.level, home.class)))
    }

    fn line(&mut self, home: Home) -> &mut Line {
        let lines = self.lines.get_mut(&home.size).expect("the record size has lines");
        lines.get_mut(&(home.level, home.class)).expect("the line has bags")
    }
}

fn place_of(bag: u32, at: usize) -> u32 {
    bag << SPOT_BITS | at as u32
}

fn bag_of(place: u32) -> usize {
    (place >> SPOT_BITS) as usize
}

#[cfg(test)]
mod tests;
