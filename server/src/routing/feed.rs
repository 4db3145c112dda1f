//! What one publisher says, put into the catalog.

use std::collections::BTreeSet;
use std::sync::Arc;

use hearth_proto::limits::FEED_POOLS_MAX;
use hearth_router::catalog::{Catalog, ChangeError, Pool, PoolKey, RegisterError, StoredBlocks, WorkerKey};
use hearth_router::events::{DecodeError, Event, Options, Removed, SpecKind, Stored, decode};
use metrics::counter;

/// One worker of the pools that its engine serves: one for the model, and one for each of its adapters.
pub(super) struct Feed {
    catalog: Arc<Catalog>,
    worker: WorkerKey,
    /// The first is the one that it was registered for.
    pools: Vec<Arc<Pool>>,
    /// Groups of layers of which a block stands for no prefix.
    other_groups: BTreeSet<u32>,
}

impl Feed {
    /// Registers the worker.
    ///
    /// # Errors
    /// [`RegisterError`]; nothing is changed.
    pub(super) fn new(
        catalog: Arc<Catalog>,
        key: &PoolKey,
        worker: WorkerKey,
        now_ms: u64,
    ) -> Result<Self, RegisterError> {
        let pool = catalog.register(key, &worker, now_ms)?;
        Ok(Self { catalog, worker, pools: vec![pool], other_groups: BTreeSet::new() })
    }

    /// Takes a batch in.
    ///
    /// # Errors
    /// [`DecodeError`]: nothing of the batch counts, and what the worker holds is not known any more.
    pub(super) fn apply(&mut self, payload: &[u8], now_ms: u64) -> Result<(), DecodeError> {
        let batch = decode(payload, Options { keep_tokens: true })?;
        for (reason, count) in batch.dropped.iter() {
            counter!("hearth_router_events_dropped_total", "reason" => reason.as_str())
                .increment(u64::from(count));
        }
        for event in &batch.events {
            let applied = match event {
                Event::Stored(stored) => self.stored(stored, now_ms),
                Event::Removed(removed) => self.removed(removed, now_ms),
                Event::Cleared => {
                    self.clear(now_ms);
                    Ok(())
                }
            };
            match applied {
                Ok(()) => counter!("hearth_router_events_total").increment(1),
                Err(reason) => {
                    counter!("hearth_router_events_dropped_total", "reason" => reason).increment(1);
                }
            }
        }
        Ok(())
    }

    /// Notes that the worker lives, although it says nothing.
    pub(super) fn heard(&self, now_ms: u64) {
        for pool in &self.pools {
            // Who is not registered any more will be told when the publisher is stopped.
            let _ = pool.heard(&self.worker, now_ms);
        }
    }

    /// Forgets what the worker holds.
    pub(super) fn clear(&mut self, now_ms: u64) {
        for pool in &self.pools {
            let _ = pool.cleared(&self.worker, now_ms);
        }
    }

    /// Takes the worker out of its pools.
    pub(super) fn end(self) {
        for pool in &self.pools {
            self.catalog.unregister(pool.key(), &self.worker);
        }
    }

    fn stored(&mut self, stored: &Stored, now_ms: u64) -> Result<(), &'static str> {
        if let (Some(group), Some(kind)) = (stored.group, stored.spec_kind) {
            match kind {
                SpecKind::Full => self.other_groups.remove(&group),
                SpecKind::Windowed | SpecKind::Recurrent | SpecKind::Other => self.other_groups.insert(group),
            };
        }
        if stored.spec_kind.is_some_and(|kind| kind != SpecKind::Full) || self.is_of_others(stored.group) {
            return Err("no_prefix");
        }
        let pool = Arc::clone(self.pool_of(stored.lora_name.as_deref(), now_ms)?);
        // Offloaded blocks are named without a size.
        if stored.block_tokens != 0 && stored.block_tokens != pool.key().block_size() {
            return Err("block_size");
        }
        // Where tokens do not say which blocks these are the engine's hashes do.
        let ids = stored.tokens.as_ref().filter(|tokens| !tokens.is_bigram && !stored.has_extra_keys);
        let blocks = StoredBlocks {
            parent: stored.parent,
            hashes: &stored.hashes,
            tokens: ids.map_or(&[], |tokens| &tokens.ids),
            salt: None,
        };
        pool.stored(&self.worker, stored.tier, &blocks, now_ms).map(drop).map_err(ChangeError::as_str)
    }

    fn removed(&self, removed: &Removed, now_ms: u64) -> Result<(), &'static str> {
        if self.is_of_others(removed.group) {
            return Err("no_prefix");
        }
        // Whose adapter it was is not said.
        for pool in &self.pools {
            pool.removed(&self.worker, removed.tier, &removed.hashes, now_ms).map_err(ChangeError::as_str)?;
        }
        Ok(())
    }

    fn is_of_others(&self, group: Option<u32>) -> bool {
        group.is_some_and(|group| self.other_groups.contains(&group))
    }

    /// The pool of an adapter, or the one that the worker was registered for.
    fn pool_of(&mut self, lora: Option<&str>, now_ms: u64) -> Result<&Arc<Pool>, &'static str> {
        let first = self.pools[0].key();
        let lora = lora.or(first.lora());
        if let Some(at) = self.pools.iter().position(|pool| pool.key().lora() == lora) {
            return Ok(&self.pools[at]);
        }
        if self.pools.len() >= FEED_POOLS_MAX {
            return Err("too_many_adapters");
        }
        let key =
            PoolKey::new(first.model(), first.tenant(), lora, first.block_size()).map_err(|_| "adapter")?;
        let pool = self.catalog.register(&key, &self.worker, now_ms).map_err(|_| "too_many_pools")?;
        self.pools.push(pool);
        Ok(&self.pools[self.pools.len() - 1])
    }
}
