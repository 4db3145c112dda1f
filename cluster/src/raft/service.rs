//! The receiving end of the Raft transport.

use std::pin::Pin;
use std::sync::Arc;

use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use hearth_proto::v1::raft_server::Raft;
use hearth_proto::{ClusterId, GroupId, NodeId, v1};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::group::Group;
use super::log_store::{decode, encode};
use super::network::PAYLOAD_VERSION;
use super::types::{SnapshotMeta, TypeConfig, Vote};

/// Serves the Raft calls of every group of this node.
#[derive(Clone, Debug)]
pub(crate) struct RaftService {
    cluster: ClusterId,
    node: NodeId,
    groups: Arc<[Arc<Group>]>,
    stopping: CancellationToken,
}

impl RaftService {
    /// Streams end when `stopping` fires: a leader would keep them open for ever, and with them the
    /// listener that waits for its calls to end.
    pub(crate) fn new(
        cluster: ClusterId,
        node: NodeId,
        groups: Arc<[Arc<Group>]>,
        stopping: CancellationToken,
    ) -> Self {
        Self { cluster, node, groups, stopping }
    }

    /// Checks that a message is for this node of this cluster before its payload is opened.
    fn group(
        &self,
        cluster_id: &[u8],
        group_id: u32,
        target: u64,
        version: u32,
    ) -> Result<&Arc<Group>, Status> {
        check_cluster(self.cluster, cluster_id)?;
        if version != PAYLOAD_VERSION {
            let detail = format!("the payload has version {version}, this build knows {PAYLOAD_VERSION}");
            return Err(Status::failed_precondition(detail));
        }
        if target != self.node.0 {
            let node = self.node;
            return Err(Status::failed_precondition(format!("this is node {node}, not node {target}")));
        }
        let group = self.groups.iter().find(|group| group.id() == GroupId(group_id));
        group.ok_or_else(|| Status::not_found(format!("this node has no group {group_id}")))
    }

    fn open<T: DeserializeOwned>(&self, request: &v1::RaftRequest) -> Result<(&Arc<Group>, T), Status> {
        let group =
            self.group(&request.cluster_id, request.group_id, request.target, request.payload_version)?;
        let message =
            decode(&request.payload).map_err(|_| Status::invalid_argument("an unreadable payload"))?;
        Ok((group, message))
    }
}

/// Refuses what was meant for another cluster, and names both.
pub(crate) fn check_cluster(ours: ClusterId, given: &[u8]) -> Result<(), Status> {
    match ClusterId::try_from(given) {
        Ok(given) if given == ours => Ok(()),
        Ok(given) => Err(Status::failed_precondition(format!("this is cluster {ours}, not cluster {given}"))),
        Err(error) => Err(Status::invalid_argument(error.to_string())),
    }
}

#[tonic::async_trait]
impl Raft for RaftService {
    async fn append(&self, request: Request<v1::RaftRequest>) -> Result<Response<v1::RaftResponse>, Status> {
        let (group, message) = self.open::<AppendEntriesRequest<TypeConfig>>(request.get_ref())?;
        let answer = group.raft().append_entries(message).await.map_err(stopped)?;
        group.note_append(&answer);
        respond(&answer)
    }

    type AppendStreamStream = Pin<Box<dyn Stream<Item = Result<v1::RaftResponse, Status>> + Send>>;

