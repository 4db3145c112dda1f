//! Changes of an index: what members say that they hold, or hold no longer.

use std::sync::PoisonError;
use std::sync::atomic::{AtomicUsize, Ordering};

use crossbeam_epoch::Guard;

use super::body::{BLOCKS_MAX, Body, Held};
use super::runs::{Run, Writer};
use super::table::Place;
use super::{Added, Index, IndexError, Leaving, Member, Removed};
use crate::swap::Array;

/// Room for entries that a run has at first: most blocks are held by one or two.
const ENTRIES_MIN: usize = 2;
/// Room for blocks that it has at least.
const BLOCKS_MIN: usize = 8;
/// It is looked at which blocks nobody holds when so many were let go of, or an eighth of a run.
const TIDY_MIN: u32 = 16;

/// A run that nobody else can change meanwhile.
pub(super) struct Locked<'g, 'w> {
    index: &'g Index,
    number: u32,
    run: &'g Run,
    writer: &'w mut Writer,
    guard: &'g Guard,
}

impl Index {
    /// Notes that a member holds consecutive blocks of a chain, which come behind another one unless they are its
    /// first.
    ///
    /// # Errors
    /// [`IndexError::Full`]; what came before is noted.
    pub fn add(&self, member: Member, before: Option<u64>, blocks: &[u64]) -> Result<Added, IndexError> {
        let guard = &crossbeam_epoch::pin();
        let (mut before, mut rest, mut added) = (before, blocks, Added::default());
        let mut last = before.and_then(|hash| self.locate(hash, guard)).map(|(place, ..)| place);
        while let Some(hash) = rest.first() {
            let taken = match self.locate(*hash, guard) {
                Some((place, ..)) => {
                    self.add_known(member, place, before, rest, guard).map(|(taken, held)| {
                        added.held += held;
                        (Place { offset: place.offset + taken as u32 - 1, ..place }, taken)
                    })
                }
                None => self.add_new(member, last, before, rest, guard)?.inspect(|(_, taken)| {
                    added.new += taken;
                    added.held += taken;
                }),
            };
            // Otherwise somebody else has changed what was found, and it is looked for again.
            if let Some((place, taken)) = taken {
                last = Some(place);
                before = Some(rest[taken - 1]);
                rest = &rest[taken..];
            }
        }
        if added.new > 0 {
            self.keep_to_budget(guard);
        }
        Ok(added)
    }

    /// Notes that a member no longer holds some blocks.
    pub fn remove(&self, member: Member, blocks: &[u64]) -> Removed {
        let guard = &crossbeam_epoch::pin();
        let (mut removed, mut rest) = (Removed::default(), blocks);
        while let Some((hash, others)) = rest.split_first() {
            let Some((place, ..)) = self.locate(*hash, guard) else {
                removed.unknown += 1;
                rest = others;
                continue;
            };
            let taken = self.change(place.run, guard, |locked| locked.remove(member, place.offset, rest));
            if let Some((taken, held)) = taken {
                removed.held += held;
                removed.unknown += taken - held;
                rest = &rest[taken..];
            }
        }
        removed
    }

    /// Notes that a member holds nothing any more, whatever others change meanwhile; what itself adds meanwhile may
    /// stay. Gives the blocks that it held.
    ///
    /// Takes as long as it takes to look at all runs.
    pub fn clear(&self, member: Member) -> usize {
        // Blocks may be moved to a run that was looked at already: from here on they move without it.
        self.change_leaving(|leaving| leaving.push(Leaving { member, dropped: AtomicUsize::new(0) }));
        let mut cleared = 0;
        for number in 1..self.runs.end() {
            let guard = &crossbeam_epoch::pin();
            let is_there =
                |run: &Run| run.body(guard).is_some_and(|body| body.held().any(|held| held.member == member));
            if self.runs.get(number).is_some_and(is_there) {
                cleared += self.change(number, guard, |locked| locked.clear(member)).unwrap_or(0);
            }
        }
        let dropped = self.change_leaving(|leaving| {
            let at = leaving.iter().position(|leaving| leaving.member == member)?;
            Some(leaving.swap_remove(at).dropped.into_inner())
        });
        cleared + dropped.unwrap_or(0)
    }

