//! The store's own policy: its ranker, over bags of candidates by priority, one draw for a run of victims.

use std::collections::{BTreeMap, HashMap, VecDeque};

use hearth_store::policy::reuse::{Ranker, Reuse, SUPERSEDED_BLOCKS_MAX, Tick};

use super::cache::Cache;
use super::trace::{Request, Trace};

/// Candidates drawn for a run of victims.
pub(super) const DRAWS: usize = 128;
/// Victims of one draw, at most.
pub(super) const RUN: usize = 32;
/// Candidates tried before a block with children is evicted after all.
const TRIES: usize = 8;

/// What a harness tells the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Told {
    /// Nothing.
    Nothing,
    /// The set-up has priority 80 for 300 s from each use; what a session's next request leaves out of its
    /// prompt (compaction, edits) has priority 0 from then on; all else has the default.
    Classes,
    /// And a session that has ended is released 60 s after its last request.
    ClassesAndEnds,
}

const DEFAULT: u8 = 35;
const SETUP: u8 = 80;
const SETUP_US: u64 = 300_000_000;
const RELEASE_US: u64 = 60_000_000;

#[derive(Clone, Copy, Default)]
struct Entry {
    reuse: Reuse,
    /// Place in its bag and one; 0 when the block is not held.
    place: u32,
    /// Children held, orphans of an earlier stay included.
    children: u32,
    latest_child: u32,
    parted: bool,
    priority: u8,
    expires_us: u64,
}

pub(super) struct Ours<'a> {
    trace: &'a Trace,
    told: Told,
    capacity: usize,
    held: usize,
    ranker: Ranker,
    entries: Vec<Entry>,
    bags: BTreeMap<u8, Vec<u32>>,
    expiries: VecDeque<(u64, u32)>,
    /// Blocks below the last victim, deepest last, that may follow it.
    run: Vec<u32>,
    random: u64,
    prompts: HashMap<u32, Vec<u32>>,
    releases: VecDeque<(u64, Vec<u32>)>,
}

impl<'a> Ours<'a> {
    pub(super) fn new(trace: &'a Trace, capacity: usize, told: Told) -> Self {
        Self {
            trace,
            told,
            capacity,
            held: 0,
            ranker: Ranker::new(capacity),
            entries: vec![Entry { priority: DEFAULT, ..Entry::default() }; trace.parents.len()],
            bags: BTreeMap::new(),
            expiries: VecDeque::new(),
            run: Vec::new(),
            random: 0x2545_F491_4F6C_DD1D,
            prompts: HashMap::new(),
            releases: VecDeque::new(),
        }
    }

    fn enter_bag(&mut self, block: u32) {
        let entry = &mut self.entries[block as usize];
        let bag = self.bags.entry(entry.priority).or_default();
        bag.push(block);
        entry.place = bag.len() as u32;
    }

    fn leave_bag(&mut self, block: u32) {
        let entry = &mut self.entries[block as usize];
        let place = std::mem::take(&mut entry.place) as usize - 1;
        let Some(bag) = self.bags.get_mut(&entry.priority) else { return };
        bag.swap_remove(place);
        if let Some(moved) = bag.get(place) {
            self.entries[*moved as usize].place = place as u32 + 1;
        }
    }

    fn set_priority(&mut self, block: u32, priority: u8, expires_us: u64) {
        let entry = &mut self.entries[block as usize];
        entry.expires_us = expires_us;
        if entry.priority == priority {
            return;
        }
        if entry.place == 0 {
            entry.priority = priority;
            return;
        }
        self.leave_bag(block);
        self.entries[block as usize].priority = priority;
        self.enter_bag(block);
    }

    fn evict(&mut self, block: u32) {
        self.leave_bag(block);
        self.held -= 1;
        let parent = self.trace.parents[block as usize];
        self.entries[parent as usize].children -= 1;
    }

    fn evict_one(&mut self, now: Tick) {
        while let Some(block) = self.run.pop() {
            let entry = &self.entries[block as usize];
            if entry.place > 0 && entry.children == 0 && entry.reuse.used_at() != now {
                return self.evict(block);
            }
            self.run.clear();
        }
        let mut candidates = self.draw(now);
        candidates.sort_unstable();
        for (_, candidate) in candidates.iter().take(TRIES) {
            let mut end = *candidate;
            loop {
                self.run.push(end);
                let child = self.entries[end as usize].latest_child;
                if child == 0 || self.entries[child as usize].place == 0 {
                    break;
                }
                end = child;
            }
            if self.entries[end as usize].children == 0 {
                self.run.pop();
                let longest = self.run.len().saturating_sub(RUN - 1);
                self.run.drain(..longest);
                return self.evict(end);
            }
            self.run.clear();
        }
        if let Some((_, block)) = candidates.first() {
            self.evict(*block);
        }
    }

    /// Ranked candidates of the lowest priority that has any; blocks of this moment's request only if there
    /// are no others.
    fn draw(&mut self, now: Tick) -> Vec<(u64, u32)> {
        let mut drawn = Vec::with_capacity(DRAWS);
        for in_use_too in [false, true] {
            for bag in self.bags.values().filter(|bag| !bag.is_empty()) {
                for _ in 0..DRAWS {
                    self.random ^= self.random << 13;
                    self.random ^= self.random >> 7;
                    self.random ^= self.random << 17;
                    let at = ((self.random >> 32) * bag.len() as u64) >> 32;
                    let block = bag[at as usize];
                    let reuse = self.entries[block as usize].reuse;
                    if in_use_too || reuse.used_at() != now {
                        drawn.push((self.ranker.rank(reuse, self.trace.depths[block as usize], now), block));
                    }
                }
                if !drawn.is_empty() {
                    return drawn;
                }
            }
        }
        drawn
    }

