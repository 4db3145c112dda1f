//! The indexes of Dynamo's router (crate dynamo-kv-router), driven as it drives them.

use dynamo_kv_router::indexer::{KvIndexerInterface, RadixTree, SyncIndexer, ThreadPoolIndexer};
use dynamo_kv_router::protocols::{
    ExternalSequenceBlockHash, KvCacheEvent, KvCacheEventData, KvCacheRemoveData, KvCacheStoreData,
    KvCacheStoredBlockData, LocalBlockHash, OverlapScores, RouterEvent, WorkerWithDpRank,
};

use super::subject::{Prepared, Query, Subject};
use super::workload::Event;

const BLOCK_TOKENS: u32 = 64;

/// An event as Dynamo takes it.
pub(super) fn prepare(number: u64, event: &Event) -> Prepared {
    let (worker, data) = match event {
        Event::Stored { worker, before, position, blocks } => {
            let blocks = blocks.iter().map(|block| KvCacheStoredBlockData {
                block_hash: ExternalSequenceBlockHash(block.chained),
                tokens_hash: LocalBlockHash(block.local),
                mm_extra_info: None,
            });
            let store = KvCacheStoreData {
                parent_hash: before.map(ExternalSequenceBlockHash),
                start_position: Some(*position as u32),
                blocks: blocks.collect(),
            };
            (worker, KvCacheEventData::Stored(store))
        }
        Event::Removed { worker, blocks } => {
            let block_hashes = blocks.iter().copied().map(ExternalSequenceBlockHash).collect();
            (worker, KvCacheEventData::Removed(KvCacheRemoveData { block_hashes }))
        }
    };
    let event = KvCacheEvent { event_id: number, data, dp_rank: 0 };
    Prepared::Dynamo(RouterEvent::new(u64::from(*worker), event))
}

fn total(scores: &OverlapScores) -> u64 {
    scores.scores.values().map(|score| u64::from(*score)).sum()
}

fn by_worker(scores: &OverlapScores, workers: u16) -> Vec<u32> {
    let of = |worker: u16| scores.scores.get(&WorkerWithDpRank::from_worker_id(u64::from(worker)));
    (0..workers).map(|worker| of(worker).copied().unwrap_or(0)).collect()
}

/// The tree of one thread.
pub(super) struct Tree {
    tree: RadixTree,
    workers: u16,
}

impl Tree {
    pub(super) fn new(workers: u16) -> Self {
        Self { tree: RadixTree::new(), workers }
    }
}

impl Subject for Tree {
    fn name(&self) -> &'static str {
        "RadixTree"
    }

    fn apply(&mut self, events: Vec<Prepared>) {
        for event in events {
            if let Prepared::Dynamo(event) = event {
                // What it refuses shows in its answers.
                let _ = self.tree.apply_event(event);
            }
        }
    }

    fn find(&mut self, query: &Query) -> u64 {
        total(&self.tree.find_matches(query.local.clone(), false))
    }

    fn scores(&mut self, query: &Query) -> Vec<u32> {
        by_worker(&self.tree.find_matches(query.local.clone(), false), self.workers)
    }

    fn clear(&mut self, workers: u16) {
        (0..workers).for_each(|worker| self.tree.remove_worker(u64::from(worker)));
    }
}

/// One of those that many threads share, fed by a thread of its own pool.
pub(super) struct Pool<T: SyncIndexer> {
    name: &'static str,
    pool: ThreadPoolIndexer<T>,
    workers: u16,
    runtime: tokio::runtime::Handle,
}

impl<T: SyncIndexer> Pool<T> {
    pub(super) fn new(name: &'static str, backend: T, workers: u16, runtime: tokio::runtime::Handle) -> Self {
        Self { name, pool: ThreadPoolIndexer::new(backend, 1, BLOCK_TOKENS), workers, runtime }
    }

    fn flush(&self) {
        // One that has failed shows in its answers.
        let _ = self.runtime.block_on(self.pool.flush_and_wait());
    }
}

impl<T: SyncIndexer> Subject for Pool<T> {
    fn name(&self) -> &'static str {
        self.name
    }

    fn apply(&mut self, events: Vec<Prepared>) {
        for event in events {
            if let Prepared::Dynamo(event) = event {
                let _ = self.pool.enqueue_event(event);
            }
        }
        self.flush();
    }

    fn find(&mut self, query: &Query) -> u64 {
        total(&self.pool.backend().find_matches(&query.local, false))
    }

    fn scores(&mut self, query: &Query) -> Vec<u32> {
        by_worker(&self.pool.backend().find_matches(&query.local, false), self.workers)
    }

    fn clear(&mut self, workers: u16) {
        for worker in 0..workers {
            self.runtime.block_on(self.pool.remove_worker(u64::from(worker)));
        }
        self.flush();
    }
}

impl<T: SyncIndexer> Drop for Pool<T> {
    fn drop(&mut self) {
        self.pool.shutdown();
    }
}
