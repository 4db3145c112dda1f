//! The bodies that carry blocks: get, put, and their answers.

use super::VERSION_MIN;
use super::error::FrameError;
use super::status::BlockStatus;
use super::wire::{Fields, put_count};
use crate::block::BlockKey;
use crate::ids::{Generation, Incarnation, NamespaceId};
use crate::retention::{AckLevel, Priority, Retention, Tier};
use crate::urgency::Urgency;

/// How a payload is encoded. Version 1 knows raw bytes only.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum BlockCodec {
    /// The bytes as they were put.
    #[default]
    Raw = 0,
}

/// One block that a get asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetEntry {
    /// The block.
    pub key: BlockKey,
    /// Bytes that the caller has room for.
    pub capacity: u32,
}

/// Asks for blocks; each is answered by a [`GetBlock`] of its own, in any order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Get {
    /// Milliseconds from receipt after which no answer is wanted.
    pub deadline_ms: u32,
    /// How much it matters beside others; all but the usual one need [`Get::URGENCY_SINCE`].
    pub urgency: Urgency,
    /// The incarnation that the locations were learned under; zero takes any.
    pub incarnation: Incarnation,
    /// Up to `CHAIN_BLOCKS_MAX` blocks.
    pub entries: Vec<GetEntry>,
}

impl Get {
    /// The version from which on a get has an urgency. Before, where it lies were high bytes of the count,
    /// which were always zero, as is the usual urgency.
    pub const URGENCY_SINCE: u16 = 2;

    pub(super) const fn version(&self) -> u16 {
        match self.urgency {
            Urgency::Normal => VERSION_MIN,
            Urgency::Background | Urgency::Urgent => Self::URGENCY_SINCE,
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.deadline_ms.to_le_bytes());
        let count = u16::try_from(self.entries.len()).expect("the caller's batch is within CHAIN_BLOCKS_MAX");
        out.extend_from_slice(&count.to_le_bytes());
        out.extend_from_slice(&[self.urgency.to_wire(), 0]);
        out.extend_from_slice(&self.incarnation.0.to_le_bytes());
        for entry in &self.entries {
            out.extend_from_slice(&entry.key.0);
            out.extend_from_slice(&entry.capacity.to_le_bytes());
        }
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, FrameError> {
        let deadline_ms = fields.u32("deadline_ms")?;
        let claimed = usize::from(fields.u16("count")?);
        let [urgency, padding] = fields.array("urgency")?;
        let incarnation = Incarnation(fields.u64("incarnation")?);
        let rest = fields.rest();
        if claimed.checked_mul(36) != Some(rest.len()) {
            return Err(fields.bad("count"));
        }
        let urgency = Urgency::from_wire(urgency).ok_or_else(|| fields.bad("urgency"))?;
        if padding != 0 {
            return Err(fields.bad("padding"));
        }
        let entry = |bytes: &[u8]| {
            let (key, capacity) = bytes.split_first_chunk::<32>()?;
            Some(GetEntry { key: BlockKey(*key), capacity: u32::from_le_bytes(capacity.try_into().ok()?) })
        };
        let entries = rest.chunks_exact(36).map(entry).collect::<Option<Vec<_>>>();
        Ok(Self { deadline_ms, urgency, incarnation, entries: entries.ok_or_else(|| fields.bad("entries"))? })
    }
}

/// Answers one block of a [`Get`]. The payload follows if and only if the status is `Ok`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetBlock {
    /// Position of the block in the request.
    pub index: u32,
    /// What became of it.
    pub status: BlockStatus,
    /// Where the bytes were read from; `None` unless the status is `Ok`.
    pub tier: Option<Tier>,
    /// How the payload is encoded.
    pub codec: BlockCodec,
    /// The generation under which the bytes were stored.
    pub generation: Generation,
    /// The node's incarnation when it had the bytes in hand: what a get by an earlier one must not take.
    pub incarnation: Incarnation,
    /// The block, repeated so that the reader can verify it.
    pub key: BlockKey,
    /// The crc32 of the payload.
    pub crc32: u32,
    /// Length of the block in bytes: what a caller whose buffer was too small needs. Zero if unknown.
    pub block_len: u32,
}

impl GetBlock {
    /// An answer without bytes.
    pub const fn refusal(index: u32, key: BlockKey, status: BlockStatus) -> Self {
        Self {
            index,
            status,
            tier: None,
            codec: BlockCodec::Raw,
            generation: Generation(0),
            incarnation: Incarnation(0),
            key,
            crc32: 0,
            block_len: 0,
        }
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.index.to_le_bytes());
        let tier = self.tier.map_or(0, |tier| tier as u8);
        out.extend_from_slice(&[self.status as u8, tier, self.codec as u8, 0]);
        out.extend_from_slice(&self.generation.0.to_le_bytes());
        out.extend_from_slice(&self.incarnation.0.to_le_bytes());
        out.extend_from_slice(&self.key.0);
        out.extend_from_slice(&self.crc32.to_le_bytes());
        out.extend_from_slice(&self.block_len.to_le_bytes());
    }

    pub(super) fn read(fields: &mut Fields<'_>, payload_len: u32) -> Result<Self, FrameError> {
        let index = fields.u32("index")?;
        let status = BlockStatus::from_wire(fields.u8("status")?).ok_or_else(|| fields.bad("status"))?;
        let tier = match fields.u8("tier")? {
            0 => None,
            number => Some(Tier::from_wire(number).ok_or_else(|| fields.bad("tier"))?),
        };
        if fields.u8("codec")? != BlockCodec::Raw as u8 {
            return Err(fields.bad("codec"));
        }
        fields.zeros::<1>()?;
        let generation = Generation(fields.u64("generation")?);
        let incarnation = Incarnation(fields.u64("incarnation")?);
        let key = fields.key()?;
        let crc32 = fields.u32("crc32")?;
        let block_len = fields.u32("block_len")?;
        let done = status == BlockStatus::Ok;
        if tier.is_some() != done {
            return Err(fields.bad("tier"));
        }
        if (payload_len > 0) != done || (done && block_len != payload_len) {
            return Err(fields.bad("block_len"));
        }
        Ok(Self {
            index,
            status,
            tier,
            codec: BlockCodec::Raw,
            generation,
            incarnation,
            key,
            crc32,
            block_len,
        })
    }
}

