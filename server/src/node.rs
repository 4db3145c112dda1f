//! One node: opens its parts in order, serves until told to stop, closes them in reverse.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_cluster::{
    Cluster, ClusterConfig, FoundError, JoinRequest, MemberError, NodeAddresses, ProposeError,
};
use hearth_proto::limits::GRPC_MESSAGE_BYTES_MAX;
use hearth_proto::v1::admin_server::AdminServer;
use hearth_proto::v1::announce_server::AnnounceServer;
use hearth_proto::v1::claims_server::ClaimsServer;
use hearth_proto::v1::directory_server::DirectoryServer;
use hearth_proto::v1::operate_server::OperateServer;
use hearth_proto::v1::retention_server::RetentionServer;
use hearth_proto::{ClusterId, DirectoryGroups, NodeId};
use hearth_store::{Store, StoreConfig};
use metrics_exporter_prometheus::PrometheusBuilder;
use tokio::net::TcpListener;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tonic::transport::server::TcpIncoming;

use crate::announce::{Announced, Announcer};
use crate::block_service::StoreService;
use crate::block_source::{StoreKeeper, StoreSource};
use crate::claims::ClaimService;
use crate::config::Config;
use crate::copies::DirectoryCopies;
use crate::data_plane::DataPlane;
use crate::grpc::GrpcService;
use crate::http::{self, HttpState};
use crate::identity::{DataDir, IdentityError, Member};
use crate::operate::OperateService;
use crate::progress::Progress;
use crate::repair::{CopyCounters, NewBlocks, Repair, RepairParts};
use crate::retention::RetentionService;
use crate::routing::Routing;
use crate::vitals::Vitals;

/// How long a first start waits for the member that it was told to join.
const JOIN_PATIENCE: Duration = Duration::from_secs(20);
/// How long a founder that found no majority waits before it asks again.
const FOUND_PAUSE: Duration = Duration::from_millis(500);
/// How long a stopping node waits for requests in flight.
const DRAIN_PATIENCE: Duration = Duration::from_secs(10);

