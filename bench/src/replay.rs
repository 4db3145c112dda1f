//! `replay`: a workload through a cluster that runs already.

use std::sync::Arc;

use clap::Args;
use hearth_client::{Client, ClientConfig};
use hearth_replay::{CheckError, HearthStore, Progress, ReplayArgs, Report};

#[derive(Debug, Args)]
pub(crate) struct RunningArgs {
    /// Address of any member (its --listen); the workers are spread over all nodes of its cluster.
    #[arg(long, env = "HEARTH_ADDR", default_value = "127.0.0.1:7400", value_name = "HOST:PORT")]
    addr: String,
    #[command(flatten)]
    replay: ReplayArgs,
}

pub(crate) async fn run(args: RunningArgs) -> anyhow::Result<bool> {
    let client = Client::connect(ClientConfig::new([args.addr])).await?;
    let workers = hearth_replay::worker_clients(&client).await?;
    let report = replay_through(workers, &args.replay).await?;
    Ok(passes(if args.replay.check { report.check() } else { report.check_served() }))
}

/// Whether a check passes; says why if it does not.
pub(crate) fn passes(check: Result<(), CheckError>) -> bool {
    check.inspect_err(|failure| eprintln!("hearth-bench: {failure}")).is_ok()
}

/// Replays through one worker per client, and prints the report.
#[allow(clippy::print_stdout)]
pub(crate) async fn replay_through(workers: Vec<Client>, args: &ReplayArgs) -> anyhow::Result<Report> {
    let stores =
        workers.into_iter().map(|client| Arc::new(HearthStore::new(client, args.block_bytes))).collect();
    let report = hearth_replay::run(args, stores, Progress::detect()).await?;
    println!("{}", report.table());
    if let Some(plot) = &args.plot {
        println!("plot:   {}", plot.display());
    }
    if let Some(report) = &args.json {
        println!("report: {}", report.display());
    }
    Ok(report)
}
