//! Compares what a node holds with what the directory has of it, so that only what differs has to be told.
//!
//! Both sides add up digests of their blocks: of each range, or of each of up to 256 parts of it. The more blocks
//! there are the more parts are compared, so that one block more or less costs a few others.

use std::ops::Range;

use hearth_proto::{BlockId, Fingerprint, Incarnation, NodeId, Tier, v1};
use v1::RefusalReason;

use super::super::block_table::{RANGES, digest, hash, range_of};
use super::super::holder::{TIERS, position};
use super::super::outcome::{self, refused};
use super::{Directory, check_sequence, too_many_holders};
use crate::mutant::{self, Mutant};

/// Blocks that a part has at least, on average, if it is one of several.
const PART_BLOCKS: u64 = 8;

impl Directory {
    /// Compares ranges with what the node has there. The first ones begin anew under an incarnation.
    pub(super) fn resync(&mut self, resync: &v1::ResyncHolder) -> v1::Outcome {
        if let Some(refused) = check_sequence(resync.node_id, resync.sequence) {
            return refused;
        }
        let Some(theirs) = Said::read(resync) else {
            return refused(RefusalReason::Malformed, "the digests of the resync are malformed");
        };
        let (node, incarnation) = (NodeId(resync.node_id), Incarnation(resync.incarnation));
        let (first, ranges) = (theirs.ranges.start, theirs.ranges.clone());
        let known = self.holders.of(node);
        let (held, next, synced) =
            known.map_or((Incarnation::default(), 0, 0), |h| (h.incarnation, h.next_sequence, h.synced));
        if incarnation < held {
            return outcome::superseded(held);
        }
        let unknown = incarnation > held || next == 0;
        let is_repeated = !unknown && resync.sequence < next;
        if !is_repeated && first > 0 && (unknown || resync.sequence > next || first != usize::from(synced)) {
            return outcome::report_gap(0);
        }
        let Some(number) = self.holders.number_of_new(node) else { return too_many_holders() };
        let mut differing = vec![Vec::new(); TIERS];
        for range in ranges.clone() {
            let parts = self.differing(number, range, &theirs);
            let differ = parts.iter().any(|tiers| *tiers != 0) && !mutant::is(Mutant::ResyncKeepsAll);
            if !is_repeated && differ {
                self.drop_claims(number, range, |name| parts[part_of(hash(name), theirs.parts)]);
            }
            for (tier, differing) in differing.iter_mut().enumerate() {
                // What the node does not hold either needs no report.
                let is_wanted =
                    |part: &usize| parts[*part] & 1 << tier != 0 && theirs.digest(tier, range, *part) != 0;
                let wanted = (0..parts.len()).filter(is_wanted);
                differing.extend(wanted.map(|part| (range * theirs.parts + part) as u32));
            }
        }
        if is_repeated {
            return outcome::resynced(next, differing);
        }
        let holder = self.holders.at(number);
        holder.incarnation = incarnation;
        holder.next_sequence = resync.sequence + 1;
        holder.synced = ranges.end as u16;
        if ranges.end == RANGES {
            self.end_claims_on_held_by(node);
        }
        outcome::resynced(resync.sequence + 1, differing)
    }

    /// Of each part of a range: the tiers on which it is not what the node says; none of any part if the whole
    /// range is.
    fn differing(&self, number: u16, range: usize, theirs: &Said) -> Vec<u8> {
        let holder = &self.holders.holders[usize::from(number)];
        let is_same = |tier: usize| {
            let sum = |sum: u64, part| sum.wrapping_add(theirs.digest(tier, range, part));
            holder.digest(tier, range) == (0..theirs.parts).fold(0, sum)
        };
        let tiers = (0..TIERS).filter(|tier| !is_same(*tier)).fold(0, |tiers, tier| tiers | 1 << tier);
        if tiers == 0 || theirs.parts == 1 {
            return vec![tiers; theirs.parts];
        }
        let mut ours = vec![[0u64; TIERS]; theirs.parts];
        self.table.for_each_in(range, |name, _, held| {
            let Some(held) = held.iter().find(|held| held.holder() == number) else { return };
            let sums = &mut ours[part_of(hash(name), theirs.parts)];
            for (tier, sum) in sums.iter_mut().enumerate() {
                if held.tiers() & 1 << tier != 0 {
                    *sum = sum.wrapping_add(digest(name));
                }
            }
        });
        let differs = |part: usize, tier: usize| ours[part][tier] != theirs.digest(tier, range, part);
        let of_part = |part| {
            let tiers = (0..TIERS).filter(|tier| tiers & 1 << tier != 0 && differs(part, *tier));
            tiers.fold(0, |tiers, tier| tiers | 1 << tier)
        };
        (0..theirs.parts).map(of_part).collect()
    }

    /// Ends the claims on blocks that a node has brought back.
    fn end_claims_on_held_by(&mut self, node: NodeId) {
        let is_held = |id: &&BlockId| self.replicas(id).iter().any(|replica| replica.node == node);
        let held: Vec<BlockId> = self.timed.claims().blocks().filter(is_held).copied().collect();
        held.iter().for_each(|id| self.timed.published(&Fingerprint::of(id)));
    }
}

