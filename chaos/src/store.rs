//! `hearth-chaos store`: the block store on simulated parts, as many histories as asked, on every core.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use anyhow::Context;
use hearth_store::sim::{Counters, Crossed, Flips, Options, Violation, exhaust, flip_bits, run};

/// Flips that one world makes at a time.
const FLIPS_PER_TURN: u64 = 4_000;

/// Runs the whole store single-threaded on a simulated disk, index and clock: every seed is one history of
/// puts, gets, faults and crashes, the same one each time.
#[derive(Debug, clap::Args)]
pub(crate) struct StoreArguments {
    /// Histories to run, one seed each.
    #[arg(long, default_value_t = 10_000)]
    seeds: u64,
    /// The first seed.
    #[arg(long, default_value_t = 0)]
    from: u64,
    /// Runs this seed alone.
    #[arg(long)]
    seed: Option<u64>,
    /// Prints every event of the one seed.
    #[arg(long, requires = "seed")]
    verbose: bool,
    /// Small histories that crash at every boundary in every way.
    #[arg(long, default_value_t = 0)]
    exhaustive: u64,
    /// Bits to flip in stored records, each of which has to be refused.
    #[arg(long, default_value_t = 0)]
    flips: u64,
    /// Writes the figures to a file.
    #[arg(long)]
    json: Option<PathBuf>,
}

/// What all threads did together.
#[derive(Debug, Default)]
struct Totals {
    histories: Counters,
    crossed: Crossed,
    flips: Flips,
}

/// The outcome of sharing work out to threads.
type Found = Result<(), Box<Violation>>;

pub(crate) fn main(arguments: &StoreArguments) -> anyhow::Result<ExitCode> {
    if let Some(seed) = arguments.seed {
        return Ok(run_one(seed, arguments.verbose));
    }
    let totals = Mutex::new(Totals::default());
    let add = |add: &dyn Fn(&mut Totals)| add(&mut totals.lock().unwrap_or_else(|error| error.into_inner()));
    let began = Instant::now();
    let mut found = share_out(arguments.from, arguments.from.saturating_add(arguments.seeds), |seed| {
        let outcome = run(seed, &Options::default())?;
        add(&|totals| totals.histories.add(&outcome.counters));
        Ok(())
    });
    let seeds_s = began.elapsed().as_secs_f64();
    if found.is_ok() {
        found = share_out(arguments.from, arguments.from.saturating_add(arguments.exhaustive), |seed| {
            let crossed = exhaust(seed)?;
            add(&|totals| totals.crossed.add(&crossed));
            Ok(())
        });
    }
    let began = Instant::now();
    if found.is_ok() {
        found = share_out(0, arguments.flips.div_ceil(FLIPS_PER_TURN), |turn| {
            let rest = arguments.flips - turn * FLIPS_PER_TURN;
            let flips = flip_bits(arguments.from.wrapping_add(turn), rest.min(FLIPS_PER_TURN))?;
            add(&|totals| totals.flips.add(&flips));
            Ok(())
        });
    }
    let flips_s = began.elapsed().as_secs_f64();
    let totals = totals.into_inner().unwrap_or_else(|error| error.into_inner());
    let report =
        report(arguments, &totals, seeds_s, flips_s, found.as_ref().err().map(|violation| &**violation));
    eprintln!("{}", serde_json::to_string_pretty(&report)?);
    if let Some(path) = &arguments.json {
        std::fs::write(path, serde_json::to_vec_pretty(&report)?)
            .with_context(|| format!("write the report to {}", path.display()))?;
    }
    let Err(violation) = found else { return Ok(ExitCode::SUCCESS) };
    eprintln!("{violation}");
    eprintln!("see it happen: hearth-chaos store --seed {} --verbose", violation.seed);
    Ok(ExitCode::from(5))
}

fn run_one(seed: u64, verbose: bool) -> ExitCode {
    let (log, end, code) = match run(seed, &Options { verbose }) {
        Ok(outcome) => {
            let end = format!("seed {seed}: digest {:016x}, {:?}", outcome.digest, outcome.counters);
            (outcome.log, end, ExitCode::SUCCESS)
        }
        Err(violation) => (violation.log.clone(), violation.to_string(), ExitCode::from(5)),
    };
    log.iter().for_each(|line| eprintln!("{line}"));
    eprintln!("{end}");
    code
}

/// Gives the numbers from `first` to before `end` to one thread per core, in order, until one finds a
/// violation.
fn share_out(first: u64, end: u64, work: impl Fn(u64) -> Found + Sync) -> Found {
    let next = AtomicU64::new(first);
    let found = Mutex::new(None);
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                loop {
                    let number = next.fetch_add(1, Ordering::Relaxed);
                    if number >= end {
                        return;
                    }
                    if let Err(violation) = work(number) {
                        next.store(end, Ordering::Relaxed);
                        found.lock().unwrap_or_else(|error| error.into_inner()).get_or_insert(violation);
                    }
                }
            });
        }
    });
    found.into_inner().unwrap_or_else(|error| error.into_inner()).map_or(Ok(()), Err)
}

fn report(
    arguments: &StoreArguments,
    totals: &Totals,
    seeds_s: f64,
    flips_s: f64,
    violation: Option<&Violation>,
) -> serde_json::Value {
    let Totals { histories, crossed, flips } = totals;
    serde_json::json!({
        "command": std::iter::once("hearth-chaos".into()).chain(std::env::args().skip(1)).collect::<Vec<_>>().join(" "),
        "seeds": { "first": arguments.from, "count": arguments.seeds, "seconds": seeds_s },
        "histories": {
            "steps": histories.steps, "events": histories.events, "lives": histories.lives,
            "crashes": histories.crashes, "hits": histories.hits, "misses": histories.misses,
            "acknowledged": histories.acknowledged, "durable": histories.durable,
        },
        "exhaustive": {
            "histories": arguments.exhaustive, "boundaries": crossed.boundaries,
            "crashes": crossed.crashes, "volatile_max": crossed.volatile_max,
        },
        "flips": {
            "count": flips.total(), "payload": flips.payload, "padding": flips.padding,
            "footer": flips.footer, "meaningless": flips.meaningless, "seconds": flips_s,
        },
        "violation": violation.map(|violation| violation.to_string()),
    })
}
