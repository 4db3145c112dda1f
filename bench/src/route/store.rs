//! Hearth as the tier beneath the fleet: which blocks it has, and how fast they come.
//!
//! One pool for all workers. What was computed is there as soon as it is written, and writing takes nothing of what
//! reading has: a prompt is read many times. Whoever reads shares the bandwidth of all with the others, and has a link
//! of its own.

use super::arrivals::{Block, ns, seconds};
use super::cache::{Cache, Keep};
use super::hardware::Hardware;

/// A way for bytes that serves one transfer after the other.
#[derive(Clone, Copy, Debug)]
pub(super) struct Link {
    latency_s: f64,
    bytes_per_second: f64,
    free_ns: u64,
}

impl Link {
    pub(super) fn new([latency_s, bytes_per_second]: [f64; 2]) -> Self {
        Self { latency_s, bytes_per_second, free_ns: 0 }
    }

    /// How long the next transfer waits.
    pub(super) fn wait_s(&self, now_ns: u64) -> f64 {
        seconds(self.free_ns.saturating_sub(now_ns))
    }

    pub(super) fn latency_s(&self) -> f64 {
        self.latency_s
    }

    pub(super) fn bytes_per_second(&self) -> f64 {
        self.bytes_per_second
    }

    /// Bytes that are still to come.
    pub(super) fn in_flight_bytes(&self, now_ns: u64) -> u64 {
        (self.wait_s(now_ns) * self.bytes_per_second) as u64
    }

    /// Begins a transfer and tells when it will be over.
    pub(super) fn take(&mut self, bytes: u64, now_ns: u64) -> u64 {
        self.free_ns = self.free_ns.max(now_ns) + ns(bytes as f64 / self.bytes_per_second);
        self.free_ns + ns(self.latency_s)
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Store {
    cache: Cache,
    all: Link,
}

impl Store {
    /// An empty one beneath so many workers.
    pub(super) fn new(hardware: &Hardware, workers: usize, block_tokens: u32, blocks: usize) -> Self {
        let capacity = hardware.store_tokens * workers as u64 / u64::from(block_tokens);
        let bandwidth = hardware.store_bytes_per_second * workers as f64;
        // Never more room than there are blocks.
        Self { cache: Cache::new((capacity as usize).min(blocks), blocks), all: Link::new([0.0, bandwidth]) }
    }

    pub(super) fn cache(&self) -> &Cache {
        &self.cache
    }

    /// Where the bandwidth of all is shared.
    pub(super) fn all(&mut self) -> &mut Link {
        &mut self.all
    }

    /// Takes in what was computed of a chain, from some block on, and notes that all of it was used. Tells what is new
    /// and what went.
    pub(super) fn put(&mut self, chain: &[Block], from: usize, keep: Keep, now_ns: u64) -> [Vec<Block>; 2] {
        put(&mut self.cache, chain, from, keep, now_ns)
    }
}

/// Puts the blocks of a chain from some block on into a memory, and notes that those before it were used. Tells what is
/// new, in the order of the chain, and what went.
pub(super) fn put(
    cache: &mut Cache,
    chain: &[Block],
    from: usize,
    keep: Keep,
    now_ns: u64,
) -> [Vec<Block>; 2] {
    let mut new = Vec::new();
    // No more of a chain than fits, so that it does not push itself out.
    let chain = &chain[..chain.len().min(cache.capacity())];
    let from = from.min(chain.len());
    for block in chain[from..].iter().rev() {
        if cache.put(*block, keep, now_ns) {
            new.push(*block);
        }
    }
    for block in chain[..from].iter().rev() {
        cache.touch(*block, keep);
    }
    new.reverse();
    let gone = cache.take_gone();
    // A block that came and went again is not told of.
    new.retain(|block| cache.has(*block));
    [new, gone]
}
