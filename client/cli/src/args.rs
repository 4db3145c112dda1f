//! The command line.

mod tenancy;

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use hearth_proto::{AckLevel, BlockKey, ClusterId, Layout, LayoutId, PrefixHash};

pub(crate) use tenancy::{
    NamespaceCommand, NamespacePutArgs, PinArgs, PinName, PolicyCommand, PolicySetArgs, RetainArgs,
};

/// Looks into a Hearth cluster, stores and fetches blocks, and replays workloads through it.
#[derive(Debug, Parser)]
#[command(name = "hearth", version, about, after_help = crate::exit::HELP)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) connection: Connection,
    /// Form of the output.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub(crate) output: Output,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Args)]
pub(crate) struct Connection {
    /// Address of any member (its --listen); several, separated by commas, are tried in order.
    #[arg(
        long,
        global = true,
        env = "HEARTH_ADDR",
        value_delimiter = ',',
        default_value = "127.0.0.1:7400",
        value_name = "HOST:PORT"
    )]
    pub(crate) addr: Vec<String>,
    /// Refuses to talk to any other cluster than this one.
    #[arg(long, global = true, env = "HEARTH_CLUSTER_ID", value_name = "HEX")]
    pub(crate) cluster_id: Option<ClusterId>,
    /// How long each call may take, in milliseconds.
    #[arg(long, global = true, env = "HEARTH_DEADLINE_MS", default_value_t = 5_000, value_name = "MS")]
    pub(crate) deadline_ms: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    /// Tables for people.
    Table,
    /// One JSON document for programs.
    Json,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Shows what every node holds and how the Raft groups stand.
    #[command(after_help = "Example:\n  hearth --addr 10.0.0.1:7400 status")]
    Status,
    /// Lists the nodes, their state, incarnation and addresses.
    #[command(
        after_help = "Example:\n  hearth nodes -o json | jq -r '.nodes[] | select(.state != \"up\") | .name'"
    )]
    Nodes,
    /// Stores a file as a chain of blocks and prints the prefix hash of each.
    Put(PutArgs),
    /// Fetches blocks by their prefix hashes, in the order given, checked byte for byte.
    Get(GetArgs),
    /// Shows which nodes and tiers hold each block.
    Locate(LocateArgs),
    /// Keeps blocks from eviction on every node until a pin ends, within the namespace's quota.
    Pin(PinArgs),
    /// Ends a pin.
    #[command(after_help = "Example:\n  hearth unpin 00112233445566778899aabbccddeeff")]
    Unpin {
        /// What the pin is called, as `pin` and `pins` print it.
        #[arg(value_name = "ID")]
        id: PinName,
    },
    /// Lists the pins and what they are charged with.
    #[command(after_help = "Example:\n  hearth pins -o json | jq -r '.pins[].pin_id'")]
    Pins,
    /// Changes how much blocks are worth keeping, wherever they lie.
    Retain(RetainArgs),
    /// Makes, lists and removes namespaces.
    #[command(after_help = "Example:\n  hearth namespace put team-a --pin-quota 200GiB")]
    Namespace {
        /// What to do.
        #[command(subcommand)]
        command: NamespaceCommand,
    },
    /// Shows and changes the policy of the cluster.
    #[command(after_help = "Example:\n  hearth policy set --replicas 2")]
    Policy {
        /// What to do.
        #[command(subcommand)]
        command: PolicyCommand,
    },
    /// Drains nodes and takes them out for good.
    #[command(subcommand)]
    Node(NodeCommand),
    /// Lets a cluster use what all its nodes know since an upgrade.
    #[command(subcommand)]
    Upgrade(UpgradeCommand),
    /// Replays a workload through the cluster, checks every byte and reports.
    Replay(Box<hearth_replay::ReplayArgs>),
    /// Prints the completion script of a shell.
    #[command(after_help = "Example:\n  hearth completion bash > /etc/bash_completion.d/hearth")]
    Completion {
        /// The shell.
        shell: Shell,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Begins to move off a node what only it holds; it votes nowhere where another node will do.
    #[command(after_help = "Example:\n  hearth node drain node-7400 --wait")]
    Drain {
        /// Its id or its name.
        node: String,
        /// Until nothing is left that only drained nodes hold; shows meanwhile how much there is.
        #[arg(long)]
        wait: bool,
    },
    /// Shows how far drains and repairs are, and when they will have ended.
    Progress,
    /// Ends a drain and takes the node in again.
    Undrain {
        /// Its id or its name.
        node: String,
    },
    /// Takes a node out for good: it stops, and neither it nor its data folder gets in again.
    #[command(after_help = "Example:\n  hearth node drain 3 --wait && hearth node remove 3")]
    Remove {
        /// Its id or its name.
        node: String,
        /// Also when it was not drained: what only it holds is lost.
        #[arg(long)]
        force: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum UpgradeCommand {
    /// Lets commands of a newer version into the logs, once every node knows it. There is no way back to
    /// builds that know less.
    Finalize {
        /// The version; 0 is the newest that the answering node knows.
        #[arg(long, default_value_t = 0, value_name = "N")]
        version: u32,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hearth put kv.bin --block-bytes 1MiB\n  \
    hearth put kv.bin -o json | jq -r '.blocks[].hash' | xargs hearth get --out copy.bin")]
pub(crate) struct PutArgs {
    /// The file, or - for standard input.
    pub(crate) file: PathBuf,
    /// Size of one block; the last one may be shorter.
    #[arg(long, default_value = "1MiB", value_parser = hearth_proto::size::parse, value_name = "SIZE")]
    pub(crate) block_bytes: u64,
    /// Prefix hash of each block, in order. Default: chained digests of the content.
    #[arg(long = "hash", value_name = "HEX")]
    pub(crate) hashes: Vec<PrefixHash>,
    /// What to wait for: `host` (in memory) or `durable` (on disk, synced).
    #[arg(long, default_value = "durable", value_name = "LEVEL")]
    pub(crate) ack: AckLevel,
    /// How much the blocks are worth keeping, 0 to 100.
    #[arg(long, default_value_t = 35, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) priority: u8,
    /// Seconds after which the priority falls back to 35. Default: never.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) ttl: Option<u64>,
    #[command(flatten)]
    pub(crate) layout: LayoutArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  hearth get 00112233445566778899aabbccddeeff --out block.bin")]
pub(crate) struct GetArgs {
    /// Prefix hashes of the blocks, in chain order.
    #[arg(required = true, value_name = "HASH")]
    pub(crate) hashes: Vec<PrefixHash>,
    /// Where the bytes go, one block after the other; - is standard output. Default: only the report.
    /// A file is written, or replaced, only when every block came.
    #[arg(long, value_name = "FILE")]
    pub(crate) out: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) layout: LayoutArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  hearth locate 00112233445566778899aabbccddeeff -o json")]
pub(crate) struct LocateArgs {
    /// Waits until the answer is no older than anything acknowledged before; fails if that takes too long.
    #[arg(long)]
    pub(crate) linearizable: bool,
    /// Prefix hashes of the blocks, in chain order.
    #[arg(required = true, value_name = "HASH")]
    pub(crate) hashes: Vec<PrefixHash>,
    #[command(flatten)]
    pub(crate) layout: LayoutArgs,
}

#[derive(Debug, Args)]
pub(crate) struct LayoutArgs {
    /// Layout of the bytes, as an engine's adapter prints it.
    #[arg(long, value_name = "HEX", conflicts_with = "model")]
    layout: Option<LayoutId>,
    /// Name that stands for a layout when there is no engine.
    #[arg(long, default_value = "raw", value_name = "NAME")]
    model: String,
}

impl LayoutArgs {
    pub(crate) fn id(&self) -> LayoutId {
        self.layout.unwrap_or_else(|| {
            Layout {
                model: self.model.clone(),
                revision: String::new(),
                dtype: "raw".into(),
                block_tokens: 1,
                tensor_parallel: (0, 1),
                pipeline_parallel: (0, 1),
                shape: Vec::new(),
                page_order: "raw".into(),
            }
            .id()
        })
    }

    pub(crate) fn keys(&self, hashes: &[PrefixHash]) -> Vec<BlockKey> {
        let layout = self.id();
        hashes.iter().map(|hash| BlockKey::derive(layout, hash)).collect()
    }
}
