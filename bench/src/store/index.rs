//! Part `index`: many small blocks, and what it takes to have them in the index: time to open, memory.
//!
//! A process that opens the full store is compared with one that opens an empty store of the same
//! capacity, so that what each needs whatever it holds does not count. The peer is foyer with the same
//! blocks, where it was built in.

use std::path::Path;

use anyhow::{Context, ensure};
use hearth_replay::{Figure, Goal};

use super::trial::{Engine, Opened, Trial};
use super::{PEER, peer};

/// The payload of a record of one sector: an index entry is not larger for a larger block.
pub(crate) const PAYLOAD_BYTES: usize = 3_968;
/// Blocks that are read back and compared after the open.
pub(crate) const SAMPLE: u64 = 20_000;
/// The record of such a block, and about what foyer makes of it: a value, its head, whole sectors.
const RECORD_BYTES: u64 = 4_096;
const EXTENT_BYTES: u64 = 128 << 20;
const ARENA_BYTES: u64 = 256 << 20;
const GOAL_BYTES: f64 = 96.0;

/// What was measured for one engine.
struct Indexed {
    empty: Opened,
    opened: Opened,
}

impl Indexed {
    fn bytes_per_block(&self) -> f64 {
        self.opened.memory_bytes.saturating_sub(self.empty.memory_bytes) as f64 / self.opened.blocks as f64
    }

    fn ns_per_block(&self) -> f64 {
        (self.opened.open_s - self.empty.open_s).max(0.0) * 1e9 / self.opened.blocks as f64
    }
}

/// Measures with `count` blocks in `dir`. Returns the figures and how many answers were wrong.
pub(crate) async fn measure(dir: &Path, count: u64) -> anyhow::Result<(Vec<Figure>, u64)> {
    let ours = indexed(Engine::Hearth, &dir.join("index"), count).await?;
    ensure!(ours.opened.blocks * 100 >= count * 99, "{} of {count} blocks are indexed", ours.opened.blocks);
    ensure!(ours.opened.lost == 0, "{} indexed blocks could not be read", ours.opened.lost);
    let theirs = match peer() {
        Some(engine) => Some(indexed(engine, &dir.join("index"), count).await?),
        None => None,
    };
    let figure = |name: &str, unit: &str, value: fn(&Indexed) -> f64| {
        let figure = Figure::new(name, unit, value(&ours));
        match &theirs {
            Some(theirs) => figure.with_peer(PEER, value(theirs)),
            None => figure.with_absent_peer(PEER, super::PEER_ABSENT),
        }
    };
    let counted = ours.opened.index_bytes.map(|bytes| bytes as f64 / ours.opened.blocks as f64);
    let figures = vec![
        figure("small blocks found after reopening", "blocks", |found| found.opened.blocks as f64),
        figure("open when empty", "ms", |found| found.empty.open_s * 1e3),
        figure("open with these blocks", "ms", |found| found.opened.open_s * 1e3),
        figure("the difference", "ns per block", Indexed::ns_per_block),
        figure("memory of the index", "bytes per block", Indexed::bytes_per_block)
            .with_goal(Goal::AtMost(GOAL_BYTES)),
        Figure::new("the same, as the store counts it", "bytes per block", counted)
            .with_goal(Goal::AtMost(GOAL_BYTES)),
    ];
    Ok((figures, ours.opened.wrong))
}

async fn indexed(engine: Engine, dir: &Path, count: u64) -> anyhow::Result<Indexed> {
    let disk_bytes = (count * RECORD_BYTES).next_multiple_of(EXTENT_BYTES);
    let trial = |name| Trial { engine, dir: dir.join(name), dram_bytes: ARENA_BYTES, disk_bytes };
    let (empty, full) = (trial("empty"), trial("full"));
    // The first open founds the store, the second finds it as it will be found when it is full.
    empty.open(0).await?;
    let nothing = empty.open(0).await?;
    std::fs::remove_dir_all(&empty.dir)?;
    eprintln!("index: storing {count} blocks of {PAYLOAD_BYTES} bytes in {engine:?}");
    full.fill(count).await?;
    let opened = full.open(count).await?;
    std::fs::remove_dir_all(dir).context("cannot remove the blocks")?;
    let found = Indexed { empty: nothing, opened };
    eprintln!(
        "index: {engine:?} opened {} blocks in {:.0} ms, {:.0} bytes for each",
        found.opened.blocks,
        found.opened.open_s * 1e3,
        found.bytes_per_block(),
    );
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_an_empty_store_needs_does_not_count() {
        let opened =
            |open_s, memory_bytes, blocks| Opened { open_s, memory_bytes, blocks, ..Opened::default() };
        let found = Indexed { empty: opened(0.5, 1_000, 0), opened: opened(1.5, 97_000, 1_000) };
        assert_eq!((found.bytes_per_block(), found.ns_per_block()), (96.0, 1e6));
        // An open that the machine held up says nothing of the blocks.
        let found = Indexed { empty: opened(2.0, 5_000, 0), opened: opened(1.5, 4_000, 1_000) };
        assert_eq!((found.bytes_per_block(), found.ns_per_block()), (0.0, 0.0));
    }
}
