//! Puts blocks on the caller's own node, or on another one when that one cannot take them.

use std::pin::pin;
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
use crate::peer::{DataPeer, Heard};

/// Bytes that are checksummed before other tasks have their turn: a few milliseconds.
const CHECKSUM_PIECE_BYTES: usize = 8 << 20;

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
        let mut results = vec![PutResult::NotStored(NotStoredReason::Unknown); blocks.len()];
        self.put_each(chain, blocks, options, |position, result| results[position] = result).await?;
        Ok(results)
    }

    /// Stores blocks of a chain and calls `done` once for each, with its position in `blocks`: for a
    /// stored one as soon as that is known, for the others at the end.
    ///
    /// A node keeps the put for as long as acknowledgements arrive from it; what it refuses, or leaves
    /// without a word for its share of the time, goes to the next.
    ///
    /// # Errors
    /// As [`Client::put`]; then `done` was not called.
    ///
    /// # Cancel safety
    /// Dropping the future stops what was not yet sent; what was sent may take effect.
    pub async fn put_each(
        &self,
        chain: &Chain,
        blocks: &[PutBlock],
        options: PutOptions,
        mut done: impl FnMut(usize, PutResult),
    ) -> Result<(), RequestError> {
        let deadline = self.deadline(options.patience);
        blocks.iter().try_for_each(|block| check(chain, block))?;
        if blocks.is_empty() {
            return Ok(());
        }
        let mut put = Put {
            chain,
            blocks,
            ack: options.ack,
            deadline,
            crcs: vec![None; blocks.len()],
            left: (0..blocks.len()).map(|position| (position, NotStoredReason::Unreachable)).collect(),
        };
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
            let tries = attempts.min(targets.len() - position);
            attempts -= 1;
            if let Some(mover) = peer.mover(self.inner.config.cluster, share_of(deadline, tries)).await {
                put.send(peer, &mover, tries, &mut done).await;
            }
        }
        put.left.into_iter().for_each(|(position, why)| done(position, PutResult::NotStored(why)));
        Ok(())
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

/// A put on its way.
struct Put<'a> {
    chain: &'a Chain,
    blocks: &'a [PutBlock],
    ack: AckLevel,
    deadline: Instant,
    /// Checksums by position in `blocks`, computed once however many nodes are tried.
    crcs: Vec<Option<u32>>,
    /// Positions in `blocks` that no node has acknowledged, and why not.
    left: Vec<(usize, NotStoredReason)>,
}

impl Put<'_> {
    /// Sends what is left to one node, which is the first of `tries`.
    async fn send(
        &mut self,
        peer: &DataPeer,
        mover: &TcpMover,
        tries: usize,
        done: &mut impl FnMut(usize, PutResult),
    ) {
        let Some(items) = self.items().await else { return };
        // The last node to try has all the time there is.
        let asked = Instant::now();
        let patience = if tries > 1 { share_of(self.deadline, tries) - asked } else { Duration::MAX };
        let until = asked.checked_add(patience).map_or(self.deadline, |until| until.min(self.deadline));
        let mut completions = mover.put(items, self.deadline);
        let mut quiet = pin!(tokio::time::sleep_until(until.into()));
        let mut heard = Heard::Silence;
        let mut sent: Vec<Option<usize>> = self.left.drain(..).map(|(position, _)| Some(position)).collect();
        loop {
            let completion = tokio::select! {
                biased;
                completion = completions.next() => completion,
                () = &mut quiet, if tries > 1 => break,
            };
            let Some(completion) = completion else { break };
            let Some(position) = sent.get_mut(completion.index as usize).and_then(Option::take) else {
                continue;
            };
            match completion.result {
                Ok(PutAck { generation, existed }) => {
                    heard = Heard::Answer;
                    done(position, PutResult::Stored { node: peer.node, generation, existed });
                }
                Err(status) => {
                    heard = heard.max(Heard::by(status));
                    self.left.push((position, reason_of(status)));
                }
            }
            let next = Instant::now().checked_add(patience).map_or(self.deadline, |at| at.min(self.deadline));
            quiet.as_mut().reset(next.into());
        }
        peer.judge(heard, asked, until);
        // Nothing is known of what the node left without a word.
        self.left.extend(sent.into_iter().flatten().map(|position| (position, NotStoredReason::Unknown)));
    }

    /// What is left, ready to be sent; `None` if the deadline came first. Checksums are computed in
    /// pieces, so that other tasks of the thread and the deadline have their turn.
    async fn items(&mut self) -> Option<Vec<PutItem>> {
        let mut items = Vec::with_capacity(self.left.len());
        let mut computed = 0;
        for at in 0..self.left.len() {
            let (position, _) = self.left[at];
            if self.crcs[position].is_none() {
                if computed >= CHECKSUM_PIECE_BYTES {
                    computed = 0;
                    tokio::task::yield_now().await;
                }
                if Instant::now() >= self.deadline {
                    self.left.iter_mut().for_each(|(_, why)| *why = NotStoredReason::Unknown);
                    return None;
                }
                computed += self.blocks[position].payload.len();
            }
            items.push(self.item(position));
        }
        Some(items)
    }

    fn item(&mut self, position: usize) -> PutItem {
        let block = &self.blocks[position];
        let crc32 = *self.crcs[position].get_or_insert_with(|| crc32fast::hash(&block.payload));
        PutItem {
            key: self.chain.keys()[block.index],
            payload: block.payload.clone(),
            crc32,
            ack: self.ack,
            retention: block.retention,
            depth: self.chain.depth(block.index),
            copy_of: None,
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
