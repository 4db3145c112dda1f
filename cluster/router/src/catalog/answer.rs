//! What comes of a query, in memory that is used again.

use std::sync::Arc;

use super::WorkerKey;
use super::roster::{Roster, Row};
use super::tiers::LEVELS;
use crate::index::Matches;

/// How much of a chain each worker of a pool holds. Whoever asks again and again keeps one: nothing is allocated for
/// a query as long as the workers stay the same and the chain is no longer than one before.
#[derive(Debug, Default)]
pub struct Answer {
    pub(super) roster: Option<Arc<Roster>>,
    pub(super) matches: Matches,
    /// The hashes of a chain that was not named by them.
    pub(super) chain: Vec<u64>,
    /// Bytes of one block's tokens.
    pub(super) bytes: Vec<u8>,
    /// Blocks that were asked for.
    pub(super) blocks: usize,
    block_size: u32,
}

/// Blocks of a chain that one worker holds, from the start without a hole. Each number is at least the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct TierPrefix {
    /// Those in the accelerator's memory.
    pub gpu_blocks: u32,
    /// Those of which each is there or in the host's memory.
    pub host_blocks: u32,
    /// Those of which each is in any tier.
    pub disk_blocks: u32,
}

/// What one worker holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WorkerMatch<'a> {
    /// The worker.
    pub worker: &'a WorkerKey,
    /// Its part of the chain.
    pub prefix: TierPrefix,
}

/// What one instance holds, as Mooncake's RFC #1403 and Dynamo's indexer say it: for each level, what the best of its
/// ranks holds, in tokens.
#[derive(Clone, Copy, Debug)]
pub struct InstanceMatch<'a> {
    /// The instance.
    pub instance: &'a str,
    /// `longest_matched`: the most of all levels.
    pub longest_tokens: u64,
    /// `gpu`.
    pub gpu_tokens: u64,
    /// `cpu`: what is in the host's memory counts as well.
    pub host_tokens: u64,
    /// `disk`: what is in any tier counts.
    pub disk_tokens: u64,
    answer: &'a Answer,
    rows: &'a [Row],
}

impl Answer {
    /// One that says nothing yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Blocks that were asked for.
    pub fn blocks(&self) -> usize {
        self.blocks
    }

    /// Tokens of one block.
    pub fn block_size(&self) -> u32 {
        self.block_size
    }

    /// All workers of the pool in the order of their keys, those that hold nothing as well.
    pub fn workers(&self) -> impl Iterator<Item = WorkerMatch<'_>> {
        self.rows().iter().map(|row| WorkerMatch { worker: row.worker.key(), prefix: self.prefix(row) })
    }

    /// All instances of the pool in the order of their names.
    pub fn instances(&self) -> impl Iterator<Item = InstanceMatch<'_>> {
        let of_one = |a: &Row, b: &Row| a.worker.key().instance() == b.worker.key().instance();
        self.rows().chunk_by(of_one).map(|rows| self.instance(rows))
    }

    pub(super) fn reset(&mut self, block_size: u32) {
        self.blocks = 0;
        self.block_size = block_size;
    }

    pub(super) fn set_roster(&mut self, roster: Arc<Roster>) {
        self.matches = Matches::new(roster.members_end());
        self.roster = Some(roster);
    }

    fn rows(&self) -> &[Row] {
        self.roster.as_deref().map(Roster::rows).unwrap_or_default()
    }

    fn prefix(&self, row: &Row) -> TierPrefix {
        // A report that is being taken in may be seen in one level and not yet in the next.
        let mut most = 0;
        let blocks: [u32; LEVELS] = std::array::from_fn(|level| {
            most = most.max(row.levels.of(level).map_or(0, |member| self.matches.of(member)));
            most
        });
        let [gpu_blocks, host_blocks, disk_blocks] = blocks;
        TierPrefix { gpu_blocks, host_blocks, disk_blocks }
    }

    fn tokens(&self, blocks: u32) -> u64 {
        u64::from(blocks) * u64::from(self.block_size)
    }

    fn instance<'a>(&'a self, rows: &'a [Row]) -> InstanceMatch<'a> {
        let best =
            rows.iter().map(|row| self.prefix(row)).fold(TierPrefix::default(), |best, prefix| TierPrefix {
                gpu_blocks: best.gpu_blocks.max(prefix.gpu_blocks),
                host_blocks: best.host_blocks.max(prefix.host_blocks),
                disk_blocks: best.disk_blocks.max(prefix.disk_blocks),
            });
        InstanceMatch {
            instance: rows.first().map_or("", |row| row.worker.key().instance()),
            longest_tokens: self.tokens(best.disk_blocks),
            gpu_tokens: self.tokens(best.gpu_blocks),
            host_tokens: self.tokens(best.host_blocks),
            disk_tokens: self.tokens(best.disk_blocks),
            answer: self,
            rows,
        }
    }
}

impl InstanceMatch<'_> {
    /// `dp`: what each rank has in the accelerator's memory, in tokens.
    pub fn dp(&self) -> impl Iterator<Item = (u32, u64)> {
        let Self { answer, rows, .. } = self;
        rows.iter().map(|row| (row.worker.key().dp_rank(), answer.tokens(answer.prefix(row).gpu_blocks)))
    }
}