    fn change_leaving<T>(&self, change: impl FnOnce(&mut Vec<Leaving>) -> T) -> T {
        change(&mut self.leaving.write().unwrap_or_else(PoisonError::into_inner))
    }

    /// Notes what is held of blocks that are known, from the first on. Gives how many are taken care of, and how many
    /// the member did not hold; none if the first is no longer there.
    fn add_known(
        &self,
        member: Member,
        place: Place,
        before: Option<u64>,
        blocks: &[u64],
        guard: &Guard,
    ) -> Option<(usize, usize)> {
        self.change(place.run, guard, |locked| locked.add(member, place.offset, before, blocks))
    }

    /// Notes new blocks, behind the last one if that ends its run. Gives where the last of them is and how many are
    /// taken care of; none if the first is no longer new.
    fn add_new(
        &self,
        member: Member,
        last: Option<Place>,
        before: Option<u64>,
        blocks: &[u64],
        guard: &Guard,
    ) -> Result<Option<(Place, usize)>, IndexError> {
        let appended = last.and_then(|last| {
            self.change(last.run, guard, |locked| {
                let is_end = |body: &Body<'_>| {
                    let len = body.len();
                    last.offset as usize + 1 == len && len < BLOCKS_MAX && body.hash(last.offset) == before
                };
                locked.body().filter(is_end)?;
                Some(locked.append(member, blocks))
            })
        });
        if let Some(taken) = appended {
            return Ok(taken);
        }
        let (number, _) = self.runs.take().ok_or(IndexError::Full)?;
        let taken = self.change(number, guard, |locked| {
            locked.replace(Some(Body::empty(ENTRIES_MIN, blocks.len().max(BLOCKS_MIN))));
            let taken = locked.append(member, blocks);
            if before.is_none() && taken.is_some() {
                locked.note_root(0, blocks[0]);
            }
            Some(taken)
        });
        Ok(taken.flatten())
    }

    /// Changes a run that nobody else changes meanwhile, and lets it go if nobody holds any of it.
    pub(super) fn change<T>(
        &self,
        number: u32,
        guard: &Guard,
        change: impl FnOnce(&mut Locked<'_, '_>) -> Option<T>,
    ) -> Option<T> {
        let run = self.runs.get(number)?;
        let mut writer = run.lock();
        let mut locked = Locked { index: self, number, run, writer: &mut writer, guard };
        let changed = change(&mut locked);
        if let Some(body) = locked.body() {
            if locked.writer.held == 0 {
                locked.let_go(body);
            } else if locked.writer.removed >= TIDY_MIN.max(body.len() as u32 / 8) {
                locked.tidy(body);
            }
        }
        changed
    }
}

