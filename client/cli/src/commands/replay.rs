//! `replay`: a workload through the cluster, as `hearth-bench replay` does it.

use std::sync::Arc;

use hearth_client::Client;
use hearth_replay::{HearthStore, Progress, ReplayArgs};

use crate::args::Output;
use crate::exit::Exit;
use crate::output;

/// Replays through one worker per node and reports.
pub(crate) async fn replay(client: &Client, form: Output, args: ReplayArgs) -> anyhow::Result<Exit> {
    let workers = hearth_replay::worker_clients(client).await?;
    let stores =
        workers.into_iter().map(|worker| Arc::new(HearthStore::new(worker, args.block_bytes))).collect();
    let report = hearth_replay::run(&args, stores, Progress::detect()).await?;
    if form == Output::Json {
        output::json(&report.to_bench("hearth replay"))?;
    } else {
        output::line(report.table());
        if let Some(plot) = &args.plot {
            output::line(format_args!("plot: {}", plot.display()));
        }
    }
    match if args.check { report.check() } else { report.check_served() } {
        Ok(()) => Ok(Exit::Done),
        Err(failure) => {
            eprintln!("hearth: {failure}");
            Ok(Exit::Wrong)
        }
    }
}
