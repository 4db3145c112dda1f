//! A store of names alone: the changes of a node that fills up, at the speed that is asked for.

use std::future::Future;
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hearth_cluster::{BlockSource, DeltaStatus};
use hearth_proto::{BlockDelta, BlockId, BlockKey, NamespaceId, Tier};
use tokio::sync::Notify;

/// The shortest that a slowed source sleeps.
const PACE_PAUSE: Duration = Duration::from_millis(1);
/// Length that is reported of each block.
const PAYLOAD_BYTES: u32 = 1 << 20;
/// Numbers of probes begin here, beyond those of any run.
const PROBES_FROM: u64 = 1 << 48;

/// The key of a node's numbered block.
pub(crate) fn key(node: u64, number: u64) -> BlockKey {
    let mut state = node << 56 ^ number;
    let mut key = [0; 32];
    for word in key.chunks_exact_mut(8) {
        // splitmix64, so that keys look as digests do.
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = state;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        word.copy_from_slice(&(mixed ^ (mixed >> 31)).to_le_bytes());
    }
    BlockKey(key)
}

/// What one node claims to hold: its blocks `0..told`, and probes.
#[derive(Debug)]
pub(crate) struct NumberedSource {
    node: u64,
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Debug)]
struct State {
    /// Blocks whose changes were taken.
    told: u64,
    /// Blocks that are there.
    until: u64,
    /// Probes that were added, and how many of them were taken.
    probes: u64,
    probes_told: u64,
    pace: Option<Pace>,
}

/// Blocks come at a rate.
#[derive(Clone, Copy, Debug)]
struct Pace {
    since: Instant,
    from: u64,
    per_s: f64,
    until: u64,
}

impl NumberedSource {
    pub(crate) fn new(node: u64) -> Self {
        let state = State { told: 0, until: 0, probes: 0, probes_told: 0, pace: None };
        Self { node, state: Mutex::new(state), changed: Notify::new() }
    }

    /// Holds blocks that were reported before it started.
    pub(crate) fn hold(&self, count: u64) {
        let mut state = self.lock();
        (state.told, state.until) = (count, count);
    }

    /// Adds blocks all at once.
    pub(crate) fn add(&self, count: u64) {
        self.lock().until += count;
        self.changed.notify_one();
    }

    /// Adds blocks at a rate, until there are so many more.
    pub(crate) fn add_at(&self, per_s: f64, count: u64) {
        let mut state = self.lock();
        let from = state.until;
        state.pace = Some(Pace { since: Instant::now(), from, per_s, until: from + count });
        drop(state);
        self.changed.notify_one();
    }

    /// True while blocks are still to come.
    pub(crate) fn is_busy(&self) -> bool {
        let state = self.lock();
        state.pace.is_some() || state.told < state.until
    }

    /// Adds one block of its own, and says its key.
    pub(crate) fn probe(&self) -> BlockKey {
        let mut state = self.lock();
        state.probes += 1;
        let key = key(self.node, PROBES_FROM + state.probes - 1);
        drop(state);
        self.changed.notify_one();
        key
    }

    fn delta(&self, number: u64) -> BlockDelta {
        let id = BlockId { namespace: NamespaceId::DEFAULT, key: key(self.node, number) };
        BlockDelta { id, tier: Tier::Nvme, added: true, payload_len: PAYLOAD_BYTES }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Lets come what is due by now.
    fn advance(&mut self) {
        if let Some(pace) = self.pace {
            let due = pace.from + (pace.since.elapsed().as_secs_f64() * pace.per_s) as u64;
            self.until = due.min(pace.until);
            if self.until == pace.until {
                self.pace = None;
            }
        }
    }
}

impl BlockSource for NumberedSource {
    fn for_each_held(&self, visit: &mut dyn FnMut(BlockDelta) -> ControlFlow<()>) -> ControlFlow<()> {
        let (until, probes) = {
            let state = self.lock();
            (state.until, state.probes)
        };
        let probes = PROBES_FROM..PROBES_FROM + probes;
        (0..until).chain(probes).try_for_each(|number| visit(self.delta(number)))
    }

    fn take_deltas(&self, max: usize, out: &mut Vec<BlockDelta>) -> DeltaStatus {
        let (blocks, probes) = {
            let mut state = self.lock();
            state.advance();
            let probes = state.probes_told..state.probes;
            let blocks = state.told..state.until.min(state.told + max as u64 - probes.end + probes.start);
            (state.told, state.probes_told) = (blocks.end, probes.end);
            (blocks, probes)
        };
        let probes = PROBES_FROM + probes.start..PROBES_FROM + probes.end;
        out.extend(probes.chain(blocks).map(|number| self.delta(number)));
        if self.is_busy() { DeltaStatus::More } else { DeltaStatus::Complete }
    }

    fn ready<'a>(&'a self) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async {
            loop {
                let is_paced = {
                    let mut state = self.lock();
                    state.advance();
                    if state.told < state.until || state.probes_told < state.probes {
                        return;
                    }
                    state.pace.is_some()
                };
                if is_paced {
                    // A probe does not wait for the pace.
                    let _ = tokio::time::timeout(PACE_PAUSE, self.changed.notified()).await;
                } else {
                    self.changed.notified().await;
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(source: &NumberedSource, max: usize) -> Vec<BlockKey> {
        let mut deltas = Vec::new();
        source.take_deltas(max, &mut deltas);
        deltas.into_iter().map(|delta| delta.id.key).collect()
    }

    #[test]
    fn every_block_is_told_once_and_probes_at_once() {
        let source = NumberedSource::new(2);
        source.add(5);
        assert_eq!(taken(&source, 3), [0, 1, 2].map(|number| key(2, number)));
        let probe = source.probe();
        assert_eq!(taken(&source, 2), [probe, key(2, 3)]);
        assert_eq!(taken(&source, 9), [key(2, 4)]);
        assert!(!source.is_busy() && taken(&source, 9).is_empty());
        let mut held = 0;
        let _ = source.for_each_held(&mut |_| {
            held += 1;
            ControlFlow::Continue(())
        });
        assert_eq!(held, 6);
    }

    #[test]
    fn a_pace_is_kept_and_ends() {
        let source = NumberedSource::new(1);
        source.add_at(1_000.0, 20);
        let began = Instant::now();
        let mut count = 0;
        while source.is_busy() {
            count += taken(&source, 100).len();
            std::thread::sleep(PACE_PAUSE);
        }
        assert_eq!(count + taken(&source, 100).len(), 20);
        assert!(began.elapsed() >= Duration::from_millis(19));
    }
}
