//! Who holds what: the workers of each pool, and an index of their blocks that answers for each worker and tier.
//!
//! A *pool* is what can share blocks: a model of one tenant, with an adapter or without, in blocks of one size. Pools
//! have nothing in common. A *worker* is one data-parallel rank of an instance; a process that serves several models or
//! adapters is a worker of several pools. Workers report to a [`Pool`] what they store and drop; a query gives for each
//! of them how much of a chain it holds, from the start without a hole, at three levels: in the accelerator's memory;
//! there or in the host's; in any tier. A block that is dropped from one tier of a level and is still in another one
//! stays in the level.
//!
//! A block is known by the hashes of its tokens ([`hashes`]), whatever the engine calls it, if the engine tells of its
//! tokens; otherwise by the engine's hash. What an engine's hashes mean is kept for each worker, and dropped with the
//! last tier that has the block: one worker's mistakes or lies change nothing about others. A chain behind a block that
//! nobody can name is left out and counted, never guessed at.
//!
//! It has no clock, no sockets and no tasks: whoever listens to the engines brings reports and the time.

mod answer;
mod apply;
mod change;
pub mod hashes;
mod key;
mod levels;
mod names;
mod pool;
mod query;
mod roster;
#[cfg(test)]
mod tests;
mod tiers;
mod worker;

use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use hearth_proto::limits::{POOL_WORKERS_MAX, POOLS_MAX, WORKER_BLOCKS_MAX};
use hearth_proto::{Classified, ErrorKind};

pub use self::answer::{Answer, InstanceMatch, TierPrefix, WorkerMatch};
pub use self::change::{Applied, ChangeCounts, ChangeError, StoredBlocks};
pub use self::key::{KeyError, PoolKey, PoolSelector, WorkerKey};
pub use self::pool::{Pool, PoolStats};
pub use self::query::{Query, QueryError};

/// See the module.
#[derive(Debug)]
pub struct Catalog {
    settings: Settings,
    /// In the order of their keys.
    pools: RwLock<Vec<Arc<Pool>>>,
}

/// What holds for all pools.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Bytes of memory that the index of one pool keeps to, about.
    pub index_bytes_max: usize,
    /// Blocks of one worker that are known by its own names; beyond it the oldest are forgotten.
    pub worker_blocks_max: usize,
    /// What tables are spread with. Nobody who reports blocks should know it.
    pub seed: [u64; 2],
}

/// A worker that cannot be registered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum RegisterError {
    /// There are too many pools. The caller unregisters the workers of one.
    #[error("there are {POOLS_MAX} pools, and no more can be: unregister the workers of one")]
    TooManyPools,
    /// The pool has too many workers. The caller unregisters one.
    #[error("the pool has {POOL_WORKERS_MAX} workers, and can have no more: unregister one")]
    TooManyWorkers,
}

/// A pool that a query does not find.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SelectError {
    /// No worker is registered for it. The caller registers one, or asks for another.
    #[error("no worker is registered for this model, tenant, adapter and size of blocks")]
    UnknownPool,
    /// There are several that differ in the size of their blocks. The caller names one.
    #[error("there are pools with blocks of {block_sizes:?} tokens: name one")]
    Ambiguous {
        /// The sizes, in tokens.
        block_sizes: Vec<u32>,
    },
}

impl Classified for RegisterError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Stop
    }
}

impl Classified for SelectError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::FixRequest
    }
}

impl Settings {
    /// Pools that keep to so much memory for their index.
    pub fn new(index_bytes_max: usize, seed: [u64; 2]) -> Self {
        Self { index_bytes_max, worker_blocks_max: WORKER_BLOCKS_MAX, seed }
    }
}

impl Catalog {
    /// One without pools.
    pub fn new(settings: Settings) -> Self {
        Self { settings, pools: RwLock::new(Vec::new()) }
    }

