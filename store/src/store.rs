//! The store's handle and the plain answers it gives; puts and reads have files of their own.

use std::ops::ControlFlow;
use std::os::fd::BorrowedFd;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hearth_proto::limits::{LOAN_MS_MAX, SECTOR_BYTES};
use hearth_proto::{BlockDelta, BlockId, Generation, Retention, Tier};
use tokio::sync::oneshot;

use crate::arena::{Lease, Loan, SlotMut};
use crate::codec::LayoutCompression;
use crate::config::StoreConfig;
use crate::core::Core;
use crate::delta::DeltaStatus;
use crate::error::{LendError, OpenError, ReserveError};
use crate::index::NvmeReplica;
use crate::open::{self, Threads};
use crate::recovery::RecoveryReport;
use crate::stats::StoreStats;
use crate::sync::lock;
use crate::writer::Message;

/// One node's block store. Clones are handles to the same store.
///
/// When the last handle goes without [`Store::close`], dropping it blocks until everything that was put
/// is written through; leases stay valid.
#[derive(Clone)]
pub struct Store {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) core: Arc<Core>,
    threads: Mutex<Option<Threads>>,
}

/// What a put says of its block besides the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutMeta {
    /// Checksum of the payload.
    pub crc32: u32,
    /// How long the block is kept.
    pub retention: Retention,
    /// Position in its chain; children are deeper.
    pub depth: u32,
}

/// What became of a put.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PutOutcome {
    /// The number of the put that wrote the block: this one, or the one that came first.
    pub generation: Generation,
    /// True if the block was already there; the slot was dropped and the older bytes stay.
    pub existed: bool,
}

/// What a get found.
#[derive(Debug)]
pub enum GetOutcome {
    /// The bytes.
    Hit(Lease),
    /// Nothing that can be read.
    Miss(MissReason),
}

/// What the rest of the cluster has.
pub trait Copies: Send + Sync {
    /// True if another node has a durable copy of a block, as far as is known. Must not wait.
    fn is_elsewhere(&self, id: &BlockId) -> bool;
}

/// Why a get found nothing. The store remembers no block that it let go of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MissReason {
    /// The index names no such block: it was never put here, or evicted, or removed.
    NeverStored,
    /// The index named a record whose footer or checksum is wrong. The entry was removed.
    Corrupt,
    /// The index named a record that by now belongs to another block, as it may after a crash. The
    /// entry was removed.
    Stale,
    /// The device could not read the record. Its extent was taken out of service.
    Unreadable,
}

/// The tiers of this store that hold a block.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tiers {
    /// Readable from the arena.
    pub host: bool,
    /// Durable on NVMe.
    pub nvme: bool,
}

impl Tiers {
    /// True if the block is held anywhere.
    pub const fn any(self) -> bool {
        self.host || self.nvme
    }
}

impl Store {
    /// Opens a store, founding it if its folder is empty, and loads the index into memory.
    ///
    /// Blocks the caller. What was recovered is in [`Store::inventory`], not in the deltas.
    ///
    /// # Errors
    /// [`OpenError`]; nothing was changed by a refused open.
    pub fn open(config: StoreConfig) -> Result<(Self, RecoveryReport), OpenError> {
        let (core, threads, report) = open::open(&config, None)?;
        Ok((Self::new(core, threads), report))
    }

    pub(crate) fn new(core: Arc<Core>, threads: Option<Threads>) -> Self {
        Self { inner: Arc::new(Inner { core, threads: Mutex::new(threads) }) }
    }

    pub(crate) fn core(&self) -> &Arc<Core> {
        &self.inner.core
    }

    /// Gives an exclusive, writable slot for a payload; evicts to make room and waits for it.
    ///
    /// # Errors
    /// [`ReserveError`]: too large, no room by the deadline, or closed.
    ///
    /// *Cancel safe*: whoever gives up leaves the line, and no slot is lost.
    pub async fn reserve(&self, payload_len: usize, deadline: Instant) -> Result<SlotMut, ReserveError> {
        self.core().reserve(payload_len, deadline).await
    }

