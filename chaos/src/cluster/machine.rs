//! One simulated machine: what survives a crash, and the node that runs on it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hearth_cluster::sim::{Limits, SimDisk, start};
use hearth_cluster::{Cluster, ClusterConfig, JoinRequest, NodeAddresses, request_join};
use hearth_proto::{ClusterId, DirectoryGroups, NodeId, Tier};
use tokio_util::sync::CancellationToken;

use crate::doors::Doors;
use crate::network::{PORT, listen};
use crate::source::{BLOCKS, Source};
use crate::world::world;

const CLUSTER: ClusterId = ClusterId([0xc5; 16]);
const LIMITS: Limits =
    Limits { snapshot_every_entries: 80, snapshot_keep_entries: 10, node_down_after_ms: 3_000 };
/// How long one try to join may take.
const JOIN: Duration = Duration::from_secs(3);

/// A machine with its disk.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) index: usize,
    /// Its name in the network.
    pub(crate) name: String,
    /// Log and votes.
    pub(crate) disk: SimDisk,
    pub(crate) source: Arc<Source>,
    /// How far its clock is ahead.
    pub(crate) clock_ahead_ms: AtomicU64,
    /// Snapshots; each is written and synced in one moment.
    dir: PathBuf,
    kept: Mutex<Kept>,
}

#[derive(Debug, Default)]
struct Kept {
    identity: Option<NodeId>,
    founded: bool,
    lives: u8,
    /// The running node.
    cluster: Option<Cluster>,
    /// Why the node ended by itself, which it never may.
    ended: Option<String>,
}

impl Machine {
    /// A new machine that keeps its snapshots in a folder of its own in `folder`.
    pub(crate) fn new(index: usize, folder: &Path) -> Self {
        Self {
            index,
            name: format!("n{}", index + 1),
            disk: SimDisk::new(),
            source: Arc::default(),
            clock_ahead_ms: AtomicU64::new(0),
            dir: folder.join(format!("n{}", index + 1)),
            kept: Mutex::default(),
        }
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// The running node; `None` while it is down or starts.
    pub(crate) fn cluster(&self) -> Option<Cluster> {
        self.lock().cluster.clone()
    }

    pub(crate) fn node_id(&self) -> Option<NodeId> {
        self.lock().identity
    }

    /// The number of its life: which process it is that runs.
    pub(crate) fn life(&self) -> u8 {
        self.lock().lives
    }

    pub(crate) fn ended(&self) -> Option<String> {
        self.lock().ended.clone()
    }

    /// Takes the power away after the runtime has gone: of the unsynced writes as many stay as `keep` says.
    pub(crate) fn crash(&self, keep: impl FnOnce(usize) -> usize) -> usize {
        self.lock().cluster = None;
        self.source.crash();
        self.disk.crash(keep)
    }

    /// One life of the node.
    pub(crate) async fn live(self: Arc<Self>) -> turmoil::Result {
        world().belongs_to(self.index);
        self.lock().lives += 1;
        if let Err(error) = self.run().await {
            world().note(&format!("{} ended by itself: {error:#}", self.name));
            self.lock().ended = Some(format!("{error:#}"));
        }
        Ok(())
    }

    async fn run(&self) -> anyhow::Result<()> {
        let node_id = self.identity().await;
        let config = ClusterConfig {
            dir: self.dir().to_owned(),
            node_id,
            cluster_id: CLUSTER,
            directory_groups: DirectoryGroups::ONE,
            name: self.name.clone(),
            boot_id: [self.life(); 16],
            addresses: self.addresses(),
            host_capacity_bytes: 1 << 30,
            nvme_capacity_bytes: 1 << 40,
            zone: String::new(),
            never_votes: false,
            voter_lost_after_ms: hearth_proto::limits::VOTER_LOST_AFTER_MS,
        };
        let cluster = start(config, LIMITS).await?;
        let incoming = listen().await?;
        let routes = Doors::new(cluster.clone()).add_to(cluster.services());
        let server = tonic::transport::Server::builder().add_routes(routes);
        tokio::spawn(server.serve_with_incoming(incoming));
        self.lock().cluster = Some(cluster.clone());
        if self.index == 0 && !self.lock().founded {
            while cluster.found([1; 16]).await.is_err() {}
            self.lock().founded = true;
        }
        tokio::spawn(change_blocks(self.source.clone()));
        cluster.run_member(self.source.clone(), CancellationToken::new()).await?;
        anyhow::bail!("the member's work ended")
    }

    /// The identity that founding or joining gave; the first machine founds.
    async fn identity(&self) -> NodeId {
        if self.index == 0 {
            self.lock().identity = Some(NodeId(1));
        }
        let machines = &world().machines;
        for seed in machines.iter().cycle().filter(|seed| seed.index != self.index) {
            if let Some(id) = self.node_id() {
                return id;
            }
            let request = JoinRequest {
                node_uuid: [self.index as u8 + 1; 16],
                name: self.name.clone(),
                addresses: self.addresses(),
                zone: String::new(),
                expected_cluster: None,
                expected_directory_groups: None,
            };
            let seed = format!("{}:{PORT}", seed.name);
            match request_join(&seed, request, Instant::now() + JOIN).await {
                Ok(grant) => self.lock().identity = Some(grant.node_id),
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
        unreachable!("there is more than one machine")
    }

    fn addresses(&self) -> NodeAddresses {
        let address = format!("{}:{PORT}", self.name);
        NodeAddresses { control: address.clone(), data: address }
    }

    fn lock(&self) -> MutexGuard<'_, Kept> {
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Blocks come and go.
async fn change_blocks(source: Arc<Source>) {
    while !world().is_quiet() {
        let (pause, number, tier) = {
            let mut rng = world().rng();
            let tier = if rng.chance(50) { Tier::Host } else { Tier::Nvme };
            (rng.between(20, 500), rng.below(BLOCKS), tier)
        };
        source.toggle(number, tier);
        // Now and then so many at a time that the queue overflows.
        let burst = {
            let mut rng = world().rng();
            if rng.chance(3) { 10 } else { 0 }
        };
        for more in 0..burst {
            source.toggle((number + more) % BLOCKS, tier);
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

impl Machine {
    /// Sets how far the clock is ahead.
    pub(crate) fn set_clock_ahead(&self, ahead_ms: u64) {
        self.clock_ahead_ms.store(ahead_ms, Ordering::Relaxed);
    }
}
