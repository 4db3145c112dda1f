//! `hearth-chaos linear`: histories over real processes, checked for linearizability.

use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

use anyhow::Context;
use hearth_chaos::linear::{Cuts, Finding, History, LinearOptions, LinearOutcome, Summary, check, cuts, run};
use hearth_tests::FakeClock;

/// Kills and stops nodes of a real cluster, cuts them off from each other and lets their clocks jump while clients
/// share claims, pins and reported blocks, and checks that every answer can be explained by one order of all
/// operations. Every other history is one in which no clock jumps, so that what ends has to end in time.
#[derive(Debug, clap::Args)]
pub(crate) struct LinearArguments {
    /// First seed; each history takes the next.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Histories, each with a cluster of its own.
    #[arg(long, default_value_t = 1)]
    histories: u64,
    /// Seconds of faults in each history.
    #[arg(long, default_value_t = 7)]
    seconds: u64,
    /// Clients.
    #[arg(long, default_value_t = 8)]
    clients: u32,
    /// Objects that they share.
    #[arg(long, default_value_t = 9)]
    keys: u64,
    /// Cuts no node off; partitions take root and the commands `ip` and `bridge`, and better `nft` too.
    #[arg(long)]
    no_partitions: bool,
    /// Lets no clock jump; jumps take libfaketime.
    #[arg(long)]
    no_clock_jumps: bool,
    /// Folder in which the histories are kept; ~/.cache/hearth/histories if not said.
    #[arg(long)]
    folder: Option<PathBuf>,
    /// Writes what all histories came to into a file.
    #[arg(long)]
    json: Option<PathBuf>,
    /// Checks a history that was kept, and makes none.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["histories", "seed", "json"])]
    check: Option<PathBuf>,
}

pub(crate) async fn main(arguments: &LinearArguments) -> ExitCode {
    let ended = match &arguments.check {
        Some(file) => check_kept(file),
        None => run_all(arguments).await,
    };
    ended.unwrap_or_else(|error| {
        eprintln!("{error:#}");
        ExitCode::FAILURE
    })
}

fn check_kept(file: &std::path::Path) -> anyhow::Result<ExitCode> {
    let Finding { verdict, states } = check(&History::read(file)?);
    eprintln!("{verdict:#?}\n{states} states were looked at");
    Ok(if verdict.is_pass() { ExitCode::SUCCESS } else { ExitCode::from(5) })
}

async fn run_all(arguments: &LinearArguments) -> anyhow::Result<ExitCode> {
    let folder = match &arguments.folder {
        Some(folder) => folder.clone(),
        None => cache_folder().context("neither HOME nor --folder says where histories are kept")?,
    };
    let (partitions, clock_jumps) = faults(arguments);
    let (began, commit, mut summary) = (Instant::now(), commit(), Summary::default());
    let mut seed = arguments.seed;
    // One that says nothing is made anew, within reason.
    while summary.histories() < arguments.histories && summary.failures() <= arguments.histories / 10 {
        let options = LinearOptions {
            seed,
            total: Duration::from_secs(arguments.seconds),
            clients: arguments.clients,
            keys: arguments.keys,
            folder: Some(folder.clone()),
            partitions,
            clock_jumps: clock_jumps && seed.is_multiple_of(2),
        };
        match run(&options).await {
            Ok(outcome) => {
                summary.add(&options, &outcome);
                tell(&options, &outcome);
            }
            Err(error) => {
                eprintln!("seed {seed}: {error:#}");
                summary.add_error(seed, &error);
            }
        }
        write(arguments, commit.as_deref(), &summary, began.elapsed())?;
        seed += 1;
    }
    let enough = summary.histories() >= arguments.histories;
    Ok(match (summary.is_pass(), enough) {
        (true, true) => ExitCode::SUCCESS,
        (true, false) => ExitCode::FAILURE,
        (false, _) => ExitCode::from(5),
    })
}

/// What this machine allows of what was asked for, and says so where it does not.
fn faults(arguments: &LinearArguments) -> (bool, bool) {
    let cuts = if arguments.no_partitions { Cuts::None } else { cuts() };
    match cuts {
        Cuts::None => eprintln!("NOT TESTED: partitions, for which root, `ip` and `bridge` are needed"),
        Cuts::Links => {
            eprintln!("NOT TESTED: links cut one way, for which `nft` and its kernel module are needed");
        }
        Cuts::Directions => {}
    }
    let clock_jumps = !arguments.no_clock_jumps && FakeClock::find().is_some();
    if !clock_jumps {
        eprintln!("NOT TESTED: clocks that jump, for which libfaketime (package faketime) is needed");
    }
    (cuts != Cuts::None, clock_jumps)
}

fn tell(options: &LinearOptions, outcome: &LinearOutcome) {
    let (total, faults) = (outcome.total(), &outcome.faults);
    let LinearOptions { seed, clock_jumps, .. } = options;
    let Finding { verdict, states } = &outcome.finding;
    eprintln!(
        "seed {seed}: {} of {} operations answered, clocks jump: {clock_jumps}, {faults:?}, {states} states in {:?}",
        total.answered, total.all, outcome.checked_in
    );
    if !outcome.reporters_stayed {
        eprintln!("seed {seed} says nothing: a node without a process was declared down");
    }
    if !verdict.is_pass() {
        let file = outcome.file.as_ref().map(|file| file.display().to_string()).unwrap_or_default();
        eprintln!("seed {seed}: {verdict:#?}\ncheck it again: hearth-chaos linear --check {file}");
    }
}

/// After every history, so that a run that is ended early leaves what it found.
fn write(
    arguments: &LinearArguments,
    commit: Option<&str>,
    summary: &Summary,
    took: Duration,
) -> anyhow::Result<()> {
    let Some(path) = &arguments.json else { return Ok(()) };
    let command: Vec<String> =
        std::iter::once("hearth-chaos".into()).chain(std::env::args().skip(1)).collect();
    let report = serde_json::json!({
        "command": command.join(" "),
        "commit": commit,
        "first_seed": arguments.seed,
        "seconds": took.as_secs(),
        "summary": summary,
    });
    let mut text = serde_json::to_vec_pretty(&report)?;
    text.push(b'\n');
    std::fs::write(path, text).with_context(|| format!("write the report to {}", path.display()))
}

/// The version of the code, where it is run in a working copy.
fn commit() -> Option<String> {
    let described =
        Command::new("git").args(["describe", "--always", "--dirty", "--abbrev=12"]).output().ok()?;
    let text = String::from_utf8(described.stdout).ok()?;
    described.status.success().then(|| text.trim().to_owned())
}

fn cache_folder() -> Option<PathBuf> {
    let cache = std::env::var_os("XDG_CACHE_HOME").map(PathBuf::from);
    let cache = cache.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cache")))?;
    Some(cache.join("hearth/histories"))
}
