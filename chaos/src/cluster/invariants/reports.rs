//! Each report is applied once and in order, nothing of a former incarnation counts, and what a returning node and
//! the directory have in common stays: the directory is what a simple model makes of the committed log.
//!
//! *Source*: `proto/hearth/v1/command.proto`, BlockReport, ResyncHolder and PurgeClaims; INV-IDEMPOTENT, INV-FENCE.

use std::collections::{BTreeMap, BTreeSet};

use hearth_proto::limits::PURGE_RANGES;
use hearth_proto::v1::command::Body;
use hearth_proto::{BlockId, BlockKey, Fingerprint, GroupId, Incarnation, NamespaceId, NodeId, v1};
use prost::Message;

use super::Seen;
use super::committed::Committed;

/// Bytes of one packed delta: namespace, key, tier, added, length.
const DELTA_BYTES: usize = 42;
/// Bytes before the fingerprints of a run: namespace, tier, added, length, number.
const RUN_BYTES: usize = 14;
/// Ranges of hashes, each with as many parts at the most.
const RANGES: usize = 256;
/// One in so many entries has the whole directory compared, the others what they changed.
const WHOLE_EVERY: u64 = 16;

/// What one node claims.
#[derive(Clone, Debug, Default)]
struct Holder {
    incarnation: u64,
    next: u64,
    /// Claims in ranges below it count.
    synced: usize,
    /// A bit for each tier, by its number on the wire.
    tiers: BTreeMap<Fingerprint, u8>,
}

/// The model, and how far it has followed the log.
#[derive(Default)]
pub(super) struct ReportsOnce {
    holders: BTreeMap<NodeId, Holder>,
    names: BTreeSet<Fingerprint>,
    /// What the last entry may have changed.
    touched: BTreeSet<Fingerprint>,
    next_index: u64,
    looked: BTreeMap<(usize, u8), u64>,
}

impl ReportsOnce {
    pub(super) fn check(&mut self, seen: &[Seen], committed: &Committed) -> Result<(), String> {
        loop {
            for node in seen {
                self.compare(node)?;
            }
            let Some(entry) = committed.from(GroupId::DIRECTORY, self.next_index).next() else {
                return Ok(());
            };
            self.next_index = entry.index + 1;
            self.touched.clear();
            if let Some(bytes) = &entry.command {
                let command = v1::Command::decode(&bytes[..])
                    .map_err(|error| format!("a committed command: {error}"))?;
                match command.body {
                    Some(Body::BlockReport(report)) => self.report(&report),
                    Some(Body::PurgeClaims(purge)) => self.purge(&purge),
                    Some(Body::ResyncHolder(resync)) => self.resync(&resync),
                    _ => {}
                }
            }
        }
    }

    /// Holds a node's directory that is as far as the model against it.
    fn compare(&mut self, node: &Seen) -> Result<(), String> {
        let Some((applied, _)) = node.group(GroupId::DIRECTORY).applied else { return Ok(()) };
        let life = (node.machine.index, node.machine.life());
        if applied + 1 != self.next_index || self.looked.insert(life, applied) == Some(applied) {
            return Ok(());
        }
        let names = if applied.is_multiple_of(WHOLE_EVERY) { &self.names } else { &self.touched };
        for name in names {
            let found = node.cluster.claims(GroupId::DIRECTORY, name);
            let of = |(of, holder): (&NodeId, &Holder)| {
                let counts = range_of(name) < holder.synced;
                Some((*of, Incarnation(holder.incarnation), *holder.tiers.get(name).filter(|_| counts)?))
            };
            let expected: Vec<_> = self.holders.iter().filter_map(of).collect();
            if found != expected {
                return Err(format!(
                    "INV-IDEMPOTENT: after entry {applied} {} has the claims {found:?} on a block, the reports say {expected:?}",
                    node.machine.name
                ));
            }
        }
        Ok(())
    }

    fn report(&mut self, report: &v1::BlockReport) {
        let holder = self.holders.entry(NodeId(report.node_id)).or_default();
        let new = report.incarnation > holder.incarnation || holder.next == 0;
        let stale = report.incarnation < holder.incarnation;
        if stale || (!new && report.sequence < holder.next) {
            return;
        }
        if report.reset {
            self.touched.extend(holder.tiers.keys());
            *holder = Holder { synced: RANGES, ..Holder::default() };
        } else if new || holder.synced != RANGES || report.sequence != holder.next {
            return;
        }
        holder.incarnation = report.incarnation;
        holder.next = report.sequence + 1;
        for (name, tier, added) in changes(report) {
            self.names.insert(name);
            self.touched.insert(name);
            let tiers = holder.tiers.entry(name).or_default();
            *tiers = if added { *tiers | 1 << tier } else { *tiers & !(1 << tier) };
        }
        holder.tiers.retain(|_, tiers| *tiers != 0);
    }

