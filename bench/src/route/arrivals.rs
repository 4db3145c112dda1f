//! A workload as a fleet sees it: sessions of requests, each with a chain of numbered blocks and a time.

use std::ops::Range;

use anyhow::ensure;
use hearth_replay::workload::{Session, Tip, Workload};
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

/// A block; zero is none.
pub(super) type Block = u32;

/// One request.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub(super) session: u32,
    /// Its session is tagged: somebody waits for its first tokens.
    pub(super) is_tagged: bool,
    /// The last block of its prompt.
    tip: Block,
    pub(super) input_tokens: u32,
    pub(super) output_tokens: u32,
    /// When it is sent: after the workload began, or after the answer before it.
    pub(super) after_ns: u64,
}

/// When requests are sent.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pace {
    /// When the source says, at so many times its speed.
    Open { speed: f64 },
    /// Some time after the answer before it, and so many sessions at a time.
    Closed { sessions: usize },
}

/// All requests, session by session, and the tree of their blocks.
#[derive(Clone, Debug)]
pub(super) struct Arrivals {
    pub(super) pace: Pace,
    pub(super) block_tokens: u32,
    pub(super) jobs: Vec<Job>,
    /// The requests of each session, in the order in which sessions are let in.
    pub(super) sessions: Vec<Range<u32>>,
    /// Requests that are larger than a worker's memory.
    pub(super) left_out: usize,
    parents: Vec<Block>,
    hashes: Vec<u64>,
}

/// How a workload is sent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Sent {
    /// Speed of a workload that says when its sessions begin.
    pub(super) speed: f64,
    /// Sessions at a time of one that does not.
    pub(super) sessions: usize,
    /// The longest that a session thinks, in seconds.
    pub(super) think_max_s: f64,
    /// Share of sessions that are tagged.
    pub(super) tagged: f64,
    /// Tokens, prompt and answer, that a worker has room for.
    pub(super) tokens_max: u64,
    pub(super) seed: u64,
}

/// What answering took where a source tells only when requests were sent: seconds, and seconds a token.
const ANSWER_S: [f64; 2] = [2.0, 0.015];

impl Arrivals {
    pub(super) fn new(workload: &Workload, sent: Sent) -> anyhow::Result<Self> {
        let is_open = workload.sessions.iter().all(|session| session.start.is_some());
        let pace =
            if is_open { Pace::Open { speed: sent.speed } } else { Pace::Closed { sessions: sent.sessions } };
        let blocks = workload.tree.block_count() + 1;
        let mut arrivals = Self {
            pace,
            block_tokens: workload.block_tokens,
            jobs: Vec::with_capacity(workload.request_count()),
            sessions: Vec::with_capacity(workload.sessions.len()),
            left_out: 0,
            parents: vec![0; blocks],
            hashes: vec![0; blocks],
        };
        let mut order: Vec<&Session> = workload.sessions.iter().collect();
        let mut rng = ChaCha12Rng::seed_from_u64(sent.seed);
        if !is_open {
            // Traces are sorted by who recorded them.
            order.shuffle(&mut rng);
        }
        for session in order {
            let is_tagged = rng.random_bool(sent.tagged);
            arrivals.add(workload, session, is_tagged, sent);
        }
        ensure!(!arrivals.jobs.is_empty(), "{} has no request that fits a worker", workload.name);
        Ok(arrivals)
    }

    fn add(&mut self, workload: &Workload, session: &Session, is_tagged: bool, sent: Sent) {
        let first = self.jobs.len() as u32;
        let mut answered_s = 0.0;
        for request in &session.requests {
            let at_s = request.at.as_secs_f64();
            let after_s = match (self.pace, session.start) {
                (Pace::Open { speed }, Some(start)) => (start.as_secs_f64() + at_s) / speed,
                _ => request.think.map_or(at_s - answered_s, |think| think.as_secs_f64()),
            };
            answered_s = at_s + ANSWER_S[0] + ANSWER_S[1] * request.output_tokens as f64;
            let (input, output) = (request.input_tokens.max(1), request.output_tokens.max(1));
            if input + output > sent.tokens_max {
                self.left_out += 1;
                continue;
            }
            let is_first = self.jobs.len() as u32 == first;
            let think_s = if is_first { 0.0 } else { after_s.clamp(0.0, sent.think_max_s) };
            let is_open = matches!(self.pace, Pace::Open { .. });
            self.jobs.push(Job {
                session: self.sessions.len() as u32,
                is_tagged,
                tip: request.prompt.index() as u32,
                input_tokens: input as u32,
                output_tokens: output as u32,
                after_ns: ns(if is_open { after_s } else { think_s }),
            });
            self.link(workload, request.prompt);
        }
        let jobs = first..self.jobs.len() as u32;
        if !jobs.is_empty() {
            self.sessions.push(jobs);
        }
    }

    fn link(&mut self, workload: &Workload, mut tip: Tip) {
        while tip != Tip::ROOT && self.hashes[tip.index()] == 0 {
            let parent = workload.tree.parent(tip);
            self.parents[tip.index()] = parent.index() as u32;
            let hash = workload.tree.prefix_hash(tip);
            let first = hash.as_bytes().first_chunk().copied().unwrap_or_default();
            self.hashes[tip.index()] = u64::from_le_bytes(first).max(1);
            tip = parent;
        }
    }

    /// Numbers of blocks are below this.
    pub(super) fn blocks_end(&self) -> usize {
        self.parents.len()
    }

    /// The full blocks of a prompt, first block first.
    pub(super) fn chain(&self, job: &Job) -> Vec<Block> {
        let mut chain = Vec::with_capacity((job.input_tokens / self.block_tokens) as usize);
        let mut block = job.tip;
        while block != 0 {
            chain.push(block);
            block = self.parents[block as usize];
        }
        chain.reverse();
        // A source may number the last block although it is not full.
        chain.truncate((job.input_tokens / self.block_tokens) as usize);
        chain
    }

    /// What engines call blocks.
    pub(super) fn hashes(&self, blocks: &[Block]) -> Vec<u64> {
        blocks.iter().map(|block| self.hashes[*block as usize]).collect()
    }

    /// What an engine calls the block before this one.
    pub(super) fn hash_before(&self, block: Block) -> Option<u64> {
        Some(self.hashes[self.parents[block as usize] as usize]).filter(|hash| *hash != 0)
    }

    /// Whether a block follows another in a chain.
    pub(super) fn follows(&self, block: Block, before: Block) -> bool {
        self.parents[block as usize] == before
    }
}

/// Nanoseconds of so many seconds.
pub(super) fn ns(seconds: f64) -> u64 {
    (seconds * 1e9).round() as u64
}

/// Seconds of so many nanoseconds.
pub(super) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}
