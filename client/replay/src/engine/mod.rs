//! The replay itself: each request as an inference engine would serve it.
//!
//! Look the chain up, get what is held, check every byte, make what is missing, put it. Sessions
//! run side by side up to a bound; the requests of one session run strictly in order, each on the
//! next worker, so that what one worker wrote another reads. A failure is counted and taken for a
//! miss, as an engine would (INV-HARMLESS); the replay goes on.

mod meter;
mod serve;
mod store;

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hearth_proto::limits::{CHAIN_BLOCKS_MAX, REPLAY_BATCH_BYTES_MAX};
use hearth_proto::{BlockKey, LayoutId};
use tokio::task::JoinSet;

use crate::oracle::Oracle;
use crate::progress::{Progress, Snapshot};
use crate::workload::{Request, Session, Workload};

pub(crate) use meter::{BusyClock, LATENCY_UNIT_NS, Latencies, Meter, Second};
use serve::Server;
pub use store::{
    BlockStore, Held, PutBlock, PutOutcome, ReadBlock, StoreError, StoreErrorKind, WrittenBlock,
};

/// How a workload is replayed.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// Size of every block.
    pub block_bytes: usize,
    /// The layout in which block keys are derived.
    pub layout: LayoutId,
    /// Sessions in work at a time.
    pub concurrency: usize,
    /// How much faster than recorded requests are sent; `None` sends each as soon as the one before
    /// it is done.
    pub speed: Option<f64>,
    /// Deadline of each call of the store.
    pub deadline: Duration,
    /// Time after which no further request is sent.
    pub time_limit: Option<Duration>,
}

impl Settings {
    /// Blocks that one call names.
    fn batch_blocks(&self) -> usize {
        (REPLAY_BATCH_BYTES_MAX / self.block_bytes.max(1)).clamp(1, CHAIN_BLOCKS_MAX)
    }
}

/// What a replay measured, before it is made into a report.
pub(crate) struct Outcome {
    pub(crate) workers: Vec<Meter>,
    pub(crate) get_busy: Duration,
    pub(crate) put_busy: Duration,
    pub(crate) elapsed: Duration,
    /// The time limit ended the replay before the workload did.
    pub(crate) truncated: bool,
}

/// What all sessions of one replay share.
struct Shared<S> {
    workload: Arc<Workload>,
    keys: Vec<BlockKey>,
    stores: Vec<Arc<S>>,
    settings: Settings,
    /// Fed when a request is sent: the bound.
    oracle: Mutex<Oracle>,
    /// Fed when a request is done: what a perfect store could have held by then.
    made: Mutex<Oracle>,
    meters: Vec<Mutex<Meter>>,
    get_clock: Mutex<BusyClock>,
    put_clock: Mutex<BusyClock>,
    next_session: AtomicUsize,
    truncated: AtomicBool,
    done: Done,
    started: Instant,
}

/// Counters that the progress display reads while the replay runs.
#[derive(Default)]
struct Done {
    requests: AtomicU64,
    blocks: AtomicU64,
    hit_blocks: AtomicU64,
    bound_blocks: AtomicU64,
    bytes: AtomicU64,
    wrong: AtomicU64,
}

/// Locks; a panic elsewhere ends the replay anyway, so a poisoned lock is of no further concern.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Replays `workload` against `stores`, one worker each.
///
/// *Cancel safety*: dropping the future aborts all sessions; nothing outlives it.
pub(crate) async fn replay<S: BlockStore>(
    workload: Arc<Workload>,
    stores: Vec<Arc<S>>,
    settings: Settings,
    progress: &mut Progress,
) -> Outcome {
    let keys = workload.tree.keys(settings.layout);
    let shared = Arc::new(Shared {
        oracle: Mutex::new(Oracle::new(&workload.tree)),
        made: Mutex::new(Oracle::new(&workload.tree)),
        meters: stores.iter().map(|_| Mutex::new(Meter::new())).collect(),
        get_clock: Mutex::default(),
        put_clock: Mutex::default(),
        next_session: AtomicUsize::new(0),
        truncated: AtomicBool::new(false),
        done: Done::default(),
        started: Instant::now(),
        keys,
        stores,
        settings,
        workload,
    });
    let mut sessions = JoinSet::new();
    for _ in 0..settings.concurrency.clamp(1, shared.workload.sessions.len().max(1)) {
        sessions.spawn(run_sessions(shared.clone()));
    }
    progress.begin(shared.workload.request_count() as u64);
    let first = tokio::time::Instant::now() + progress.interval();
    let mut ticks = tokio::time::interval_at(first, progress.interval());
    loop {
        tokio::select! {
            joined = sessions.join_next() => match joined {
                None => break,
                Some(Ok(())) => {}
                Some(Err(failure)) => std::panic::resume_unwind(failure.into_panic()),
            },
            _ = ticks.tick() => progress.update(&shared.snapshot()),
        }
    }
    let elapsed = shared.started.elapsed();
    progress.end(&shared.snapshot());
    Outcome {
        workers: shared.meters.iter().map(|meter| lock(meter).clone()).collect(),
        get_busy: lock(&shared.get_clock).busy(),
        put_busy: lock(&shared.put_clock).busy(),
        elapsed,
        truncated: shared.truncated.load(Ordering::Relaxed),
    }
}

/// Takes one session after another until none is left.
async fn run_sessions<S: BlockStore>(shared: Arc<Shared<S>>) {
    let mut server = Server::new(shared.clone());
    loop {
        let number = shared.next_session.fetch_add(1, Ordering::Relaxed);
        let Some(session) = shared.workload.sessions.get(number) else { return };
        let begins = shared.session_begins(session);
        for (turn, request) in session.requests.iter().enumerate() {
            let Some(due) = shared.wait_for(begins, request).await else { return };
            let worker = (number + turn) % shared.stores.len();
            server.serve(worker, request, due).await;
        }
    }
}

impl<S> Shared<S> {
    fn session_begins(&self, session: &Session) -> Instant {
        match (session.start, self.settings.speed) {
            (Some(start), Some(speed)) => self.started + start.div_f64(speed),
            _ => Instant::now(),
        }
    }

    /// Waits until `request` is due and tells when that was; `None` once the time is up.
    async fn wait_for(&self, begins: Instant, request: &Request) -> Option<Instant> {
        let due = self.settings.speed.map_or_else(Instant::now, |speed| begins + request.at.div_f64(speed));
        let ends = self.settings.time_limit.map(|limit| self.started + limit);
        let until = ends.map_or(due, |ends| due.min(ends));
        if until > Instant::now() {
            tokio::time::sleep_until(until.into()).await;
        }
        if ends.is_some_and(|ends| Instant::now() >= ends) {
            self.truncated.store(true, Ordering::Relaxed);
            return None;
        }
        Some(due)
    }

    fn snapshot(&self) -> Snapshot {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Snapshot {
            requests: read(&self.done.requests),
            blocks: read(&self.done.blocks),
            hit_blocks: read(&self.done.hit_blocks),
            bound_blocks: read(&self.done.bound_blocks),
            bytes: read(&self.done.bytes),
            wrong: read(&self.done.wrong),
            elapsed: self.started.elapsed(),
        }
    }
}

#[cfg(test)]
mod tests;
