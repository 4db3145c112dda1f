//! What a worker loads of a chain, and from where on it is faster to compute.
//!
//! Loading ends before computing begins: an engine that overlaps them is faster than what is planned here, and by more
//! the more it loads. The blocks that are loaded are the first behind the resident ones, and the places they come from
//! are used in their order. What is left to choose is the *cut*: the block from which on all are computed.
//!
//! The best cut is where a place's blocks end, or at the resident ones. Between two such points each block more takes
//! the same time to load, and saves `b * B + d * B * B * (k + 1/2)` seconds of computing as block k of B tokens: later
//! blocks save more, since attention looks at all tokens before them. So if any block of a place is worth loading, the
//! last one is. A few cuts are looked at, whatever the length of the chain.

use hearth_proto::Tier;
use hearth_proto::limits::LOAD_SOURCES_MAX;
use smallvec::SmallVec;

use super::held::{Held, Origin};
use super::prefill::PrefillCurve;
use super::request::Prompt;
use super::work::PrefillWork;

/// What one worker does about a prompt: it has the first blocks, loads those behind them, and computes the rest.
#[derive(Clone, Debug, PartialEq)]
pub struct LoadPlan {
    /// Blocks that are there already.
    pub resident_blocks: u32,
    /// What is loaded behind those, in the order of the chain.
    pub loads: SmallVec<[LoadStep; LOAD_SOURCES_MAX]>,
    /// The block from which on all are computed, counted from zero.
    pub compute_from_block: u32,
    /// Blocks from there on that could have been loaded, but are computed sooner.
    pub not_worth_loading_blocks: u32,
    /// Tokens that are computed; at least one.
    pub new_tokens: u32,
    /// Tokens before those.
    pub cached_tokens: u32,
    /// What loading takes, in seconds.
    pub load_s: f64,
    /// What computing takes after that, in seconds.
    pub compute_s: f64,
}

/// Blocks that are loaded from one place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadStep {
    /// The tier in which they lie there.
    pub tier: Tier,
    /// Where that is.
    pub origin: Origin,
    /// How many.
    pub blocks: u32,
}

/// Where computing begins, and what it takes to get there and to the end.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Cut {
    pub(super) block: u32,
    pub(super) load_s: f64,
    pub(super) compute_s: f64,
}

impl LoadPlan {
    /// The fastest way for a worker on which prefills take as long as the curve says.
    pub fn fastest(prompt: Prompt, held: &Held, curve: &PrefillCurve) -> Self {
        Self::at(prompt, held, Cut::fastest(prompt, held, curve))
    }

    /// What is to be computed.
    pub fn work(&self) -> PrefillWork {
        PrefillWork::of(self.new_tokens, self.cached_tokens)
    }

    /// Blocks that are loaded, from all places together.
    pub fn loaded_blocks(&self) -> u32 {
        self.compute_from_block - self.resident_blocks
    }

    /// The plan with this cut.
    pub(super) fn at(prompt: Prompt, held: &Held, cut: Cut) -> Self {
        let useful = prompt.useful_blocks();
        let resident_blocks = held.resident_blocks().min(useful);
        let mut loads = SmallVec::new();
        let mut until = resident_blocks;
        for source in held.sources() {
            let end = source.prefix_blocks.min(cut.block);
            if end > until {
                loads.push(LoadStep { tier: source.tier, origin: source.origin, blocks: end - until });
                until = end;
            }
        }
        let stored = held.sources().iter().map(|source| source.prefix_blocks.min(useful)).max();
        let cached_tokens = prompt.tokens_of(cut.block);
        Self {
            resident_blocks,
            loads,
            compute_from_block: cut.block,
            not_worth_loading_blocks: stored.unwrap_or(0).saturating_sub(cut.block),
            new_tokens: prompt.tokens() - cached_tokens,
            cached_tokens,
            load_s: cut.load_s,
            compute_s: cut.compute_s,
        }
    }
}

impl Cut {
    /// The one after which the prompt is done first; of equal ones that which loads least.
    #[inline]
    pub(super) fn fastest(prompt: Prompt, held: &Held, curve: &PrefillCurve) -> Self {
        let useful = prompt.useful_blocks();
        let at = |block, load_s| {
            let cached = prompt.tokens_of(block);
            let compute_s = curve.seconds(PrefillWork::of(prompt.tokens() - cached, cached));
            Self { block, load_s, compute_s }
        };
        let mut best = at(held.resident_blocks().min(useful), 0.0);
        let (mut until, mut load_s) = (best.block, 0.0);
        for source in held.sources() {
            let end = source.prefix_blocks.min(useful);
            if end <= until {
                continue;
            }
            load_s += source.speed.seconds(u64::from(end - until) * prompt.block_bytes());
            until = end;
            let cut = at(end, load_s);
            if cut.seconds() < best.seconds() {
                best = cut;
            }
        }
        best
    }

    #[inline]
    pub(super) fn seconds(self) -> f64 {
        self.load_s + self.compute_s
    }
}
