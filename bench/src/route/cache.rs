//! Blocks in one memory: which are there, which are in use, and which goes next.
//!
//! Blocks that nobody uses stand in two lines, one for those that are to be retained. A line is in order of use, and of
//! blocks used at a time the deepest is first to go. The retained go when nothing else is left, or when their time is
//! up.

use super::arrivals::Block;

const NONE: u32 = u32::MAX;

/// How long a block that nobody uses is to be kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Keep {
    /// As any other.
    #[default]
    Usual,
    /// Before all others until then.
    Until(u64),
}

#[derive(Clone, Copy, Debug)]
struct Slot {
    block: Block,
    users: u32,
    is_ready: bool,
    keep: Keep,
    before: u32,
    behind: u32,
}

#[derive(Clone, Copy, Debug)]
struct Line {
    first: u32,
    last: u32,
}

/// See the module.
///
/// *Invariants*: blocks and reserved room together are never more than the capacity; a block in use never goes.
#[derive(Clone, Debug)]
pub(super) struct Cache {
    capacity: usize,
    reserved: usize,
    in_use: usize,
    /// By block: where its slot is.
    at: Vec<u32>,
    slots: Vec<Slot>,
    free: Vec<u32>,
    lines: [Line; 2],
    gone: Vec<Block>,
}

impl Cache {
    /// An empty one for so many blocks, of those with numbers below `blocks`.
    pub(super) fn new(capacity: usize, blocks: usize) -> Self {
        Self {
            capacity,
            reserved: 0,
            in_use: 0,
            at: vec![NONE; if capacity > 0 { blocks } else { 0 }],
            slots: Vec::new(),
            free: Vec::new(),
            lines: [Line { first: NONE, last: NONE }; 2],
            gone: Vec::new(),
        }
    }

    pub(super) fn capacity(&self) -> usize {
        self.capacity
    }

    /// Blocks that are there.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Room that is taken up: blocks, and what is reserved.
    pub(super) fn taken(&self) -> usize {
        self.len() + self.reserved
    }

    /// Room for blocks that are to be used, once all that nobody uses has gone.
    pub(super) fn room(&self) -> usize {
        self.capacity - self.in_use - self.reserved
    }

    /// Whether a block is there with what it is to hold.
    pub(super) fn has(&self, block: Block) -> bool {
        self.slot(block).is_some_and(|at| self.slots[at as usize].is_ready)
    }

    /// Whether somebody uses a block.
    pub(super) fn is_used(&self, block: Block) -> bool {
        self.slot(block).is_some_and(|at| self.slots[at as usize].users > 0)
    }

    /// How many blocks of a chain are there from its start, without a hole.
    pub(super) fn prefix(&self, chain: &[Block]) -> usize {
        chain.iter().take_while(|block| self.has(**block)).count()
    }

    /// Uses a block; one that is not there gets room and is not ready. The caller has looked whether there is
    /// [`room`](Self::room).
    pub(super) fn use_block(&mut self, block: Block) {
        let at = match self.slot(block) {
            Some(at) => at,
            None => self.put_slot(block),
        };
        if self.slots[at as usize].users == 0 {
            self.unlink(at);
            self.in_use += 1;
        }
        self.slots[at as usize].users += 1;
    }

    /// A block that is used holds what it is to hold. True if it did not before.
    pub(super) fn ready(&mut self, block: Block) -> bool {
        let Some(at) = self.slot(block) else { return false };
        !std::mem::replace(&mut self.slots[at as usize].is_ready, true)
    }

    /// Uses a block no longer. What never got ready goes.
    pub(super) fn release(&mut self, block: Block, keep: Keep) {
        let Some(at) = self.slot(block) else { return };
        let slot = &mut self.slots[at as usize];
        slot.keep = later(slot.keep, keep);
        slot.users -= 1;
        if slot.users > 0 {
            return;
        }
        self.in_use -= 1;
        if self.slots[at as usize].is_ready {
            self.link(at);
        } else {
            self.clear(at);
        }
    }

    /// Puts a block that nobody uses, or notes that it was used. True if it was not there. The caller names the deepest
    /// of a chain first.
    pub(super) fn put(&mut self, block: Block, keep: Keep, now_ns: u64) -> bool {
        if self.capacity == 0 {
            return false;
        }
        let known = self.slot(block);
        let at = match known {
            Some(at) => {
                self.unlink(at);
                at
            }
            None => {
                self.make_room(1, now_ns);
                self.put_slot(block)
            }
        };
        let slot = &mut self.slots[at as usize];
        slot.is_ready = true;
        slot.keep = later(slot.keep, keep);
        self.link(at);
        known.is_none()
    }

    /// Notes that a block was used, if it is there.
    pub(super) fn touch(&mut self, block: Block, keep: Keep) {
        if let Some(at) = self.slot(block) {
            self.unlink(at);
            let slot = &mut self.slots[at as usize];
            slot.keep = later(slot.keep, keep);
            self.link(at);
        }
    }

    /// Reserves room for what has no number, such as tokens that are yet to be decoded.
    pub(super) fn reserve(&mut self, count: usize) {
        self.reserved += count;
    }

    /// Lets go of reserved room.
    pub(super) fn unreserve(&mut self, count: usize) {
        self.reserved -= count;
    }

