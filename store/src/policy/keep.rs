//! The contract of how a block is kept.

use hearth_proto::{Priority, Retention};

/// How long a block is kept, in the store's own time.
///
/// *Source*: TensorRT-LLM `KvCacheRetentionConfig`: higher priorities stay longer, and when its duration
/// has passed a block has the default priority again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Keep {
    pub(crate) priority: Priority,
    /// When the priority falls back to the default, in microseconds; `None` is never.
    pub(crate) expires_at_us: Option<u64>,
    /// Position in its chain; children are deeper.
    pub(crate) depth: u32,
}

impl Keep {
    pub(crate) fn new(retention: Retention, depth: u32, now_us: u64) -> Self {
        let expires_at_us = retention.duration_ms.map(|ms| now_us.saturating_add(ms.saturating_mul(1_000)));
        Self { priority: retention.priority, expires_at_us, depth }
    }
}
