//! Each report is applied once and in order, and nothing of a former incarnation counts: the directory is what a
//! simple model makes of the committed log.
//!
//! *Source*: `proto/hearth/v1/command.proto`, BlockReport and PurgeClaims; INV-IDEMPOTENT, INV-FENCE.

use std::collections::{BTreeMap, BTreeSet};

use hearth_proto::v1::command::Body;
use hearth_proto::{BlockId, BlockKey, Fingerprint, GroupId, Incarnation, NamespaceId, NodeId, v1};
use prost::Message;

use super::Seen;
use super::committed::Committed;

/// Bytes of one packed delta: namespace, key, tier, added, length.
const DELTA_BYTES: usize = 42;
/// Bytes before the fingerprints of a run: namespace, tier, added, length, number.
const RUN_BYTES: usize = 14;

/// What one node claims.
#[derive(Clone, Debug, Default)]
struct Holder {
    incarnation: u64,
    next: u64,
    tiers: BTreeMap<BlockId, u8>,
    /// What a resync leaves depends on digests, and runs name no blocks: until the next inventory the model says
    /// nothing of this node.
    unknown: bool,
}

/// The model, and how far it has followed the log.
#[derive(Default)]
pub(super) struct ReportsOnce {
    holders: BTreeMap<NodeId, Holder>,
    blocks: BTreeSet<BlockId>,
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
            if let Some(bytes) = &entry.command {
                let command = v1::Command::decode(&bytes[..])
                    .map_err(|error| format!("a committed command: {error}"))?;
                match command.body {
                    Some(Body::BlockReport(report)) => self.report(&report),
                    Some(Body::PurgeClaims(purge)) => self.purge(&purge),
                    Some(Body::ResyncHolder(resync)) => {
                        self.holders.entry(NodeId(resync.node_id)).or_default().unknown = true;
                    }
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
        for id in &self.blocks {
            let claims: Vec<_> = node.cluster.claims(GroupId::DIRECTORY, id);
            let known = |of: &NodeId| self.holders.get(of).is_none_or(|holder| !holder.unknown);
            let found: Vec<_> = claims.into_iter().filter(|(of, ..)| known(of)).collect();
            let expected: Vec<_> = self
                .holders
                .iter()
                .filter(|(_, holder)| !holder.unknown)
                .filter_map(|(of, holder)| {
                    Some((*of, Incarnation(holder.incarnation), *holder.tiers.get(id)?))
                })
                .collect();
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
        if stale || (!new && !holder.unknown && report.sequence < holder.next) {
            return;
        }
        if report.reset {
            *holder = Holder::default();
        } else if new || holder.unknown || report.sequence != holder.next {
            return;
        }
        holder.incarnation = report.incarnation;
        holder.next = report.sequence + 1;
        let (records, _) = report.deltas.as_chunks::<DELTA_BYTES>();
        for record in records {
            let (id, tier, added) = unpack(record);
            self.blocks.insert(id);
            let tiers = holder.tiers.entry(id).or_default();
            *tiers = if added { *tiers | 1 << tier } else { *tiers & !(1 << tier) };
        }
        holder.tiers.retain(|_, tiers| *tiers != 0);
        holder.unknown |= !report.runs.is_empty();
    }

    fn purge(&mut self, purge: &v1::PurgeClaims) {
        let Some(holder) = self.holders.get_mut(&NodeId(purge.node_id)) else { return };
        if holder.incarnation <= purge.incarnation {
            *holder = Holder { incarnation: purge.incarnation + 1, ..Holder::default() };
        }
        let is_gone = holder.next == 0 && holder.tiers.is_empty() && !holder.unknown;
        if purge.forget && is_gone {
            self.holders.remove(&NodeId(purge.node_id));
        }
    }
}

/// What blocks that a report adds are called.
pub(super) fn added_names(report: &v1::BlockReport) -> BTreeSet<Fingerprint> {
    let (records, _) = report.deltas.as_chunks::<DELTA_BYTES>();
    let alone = records.iter().map(unpack).filter(|(.., added)| *added).map(|(id, ..)| Fingerprint::of(&id));
    let mut names: BTreeSet<Fingerprint> = alone.collect();
    let mut rest = &report.runs[..];
    while let Some((head, behind)) = rest.split_first_chunk::<RUN_BYTES>() {
        let namespace = NamespaceId(u32::from_le_bytes([head[0], head[1], head[2], head[3]]));
        let count = u32::from_le_bytes([head[10], head[11], head[12], head[13]]);
        let (run, behind) = behind.split_at(count as usize * Fingerprint::BYTES);
        if head[5] == 1 {
            let (run, _) = run.as_chunks::<{ Fingerprint::BYTES }>();
            names.extend(run.iter().map(|name| Fingerprint::from_bytes(namespace, name)));
        }
        rest = behind;
    }
    names
}

fn unpack(record: &[u8; DELTA_BYTES]) -> (BlockId, u8, bool) {
    let mut namespace = [0; 4];
    let mut key = [0; 32];
    namespace.copy_from_slice(&record[..4]);
    key.copy_from_slice(&record[4..36]);
    let id = BlockId { namespace: NamespaceId(u32::from_le_bytes(namespace)), key: BlockKey(key) };
    (id, record[36], record[37] == 1)
}
