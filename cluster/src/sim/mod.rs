//! What a simulation puts in place of the world: connections, the disk under the logs, threads, and how far the
//! clocks of the nodes are apart. Everything else is the code that runs in production.
//!
//! For `hearth-chaos`; no part of the cluster depends on it. The parts are those of the whole process: one
//! process simulates one history.

mod disk;
mod view;

use std::path::Path;
use std::sync::OnceLock;
use std::time::Duration;

use tonic::transport::{Channel, Endpoint};

pub(crate) use disk::Change;
pub use disk::SimDisk;
use hearth_proto::{GroupId, v1};
pub use view::{AppliedView, ClaimView, EntryView, GroupView, LeaderView, RecordBytes, RetentionView};

use crate::cluster::Cluster;
use crate::config::{ClusterConfig, Tuning};
use crate::error::StartError;

/// The simulated world, as the nodes see it.
#[derive(Clone, Copy, Debug)]
pub struct Hooks {
    /// Connects to a peer; the channel may connect later.
    pub connect: fn(&Endpoint) -> Channel,
    /// The disk that a metadata folder lies on.
    pub disk: fn(&Path) -> Option<SimDisk>,
    /// How long the next sync takes.
    pub sync_takes: fn() -> Duration,
    /// How far the clock of the calling node is ahead, in milliseconds.
    pub clock_ahead_ms: fn() -> u64,
    /// Hears of each entry that the calling node applies.
    pub applied: fn(AppliedView),
}

static HOOKS: OnceLock<Hooks> = OnceLock::new();

/// Puts the simulated world in place of the real one, once and for the whole process.
///
/// # Panics
/// If one is in place already.
pub fn install(hooks: Hooks) {
    assert!(HOOKS.set(hooks).is_ok(), "one process simulates one history");
}

/// Limits that a simulation makes smaller, so that a short history reaches them.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Entries after which a group takes a snapshot.
    pub snapshot_every_entries: u64,
    /// Entries that it keeps behind one.
    pub snapshot_keep_entries: u64,
    /// Silence after which a node is declared down.
    pub node_down_after_ms: u64,
}

/// Starts a member as [`Cluster::start`] does.
///
/// # Errors
/// [`StartError`]: the node cannot read what it wrote.
pub async fn start(config: ClusterConfig, limits: Limits) -> Result<Cluster, StartError> {
    let tuning = Tuning {
        snapshot_every_entries: limits.snapshot_every_entries,
        snapshot_keep_entries: limits.snapshot_keep_entries,
        node_down_after_ms: limits.node_down_after_ms,
        ..Tuning::default()
    };
    Cluster::start_tuned(config, tuning).await
}

/// The channel to a peer.
pub(crate) fn connect(endpoint: &Endpoint) -> Option<Channel> {
    HOOKS.get().map(|hooks| (hooks.connect)(endpoint))
}

pub(crate) fn disk_of(dir: &Path) -> Option<SimDisk> {
    HOOKS.get().and_then(|hooks| (hooks.disk)(dir))
}

pub(crate) fn sync_takes() -> Duration {
    HOOKS.get().map_or(Duration::ZERO, |hooks| (hooks.sync_takes)())
}

pub(crate) fn clock_ahead_ms() -> u64 {
    HOOKS.get().map_or(0, |hooks| (hooks.clock_ahead_ms)())
}

/// Says what an entry did on the calling node.
pub(crate) fn applied(
    group: GroupId,
    index: u64,
    command: Option<v1::Command>,
    time_ms: u64,
    outcome: &v1::Outcome,
) {
    if let Some(hooks) = HOOKS.get() {
        (hooks.applied)(AppliedView { group, index, command, time_ms, outcome: outcome.clone() });
    }
}

/// True in a simulation.
pub(crate) fn is_installed() -> bool {
    HOOKS.get().is_some()
}
