//! One worker of a pool, and what is known of its blocks.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use super::WorkerKey;
use super::levels::Levels;
use super::names::Names;

/// See the module.
#[derive(Debug)]
pub(super) struct Worker {
    key: WorkerKey,
    heard_ms: AtomicU64,
    state: Mutex<State>,
}

/// What only who applies the worker's changes needs. Queries do not.
///
/// *Invariants*: each block that the index has for one of its members has a name, with a tier of the member's level.
#[derive(Debug)]
pub(super) struct State {
    pub(super) levels: Levels,
    pub(super) names: Names,
    /// It has left the pool.
    pub(super) is_gone: bool,
    /// When it had been last heard of as it was cleared because it said nothing.
    pub(super) silent_since_ms: Option<u64>,
    /// The blocks of one change.
    pub(super) blocks: Vec<u64>,
    /// Bytes of one block's tokens.
    pub(super) bytes: Vec<u8>,
}

impl Worker {
    pub(super) fn new(key: WorkerKey, names: Names, now_ms: u64) -> Self {
        let state = State {
            levels: Levels::default(),
            names,
            is_gone: false,
            silent_since_ms: None,
            blocks: Vec::new(),
            bytes: Vec::new(),
        };
        Self { key, heard_ms: AtomicU64::new(now_ms), state: Mutex::new(state) }
    }

    pub(super) fn key(&self) -> &WorkerKey {
        &self.key
    }

    /// When it was last heard of.
    pub(super) fn heard_ms(&self) -> u64 {
        self.heard_ms.load(Ordering::Relaxed)
    }

    /// Notes that it was heard of.
    pub(super) fn hear(&self, now_ms: u64) {
        self.heard_ms.fetch_max(now_ms, Ordering::Relaxed);
    }

    /// Keeps all others from changing what is known of it.
    pub(super) fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
