//! What workers report, and why a report is left out.

use std::sync::atomic::{AtomicU64, Ordering};

use hearth_proto::limits::EVENT_BLOCKS_MAX;
use hearth_proto::{Classified, ErrorKind};

/// Blocks that a worker says it holds in a tier: consecutive ones of a chain.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StoredBlocks<'a> {
    /// The engine's hash of the block before them; none if a chain begins with them.
    pub parent: Option<u64>,
    /// The engine's hashes of them, whatever function it uses.
    pub hashes: &'a [u64],
    /// The tokens of all of them. Without any, the blocks are what the worker said before that they are; those that it
    /// did not tell of before go by the engine's hashes.
    pub tokens: &'a [u32],
    /// What keeps the chain apart from equal ones, if anything: the same for all its blocks.
    pub salt: Option<&'a str>,
}

/// What came of a report.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Applied {
    /// Blocks that the worker was not known to hold in the tier, or was known to and no longer does.
    pub changed: usize,
    /// Blocks that were not new, or were not known to be there.
    pub unchanged: usize,
}

/// Why a report was left out, as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(usize)]
pub enum ChangeError {
    /// Nobody registered the worker with this pool, or it has left. The caller registers it.
    #[error("the worker is not registered with this pool: register it")]
    UnknownWorker,
    /// It is not known what the block before stands for: the worker did not tell of it, or not of its tokens, or has
    /// dropped it. The chain cannot be known either. Nothing mends it but the whole chain told of again.
    #[error("the block before is not known: tell of the chain from its start")]
    UnknownParent,
    /// There are not as many tokens as the blocks have. The caller mends it, or names another pool.
    #[error(
        "the tokens are not those of as many blocks as there are hashes: name the pool of this block size"
    )]
    TokensMismatch,
    /// More blocks than one report may have. The caller divides it.
    #[error("a report has {EVENT_BLOCKS_MAX} blocks at the most: divide it")]
    TooManyBlocks,
    /// The index has no room for more runs or members. What was taken in before counts. The caller gives it less.
    #[error("the pool's index is full: give it a budget of memory that it can keep to")]
    Full,
}

impl ChangeError {
    /// Every reason.
    pub const ALL: [Self; 5] =
        [Self::UnknownWorker, Self::UnknownParent, Self::TokensMismatch, Self::TooManyBlocks, Self::Full];

    /// The name used in labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownWorker => "unknown_worker",
            Self::UnknownParent => "unknown_parent",
            Self::TokensMismatch => "tokens_mismatch",
            Self::TooManyBlocks => "too_many_blocks",
            Self::Full => "full",
        }
    }
}

impl Classified for ChangeError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::UnknownWorker => ErrorKind::Reroute,
            Self::UnknownParent | Self::TokensMismatch | Self::TooManyBlocks => ErrorKind::FixRequest,
            Self::Full => ErrorKind::Stop,
        }
    }
}

/// What became of a pool's reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChangeCounts {
    /// Reports that were taken in.
    pub applied: u64,
    /// Reports that were left out, in the order of [`ChangeError::ALL`].
    pub dropped: [u64; ChangeError::ALL.len()],
    /// Blocks that were forgotten because a worker has more than are remembered.
    pub forgotten: u64,
    /// Blocks of which a worker said something else than before, under the same hash.
    pub contradicted: u64,
    /// Blocks that were dropped by workers which were not known to hold them.
    pub unknown_removed: u64,
}

impl ChangeCounts {
    /// Reports that were left out for this reason.
    pub const fn dropped_for(&self, reason: ChangeError) -> u64 {
        self.dropped[reason as usize]
    }
}

/// The same, as it is counted.
#[derive(Debug, Default)]
pub(super) struct Counters {
    pub(super) applied: AtomicU64,
    dropped: [AtomicU64; ChangeError::ALL.len()],
    pub(super) forgotten: AtomicU64,
    pub(super) contradicted: AtomicU64,
    pub(super) unknown_removed: AtomicU64,
}

impl Counters {
    /// Counts a report.
    pub(super) fn count<T>(&self, outcome: &Result<T, ChangeError>) {
        let counter = match outcome {
            Ok(_) => &self.applied,
            Err(reason) => &self.dropped[*reason as usize],
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    pub(super) fn read(&self) -> ChangeCounts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        ChangeCounts {
            applied: read(&self.applied),
            dropped: std::array::from_fn(|reason| read(&self.dropped[reason])),
            forgotten: read(&self.forgotten),
            contradicted: read(&self.contradicted),
            unknown_removed: read(&self.unknown_removed),
        }
    }
}
