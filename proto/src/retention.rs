//! How long and how safely a block is kept: tiers, acknowledgement levels, retention.

use std::fmt;

use crate::ids::IdError;

/// Where a replica lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum Tier {
    /// The memory of an accelerator.
    Gpu = 1,
    /// The DRAM arena of a node.
    Host = 2,
    /// The solid-state storage of a node.
    Nvme = 3,
    /// Another node, whatever the tier there.
    Remote = 4,
}

impl Tier {
    /// Every tier, fastest first.
    pub const ALL: [Self; 4] = [Self::Gpu, Self::Host, Self::Nvme, Self::Remote];

    /// Reads the wire number; `None` for a number of the future.
    pub const fn from_wire(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Gpu),
            2 => Some(Self::Host),
            3 => Some(Self::Nvme),
            4 => Some(Self::Remote),
            _ => None,
        }
    }

    /// The name used in output, labels and documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gpu => "gpu",
            Self::Host => "host",
            Self::Nvme => "nvme",
            Self::Remote => "remote",
        }
    }
}

impl fmt::Display for Tier {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

/// What a put waits for before it is acknowledged.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(rename_all = "lowercase")]
#[repr(u8)]
pub enum AckLevel {
    /// In the arena of one node: lost with the process, re-made from NVMe once written through.
    #[default]
    Host = 1,
    /// On NVMe and synced: survives kill -9 and torn writes.
    Durable = 2,
}

impl AckLevel {
    /// Reads the wire number; `None` for a number of the future.
    pub const fn from_wire(number: u8) -> Option<Self> {
        match number {
            1 => Some(Self::Host),
            2 => Some(Self::Durable),
            _ => None,
        }
    }
}

impl std::str::FromStr for AckLevel {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        match text {
            "host" => Ok(Self::Host),
            "durable" => Ok(Self::Durable),
            _ => Err(IdError::new("an acknowledgement level", "host or durable", text)),
        }
    }
}

/// How much a block is worth keeping: 0 goes first, 100 last, 35 when nobody says.
///
/// *Source*: TensorRT-LLM `KvCacheRetentionConfig`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(transparent)]
pub struct Priority(u8);

impl Priority {
    /// What a block has when nobody says, and again when its retention expires.
    pub const DEFAULT: Self = Self(35);
    /// The highest priority.
    pub const MAX: Self = Self(100);

    /// Checks the range.
    ///
    /// # Errors
    /// [`IdError`] above 100; the caller mends the number.
    pub fn new(value: u8) -> Result<Self, IdError> {
        if value <= Self::MAX.0 {
            Ok(Self(value))
        } else {
            Err(IdError::new("a retention priority", "0 to 100", &value.to_string()))
        }
    }

    /// The number, 0 to 100.
    pub const fn value(self) -> u8 {
        self.0
    }
}

impl Default for Priority {
    fn default() -> Self {
        Self::DEFAULT
    }
}

/// The contract of how a block is kept.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    /// Higher is kept longer.
    pub priority: Priority,
    /// Milliseconds after which the priority falls back to [`Priority::DEFAULT`]; `None` is never.
    pub duration_ms: Option<u64>,
}
