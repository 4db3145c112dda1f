//! The directory group's state: which node claims to hold which block on which tier.
//!
//! It takes each node at its word, fenced by incarnation and sequence; whether that incarnation
//! still serves is the control state's to say, at the time of the lookup.

use std::collections::BTreeMap;

use hearth_proto::{BlockDelta, BlockId, Incarnation, NodeId, Tier, v1};
use rustc_hash::FxHashSet;
use v1::RefusalReason;
use v1::command::Body;

pub(crate) use super::block_table::Replica;
use super::block_table::{BlockTable, Replicas};
use super::command::unpack_deltas;
use super::outcome::{self, refused};
use super::record::{RecordError, RecordKey};

/// Bytes of one replica in a block's record: node, tiers, payload length.
const REPLICA_BYTES: usize = 13;

/// What one node claims, all of it under one incarnation.
#[derive(Debug, Default)]
struct Holder {
    incarnation: Incarnation,
    /// The sequence expected next; zero when only an inventory will do.
    next_sequence: u64,
    /// Slots of the blocks it holds.
    slots: FxHashSet<u32>,
}

/// The replicated map from block to replicas.
#[derive(Debug, Default)]
pub(crate) struct Directory {
    blocks: BlockTable,
    holders: BTreeMap<NodeId, Holder>,
    touched: Vec<RecordKey>,
}

impl Directory {
    /// The claims on a block, in the order of their nodes.
    pub(crate) fn replicas(&self, id: &BlockId) -> &[Replica] {
        self.blocks.get(id).unwrap_or_default()
    }

    /// Every node with claims: its incarnation and the number of blocks it holds.
    pub(crate) fn holders(&self) -> impl Iterator<Item = (NodeId, Incarnation, usize)> {
        self.holders.iter().map(|(node, holder)| (*node, holder.incarnation, holder.slots.len()))
    }