impl<'g> Locked<'g, '_> {
    pub(super) fn body(&self) -> Option<Body<'g>> {
        self.run.body(self.guard)
    }

    /// Puts another body in the place of the run's own.
    fn replace(&mut self, body: Option<Array>) {
        let before = self.body().map_or(0, |body| body.bytes());
        let after = body.as_ref().map_or(0, |body| size_of_val(&**body));
        self.run.replace(body, self.guard);
        self.index.body_bytes.fetch_add(after, Ordering::Relaxed);
        self.index.body_bytes.fetch_sub(before, Ordering::Relaxed);
    }

    /// Makes room for so many blocks, and for another entry or not.
    fn grow(&mut self, entries: usize, blocks: usize) -> Option<Body<'g>> {
        let body = self.body()?;
        let (room, slots) = body.capacity();
        if entries > room || blocks > slots {
            let entries = if entries > room { room * 2 } else { room };
            let blocks = if blocks > slots { blocks.max(slots * 3 / 2) } else { slots };
            self.replace(Some(body.grown(entries, blocks)));
        }
        self.body()
    }

    fn add(
        &mut self,
        member: Member,
        offset: u32,
        before: Option<u64>,
        blocks: &[u64],
    ) -> Option<(usize, usize)> {
        let body = self.body().filter(|body| body.hash(offset) == blocks.first().copied())?;
        // None of one that is not seen yet: whoever puts it there had this lock.
        let common = Some(body.common(offset, blocks)).filter(|common| *common > 0)?;
        if offset.checked_sub(1).is_some_and(|known| body.hash(known) != before) {
            body.dispute();
        }
        if before.is_none() {
            self.note_root(offset, blocks[0]);
        }
        let held = self.hold(member, offset, common as u32)?;
        Some((common, held as usize))
    }

    /// Notes that a chain begins with the block at this position.
    fn note_root(&self, offset: u32, hash: u64) {
        let Some(body) = self.body() else { return };
        if offset == 0 && body.is_root() {
            return;
        }
        self.index.roots.add(self.index.table.spread(hash));
        // One that somebody put behind another stays noted for good: nobody would know when to take it out.
        if offset == 0 {
            body.mark_root();
        }
    }

    /// Takes the first block out of those that chains begin with, if it was noted as one: it leaves the index.
    fn forget_root(&self, body: Body<'_>) {
        if body.is_root()
            && let Some(first) = body.hash(0)
        {
            self.index.roots.remove(self.index.table.spread(first));
        }
    }

    /// Notes that a member holds so many blocks from this one on. Gives those that it did not.
    pub(super) fn hold(&mut self, member: Member, offset: u32, blocks: u32) -> Option<u32> {
        let held = loop {
            let body = self.body()?;
            match body.add(member, offset..offset + blocks) {
                Some(held) => break held,
                None => self.grow(body.capacity().0 + 1, 0)?,
            };
        };
        self.writer.held += held;
        self.run.touch(self.index.now.load(Ordering::Relaxed));
        Some(held)
    }

    /// Puts new blocks behind the last. Gives where the last of them is, and how many are there; none if the first is
    /// known by now.
    fn append(&mut self, member: Member, blocks: &[u64]) -> Option<(Place, usize)> {
        let len = self.body()?.len();
        let blocks = &blocks[..blocks.len().min(BLOCKS_MAX - len)];
        let body = self.grow(0, len + blocks.len())?;
        for hash in blocks {
            self.index.table.prefetch(self.index.table.spread(*hash), self.guard);
        }
        let mut taken = 0;
        for hash in blocks {
            let place = Place { run: self.number, offset: (len + taken) as u32 };
            if !body.put(place.offset, *hash) {
                break;
            }
            let index = self.index;
            let spread = index.table.spread(*hash);
            let is_there = |place: Place| index.runs.get(place.run)?.body(self.guard)?.hash(place.offset);
            let known = index
                .table
                .insert(spread, place, self.guard, |found| is_there(found).filter(|found| found == hash));
            if known.is_some() {
                break;
            }
            taken += 1;
        }
        if taken == 0 {
            return None;
        }
        body.publish(taken as u32);
        self.hold(member, len as u32, taken as u32)?;
        Some((Place { run: self.number, offset: (len + taken - 1) as u32 }, taken))
    }

    /// Takes blocks from a member, from this one on as long as they lie beside each other. Gives how many are taken
    /// care of, and how many of them it held.
    fn remove(&mut self, member: Member, offset: u32, blocks: &[u64]) -> Option<(usize, usize)> {
        let mut body = self.body().filter(|body| body.hash(offset) == blocks.first().copied())?;
        let (mut offset, mut taken, mut held) = (offset, 0, 0);
        loop {
            match body.remove(member, offset) {
                Some(was_held) => {
                    taken += 1;
                    held += usize::from(was_held);
                }
                None => {
                    body = self.grow(body.capacity().0 + 1, 0)?;
                    continue;
                }
            }
            let Some(next) = blocks.get(taken) else { break };
            let len = body.len() as u32;
            let beside = [Some(offset + 1), offset.checked_sub(1)];
            let is_next = |at: &u32| *at < len && body.hash(*at) == Some(*next);
            let Some(at) = beside.into_iter().flatten().find(is_next) else { break };
            offset = at;
        }
        self.writer.held -= held as u32;
        self.writer.removed += held as u32;
        Some((taken, held))
    }

    fn clear(&mut self, member: Member) -> Option<usize> {
        let held = self.body()?.clear(member);
        self.writer.held -= held;
        self.writer.removed += held;
        Some(held as usize)
    }

    /// Lets the run go, whoever holds some of it. Gives the blocks that were held.
    pub(super) fn let_go(&mut self, body: Body<'_>) -> u32 {
        self.forget_root(body);
        for (offset, hash) in (0..).zip(body.chain()) {
            let place = Place { run: self.number, offset };
            self.index.table.replace(self.index.table.spread(hash), place, None, self.guard);
        }
        self.replace(None);
        let held = std::mem::take(self.writer).held;
        self.index.runs.give_back(self.number);
        held
    }

    /// Lets go of blocks that nobody holds, if they are a quarter of the run: what is left at its start stays, and all
    /// else moves to runs of its own.
    fn tidy(&mut self, body: Body<'g>) {
        self.writer.removed = 0;
        let chain: Vec<u64> = body.chain().collect();
        let mut is_held = vec![false; chain.len()];
        body.held().for_each(|held| {
            let range = held.range();
            is_held[range.start as usize..range.end as usize].fill(true);
        });
        let unheld = is_held.iter().filter(|is_held| !**is_held).count();
        if unheld * 4 < chain.len() {
            return;
        }
        if !is_held[0] {
            self.forget_root(body);
        }
        let mut first = 0;
        for stretch in is_held.chunk_by(|a, b| a == b) {
            let range = first..first + stretch.len();
            first = range.end;
            if stretch[0] && range.start > 0 && self.move_away(body, &chain, range.clone()).is_some() {
                continue;
            }
            if !stretch[0] || range.start > 0 {
                for offset in range {
                    let place = Place { run: self.number, offset: offset as u32 };
                    self.index.table.replace(self.index.table.spread(chain[offset]), place, None, self.guard);
                }
            }
        }
        let kept = is_held.iter().take_while(|is_held| **is_held).count();
        let held = |part: Option<&Array>| {
            part.map_or(0, |part| Body::of(part).held().map(|held| held.range().len() as u32).sum())
        };
        let kept = (kept > 0).then(|| body.part(0..kept as u32, &chain, |_| true));
        self.writer.held = held(kept.as_ref());
        let is_gone = kept.is_none();
        self.replace(kept);
        if is_gone {
            std::mem::take(self.writer);
            self.index.runs.give_back(self.number);
        }
    }

    /// Moves a part of the run to one of its own.
    fn move_away(&mut self, body: Body<'g>, chain: &[u64], range: std::ops::Range<usize>) -> Option<()> {
        let index = self.index;
        let (number, run) = index.runs.take()?;
        let leaving = index.leaving.read().unwrap_or_else(PoisonError::into_inner);
        let stays = |held: &Held| {
            let leaving = leaving.iter().find(|leaving| leaving.member == held.member);
            leaving
                .inspect(|leaving| _ = leaving.dropped.fetch_add(held.range().len(), Ordering::Relaxed))
                .is_none()
        };
        let part = body.part(range.start as u32..range.end as u32, chain, stays);
        let mut writer = run.lock();
        writer.held = Body::of(&part).held().map(|held| held.range().len() as u32).sum();
        writer.removed = 0;
        let mut moved = Locked { index, number, run, writer: &mut writer, guard: self.guard };
        moved.replace(Some(part));
        run.touch(self.run.used.load(Ordering::Relaxed));
        for (to, from) in (0..).zip(range) {
            let (from, to) =
                (Place { run: self.number, offset: from as u32 }, Place { run: number, offset: to });
            index.table.replace(index.table.spread(chain[from.offset as usize]), from, Some(to), self.guard);
        }
        if moved.writer.held == 0
            && let Some(body) = moved.body()
        {
            // Nobody stayed.
            moved.let_go(body);
        }
        Some(())
    }
}
