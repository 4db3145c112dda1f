//! A process of its own for one engine, so that its processor time and memory are its own, and that what
//! it opens was left by another process.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Context, ensure};
use clap::{Args, Subcommand, ValueEnum};
use hearth_replay::{BlockStore, Progress, ReplayArgs, Report};
use serde::{Deserialize, Serialize};

use super::cost::{Clock, anonymous_bytes};
use super::hearth::HearthCache;
use super::index::SAMPLE;

/// What keeps the blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Engine {
    Hearth,
    #[cfg(feature = "foyer")]
    Foyer,
}

/// Arguments of the process.
#[derive(Args, Clone, Debug)]
pub(crate) struct TrialArgs {
    #[arg(long, value_enum)]
    engine: Engine,
    #[arg(long)]
    cache_dir: PathBuf,
    #[arg(long)]
    dram_bytes: u64,
    #[arg(long)]
    disk_bytes: u64,
    #[command(subcommand)]
    work: Work,
}

#[derive(Subcommand, Clone, Debug)]
enum Work {
    /// Opens, and looks for the numbered blocks.
    Open {
        #[arg(long)]
        count: u64,
    },
    /// Stores that many numbered small blocks.
    Fill {
        #[arg(long)]
        count: u64,
    },
    /// Replays a workload.
    Replay(Box<ReplayArgs>),
}

/// An engine as a trial uses it, besides replaying through it.
pub(crate) trait Cache: BlockStore {
    /// Opens what is in `dir`, with these capacities.
    async fn open(dir: &Path, dram_bytes: u64, disk_bytes: u64) -> anyhow::Result<Self>
    where
        Self: Sized;

    /// Stores the numbered blocks `0..count`, small ones.
    async fn fill(&self, count: u64) -> anyhow::Result<()>;

    /// Whether the index knows the numbered block.
    fn holds(&self, number: u64) -> bool;

    /// Reads a numbered block and compares every byte; `None` if it is not there.
    async fn is_right(&self, number: u64) -> anyhow::Result<Option<bool>>;

    /// Waits until everything that was stored has reached the disk or was given up.
    async fn drain(&self);

    /// Bytes of blocks that lie in anonymous memory because they are cached there.
    fn cached_bytes(&self) -> u64;

    /// Memory of the index as the engine counts it, if it does.
    fn index_bytes(&self) -> Option<u64>;

    async fn close(&self) -> anyhow::Result<()>;
}

/// What opening took, and what was there.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Opened {
    pub(crate) open_s: f64,
    /// Anonymous memory of the process, more than before.
    pub(crate) memory_bytes: u64,
    /// Memory of the index as the engine counts it, if it does.
    pub(crate) index_bytes: Option<u64>,
    /// Numbered blocks found.
    pub(crate) blocks: u64,
    /// Of a sample of them, those that the index knew and that could not be read.
    pub(crate) lost: u64,
    /// Of a sample of them, those with bytes that are not theirs.
    pub(crate) wrong: u64,
}

/// What a replay found.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Replayed {
    pub(crate) elapsed_s: f64,
    pub(crate) cpu_s: f64,
    pub(crate) requests: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
    pub(crate) get_gb_per_s: f64,
    pub(crate) put_gb_per_s: f64,
    pub(crate) hit_percent: f64,
    pub(crate) bound_percent: f64,
    /// Different blocks that were asked for.
    pub(crate) working_set_blocks: u64,
    /// Blocks that were promised and not delivered.
    pub(crate) lost: u64,
    pub(crate) wrong: u64,
    pub(crate) errors: u64,
    /// Anonymous memory of the process at the end, without the bytes it caches there.
    pub(crate) memory_bytes: u64,
}

/// What the process tells, as JSON.
#[derive(Clone, Copy, Debug, Default, Serialize, Deserialize)]
struct Told {
    opened: Opened,
    replayed: Option<Replayed>,
}