    /// The tiers that hold a block. Does not count as use.
    pub fn contains(&self, id: &BlockId) -> Tiers {
        let shard = self.core().index.shard(id);
        shard.get(id).map_or_else(Tiers::default, |node| Tiers {
            host: node.is_in_arena(),
            nvme: matches!(node.nvme(), NvmeReplica::Stored(_)),
        })
    }

    /// Says where to ask whether the rest of the cluster has a block: what it has elsewhere too goes before
    /// what it would lose. Later calls change nothing.
    pub fn set_copies(&self, copies: Arc<dyn Copies>) {
        // The first one is as good as any other.
        let _ = self.core().copies.set(copies);
    }

    /// Forgets a block in every tier and waits until that is durable, or the index on disk has refused it:
    /// then the block may be there again after the next start. Returns true if it was held.
    ///
    /// Leases on it stay valid. A put of it that still waits to be durable fails.
    ///
    /// *Cancel safe*: once polled the block is gone; only the wait for durability is lost.
    pub async fn remove(&self, id: &BlockId) -> bool {
        let core = self.core();
        let forgotten = core.forget(id);
        let Some(nvme) = &core.nvme else { return forgotten.is_some() };
        let (done, wait) = oneshot::channel();
        let message = match forgotten {
            Some((resident, replica)) if replica != NvmeReplica::Absent => {
                Message::Delete { resident, sector: None, done: Some(done) }
            }
            // A replica that was evicted, or removed by somebody else, may still be named on disk.
            _ => Message::Forgotten { done },
        };
        if nvme.mailbox.send(message).is_ok() {
            // The sender goes away unanswered only when the index failed, which its thread has logged.
            let _ = wait.await;
        }
        forgotten.is_some()
    }

    /// Moves up to `max` changes of what is held to `out`, oldest first.
    pub fn take_deltas(&self, max: usize, out: &mut Vec<BlockDelta>) -> DeltaStatus {
        self.core().deltas.take(max, out)
    }

    /// Waits until there are deltas to take. One task at a time may wait.
    ///
    /// *Cancel safe*.
    pub async fn deltas_ready(&self) {
        self.core().deltas.ready().await;
    }

    /// Everything that is held, as additions.
    ///
    /// Changes that happen meanwhile are in the deltas: report the inventory first, then those.
    pub fn inventory(&self) -> Vec<BlockDelta> {
        let mut held = Vec::new();
        let _ = self.for_each_held(|delta| {
            held.push(delta);
            ControlFlow::Continue(())
        });
        held
    }

    /// Visits everything that is held, as additions, without having all of it in memory twice. No part of the
    /// store is held up by a visitor that takes long.
    ///
    /// Changes that happen meanwhile are in the deltas: report what was visited first, then those.
    pub fn for_each_held(&self, mut visit: impl FnMut(BlockDelta) -> ControlFlow<()>) -> ControlFlow<()> {
        let mut held = Vec::new();
        for shard in self.core().index.shards() {
            for node in shard.nodes() {
                let (id, payload_len) = (node.id(), node.payload_len());
                let delta = |tier| BlockDelta { id, tier, added: true, payload_len };
                held.extend(node.is_in_arena().then(|| delta(Tier::Host)));
                held.extend(matches!(node.nvme(), NvmeReplica::Stored(_)).then(|| delta(Tier::Nvme)));
            }
            drop(shard);
            held.drain(..).try_for_each(&mut visit)?;
        }
        ControlFlow::Continue(())
    }

