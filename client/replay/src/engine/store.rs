//! What the replay asks of a store, and nothing more.

use std::error::Error;
use std::future::Future;
use std::ops::Range;
use std::time::Duration;

use bytes::Bytes;
use hearth_proto::{BlockKey, Classified, ErrorKind, Retention, Tier};
use serde::Serialize;

/// A store of blocks as an inference engine sees it. One value stands for one worker's connection.
///
/// Every call names at most [`CHAIN_BLOCKS_MAX`](hearth_proto::limits::CHAIN_BLOCKS_MAX) blocks and
/// about [`REPLAY_BATCH_BYTES_MAX`](hearth_proto::limits::REPLAY_BATCH_BYTES_MAX) bytes, and returns
/// by its `deadline` (INV-DEADLINE); the replay gives up on it shortly after. A miss is a value.
///
/// *Cancel safety*: the replay drops a call that is overdue; the store must bear that.
pub trait BlockStore: Send + Sync + 'static {
    /// What a lookup learnt and a get can use, such as where the blocks are; `()` if nothing.
    type Found: Send + Sync;

    /// Blocks held, contiguous from the start of `chain`.
    ///
    /// # Errors
    /// [`StoreError`]; the replay counts it and takes the chain for missing.
    fn lookup(
        &self,
        chain: &[BlockKey],
        deadline: Duration,
    ) -> impl Future<Output = Result<Held<Self::Found>, StoreError>> + Send;

    /// Reads the blocks at `range` of the chain that was looked up, whose keys are `blocks`, and
    /// hands each to `sink` once, in any order, as it arrives.
    ///
    /// # Errors
    /// [`StoreError`] when the call as a whole failed; blocks not handed over count as missing.
    fn get(
        &self,
        found: &Self::Found,
        range: Range<usize>,
        blocks: &[BlockKey],
        deadline: Duration,
        sink: &mut (dyn FnMut(ReadBlock<'_>) + Send),
    ) -> impl Future<Output = Result<(), StoreError>> + Send;

    /// Writes `blocks`, consecutive in their chain, and tells `sink` the outcome of each once.
    ///
    /// # Errors
    /// [`StoreError`] when the call as a whole failed; blocks without an outcome count as unwritten.
    fn put(
        &self,
        blocks: &[PutBlock],
        deadline: Duration,
        sink: &mut (dyn FnMut(WrittenBlock) + Send),
    ) -> impl Future<Output = Result<(), StoreError>> + Send;
}

/// The answer to a lookup.
#[derive(Clone, Copy, Debug)]
pub struct Held<F> {
    /// Blocks held, contiguous from the start of the chain.
    pub blocks: usize,
    /// What the get of them needs.
    pub found: F,
}

/// One block of a get, as it arrives.
#[derive(Clone, Copy, Debug)]
pub struct ReadBlock<'a> {
    /// Place of the block among those of the call.
    pub index: usize,
    /// The bytes, lent for the time of the sink; `None` is a miss.
    pub bytes: Option<&'a [u8]>,
    /// Why there are no bytes, when that is more than a plain miss.
    pub failure: Option<StoreErrorKind>,
    /// Where the bytes came from, if the store says so.
    pub tier: Option<Tier>,
    /// From the beginning of the call to the arrival of the block.
    pub latency: Duration,
}

/// One block of a put.
#[derive(Clone, Debug)]
pub struct PutBlock {
    /// The block.
    pub key: BlockKey,
    /// The block before it in the chain; `None` at the start.
    pub parent: Option<BlockKey>,
    /// Place of the block in its chain.
    pub depth: usize,
    /// The whole content.
    pub bytes: Bytes,
    /// How the block is to be kept.
    pub retention: Retention,
}

/// What became of one block of a put.
#[derive(Clone, Copy, Debug)]
pub struct WrittenBlock {
    /// Place of the block in the call.
    pub index: usize,
    /// What became of it.
    pub outcome: PutOutcome,
    /// From the beginning of the call to the acknowledgement of the block.
    pub latency: Duration,
}

/// What became of a block that was put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PutOutcome {
    /// Stored, at the level that the store was asked for.
    Stored,
    /// Already held: no bytes were written.
    Exists,
    /// Not stored: there was no room, or a quota was used up.
    Refused,
    /// Not stored, or not known to be, because something failed.
    Failed(StoreErrorKind),
}

/// Why a call failed, as far as a report tells failures apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum StoreErrorKind {
    /// The store answered in time that the deadline had passed.
    Deadline,
    /// The store did not answer by the deadline, and the replay gave up: INV-DEADLINE is broken.
    Overdue,
    /// No node could be reached.
    Unreachable,
    /// The store refused for load.
    Overloaded,
    /// The store found the bytes or the location it had to be wrong, and said so.
    Corrupt,
    /// The store called the request wrong.
    BadRequest,
    /// The store broke its contract with the replay, such as naming a block that was not asked for.
    Contract,
    /// Anything else.
    Other,
}

impl StoreErrorKind {
    /// Every kind, in the order of reports.
    pub const ALL: [Self; 8] = [
        Self::Deadline,
        Self::Overdue,
        Self::Unreachable,
        Self::Overloaded,
        Self::Corrupt,
        Self::BadRequest,
        Self::Contract,
        Self::Other,
    ];

    /// The name used in reports.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Deadline => "deadline",
            Self::Overdue => "overdue",
            Self::Unreachable => "unreachable",
            Self::Overloaded => "overloaded",
            Self::Corrupt => "corrupt",
            Self::BadRequest => "bad_request",
            Self::Contract => "contract",
            Self::Other => "other",
        }
    }
}

/// A call of a store failed as a whole.
#[derive(Debug, thiserror::Error)]
#[error("{} failure of the store", kind.as_str())]
pub struct StoreError {
    /// How reports count it.
    pub kind: StoreErrorKind,
    /// What the store said.
    pub source: Box<dyn Error + Send + Sync>,
}

impl StoreError {
    /// A failure of `kind`, with what the store said.
    pub fn new(kind: StoreErrorKind, source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self { kind, source: source.into() }
    }
}

impl Classified for StoreError {
    fn kind(&self) -> ErrorKind {
        match self.kind {
            StoreErrorKind::Deadline | StoreErrorKind::Overdue | StoreErrorKind::Overloaded => {
                ErrorKind::Retry
            }
            StoreErrorKind::Unreachable | StoreErrorKind::Corrupt => ErrorKind::Reroute,
            StoreErrorKind::BadRequest => ErrorKind::FixRequest,
            StoreErrorKind::Contract | StoreErrorKind::Other => ErrorKind::Stop,
        }
    }
}
