//! How a node without an identity gets one from any member of a cluster.

use std::time::{Duration, Instant};

use hearth_proto::limits::PROPOSE_RETRY_MS;
use hearth_proto::v1::cluster_client::ClusterClient;
use hearth_proto::{ClusterId, DirectoryGroups, NodeId, v1};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request};
use v1::join_response::Result as Joined;

use crate::config::NodeAddresses;
use crate::error::JoinError;
use crate::raft::endpoint;
use crate::state::command;

/// What a node says of itself when it asks to join.
#[derive(Clone, Debug)]
pub struct JoinRequest {
    /// Random bytes that the node keeps for ever; the same ones always get the same node id.
    pub node_uuid: [u8; 16],
    /// Its name in listings.
    pub name: String,
    /// What it fails together with.
    pub zone: String,
    /// Where others reach it. The leader connects there, so the services must be mounted soon.
    pub addresses: NodeAddresses,
    /// The cluster that it belongs to, if it has one already.
    pub expected_cluster: Option<ClusterId>,
    /// How many groups must share the directory there, if that matters.
    pub expected_directory_groups: Option<DirectoryGroups>,
}

/// The identity that a node was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JoinGrant {
    /// The cluster it belongs to from now on.
    pub cluster_id: ClusterId,
    /// Its id in that cluster.
    pub node_id: NodeId,
    /// The groups that share the directory there.
    pub directory_groups: DirectoryGroups,
}

/// Asks a member of the cluster for an identity. Any member will do; asking again is harmless.
///
/// # Errors
/// [`JoinError`], by the deadline: another seed or a later try for `Unreachable` and `NoLeader`,
/// a change of configuration for the rest.
pub async fn request_join(
    seed: &str,
    request: JoinRequest,
    deadline: Instant,
) -> Result<JoinGrant, JoinError> {
    let endpoint = endpoint(seed).map_err(|error| JoinError::BadAddress { seed: error.address })?;
    let expected = request.expected_cluster;
    let message = v1::JoinRequest {
        node_uuid: request.node_uuid.to_vec().into(),
        name: request.name,
        control_address: request.addresses.control,
        data_address: request.addresses.data,
        expected_cluster_id: expected.map(|id| id.0.to_vec()).unwrap_or_default().into(),
        command_version: command::VERSION,
        expected_directory_groups: request.expected_directory_groups.map_or(0, DirectoryGroups::count),
        zone: request.zone,
    };
    let mut last = JoinError::Unreachable { seed: seed.to_owned(), detail: "no time was left".into() };
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Err(last);
        }
        match tokio::time::timeout(left, connect(&endpoint)).await {
            Ok(Ok(channel)) => match ask(seed, channel, message.clone(), deadline).await {
                Err(error @ JoinError::NoLeader { .. }) => last = error,
                Ok(response) => return read_answer(seed, response, expected),
                Err(error) => return Err(error),
            },
            Ok(Err(error)) => {
                let cause = std::error::Error::source(&error).map_or(error.to_string(), ToString::to_string);
                last = JoinError::Unreachable { seed: seed.to_owned(), detail: cause };
            }
            Err(_) => return Err(last),
        }
        let left = deadline.saturating_duration_since(Instant::now());
        tokio::time::sleep(left.min(Duration::from_millis(PROPOSE_RETRY_MS))).await;
    }
}

async fn connect(endpoint: &Endpoint) -> Result<Channel, tonic::transport::Error> {
    #[cfg(feature = "sim")]
    if let Some(channel) = crate::sim::connect(endpoint) {
        return Ok(channel);
    }
    endpoint.connect().await
}

async fn ask(
    seed: &str,
    channel: Channel,
    message: v1::JoinRequest,
    deadline: Instant,
) -> Result<v1::JoinResponse, JoinError> {
    let limit = deadline.saturating_duration_since(Instant::now());
    let mut request = Request::new(message);
    request.set_timeout(limit);
    let no_leader = |detail: String| JoinError::NoLeader { seed: seed.to_owned(), detail };
    match tokio::time::timeout(limit, ClusterClient::new(channel).join(request)).await {
        Ok(Ok(response)) => Ok(response.into_inner()),
        Ok(Err(status)) => match status.code() {
            Code::Unimplemented | Code::InvalidArgument => {
                Err(JoinError::Refused { seed: seed.to_owned(), detail: status.message().to_owned() })
            }
            _ => Err(no_leader(status.message().to_owned())),
        },
        Err(_) => Err(no_leader("no answer in time".into())),
    }
}

fn read_answer(
    seed: &str,
    response: v1::JoinResponse,
    expected: Option<ClusterId>,
) -> Result<JoinGrant, JoinError> {
    let refused = |detail: String| JoinError::Refused { seed: seed.to_owned(), detail };
    let found = ClusterId::try_from(&response.cluster_id[..]).map_err(|error| refused(error.to_string()))?;
    if let Some(expected) = expected
        && expected != found
    {
        return Err(JoinError::OtherCluster { seed: seed.to_owned(), found, expected });
    }
    match response.result {
        Some(Joined::NodeId(id)) if id != 0 => {
            // A later build may allow more than this one runs.
            let groups = DirectoryGroups::from_wire(response.directory_groups);
            let directory_groups = groups.map_err(|error| refused(error.to_string()))?;
            Ok(JoinGrant { cluster_id: found, node_id: NodeId(id), directory_groups })
        }
        Some(Joined::Refused(reason)) => Err(refused(reason.detail)),
        _ => Err(refused("it gave no node id".into())),
    }
}
