//! Gets blocks from whichever nodes hold them, in rounds: what fails in one place is asked of another
//! copy while the deadline allows, and is a miss after that.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::stream::FuturesUnordered;
use hearth_fabric::{BlockBuf, GetItem, Mover};
use hearth_proto::frame::BlockStatus;
use hearth_proto::limits::CALL_ATTEMPTS_MAX;
use hearth_proto::{BlockKey, Incarnation, NodeId, Tier, Urgency};

use crate::chain::Chain;
use crate::client::{Client, share_of};
use crate::error::RequestError;
use crate::lookup::{Lookup, Replica};
use crate::peer::{DataPeer, Heard};

/// A block that was got: exactly the bytes that were put (INV-BYTES), checked on arrival.
#[derive(Debug)]
pub struct Hit {
    /// The caller's buffer, holding the payload.
    pub buffer: BlockBuf,
    /// The tier of the serving node that had it.
    pub tier: Tier,
    /// The node that served it.
    pub node: NodeId,
}

/// Why a block was not got.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MissReason {
    /// No node is known to hold it.
    NotStored,
    /// The nodes that hold it cannot be reached, or are left alone after failures.
    Unreachable,
    /// It did not arrive in time.
    Deadline,
    /// The bytes found were not those that were put.
    Corrupt,
    /// The node refused because it had too much to do.
    Overloaded,
    /// The caller's buffer is smaller than the block.
    BufferTooSmall,
    /// The node failed to read it.
    Failed,
}

impl MissReason {
    /// The name used in output and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::NotStored => "not_stored",
            Self::Unreachable => "unreachable",
            Self::Deadline => "deadline",
            Self::Corrupt => "corrupt",
            Self::Overloaded => "overloaded",
            Self::BufferTooSmall => "buffer_too_small",
            Self::Failed => "failed",
        }
    }
}

/// What became of one block of a get.
#[derive(Debug)]
pub enum BlockResult {
    /// It was got.
    Hit(Hit),
    /// It was not: compute it instead.
    Miss {
        /// Why.
        reason: MissReason,
        /// The caller's buffer, unless a connection that failed still owned it.
        buffer: Option<BlockBuf>,
    },
}

/// How blocks are got.
#[derive(Debug, Clone, Copy, Default)]
pub struct GetOptions {
    /// How long the call may take; `None` is the client's deadline.
    pub patience: Option<Duration>,
    /// Which reads go first where many wait for the same disk.
    pub urgency: Urgency,
}

impl GetOptions {
    /// The usual, within `patience`.
    pub fn within(patience: Duration) -> Self {
        Self { patience: Some(patience), ..Self::default() }
    }
}

/// What the calls of one get have in common.
#[derive(Clone, Copy)]
struct Terms {
    urgency: Urgency,
    until: Instant,
}

/// A block still to be got.
struct Wanted {
    index: usize,
    buffer: Option<BlockBuf>,
    /// Room that the caller gave: a buffer lost with a connection is replaced by one as large.
    capacity: usize,
    /// Registrations asked so far: a node that registered anew may be asked anew.
    tried: Vec<(NodeId, Incarnation)>,
    reason: MissReason,
    /// The location was from before its node registered anew.
    stale: bool,
}

/// A batch of blocks asked of one node in one round.
struct Batch {
    peer: Arc<DataPeer>,
    incarnation: Incarnation,
    wanted: Vec<Wanted>,
}

impl Client {
    /// Looks a chain up and gets every block that is held, contiguous from its start, in chain order: the
    /// lookup and the get together take at most the patience of the options. Blocks are at most `block_bytes`
    /// long; the list ends where the chain is no longer held.
    ///
    /// An engine that has buffers of its own calls [`Client::lookup`] and [`Client::get`] instead.
    pub async fn get_chain(
        &self,
        chain: &Chain,
        block_bytes: usize,
        options: GetOptions,
    ) -> Vec<BlockResult> {
        let deadline = self.deadline(options.patience);
        let lookup = self.lookup_by(chain, deadline).await;
        let held = lookup.held_prefix();
        let buffers = (0..held).map(|index| (index, BlockBuf::with_capacity(block_bytes))).collect();
        let mut results: Vec<Option<BlockResult>> = (0..held).map(|_| None).collect();
        let left = deadline.saturating_duration_since(Instant::now());
        let options = GetOptions { patience: Some(left), ..options };
        let got = self.get(&lookup, buffers, options, |index, result| results[index] = Some(result));
        got.await.expect("every position is in the chain that was looked up");
        results.into_iter().flatten().collect()
    }

