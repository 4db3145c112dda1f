//! The load: writers and readers that know what every byte must be and what they were promised.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use hearth_client::{Client, PutOptions, PutResult};
use hearth_proto::{AckLevel, NodeId};
use hearth_tests::blocks::{blocks, chain, get_all};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tokio_util::sync::CancellationToken;

use crate::checker::Checker;

/// Blocks in one chain of the load.
pub(crate) const CHAIN_BLOCKS: usize = 16;
/// Size of each.
pub(crate) const BLOCK_BYTES: usize = 32 << 10;
/// Chains that the load moves among.
const CHAINS: u64 = 1_000;

/// A durable acknowledgement.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Promise {
    /// Who gave it.
    pub(crate) node: NodeId,
    /// The node had the block already.
    pub(crate) existed: bool,
    /// When it came.
    pub(crate) at: Instant,
}

/// The latest promise of each block of a chain.
pub(crate) type Promised = [Option<Promise>; CHAIN_BLOCKS];

/// Which blocks of which chains were acknowledged durable.
#[derive(Debug, Default)]
pub(crate) struct Promises(Mutex<BTreeMap<u64, Promised>>);

impl Promises {
    fn keep(&self, seed: u64, index: usize, promise: Promise) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).entry(seed).or_default()[index] = Some(promise);
    }

    /// The promises made so far: chain seeds with the blocks promised.
    pub(crate) fn all(&self) -> Vec<(u64, Promised)> {
        let promises = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        promises.iter().map(|(seed, blocks)| (*seed, *blocks)).collect()
    }
}

/// One task of the load; runs until told to stop.
pub(crate) async fn load(
    client: Client,
    mut rng: ChaCha8Rng,
    checker: Arc<Checker>,
    promises: Arc<Promises>,
    stop: CancellationToken,
) {
    while !stop.is_cancelled() {
        // An engine computes between its calls. Without that, the misses of a dead cluster, which cost
        // nothing, would keep the threads busy on which the deadlines of other calls are due.
        tokio::time::sleep(Duration::from_millis(rng.random_range(1..5))).await;
        let seed = rng.random_range(0..CHAINS);
        let patience = Duration::from_millis(rng.random_range(200..1_000));
        if rng.random_bool(0.3) {
            let ack = if rng.random_bool(0.5) { AckLevel::Durable } else { AckLevel::Host };
            put(&client, seed, ack, patience, &checker, &promises).await;
        } else {
            get(&client, seed, patience, &checker).await;
        }
    }
}

async fn put(
    client: &Client,
    seed: u64,
    ack: AckLevel,
    patience: Duration,
    checker: &Checker,
    promises: &Promises,
) {
    let chain = chain(seed, CHAIN_BLOCKS);
    let payload = blocks(&chain, BLOCK_BYTES);
    let options = PutOptions { ack, patience: Some(patience) };
    let started = Instant::now();
    match client.put(&chain, &payload, options).await {
        Ok(results) => {
            checker.took("put", started.elapsed(), patience);
            for (index, result) in results.iter().enumerate() {
                match result {
                    PutResult::Stored { node, existed, .. } => {
                        checker.stored();
                        if ack == AckLevel::Durable {
                            promises.keep(
                                seed,
                                index,
                                Promise { node: *node, existed: *existed, at: Instant::now() },
                            );
                        }
                    }
                    PutResult::NotStored(reason) => checker.not_stored(reason.as_str()),
                }
            }
        }
        Err(error) => checker.violation(format!("INV-HARMLESS: a put failed: {error}")),
    }
}

async fn get(client: &Client, seed: u64, patience: Duration, checker: &Checker) {
    match get_all(client, &chain(seed, CHAIN_BLOCKS), BLOCK_BYTES, patience).await {
        Ok(got) => {
            checker.took("get", got.elapsed, patience);
            got.hits.iter().for_each(|_| checker.hit());
            got.misses.iter().for_each(|(_, reason)| checker.missed(reason.as_str()));
        }
        Err(error) => checker.violation(format!("INV-BYTES: {error}")),
    }
}
