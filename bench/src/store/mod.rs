//! `store`: one node's tiers, each beside its limit or its peer in the same run.

mod blocks;
mod cost;
mod device;
mod fio;
#[cfg(feature = "foyer")]
mod foyer;
mod hearth;
mod host;
mod index;
mod picture;
mod trial;
mod versus;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, ensure};
use clap::{Args, ValueEnum};
use hearth_replay::{BenchReport, Figure, Goal};
use hearth_store::{Driver, DriverOptions};

pub(crate) use self::cost::Clock;
use self::cost::{Turn, median_pair};
use self::device::{Cell, Direction, Measured};
use self::fio::Fio;
use self::trial::Engine;
use crate::ReportArgs;

pub(crate) use self::trial::{TrialArgs, run as run_trial};

/// Share of fio's reads that gets must reach.
const GET_GOAL: f64 = 0.95;
/// Share of fio's writes that durable puts must reach.
const PUT_GOAL: f64 = 0.9;
const PEER: &str = "foyer";
const PEER_ABSENT: &str = "built without it: cargo build -p hearth-bench --features foyer";
/// Disk that the smallest sensible run needs.
const SIZE_MIN: u64 = 1 << 30;

/// A part of the measurement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Gets from NVMe and durable puts beside fio.
    Device,
    /// Leases in the arena beside a bare map.
    Host,
    /// A trace beside foyer.
    Foyer,
    /// A million blocks: time to open, memory.
    Index,
}

/// A driver of the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DriverName {
    Auto,
    IoUring,
    Threads,
}

#[derive(Args, Debug)]
pub(crate) struct StoreArgs {
    /// What to measure; all of it without a name.
    #[arg(value_enum)]
    parts: Vec<Part>,
    /// Folder on the disk to be measured; a temporary folder is made in it [default: the system's].
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
    /// Disk that may be used, both sides together; at most 1GiB with --quick.
    #[arg(long, default_value = "4GiB", value_parser = hearth_proto::size::parse, value_name = "SIZE")]
    size: u64,
    /// Sizes of a block for `device`; may be given several times.
    #[arg(long, default_values = ["64KiB", "256KiB", "1MiB", "2560KiB"], value_parser = hearth_proto::size::parse, value_name = "SIZE")]
    block_bytes: Vec<u64>,
    /// Transfers in flight for `device`; may be given several times [default: 1 to 32, doubling].
    #[arg(long, value_name = "N")]
    depth: Vec<usize>,
    /// Turns of each side [default: for `device` 9, `host` 25, `foyer` 3; with --quick 3, 15, 1].
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=99))]
    rounds: Option<u64>,
    /// Blocks for `index` [default: as many as fit into --size, up to 1000000; with --quick 20000].
    #[arg(long, value_name = "N")]
    blocks: Option<u64>,
    /// The trace for `foyer`; sessions are generated without one.
    #[arg(long, value_name = "FILE")]
    trace: Option<PathBuf>,
    /// What moves the store's bytes in `device`.
    #[arg(long, value_enum, default_value = "auto")]
    driver: DriverName,
    /// Lets a thread of the kernel submit for the store in `device`.
    #[arg(long)]
    sqpoll: bool,
    /// Has the store poll for completions in `device`.
    #[arg(long)]
    iopoll: bool,
    /// Draws what `device` measured into this file, as SVG.
    #[arg(long, value_name = "FILE")]
    plot: Option<PathBuf>,
    #[command(flatten)]
    report: ReportArgs,
}