    /// The counters now.
    pub fn stats(&self) -> StoreStats {
        let core = self.core();
        let counters = &core.counters;
        let (nvme_capacity_bytes, nvme_used_bytes, fenced_extents) =
            core.nvme.as_ref().map_or((0, 0, 0), |nvme| {
                let ready = lock(&nvme.ready);
                let slots = lock(&nvme.slots);
                let used_bytes = slots.used_bytes() - ready.sectors() * SECTOR_BYTES as u64;
                (nvme.volume.capacity_bytes(), used_bytes, slots.fenced_count() as u64)
            });
        let pending_writes = core.nvme.as_ref().map_or(0, |nvme| lock(&nvme.under_way).len() as u64);
        // One lock after the other: none of them may be held while a shard is locked.
        let host_used_bytes = lock(core.arena.slots()).used_bytes();
        let index_bytes = core.index.memory_bytes();
        let gets_host = core.index.shards().map(|shard| shard.gets_host).sum();
        StoreStats {
            host_capacity_bytes: core.arena.len_bytes(),
            host_used_bytes,
            host_blocks: counters.host_blocks.value(),
            nvme_capacity_bytes,
            nvme_used_bytes,
            nvme_blocks: counters.nvme_blocks.value(),
            gets_host,
            gets_nvme: counters.gets_nvme.value(),
            gets_missed: counters.gets_missed.value(),
            puts: counters.puts.value(),
            put_bytes: counters.put_bytes.value(),
            evicted_host: counters.evicted_host.value(),
            evicted_nvme: counters.evicted_nvme.value(),
            corrupt_blocks: counters.corrupt_blocks.value(),
            stale_blocks: counters.stale_blocks.value(),
            io_errors: counters.io_errors.value(),
            pending_writes,
            nvme_written_bytes: counters.nvme_written_bytes.value(),
            nvme_written_payload_bytes: counters.nvme_written_payload_bytes.value(),
            nvme_payload_bytes: counters.nvme_payload_bytes.value(),
            lent_blocks: core.loans.count() as u64,
            pinned_bytes: lock(&core.pins).bytes(),
            not_admitted: counters.not_admitted.value(),
            conflicts: counters.conflicts.value(),
            index_bytes,
            writes_given_up: counters.writes_given_up.value(),
            fenced_extents,
            growth_failures: counters.growth_failures.value(),
        }
    }

    /// Lends a block of the arena to a reader outside the process, for at most `LOAN_MS_MAX`. A reader who
    /// has not finished by then finds out from the slot's generation (INV-FENCE).
    ///
    /// # Errors
    /// [`LendError`]: it is not in the arena, or too many are lent.
    pub fn lend(&self, id: &BlockId, duration: Duration) -> Result<Loan, LendError> {
        let core = self.core();
        let lease = self.get_host(id).ok_or(LendError::NotInArena)?;
        let now_us = core.clock.now_us();
        core.loans.end_overdue(now_us);
        let duration = duration.min(Duration::from_millis(LOAN_MS_MAX));
        core.loans.lend(lease, now_us + duration.as_micros() as u64)
    }

    /// Ends a loan before its time. Returns false if it had ended.
    pub fn end_loan(&self, loan: &Loan) -> bool {
        self.core().loans.end(loan.id)
    }

    /// The memory of the arena, for readers outside the process to map with [`crate::ArenaView::map`].
    pub fn arena_fd(&self) -> BorrowedFd<'_> {
        self.core().arena.memfd()
    }

    /// What compression came to for each layout since the store opened; namespace and payload length stand
    /// for a layout.
    pub fn compression(&self) -> Vec<LayoutCompression> {
        self.core().nvme.as_ref().map_or_else(Vec::new, |nvme| lock(&nvme.sampler).report())
    }

    /// Waits until everything that was put before is durable on NVMe, or given up.
    ///
    /// *Cancel safe*.
    pub async fn flush(&self) {
        let Some(nvme) = &self.core().nvme else { return };
        let (done, wait) = oneshot::channel();
        if nvme.mailbox.send(Message::Flush(done)).is_ok() {
            let _ = wait.await;
        }
    }

    /// Refuses further work, writes through what was put, and stops the threads. The folder may then be
    /// opened again. Leases stay valid.
    ///
    /// *Cancel safe*: the store closes even if nobody waits for it.
    pub async fn close(&self) {
        self.core().closed.store(true, Ordering::SeqCst);
        self.core().arena.made_room();
        let threads = lock(&self.inner.threads).take();
        if let Some(threads) = threads {
            // Joining blocks until the last write is durable.
            let stopped = tokio::task::spawn_blocking(move || threads.stop()).await;
            if stopped.is_err() {
                tracing::error!("closing the store panicked");
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.core.closed.store(true, Ordering::SeqCst);
        if let Some(threads) = lock(&self.threads).take() {
            threads.stop();
        }
    }
}
