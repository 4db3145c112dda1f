//! One pool: an index, and the workers that report to it.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hearth_proto::limits::POOL_WORKERS_MAX;

use super::change::Counters;
use super::names::Names;
use super::roster::Board;
use super::worker::{State, Worker};
use super::{ChangeCounts, ChangeError, PoolKey, Settings, WorkerKey, hashes};
use crate::index::{Index, IndexStats, Member};

/// See the module. Reports of one worker wait for each other; those of different workers, and queries, do not.
#[derive(Debug)]
pub struct Pool {
    key: PoolKey,
    settings: Settings,
    /// What local hashes are seeded with if there is no salt.
    block_seed: u64,
    pub(super) index: Index,
    pub(super) board: Board,
    pub(super) counters: Counters,
}

/// How large a pool is, and what became of its reports.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PoolStats {
    /// Workers that are registered.
    pub workers: usize,
    /// Blocks that they hold by their own names, each counted for each worker.
    pub held: usize,
    /// The index; its blocks are counted once.
    pub index: IndexStats,
    /// Reports.
    pub changes: ChangeCounts,
}

impl Pool {
    pub(super) fn new(key: PoolKey, settings: Settings) -> Self {
        Self {
            block_seed: hashes::block_seed(key.lora(), None),
            index: Index::new(settings.index_bytes_max, settings.seed),
            board: Board::new(),
            counters: Counters::default(),
            key,
            settings,
        }
    }

    /// What it is called.
    pub fn key(&self) -> &PoolKey {
        &self.key
    }

    /// The workers that are registered, in the order of their keys.
    pub fn workers(&self) -> Vec<WorkerKey> {
        self.board.read().rows().iter().map(|row| row.worker.key().clone()).collect()
    }

    /// Notes that a worker lives, whether or not it has something to report. Reports say so by themselves.
    ///
    /// *Units*: milliseconds of a clock that does not go back.
    ///
    /// # Errors
    /// [`ChangeError::UnknownWorker`]; the caller registers it.
    pub fn heard(&self, worker: &WorkerKey, now_ms: u64) -> Result<(), ChangeError> {
        self.worker(worker).map(|worker| worker.hear(now_ms))
    }

    /// Forgets what workers hold that have said nothing for longer than this. They stay registered. Gives those of
    /// which this was not known yet.
    pub fn expire(&self, now_ms: u64, silence_ms_max: u64) -> Vec<WorkerKey> {
        self.set_now(now_ms);
        let roster = Arc::clone(&self.board.read());
        let expired = roster.rows().iter().filter(|row| self.expire_one(&row.worker, now_ms, silence_ms_max));
        expired.map(|row| row.worker.key().clone()).collect()
    }

    /// How large it is. Takes as long as it takes to look at all workers.
    pub fn stats(&self) -> PoolStats {
        let roster = Arc::clone(&self.board.read());
        PoolStats {
            workers: roster.rows().len(),
            held: roster.rows().iter().map(|row| row.worker.lock().names.len()).sum(),
            index: self.index.stats(),
            changes: self.counters.read(),
        }
    }

    fn expire_one(&self, worker: &Worker, now_ms: u64, silence_ms_max: u64) -> bool {
        let is_over = |heard_ms: u64| now_ms.saturating_sub(heard_ms) > silence_ms_max;
        if !is_over(worker.heard_ms()) {
            return false;
        }
        let mut state = worker.lock();
        // It may have reported before this one had the lock.
        let heard_ms = worker.heard_ms();
        if state.is_gone || state.silent_since_ms == Some(heard_ms) || !is_over(heard_ms) {
            return false;
        }
        state.silent_since_ms = Some(heard_ms);
        self.forget_all(&mut state);
        true
    }

    /// Adds a worker, or notes that it lives. False if there are too many.
    pub(super) fn register(&self, key: &WorkerKey, now_ms: u64) -> bool {
        let names = Names::new(self.settings.worker_blocks_max, self.settings.seed);
        let worker = self.board.add(Worker::new(key.clone(), names, now_ms), POOL_WORKERS_MAX);
        worker.is_some_and(|worker| {
            worker.hear(now_ms);
            true
        })
    }

    /// Forgets a worker that was taken out of the roster, and lets others have its numbers.
    pub(super) fn bury(&self, worker: &Worker) -> usize {
        let mut state = worker.lock();
        state.is_gone = true;
        let held = self.forget_all(&mut state);
        for (_, member) in std::mem::take(&mut state.levels).distinct() {
            self.board.give_back(member);
        }
        held
    }

    pub(super) fn worker(&self, key: &WorkerKey) -> Result<Arc<Worker>, ChangeError> {
        self.board.read().worker(key).cloned().ok_or(ChangeError::UnknownWorker)
    }

    /// What local hashes are seeded with.
    pub(super) fn block_seed(&self, salt: Option<&str>) -> u64 {
        match salt {
            None => self.block_seed,
            salt => hashes::block_seed(self.key.lora(), salt),
        }
    }

    /// Says what time it is: what was asked for long ago goes first when memory runs out.
    pub(super) fn set_now(&self, now_ms: u64) {
        self.index.set_now((now_ms / 1_000) as u32);
    }

    /// Forgets what a worker holds. Gives how many blocks that was.
    pub(super) fn forget_all(&self, state: &mut State) -> usize {
        for (_, member) in state.levels.distinct() {
            self.index.clear(member);
        }
        let held = state.names.len();
        state.names.clear();
        held
    }

    /// Forgets blocks of a worker of which it is not known any more what they are called.
    pub(super) fn forget(&self, state: &State, blocks: &[u64]) {
        if !blocks.is_empty() {
            state.levels.distinct().for_each(|(_, member): (_, Member)| {
                self.index.remove(member, blocks);
            });
        }
    }

    /// Forgets the oldest blocks of a worker if it has too many with so many more.
    pub(super) fn make_room(&self, state: &mut State, more: usize) {
        let forgotten = state.names.make_room(more);
        self.forget(state, &forgotten);
        self.counters.forgotten.fetch_add(forgotten.len() as u64, Ordering::Relaxed);
    }
}