    /// Gets the blocks at `indices` of the chain that was looked up, each into the buffer beside it,
    /// and calls `done` once for each as it completes, in any order, all within the patience of the options.
    ///
    /// # Errors
    /// [`RequestError::OutsideChain`]: mend the request. Whatever goes wrong with the store is a miss.
    ///
    /// # Cancel safety
    /// Dropping the future abandons what is in flight; its buffers are dropped when the connection
    /// has done with them.
    pub async fn get(
        &self,
        lookup: &Lookup,
        blocks: Vec<(usize, BlockBuf)>,
        options: GetOptions,
        mut done: impl FnMut(usize, BlockResult),
    ) -> Result<(), RequestError> {
        let deadline = self.deadline(options.patience);
        let count = lookup.chain.len();
        if let Some(&(index, _)) = blocks.iter().find(|(index, _)| *index >= count) {
            return Err(RequestError::OutsideChain { index, count });
        }
        let mut wanted: Vec<Wanted> =
            blocks.into_iter().map(|(index, buffer)| Wanted::new(index, buffer)).collect();
        let mut replicas: BTreeMap<usize, Vec<Replica>> =
            wanted.iter().map(|w| (w.index, lookup.replicas[w.index].clone())).collect();
        for attempt in 0..CALL_ATTEMPTS_MAX {
            let last = attempt + 1 == CALL_ATTEMPTS_MAX;
            let (batches, hopeless) = self.plan(&replicas, wanted);
            hopeless.into_iter().for_each(|w| w.missed(&mut done));
            if batches.is_empty() {
                return Ok(());
            }
            let other_copies = batches.iter().flat_map(|b| &b.wanted).any(|w| !w.is_spent(&replicas));
            let until = if last || !other_copies { deadline } else { share_of(deadline, 2) };
            let terms = Terms { urgency: options.urgency, until };
            wanted = self.round(lookup, batches, terms, &mut done).await;
            if last || Instant::now() >= deadline {
                break;
            }
            self.refresh_stale(lookup, &mut wanted, &mut replicas, deadline).await;
        }
        wanted.into_iter().for_each(|w| w.missed(&mut done));
        Ok(())
    }

    /// Groups blocks by the node to ask next. What no untried node holds has no hope.
    fn plan(
        &self,
        replicas: &BTreeMap<usize, Vec<Replica>>,
        wanted: Vec<Wanted>,
    ) -> (Vec<Batch>, Vec<Wanted>) {
        let now = Instant::now();
        let home = self.inner.topology.home();
        let mut peers: BTreeMap<NodeId, Option<Arc<DataPeer>>> = BTreeMap::new();
        let mut batches: BTreeMap<(NodeId, Incarnation), Batch> = BTreeMap::new();
        let mut hopeless = Vec::new();
        for mut w in wanted {
            let mut candidates: Vec<Replica> =
                replicas[&w.index].iter().filter(|r| !w.has_tried(r)).copied().collect();
            candidates.sort_by_key(|r| (r.tier, Some(r.node) != home, r.node));
            let reachable = candidates.iter().find_map(|r| {
                let peer = peers
                    .entry(r.node)
                    .or_insert_with(|| self.inner.topology.data(r.node).filter(|peer| peer.admits(now)));
                peer.clone().map(|peer| (r, peer))
            });
            match reachable {
                Some((replica, peer)) => {
                    w.tried.push((replica.node, replica.incarnation));
                    batches
                        .entry((replica.node, replica.incarnation))
                        .or_insert_with(|| Batch {
                            peer,
                            incarnation: replica.incarnation,
                            wanted: Vec::new(),
                        })
                        .wanted
                        .push(w);
                }
                None => {
                    if !candidates.is_empty() {
                        w.reason = MissReason::Unreachable;
                    }
                    hopeless.push(w);
                }
            }
        }
        (batches.into_values().collect(), hopeless)
    }

    /// Asks every node of the round at once; returns what is still wanted.
    async fn round(
        &self,
        lookup: &Lookup,
        batches: Vec<Batch>,
        terms: Terms,
        done: &mut impl FnMut(usize, BlockResult),
    ) -> Vec<Wanted> {
        let keys = lookup.chain.keys();
        let (results, mut arrived) = tokio::sync::mpsc::unbounded_channel();
        let mut fetches: FuturesUnordered<_> =
            batches.into_iter().map(|batch| self.fetch(keys, batch, terms, results.clone())).collect();
        drop(results);
        let mut left = Vec::new();
        loop {
            tokio::select! {
                Some((index, hit)) = arrived.recv() => done(index, BlockResult::Hit(hit)),
                Some(failed) = fetches.next() => left.extend(failed),
                else => return left,
            }
        }
    }