    /// Adds a worker to a pool, and the pool if it is the first. A worker that is there is heard of, and keeps what it
    /// holds.
    ///
    /// *Units*: milliseconds of a clock that does not go back.
    ///
    /// # Errors
    /// [`RegisterError`]; nothing is changed.
    pub fn register(
        &self,
        key: &PoolKey,
        worker: &WorkerKey,
        now_ms: u64,
    ) -> Result<Arc<Pool>, RegisterError> {
        let mut pools = self.write();
        let at = match place(&pools, key) {
            Ok(at) => at,
            Err(_) if pools.len() >= POOLS_MAX => return Err(RegisterError::TooManyPools),
            Err(at) => {
                pools.insert(at, Arc::new(Pool::new(key.clone(), self.settings)));
                at
            }
        };
        let pool = Arc::clone(&pools[at]);
        // Under the lock: the pool does not go with its last worker meanwhile.
        match pool.register(worker, now_ms) {
            true => Ok(pool),
            false => Err(RegisterError::TooManyWorkers),
        }
    }

    /// Takes a worker out of a pool, and the pool away with the last one. Gives the blocks that it held; none if it was
    /// not there.
    pub fn unregister(&self, key: &PoolKey, worker: &WorkerKey) -> Option<usize> {
        let (pool, worker) = {
            let mut pools = self.write();
            let at = place(&pools, key).ok()?;
            let worker = pools[at].board.remove(worker)?;
            let pool = Arc::clone(&pools[at]);
            if pool.board.read().rows().is_empty() {
                pools.remove(at);
            }
            (pool, worker)
        };
        Some(pool.bury(&worker))
    }

    /// The pool with this key.
    pub fn pool(&self, key: &PoolKey) -> Option<Arc<Pool>> {
        let pools = self.read();
        place(&pools, key).ok().map(|at| Arc::clone(&pools[at]))
    }

    /// The pool that a query means.
    ///
    /// # Errors
    /// [`SelectError`] if there is none, or if there are several sizes of blocks and the query names none.
    pub fn select(&self, selector: &PoolSelector<'_>) -> Result<Arc<Pool>, SelectError> {
        let pools = self.read();
        let first = pools.partition_point(|pool| pool.key().family() < selector.family());
        let of_family = pools[first..].iter().take_while(|pool| pool.key().family() == selector.family());
        let is_meant =
            |pool: &&Arc<Pool>| selector.block_size.is_none_or(|size| size == pool.key().block_size());
        let mut meant = of_family.filter(is_meant);
        let pool = meant.next().ok_or(SelectError::UnknownPool)?;
        let others: Vec<u32> = meant.map(|pool| pool.key().block_size()).collect();
        match others.is_empty() {
            true => Ok(Arc::clone(pool)),
            false => {
                let block_sizes = std::iter::once(pool.key().block_size()).chain(others).collect();
                Err(SelectError::Ambiguous { block_sizes })
            }
        }
    }

    /// All pools, in the order of their keys.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        self.read().clone()
    }

    /// Forgets what workers hold that have said nothing for longer than this, in all pools. They stay registered. Gives
    /// those of which this was not known yet.
    pub fn expire(&self, now_ms: u64, silence_ms_max: u64) -> Vec<(PoolKey, WorkerKey)> {
        let pools = self.pools();
        let expired = pools.iter().flat_map(|pool| {
            let workers = pool.expire(now_ms, silence_ms_max);
            workers.into_iter().map(|worker| (pool.key().clone(), worker))
        });
        expired.collect()
    }

    fn read(&self) -> RwLockReadGuard<'_, Vec<Arc<Pool>>> {
        self.pools.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Vec<Arc<Pool>>> {
        self.pools.write().unwrap_or_else(PoisonError::into_inner)
    }
}

fn place(pools: &[Arc<Pool>], key: &PoolKey) -> Result<usize, usize> {
    pools.binary_search_by(|pool| pool.key().cmp(key))
}