    fn resync(&mut self, resync: &v1::ResyncHolder) {
        let holder = self.holders.entry(NodeId(resync.node_id)).or_default();
        let new = resync.incarnation > holder.incarnation || holder.next == 0;
        if resync.incarnation < holder.incarnation || (!new && resync.sequence < holder.next) {
            return;
        }
        let (first, parts) = (resync.first_range as usize, resync.parts.max(1) as usize);
        if first > 0 && (new || resync.sequence > holder.next || first != holder.synced) {
            return;
        }
        let end = first + resync.ranges as usize;
        self.touched.extend(holder.tiers.keys());
        let said = |tier: u8, range: usize, part: usize| {
            let of_tier = resync.tiers.iter().find(|of| of.tier == i32::from(tier));
            let words = of_tier.map(|of| of.digests.as_chunks::<8>().0);
            words.map_or(0, |words| u64::from_le_bytes(words[(range - first) * parts + part]))
        };
        for range in first..end {
            let differs = |tier: u8| {
                let sum = (0..parts).fold(0_u64, |sum, part| sum.wrapping_add(said(tier, range, part)));
                holder.sum(tier, |name| range_of(name) == range) != sum
            };
            let tiers: Vec<u8> = (0..u8::BITS as u8).filter(|tier| differs(*tier)).collect();
            for part in 0..parts {
                let is_there = |name: &Fingerprint| range_of(name) == range && part_of(name, parts) == part;
                for tier in &tiers {
                    if holder.sum(*tier, is_there) != said(*tier, range, part) {
                        holder.tiers.iter_mut().filter(|(name, _)| is_there(name)).for_each(|(_, held)| {
                            *held &= !(1 << tier);
                        });
                    }
                }
            }
        }
        holder.tiers.retain(|_, tiers| *tiers != 0);
        (holder.incarnation, holder.next, holder.synced) = (resync.incarnation, resync.sequence + 1, end);
    }

    fn purge(&mut self, purge: &v1::PurgeClaims) {
        let Some(holder) = self.holders.get_mut(&NodeId(purge.node_id)) else { return };
        let fence = purge.incarnation + 1;
        if holder.incarnation > fence || (holder.incarnation == fence && holder.next != 0) {
            return;
        }
        self.touched.extend(holder.tiers.keys());
        (holder.incarnation, holder.next, holder.synced) = (fence, 0, 0);
        let ranges: BTreeSet<usize> = holder.tiers.keys().map(range_of).collect();
        let dropped: BTreeSet<usize> = ranges.into_iter().take(PURGE_RANGES).collect();
        holder.tiers.retain(|name, _| !dropped.contains(&range_of(name)));
        if purge.forget && holder.tiers.is_empty() {
            self.holders.remove(&NodeId(purge.node_id));
        }
    }
}

impl Holder {
    /// The sum of the digests of some of the blocks that it holds on a tier.
    fn sum(&self, tier: u8, is_chosen: impl Fn(&Fingerprint) -> bool) -> u64 {
        let held = self.tiers.iter().filter(|(name, tiers)| *tiers & 1 << tier != 0 && is_chosen(name));
        held.fold(0, |sum, (name, _)| sum.wrapping_add(digest(name)))
    }
}

fn hash(name: &Fingerprint) -> u64 {
    name.words[1] ^ u64::from(name.namespace.0).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn range_of(name: &Fingerprint) -> usize {
    (hash(name) >> 56) as usize
}

fn part_of(name: &Fingerprint, parts: usize) -> usize {
    (hash(name) >> 48) as usize % RANGES * parts / RANGES
}

fn digest(name: &Fingerprint) -> u64 {
    let mixed = (name.words[0] ^ hash(name).rotate_left(32)).wrapping_mul(0xd6e8_feb8_6659_fd93);
    let mixed = (mixed ^ (mixed >> 29)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed ^ (mixed >> 32)
}

/// What a report says of which block: its tier's number, and whether it came.
fn changes(report: &v1::BlockReport) -> Vec<(Fingerprint, u8, bool)> {
    let (records, _) = report.deltas.as_chunks::<DELTA_BYTES>();
    let mut changes: Vec<_> = records.iter().map(unpack).collect();
    let mut rest = &report.runs[..];
    while let Some((head, behind)) = rest.split_first_chunk::<RUN_BYTES>() {
        let namespace = NamespaceId(u32::from_le_bytes([head[0], head[1], head[2], head[3]]));
        let count = u32::from_le_bytes([head[10], head[11], head[12], head[13]]);
        let (run, behind) = behind.split_at(count as usize * Fingerprint::BYTES);
        let (run, _) = run.as_chunks::<{ Fingerprint::BYTES }>();
        let named = run.iter().map(|name| Fingerprint::from_bytes(namespace, name));
        changes.extend(named.map(|name| (name, head[4], head[5] == 1)));
        rest = behind;
    }
    changes
}

/// What blocks that a report adds are called.
pub(super) fn added_names(report: &v1::BlockReport) -> BTreeSet<Fingerprint> {
    changes(report).into_iter().filter(|(.., added)| *added).map(|(name, ..)| name).collect()
}

fn unpack(record: &[u8; DELTA_BYTES]) -> (Fingerprint, u8, bool) {
    let mut namespace = [0; 4];
    let mut key = [0; 32];
    namespace.copy_from_slice(&record[..4]);
    key.copy_from_slice(&record[4..36]);
    let id = BlockId { namespace: NamespaceId(u32::from_le_bytes(namespace)), key: BlockKey(key) };
    (Fingerprint::of(&id), record[36], record[37] == 1)
}