/// A process to start.
#[derive(Clone, Debug)]
pub(crate) struct Trial {
    pub(crate) engine: Engine,
    pub(crate) dir: PathBuf,
    pub(crate) dram_bytes: u64,
    pub(crate) disk_bytes: u64,
}

impl Trial {
    /// Opens what is in the folder and looks for `count` numbered blocks.
    pub(crate) async fn open(&self, count: u64) -> anyhow::Result<Opened> {
        Ok(self.start(&["open".into(), format!("--count={count}")]).await?.opened)
    }

    /// Stores `count` numbered blocks.
    pub(crate) async fn fill(&self, count: u64) -> anyhow::Result<()> {
        self.start(&["fill".into(), format!("--count={count}")]).await.map(drop)
    }

    /// Opens what is in the folder and replays what `arguments` of a replay say.
    pub(crate) async fn replay(&self, arguments: &[String]) -> anyhow::Result<(Opened, Replayed)> {
        let told = self.start(&[&["replay".to_owned()], arguments].concat()).await?;
        Ok((told.opened, told.replayed.context("the replay tells what it found")?))
    }

    async fn start(&self, work: &[String]) -> anyhow::Result<Told> {
        std::fs::create_dir_all(&self.dir)?;
        let engine = self.engine.to_possible_value().context("every engine has a name")?;
        let output = tokio::process::Command::new(std::env::current_exe()?)
            .args(["store-trial", "--engine", engine.get_name(), "--cache-dir"])
            .arg(&self.dir)
            .arg(format!("--dram-bytes={}", self.dram_bytes))
            .arg(format!("--disk-bytes={}", self.disk_bytes))
            .args(work)
            .stdin(Stdio::null())
            .stderr(Stdio::inherit())
            .kill_on_drop(true)
            .output()
            .await
            .context("cannot start a trial")?;
        ensure!(output.status.success(), "the trial of {} ended with {}", engine.get_name(), output.status);
        serde_json::from_slice(&output.stdout).context("the trial tells what it found")
    }
}

/// The process: opens, works, closes, and prints what it found.
#[allow(clippy::print_stdout)]
pub(crate) async fn run(args: TrialArgs) -> anyhow::Result<bool> {
    let told = match args.engine {
        Engine::Hearth => run_as::<HearthCache>(&args).await?,
        #[cfg(feature = "foyer")]
        Engine::Foyer => run_as::<super::foyer::FoyerCache>(&args).await?,
    };
    println!("{}", serde_json::to_string(&told)?);
    Ok(true)
}

async fn run_as<C: Cache>(args: &TrialArgs) -> anyhow::Result<Told> {
    let before = anonymous_bytes()?;
    let began = Instant::now();
    let cache = Arc::new(C::open(&args.cache_dir, args.dram_bytes, args.disk_bytes).await?);
    let open_s = began.elapsed().as_secs_f64();
    let memory_bytes = anonymous_bytes()?.saturating_sub(before);
    let index_bytes = cache.index_bytes();
    let opened = Opened { open_s, memory_bytes, index_bytes, ..Opened::default() };
    let mut told = Told { opened, replayed: None };
    match &args.work {
        Work::Open { count } => look(&*cache, *count, &mut told.opened).await?,
        Work::Fill { count } => cache.fill(*count).await?,
        Work::Replay(replay) => {
            let clock = Clock::start();
            let report = hearth_replay::run(replay, vec![Arc::clone(&cache)], Progress::detect()).await?;
            // Queues are drained before the clock stops.
            cache.drain().await;
            let mut replayed = Replayed::new(&report, clock);
            replayed.memory_bytes =
                anonymous_bytes()?.saturating_sub(before).saturating_sub(cache.cached_bytes());
            told.replayed = Some(replayed);
        }
    }
    cache.close().await?;
    Ok(told)
}

