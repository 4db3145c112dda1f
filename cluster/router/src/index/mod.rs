//! Which blocks of chains members hold, and how much of a chain each holds from its start.
//!
//! A block is known by the engine's hash of it and all before it. Consecutive blocks of a chain lie in *runs*: a run
//! has their hashes in order, and for each member the intervals that it holds. A table leads from each block to its
//! run. A chain is found run by run: equal hashes at the end of a run mean that all of it is the same, so that a chain
//! of a thousand blocks costs as much as the few runs it consists of.
//!
//! Readers wait for nobody: bodies of runs and parts of the table are replaced as a whole, and are let go of when no
//! reader can have them any more. Writers wait for others that change the same run.

mod body;
mod budget;
mod members;
mod roots;
mod runs;
mod table;
#[cfg(test)]
mod tests;
mod write;

use std::sync::atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, RwLock};

use crossbeam_epoch::Guard;

use self::body::Body;
use self::roots::Roots;
use self::runs::{Run, Runs};
use self::table::{Place, Table};

/// Somebody who holds blocks: a worker, or what it holds in some tiers. Whoever uses an index gives out the numbers.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member(pub u16);

/// See the module.
#[derive(Debug)]
pub struct Index {
    table: Table,
    runs: Runs,
    roots: Roots,
    body_bytes: AtomicUsize,
    bytes_max: usize,
    now: AtomicU32,
    /// Where runs are looked at next that may have to go.
    hand: Mutex<u32>,
    /// Members that are being cleared. Read for as long as blocks are moved from run to run.
    leaving: RwLock<Vec<Leaving>>,
    shed_runs: AtomicU64,
    shed_held: AtomicU64,
}

/// How many blocks of a chain each member holds from its start, without a hole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Matches {
    /// By the member's number.
    lens: Vec<u32>,
    /// Members that hold some.
    found: usize,
}

/// What blocks that were added changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Added {
    /// Blocks that nobody held.
    pub new: usize,
    /// Blocks that this member did not hold; the new ones are among them.
    pub held: usize,
}

/// What blocks that were removed changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Removed {
    /// Blocks that the member held.
    pub held: usize,
    /// Those it did not, as the index has it.
    pub unknown: usize,
}

/// How large an index is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct IndexStats {
    /// Blocks that are in it; some that nobody holds any more may be among them.
    pub blocks: usize,
    /// Runs that they lie in.
    pub runs: usize,
    /// Bytes of memory.
    pub bytes: usize,
    /// Runs that had to go because the memory was used up.
    pub shed_runs: u64,
    /// Blocks that members held in those, each counted for each of them.
    pub shed_held: u64,
}

/// A change that the index cannot take.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// There are as many runs as there can be.
    #[error("the index is full: it has 2^28 runs of blocks; give it a budget of memory that it can keep to")]
    Full,
}

impl Matches {
    /// For members whose numbers are below this one.
    pub fn new(members: usize) -> Self {
        Self { lens: vec![0; members], found: 0 }
    }

    /// Blocks from the start of the chain that a member holds.
    pub fn of(&self, member: Member) -> u32 {
        self.lens.get(usize::from(member.0)).copied().unwrap_or(0)
    }

    /// The members that hold some, in the order of their numbers.
    pub fn iter(&self) -> impl Iterator<Item = (Member, u32)> {
        let all = self.lens.iter().enumerate().map(|(number, len)| (Member(number as u16), *len));
        all.filter(|(_, len)| *len > 0).take(self.found)
    }
}

/// A member that is being cleared: blocks that are moved to another run meanwhile move without it.
#[derive(Debug)]
struct Leaving {
    member: Member,
    /// Blocks that did.
    dropped: AtomicUsize,
}

/// Positions in a chain, the next one first.
#[derive(Default)]
struct Later(Option<usize>, Vec<usize>);

impl Later {
    #[inline]
    fn add(&mut self, at: usize) {
        match self.0 {
            Some(next) if next == at => {}
            None => self.0 = Some(at),
            Some(next) => {
                self.0 = Some(next.min(at));
                self.1.push(next.max(at));
            }
        }
    }

