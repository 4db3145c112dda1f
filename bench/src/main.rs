//! `hearth-bench`: one subcommand per question, each beside its peer or its limit in the same run.

mod demo;
mod fabric;
mod failover;
mod failures;
mod index;
mod meta;
mod peer;
mod place;
mod policy;
mod recovery;
mod replay;
mod route;
mod store;
mod workloads;

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

/// As in hearthd, since some subcommands run parts of it in processes of their own.
#[global_allocator]
static ALLOCATOR: index::Counting = index::Counting;

/// Measures Hearth against its peers and its limits, and checks every answer on the way.
#[derive(Debug, Parser)]
#[command(name = "hearth-bench", version, about)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Starts three nodes with temporary data and replays an agent workload through them.
    Demo(Box<demo::DemoArgs>),
    /// Replays a workload through a cluster that runs already.
    Replay(Box<replay::RunningArgs>),
    /// Gets from the Host tier over loopback TCP, beside a bare TCP stream between two processes.
    Fabric(fabric::FabricArgs),
    /// A node or the leader killed, everything restarted, bytes flipped on disk; beside Mooncake.
    Failures(failures::FailuresArgs),
    /// Memory, snapshot and restart of a directory of ten million blocks with three replicas each.
    Directory(meta::DirectoryArgs),
    /// The router's prefix index beside those of Dynamo's router (built with `--features peers`).
    Index(index::IndexArgs),
    /// How long writes stand still after the leader of the metadata plane was killed or stopped.
    Failover(failover::FailoverArgs),
    /// Changes of blocks that three nodes commit and apply, beside etcd; latency of changes and lookups.
    Meta(meta::MetaArgs),
    /// Hit rate of the eviction policy on traces, beside LRU, S3-FIFO, SIEVE, W-TinyLFU and Belady.
    Policy(policy::PolicyArgs),
    /// A request of 1,000 blocks placed on one of 64 workers, in process.
    Place(place::PlaceArgs),
    /// Fills a node, ends it with kill -9, and reads every block back after recovery.
    Recovery(recovery::RecoveryArgs),
    /// A fleet in simulation: our router beside round robin, least loaded, session sticky and overlap only.
    Route(route::RouteArgs),
    /// One node's tiers: the device beside fio, memory beside a map, a trace beside foyer, a large index.
    Store(Box<store::StoreArgs>),
    /// The process that `store` starts for each engine it compares.
    #[command(hide = true)]
    StoreTrial(Box<store::TrialArgs>),
    /// The node that `meta` starts three times.
    #[command(hide = true)]
    MetaNode(meta::NodeArgs),
    /// The bare TCP sender that `fabric` starts as its peer.
    #[command(hide = true)]
    TcpPeer(peer::TcpPeerArgs),
}

/// What every measuring subcommand takes.
#[derive(Debug, Clone, Args)]
struct ReportArgs {
    /// Writes the report as JSON.
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Ends within 60 seconds, with less to measure.
    #[arg(long)]
    quick: bool,
    /// Exits with 5 when a goal is missed or an answer is wrong.
    #[arg(long)]
    check: bool,
}

impl ReportArgs {
    /// Prints the table and writes the file that was asked for.
    #[allow(clippy::print_stdout)]
    fn publish(&self, report: &hearth_replay::BenchReport) -> anyhow::Result<()> {
        println!("{}", report.table());
        if let Some(file) = &self.json {
            report.write_json(file).with_context(|| format!("cannot write {}", file.display()))?;
        }
        Ok(())
    }
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("HEARTH_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    if let Command::TcpPeer(args) = &arguments.command {
        return exit(peer::serve(args).map(|()| true));
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return exit(Err(error.into())),
    };
    let outcome = runtime.block_on(async {
        let stopped = stop_signal()?;
        tokio::select! {
            outcome = run(arguments.command) => outcome,
            // Dropping the run ends the nodes that it started and removes their data.
            signal = stopped => Err(anyhow::anyhow!("ended by {signal}; the nodes started here are stopped")),
        }
    });
    // A thread that still reads a trace must not hold up the end.
    runtime.shutdown_background();
    exit(outcome)
}

async fn run(command: Command) -> anyhow::Result<bool> {
    match command {
        Command::Demo(args) => demo::run(*args).await,
        Command::Replay(args) => replay::run(*args).await,
        Command::Fabric(args) => fabric::run(args).await,
        Command::Failures(args) => failures::run(args).await,
        Command::Directory(args) => meta::run_directory(args).await,
        Command::Failover(args) => failover::run(args).await,
        Command::Index(args) => index::run(args).await,
        Command::Meta(args) => meta::run(args).await,
        Command::MetaNode(args) => meta::run_node(args).await,
        Command::Place(args) => place::run(&args),
        Command::Policy(args) => policy::run(args).await,
        Command::Recovery(args) => recovery::run(args).await,
        Command::Route(args) => route::run(args).await,
        Command::Store(args) => store::run(*args).await,
        Command::StoreTrial(args) => store::run_trial(*args).await,
        Command::TcpPeer(_) => Ok(true),
    }
}

/// Takes over SIGINT, SIGTERM and SIGHUP from now on; the future tells the first that comes.
fn stop_signal() -> anyhow::Result<impl Future<Output = &'static str>> {
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut hang_up = signal(SignalKind::hangup())?;
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => "SIGINT",
            _ = terminate.recv() => "SIGTERM",
            _ = hang_up.recv() => "SIGHUP",
        }
    })
}

/// 0 when all went well, 5 when an answer was wrong or a goal was missed, 1 when it could not run.
fn exit(outcome: anyhow::Result<bool>) -> ExitCode {
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(5),
        Err(error) => {
            eprintln!("hearth-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}