async fn look<C: Cache>(cache: &C, count: u64, opened: &mut Opened) -> anyhow::Result<()> {
    opened.blocks = (0..count).filter(|number| cache.holds(*number)).count() as u64;
    let step = (count / SAMPLE).max(1) as usize;
    for number in (0..count).step_by(step).filter(|number| cache.holds(*number)) {
        match cache.is_right(number).await? {
            Some(right) => opened.wrong += u64::from(!right),
            None => opened.lost += 1,
        }
    }
    Ok(())
}

impl Replayed {
    fn new(report: &Report, clock: Clock) -> Self {
        let total = &report.total;
        let turn = clock.stop(total.bytes_read + total.bytes_written);
        Self {
            elapsed_s: turn.elapsed.as_secs_f64(),
            cpu_s: turn.cpu.as_secs_f64(),
            requests: total.requests,
            bytes_read: total.bytes_read,
            bytes_written: total.bytes_written,
            get_gb_per_s: report.get_gb_per_s,
            put_gb_per_s: report.put_gb_per_s,
            hit_percent: report.hit_rate_percent,
            bound_percent: report.bound_percent,
            working_set_blocks: total.blocks - total.bound_blocks,
            lost: total.lost_blocks,
            wrong: total.wrong_blocks,
            errors: total.errors.iter().map(|error| error.count).sum(),
            memory_bytes: 0,
        }
    }

    /// Processor time for each gigabyte that was read or written.
    pub(crate) fn cpu_s_per_gb(&self) -> f64 {
        self.cpu_s / ((self.bytes_read + self.bytes_written) as f64 / 1e9)
    }

    /// Requests answered per second.
    pub(crate) fn requests_per_s(&self) -> f64 {
        self.requests as f64 / self.elapsed_s
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        trial: TrialArgs,
    }

    async fn told<C: Cache>(dir: &Path, work: &[&str]) -> Told {
        let dir = format!("--cache-dir={}", dir.display());
        let trial = ["trial", "--engine=hearth", "--dram-bytes=268435456", "--disk-bytes=268435456", &dir];
        let args = Cli::try_parse_from([&trial, work].concat()).unwrap().trial;
        run_as::<C>(&args).await.unwrap()
    }

    async fn an_engine_is_filled_reopened_and_replayed_through<C: Cache>() {
        let dir = tempfile::tempdir().unwrap();
        told::<C>(dir.path(), &["fill", "--count=300"]).await;
        let opened = told::<C>(dir.path(), &["open", "--count=400"]).await.opened;
        assert_eq!((opened.blocks, opened.lost, opened.wrong), (300, 0, 0));
        assert!(opened.open_s > 0.0);

        let dir = tempfile::tempdir().unwrap();
        let replay = ["replay", "--agents=1", "--requests=3", "--block-bytes=4096", "--deadline-ms=60000"];
        let told = told::<C>(dir.path(), &replay).await;
        let found = told.replayed.unwrap();
        assert_eq!((found.requests, found.wrong, found.errors), (3, 0, 0));
        assert!(found.bytes_read > 0 && found.bytes_written > 0);
        assert!(found.hit_percent > 0.0 && found.hit_percent <= found.bound_percent);
        // What the last answers fill is written and not asked for again.
        assert!(found.working_set_blocks > 0 && found.working_set_blocks * 4_096 <= found.bytes_written);
        let text = serde_json::to_string(&told).unwrap();
        let again: Told = serde_json::from_str(&text).unwrap();
        assert_eq!(again.replayed.unwrap().bytes_read, found.bytes_read);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn hearth_is_filled_reopened_and_replayed_through() {
        an_engine_is_filled_reopened_and_replayed_through::<HearthCache>().await;
    }

    #[cfg(feature = "foyer")]
    #[tokio::test(flavor = "multi_thread")]
    async fn foyer_is_filled_reopened_and_replayed_through() {
        an_engine_is_filled_reopened_and_replayed_through::<super::super::foyer::FoyerCache>().await;
    }
}