    #[inline]
    fn take(&mut self) -> Option<usize> {
        let taken = self.0.take()?;
        self.1.retain(|at| *at != taken);
        let next = self.1.iter().copied().min();
        self.1.retain(|at| Some(*at) != next);
        self.0 = next;
        Some(taken)
    }
}

impl Index {
    /// An empty one that keeps to so many bytes of memory, about. The seed spreads its table; nobody who reports
    /// blocks should know it.
    pub fn new(bytes_max: usize, seed: [u64; 2]) -> Self {
        Self {
            table: Table::new(seed),
            runs: Runs::new(),
            roots: Roots::new(),
            body_bytes: AtomicUsize::new(0),
            bytes_max,
            now: AtomicU32::new(0),
            hand: Mutex::new(0),
            leaving: RwLock::default(),
            shed_runs: AtomicU64::new(0),
            shed_held: AtomicU64::new(0),
        }
    }

    /// Says what time it is, in whatever the user of the index counts by. What was asked for long ago goes first.
    pub fn set_now(&self, now: u32) {
        self.now.store(now, Ordering::Relaxed);
    }

    /// Finds how much of a chain each member holds from its start.
    ///
    /// The hashes have to be a chain's: each stands for all blocks before it, and the first is one that somebody
    /// said to have none before it.
    pub fn find(&self, chain: &[u64], matches: &mut Matches) {
        matches.lens.fill(0);
        matches.found = 0;
        if !chain.first().is_some_and(|first| self.roots.may_have(self.table.spread(*first))) {
            return;
        }
        let guard = &crossbeam_epoch::pin();
        let now = self.now.load(Ordering::Relaxed);
        // Where members go on that came so far: all at one block, unless somebody has told lies.
        let (mut at, mut later) = (0, Later::default());
        while at < chain.len() {
            if let Some((place, run, body)) = self.locate(chain[at], guard) {
                run.touch(now);
                self.follow(body, place.offset, at, chain, matches, &mut later);
            }
            let Some(next) = later.take() else { return };
            at = next;
        }
    }

    /// Follows a chain through a run, from this block on.
    #[inline]
    fn follow(
        &self,
        body: Body<'_>,
        offset: u32,
        at: usize,
        chain: &[u64],
        matches: &mut Matches,
        later: &mut Later,
    ) {
        let Matches { lens, found } = matches;
        let rest = &chain[at..];
        // What comes of a number of blocks that a member holds from here on: many hold as much as others.
        let (mut count, mut common) = (0, 0);
        for held in body.held() {
            // Who has not come so far has a hole before.
            if !held.range().contains(&offset) {
                continue;
            }
            let Some(len) = lens.get_mut(usize::from(held.member.0)).filter(|len| **len == at as u32) else {
                continue;
            };
            let holds = rest.len().min((held.until - offset) as usize);
            if holds != count {
                count = holds;
                let same = body.common_of_one(offset, &rest[..count]);
                common = same as u32;
                // The block behind those that it holds is one that it does not hold, if it is the chain's.
                let is_over = same == count
                    && body.seen(offset + common).is_some_and(|hash| rest.get(count) == Some(&hash));
                if !is_over {
                    later.add(at + same);
                }
            }
            *len += common;
            *found += usize::from(at == 0);
        }
    }

    /// How large it is.
    pub fn stats(&self) -> IndexStats {
        IndexStats {
            blocks: self.table.len(),
            runs: self.runs.len(),
            bytes: self.bytes(),
            shed_runs: self.shed_runs.load(Ordering::Relaxed),
            shed_held: self.shed_held.load(Ordering::Relaxed),
        }
    }

    /// Where a block is.
    #[inline]
    fn locate<'g>(&'g self, hash: u64, guard: &'g Guard) -> Option<(Place, &'g Run, Body<'g>)> {
        self.table.find(self.table.spread(hash), guard, |place| {
            let run = self.runs.get(place.run)?;
            let body = run.body(guard)?;
            (body.hash(place.offset)? == hash).then_some((place, run, body))
        })
    }

    /// Bytes of memory.
    fn bytes(&self) -> usize {
        self.body_bytes.load(Ordering::Relaxed) + self.table.bytes() + self.runs.bytes() + self.roots.bytes()
    }
}
