//! Puts blocks on the caller's own node, or on another one when that one cannot take them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_fabric::{Mover, PutAck, PutItem, TcpMover};
use hearth_proto::frame::BlockStatus;
use hearth_proto::limits::{BLOCK_BYTES_MAX, CALL_ATTEMPTS_MAX};
use hearth_proto::{AckLevel, Generation, NodeId, Retention};

use crate::chain::Chain;
use crate::client::{Client, share_of};
use crate::error::RequestError;
use crate::peer::DataPeer;

/// One block to store.
#[derive(Debug, Clone)]
pub struct PutBlock {
    /// Position in the chain.
    pub index: usize,
    /// The KV bytes.
    pub payload: Bytes,
    /// How the block is kept.
    pub retention: Retention,
}

impl PutBlock {
    /// A block that is kept like any other.
    pub fn new(index: usize, payload: impl Into<Bytes>) -> Self {
        Self { index, payload: payload.into(), retention: Retention::default() }
    }
}

/// How blocks are stored.
#[derive(Debug, Clone, Copy, Default)]
pub struct PutOptions {
    /// What the put waits for.
    pub ack: AckLevel,
    /// How long the call may take; `None` is the client's deadline.
    pub patience: Option<Duration>,
}

/// What became of one block of a put.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutResult {
    /// It is stored at the level asked for.
    Stored {
        /// The node that has it.
        node: NodeId,
        /// The generation of its slot there.
        generation: Generation,
        /// Whether it was there already.
        existed: bool,
    },
    /// It is not, or it is not known to be: repeating the put is harmless (INV-IDEMPOTENT).
    NotStored(NotStoredReason),
}

/// Why a block is not known to be stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NotStoredReason {
    /// No node could be reached.
    Unreachable,
    /// No answer came in time: it may or may not be stored.
    Unknown,
    /// Every node asked was full or had too much to do.
    Full,
    /// The node could not write it, or refused it.
    Failed,
}

impl NotStoredReason {
    /// The name used in output and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Unknown => "unknown",
            Self::Full => "full",
            Self::Failed => "failed",
        }
    }
}

impl Client {
    /// Stores blocks of a chain; the results are in the order of `blocks`.
    ///
    /// # Errors
    /// [`RequestError`] for an empty or oversized block or a position outside the chain; then nothing
    /// was sent. Whatever goes wrong with the store is a [`PutResult::NotStored`].
    pub async fn put(
        &self,
        chain: &Chain,
        blocks: &[PutBlock],
        options: PutOptions,
    ) -> Result<Vec<PutResult>, RequestError> {
        blocks.iter().try_for_each(|block| check(chain, block))?;
        let deadline = self.deadline(options.patience);
        let mut put = Put {
            chain,
            blocks,
            options,
            left: (0..blocks.len()).collect(),
            results: vec![PutResult::NotStored(NotStoredReason::Unreachable); blocks.len()],
        };
        if blocks.is_empty() {
            return Ok(put.results);
        }
        let targets = self.targets(chain, deadline).await;
        let mut attempts = CALL_ATTEMPTS_MAX as usize;
        for (position, peer) in targets.iter().enumerate() {
            if attempts == 0 || put.left.is_empty() || Instant::now() >= deadline {
                break;
            }
            // Asked only when it is this node's turn: being admitted may be the one try of a pause.
            if !peer.admits(Instant::now()) {
                continue;
            }
            let until = share_of(deadline, attempts.min(targets.len() - position));
            attempts -= 1;
            match peer.mover(self.inner.config.cluster, until).await {
                Some(mover) => put.send(peer, &mover, until).await,
                None => peer.failed(),
            }
        }
        Ok(put.results)
    }

    /// The nodes to try, the caller's own first. Asks for them once if none is known yet.
    async fn targets(&self, chain: &Chain, deadline: Instant) -> Vec<Arc<DataPeer>> {
        let spread = u64::from_le_bytes(chain.keys()[0].0[..8].try_into().expect("a key has 32 bytes"));
        let known = self.inner.topology.writable(spread);
        if !known.is_empty() {
            self.refresh_nodes_if_old();
            return known;
        }
        // A failure to discover shows as "unreachable" in every result.
        let _ = tokio::time::timeout_at(share_of(deadline, 2).into(), self.nodes()).await;
        self.inner.topology.writable(spread)
    }
}

/// A put on its way: what is still to be stored, and what became of the rest.
struct Put<'a> {
    chain: &'a Chain,
    blocks: &'a [PutBlock],
    options: PutOptions,
    /// Positions in `blocks` that no node has acknowledged.
    left: Vec<usize>,
    results: Vec<PutResult>,
}

impl Put<'_> {
    /// Sends what is left to one node.
    async fn send(&mut self, peer: &DataPeer, mover: &TcpMover, until: Instant) {
        let sent = std::mem::take(&mut self.left);
        let items = sent.iter().map(|&position| self.item(position)).collect();
        let mut completions = mover.put(items, until);
        let mut heard = false;
        while let Some(completion) = completions.next().await {
            let Some(&position) = sent.get(completion.index as usize) else { continue };
            match completion.result {
                Ok(PutAck { generation, existed }) => {
                    heard = true;
                    self.results[position] = PutResult::Stored { node: peer.node, generation, existed };
                }
                Err(status) => {
                    heard |= !matches!(status, BlockStatus::DeadlineExceeded | BlockStatus::Disconnected);
                    self.results[position] = PutResult::NotStored(reason_of(status));
                    self.left.push(position);
                }
            }
        }
        peer.judge(heard);
    }

    fn item(&self, position: usize) -> PutItem {
        let block = &self.blocks[position];
        PutItem {
            key: self.chain.keys()[block.index],
            payload: block.payload.clone(),
            crc32: crc32fast::hash(&block.payload),
            ack: self.options.ack,
            retention: block.retention,
            depth: self.chain.depth(block.index),
        }
    }
}

fn check(chain: &Chain, block: &PutBlock) -> Result<(), RequestError> {
    let (index, len) = (block.index, block.payload.len());
    if index >= chain.len() {
        Err(RequestError::OutsideChain { index, count: chain.len() })
    } else if len == 0 {
        Err(RequestError::BlockEmpty { index })
    } else if len > BLOCK_BYTES_MAX {
        Err(RequestError::BlockTooLarge { index, len })
    } else {
        Ok(())
    }
}

fn reason_of(status: BlockStatus) -> NotStoredReason {
    match status {
        BlockStatus::DeadlineExceeded | BlockStatus::Disconnected => NotStoredReason::Unknown,
        BlockStatus::Full | BlockStatus::Overloaded => NotStoredReason::Full,
        BlockStatus::ShuttingDown => NotStoredReason::Unreachable,
        _ => NotStoredReason::Failed,
    }
}
