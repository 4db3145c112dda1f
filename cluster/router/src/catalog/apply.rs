//! How reports change a pool's index.
//!
//! A worker's names are the truth about it, and the index follows them: a block is in a member's level for as long as
//! one of the tiers of that level has it. Where both differ, because memory ran out or one block has two names, the
//! index has less, never more.

use std::sync::atomic::Ordering;

use hearth_proto::Tier;
use hearth_proto::limits::EVENT_BLOCKS_MAX;

use super::names::Told;
use super::pool::Pool;
use super::tiers::{Tiers, level_of};
use super::worker::{State, Worker};
use super::{Applied, ChangeError, StoredBlocks, WorkerKey, hashes};
use crate::index::Member;

/// Room for blocks that a worker keeps from one report to the next.
const SCRATCH_BLOCKS: usize = 4_096;

/// A block that a worker told of before, and that stands for another one now than it did.
struct Understood {
    at: usize,
    tiers: Tiers,
}

impl Pool {
    /// Notes that a worker holds blocks in a tier.
    ///
    /// *Units*: milliseconds of a clock that does not go back.
    ///
    /// # Errors
    /// [`ChangeError`], which is counted. Nothing is changed, but by [`ChangeError::Full`].
    pub fn stored(
        &self,
        worker: &WorkerKey,
        tier: Tier,
        stored: &StoredBlocks<'_>,
        now_ms: u64,
    ) -> Result<Applied, ChangeError> {
        self.change(worker, now_ms, |worker, state| self.store(worker, state, tier, stored))
    }

    /// Notes that a worker no longer holds blocks in a tier. Those that it was not known to hold there are counted.
    ///
    /// *Units*: milliseconds of a clock that does not go back.
    ///
    /// # Errors
    /// [`ChangeError`], which is counted; nothing is changed.
    pub fn removed(
        &self,
        worker: &WorkerKey,
        tier: Tier,
        hashes: &[u64],
        now_ms: u64,
    ) -> Result<Applied, ChangeError> {
        self.change(worker, now_ms, |_, state| self.remove(state, tier, hashes))
    }

    /// Notes that a worker holds nothing any more, in any tier.
    ///
    /// *Units*: milliseconds of a clock that does not go back.
    ///
    /// # Errors
    /// [`ChangeError`], which is counted; nothing is changed.
    pub fn cleared(&self, worker: &WorkerKey, now_ms: u64) -> Result<Applied, ChangeError> {
        self.change(worker, now_ms, |_, state| Ok(Applied { changed: self.forget_all(state), unchanged: 0 }))
    }

    fn change(
        &self,
        worker: &WorkerKey,
        now_ms: u64,
        change: impl FnOnce(&Worker, &mut State) -> Result<Applied, ChangeError>,
    ) -> Result<Applied, ChangeError> {
        self.set_now(now_ms);
        let outcome = self.worker(worker).and_then(|worker| {
            let mut state = worker.lock();
            if state.is_gone {
                return Err(ChangeError::UnknownWorker);
            }
            worker.hear(now_ms);
            change(&worker, &mut state)
        });
        self.counters.count(&outcome);
        outcome
    }

    fn store(
        &self,
        worker: &Worker,
        state: &mut State,
        tier: Tier,
        stored: &StoredBlocks<'_>,
    ) -> Result<Applied, ChangeError> {
        self.check(stored)?;
        if stored.hashes.is_empty() {
            return Ok(Applied::default());
        }
        self.make_room(state, stored.hashes.len());
        let mut blocks = std::mem::take(&mut state.blocks);
        let applied = self.identify(state, stored, &mut blocks).and_then(|before| {
            self.open(worker, state, tier)?;
            self.hold(state, tier, stored, before, &blocks)
        });
        blocks.shrink_to(SCRATCH_BLOCKS);
        state.blocks = blocks;
        applied
    }

    fn check(&self, stored: &StoredBlocks<'_>) -> Result<(), ChangeError> {
        if stored.hashes.len() > EVENT_BLOCKS_MAX {
            return Err(ChangeError::TooManyBlocks);
        }
        let expected = stored.hashes.len() * self.key().block_size() as usize;
        match stored.tokens.len() {
            0 => Ok(()),
            tokens if tokens == expected => Ok(()),
            _ => Err(ChangeError::TokensMismatch),
        }
    }

    /// Finds out which blocks these are, and which one is before them.
    fn identify(
        &self,
        state: &mut State,
        stored: &StoredBlocks<'_>,
        blocks: &mut Vec<u64>,
    ) -> Result<Option<u64>, ChangeError> {
        blocks.clear();
        let State { names, bytes, .. } = state;
        if stored.tokens.is_empty() {
            let block = |hash: u64| names.of(hash).map_or(hash, |name| name.block);
            blocks.extend(stored.hashes.iter().map(|hash| block(*hash)));
            return Ok(stored.parent.map(block));
        }
        let before = match stored.parent {
            None => None,
            Some(parent) => {
                let name = names.of(parent).filter(|name| name.is_rolled);
                Some(name.ok_or(ChangeError::UnknownParent)?.block)
            }
        };
        let seed = self.block_seed(stored.salt);
        let mut last = before;
        hashes::for_each_local(stored.tokens, self.key().block_size(), seed, bytes, |local| {
            let block = hashes::next(last, local);
            last = Some(block);
            blocks.push(block);
        });
        Ok(before)
    }

