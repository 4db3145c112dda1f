//! The `hearthd` program: reads its settings, runs one node, stops cleanly on SIGTERM or SIGINT.

use std::io::IsTerminal;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::Parser;
use hearth_server::Node;
use hearth_server::config::{Config, Flags};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// Reports and log entries are large and short-lived: the system's allocator gives their pages back each time.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// How long calls that block, such as a name lookup or a snapshot being written, may hold up the end.
const EXIT_PATIENCE: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let flags = Flags::parse();
    let print_config = flags.print_config;
    let outcome = Config::resolve(flags).map_err(anyhow::Error::from).and_then(|config| {
        if print_config {
            print_settings(&config);
            return Ok(());
        }
        run(config)
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("hearthd: {}", told_once(&error));
            ExitCode::FAILURE
        }
    }
}

/// An error with its causes, each said once: some messages hold their cause already.
fn told_once(error: &anyhow::Error) -> String {
    let mut text = error.to_string();
    for cause in error.chain().skip(1).map(ToString::to_string) {
        if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

#[allow(clippy::print_stdout)]
fn print_settings(config: &Config) {
    print!("{}", config.to_toml());
}

fn run(config: Config) -> anyhow::Result<()> {
    let filter =
        EnvFilter::try_from_env("HEARTH_LOG").unwrap_or_else(|_| EnvFilter::new("info,openraft=error"));
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .thread_name("hearthd")
        .build()
        .context("cannot start the async runtime")?;
    let outcome = runtime.block_on(serve(config));
    // Drops every task, and with them the last handles to the databases. What is open when this
    // function returns is torn down under its threads by the process's destructors.
    runtime.shutdown_timeout(EXIT_PATIENCE);
    outcome
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("cannot listen for SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("cannot listen for SIGINT")?;
    let on_signal = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        tracing::info!("stopping: a signal asked for it");
        on_signal.cancel();
    });
    let node = tokio::select! {
        node = Node::start(config, stop.clone()) => node?,
        // A start may wait long for the member that it was told to join.
        () = stop.cancelled() => return Ok(()),
    };
    node.run_until_stopped().await?;
    Ok(())
}