/// What a command says that the node holds in some ranges.
struct Said {
    ranges: Range<usize>,
    /// Of each range.
    parts: usize,
    /// By tier; none where nothing is held.
    digests: [Vec<u64>; TIERS],
}

impl Said {
    fn read(resync: &v1::ResyncHolder) -> Option<Self> {
        let (first, count) = (resync.first_range as usize, resync.ranges as usize);
        let parts = resync.parts.max(1) as usize;
        if count == 0
            || first.checked_add(count)? > RANGES
            || !parts.is_power_of_two()
            || parts > Digests::PARTS_MAX
        {
            return None;
        }
        let mut digests = [const { Vec::new() }; TIERS];
        for tier in &resync.tiers {
            let at = usize::try_from(tier.tier).ok()?.checked_sub(1).filter(|at| *at < TIERS)?;
            let (words, rest) = tier.digests.as_chunks::<8>();
            if !rest.is_empty() || words.len() != count * parts {
                return None;
            }
            digests[at] = words.iter().map(|word| u64::from_le_bytes(*word)).collect();
        }
        Some(Self { ranges: first..first + count, parts, digests })
    }

    fn digest(&self, tier: usize, range: usize, part: usize) -> u64 {
        let at = (range - self.ranges.start) * self.parts + part;
        self.digests[tier].get(at).copied().unwrap_or(0)
    }
}

/// The part of its range that a block with this hash is in. The range is the hash's first byte, this its second.
fn part_of(hash: u64, parts: usize) -> usize {
    (hash >> 48) as usize % Digests::PARTS_MAX * parts / Digests::PARTS_MAX
}

/// The digests of what a node holds, in each part of each range, for each tier.
#[derive(Clone, Debug)]
pub(crate) struct Digests {
    /// Of each range; a power of two.
    parts: usize,
    /// None before the first block.
    tiers: [Vec<u64>; TIERS],
    blocks: u64,
}

impl Digests {
    /// Ranges of a directory group.
    pub(crate) const RANGES: usize = RANGES;
    /// Parts that each of them may be compared in.
    pub(crate) const PARTS_MAX: usize = 256;

    /// Of no blocks yet, to be compared in at most so many parts of each range, a power of two.
    pub(crate) fn new(parts: usize) -> Self {
        Self { parts: parts.clamp(1, Self::PARTS_MAX), tiers: [const { Vec::new() }; TIERS], blocks: 0 }
    }

    /// Adds a block on a tier, which must not be in it yet.
    pub(crate) fn add(&mut self, id: &BlockId, tier: Tier) {
        let (name, at) = (Fingerprint::of(id), self.place_of(id) as usize);
        let sums = &mut self.tiers[position(tier)];
        if sums.is_empty() {
            sums.resize(RANGES * self.parts, 0);
        }
        sums[at] = sums[at].wrapping_add(digest(&name));
        self.blocks += 1;
    }

    /// The same in so few parts that several blocks come on each.
    pub(crate) fn coarsened(mut self) -> Self {
        let wanted = self.blocks / (RANGES as u64 * PART_BLOCKS);
        while self.parts > 1 && self.parts as u64 > wanted {
            self.parts /= 2;
            for sums in &mut self.tiers {
                let halves = sums.as_chunks::<2>().0;
                *sums = halves.iter().map(|[low, high]| low.wrapping_add(*high)).collect();
            }
        }
        self
    }

    /// Parts of each range.
    pub(crate) fn parts(&self) -> usize {
        self.parts
    }

    /// The part that a block belongs to, counted through all ranges.
    pub(crate) fn place_of(&self, id: &BlockId) -> u32 {
        Self::place(id, self.parts)
    }

    /// The same where each range has so many parts.
    pub(crate) fn place(id: &BlockId, parts: usize) -> u32 {
        let hash = hash(&Fingerprint::of(id));
        (range_of(hash) * parts + part_of(hash, parts)) as u32
    }

    /// As a command carries them.
    pub(crate) fn tiers(&self, ranges: Range<usize>) -> Vec<v1::TierDigests> {
        let of_ranges = ranges.start * self.parts..ranges.end * self.parts;
        let tiers = Tier::ALL.into_iter().zip(&self.tiers);
        let tiers = tiers.filter_map(|(tier, sums)| Some((tier, sums.get(of_ranges.clone())?)));
        let said = tiers.filter(|(_, sums)| sums.iter().any(|sum| *sum != 0));
        said.map(|(tier, sums)| v1::TierDigests {
            tier: i32::from(tier as u8),
            digests: sums.iter().flat_map(|sum| sum.to_le_bytes()).collect::<Vec<_>>().into(),
        })
        .collect()
    }
}

#[cfg(test)]
impl FromIterator<hearth_proto::BlockDelta> for Digests {
    fn from_iter<I: IntoIterator<Item = hearth_proto::BlockDelta>>(inventory: I) -> Self {
        let mut digests = Self::new(1);
        inventory.into_iter().for_each(|delta| digests.add(&delta.id, delta.tier));
        digests
    }
}
