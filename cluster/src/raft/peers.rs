//! One multiplexed HTTP/2 connection per peer, at the address that the control state knows.

use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hearth_proto::limits::{
    GRPC_CONNECTION_WINDOW_BYTES, GRPC_MESSAGE_BYTES_MAX, GRPC_STREAM_WINDOW_BYTES, NODES_MAX,
    PEER_CONNECT_MS, PEER_KEEP_ALIVE_ANSWER_MS, PEER_KEEP_ALIVE_MS, RAFT_ELECTION_MS_MAX,
};
use hearth_proto::v1::cluster_client::ClusterClient;
use hearth_proto::v1::raft_client::RaftClient;
use hearth_proto::{ClusterId, NodeId};
use rustc_hash::FxHashMap;
use tonic::transport::{Channel, Endpoint};

use super::machine::{Replicated, read};
use crate::state::State;

/// How long a failed call says something about a node: while there is no leader, voters try each other a few
/// times in it.
const SILENCE_COUNTS: Duration = Duration::from_millis(RAFT_ELECTION_MS_MAX * 16);

/// The way to the other nodes. Clones share the connections.
#[derive(Clone, Debug)]
pub(crate) struct Peers(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    cluster: ClusterId,
    control: Arc<RwLock<Replicated>>,
    channels: Mutex<FxHashMap<NodeId, (String, Channel)>>,
    /// Nodes whose last call failed, and when that was.
    silent: Mutex<FxHashMap<NodeId, Instant>>,
}

/// An address that is not one.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{address:?} is not an address of the form host:port")]
pub(crate) struct AddressError {
    pub(crate) address: String,
}

impl Peers {
    pub(crate) fn new(cluster: ClusterId, control: Arc<RwLock<Replicated>>) -> Self {
        Self(Arc::new(Inner { cluster, control, channels: Mutex::default(), silent: Mutex::default() }))
    }

    pub(crate) fn cluster(&self) -> ClusterId {
        self.0.cluster
    }

    /// The node's address in the control state, which follows it when it restarts elsewhere.
    pub(crate) fn known_address(&self, node: NodeId) -> Option<String> {
        let control = read(&self.0.control);
        let State::Control(control) = &control.state else { return None };
        control.node(node).map(|node| node.control_address.clone()).filter(|address| !address.is_empty())
    }

    /// Notes whether a node answered a call, for those who want to know what is missing.
    pub(super) fn note(&self, node: NodeId, answered: bool) {
        let mut silent = self.0.silent.lock().unwrap_or_else(PoisonError::into_inner);
        if answered {
            silent.remove(&node);
        } else if silent.len() < NODES_MAX {
            silent.insert(node, Instant::now());
        }
    }

    /// Whether the last call to the node failed, a moment ago.
    pub(crate) fn is_silent(&self, node: NodeId) -> bool {
        let silent = self.0.silent.lock().unwrap_or_else(PoisonError::into_inner);
        silent.get(&node).is_some_and(|at| at.elapsed() < SILENCE_COUNTS)
    }

    pub(super) fn raft(&self, node: NodeId, fallback: &str) -> Result<RaftClient<Channel>, AddressError> {
        let client = RaftClient::new(self.channel(node, fallback)?);
        Ok(client
            .max_decoding_message_size(GRPC_MESSAGE_BYTES_MAX)
            .max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX))
    }

    pub(crate) fn cluster_service(
        &self,
        node: NodeId,
        fallback: &str,
    ) -> Result<ClusterClient<Channel>, AddressError> {
        let client = ClusterClient::new(self.channel(node, fallback)?);
        Ok(client.max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX))
    }

    fn channel(&self, node: NodeId, fallback: &str) -> Result<Channel, AddressError> {
        let address = self.known_address(node).unwrap_or_else(|| fallback.to_owned());
        let mut channels = self.0.channels.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((held, channel)) = channels.get(&node)
            && *held == address
        {
            return Ok(channel.clone());
        }
        let channel = connect_lazy(&endpoint(&address)?);
        if channels.len() >= NODES_MAX {
            channels.clear();
        }
        channels.insert(node, (address, channel.clone()));
        Ok(channel)
    }
}

/// A channel that connects when it is used.
fn connect_lazy(endpoint: &Endpoint) -> Channel {
    #[cfg(feature = "sim")]
    if let Some(channel) = crate::sim::connect(endpoint) {
        return channel;
    }
    endpoint.connect_lazy()
}

/// How this node connects to another one.
pub(crate) fn endpoint(address: &str) -> Result<Endpoint, AddressError> {
    let endpoint = Endpoint::from_shared(format!("http://{address}"))
        .map_err(|_| AddressError { address: address.to_owned() })?;
    Ok(endpoint
        .tcp_nodelay(true)
        .connect_timeout(Duration::from_millis(PEER_CONNECT_MS))
        // Without keep-alive a connection that a partition cut is never given up.
        .http2_keep_alive_interval(Duration::from_millis(PEER_KEEP_ALIVE_MS))
        .keep_alive_timeout(Duration::from_millis(PEER_KEEP_ALIVE_ANSWER_MS))
        .keep_alive_while_idle(true)
        .initial_connection_window_size(GRPC_CONNECTION_WINDOW_BYTES)
        .initial_stream_window_size(GRPC_STREAM_WINDOW_BYTES))
}
