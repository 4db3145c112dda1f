//! The bodies that carry no blocks: greeting, questions about keys, goodbye.

use super::error::FrameError;
use super::status::BlockStatus;
use super::wire::{Fields, put_count};
use crate::block::BlockKey;
use crate::error::{Classified, ErrorKind};
use crate::ids::{ClusterId, Incarnation, NodeId};
use crate::limits::{BLOCK_BYTES_MAX, GOODBYE_TEXT_BYTES_MAX};
use crate::retention::Tier;

/// What the client says first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hello {
    /// The oldest version that the client speaks.
    pub version_min: u16,
    /// The newest version that the client speaks.
    pub version_max: u16,
    /// The cluster that the client expects; zeros take any.
    pub cluster_id: ClusterId,
}

impl Hello {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.version_min.to_le_bytes());
        out.extend_from_slice(&self.version_max.to_le_bytes());
        out.extend_from_slice(&self.cluster_id.0);
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, FrameError> {
        Ok(Self {
            version_min: fields.u16("version_min")?,
            version_max: fields.u16("version_max")?,
            cluster_id: ClusterId(fields.array("cluster_id")?),
        })
    }
}

/// What the server answers to a [`Hello`] that it accepts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HelloAck {
    /// The version that both use from here on.
    pub version: u16,
    /// The largest block that the node takes, in bytes.
    pub block_bytes_max: u32,
    /// The node that answers.
    pub node_id: NodeId,
    /// Its incarnation at this moment.
    pub incarnation: Incarnation,
    /// The cluster that it belongs to.
    pub cluster_id: ClusterId,
}

impl HelloAck {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.version.to_le_bytes());
        out.extend_from_slice(&[0, 0]);
        out.extend_from_slice(&self.block_bytes_max.to_le_bytes());
        out.extend_from_slice(&self.node_id.0.to_le_bytes());
        out.extend_from_slice(&self.incarnation.0.to_le_bytes());
        out.extend_from_slice(&self.cluster_id.0);
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, FrameError> {
        let version = fields.u16("version")?;
        fields.zeros::<2>()?;
        let block_bytes_max = fields.u32("block_bytes_max")?;
        if block_bytes_max as usize > BLOCK_BYTES_MAX {
            return Err(fields.bad("block_bytes_max"));
        }
        let node_id = NodeId(fields.u64("node_id")?);
        let incarnation = Incarnation(fields.u64("incarnation")?);
        let cluster_id = ClusterId(fields.array("cluster_id")?);
        Ok(Self { version, block_bytes_max, node_id, incarnation, cluster_id })
    }
}

/// The keys of a `Contains` or a `Remove`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// Milliseconds from receipt after which no answer is wanted.
    pub deadline_ms: u32,
    /// Up to `CHAIN_BLOCKS_MAX` blocks.
    pub keys: Vec<BlockKey>,
}

impl Keys {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend_from_slice(&self.deadline_ms.to_le_bytes());
        put_count(out, self.keys.len());
        for key in &self.keys {
            out.extend_from_slice(&key.0);
        }
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, FrameError> {
        let deadline_ms = fields.u32("deadline_ms")?;
        let count = fields.count(32)?;
        let mut keys = Vec::with_capacity(count);
        for _ in 0..count {
            keys.push(fields.key()?);
        }
        Ok(Self { deadline_ms, keys })
    }
}

/// A set of tiers, one bit for each: what answers a `Contains`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct TierBits(pub u8);

impl TierBits {
    /// No tier: the block is not held.
    pub const NONE: Self = Self(0);

    /// The set with `tier` added.
    #[must_use]
    pub const fn with(self, tier: Tier) -> Self {
        Self(self.0 | 1 << tier as u8)
    }

    /// Whether `tier` is in the set.
    pub const fn has(self, tier: Tier) -> bool {
        self.0 & 1 << tier as u8 != 0
    }

    /// Whether no tier is in the set.
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// What became of each key of a `Remove`, in its order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemoveReply {
    /// `Ok` if it was removed, `Miss` if it was not held.
    pub statuses: Vec<BlockStatus>,
}

impl RemoveReply {
    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.extend(self.statuses.iter().map(|status| *status as u8));
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, FrameError> {
        let statuses = fields.rest().iter().map(|byte| BlockStatus::from_wire(*byte)).collect::<Option<_>>();
        Ok(Self { statuses: statuses.ok_or_else(|| fields.bad("status"))? })
    }
}

/// Why a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum GoodbyeReason {
    /// The two ends share no version of the frames.
    #[error("no common version of the protocol")]
    WrongVersion = 1,
    /// The client wanted another cluster.
    #[error("the node belongs to another cluster")]
    WrongCluster = 2,
    /// What the peer sent is not what the protocol allows.
    #[error("the protocol was violated")]
    ProtocolError = 3,
    /// Too many connections, or too many requests on this one.
    #[error("too many connections or requests")]
    Overloaded = 4,
    /// The node is going down.
    #[error("the node is shutting down")]
    ShuttingDown = 5,
    /// Nothing was said for too long.
    #[error("the connection was idle for too long")]
    Idle = 6,
}

impl GoodbyeReason {
    /// Every reason, by wire number, from 1.
    pub const ALL: [Self; 6] = [
        Self::WrongVersion,
        Self::WrongCluster,
        Self::ProtocolError,
        Self::Overloaded,
        Self::ShuttingDown,
        Self::Idle,
    ];

    /// Reads the wire number; `None` for a number of the future.
    pub fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }
}

impl Classified for GoodbyeReason {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::WrongVersion | Self::WrongCluster => ErrorKind::Stop,
            Self::ProtocolError | Self::Idle => ErrorKind::Retry,
            Self::Overloaded | Self::ShuttingDown => ErrorKind::Reroute,
        }
    }
}

/// The last word of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Goodbye {
    /// Why the connection ends.
    pub reason: GoodbyeReason,
    /// For people: at most `GOODBYE_TEXT_BYTES_MAX` bytes.
    text: String,
}

impl Goodbye {
    /// A goodbye whose text is cut to what the wire takes.
    pub fn new(reason: GoodbyeReason, text: &str) -> Self {
        let mut end = text.len().min(GOODBYE_TEXT_BYTES_MAX);
        while !text.is_char_boundary(end) {
            end -= 1;
        }
        Self { reason, text: text[..end].to_owned() }
    }

    /// For people.
    pub fn text(&self) -> &str {
        &self.text
    }

    pub(super) fn write(&self, out: &mut Vec<u8>) {
        out.push(self.reason as u8);
        out.extend_from_slice(self.text.as_bytes());
    }

    pub(super) fn read(fields: &mut Fields<'_>) -> Result<Self, FrameError> {
        let reason = GoodbyeReason::from_wire(fields.u8("reason")?).ok_or_else(|| fields.bad("reason"))?;
        let text = std::str::from_utf8(fields.rest()).map_err(|_| fields.bad("text"))?;
        Ok(Self { reason, text: text.to_owned() })
    }
}