/// One block to keep; its bytes follow as payload. Several share a request id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutBlock {
    /// Position of the block in the request.
    pub index: u32,
    /// What to wait for before the answer.
    pub ack: AckLevel,
    /// How long the block is worth keeping.
    pub retention: Retention,
    /// Position of the block in its chain.
    pub depth: u32,
    /// Milliseconds from receipt after which no answer is wanted.
    pub deadline_ms: u32,
    /// The block.
    pub key: BlockKey,
    /// The crc32 of the payload.
    pub crc32: u32,
}

impl PutBlock {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.index.to_le_bytes());
        out.extend_from_slice(&[self.ack as u8, self.retention.priority.value(), 0, 0]);
        out.extend_from_slice(&self.retention.duration_ms.unwrap_or(u64::MAX).to_le_bytes());
        out.extend_from_slice(&self.depth.to_le_bytes());
        out.extend_from_slice(&self.deadline_ms.to_le_bytes());
        out.extend_from_slice(&self.key.0);
        out.extend_from_slice(&self.crc32.to_le_bytes());
    }

    pub(super) fn read(fields: &mut Fields<'_>, payload_len: u32) -> Result<Self, FrameError> {
        let index = fields.u32("index")?;
        let ack = AckLevel::from_wire(fields.u8("ack")?).ok_or_else(|| fields.bad("ack"))?;
        let priority = Priority::new(fields.u8("priority")?).map_err(|_| fields.bad("priority"))?;
        fields.zeros::<2>()?;
        let duration_ms = Some(fields.u64("duration_ms")?).filter(|ms| *ms != u64::MAX);
        let depth = fields.u32("depth")?;
        let deadline_ms = fields.u32("deadline_ms")?;
        let key = fields.key()?;
        let crc32 = fields.u32("crc32")?;
        if payload_len == 0 {
            return Err(fields.bad("payload"));
        }
        let retention = Retention { priority, duration_ms };
        Ok(Self { index, ack, retention, depth, deadline_ms, key, crc32 })
    }
}

/// A block that another node of the cluster is to keep a copy of.
///
/// Unlike a put it says its namespace: a node speaks for the tenants whose blocks it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CopyBlock {
    /// The tenant that owns the block.
    pub namespace: NamespaceId,
    /// The block, as a put says it.
    pub block: PutBlock,
}

impl CopyBlock {
    /// The version from which on there are copies.
    pub const SINCE: u16 = 3;

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.namespace.0.to_le_bytes());
        self.block.write(out);
    }

    pub(super) fn read(fields: &mut Fields<'_>, payload_len: u32) -> Result<Self, FrameError> {
        let namespace = NamespaceId(fields.u32("namespace")?);
        Ok(Self { namespace, block: PutBlock::read(fields, payload_len)? })
    }
}

/// What became of one block of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutEntry {
    /// Position of the block in the request.
    pub index: u32,
    /// What became of it.
    pub status: BlockStatus,
    /// True if the store already held the block and kept what it had.
    pub existed: bool,
    /// The generation under which the block is stored; zero unless the status is `Ok`.
    pub generation: Generation,
}

/// Answers some blocks of a put; a put may be answered by several.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PutDone {
    /// One per block, in any order.
    pub entries: Vec<PutEntry>,
}

impl PutDone {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        put_count(out, self.entries.len());
        for entry in &self.entries {
            out.extend_from_slice(&entry.index.to_le_bytes());
            out.extend_from_slice(&[entry.status as u8, u8::from(entry.existed), 0, 0]);
            out.extend_from_slice(&entry.generation.0.to_le_bytes());
        }
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, FrameError> {
        let count = fields.count(16)?;
        let mut entries = Vec::with_capacity(count);
        for _ in 0..count {
            let index = fields.u32("index")?;
            let status = BlockStatus::from_wire(fields.u8("status")?).ok_or_else(|| fields.bad("status"))?;
            let existed = match fields.u8("existed")? {
                0 => false,
                1 => true,
                _ => return Err(fields.bad("existed")),
            };
            fields.zeros::<2>()?;
            let generation = Generation(fields.u64("generation")?);
            entries.push(PutEntry { index, status, existed, generation });
        }
        Ok(Self { entries })
    }
}
