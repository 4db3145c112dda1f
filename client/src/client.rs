//! The client handle: configuration, discovery, and the deadline of every call.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_proto::limits::{CALL_DEADLINE_MS_DEFAULT, CALL_DEADLINE_MS_MAX};
use hearth_proto::v1::admin_client::AdminClient;
use hearth_proto::v1::directory_client::DirectoryClient;
use hearth_proto::{ClusterId, NodeId, v1};

use crate::error::{DiscoverError, StatusError};
use crate::peer::Router;
use crate::topology::Topology;

/// What a client is told.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// `HOST:PORT` of the gRPC services of one or more members, the caller's own node first.
    pub seeds: Vec<String>,
    /// The cluster that every node must belong to; `None` takes any.
    pub cluster: Option<ClusterId>,
    /// Deadline of a call that names none.
    pub deadline: Duration,
}

impl ClientConfig {
    /// The defaults, with these seeds.
    pub fn new(seeds: impl IntoIterator<Item = impl Into<String>>) -> Self {
        Self {
            seeds: seeds.into_iter().map(Into::into).collect(),
            cluster: None,
            deadline: Duration::from_millis(CALL_DEADLINE_MS_DEFAULT),
        }
    }
}

/// A client of one cluster. Cheap to clone; all clones share connections.
#[derive(Clone)]
pub struct Client {
    pub(crate) inner: Arc<Inner>,
}

pub(crate) struct Inner {
    pub(crate) config: ClientConfig,
    pub(crate) topology: Topology,
}

impl Client {
    /// A client that connects when first used: starting an engine never waits for the store.
    ///
    /// # Errors
    /// [`DiscoverError::NoSeed`] and [`DiscoverError::BadSeed`]: mend the configuration.
    pub fn new(config: ClientConfig) -> Result<Self, DiscoverError> {
        if config.seeds.is_empty() {
            return Err(DiscoverError::NoSeed);
        }
        let seeds = config.seeds.iter().map(|seed| parse_seed(seed)).collect::<Result<_, _>>()?;
        Ok(Self { inner: Arc::new(Inner { topology: Topology::new(seeds), config }) })
    }

    /// What the client was told.
    pub fn config(&self) -> &ClientConfig {
        &self.inner.config
    }

    /// A client that has found its cluster.
    ///
    /// # Errors
    /// As [`Client::new`] and [`Client::nodes`].
    pub async fn connect(config: ClientConfig) -> Result<Self, DiscoverError> {
        let client = Self::new(config)?;
        client.nodes().await?;
        Ok(client)
    }

    /// The nodes of the cluster, from any member that answers within the default deadline.
    ///
    /// # Errors
    /// [`DiscoverError::Unreachable`] names the last address tried and why it failed;
    /// [`DiscoverError::OtherCluster`] names both clusters.
    pub async fn nodes(&self) -> Result<v1::NodesResponse, DiscoverError> {
        let deadline = self.deadline(None);
        let mut last = None;
        let routers = self.inner.topology.routers();
        for (position, router) in routers.iter().enumerate() {
            let asked = Instant::now();
            if !router.admits(asked) {
                last.get_or_insert((router, "it failed a moment ago and is left alone".to_owned()));
                continue;
            }
            let until = share_of(deadline, routers.len() - position);
            let mut service = DirectoryClient::new(router.channel.clone());
            let call = service.nodes(v1::NodesRequest {});
            match tokio::time::timeout_at(until.into(), call).await {
                Ok(Ok(answer)) => {
                    let answer = answer.into_inner();
                    self.refuse_other_cluster(router, &answer.cluster_id)?;
                    router.succeeded();
                    self.inner.topology.learn(&answer.nodes);
                    self.inner.topology.learn_home(router, NodeId(answer.node_id));
                    return Ok(answer);
                }
                Ok(Err(status)) => {
                    router.failed();
                    last = Some((router, cause_of(&status)));
                }
                Err(_) => {
                    router.was_silent(asked, until);
                    last = Some((router, "no answer in time".to_owned()));
                }
            }
        }
        let (seed, problem) = last.map_or_else(
            || (String::new(), "no member is known".to_owned()),
            |(router, problem)| (router.address.clone(), problem),
        );
        Err(DiscoverError::Unreachable { seed, problem })
    }

    /// What one node says of itself.
    ///
    /// # Errors
    /// [`StatusError`] if it does not answer within the default deadline.
    pub async fn status(&self, address: &str) -> Result<v1::StatusResponse, StatusError> {
        let error = |problem: String| StatusError { address: address.to_owned(), problem };
        let router = Router::new(address).ok_or_else(|| error("this is not an address".into()))?;
        let mut service = AdminClient::new(router.channel);
        let call = service.status(v1::StatusRequest {});
        match tokio::time::timeout_at(self.deadline(None).into(), call).await {
            Ok(Ok(answer)) => Ok(answer.into_inner()),
            Ok(Err(status)) => Err(error(cause_of(&status))),
            Err(_) => Err(error("no answer in time".into())),
        }
    }

    /// When a call that may take `patience` must be back.
    pub(crate) fn deadline(&self, patience: Option<Duration>) -> Instant {
        let longest = Duration::from_millis(CALL_DEADLINE_MS_MAX);
        Instant::now() + patience.unwrap_or(self.inner.config.deadline).min(longest)
    }

    /// Asks for the nodes in the background when the list is old, so that nodes that joined or went
    /// down are known without any call waiting for it.
    pub(crate) fn refresh_nodes_if_old(&self) {
        if self.inner.topology.take_refresh(Instant::now()) {
            let client = self.clone();
            tokio::spawn(async move {
                if let Err(error) = client.nodes().await {
                    tracing::debug!(%error, "cannot refresh the list of nodes");
                }
            });
        }
    }

    /// Believes nothing that a member of another cluster than the wanted one says.
    pub(crate) fn refuse_other_cluster(&self, router: &Router, found: &[u8]) -> Result<(), DiscoverError> {
        let Some(wanted) = self.inner.config.cluster else { return Ok(()) };
        // One that does not say its cluster is not known to be of the right one.
        let found = ClusterId::try_from(found).unwrap_or(ClusterId([0; 16]));
        if found == wanted {
            return Ok(());
        }
        Err(DiscoverError::OtherCluster { seed: router.address.clone(), found, wanted })
    }
}

/// The deadline of one attempt, when `attempts` more are to fit before `deadline`.
pub(crate) fn share_of(deadline: Instant, attempts: usize) -> Instant {
    let now = Instant::now();
    let attempts = u32::try_from(attempts.max(1)).unwrap_or(u32::MAX);
    now + deadline.saturating_duration_since(now) / attempts
}

/// The innermost cause of a status: what the operating system said, not what each layer made of it.
pub(crate) fn cause_of(status: &tonic::Status) -> String {
    let mut cause: &dyn std::error::Error = status;
    while let Some(inner) = cause.source() {
        cause = inner;
    }
    if std::ptr::eq(cause, std::ptr::from_ref(status)) {
        status.message().to_owned()
    } else {
        cause.to_string()
    }
}

fn parse_seed(seed: &str) -> Result<Arc<Router>, DiscoverError> {
    let bad = || DiscoverError::BadSeed { seed: seed.to_owned() };
    let (host, port) = seed.rsplit_once(':').ok_or_else(bad)?;
    if host.is_empty() || host.contains('/') || port.parse::<u16>().is_err() {
        return Err(bad());
    }
    Router::new(seed).map(Arc::new).ok_or_else(bad)
}