/// Measures what was asked for. True when nothing was wrong and, with --check, every goal was met.
pub(crate) async fn run(args: StoreArgs) -> anyhow::Result<bool> {
    ensure!(args.size >= SIZE_MIN, "--size must be at least 1GiB");
    let dir = match &args.dir {
        Some(dir) => tempfile::tempdir_in(dir),
        None => tempfile::tempdir(),
    };
    let dir = dir.context("cannot make a temporary folder")?;
    let (mut figures, mut wrong, mut cells) = (Vec::new(), 0, Vec::new());
    if args.has(Part::Device) {
        let (measured, more) = measure_device(&args, dir.path()).await?;
        wrong += measured.wrong;
        cells = measured.cells;
        figures.extend(more);
    }
    if args.has(Part::Host) {
        let count = if args.report.quick { 20_000 } else { 100_000 };
        let (more, wrong_here) = host::measure(count, args.rounds(25, 15)).await?;
        wrong += wrong_here;
        figures.extend(more);
    }
    if args.has(Part::Foyer) {
        let (more, wrong_here) = versus::measure(&args.versus_plan(dir.path())).await?;
        wrong += wrong_here;
        figures.extend(more);
    }
    if args.has(Part::Index) {
        let (more, wrong_here) = index::measure(dir.path(), args.index_count()).await?;
        wrong += wrong_here;
        figures.extend(more);
    }
    let mut report = BenchReport::new(args.command(), figures, wrong);
    report.detail = (!cells.is_empty()).then(|| detail(&cells));
    args.report.publish(&report)?;
    if let Some(file) = args.plot.as_ref().filter(|_| !cells.is_empty()) {
        std::fs::write(file, picture::render(&cells, &report.machine))
            .with_context(|| format!("cannot write {}", file.display()))?;
    }
    Ok(report.wrong == 0 && (!args.report.check || report.passes()))
}

impl StoreArgs {
    fn has(&self, part: Part) -> bool {
        self.parts.is_empty() || self.parts.contains(&part)
    }

    fn size(&self) -> u64 {
        if self.report.quick { self.size.min(SIZE_MIN) } else { self.size }
    }

    fn rounds(&self, full: usize, quick: usize) -> usize {
        let default = if self.report.quick { quick } else { full };
        self.rounds.map_or(default, |rounds| rounds as usize)
    }

    fn index_count(&self) -> u64 {
        let most = if self.report.quick { 20_000 } else { 1_000_000 };
        // A record takes a sector, and the folder needs room for its own index.
        self.blocks.unwrap_or((self.size() / 4_200).min(most))
    }

    fn device_plan(&self, dir: &Path) -> anyhow::Result<device::Plan> {
        let quick = self.report.quick;
        let default = if quick { vec![16] } else { vec![1, 2, 4, 8, 16, 32] };
        let mut block_bytes = Vec::new();
        for bytes in &self.block_bytes {
            block_bytes.push(usize::try_from(*bytes)?);
        }
        if quick && block_bytes.len() > 2 {
            // The smallest and the largest are the hardest: the most calls, the least that fits.
            block_bytes = vec![block_bytes[0], block_bytes[block_bytes.len() - 1]];
        }
        Ok(device::Plan {
            dir: dir.to_owned(),
            // Half for the slab, half for fio's file.
            file_bytes: self.size() / 2,
            block_bytes,
            depths: if self.depth.is_empty() { default } else { self.depth.clone() },
            rounds: self.rounds(9, 3),
            turn: Duration::from_millis(if quick { 300 } else { 500 }),
            put_bytes: if quick { 128 << 20 } else { 512 << 20 },
            driver: DriverOptions {
                driver: match self.driver {
                    DriverName::Auto => Driver::Auto,
                    DriverName::IoUring => Driver::IoUring,
                    DriverName::Threads => Driver::Threads,
                },
                sqpoll: self.sqpoll,
                iopoll: self.iopoll,
            },
        })
    }

    fn versus_plan(&self, dir: &Path) -> versus::Plan {
        let quick = self.report.quick;
        versus::Plan {
            dir: dir.to_owned(),
            // Well below what the trace names, so that both have to choose what they keep.
            dram_bytes: if quick { 128 << 20 } else { 256 << 20 },
            disk_bytes: if quick { 384 << 20 } else { 1 << 30 },
            block_bytes: 256 << 10,
            trace: self.trace.clone(),
            sessions: if quick { 2 } else { 3 },
            requests: if quick { 30 } else { 120 },
            rounds: self.rounds(3, 1),
        }
    }

    /// The command that shows it again.
    fn command(&self) -> String {
        let mut command = "hearth-bench store".to_owned();
        for part in &self.parts {
            if let Some(part) = part.to_possible_value() {
                command = format!("{command} {}", part.get_name());
            }
        }
        let driver = self.driver.to_possible_value().filter(|_| self.driver != DriverName::Auto);
        if let Some(driver) = driver {
            command = format!("{command} --driver {}", driver.get_name());
        }
        for (given, option) in
            [(self.sqpoll, " --sqpoll"), (self.iopoll, " --iopoll"), (self.report.quick, " --quick")]
        {
            command.push_str(if given { option } else { "" });
        }
        command
    }
}

