//! What one node claims in a directory group, in sum.

use hearth_proto::{Incarnation, NodeId, Tier};

use super::block_table::RANGES;
use super::record::RecordError;

/// Tiers that a claim may name.
pub(super) const TIERS: usize = Tier::ALL.len();
const RECORD_BYTES: usize = 8 + 8 + 8 + 2;

/// What one node claims, all of it under one incarnation.
#[derive(Debug)]
pub(super) struct Holder {
    pub(super) node: NodeId,
    pub(super) incarnation: Incarnation,
    /// The sequence expected next; zero when only a resync or an inventory will do.
    pub(super) next_sequence: u64,
    /// Ranges below it hold what this incarnation said. Claims in others are an earlier one's and do not count.
    pub(super) synced: u16,
    tiers: [Holdings; TIERS],
}

/// The claims on one tier. Derived from the blocks.
#[derive(Debug, Default)]
struct Holdings {
    blocks: u64,
    bytes: u64,
    /// Of each range: the wrapping sum of the digests of its blocks. None before the first.
    digests: Option<Box<[u64; RANGES]>>,
}

impl Holder {
    pub(super) fn new(node: NodeId) -> Self {
        Self {
            node,
            incarnation: Incarnation::default(),
            next_sequence: 0,
            synced: 0,
            tiers: Default::default(),
        }
    }

    /// Claims, each on one tier.
    pub(super) fn claims(&self) -> u64 {
        self.tiers.iter().map(|tier| tier.blocks).sum()
    }

    /// Payload bytes that it claims to hold on a tier.
    pub(super) fn bytes(&self, tier: Tier) -> u64 {
        self.tiers[position(tier)].bytes
    }

    /// The sum of the digests of what it holds in a range on the tier at this position.
    pub(super) fn digest(&self, tier: usize, range: usize) -> u64 {
        self.tiers[tier].digests.as_ref().map_or(0, |digests| digests[range])
    }

    /// Follows a change of its claim on a block.
    pub(super) fn count(&mut self, before: u8, after: u8, range: usize, digest: u64, payload_len: u32) {
        for (position, tier) in self.tiers.iter_mut().enumerate() {
            let bit = 1 << position;
            match (before & bit != 0, after & bit != 0) {
                (false, true) => {
                    tier.blocks += 1;
                    tier.bytes += u64::from(payload_len);
                    let digests = tier.digests.get_or_insert_with(|| Box::new([0; RANGES]));
                    digests[range] = digests[range].wrapping_add(digest);
                }
                (true, false) => {
                    tier.blocks -= 1;
                    tier.bytes -= u64::from(payload_len);
                    if let Some(digests) = &mut tier.digests {
                        digests[range] = digests[range].wrapping_sub(digest);
                    }
                }
                _ => {}
            }
        }
    }

    /// Writes the holder's record.
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.node.0.to_le_bytes());
        out.extend_from_slice(&self.incarnation.0.to_le_bytes());
        out.extend_from_slice(&self.next_sequence.to_le_bytes());
        out.extend_from_slice(&self.synced.to_le_bytes());
    }

    /// Reads what [`Self::write`] wrote.
    pub(super) fn read(bytes: &[u8]) -> Result<Self, RecordError> {
        let bytes: &[u8; RECORD_BYTES] =
            bytes.try_into().map_err(|_| RecordError("a holder record of the wrong length"))?;
        let [node, incarnation, next_sequence] = [0, 8, 16].map(|at| {
            let mut number = [0; 8];
            number.copy_from_slice(&bytes[at..at + 8]);
            u64::from_le_bytes(number)
        });
        let synced = u16::from_le_bytes([bytes[24], bytes[25]]);
        if usize::from(synced) > RANGES {
            return Err(RecordError("a holder with more ranges than there are"));
        }
        let incarnation = Incarnation(incarnation);
        Ok(Self { incarnation, next_sequence, synced, ..Self::new(NodeId(node)) })
    }
}

/// Where a tier stands among those that a claim may name; also the number of its bit.
#[inline]
pub(super) fn position(tier: Tier) -> usize {
    tier as usize - 1
}
