//! The routers that ours is compared with.

use super::super::arrivals::Arrivals;
use super::super::world::{Place, Said};
use super::{Ask, Router};
use crate::route::blocks::Blocks;

/// One after the other.
#[derive(Debug, Default)]
pub(super) struct RoundRobin(usize);

impl Router for RoundRobin {
    fn choose(&mut self, ask: &Ask<'_>, _: &Arrivals) -> usize {
        let worker = self.0 % ask.queued_tokens.len();
        self.0 += 1;
        worker
    }
}

/// The one with the fewest tokens to compute; of equal ones the next in turn.
#[derive(Debug)]
pub(super) struct LeastLoaded;

impl Router for LeastLoaded {
    fn choose(&mut self, ask: &Ask<'_>, _: &Arrivals) -> usize {
        least(ask, 0..ask.queued_tokens.len())
    }
}

/// The one that the session's number leads to, whatever it has to do.
#[derive(Debug)]
pub(super) struct Sticky;

impl Router for Sticky {
    fn choose(&mut self, ask: &Ask<'_>, _: &Arrivals) -> usize {
        let race = |worker: &usize| mixed(mixed(u64::from(ask.job.session)) ^ mixed(!(*worker as u64)));
        (0..ask.queued_tokens.len()).max_by_key(race).unwrap_or(0)
    }
}

/// The one with most of the chain in its accelerator's memory; of equal ones that with the fewest tokens to compute.
/// It knows what engines hold from the same index as ours.
pub(super) struct Overlap {
    blocks: Blocks,
}

impl Overlap {
    pub(super) fn new(workers: usize) -> Self {
        Self { blocks: Blocks::new(workers) }
    }
}

impl Router for Overlap {
    fn choose(&mut self, ask: &Ask<'_>, arrivals: &Arrivals) -> usize {
        self.blocks.find(&arrivals.hashes(ask.chain));
        let workers = 0..ask.queued_tokens.len();
        let held = |worker: usize| self.blocks.of(Place::Gpu(worker));
        let most = workers.clone().map(held).max().unwrap_or(0);
        least(ask, workers.filter(|worker| held(*worker) == most))
    }

    fn hear(&mut self, said: &Said, arrivals: &Arrivals, _: u64) {
        self.blocks.hear(said, arrivals);
    }
}

/// The one of these with the fewest tokens to compute. Which of equal ones comes first differs from request to request.
fn least(ask: &Ask<'_>, workers: impl Iterator<Item = usize>) -> usize {
    let count = ask.queued_tokens.len();
    let turned = |worker: usize| (worker + ask.number as usize) % count;
    workers.min_by_key(|worker| (ask.queued_tokens[*worker], turned(*worker))).unwrap_or(0)
}

/// A number in which each bit depends on every bit of this one.
///
/// *Source*: the finalizer of SplitMix64, G. Steele et al., Fast splittable pseudorandom number generators, 2014.
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}
