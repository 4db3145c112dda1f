//! Pins: blocks that every node keeps until a deadline by replicated time, at the cost of their namespace
//! (INV-PIN).

use std::collections::BTreeMap;

use hearth_proto::{BlockId, BlockKey, NamespaceId, limits, v1};
use prost::Message;
use smallvec::SmallVec;
use v1::RefusalReason;

use super::BlockMap;
use super::command::{pack_keys, unpack_keys};
use super::ends::Ends;
use super::outcome::{done, pinned, refused};
use super::record::{PinId, RecordError, RecordKey};
use crate::mutant::{self, Mutant};

/// Blocks that are pinned together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Pin {
    /// Sorted, each once.
    pub(crate) keys: Vec<BlockKey>,
    pub(crate) size_bytes: u64,
    pub(crate) expires_at_ms: u64,
}

/// What a namespace pins.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Pinned {
    pub(crate) pins: usize,
    pub(crate) bytes: u64,
}

/// Every pin of the cluster.
#[derive(Debug, Default)]
pub(crate) struct Pins {
    by_id: BTreeMap<(NamespaceId, PinId), Pin>,
    ends: Ends<(NamespaceId, PinId)>,
    // Derived from the pins.
    used: BTreeMap<NamespaceId, Pinned>,
    blocks: usize,
    covering: BlockMap<SmallVec<[PinId; 1]>>,
    /// Blocks whose pins changed since that was last asked for.
    changed: Vec<BlockId>,
}

impl Pins {
    /// The pins of a namespace, by id.
    pub(crate) fn of(&self, namespace: NamespaceId) -> impl Iterator<Item = (&PinId, &Pin)> {
        let all = (namespace, PinId::default())..=(namespace, [u8::MAX; 16]);
        self.by_id.range(all).map(|((_, id), pin)| (id, pin))
    }

    /// What a namespace pins.
    pub(crate) fn used(&self, namespace: NamespaceId) -> Pinned {
        self.used.get(&namespace).copied().unwrap_or_default()
    }

    /// When the last pin of a block ends; `None` if it is not pinned.
    pub(crate) fn pinned_until(&self, id: &BlockId) -> Option<u64> {
        let pins = self.covering.get(id)?.iter();
        pins.filter_map(|pin| self.by_id.get(&(id.namespace, *pin))).map(|pin| pin.expires_at_ms).max()
    }

