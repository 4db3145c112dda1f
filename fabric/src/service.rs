//! The server's end of the fabric: what a transport asks of a node's block store.

use std::future::Future;
use std::net::SocketAddr;
use std::time::Instant;

use hearth_proto::frame::{BlockStatus, TierBits};
use hearth_proto::{AckLevel, BlockKey, Generation, NamespaceId, Retention, Tier, Urgency};

use crate::mover::{PeerInfo, PutAck};

/// A block that a client asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GetRequest {
    /// The block.
    pub key: BlockKey,
    /// How much it matters beside others that wait for the same device.
    pub urgency: Urgency,
}

/// A block that the store holds and lends for sending.
#[derive(Debug)]
pub struct GetHit<L> {
    /// Exactly the block's bytes, at least one. It is dropped when they have been handed to the kernel.
    pub lease: L,
    /// Where the bytes were read from.
    pub tier: Tier,
    /// The generation under which they are stored; never zero.
    pub generation: Generation,
    /// The crc32 kept with the bytes. The transport does not compute it again: the client does.
    pub crc32: u32,
}

/// A block that a client gives; its bytes are in the slot that goes with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutRequest {
    /// The block.
    pub key: BlockKey,
    /// The crc32 of the bytes, as the client states it. No transport has looked at the bytes.
    pub crc32: u32,
    /// What to wait for before the answer.
    pub ack: AckLevel,
    /// How long the block is worth keeping.
    pub retention: Retention,
    /// Position of the block in its chain.
    pub depth: u32,
    /// True if another node gives a copy of what it has, and not a client something new.
    pub is_copy: bool,
}

/// What a transport needs from a node's block store.
///
/// An error is never [`BlockStatus::Ok`]. Any returned future may be dropped before it completes, at
/// the deadline or when the connection ends; the implementation then gives back by itself what the
/// request held (INV-LEAK). Futures that complete when first polled are answered without waiting for
/// any other block: hits in memory should be such.
pub trait BlockService: Send + Sync + 'static {
    /// Bytes of a stored block, kept readable and unchanged until dropped.
    type Lease: AsRef<[u8]> + Send + Sync + 'static;
    /// Memory to receive a block into; dropping it gives it back unused.
    type Slot: AsMut<[u8]> + AsRef<[u8]> + Send + 'static;

    /// Who answers here. Asked again for every get, so that a new incarnation fences at once.
    fn hello(&self) -> PeerInfo;

    /// The namespace of a connection. It follows from who the peer is, never from what it says.
    fn namespace(&self, _peer: SocketAddr) -> NamespaceId {
        NamespaceId::DEFAULT
    }

    /// Finds a block and lends its bytes.
    fn get(
        &self,
        namespace: NamespaceId,
        request: GetRequest,
        deadline: Instant,
    ) -> impl Future<Output = Result<GetHit<Self::Lease>, BlockStatus>> + Send;

    /// Gives memory of exactly `len` bytes to receive a block into, or waits for some.
    fn reserve(
        &self,
        namespace: NamespaceId,
        len: usize,
        deadline: Instant,
    ) -> impl Future<Output = Result<Self::Slot, BlockStatus>> + Send;

    /// Stores the block that was received into `slot` and answers at the level asked for.
    ///
    /// The service verifies `request.crc32` against the slot's bytes before storing, and answers
    /// [`BlockStatus::Corrupt`] if they differ: nobody else does at this end (INV-BYTES).
    fn put(
        &self,
        namespace: NamespaceId,
        request: PutRequest,
        slot: Self::Slot,
        deadline: Instant,
    ) -> impl Future<Output = Result<PutAck, BlockStatus>> + Send;

    /// The tiers of this node that hold a block; does no I/O.
    fn contains(&self, namespace: NamespaceId, key: BlockKey) -> TierBits;

    /// Forgets a block: `Ok` if it was held, `Miss` if not.
    fn remove(&self, namespace: NamespaceId, key: BlockKey) -> impl Future<Output = BlockStatus> + Send;
}