    /// Lets blocks go until there is room for so many more.
    ///
    /// # Panics
    /// When there is not that much room; the caller has looked.
    pub(super) fn make_room(&mut self, count: usize, now_ns: u64) {
        while self.taken() + count > self.capacity {
            let at = self.next_to_go(now_ns);
            assert!(at != NONE, "more room was asked for than there is");
            self.unlink(at);
            self.gone.push(self.slots[at as usize].block);
            self.clear(at);
        }
    }

    /// The blocks that went since this was asked last.
    pub(super) fn take_gone(&mut self) -> Vec<Block> {
        std::mem::take(&mut self.gone)
    }

    fn next_to_go(&self, now_ns: u64) -> u32 {
        let [usual, retained] = self.lines.map(|line| line.first);
        if usual == NONE {
            return retained;
        }
        match self.slots.get(retained as usize) {
            Some(Slot { keep: Keep::Until(until_ns), .. }) if *until_ns <= now_ns => retained,
            _ => usual,
        }
    }

    fn slot(&self, block: Block) -> Option<u32> {
        self.at.get(block as usize).copied().filter(|at| *at != NONE)
    }

    fn put_slot(&mut self, block: Block) -> u32 {
        let slot = Slot { block, users: 0, is_ready: false, keep: Keep::Usual, before: NONE, behind: NONE };
        let at = match self.free.pop() {
            Some(at) => {
                self.slots[at as usize] = slot;
                at
            }
            None => {
                self.slots.push(slot);
                self.slots.len() as u32 - 1
            }
        };
        self.at[block as usize] = at;
        // As if it stood in a line of its own.
        at
    }

    fn clear(&mut self, at: u32) {
        self.at[self.slots[at as usize].block as usize] = NONE;
        self.free.push(at);
    }

    fn line(&mut self, at: u32) -> &mut Line {
        &mut self.lines[usize::from(self.slots[at as usize].keep != Keep::Usual)]
    }

    /// Puts a slot at the end of its line.
    fn link(&mut self, at: u32) {
        let line = self.line(at);
        let last = std::mem::replace(&mut line.last, at);
        if last == NONE {
            line.first = at;
        } else {
            self.slots[last as usize].behind = at;
        }
        let slot = &mut self.slots[at as usize];
        (slot.before, slot.behind) = (last, NONE);
    }

    /// Takes a slot out of its line, if it stands in one.
    fn unlink(&mut self, at: u32) {
        let Slot { before, behind, .. } = self.slots[at as usize];
        let line = self.line(at);
        let stands_alone = before == NONE && behind == NONE && line.first != at;
        if stands_alone {
            return;
        }
        if before == NONE {
            line.first = behind;
        }
        if behind == NONE {
            line.last = before;
        }
        if before != NONE {
            self.slots[before as usize].behind = behind;
        }
        if behind != NONE {
            self.slots[behind as usize].before = before;
        }
        let slot = &mut self.slots[at as usize];
        (slot.before, slot.behind) = (NONE, NONE);
    }
}

/// Whoever asks to keep a block for longer has his way.
fn later(one: Keep, other: Keep) -> Keep {
    match (one, other) {
        (Keep::Until(one), Keep::Until(other)) => Keep::Until(one.max(other)),
        (Keep::Usual, keep) | (keep, Keep::Usual) => keep,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cache(blocks: &[Block]) -> Cache {
        let mut cache = Cache::new(4, 100);
        for block in blocks {
            assert!(cache.put(*block, Keep::Usual, 0));
        }
        cache
    }

    #[test]
    fn what_was_used_longest_ago_goes_first_and_what_is_in_use_never() {
        let mut cache = cache(&[1, 2, 3, 4]);
        cache.touch(1, Keep::Usual);
        cache.use_block(2);
        cache.put(5, Keep::Usual, 0);
        cache.put(6, Keep::Usual, 0);
        assert_eq!((cache.take_gone(), cache.len()), (vec![3, 4], 4));
        cache.release(2, Keep::Usual);
        cache.make_room(3, 0);
        assert_eq!(cache.take_gone(), [1, 5, 6]);
        assert_eq!(cache.room(), 4);
    }

    #[test]
    fn the_retained_outlast_others_until_their_time_is_up() {
        let mut cache = cache(&[1, 2]);
        cache.touch(1, Keep::Until(50));
        cache.put(3, Keep::Usual, 10);
        cache.make_room(3, 10);
        assert_eq!(cache.take_gone(), [2, 3]);
        cache.put(4, Keep::Usual, 60);
        cache.make_room(3, 60);
        assert_eq!(cache.take_gone(), [1]);
    }

    #[test]
    fn a_block_that_never_got_ready_is_not_kept() {
        let mut cache = cache(&[]);
        cache.use_block(7);
        assert!(!cache.has(7) && cache.is_used(7));
        cache.release(7, Keep::Usual);
        cache.use_block(8);
        assert!(cache.ready(8) && !cache.ready(8));
        cache.release(8, Keep::Usual);
        assert_eq!((cache.len(), cache.has(7), cache.prefix(&[8, 7])), (1, false, 1));
    }

    #[test]
    #[should_panic(expected = "more room")]
    fn room_that_is_not_there_is_not_made() {
        let mut cache = cache(&[1]);
        cache.use_block(1);
        cache.make_room(4, 0);
    }
}
