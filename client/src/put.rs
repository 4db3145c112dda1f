//! Puts blocks on the caller's own node, or on another one when that one cannot take them.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_fabric::{Mover, PutItem};
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
        let mut results = vec![PutResult::NotStored(NotStoredReason::Unreachable); blocks.len()];
        if blocks.is_empty() {
            return Ok(results);
        }
        let mut left: Vec<usize> = (0..blocks.len()).collect();
        let targets = self.targets(chain, deadline).await;
        for (attempt, peer) in targets.iter().enumerate() {
            let until = share_of(deadline, targets.len() - attempt);
            self.put_on(peer, chain, blocks, options, until, &mut left, &mut results).await;
            if left.is_empty() || Instant::now() >= deadline {
                break;
            }
        }
        Ok(results)
    }

    /// The nodes to try, the caller's own first. Asks for them once if none is known yet.
    async fn targets(&self, chain: &Chain, deadline: Instant) -> Vec<Arc<DataPeer>> {
        let spread = u64::from_le_bytes(chain.keys()[0].0[..8].try_into().expect("a key has 32 bytes"));
        let now = Instant::now();
        let usable = || {
            let mut peers = self.inner.topology.writable(spread);
            peers.retain(|peer| peer.admits(now));
            peers.truncate(CALL_ATTEMPTS_MAX as usize);
            peers
        };
        if self.inner.topology.home().is_none() {
            // A failure to discover shows as "unreachable" in every result.
            let _ = tokio::time::timeout_at(share_of(deadline, 2).into(), self.nodes()).await;
        }
        self.refresh_nodes_if_old();
        usable()
    }

    #[allow(clippy::too_many_arguments)]
    async fn put_on(
        &self,
        peer: &DataPeer,
        chain: &Chain,
        blocks: &[PutBlock],
        options: PutOptions,
        until: Instant,
        left: &mut Vec<usize>,
        results: &mut [PutResult],
    ) {
        let Some(mover) = peer.mover(self.inner.config.cluster, until).await else {
            peer.failed();
            return;
        };
        let sent = std::mem::take(left);
        let items = sent.iter().map(|&i| item(chain, &blocks[i], options)).collect();
        let mut completions = mover.put(items, until);
        let mut heard = false;
        while let Some(completion) = completions.next().await {
            let Some(&position) = sent.get(completion.index as usize) else { continue };
            match completion.result {
                Ok(ack) => {
                    heard = true;
                    results[position] = PutResult::Stored {
                        node: peer.node,
                        generation: ack.generation,
                        existed: ack.existed,
                    };
                }
                Err(status) => {
                    heard |= !matches!(status, BlockStatus::DeadlineExceeded | BlockStatus::Disconnected);
                    results[position] = PutResult::NotStored(reason_of(status));
                    left.push(position);
                }
            }
        }
        peer.judge(heard);
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

fn item(chain: &Chain, block: &PutBlock, options: PutOptions) -> PutItem {
    PutItem {
        key: chain.keys()[block.index],
        payload: block.payload.clone(),
        crc32: crc32fast::hash(&block.payload),
        ack: options.ack,
        retention: block.retention,
        depth: chain.depth(block.index),
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