/// The engine to compare with, if it was built in.
fn peer() -> Option<Engine> {
    #[cfg(feature = "foyer")]
    let peer = Some(Engine::Foyer);
    #[cfg(not(feature = "foyer"))]
    let peer = None;
    peer
}

async fn measure_device(args: &StoreArgs, dir: &Path) -> anyhow::Result<(Measured, Vec<Figure>)> {
    let fio = Fio::find().await;
    if let Err(why) = &fio {
        eprintln!("device: {why}");
    }
    let measured = device::measure(&args.device_plan(dir)?, fio.as_ref().ok()).await?;
    let mut figures = vec![Figure::new("blocks compared byte by byte", "blocks", measured.compared as f64)];
    figures.extend(fastest(&measured.cells, &fio));
    figures.extend(measured.cells.iter().flat_map(|cell| cell_figures(cell, &fio)));
    Ok((measured, figures))
}

/// The fastest turn of each side at any depth, for each size and direction: what the disk gives when
/// nobody else uses it.
fn fastest(cells: &[Cell], fio: &Result<Fio, String>) -> Vec<Figure> {
    let of_group = |group: &[Cell], turns: fn(&Cell) -> &[Turn]| {
        group.iter().flat_map(turns).map(Turn::gb_per_s).fold(0.0, f64::max)
    };
    let alike = |a: &Cell, b: &Cell| (a.block_bytes, a.direction) == (b.block_bytes, b.direction);
    let figure = |group: &[Cell]| {
        let name = format!("{}, fastest turn", group[0].kind());
        let figure = Figure::new(name, "GB/s", of_group(group, |cell| &cell.ours));
        match fio {
            Ok(fio) => figure.with_peer(fio.version.as_str(), of_group(group, |cell| &cell.fio)),
            Err(why) => figure.with_absent_peer("fio", why),
        }
    };
    cells.chunk_by(alike).map(figure).collect()
}

/// Speed, held to its goal, and processor time of one cell.
fn cell_figures(cell: &Cell, fio: &Result<Fio, String>) -> Vec<Figure> {
    let goal = match cell.direction {
        Direction::Get => GET_GOAL,
        Direction::Put | Direction::Stream => PUT_GOAL,
    };
    let peered = |name: String, unit: &str, rate: fn(&Turn) -> f64| {
        let ours_alone = cell.ours.first().map(rate);
        match (fio, median_pair(&cell.pairs(), rate)) {
            (Ok(fio), Some((ours, theirs))) => {
                Figure::new(name, unit, rate(&ours)).with_peer(fio.version.as_str(), rate(&theirs))
            }
            (Err(why), _) => Figure::new(name, unit, ours_alone).with_absent_peer("fio", why),
            (Ok(_), None) => Figure::new(name, unit, ours_alone),
        }
    };
    let speed = peered(cell.name(), "GB/s", Turn::gb_per_s).with_goal(Goal::RatioAtLeast(goal));
    let processor = peered(format!("{}, processor", cell.name()), "s per GB", Turn::cpu_s_per_gb);
    let verified = fio.as_ref().ok().zip(median_pair(&cell.pairs_verified(), Turn::gb_per_s));
    let verified = verified.map(|(fio, (ours, theirs))| {
        let peer = format!("{} comparing crc32c", fio.version);
        Figure::new(format!("{}, verified", cell.name()), "GB/s", ours.gb_per_s())
            .with_peer(peer, theirs.gb_per_s())
    });
    [Some(speed), Some(processor), verified].into_iter().flatten().collect()
}

/// All turns, for whoever wants to see how they scatter.
fn detail(cells: &[Cell]) -> serde_json::Value {
    let turns = |turns: &[Turn]| -> Vec<serde_json::Value> {
        let values = |turn: &Turn| serde_json::json!([turn.gb_per_s(), turn.cpu_s_per_gb()]);
        turns.iter().map(values).collect()
    };
    let cell = |cell: &Cell| {
        serde_json::json!({
            "cell": cell.name(),
            "block_bytes": cell.block_bytes,
            "fio_block_bytes": cell.record_bytes,
            "ours_gb_per_s_and_cpu_s_per_gb": turns(&cell.ours),
            "fio_gb_per_s_and_cpu_s_per_gb": turns(&cell.fio),
            "fio_verified_gb_per_s_and_cpu_s_per_gb": turns(&cell.fio_verified),
        })
    };
    serde_json::json!({ "turns": cells.iter().map(cell).collect::<Vec<_>>() })
}

#[cfg(test)]
mod tests;