/// Why a node did not start, or stopped by itself.
#[derive(Debug, thiserror::Error)]
pub enum NodeError {
    /// The data folder cannot be used.
    #[error(transparent)]
    Identity(#[from] IdentityError),
    /// An address is taken or not of this machine.
    #[error("cannot listen on {address} ({setting}): {source}; stop what uses it, or give another address")]
    Bind {
        /// The flag.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
        /// Why.
        source: std::io::Error,
    },
    /// The block store cannot be opened.
    #[error("cannot open the block store: {0}")]
    Store(#[from] hearth_store::OpenError),
    /// The cluster would not have this node, or could not be reached.
    #[error("cannot join the cluster: {0}")]
    Join(#[from] hearth_cluster::JoinError),
    /// The metadata plane cannot be opened.
    #[error("cannot open the metadata plane: {0}")]
    Cluster(#[from] hearth_cluster::StartError),
    /// The directory of the cluster is split otherwise than was asked for.
    #[error(
        "the cluster has {} directory groups, not {}: their number is fixed when a cluster is founded; leave \
         --directory-groups out", found.count(), wanted.count()
    )]
    DirectoryGroups {
        /// What the cluster has.
        found: DirectoryGroups,
        /// What the configuration says.
        wanted: DirectoryGroups,
    },
    /// The first node could not found its cluster.
    #[error("cannot found a cluster: {0}")]
    Found(#[from] FoundError),
    /// This node must not go on as a member.
    #[error("this node stopped serving: {0}")]
    Member(#[from] hearth_cluster::MemberError),
    /// A listener broke.
    #[error("the {service} listener failed: {problem}")]
    Listener {
        /// Which one.
        service: &'static str,
        /// Why.
        problem: String,
    },
    /// The metrics exporter could not be installed.
    #[error("cannot install the metrics exporter: {0}")]
    Metrics(#[from] metrics_exporter_prometheus::BuildError),
}

/// Where a running node answers.
#[derive(Debug, Clone, Copy)]
pub struct Endpoints {
    /// The gRPC services.
    pub control: SocketAddr,
    /// The block service.
    pub data: SocketAddr,
    /// Health and metrics.
    pub http: SocketAddr,
}

/// What the parts of a node that deal with copies share.
struct Copying {
    news: Arc<NewBlocks>,
    counters: Arc<CopyCounters>,
    grace: Duration,
}

/// A running node.
pub struct Node {
    endpoints: Endpoints,
    store: Store,
    cluster: Cluster,
    vitals: Arc<Vitals>,
    data_plane: DataPlane,
    copying: Copying,
    routing: Routing,
    stop: CancellationToken,
    tasks: JoinSet<Result<(), NodeError>>,
    _data_dir: DataDir,
}

struct Listeners {
    control: TcpListener,
    data: TcpListener,
    http: TcpListener,
}

impl Node {
    /// Opens every part and starts serving; returns once the node answers, ready or not.
    ///
    /// # Errors
    /// [`NodeError`], each naming the part and the mend. What was opened is closed again.
    ///
    /// # Cancel safety
    /// Dropping it closes what was opened; a cluster that was joined by then is joined.
    pub async fn start(config: Config, stop: CancellationToken) -> Result<Self, NodeError> {
        if config.exposed() {
            tracing::warn!(
                "--insecure: SERVING BEYOND LOOPBACK WITHOUT TLS. Anyone who reaches these ports can read and \
                 write every block"
            );
        }
        let listeners = Listeners::bind(&config).await?;
        let endpoints = listeners.endpoints()?;
        let vitals = Arc::new(Vitals::default());
        let mut tasks = JoinSet::new();
        let routing = Routing::new(config.router_memory_bytes, stop.clone());
        tasks.spawn(serve_http(listeners.http, vitals.clone(), routing.clone(), stop.clone())?);
        let default_name = format!("node-{}", endpoints.control.port());
        let mut data_dir =
            DataDir::open(&config.data_dir, config.name.as_deref(), &default_name, config.cluster_id)?;
        let store = open_store(&config, &data_dir).await?;
        let addresses = NodeAddresses {
            control: advertised(&config, endpoints.control),
            data: advertised(&config, endpoints.data),
        };
        let member = settle_membership(&config, &mut data_dir, &addresses).await?;
        data_dir.check_metadata()?;
        let cluster = Cluster::start(ClusterConfig {
            dir: data_dir.path("meta"),
            node_id: member.node_id,
            cluster_id: member.cluster_id,
            directory_groups: member.directory_groups,
            name: data_dir.identity().name.clone(),
            zone: config.zone.clone(),
            never_votes: config.observer,
            voter_lost_after_ms: config.voter_lost_after_ms,
            boot_id: *uuid::Uuid::new_v4().as_bytes(),
            addresses,
            host_capacity_bytes: config.host_capacity_bytes,
            nvme_capacity_bytes: config.nvme_capacity_bytes,
        })
        .await?;
        data_dir.note_metadata()?;
        store.set_copies(Arc::new(DirectoryCopies(cluster.clone())));
        let copying = Copying {
            news: Arc::new(NewBlocks::new(config.nvme_capacity_bytes > 0)),
            counters: Arc::default(),
            grace: Duration::from_millis(config.repair_grace_ms),
        };
        vitals.opened(&store, &cluster, &copying.counters);
        let data_plane = DataPlane::start()?;
        let mut node = Self {
            endpoints,
            store,
            cluster,
            vitals,
            data_plane,
            copying,
            routing,
            stop,
            tasks,
            _data_dir: data_dir,
        };
        if let Err(error) = node.begin(listeners.control, listeners.data, member) {
            node.close().await;
            return Err(error);
        }
        tracing::info!(
            cluster = %member.cluster_id, node = %member.node_id, name = %node._data_dir.identity().name,
            grpc = %endpoints.control, blocks = %endpoints.data, http = %endpoints.http,
            "hearthd serves"
        );
        Ok(node)
    }

    /// Where this node answers.
    pub fn endpoints(&self) -> Endpoints {
        self.endpoints
    }

    /// Serves until the stop token fires or a part fails, then drains and closes everything.
    ///
    /// # Errors
    /// [`NodeError`] of the part that failed first.
    pub async fn run_until_stopped(mut self) -> Result<(), NodeError> {
        let outcome = tokio::select! {
            () = self.stop.cancelled() => Ok(()),
            ended = self.tasks.join_next() => self.unexpected_end(ended),
        };
        self.close().await;
        tracing::info!("stopped");
        outcome
    }

    /// Drains and closes everything. The databases are closed when the last handle goes, which tasks
    /// that were cut off hold until their runtime ends.
    async fn close(&mut self) {
        self.vitals.stopping();
        self.stop.cancel();
        let tasks = &mut self.tasks;
        let requests = async { while tasks.join_next().await.is_some() {} };
        // Together, because the listener waits for the streams of peers, which end with the groups.
        let drain = async { tokio::join!(requests, self.cluster.shutdown(), self.routing.close()) };
        if tokio::time::timeout(DRAIN_PATIENCE, drain).await.is_err() {
            tracing::warn!("some requests did not end within {DRAIN_PATIENCE:?}; they are cut off");
            self.tasks.abort_all();
        }
        self.data_plane.stop().await;
        self.store.close().await;
    }

    fn begin(&mut self, control: TcpListener, data: TcpListener, member: Member) -> Result<(), NodeError> {
        self.serve(control, data, member)?;
        let cluster = self.cluster.clone();
        let source = Arc::new(StoreSource {
            store: self.store.clone(),
            cluster: cluster.clone(),
            news: Arc::clone(&self.copying.news),
        });
        let (keeping, keeper) = (cluster.clone(), Arc::new(StoreKeeper::new(self.store.clone())));
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            stop.run_until_cancelled(keeping.keep_blocks(keeper)).await;
            Ok(())
        });
        let founding = member.founder.then(|| self._data_dir.identity().uuid_bytes());
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            if let Some(node_uuid) = founding {
                match stop.run_until_cancelled(found(&cluster, node_uuid)).await {
                    Some(founded) => founded?,
                    None => return Ok(()),
                }
            }
            match cluster.run_member(source, stop.clone()).await {
                Err(MemberError::Stopped { detail }) => {
                    tracing::error!(
                        detail,
                        "the metadata plane has stopped: this node serves the blocks it has to those who ask \
                         it, and is not ready"
                    );
                    // The blocks are as good as before (INV-HARMLESS).
                    stop.cancelled().await;
                    Ok(())
                }
                other => Ok(other?),
            }
        });
        Ok(())
    }

    fn unexpected_end(
        &self,
        ended: Option<Result<Result<(), NodeError>, tokio::task::JoinError>>,
    ) -> Result<(), NodeError> {
        match ended {
            Some(Ok(result)) => result,
            Some(Err(panic)) => Err(NodeError::Listener { service: "server", problem: panic.to_string() }),
            None => Ok(()),
        }
    }

    fn serve(&mut self, control: TcpListener, data: TcpListener, member: Member) -> Result<(), NodeError> {
        let announced = Announced::new(member);
        let grpc = GrpcService {
            cluster: self.cluster.clone(),
            store: self.store.clone(),
            announced: announced.clone(),
            member,
            started: Instant::now(),
        };
        let routes = self
            .cluster
            .services()
            .add_service(DirectoryServer::new(grpc.clone()).max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX))
            .add_service(
                ClaimsServer::new(ClaimService {
                    cluster: self.cluster.clone(),
                    store: self.store.clone(),
                    announced: announced.clone(),
                })
                .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX),
            )
            .add_service(RetentionServer::new(RetentionService {
                cluster: self.cluster.clone(),
                store: self.store.clone(),
            }))
            .add_service(AnnounceServer::new(announced))
            .add_service(OperateServer::new(OperateService {
                cluster: self.cluster.clone(),
                progress: Progress::new(self.cluster.clone(), Arc::clone(&self.copying.counters)),
            }))
            .add_service(AdminServer::new(grpc));
        // The server's own setting does not reach connections of a listener it is given: without this,
        // each answer may wait 40 ms for the peer's delayed acknowledgement.
        let incoming = TcpIncoming::from(control).with_nodelay(Some(true));
        let stop = self.stop.clone();
        self.tasks.spawn(async move {
            hearth_cluster::grpc_server()
                .add_routes(routes)
                .serve_with_incoming_shutdown(incoming, stop.cancelled_owned())
                .await
                .map_err(|e| NodeError::Listener { service: "gRPC", problem: e.to_string() })
        });
        let (announcer, announcing) = Announcer::new(self.cluster.clone(), member, self.stop.clone());
        self.tasks.spawn(async move {
            announcing.await;
            Ok(())
        });
        let blocks = Arc::new(StoreService {
            store: self.store.clone(),
            cluster: self.cluster.clone(),
            announcer,
            member,
            news: Arc::clone(&self.copying.news),
        });
        let serve_blocks = self.data_plane.serve(data, blocks, self.stop.clone())?;
        self.tasks.spawn(async move {
            serve_blocks.await.map_err(|e| NodeError::Listener { service: "block", problem: e.to_string() })
        });
        self.make_copies();
        Ok(())
    }
}