    /// Every pinned block.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = &BlockId> {
        self.covering.keys()
    }

    /// When the first pin ends.
    pub(super) fn first_end_ms(&self) -> Option<u64> {
        self.ends.first_ms()
    }

    pub(super) fn take_changed(&mut self) -> Vec<BlockId> {
        std::mem::take(&mut self.changed)
    }

    pub(super) fn end_due(&mut self, now_ms: u64) {
        while let Some((namespace, id)) = self.ends.first_due(now_ms) {
            self.remove(namespace, id);
        }
    }

    pub(super) fn pin(
        &mut self,
        now_ms: u64,
        pin: &v1::PinBlocks,
        namespace: Option<&v1::NamespaceSpec>,
    ) -> v1::Outcome {
        let (Ok(id), Some(mut keys)) = (PinId::try_from(&pin.pin_id[..]), unpack_keys(&pin.keys)) else {
            let blocks = limits::CHAIN_BLOCKS_MAX;
            let detail =
                format!("a pin has an id of 16 bytes and names up to {blocks} blocks of 32 bytes each");
            return refused(RefusalReason::Malformed, detail);
        };
        let (min, max) = (limits::PIN_TTL_MS_MIN, limits::PIN_TTL_MS_MAX);
        if !(min..=max).contains(&pin.ttl_ms) {
            let detail = format!("a pin holds {min} to {max} ms before it is renewed, not {}", pin.ttl_ms);
            return refused(RefusalReason::Malformed, detail);
        }
        let Some(spec) = namespace else {
            let detail = format!("there is no namespace {}; make it first", pin.namespace_id);
            return refused(RefusalReason::UnknownNamespace, detail);
        };
        let namespace = NamespaceId(pin.namespace_id);
        let before = self.by_id.get(&(namespace, id));
        let mut size_bytes = pin.size_bytes;
        if keys.is_empty() {
            let Some(before) = before else {
                return refused(
                    RefusalReason::UnknownPin,
                    "there is no such pin any more; pin the blocks again",
                );
            };
            (keys, size_bytes) = (before.keys.clone(), before.size_bytes);
        } else if size_bytes == 0 {
            return refused(RefusalReason::Malformed, "a pin is charged with the bytes of its blocks");
        }
        keys.sort_unstable();
        keys.dedup();
        if let Some(refusal) = self.beyond_bounds(spec, before, keys.len(), size_bytes) {
            return refusal;
        }
        if before.is_some() {
            self.remove(namespace, id);
        }
        let expires_at_ms = now_ms.saturating_add(pin.ttl_ms);
        self.changed.extend(keys.iter().map(|key| BlockId { namespace, key: *key }));
        self.insert(namespace, id, Pin { keys, size_bytes, expires_at_ms });
        pinned(expires_at_ms, self.used(namespace).bytes)
    }

    pub(super) fn unpin(&mut self, unpin: &v1::UnpinBlocks) -> v1::Outcome {
        let Ok(id) = PinId::try_from(&unpin.pin_id[..]) else {
            return refused(RefusalReason::Malformed, "the id of a pin is 16 bytes");
        };
        let namespace = NamespaceId(unpin.namespace_id);
        if mutant::is(Mutant::UnpinForgotten) {
            return done(self.by_id.contains_key(&(namespace, id)));
        }
        done(self.remove(namespace, id))
    }

    /// Refuses a pin that would go beyond a quota or a limit; one that is replaced does not count.
    fn beyond_bounds(
        &self,
        spec: &v1::NamespaceSpec,
        before: Option<&Pin>,
        blocks: usize,
        size_bytes: u64,
    ) -> Option<v1::Outcome> {
        let used = self.used(NamespaceId(spec.namespace_id));
        let others = match mutant::is(Mutant::PinsUncounted) {
            true => 0,
            false => used.bytes - before.map_or(0, |before| before.size_bytes),
        };
        if others.checked_add(size_bytes).is_none_or(|bytes| bytes > spec.pin_quota_bytes) {
            let detail = format!(
                "namespace {:?} may pin {} bytes, pins {others} and asks for {size_bytes} more; unpin something \
                 or raise its pin quota",
                spec.name, spec.pin_quota_bytes
            );
            return Some(refused(RefusalReason::Quota, detail));
        }
        if before.is_none() && used.pins >= limits::PINS_MAX {
            let detail = format!("a namespace has at most {} pins; unpin one", limits::PINS_MAX);
            return Some(refused(RefusalReason::Limit, detail));
        }
        let other_blocks = self.blocks - before.map_or(0, |before| before.keys.len());
        (other_blocks + blocks > limits::PINNED_BLOCKS_MAX).then(|| {
            let limit = limits::PINNED_BLOCKS_MAX;
            let detail = format!("all pins of a cluster name at most {limit} blocks; unpin some");
            refused(RefusalReason::Limit, detail)
        })
    }

    fn insert(&mut self, namespace: NamespaceId, id: PinId, pin: Pin) {
        let used = self.used.entry(namespace).or_default();
        used.pins += 1;
        used.bytes += pin.size_bytes;
        self.blocks += pin.keys.len();
        for key in &pin.keys {
            self.covering.entry(BlockId { namespace, key: *key }).or_default().push(id);
        }
        self.ends.insert(pin.expires_at_ms, (namespace, id));
        self.by_id.insert((namespace, id), pin);
    }

    fn remove(&mut self, namespace: NamespaceId, id: PinId) -> bool {
        let Some(pin) = self.by_id.remove(&(namespace, id)) else { return false };
        self.ends.remove(pin.expires_at_ms, (namespace, id));
        self.blocks -= pin.keys.len();
        if let Some(used) = self.used.get_mut(&namespace) {
            used.pins -= 1;
            used.bytes -= pin.size_bytes;
            if used.pins == 0 {
                self.used.remove(&namespace);
            }
        }
        for key in &pin.keys {
            let block = BlockId { namespace, key: *key };
            if let Some(pins) = self.covering.get_mut(&block) {
                pins.retain(|pin| *pin != id);
                if pins.is_empty() {
                    self.covering.remove(&block);
                }
            }
            self.changed.push(block);
        }
        true
    }

    pub(super) fn read_record(&self, namespace: NamespaceId, id: PinId, out: &mut Vec<u8>) -> bool {
        let Some(pin) = self.by_id.get(&(namespace, id)) else { return false };
        let record = v1::PinRecord {
            pin_id: id.to_vec().into(),
            namespace_id: namespace.0,
            keys: pack_keys(&pin.keys),
            size_bytes: pin.size_bytes,
            expires_at_ms: pin.expires_at_ms,
        };
        record.encode_raw(out);
        true
    }

    pub(super) fn restore(
        &mut self,
        namespace: NamespaceId,
        id: PinId,
        value: &[u8],
    ) -> Result<(), RecordError> {
        let record =
            v1::PinRecord::decode(value).map_err(|_| RecordError("the record of a pin is unreadable"))?;
        let keys =
            unpack_keys(&record.keys).filter(|keys| !keys.is_empty() && keys.is_sorted_by(|a, b| a < b));
        let keys = keys.ok_or(RecordError("the record of a pin has no blocks that one can have"))?;
        let fits = record.namespace_id == namespace.0 && record.pin_id[..] == id;
        if !fits || self.by_id.contains_key(&(namespace, id)) {
            return Err(RecordError("a pin lies under another id or is there twice"));
        }
        let pin = Pin { keys, size_bytes: record.size_bytes, expires_at_ms: record.expires_at_ms };
        self.insert(namespace, id, pin);
        Ok(())
    }

    pub(super) fn record_keys(&self) -> impl Iterator<Item = RecordKey> {
        self.by_id.keys().map(|(namespace, id)| RecordKey::Pin(*namespace, *id))
    }
}