    /// Asks one node for a batch. Hits go to `results` as they come; the rest is returned.
    ///
    /// The channel holds at most the blocks of one chain, so it is bounded by the request.
    async fn fetch(
        &self,
        keys: &[BlockKey],
        batch: Batch,
        terms: Terms,
        results: tokio::sync::mpsc::UnboundedSender<(usize, Hit)>,
    ) -> Vec<Wanted> {
        let Batch { peer, incarnation, mut wanted } = batch;
        let Terms { urgency, until } = terms;
        let Some(mover) = peer.mover(self.inner.config.cluster, until).await else {
            wanted.iter_mut().for_each(|w| w.reason = MissReason::Unreachable);
            return wanted;
        };
        let items =
            wanted.iter_mut().map(|w| GetItem { key: keys[w.index], buffer: w.take_buffer() }).collect();
        let asked = Instant::now();
        let mut completions = mover.get(items, incarnation, urgency, until);
        let mut heard = Heard::Silence;
        let mut left: Vec<Option<Wanted>> = wanted.into_iter().map(Some).collect();
        while let Some(completion) = completions.next().await {
            let Some(slot) = left.get_mut(completion.index as usize) else { continue };
            match completion.result {
                Ok(got) => {
                    heard = Heard::Answer;
                    if let Some(w) = slot.take() {
                        let hit = Hit { buffer: completion.buffer, tier: got.tier, node: peer.node };
                        // The receiver lives as long as this future: they are polled together.
                        let _ = results.send((w.index, hit));
                    }
                }
                Err(status) => {
                    heard = heard.max(Heard::by(status));
                    if let Some(w) = slot {
                        w.reason = reason_of(status);
                        w.buffer = Some(completion.buffer).filter(|buffer| buffer.capacity() >= w.capacity);
                        w.stale = status == BlockStatus::Stale;
                    }
                }
            }
        }
        peer.judge(heard, asked, until);
        left.into_iter().flatten().collect()
    }

    /// Asks again where blocks are whose location was from before their node registered anew. An answer
    /// adds to the copies known; none of those not yet tried is given up for it.
    async fn refresh_stale(
        &self,
        lookup: &Lookup,
        wanted: &mut [Wanted],
        replicas: &mut BTreeMap<usize, Vec<Replica>>,
        deadline: Instant,
    ) {
        let stale: Vec<usize> =
            wanted.iter_mut().filter_map(|w| std::mem::take(&mut w.stale).then_some(w.index)).collect();
        if stale.is_empty() {
            return;
        }
        // Half of what is left stays for the get itself.
        let Some(found) = self.lookup_positions(&lookup.chain, &stale, share_of(deadline, 2)).await else {
            return;
        };
        for (index, found) in stale.into_iter().zip(found) {
            let known = replicas.entry(index).or_default();
            known.retain(|old| !found.iter().any(|new| new.node == old.node));
            known.extend(found);
        }
    }
}

impl Wanted {
    fn new(index: usize, buffer: BlockBuf) -> Self {
        Self {
            index,
            capacity: buffer.capacity(),
            buffer: Some(buffer),
            tried: Vec::new(),
            reason: MissReason::NotStored,
            stale: false,
        }
    }

    fn take_buffer(&mut self) -> BlockBuf {
        self.buffer.take().unwrap_or_else(|| BlockBuf::with_capacity(self.capacity))
    }

    fn has_tried(&self, replica: &Replica) -> bool {
        self.tried.contains(&(replica.node, replica.incarnation))
    }

    fn is_spent(&self, replicas: &BTreeMap<usize, Vec<Replica>>) -> bool {
        replicas[&self.index].iter().all(|r| self.has_tried(r))
    }

    fn missed(self, done: &mut impl FnMut(usize, BlockResult)) {
        done(self.index, BlockResult::Miss { reason: self.reason, buffer: self.buffer });
    }
}

fn reason_of(status: BlockStatus) -> MissReason {
    match status {
        BlockStatus::Miss | BlockStatus::Stale => MissReason::NotStored,
        BlockStatus::DeadlineExceeded => MissReason::Deadline,
        BlockStatus::Corrupt => MissReason::Corrupt,
        BlockStatus::Overloaded | BlockStatus::Full => MissReason::Overloaded,
        BlockStatus::BufferTooSmall => MissReason::BufferTooSmall,
        BlockStatus::Disconnected | BlockStatus::ShuttingDown => MissReason::Unreachable,
        _ => MissReason::Failed,
    }
}
