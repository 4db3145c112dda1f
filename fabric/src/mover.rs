//! The client's end of the fabric: what it is asked, and what it answers.

use std::future::Future;
use std::time::Instant;

use bytes::Bytes;
use hearth_proto::frame::{BlockStatus, TierBits};
use hearth_proto::{
    AckLevel, BlockKey, ClusterId, Generation, Incarnation, NamespaceId, NodeId, Retention, Tier, Urgency,
};

use crate::block_buf::BlockBuf;
use crate::call::{GetStream, PutStream};

/// Who is at the other end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PeerInfo {
    /// The node.
    pub node_id: NodeId,
    /// Its incarnation when the connection was made.
    pub incarnation: Incarnation,
    /// The cluster it belongs to.
    pub cluster_id: ClusterId,
    /// The largest block that it takes, in bytes.
    pub block_bytes_max: usize,
}

/// One block that is wanted, and where it shall land.
#[derive(Clone, Debug)]
pub struct GetItem {
    /// The block.
    pub key: BlockKey,
    /// Where its bytes go; its capacity bounds the block's length.
    pub buffer: BlockBuf,
}

/// What is known of a block that arrived and was verified.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Got {
    /// Where the peer read it from.
    pub tier: Tier,
    /// The generation under which it is stored there.
    pub generation: Generation,
    /// Its length in bytes.
    pub len: usize,
}

/// What became of one block of a get.
#[derive(Debug)]
pub struct GetCompletion {
    /// Position of the block in the request.
    pub index: u32,
    /// The caller's buffer. It holds bytes only if `result` is `Ok`. It comes back without its memory
    /// when the block was arriving as the deadline passed or the connection ended.
    pub buffer: BlockBuf,
    /// The length of the block as far as the peer told it, else zero: what a buffer needs that was too
    /// small.
    pub block_len: u32,
    /// What arrived, or why nothing did; never `Err(BlockStatus::Ok)`.
    pub result: Result<Got, BlockStatus>,
}

/// One block to give to the peer.
#[derive(Clone, Debug)]
pub struct PutItem {
    /// The block.
    pub key: BlockKey,
    /// Its bytes, at least one.
    pub payload: Bytes,
    /// The crc32 of the bytes, which travels and is stored with them.
    pub crc32: u32,
    /// What to wait for before the answer.
    pub ack: AckLevel,
    /// How long the block is worth keeping.
    pub retention: Retention,
    /// Position of the block in its chain.
    pub depth: u32,
    /// Between nodes: the block is a copy, of a block of this namespace. `None` from a client, whose
    /// namespace follows from who it is.
    pub copy_of: Option<NamespaceId>,
}

impl PutItem {
    /// A block with the default retention, acknowledged from memory; computes the checksum.
    pub fn new(key: BlockKey, payload: Bytes) -> Self {
        Self {
            key,
            crc32: crc32fast::hash(&payload),
            payload,
            ack: AckLevel::default(),
            retention: Retention::default(),
            depth: 0,
            copy_of: None,
        }
    }
}

/// What the store says of a block that it keeps.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutAck {
    /// The generation under which the block is stored.
    pub generation: Generation,
    /// True if the store already held the block and kept what it had.
    pub existed: bool,
}

/// What became of one block of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutCompletion {
    /// Position of the block in the request.
    pub index: u32,
    /// The acknowledgement, or why there is none. After `DeadlineExceeded` and `Disconnected` it is
    /// unknown whether the put took effect; repeating it is harmless (INV-IDEMPOTENT).
    pub result: Result<PutAck, BlockStatus>,
}

/// The client's end of one connection to a node.
///
/// *Invariants*: every block of a request completes exactly once, by the deadline and 50 ms
/// (INV-DEADLINE); bytes are delivered only after key, generation and checksum were verified
/// (INV-BYTES, INV-FENCE). A request beyond `CHAIN_BLOCKS_MAX` blocks completes with `BadRequest`, one
/// beyond `CONNECTION_REQUESTS_MAX` open requests with `Overloaded`. Nothing is retried. All calls
/// need a tokio runtime.
pub trait Mover: Send + Sync {
    /// Asks for blocks. `expected` is the incarnation that the locations were learned under, zero for
    /// any; under another incarnation every block completes with `Stale`. To a peer that does not know
    /// `urgency` every get is as urgent as any other.
    ///
    /// *Cancel safety*: dropping the stream cancels the request at the peer.
    fn get(
        &self,
        items: Vec<GetItem>,
        expected: Incarnation,
        urgency: Urgency,
        deadline: Instant,
    ) -> GetStream;

    /// Gives blocks to the peer. A request with a copy completes with `BadRequest` at a peer of before there
    /// were any.
    ///
    /// *Cancel safety*: dropping the stream stops what was not yet sent; what was sent may take effect.
    fn put(&self, items: Vec<PutItem>, deadline: Instant) -> PutStream;

    /// Asks which tiers of the peer hold each key, in the order of `keys`.
    ///
    /// # Errors
    /// [`BlockStatus`] of the whole request; its kind says what to do.
    fn contains(
        &self,
        keys: Vec<BlockKey>,
        deadline: Instant,
    ) -> impl Future<Output = Result<Vec<TierBits>, BlockStatus>> + Send;

    /// Asks the peer to forget blocks; answers `Ok` or `Miss` for each, in the order of `keys`, or why it
    /// did not look.
    ///
    /// # Errors
    /// [`BlockStatus`] of the whole request; its kind says what to do.
    fn remove(
        &self,
        keys: Vec<BlockKey>,
        deadline: Instant,
    ) -> impl Future<Output = Result<Vec<BlockStatus>, BlockStatus>> + Send;

    /// Who is at the other end.
    fn peer(&self) -> PeerInfo;

    /// Whether the connection has ended; every call then completes at once with an error.
    fn is_closed(&self) -> bool;
}