impl Node {
    /// Makes the copies that blocks lack, where blocks are moved.
    fn make_copies(&mut self) {
        let repair = Repair::new(RepairParts {
            cluster: self.cluster.clone(),
            store: self.store.clone(),
            news: Arc::clone(&self.copying.news),
            counters: Arc::clone(&self.copying.counters),
            grace: self.copying.grace,
        });
        let (ended, stop) = (self.data_plane.spawn(repair.run(self.stop.clone())), self.stop.clone());
        self.tasks.spawn(async move {
            if let Err(error) = ended.await {
                tracing::error!(%error, "no more copies are made: this node serves the blocks it has");
                // To engines it is as good as before (INV-HARMLESS).
                stop.cancelled().await;
            }
            Ok(())
        });
    }
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, NodeError> {
        let bind = async |setting, address| {
            TcpListener::bind(address).await.map_err(|source| NodeError::Bind { setting, address, source })
        };
        Ok(Self {
            control: bind("--listen", config.listen).await?,
            data: bind("--data-listen", config.data_listen).await?,
            http: bind("--http-listen", config.http_listen).await?,
        })
    }

    fn endpoints(&self) -> Result<Endpoints, NodeError> {
        let address = |listener: &TcpListener| {
            listener.local_addr().map_err(|e| NodeError::Listener { service: "new", problem: e.to_string() })
        };
        Ok(Endpoints {
            control: address(&self.control)?,
            data: address(&self.data)?,
            http: address(&self.http)?,
        })
    }
}

