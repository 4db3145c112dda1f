//! The command lines of namespaces, pins, retentions and the policy.

use clap::{Args, Subcommand};
use hearth_proto::{PrefixHash, hex, size};

use super::LayoutArgs;

#[derive(Debug, Subcommand)]
pub(crate) enum NamespaceCommand {
    /// Makes a namespace, or changes what is named of one that is there.
    Put(NamespacePutArgs),
    /// Lists the namespaces, what each may use and what it pins.
    #[command(after_help = "Example:\n  hearth namespace list -o json | jq '.namespaces[].name'")]
    List,
    /// Removes a namespace that pins nothing; its blocks are evicted as all others are.
    #[command(after_help = "Example:\n  hearth namespace delete team-a")]
    Delete {
        /// The name.
        name: String,
    },
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  hearth namespace put team-a --quota 2TiB --pin-quota 200GiB\n  \
    hearth namespace put default --pin-quota 10GiB")]
pub(crate) struct NamespacePutArgs {
    /// 1 to 64 letters, digits, '-', '_' or '.'.
    pub(crate) name: String,
    /// Bytes of blocks over all nodes, replicas counted; 0 is without end. Kept and shown: nothing acts on it yet.
    #[arg(long, value_parser = size::parse, value_name = "SIZE")]
    pub(crate) quota: Option<u64>,
    /// Bytes that no other namespace may take from it. Kept and shown: nothing acts on it yet.
    #[arg(long, value_parser = size::parse, value_name = "SIZE")]
    pub(crate) floor: Option<u64>,
    /// Bytes that it may pin; 0 is none.
    #[arg(long, value_parser = size::parse, value_name = "SIZE")]
    pub(crate) pin_quota: Option<u64>,
    /// How much blocks are worth keeping that are put without a priority, 0 to 100.
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) priority: Option<u8>,
    /// Seconds after which that priority falls back to 35; 0 is never.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) ttl: Option<u64>,
    /// Namespaces of one group may read the blocks of each other; empty is none. Kept and shown: nothing acts on it
    /// yet.
    #[arg(long, value_name = "NAME")]
    pub(crate) sharing_group: Option<String>,
    /// Copies of each block; 0 is what the policy of the cluster says.
    #[arg(long)]
    pub(crate) replicas: Option<u32>,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  hearth pin 00112233445566778899aabbccddeeff --ttl 3600")]
pub(crate) struct PinArgs {
    /// Prefix hashes of the blocks, in chain order.
    #[arg(required = true, value_name = "HASH")]
    pub(crate) hashes: Vec<PrefixHash>,
    /// Seconds until the pin ends, unless it is made again.
    #[arg(long, default_value_t = 3_600, value_name = "SECONDS")]
    pub(crate) ttl: u64,
    /// What the pin is called. Default: a digest of the blocks, so that pinning them again renews it.
    #[arg(long, value_name = "HEX")]
    pub(crate) id: Option<PinName>,
    #[command(flatten)]
    pub(crate) layout: LayoutArgs,
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  hearth retain 00112233445566778899aabbccddeeff --priority 90 --ttl 600")]
pub(crate) struct RetainArgs {
    /// Prefix hashes of the blocks, in chain order.
    #[arg(required = true, value_name = "HASH")]
    pub(crate) hashes: Vec<PrefixHash>,
    /// How much the blocks are worth keeping from now on, 0 to 100.
    #[arg(long, value_parser = clap::value_parser!(u8).range(0..=100))]
    pub(crate) priority: u8,
    /// Seconds after which the priority falls back to 35. Default: never.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) ttl: Option<u64>,
    #[command(flatten)]
    pub(crate) layout: LayoutArgs,
}

#[derive(Debug, Subcommand)]
pub(crate) enum PolicyCommand {
    /// Shows the policy of the cluster.
    #[command(after_help = "Example:\n  hearth policy show -o json")]
    Show,
    /// Changes what is named of the policy.
    Set(PolicySetArgs),
}

#[derive(Debug, Args)]
#[command(after_help = "Example:\n  hearth policy set --replicas 2 --repair-rate 500MiB")]
pub(crate) struct PolicySetArgs {
    /// Copies of each block on nodes of their own; 0 and 1 are one.
    #[arg(long)]
    pub(crate) replicas: Option<u32>,
    /// Bytes that all nodes together may move a second to repair or drain; 0 is the default.
    #[arg(long, value_parser = size::parse, value_name = "SIZE")]
    pub(crate) repair_rate: Option<u64>,
    /// Seconds over which a new or returned node is ramped in; 0 is the default.
    #[arg(long, value_name = "SECONDS")]
    pub(crate) ramp: Option<u64>,
}

/// What a pin is called: 16 bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PinName(pub(crate) [u8; 16]);

impl std::str::FromStr for PinName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        hex::decode_array(text)
            .map(Self)
            .ok_or_else(|| format!("a pin is named by 32 hexadecimal digits, not {text:?}"))
    }
}
