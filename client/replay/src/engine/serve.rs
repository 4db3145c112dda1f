//! Serves one request after another on behalf of the engines of one session.

use std::future::Future;
use std::ops::Range;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use hearth_proto::limits::{CHAIN_BLOCKS_MAX, DEADLINE_GRACE_MS};
use hearth_proto::{BlockKey, Retention, Tier};

use super::meter::{BusyClock, Meter};
use super::store::{
    BlockStore, Held, PutBlock, PutOutcome, ReadBlock, StoreError, StoreErrorKind, WrittenBlock,
};
use super::{Shared, lock};
use crate::content;
use crate::workload::{Request, Tip};

/// Serves requests one at a time; keeps its buffers between them.
pub(super) struct Server<S> {
    shared: Arc<Shared<S>>,
    tips: Vec<Tip>,
    seen: Vec<Seen>,
    tally: Tally,
    buffer: BytesMut,
}

/// What became of one block of a get.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Seen {
    Never,
    Missing,
    Whole,
}

/// What a sink notes down while a call runs, where no lock may be held.
#[derive(Default)]
struct Tally {
    read: Vec<(Duration, u64, Option<Tier>)>,
    written: Vec<(Duration, PutOutcome)>,
    wrong: Vec<String>,
    errors: Vec<StoreErrorKind>,
    lost: u64,
    verify_time: Duration,
}

impl Tally {
    /// Moves what was noted into the meter of the worker.
    fn pour(&mut self, meter: &mut Meter, elapsed: Duration, block_bytes: u64) {
        let (read_before, written_before) = (meter.bytes_read, meter.bytes_written);
        for (latency, bytes, tier) in self.read.drain(..) {
            meter.read(bytes, tier);
            meter.get_block.record(latency);
        }
        for (latency, outcome) in self.written.drain(..) {
            meter.written(block_bytes, outcome);
            meter.put_block.record(latency);
        }
        self.wrong.drain(..).for_each(|example| meter.wrong(example));
        self.errors.drain(..).for_each(|kind| meter.error(kind));
        meter.lost_blocks += std::mem::take(&mut self.lost);
        meter.verify_time += std::mem::take(&mut self.verify_time);
        let (read, written) = (meter.bytes_read - read_before, meter.bytes_written - written_before);
        let second = meter.second(elapsed);
        second.bytes_read += read;
        second.bytes_written += written;
    }
}

/// Keeps a [`BusyClock`] running for as long as it lives.
struct Busy<'a>(&'a Mutex<BusyClock>);

impl<'a> Busy<'a> {
    fn new(clock: &'a Mutex<BusyClock>) -> Self {
        lock(clock).enter(Instant::now());
        Self(clock)
    }
}

impl Drop for Busy<'_> {
    fn drop(&mut self) {
        lock(self.0).leave(Instant::now());
    }
}

impl<S: BlockStore> Server<S> {
    pub(super) fn new(shared: Arc<Shared<S>>) -> Self {
        Self { shared, tips: Vec::new(), seen: Vec::new(), tally: Tally::default(), buffer: BytesMut::new() }
    }

    /// Serves `request`, which should have been sent at `due`, on the store of `worker`.
    pub(super) async fn serve(&mut self, worker: usize, request: &Request, due: Instant) {
        let shared = self.shared.clone();
        let tree = &shared.workload.tree;
        let prompt_blocks = tree.depth(request.prompt);
        tree.chain_into(request.output, &mut self.tips);
        let keys: Vec<BlockKey> = self.tips.iter().map(|tip| shared.keys[tip.index()]).collect();
        let bound = lock(&shared.oracle).observe(tree, request.prompt, request.output);
        let made = lock(&shared.made).held_prefix(tree, request.prompt);

        let parts = self.lookup(worker, &keys[..prompt_blocks], due).await;
        let hits = self.get(worker, &keys, &parts).await;
        drop(parts);
        self.put(worker, &keys, hits, request).await;
        lock(&shared.made).observe(tree, request.prompt, request.output);
        // Part of the bound that nobody had finished making when this request was sent.
        let raced = bound.saturating_sub(made.max(hits));
        self.record(worker, request, due, [prompt_blocks, hits, bound, raced]);
    }