    /// Blocks with at least one claim.
    pub(crate) fn block_count(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn apply(&mut self, body: &Body) -> v1::Outcome {
        match body {
            Body::BlockReport(report) => self.report(report),
            Body::PurgeClaims(purge) => self.purge(NodeId(purge.node_id), Incarnation(purge.incarnation)),
            _ => outcome::wrong_group(),
        }
    }

    fn report(&mut self, report: &v1::BlockReport) -> v1::Outcome {
        let Some(deltas) = unpack_deltas(&report.deltas) else {
            return refused(RefusalReason::Malformed, "the deltas of the report are malformed");
        };
        if report.sequence == 0 || report.sequence == u64::MAX || report.node_id == 0 {
            return refused(RefusalReason::Malformed, "a report needs a node and a sequence from 1");
        }
        let node = NodeId(report.node_id);
        let incarnation = Incarnation(report.incarnation);
        let (held, next) = self
            .holders
            .get(&node)
            .map_or_else(Default::default, |held| (held.incarnation, held.next_sequence));
        if incarnation < held {
            return outcome::superseded(held);
        }
        let unknown = incarnation > held || next == 0;
        if !unknown && report.sequence < next {
            return outcome::report_applied(next);
        }
        if report.reset {
            self.drop_claims(node);
        } else if unknown {
            return outcome::report_gap(0);
        } else if report.sequence > next {
            return outcome::report_gap(next);
        }
        let holder = self.holders.entry(node).or_default();
        holder.incarnation = incarnation;
        holder.next_sequence = report.sequence + 1;
        self.touched.push(RecordKey::Holder(node));
        for delta in deltas {
            self.change(node, &delta);
        }
        outcome::report_applied(report.sequence + 1)
    }

    fn change(&mut self, node: NodeId, delta: &BlockDelta) {
        let bit = tier_bit(delta.tier);
        let slot = self.blocks.slot_of(&delta.id);
        let held = slot.and_then(|slot| self.blocks.replicas(slot)).unwrap_or_default();
        let before = held.iter().find(|replica| replica.node == node).map_or(0, |replica| replica.tiers);
        let tiers = if delta.added { before | bit } else { before & !bit };
        if tiers == 0 && before == 0 {
            return;
        }
        let replica = Replica { node, tiers, payload_len: delta.payload_len };
        let slot = match slot {
            None => self.blocks.insert(delta.id, Replicas::One(replica)),
            Some(slot) => {
                let kept = self.blocks.replicas_mut(slot).is_some_and(|replicas| replicas.set(replica));
                if !kept {
                    self.blocks.remove(slot);
                }
                slot
            }
        };
        if let Some(holder) = self.holders.get_mut(&node) {
            if tiers == 0 {
                holder.slots.remove(&slot);
            } else {
                holder.slots.insert(slot);
            }
        }
        self.touched.push(RecordKey::Block(delta.id));
    }

    fn purge(&mut self, node: NodeId, incarnation: Incarnation) -> v1::Outcome {
        let Some(holder) = self.holders.get_mut(&node) else { return outcome::purged(0) };
        if holder.incarnation > incarnation {
            return outcome::purged(0);
        }
        // Reports of the purged incarnation that are still on their way must find it fenced.
        holder.incarnation = Incarnation(incarnation.0.saturating_add(1));
        holder.next_sequence = 0;
        self.touched.push(RecordKey::Holder(node));
        outcome::purged(self.drop_claims(node))
    }

    fn drop_claims(&mut self, node: NodeId) -> u64 {
        let Some(holder) = self.holders.get_mut(&node) else { return 0 };
        let slots = std::mem::take(&mut holder.slots);
        let dropped = slots.len() as u64;
        for slot in slots {
            let Some(id) = self.blocks.id_at(slot) else { continue };
            let gone = Replica { node, tiers: 0, payload_len: 0 };
            if !self.blocks.replicas_mut(slot).is_some_and(|replicas| replicas.set(gone)) {
                self.blocks.remove(slot);
            }
            self.touched.push(RecordKey::Block(id));
        }
        dropped
    }

    pub(super) fn take_touched(&mut self) -> Vec<RecordKey> {
        let mut touched = std::mem::take(&mut self.touched);
        // In key order, which is also the order that a sorted store takes them in most cheaply.
        touched.sort_unstable();
        touched.dedup();
        touched
    }

    pub(super) fn read_record(&self, key: &RecordKey, out: &mut Vec<u8>) -> bool {
        match key {
            RecordKey::Holder(node) => {
                let Some(holder) = self.holders.get(node) else { return false };
                out.extend_from_slice(&holder.incarnation.0.to_le_bytes());
                out.extend_from_slice(&holder.next_sequence.to_le_bytes());
                true
            }
            RecordKey::Block(id) => {
                let replicas = self.replicas(id);
                for replica in replicas {
                    out.extend_from_slice(&replica.node.0.to_le_bytes());
                    out.push(replica.tiers);
                    out.extend_from_slice(&replica.payload_len.to_le_bytes());
                }
                !replicas.is_empty()
            }
            RecordKey::Cluster | RecordKey::Node(_) => false,
        }
    }

    pub(super) fn restore(&mut self, key: RecordKey, value: &[u8]) -> Result<(), RecordError> {
        match key {
            RecordKey::Holder(node) => {
                let value: &[u8; 16] =
                    value.try_into().map_err(|_| RecordError("a holder record of the wrong length"))?;
                let (incarnation, sequence) = value.split_at(8);
                let number = |half: &[u8]| half.try_into().map(u64::from_le_bytes);
                let wrong = |_| RecordError("a holder record of the wrong length");
                let holder = self.holders.entry(node).or_default();
                holder.incarnation = Incarnation(number(incarnation).map_err(wrong)?);
                holder.next_sequence = number(sequence).map_err(wrong)?;
            }
            RecordKey::Block(id) => {
                let (records, rest) = value.as_chunks::<REPLICA_BYTES>();
                let mut replicas = records.iter().map(read_replica);
                let (Some(first), true, None) = (replicas.next(), rest.is_empty(), self.blocks.slot_of(&id))
                else {
                    return Err(RecordError("a block record that is empty, cut or there twice"));
                };
                let slot = self.blocks.insert(id, Replicas::One(first));
                self.holders.entry(first.node).or_default().slots.insert(slot);
                for replica in replicas {
                    if let Some(held) = self.blocks.replicas_mut(slot) {
                        held.set(replica);
                    }
                    self.holders.entry(replica.node).or_default().slots.insert(slot);
                }
            }
            RecordKey::Cluster | RecordKey::Node(_) => {
                return Err(RecordError("a control record in a directory group"));
            }
        }
        Ok(())
    }

    #[cfg(any(test, feature = "sim"))]
    pub(super) fn record_keys(&self) -> Vec<RecordKey> {
        let holders = self.holders.keys().map(|node| RecordKey::Holder(*node));
        holders.chain(self.blocks.ids().map(RecordKey::Block)).collect()
    }
}

/// The bit of a tier in [`Replica::tiers`].
pub(crate) fn tier_bit(tier: Tier) -> u8 {
    1 << tier as u8
}

fn read_replica(record: &[u8; REPLICA_BYTES]) -> Replica {
    let mut node = [0; 8];
    let mut payload_len = [0; 4];
    node.copy_from_slice(&record[..8]);
    payload_len.copy_from_slice(&record[9..]);
    Replica {
        node: NodeId(u64::from_le_bytes(node)),
        tiers: record[8],
        payload_len: u32::from_le_bytes(payload_len),
    }
}
