//! How blocks are kept wherever they lie: what was said of them after they were put.
//!
//! The stores of the nodes are told when it is said, when a block comes and when they start. What was said
//! stays until it ends; beyond a bound the oldest is forgotten, which every node that was there has long
//! told its store.

use std::collections::BTreeMap;

use hearth_proto::{BlockId, NamespaceId, Priority, Retention, limits, v1};
use v1::RefusalReason;

use super::BlockMap;
use super::command::unpack_keys;
use super::ends::Ends;
use super::outcome::{done, refused};
use super::record::{RecordError, RecordKey};

/// Bytes of a record: number, end, priority.
const RECORD_BYTES: usize = 17;

#[derive(Clone, Copy, Debug)]
struct Said {
    /// Grows with each block of which something is said.
    number: u64,
    priority: Priority,
    /// Zero is never.
    expires_at_ms: u64,
}

/// What was said of blocks.
#[derive(Debug, Default)]
pub(crate) struct Retentions {
    by_block: BlockMap<Said>,
    by_number: BTreeMap<u64, BlockId>,
    ends: Ends<BlockId>,
    /// Blocks of which something was said since that was last asked for.
    changed: Vec<BlockId>,
}

impl Retentions {
    /// How a block is to be kept from `now_ms` on; `None` if nothing was said, or it has ended.
    pub(crate) fn find(&self, id: &BlockId, now_ms: u64) -> Option<Retention> {
        let said = self.by_block.get(id)?;
        let duration_ms = match said.expires_at_ms {
            0 => None,
            at_ms if at_ms <= now_ms => return None,
            at_ms => Some(at_ms - now_ms),
        };
        Some(Retention { priority: said.priority, duration_ms })
    }

    /// Every block of which something was said.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = &BlockId> {
        self.by_block.keys()
    }

    /// When the first of them ends.
    pub(super) fn first_end_ms(&self) -> Option<u64> {
        self.ends.first_ms()
    }

    pub(super) fn take_changed(&mut self) -> Vec<BlockId> {
        std::mem::take(&mut self.changed)
    }

    /// Forgets what has ended, so much at a time.
    pub(super) fn end_due(&mut self, now_ms: u64) {
        for _ in 0..limits::RETENTION_SWEEP_MAX {
            let Some(id) = self.ends.first_due(now_ms) else { return };
            self.forget(&id);
        }
    }

    pub(super) fn set(
        &mut self,
        now_ms: u64,
        set: &v1::SetRetention,
        mut next_number: impl FnMut() -> u64,
    ) -> v1::Outcome {
        let priority = u8::try_from(set.priority).ok().and_then(|priority| Priority::new(priority).ok());
        let keys = unpack_keys(&set.keys).filter(|keys| !keys.is_empty());
        let (Some(priority), Some(keys)) = (priority, keys) else {
            let blocks = limits::CHAIN_BLOCKS_MAX;
            let detail = format!("a retention is a priority of 0 to 100 for 1 to {blocks} blocks");
            return refused(RefusalReason::Malformed, detail);
        };
        if set.duration_ms > limits::RETENTION_MS_MAX {
            let limit = limits::RETENTION_MS_MAX;
            let detail =
                format!("a retention lasts up to {limit} ms, not {}; 0 is without end", set.duration_ms);
            return refused(RefusalReason::Malformed, detail);
        }
        let expires_at_ms = match set.duration_ms {
            0 => 0,
            duration_ms => now_ms.saturating_add(duration_ms),
        };
        for key in keys {
            let id = BlockId { namespace: NamespaceId(set.namespace_id), key };
            self.forget(&id);
            if self.by_block.len() >= limits::RETENTIONS_MAX
                && let Some(oldest) = self.by_number.first_key_value().map(|(_, id)| *id)
            {
                self.forget(&oldest);
            }
            self.insert(id, Said { number: next_number(), priority, expires_at_ms });
            self.changed.push(id);
        }
        done(true)
    }

    fn insert(&mut self, id: BlockId, said: Said) {
        self.by_number.insert(said.number, id);
        if said.expires_at_ms != 0 {
            self.ends.insert(said.expires_at_ms, id);
        }
        self.by_block.insert(id, said);
    }

    fn forget(&mut self, id: &BlockId) {
        let Some(said) = self.by_block.remove(id) else { return };
        self.by_number.remove(&said.number);
        self.ends.remove(said.expires_at_ms, *id);
    }

    pub(super) fn read_record(&self, id: &BlockId, out: &mut Vec<u8>) -> bool {
        let Some(said) = self.by_block.get(id) else { return false };
        out.extend_from_slice(&said.number.to_le_bytes());
        out.extend_from_slice(&said.expires_at_ms.to_le_bytes());
        out.push(said.priority.value());
        true
    }

    pub(super) fn restore(&mut self, id: BlockId, value: &[u8]) -> Result<(), RecordError> {
        let damaged = || RecordError("the record of a retention is of the wrong length or there twice");
        let record: &[u8; RECORD_BYTES] = value.try_into().map_err(|_| damaged())?;
        let ([number, expires_at], [priority]) = record.as_chunks::<8>() else { return Err(damaged()) };
        let said = Said {
            number: u64::from_le_bytes(*number),
            priority: Priority::new(*priority)
                .map_err(|_| RecordError("a retention has a priority that none can have"))?,
            expires_at_ms: u64::from_le_bytes(*expires_at),
        };
        if self.by_block.contains_key(&id) || self.by_number.contains_key(&said.number) {
            return Err(damaged());
        }
        self.insert(id, said);
        Ok(())
    }

    pub(super) fn record_keys(&self) -> impl Iterator<Item = RecordKey> {
        self.by_block.keys().map(|id| RecordKey::Retention(*id))
    }
}
