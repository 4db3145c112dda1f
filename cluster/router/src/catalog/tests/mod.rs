//! The catalog beside an oracle, and what it refuses.

mod bounds;
mod identity;
mod levels;
mod threads;

use std::collections::BTreeMap;

use super::*;

const SEED: [u64; 2] = [0x1234_5678_9abc_def1, 0xfedc_ba98_7654_3217];
const BLOCK_SIZE: u32 = 4;

fn catalog() -> Catalog {
    Catalog::new(Settings::new(usize::MAX, SEED))
}

fn pool_key() -> PoolKey {
    PoolKey::new("model", "tenant", None, BLOCK_SIZE).unwrap()
}

fn worker(number: u32) -> WorkerKey {
    WorkerKey::new(&format!("engine-{}", number / 2), number % 2).unwrap()
}

/// A pool with so many workers.
fn pool(workers: u32) -> (Catalog, Arc<Pool>) {
    let catalog = catalog();
    (0..workers).for_each(|number| {
        catalog.register(&pool_key(), &worker(number), 0).unwrap();
    });
    let pool = catalog.pool(&pool_key()).unwrap();
    (catalog, pool)
}

/// The tokens of a chain of blocks that are told apart by these numbers.
fn tokens(blocks: &[u32]) -> Vec<u32> {
    blocks.iter().flat_map(|block| (0..BLOCK_SIZE).map(move |at| block * BLOCK_SIZE + at)).collect()
}

fn sequence(tokens: &[u32]) -> Vec<u64> {
    hashes::sequence_hashes(&hashes::local_hashes(tokens, BLOCK_SIZE, None, None))
}

/// What an engine may call the same blocks: some other function of the chain, which differs with the seed.
fn engine_hashes(seed: u64, tokens: &[u32]) -> Vec<u64> {
    let name = |block: u64| (block ^ seed).wrapping_mul(0x9e37_79b9_7f4a_7c15).rotate_left(17);
    sequence(tokens).into_iter().map(name).collect()
}

fn ask(pool: &Pool, query: Query<'_>) -> BTreeMap<WorkerKey, [u32; 3]> {
    let mut answer = Answer::new();
    pool.query(query, &mut answer).unwrap();
    let prefix = |found: WorkerMatch<'_>| {
        let TierPrefix { gpu_blocks, host_blocks, disk_blocks } = found.prefix;
        (found.worker.clone(), [gpu_blocks, host_blocks, disk_blocks])
    };
    answer.workers().map(prefix).collect()
}

fn ask_tokens(pool: &Pool, tokens: &[u32]) -> BTreeMap<WorkerKey, [u32; 3]> {
    ask(pool, Query::Tokens { tokens, salt: None })
}