    /// What the store says it holds of the chain, a part for each call it takes to ask. Latency
    /// counts from when the request should have been sent.
    async fn lookup(&mut self, worker: usize, chain: &[BlockKey], due: Instant) -> Vec<Held<S::Found>> {
        let shared = self.shared.clone();
        let mut parts = Vec::new();
        for part in chain.chunks(CHAIN_BLOCKS_MAX) {
            let call = shared.stores[worker].lookup(part, shared.settings.deadline);
            let held = match self.in_time(call).await {
                Ok(held) if held.blocks <= part.len() => held,
                Ok(_) => {
                    self.tally.errors.push(StoreErrorKind::Contract);
                    break;
                }
                Err(kind) => {
                    self.tally.errors.push(kind);
                    break;
                }
            };
            let whole = held.blocks == part.len();
            parts.push(held);
            if !whole {
                break;
            }
        }
        let mut meter = lock(&shared.meters[worker]);
        meter.lookup.record(due.elapsed());
        self.pour(&mut meter);
        parts
    }

    /// Reads and checks what `parts` hold of `keys`; tells how many, from the start, arrived whole.
    async fn get(&mut self, worker: usize, keys: &[BlockKey], parts: &[Held<S::Found>]) -> usize {
        let shared = self.shared.clone();
        let batch = shared.settings.batch_blocks();
        let began = Instant::now();
        let mut hits = 0;
        'parts: for (part, chain) in parts.iter().zip(keys.chunks(CHAIN_BLOCKS_MAX)) {
            for first in (0..part.blocks).step_by(batch) {
                let range = first..part.blocks.min(first + batch);
                let asked = range.len();
                self.get_part(worker, &part.found, range.clone(), &chain[range]).await;
                let contiguous = self.seen.iter().take_while(|seen| **seen == Seen::Whole).count();
                hits += contiguous;
                // A block after a gap is of no use to an engine: it computes from the gap on.
                if contiguous < asked {
                    break 'parts;
                }
            }
        }
        if parts.iter().any(|part| part.blocks > 0) {
            lock(&shared.meters[worker]).get_chain.record(began.elapsed());
        }
        hits
    }

    async fn get_part(&mut self, worker: usize, found: &S::Found, range: Range<usize>, part: &[BlockKey]) {
        let shared = self.shared.clone();
        let block_bytes = shared.settings.block_bytes;
        let mut seen = std::mem::take(&mut self.seen);
        let mut tally = std::mem::take(&mut self.tally);
        seen.clear();
        seen.resize(part.len(), Seen::Never);
        let mut sink = |block: ReadBlock<'_>| {
            let Some(slot) = seen.get_mut(block.index).filter(|slot| **slot == Seen::Never) else {
                tally.errors.push(StoreErrorKind::Contract);
                return;
            };
            *slot = Seen::Missing;
            tally.errors.extend(block.failure);
            let Some(bytes) = block.bytes else { return };
            let began = Instant::now();
            match content::verify(&part[block.index], block_bytes, bytes) {
                Ok(()) => *slot = Seen::Whole,
                Err(wrong) => tally.wrong.push(wrong.to_string()),
            }
            tally.verify_time += began.elapsed();
            tally.read.push((block.latency, bytes.len() as u64, block.tier));
        };
        let busy = Busy::new(&shared.get_clock);
        let call = shared.stores[worker].get(found, range, part, shared.settings.deadline, &mut sink);
        let answer = self.in_time(call).await;
        drop(busy);
        if let Err(kind) = answer {
            tally.errors.push(kind);
        }
        tally.lost += seen.iter().filter(|seen| **seen != Seen::Whole).count() as u64;
        self.seen = seen;
        self.tally = tally;
        self.pour(&mut lock(&shared.meters[worker]));
    }

    /// Makes the blocks of the chain from `hits` on, as a prefill and a decode would, and puts them.
    async fn put(&mut self, worker: usize, keys: &[BlockKey], hits: usize, request: &Request) {
        let shared = self.shared.clone();
        let mut latency = Duration::ZERO;
        let mut first = hits;
        for part in keys[hits..].chunks(shared.settings.batch_blocks()) {
            let (blocks, bytes) = self.compute(keys, first, part.len(), request);
            first += part.len();
            let mut tally = std::mem::take(&mut self.tally);
            let mut told = vec![false; part.len()];
            let mut sink = |block: WrittenBlock| {
                match told.get_mut(block.index).filter(|told| !**told) {
                    Some(told) => {
                        *told = true;
                        tally.written.push((block.latency, block.outcome));
                    }
                    None => tally.errors.push(StoreErrorKind::Contract),
                };
            };
            let began = Instant::now();
            let busy = Busy::new(&shared.put_clock);
            let call = shared.stores[worker].put(&blocks, shared.settings.deadline, &mut sink);
            let answer = self.in_time(call).await;
            drop(busy);
            latency += began.elapsed();
            if let Err(kind) = answer {
                tally.errors.push(kind);
            }
            self.tally = tally;
            drop(blocks);
            // A store may still hold the bytes; then the next part gets a buffer of its own.
            self.buffer = bytes.try_into_mut().unwrap_or_default();
            self.pour(&mut lock(&shared.meters[worker]));
        }
        if hits < keys.len() {
            lock(&shared.meters[worker]).put_chain.record(latency);
        }
    }

    /// The content of `count` blocks from `first` on, and the buffer that holds it.
    fn compute(
        &mut self,
        keys: &[BlockKey],
        first: usize,
        count: usize,
        request: &Request,
    ) -> (Vec<PutBlock>, Bytes) {
        let block_bytes = self.shared.settings.block_bytes;
        let mut buffer = std::mem::take(&mut self.buffer);
        if buffer.len() < count * block_bytes {
            buffer.resize(count * block_bytes, 0);
        }
        for (key, bytes) in keys[first..first + count].iter().zip(buffer.chunks_exact_mut(block_bytes)) {
            content::fill(key, bytes);
        }
        let bytes = buffer.freeze();
        let block = |index: usize| PutBlock {
            key: keys[first + index],
            parent: (first + index).checked_sub(1).map(|parent| keys[parent]),
            depth: first + index,
            bytes: bytes.slice(index * block_bytes..(index + 1) * block_bytes),
            retention: Retention { priority: request.priority_at(first + index), duration_ms: None },
        };
        ((0..count).map(block).collect(), bytes)
    }

    /// Waits for `call` until its deadline and the grace are over, then gives it up.
    async fn in_time<T>(
        &self,
        call: impl Future<Output = Result<T, StoreError>>,
    ) -> Result<T, StoreErrorKind> {
        let patience = self.shared.settings.deadline + Duration::from_millis(DEADLINE_GRACE_MS);
        match tokio::time::timeout(patience, call).await {
            Ok(answer) => answer.map_err(|error| error.kind),
            Err(_) => Err(StoreErrorKind::Overdue),
        }
    }

    fn pour(&mut self, meter: &mut Meter) {
        let done = &self.shared.done;
        done.bytes.fetch_add(self.tally.read.iter().map(|read| read.1).sum(), Ordering::Relaxed);
        done.wrong.fetch_add(self.tally.wrong.len() as u64, Ordering::Relaxed);
        let block_bytes = self.shared.settings.block_bytes as u64;
        self.tally.pour(meter, self.shared.started.elapsed(), block_bytes);
    }

    fn record(
        &self,
        worker: usize,
        request: &Request,
        due: Instant,
        [blocks, hits, bound, raced]: [usize; 4],
    ) {
        let block_tokens = u64::from(self.shared.workload.block_tokens);
        let [blocks, hits, bound, raced] = [blocks, hits, bound, raced].map(|count| count as u64);
        let tokens = |blocks: u64| (blocks * block_tokens).min(request.input_tokens);
        let elapsed = self.shared.started.elapsed();
        let mut meter = lock(&self.shared.meters[worker]);
        meter.requests += 1;
        meter.blocks += blocks;
        meter.hit_blocks += hits;
        meter.bound_blocks += bound;
        meter.raced_blocks += raced;
        meter.input_tokens += request.input_tokens;
        meter.hit_tokens += tokens(hits);
        meter.bound_tokens += tokens(bound);
        meter.request.record(due.elapsed());
        let second = meter.second(elapsed);
        second.requests += 1;
        second.blocks += blocks;
        second.hit_blocks += hits;
        second.bound_blocks += bound;
        drop(meter);
        let done = &self.shared.done;
        done.requests.fetch_add(1, Ordering::Relaxed);
        done.blocks.fetch_add(blocks, Ordering::Relaxed);
        done.hit_blocks.fetch_add(hits, Ordering::Relaxed);
        done.bound_blocks.fetch_add(bound, Ordering::Relaxed);
    }
}
