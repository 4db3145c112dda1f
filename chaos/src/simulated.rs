//! Histories of the simulated cluster, each in a process of its own.

use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;

/// How long one history may take: one that hangs has failed.
const PATIENCE: Duration = Duration::from_secs(180);

/// What one seed came to.
#[derive(Debug, Clone)]
pub struct History {
    /// The seed.
    pub seed: u64,
    /// Everything that the simulation says of it.
    pub report: serde_json::Value,
    /// The invariant that does not hold, and how.
    pub violation: Option<String>,
}

/// Runs the history of one seed with the program that simulates one.
///
/// # Errors
/// If the program cannot be run; a history that ends in no answer is a violation.
pub fn run_one(program: &Path, seed: u64, more: &[&str]) -> anyhow::Result<History> {
    let mut command = Command::new(program);
    command.arg("--seed").arg(seed.to_string()).args(more).stdin(Stdio::null());
    let mut child = command
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .with_context(|| format!("cannot start {}", program.display()))?;
    let until = Instant::now() + PATIENCE;
    let in_time = loop {
        if child.try_wait()?.is_some() {
            break true;
        }
        if Instant::now() > until {
            child.kill()?;
            break false;
        }
        std::thread::sleep(Duration::from_millis(5));
    };
    let output = child.wait_with_output()?;
    let said: Option<serde_json::Value> = serde_json::from_slice(&output.stdout).ok();
    let violation = match &said {
        Some(report) => report["violation"].as_str().map(str::to_owned),
        None if !in_time => Some(format!("PANIC: no end within {PATIENCE:?}")),
        None => Some(format!("PANIC: the simulation ended with {}", output.status)),
    };
    Ok(History { seed, report: said.unwrap_or_default(), violation })
}

/// Runs seeds from `first` on, one process on each core, until one finds a violation. Gives the histories in
/// the order of their seeds.
///
/// # Errors
/// If the program cannot be run.
pub fn run_all(program: &Path, first: u64, count: u64, more: &[&str]) -> anyhow::Result<Vec<History>> {
    let (next, end) = (AtomicU64::new(first), first.saturating_add(count));
    let histories = Mutex::new(Vec::new());
    let work = || -> anyhow::Result<()> {
        loop {
            let seed = next.fetch_add(1, Ordering::Relaxed);
            if seed >= end {
                return Ok(());
            }
            let history = run_one(program, seed, more)?;
            if history.violation.is_some() {
                next.store(end, Ordering::Relaxed);
            }
            histories.lock().unwrap_or_else(|error| error.into_inner()).push(history);
        }
    };
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        workers
            .into_iter()
            .try_for_each(|worker| worker.join().map_err(|_| anyhow::anyhow!("a worker panicked"))?)
    })?;
    let mut histories = histories.into_inner().unwrap_or_else(|error| error.into_inner());
    histories.sort_by_key(|history| history.seed);
    Ok(histories)
}

/// The sum of a figure over histories, `name` as a JSON pointer.
pub fn total(histories: &[History], name: &str) -> u64 {
    histories.iter().filter_map(|history| history.report.pointer(name)?.as_u64()).sum()
}
