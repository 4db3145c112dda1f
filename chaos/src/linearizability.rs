//! `hearth-chaos linear`: histories over real processes, checked for linearizability.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use hearth_chaos::linear::{LinearOptions, Verdict, check, read, run};

/// Kills and stops nodes of a real cluster while clients share objects, and checks that every answer can be
/// explained by one order of all operations.
#[derive(Debug, clap::Args)]
pub(crate) struct LinearArguments {
    /// First seed; each run takes the next.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Runs.
    #[arg(long, default_value_t = 1)]
    runs: u64,
    /// Seconds of faults in each run.
    #[arg(long, default_value_t = 30)]
    seconds: u64,
    /// Clients.
    #[arg(long, default_value_t = 6)]
    clients: u32,
    /// Objects that they share.
    #[arg(long, default_value_t = 8)]
    keys: u64,
    /// Cuts nodes off from each other as well; takes root, for network namespaces.
    #[arg(long)]
    partitions: bool,
    /// Checks a history that was kept, and makes none.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["runs", "seed"])]
    check: Option<PathBuf>,
    /// Folder of the histories.
    #[arg(long, default_value = "histories")]
    folder: PathBuf,
}

pub(crate) async fn main(arguments: &LinearArguments) -> ExitCode {
    if let Some(file) = &arguments.check {
        return match read(file) {
            Ok(records) => judge(&check(&records)),
            Err(error) => {
                eprintln!("{error:#}");
                ExitCode::FAILURE
            }
        };
    }
    for seed in arguments.seed..arguments.seed.saturating_add(arguments.runs) {
        let options = LinearOptions {
            seed,
            total: Duration::from_secs(arguments.seconds),
            clients: arguments.clients,
            keys: arguments.keys,
            folder: Some(arguments.folder.clone()),
            partitions: arguments.partitions,
        };
        match run(&options).await {
            Ok(outcome) => {
                eprintln!("seed {seed}: {outcome:#?}");
                if !outcome.claims {
                    eprintln!("seed {seed}: this build knows no claims: reports alone were checked");
                }
                if !matches!(outcome.verdict, Verdict::Linearizable { .. }) {
                    return ExitCode::from(5);
                }
            }
            Err(error) => {
                eprintln!("seed {seed}: {error:#}");
                return ExitCode::FAILURE;
            }
        }
    }
    ExitCode::SUCCESS
}

fn judge(verdict: &Verdict) -> ExitCode {
    eprintln!("{verdict:#?}");
    if matches!(verdict, Verdict::Linearizable { .. }) { ExitCode::SUCCESS } else { ExitCode::from(5) }
}