/// Health is answered from the first moment on, so that whoever watches sees a slow start as alive.
fn serve_http(
    listener: TcpListener,
    vitals: Arc<Vitals>,
    routing: Routing,
    stop: CancellationToken,
) -> Result<impl Future<Output = Result<(), NodeError>> + use<>, NodeError> {
    let state = HttpState { vitals, prometheus: PrometheusBuilder::new().install_recorder()?, routing };
    Ok(async move {
        http::serve(listener, state, stop)
            .await
            .map_err(|e| NodeError::Listener { service: "HTTP", problem: e.to_string() })
    })
}

fn advertised(config: &Config, bound: SocketAddr) -> String {
    match &config.advertise_host {
        Some(host) => format!("{host}:{}", bound.port()),
        None => bound.to_string(),
    }
}

async fn open_store(config: &Config, data_dir: &DataDir) -> Result<Store, NodeError> {
    let nvme = (config.nvme_capacity_bytes > 0)
        .then(|| config.blocks.nvme(data_dir.path("blocks"), config.nvme_capacity_bytes));
    let store_config = StoreConfig { nvme, ..StoreConfig::in_memory(config.host_capacity_bytes) };
    let opened = tokio::task::spawn_blocking(move || Store::open(store_config)).await;
    let (store, recovery) = opened.expect("opening the store does not panic and is not cancelled")?;
    tracing::info!(
        blocks = recovery.blocks,
        bytes = recovery.bytes,
        dropped = recovery.dropped,
        fenced_extents = recovery.fenced_extents,
        lifted_fences = recovery.lifted_fences,
        index_set_aside = ?recovery.index_set_aside,
        slabs_set_aside = ?recovery.slabs_set_aside,
        elapsed_us = recovery.elapsed.as_micros() as u64,
        "block store open"
    );
    Ok(store)
}

/// Founds the cluster, or sees that it is founded. A founder that starts again before its peers waits
/// for them here, and serves the blocks it has meanwhile.
async fn found(cluster: &Cluster, node_uuid: [u8; 16]) -> Result<(), NodeError> {
    loop {
        match cluster.found(node_uuid).await {
            Ok(()) => return Ok(()),
            Err(error @ FoundError::Commit(ProposeError::Refused { .. })) => return Err(error.into()),
            Err(error @ FoundError::Commit(_)) => {
                tracing::info!(
                    error = &error as &dyn std::error::Error,
                    "waiting for a majority of the voters"
                );
                tokio::time::sleep(FOUND_PAUSE).await;
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The node's place in its cluster: the one recorded, the one granted by a member, or the first.
async fn settle_membership(
    config: &Config,
    data_dir: &mut DataDir,
    addresses: &NodeAddresses,
) -> Result<Member, NodeError> {
    if let Some(member) = data_dir.identity().member {
        if config.join.is_some() {
            tracing::info!(cluster = %member.cluster_id, "already a member: --join is not needed any more");
        }
        refuse_other_groups(config, member.directory_groups)?;
        return Ok(member);
    }
    let member = match &config.join {
        Some(seed) => {
            let request = JoinRequest {
                node_uuid: data_dir.identity().uuid_bytes(),
                name: data_dir.identity().name.clone(),
                zone: config.zone.clone(),
                addresses: addresses.clone(),
                expected_cluster: config.cluster_id,
                expected_directory_groups: config.directory_groups,
            };
            let grant = hearth_cluster::request_join(seed, request, Instant::now() + JOIN_PATIENCE).await?;
            refuse_other_groups(config, grant.directory_groups)?;
            Member {
                cluster_id: grant.cluster_id,
                node_id: grant.node_id,
                founder: false,
                directory_groups: grant.directory_groups,
            }
        }
        None => Member {
            cluster_id: config.cluster_id.unwrap_or_else(|| ClusterId(*uuid::Uuid::new_v4().as_bytes())),
            node_id: NodeId(1),
            founder: true,
            directory_groups: config.directory_groups.unwrap_or_default(),
        },
    };
    data_dir.become_member(member)?;
    Ok(member)
}

fn refuse_other_groups(config: &Config, found: DirectoryGroups) -> Result<(), NodeError> {
    match config.directory_groups {
        Some(wanted) if wanted != found => Err(NodeError::DirectoryGroups { found, wanted }),
        _ => Ok(()),
    }
}
