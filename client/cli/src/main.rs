//! The `hearth` program: what operators and scripts ask of a cluster.

mod args;
mod commands;
mod exit;
mod output;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};
use hearth_client::{Client, ClientConfig};

use crate::args::{Arguments, Command};
use crate::exit::Exit;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let filter = tracing_subscriber::EnvFilter::try_from_env("HEARTH_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("warn"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).init();
    if let Command::Completion { shell } = arguments.command {
        clap_complete::generate(shell, &mut Arguments::command(), "hearth", &mut std::io::stdout());
        return ExitCode::SUCCESS;
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("hearth: cannot start the async runtime: {error}");
            return Exit::Failed.into();
        }
    };
    match runtime.block_on(run(arguments)) {
        Ok(exit) => exit.into(),
        Err(error) => {
            eprintln!("hearth: {error:#}");
            Exit::of(&error).into()
        }
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<Exit> {
    let Arguments { connection, output, command } = arguments;
    let mut config = ClientConfig::new(connection.addr);
    config.cluster = connection.cluster_id;
    config.deadline = std::time::Duration::from_millis(connection.deadline_ms);
    let client = Client::connect(config).await?;
    match command {
        Command::Status => commands::status(&client, output).await,
        Command::Nodes => commands::nodes(&client, output).await,
        Command::Put(put) => commands::put(&client, output, put).await,
        Command::Get(get) => commands::get(&client, output, get).await,
        Command::Locate(locate) => commands::locate(&client, output, locate).await,
        Command::Pin(pin) => commands::pin(&client, output, pin).await,
        Command::Unpin { id } => commands::unpin(&client, output, id).await,
        Command::Pins => commands::pins(&client, output).await,
        Command::Retain(retain) => commands::retain(&client, output, retain).await,
        Command::Namespace { command } => commands::namespace(&client, output, command).await,
        Command::Policy { command } => commands::policy(&client, output, command).await,
        Command::Node(command) => commands::node(&client, output, command).await,
        Command::Upgrade(command) => commands::upgrade(&client, output, command).await,
        Command::Replay(replay) => commands::replay(&client, output, *replay).await,
        Command::Completion { .. } => Ok(Exit::Done),
    }
}
