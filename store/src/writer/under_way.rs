//! Which blocks are on their way to NVMe.

use std::collections::BTreeMap;

use crate::space::Resident;

/// The blocks under way, in the order in which they came.
#[derive(Default)]
pub(crate) struct UnderWay {
    next: u64,
    blocks: BTreeMap<u64, Flight>,
}

struct Flight {
    resident: Resident,
    /// The ready slot to which the block is being written.
    ready: Option<u32>,
}

impl UnderWay {
    /// Notes a block and gives it the next number.
    pub(super) fn begin(&mut self, resident: Resident) -> u64 {
        let number = self.next;
        self.next += 1;
        self.blocks.insert(number, Flight { resident, ready: None });
        number
    }

    pub(super) fn writes_to(&mut self, number: u64, ready: Option<u32>) {
        self.blocks.get_mut(&number).expect("a block is under way until it has ended").ready = ready;
    }

    pub(super) fn end(&mut self, number: u64) {
        let known = self.blocks.remove(&number);
        assert!(known.is_some(), "a block ends once");
    }

    pub(crate) fn len(&self) -> usize {
        self.blocks.len()
    }

    /// The number of the next block.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// True if no block is under way whose number is below this one.
    pub(super) fn is_past(&self, number: u64) -> bool {
        self.blocks.first_key_value().is_none_or(|(first, _)| *first >= number)
    }

    /// The ready slots to which a block is being written: two, if it was let go of and put again while its
    /// first record had just become durable.
    pub(super) fn ready_slots_of(&self, resident: &Resident) -> Vec<u32> {
        let of_block = self.blocks.values().filter(|flight| flight.resident == *resident);
        of_block.filter_map(|flight| flight.ready).collect()
    }
}