    /// Sees to it that a tier has members of the index for its levels.
    fn open(&self, worker: &Worker, state: &mut State, tier: Tier) -> Result<(), ChangeError> {
        let level = level_of(tier);
        let Some(opening) = state.levels.opening(level) else {
            state.levels = state.levels.open(level, None);
            return Ok(());
        };
        let member = self.board.take_number().ok_or(ChangeError::Full)?;
        if let Some(from) = opening.copied {
            self.index.copy(from, member);
            // Runs that are tidied meanwhile may move blocks past where it looks.
            let blocks: Vec<u64> = state.names.blocks().collect();
            self.index.copy_blocks(from, member, &blocks);
        }
        state.levels = state.levels.open(level, Some(member));
        self.board.set_levels(worker, state.levels);
        Ok(())
    }

    /// Takes in what the worker says, and has the index follow.
    fn hold(
        &self,
        state: &mut State,
        tier: Tier,
        stored: &StoredBlocks<'_>,
        before: Option<u64>,
        blocks: &[u64],
    ) -> Result<Applied, ChangeError> {
        let is_rolled = !stored.tokens.is_empty();
        let (mut applied, mut void, mut understood) = (Applied::default(), Vec::new(), Vec::new());
        for (at, (hash, block)) in stored.hashes.iter().zip(blocks).enumerate() {
            let was_there = state.names.of(*hash).is_some_and(|name| name.tiers.has(tier));
            let told = state.names.tell(*hash, *block, is_rolled, tier);
            match told {
                Told::New | Told::Same => {}
                Told::Understood { before } => {
                    void.push(before);
                    let tiers = state.names.of(*hash).map_or(Tiers::NONE, |name| name.tiers);
                    understood.push(Understood { at, tiers });
                }
                Told::Changed { before } => {
                    void.push(before);
                    self.counters.contradicted.fetch_add(1, Ordering::Relaxed);
                }
            }
            let is_unchanged = was_there && told == Told::Same;
            applied.changed += usize::from(!is_unchanged);
            applied.unchanged += usize::from(is_unchanged);
        }
        // The levels with more go first, so that nobody sees less in one than in a level below it.
        let mut outcome = Ok(());
        for (level, member) in state.levels.distinct().rev() {
            let added = if level < level_of(tier) {
                self.hold_understood(member, level, &understood, before, blocks)
            } else if is_rolled {
                self.index.add(member, before, blocks).map(drop).map_err(|_| ChangeError::Full)
            } else {
                self.hold_named(state, member, before, blocks)
            };
            outcome = outcome.and(added);
        }
        self.forget(state, &void);
        outcome.map(|()| applied)
    }

    /// Adds blocks to a level below the tier's that the worker held there before it was known what they are.
    fn hold_understood(
        &self,
        member: Member,
        level: usize,
        understood: &[Understood],
        before: Option<u64>,
        blocks: &[u64],
    ) -> Result<(), ChangeError> {
        for Understood { at, .. } in understood.iter().filter(|block| block.tiers.reach(level)) {
            let before = at.checked_sub(1).map(|before| blocks[before]).or(before);
            let added = self.index.add(member, before, &blocks[*at..=*at]);
            added.map_err(|_| ChangeError::Full)?;
        }
        Ok(())
    }

    /// Adds blocks of which the worker told by name alone, often without the block before. What it holds in any tier
    /// is in the index where it belongs, and stays there: nothing is made of the order here.
    fn hold_named(
        &self,
        state: &State,
        member: Member,
        before: Option<u64>,
        blocks: &[u64],
    ) -> Result<(), ChangeError> {
        let Some((_, widest)) = state.levels.distinct().next_back() else { return Ok(()) };
        let mut rest = blocks;
        let mut before = before;
        while !rest.is_empty() {
            let is_known = |block: &&u64| self.index.holds(widest, **block);
            let known = rest.iter().take_while(is_known).count();
            let (known, others) = rest.split_at(known);
            self.index.copy_blocks(widest, member, known);
            before = known.last().copied().or(before);
            let unknown = others.iter().take_while(|block| !is_known(block)).count();
            let (unknown, others) = others.split_at(unknown);
            if !unknown.is_empty() {
                self.index.add(member, before, unknown).map_err(|_| ChangeError::Full)?;
                before = unknown.last().copied();
            }
            rest = others;
        }
        Ok(())
    }

    fn remove(&self, state: &mut State, tier: Tier, hashes: &[u64]) -> Result<Applied, ChangeError> {
        if hashes.len() > EVENT_BLOCKS_MAX {
            return Err(ChangeError::TooManyBlocks);
        }
        let mut dropped = Vec::with_capacity(hashes.len());
        dropped.extend(hashes.iter().filter_map(|hash| state.names.drop_tier(*hash, tier)));
        let levels = state.levels.distinct().filter(|(level, _)| *level >= level_of(tier));
        for (level, member) in levels {
            let left = dropped.iter().filter(|(_, tiers)| !tiers.reach(level));
            state.blocks.clear();
            state.blocks.extend(left.map(|(block, _)| *block));
            self.index.remove(member, &state.blocks);
        }
        state.blocks.shrink_to(SCRATCH_BLOCKS);
        state.names.shrink();
        let unknown = hashes.len() - dropped.len();
        self.counters.unknown_removed.fetch_add(unknown as u64, Ordering::Relaxed);
        Ok(Applied { changed: dropped.len(), unchanged: unknown })
    }
}