    /// The chain went on with `child`: what followed `parent` before may be done with.
    fn go_on(&mut self, parent: u32, child: u32, at_hole: bool, now: Tick) {
        let entry = &mut self.entries[parent as usize];
        let mut left = std::mem::replace(&mut entry.latest_child, child);
        if !at_hole || left == 0 || left == child || std::mem::replace(&mut entry.parted, true) {
            return;
        }
        if !self.ranker.supersedes(entry.reuse) {
            return;
        }
        let mut branch = Vec::new();
        while left != 0 && self.entries[left as usize].place > 0 {
            if self.entries[left as usize].reuse.used_at() == now {
                break;
            }
            branch.push(left);
            if branch.len() > SUPERSEDED_BLOCKS_MAX {
                return;
            }
            left = self.entries[left as usize].latest_child;
        }
        for block in branch {
            let entry = &mut self.entries[block as usize];
            entry.reuse = self.ranker.superseded(entry.reuse);
        }
    }

    fn expire(&mut self, now_us: u64) {
        while let Some(&(at, block)) = self.expiries.front()
            && at <= now_us
        {
            self.expiries.pop_front();
            if self.entries[block as usize].expires_us == at {
                self.set_priority(block, DEFAULT, 0);
            }
        }
        while self.releases.front().is_some_and(|release| release.0 <= now_us) {
            let released = self.releases.pop_front().map(|release| release.1).unwrap_or_default();
            released.into_iter().for_each(|block| self.set_priority(block, 0, 0));
        }
    }

    /// What the harness says with and after this request.
    fn hear(&mut self, request: &Request, chain: &[u32]) {
        if self.told == Told::Nothing {
            return;
        }
        let setup = (request.setup_blocks as usize).min(chain.len());
        for (index, &block) in chain.iter().enumerate() {
            if index < setup {
                let expires_us = request.at_us + SETUP_US;
                self.set_priority(block, SETUP, expires_us);
                self.expiries.push_back((expires_us, block));
            } else {
                self.set_priority(block, DEFAULT, 0);
            }
        }
        let before = self.prompts.insert(request.session, chain.to_vec()).unwrap_or_default();
        let kept = before.iter().zip(chain).take_while(|(old, new)| old == new).count();
        for block in &before[kept.max(setup).min(before.len())..] {
            self.set_priority(*block, 0, 0);
        }
        if self.told == Told::ClassesAndEnds && request.last {
            self.releases.push_back((request.at_us + RELEASE_US, chain[setup..].to_vec()));
        }
    }
}

impl Cache for Ours<'_> {
    fn holds(&self, block: u32) -> bool {
        self.entries[block as usize].place > 0
    }

    fn serve(&mut self, request: &Request, chain: &[u32], held: usize) {
        let now = Tick::from_us(request.at_us);
        self.expire(request.at_us);
        let mut parent: Option<Reuse> = None;
        for (index, &block) in chain.iter().enumerate() {
            let (at, key) = (block as usize, u64::from(block));
            if self.entries[at].place > 0 {
                self.entries[at].reuse = self.ranker.used(key, self.entries[at].reuse, now);
            } else {
                if self.held >= self.capacity {
                    self.evict_one(now);
                }
                self.entries[at].reuse = self.ranker.inserted(key, parent, now);
                self.entries[at].parted = false;
                self.entries[self.trace.parents[at] as usize].children += 1;
                self.held += 1;
                self.enter_bag(block);
            }
            parent = Some(self.entries[at].reuse);
            let above = self.trace.parents[at];
            if above != 0 {
                self.go_on(above, block, index == held, now);
            }
        }
        self.hear(request, chain);
        if self.ranker.lesson_due() {
            self.ranker.learn(now);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::cache::hit_percent;

    #[test]
    fn it_never_holds_more_than_it_may_and_its_books_agree() {
        // A root with 40 chains of 10 blocks, asked for in turn.
        let parents: Vec<u32> = (0..=401_u32)
            .map(|block| {
                if block < 2 {
                    0
                } else if block % 10 == 2 {
                    1
                } else {
                    block - 1
                }
            })
            .collect();
        let tips: Vec<u32> = (0..400).map(|turn| 11 + 10 * ((turn * 7) % 40)).collect();
        let trace = Trace::of_chains(parents, &tips);
        for told in [Told::Nothing, Told::Classes, Told::ClassesAndEnds] {
            let mut cache = Ours::new(&trace, 100, told);
            let mut chain = Vec::new();
            for request in &trace.requests {
                trace.chain_into(request, &mut chain);
                cache.serve(request, &chain, 0);
                let in_bags: usize = cache.bags.values().map(Vec::len).sum();
                let held = cache.entries.iter().filter(|entry| entry.place > 0).count();
                assert_eq!((in_bags, held), (cache.held, cache.held));
                assert!(held <= 100);
            }
        }
        assert!(hit_percent(&trace, &mut Ours::new(&trace, 401, Told::Nothing)) > 85.0);
    }
}
