//! What the index remembers of one block, packed: there may be hundreds of millions.

use std::num::NonZeroU32;

use hearth_proto::{BlockId, BlockKey, Generation, NamespaceId, Priority};

use crate::clock::Clock;
use crate::policy::{Keep, Level, Reuse, Spot, Standing};

/// No replica on NVMe.
const ABSENT: u32 = u32::MAX;
/// A replica on NVMe that is being written.
const PENDING: u32 = u32::MAX - 1;
/// Sectors from here on cannot be named.
pub(crate) const SECTORS_MAX: u32 = PENDING;
const NO_HOST: u32 = u32::MAX;
/// Stands for a priority that never falls back.
const NEVER: u32 = 0;
/// Unit in which the end of a retention is kept.
const EXPIRY_UNIT_US: u64 = 100_000;

const VERIFIED: u8 = 1;
const PINNED: u8 = 8;

/// One block. It has a replica in at least one tier, and all its replicas come from the same put.
///
/// The fields are in 4-byte units, so that none is padding.
#[repr(C)]
pub(crate) struct Node {
    key: [u8; 32],
    namespace: u32,
    generation: [u32; 2],
    /// Where the replica on NVMe begins, `ABSENT` or `PENDING`.
    sector: u32,
    /// Never zero, so that an empty place among the nodes takes no room to say so.
    payload_len: NonZeroU32,
    crc32: u32,
    /// Which of the shard's blocks of the arena this one is.
    pub(super) host: u32,
    /// Its place in the bag of the NVMe tier.
    pub(crate) place: u32,
    pub(crate) reuse: Reuse,
    expires: u32,
    depth: u16,
    priority: u8,
    bits: u8,
}

const _: () = assert!(size_of::<Option<Node>>() <= 80);

/// The state of a block's replica on NVMe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NvmeReplica {
    /// There is none: no NVMe tier, not admitted, evicted there, or refused by the device.
    Absent,
    /// It is being written; the block is no victim in the arena until that has ended.
    Pending,
    /// It is durable and begins at this sector.
    Stored(u32),
}

/// A tier that keeps candidates for eviction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kept {
    Host,
    Nvme,
}

impl Kept {
    /// Set while the block counts as expired in this tier.
    const fn expired_bit(self) -> u8 {
        match self {
            Self::Host => 2,
            Self::Nvme => 4,
        }
    }
}

/// What a new entry of the index begins with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct NewBlock {
    pub(crate) id: BlockId,
    pub(crate) generation: Generation,
    pub(crate) payload_len: NonZeroU32,
    pub(crate) crc32: u32,
    pub(crate) nvme: NvmeReplica,
    pub(crate) keep: Keep,
    pub(crate) reuse: Reuse,
    /// False while all that is known of the NVMe replica is what the index remembered of a former life.
    pub(crate) verified: bool,
}

impl Node {
    pub(crate) fn new(block: &NewBlock) -> Self {
        let Generation(generation) = block.generation;
        let mut node = Self {
            key: block.id.key.0,
            namespace: block.id.namespace.0,
            generation: [generation as u32, (generation >> 32) as u32],
            sector: ABSENT,
            payload_len: block.payload_len,
            crc32: block.crc32,
            host: NO_HOST,
            place: 0,
            reuse: block.reuse,
            expires: NEVER,
            depth: 0,
            priority: 0,
            bits: if block.verified { VERIFIED } else { 0 },
        };
        node.set_nvme(block.nvme);
        node.set_keep(&block.keep);
        node
    }

    pub(super) fn is(&self, id: &BlockId) -> bool {
        self.namespace == id.namespace.0 && self.key == id.key.0
    }

    pub(crate) fn id(&self) -> BlockId {
        BlockId { namespace: NamespaceId(self.namespace), key: BlockKey(self.key) }
    }

    pub(crate) fn spot(&self) -> Spot {
        Spot { namespace: self.namespace, depth: self.depth }
    }

    /// Some bits of the key, which is a digest.
    pub(crate) fn key_bits(&self) -> u64 {
        key_bits(&self.id())
    }

    pub(crate) fn generation(&self) -> Generation {
        Generation(u64::from(self.generation[1]) << 32 | u64::from(self.generation[0]))
    }

    pub(crate) fn payload_len(&self) -> u32 {
        self.payload_len.get()
    }

    pub(crate) fn crc32(&self) -> u32 {
        self.crc32
    }

    pub(crate) fn nvme(&self) -> NvmeReplica {
        match self.sector {
            ABSENT => NvmeReplica::Absent,
            PENDING => NvmeReplica::Pending,
            sector => NvmeReplica::Stored(sector),
        }
    }

    pub(crate) fn set_nvme(&mut self, replica: NvmeReplica) {
        self.sector = match replica {
            NvmeReplica::Absent => ABSENT,
            NvmeReplica::Pending => PENDING,
            NvmeReplica::Stored(sector) => {
                assert!(sector < SECTORS_MAX, "every sector of a tier can be named");
                sector
            }
        };
    }

    pub(crate) fn is_in_arena(&self) -> bool {
        self.host != NO_HOST
    }

    pub(super) fn leave_arena(&mut self) {
        self.host = NO_HOST;
    }

    /// True if the block has no replica left.
    pub(crate) fn is_empty(&self) -> bool {
        !self.is_in_arena() && self.sector == ABSENT
    }

