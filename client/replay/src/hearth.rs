//! A Hearth cluster as the replay's store: one client, bound to one worker's own node.

use std::ops::Range;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hearth_client::{
    BlockBuf, BlockResult, Chain, Client, ClientConfig, DiscoverError, GetOptions, Lookup, MissReason,
    NotStoredReason, PutOptions, PutResult, RequestError,
};
use hearth_proto::{AckLevel, BlockKey, v1};

use crate::engine::{
    BlockStore, Held, PutBlock, PutOutcome, ReadBlock, StoreError, StoreErrorKind, WrittenBlock,
};

/// Buffers that are kept for the next get.
const SPARE_BUFFERS_MAX: usize = 4_096;

/// One worker's connection to a cluster.
pub struct HearthStore {
    client: Client,
    block_bytes: usize,
    spare: Mutex<Vec<BlockBuf>>,
}

/// One client per node that is up, each with another node as its own and configured like `client`.
///
/// # Errors
/// [`DiscoverError`] if no member answers.
pub async fn worker_clients(client: &Client) -> Result<Vec<Client>, DiscoverError> {
    let nodes = client.nodes().await?.nodes;
    let mut addresses: Vec<String> = nodes
        .into_iter()
        .filter(|node| node.state() == v1::NodeState::Up)
        .map(|node| node.control_address)
        .collect();
    let mut clients = Vec::new();
    for _ in 0..addresses.len() {
        let config = ClientConfig { seeds: addresses.clone(), ..client.config().clone() };
        clients.push(Client::new(config)?);
        addresses.rotate_left(1);
    }
    Ok(clients)
}

impl HearthStore {
    /// A worker that reaches the cluster through `client`, for blocks of `block_bytes`.
    pub fn new(client: Client, block_bytes: usize) -> Self {
        Self { client, block_bytes, spare: Mutex::default() }
    }

    /// A buffer for one block, one used before if there is one.
    fn buffer(&self) -> BlockBuf {
        lock(&self.spare).pop().unwrap_or_else(|| BlockBuf::with_capacity(self.block_bytes))
    }

    fn give_back(&self, buffer: BlockBuf) {
        let mut spare = lock(&self.spare);
        if spare.len() < SPARE_BUFFERS_MAX {
            spare.push(buffer);
        }
    }
}

impl BlockStore for HearthStore {
    type Found = Lookup;

    async fn lookup(&self, chain: &[BlockKey], deadline: Duration) -> Result<Held<Lookup>, StoreError> {
        let chain = Chain::from_keys(chain.to_vec()).map_err(bad_request)?;
        let lookup = self.client.lookup(&chain, Some(deadline)).await;
        if lookup.source().is_none() {
            return Err(StoreError::new(StoreErrorKind::Unreachable, "no router answered in time"));
        }
        Ok(Held { blocks: lookup.held_prefix(), found: lookup })
    }

    async fn get(
        &self,
        found: &Lookup,
        range: Range<usize>,
        _: &[BlockKey],
        deadline: Duration,
        sink: &mut (dyn FnMut(ReadBlock<'_>) + Send),
    ) -> Result<(), StoreError> {
        let began = Instant::now();
        let first = range.start;
        let wanted = range.map(|index| (index, self.buffer())).collect();
        let done = |index: usize, result: BlockResult| {
            let (index, latency) = (index - first, began.elapsed());
            match result {
                BlockResult::Hit(hit) => {
                    let (bytes, tier) = (Some(hit.buffer.as_slice()), Some(hit.tier));
                    sink(ReadBlock { index, bytes, failure: None, tier, latency });
                    self.give_back(hit.buffer);
                }
                BlockResult::Miss { reason, buffer } => {
                    let failure = failure_of(reason);
                    sink(ReadBlock { index, bytes: None, failure, tier: None, latency });
                    buffer.into_iter().for_each(|buffer| self.give_back(buffer));
                }
            }
        };
        self.client.get(found, wanted, GetOptions::within(deadline), done).await.map_err(bad_request)
    }

    async fn put(
        &self,
        blocks: &[PutBlock],
        deadline: Duration,
        sink: &mut (dyn FnMut(WrittenBlock) + Send),
    ) -> Result<(), StoreError> {
        let began = Instant::now();
        let depth = blocks.first().map_or(0, |block| u32::try_from(block.depth).unwrap_or(u32::MAX));
        let keys = blocks.iter().map(|block| block.key).collect();
        let chain = Chain::from_keys(keys).map_err(bad_request)?.starting_at(depth);
        let payload: Vec<hearth_client::PutBlock> = blocks
            .iter()
            .enumerate()
            .map(|(index, block)| hearth_client::PutBlock {
                index,
                payload: block.bytes.clone(),
                retention: block.retention,
            })
            .collect();
        let options = PutOptions { ack: AckLevel::Host, patience: Some(deadline) };
        let done = |index: usize, result: PutResult| {
            sink(WrittenBlock { index, outcome: outcome_of(result), latency: began.elapsed() });
        };
        self.client.put_each(&chain, &payload, options, done).await.map_err(bad_request)
    }
}

fn bad_request(error: RequestError) -> StoreError {
    StoreError::new(StoreErrorKind::BadRequest, error)
}

/// What a report counts beside the miss itself; a block that is not stored is no failure.
fn failure_of(reason: MissReason) -> Option<StoreErrorKind> {
    Some(match reason {
        MissReason::NotStored => return None,
        MissReason::Deadline => StoreErrorKind::Deadline,
        MissReason::Unreachable => StoreErrorKind::Unreachable,
        MissReason::Corrupt => StoreErrorKind::Corrupt,
        MissReason::Overloaded => StoreErrorKind::Overloaded,
        MissReason::BufferTooSmall => StoreErrorKind::BadRequest,
        MissReason::Failed => StoreErrorKind::Other,
    })
}

fn outcome_of(result: PutResult) -> PutOutcome {
    match result {
        PutResult::Stored { existed: false, .. } => PutOutcome::Stored,
        PutResult::Stored { existed: true, .. } => PutOutcome::Exists,
        PutResult::NotStored(reason) => match reason {
            NotStoredReason::Full => PutOutcome::Refused,
            NotStoredReason::Unknown => PutOutcome::Failed(StoreErrorKind::Deadline),
            NotStoredReason::Unreachable => PutOutcome::Failed(StoreErrorKind::Unreachable),
            NotStoredReason::Failed => PutOutcome::Failed(StoreErrorKind::Other),
        },
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