    async fn append_stream(
        &self,
        request: Request<Streaming<v1::RaftRequest>>,
    ) -> Result<Response<Self::AppendStreamStream>, Status> {
        let service = self.clone();
        let stopping = self.stopping.clone().cancelled_owned();
        let mut requests = Box::pin(request.into_inner().take_until(stopping));
        // The first message says which group the stream is for; the response headers must not wait for it.
        let responses = futures::stream::once(async move {
            let first =
                requests.try_next().await?.ok_or_else(|| Status::invalid_argument("an empty stream"))?;
            let (group, message) = service.open::<AppendEntriesRequest<TypeConfig>>(&first)?;
            let group = group.clone();
            let raft = group.raft().clone();
            // A stream that breaks or turns to another group is cut, and the sender begins a new one.
            let accept = move |next: Result<v1::RaftRequest, Status>| {
                let next = next.ok().filter(|next| next.group_id == first.group_id)?;
                service.open(&next).ok().map(|(_, message)| message)
            };
            let rest = requests.scan((), move |(), next| std::future::ready(accept(next)));
            let answers = raft.stream_append(futures::stream::iter([message]).chain(rest));
            // Boxed, because the opaque type would seem to borrow from the handle.
            let answers: BoxStream<'static, _> = answers.boxed();
            Ok::<_, Status>(answers.map(move |answer| {
                let answer: AppendEntriesResponse<TypeConfig> = answer.map_err(stopped)?.into();
                group.note_append(&answer);
                respond(&answer).map(Response::into_inner)
            }))
        });
        let flat = responses.flat_map(|opened| match opened {
            Ok(answers) => answers.boxed(),
            Err(status) => futures::stream::iter([Err(status)]).boxed(),
        });
        Ok(Response::new(Box::pin(flat)))
    }

    async fn vote(&self, request: Request<v1::RaftRequest>) -> Result<Response<v1::RaftResponse>, Status> {
        let (group, message) = self.open(request.get_ref())?;
        respond(&group.raft().vote(message).await.map_err(stopped)?)
    }

    async fn pre_vote(
        &self,
        request: Request<v1::RaftRequest>,
    ) -> Result<Response<v1::RaftResponse>, Status> {
        let (group, message) = self.open(request.get_ref())?;
        respond(&group.raft().pre_vote(message).await.map_err(stopped)?)
    }

    async fn transfer_leader(
        &self,
        request: Request<v1::RaftRequest>,
    ) -> Result<Response<v1::RaftResponse>, Status> {
        let (group, message) = self.open(request.get_ref())?;
        respond(&group.raft().handle_transfer_leader(message).await.map_err(stopped)?)
    }

    async fn install_snapshot(
        &self,
        request: Request<Streaming<v1::SnapshotChunk>>,
    ) -> Result<Response<v1::RaftResponse>, Status> {
        let mut chunks = request.into_inner();
        let header = chunks.message().await?.and_then(|first| first.header);
        let header =
            header.ok_or_else(|| Status::invalid_argument("a snapshot must begin with its header"))?;
        let group = self.group(&header.cluster_id, header.group_id, header.target, header.payload_version)?;
        let (vote, meta): (Vote, SnapshotMeta) =
            decode(&header.payload).map_err(|_| Status::invalid_argument("an unreadable payload"))?;
        let arrival = group.arrival().try_lock();
        let mut arrival = arrival.map_err(|_| Status::resource_exhausted("another snapshot is arriving"))?;
        let snapshot = arrival.receive(&header, chunks).await?;
        let snapshot = openraft::storage::Snapshot { meta, snapshot };
        respond(&group.raft().install_full_snapshot(vote, snapshot).await.map_err(stopped)?)
    }

    async fn snapshot_offset(
        &self,
        request: Request<v1::SnapshotHeader>,
    ) -> Result<Response<v1::SnapshotOffsetResponse>, Status> {
        let header = request.into_inner();
        let group = self.group(&header.cluster_id, header.group_id, header.target, header.payload_version)?;
        let arrival = group.arrival().try_lock();
        let arrival = arrival.map_err(|_| Status::resource_exhausted("another snapshot is arriving"))?;
        Ok(Response::new(v1::SnapshotOffsetResponse { offset: arrival.offset(&header) }))
    }
}

fn respond<T: Serialize>(answer: &T) -> Result<Response<v1::RaftResponse>, Status> {
    let payload = encode(answer).map_err(|error| Status::internal(error.to_string()))?;
    Ok(Response::new(v1::RaftResponse { payload: payload.into() }))
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("the group has stopped: {error}"))
}