    pub(crate) fn is_verified(&self) -> bool {
        self.bits & VERIFIED != 0
    }

    pub(crate) fn set_verified(&mut self) {
        self.bits |= VERIFIED;
    }

    /// The contract, with its end rounded up to a tenth of a second.
    pub(crate) fn keep(&self) -> Keep {
        Keep {
            priority: self.contract(),
            expires_at_us: (self.expires != NEVER)
                .then(|| Clock::OPENED_US + u64::from(self.expires) * EXPIRY_UNIT_US),
            depth: u32::from(self.depth),
        }
    }

    /// True if the block is kept as `keep` says.
    pub(crate) fn keeps(&self, keep: &Keep) -> bool {
        (self.contract(), self.depth, self.expires) == Self::packed(keep)
    }

    pub(crate) fn set_keep(&mut self, keep: &Keep) {
        let (priority, depth, expires) = Self::packed(keep);
        (self.priority, self.depth, self.expires) = (priority.value(), depth, expires);
    }

    fn packed(keep: &Keep) -> (Priority, u16, u32) {
        let expires = keep.expires_at_us.map_or(NEVER, |at_us| {
            let units = at_us.saturating_sub(Clock::OPENED_US).div_ceil(EXPIRY_UNIT_US);
            // What ends after a human life never does.
            u32::try_from(units).map_or(NEVER, |units| units.max(1))
        });
        (keep.priority, u16::try_from(keep.depth).unwrap_or(u16::MAX), expires)
    }

    pub(crate) fn depth(&self) -> u16 {
        self.depth
    }

    fn contract(&self) -> Priority {
        Priority::new(self.priority).expect("a node holds what was a priority")
    }

    /// By what the block stands in the bags of a tier.
    pub(crate) fn standing(&self, tier: Kept) -> Standing {
        if self.is_pinned() && tier == Kept::Nvme {
            return Standing { level: Level::PINNED, until_us: None };
        }
        match self.bits & tier.expired_bit() {
            0 => Standing { level: Level::of(self.contract()), until_us: self.keep().expires_at_us },
            _ => Standing { level: Level::of(Priority::DEFAULT), until_us: None },
        }
    }

    /// True while the block is not to leave its last tier.
    pub(crate) fn is_pinned(&self) -> bool {
        self.bits & PINNED != 0
    }

    pub(crate) fn set_pinned(&mut self, pinned: bool) {
        self.bits = if pinned { self.bits | PINNED } else { self.bits & !PINNED };
    }

    /// Fixes by what the block comes to stand in the bags of a tier.
    pub(crate) fn stand(&mut self, tier: Kept, now_us: u64) -> Standing {
        self.bits &= !tier.expired_bit();
        if self.keep().expires_at_us.is_some_and(|at_us| at_us <= now_us) {
            self.expire(tier);
        }
        self.standing(tier)
    }

    /// Lets the block stand by the default priority in a tier.
    pub(crate) fn expire(&mut self, tier: Kept) {
        self.bits |= tier.expired_bit();
    }
}

/// Some bits of a block's key, which is a digest.
pub(crate) fn key_bits(id: &BlockId) -> u64 {
    let (words, _) = id.key.0.as_chunks::<8>();
    u64::from_le_bytes(words[1])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn block(keep: Keep) -> NewBlock {
        NewBlock {
            id: BlockId { namespace: NamespaceId(7), key: BlockKey([9; 32]) },
            generation: Generation(0x0102_0304_0506_0708),
            payload_len: NonZeroU32::new(5).unwrap(),
            crc32: 6,
            nvme: NvmeReplica::Stored(11),
            keep,
            reuse: Reuse::default(),
            verified: false,
        }
    }

    #[test]
    fn a_node_gives_back_what_it_was_made_of() {
        let keep = Keep {
            priority: Priority::MAX,
            expires_at_us: Some(Clock::OPENED_US + 5 * EXPIRY_UNIT_US),
            depth: 70_000,
        };
        let block = block(keep);
        let mut node = Node::new(&block);
        assert_eq!((node.id(), node.generation(), node.nvme()), (block.id, block.generation, block.nvme));
        assert_eq!(node.keep(), Keep { depth: 65_535, ..keep });
        assert!(!node.is_verified() && !node.is_in_arena() && !node.is_empty());
        node.set_nvme(NvmeReplica::Pending);
        assert_eq!(node.nvme(), NvmeReplica::Pending);
        node.set_nvme(NvmeReplica::Absent);
        assert!(node.is_empty());
    }

    #[test]
    fn a_block_stands_by_its_contract_until_its_time_has_passed() {
        let at_us = Clock::OPENED_US + EXPIRY_UNIT_US;
        let keep = Keep { priority: Priority::MAX, expires_at_us: Some(at_us), depth: 0 };
        let mut node = Node::new(&block(keep));
        let by_contract = Standing { level: Level::of(Priority::MAX), until_us: Some(at_us) };
        let by_default = Standing { level: Level::of(Priority::DEFAULT), until_us: None };
        assert_eq!(node.stand(Kept::Nvme, at_us - 1), by_contract);
        assert_eq!(node.stand(Kept::Nvme, at_us), by_default);
        assert_eq!(node.standing(Kept::Host), by_contract, "each tier looks at the time by itself");
        node.expire(Kept::Host);
        assert_eq!(node.standing(Kept::Host), by_default);
    }
}
