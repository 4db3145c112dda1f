//! The receiving end of the Raft transport.

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};

use futures::stream::BoxStream;
use futures::{Stream, StreamExt, TryStreamExt};
use hearth_proto::v1::raft_server::Raft;
use hearth_proto::{ClusterId, GroupId, NodeId, v1};
use openraft::raft::{AppendEntriesRequest, AppendEntriesResponse, TransferLeaderRequest, VoteRequest};
use openraft::vote::RaftLeaderId;
use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status, Streaming};

use super::group::{Group, Said};
use super::log_store::{decode, encode};
use super::network::{PAYLOAD_VERSION, is_whole};
use super::snapshot::{SnapshotFile, verify};
use super::types::{SnapshotMeta, TypeConfig, Vote, decode_shared};
use crate::state::State;

/// Serves the Raft calls of every group of this node.
#[derive(Clone, Debug)]
pub(crate) struct RaftService {
    cluster: ClusterId,
    node: NodeId,
    /// The control group first.
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

    fn open<T: Sent>(&self, request: &v1::RaftRequest) -> Result<(&Arc<Group>, T), Status> {
        let group =
            self.group(&request.cluster_id, request.group_id, request.target, request.payload_version)?;
        let message: T =
            decode_shared(&request.payload).map_err(|_| Status::invalid_argument("an unreadable payload"))?;
        self.refuse_removed(group, message.sender())?;
        if !message.is_whole() {
            return Err(Status::invalid_argument("entries do not follow each other"));
        }
        Ok((group, message))
    }

    /// Refuses a node that was removed, once the group does without it. As long as it is a member the group
    /// may need it, if only to agree that it goes.
    fn refuse_removed(&self, group: &Group, sender: NodeId) -> Result<(), Status> {
        let control = self.groups.first().map(|control| control.replicated());
        let removed = control.is_some_and(|replicated| match &replicated.state {
            State::Control(control) => control.is_removed(sender),
            State::Directory(_) => false,
        });
        if !removed {
            return Ok(());
        }
        let (voters, learners) = group.members();
        if voters.contains(&sender) || learners.contains(&sender) {
            return Ok(());
        }
        Err(Status::failed_precondition(format!("node {sender} was removed from the cluster")))
    }
}

/// A message that says who sent it.
trait Sent: DeserializeOwned {
    fn sender(&self) -> NodeId;

    /// Whether nothing is missing within it.
    fn is_whole(&self) -> bool {
        true
    }
}

impl Sent for AppendEntriesRequest<TypeConfig> {
    fn sender(&self) -> NodeId {
        node_of(&self.vote)
    }

    /// Entries behind a hole would be written, and never be found to be wrong.
    fn is_whole(&self) -> bool {
        is_whole(self)
    }
}

impl Sent for VoteRequest<TypeConfig> {
    fn sender(&self) -> NodeId {
        node_of(&self.vote)
    }
}

impl Sent for TransferLeaderRequest<TypeConfig> {
    fn sender(&self) -> NodeId {
        node_of(self.from_leader())
    }
}

fn node_of(vote: &Vote) -> NodeId {
    NodeId(*vote.leader_id().node_id())
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
        let said = Said::now(&message);
        let answer = group.raft().append_entries(message).await.map_err(stopped)?;
        group.note_append(&answer, said);
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
            // Of the appends that are not answered yet: there is an answer for each, in their order.
            let said = Arc::new(Mutex::new(VecDeque::from([Said::now(&message)])));
            let heard = said.clone();
            let accept = move |next: Result<v1::RaftRequest, Status>| {
                let next = next.ok().filter(|next| next.group_id == first.group_id)?;
                let (_, message) = service.open(&next).ok()?;
                heard.lock().unwrap_or_else(PoisonError::into_inner).push_back(Said::now(&message));
                Some(message)
            };
            let rest = requests.scan((), move |(), next| std::future::ready(accept(next)));
            let answers = raft.stream_append(futures::stream::iter([message]).chain(rest));
            // Boxed, because the opaque type would seem to borrow from the handle.
            let answers: BoxStream<'static, _> = answers.boxed();
            Ok::<_, Status>(answers.map(move |answer| {
                let answer: AppendEntriesResponse<TypeConfig> = answer.map_err(stopped)?.into();
                let said = said.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
                said.into_iter().for_each(|said| group.note_append(&answer, said));
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
        self.refuse_removed(group, node_of(&vote))?;
        let arrival = group.arrival().try_lock();
        let mut arrival = arrival.map_err(|_| Status::resource_exhausted("another snapshot is arriving"))?;
        let arrived = arrival.receive(&header, chunks).await?;
        verify_arrived(&arrived.file, group.id()).await?;
        let snapshot = openraft::storage::Snapshot { meta, snapshot: arrived.file.clone() };
        let raft = group.raft().clone();
        // To its end, although the sender may have gone: until then the file is in use.
        let installed = tokio::spawn(async move {
            let answer = raft.install_full_snapshot(vote, snapshot).await;
            drop(arrived);
            answer
        });
        respond(&installed.await.map_err(stopped)?.map_err(stopped)?)
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

/// To go on from a damaged snapshot would stop the group here, and it is the sender's that is damaged.
async fn verify_arrived(snapshot: &SnapshotFile, group: GroupId) -> Result<(), Status> {
    let arrived = snapshot.clone();
    let verified = crate::offload::spawn_blocking(move || verify(&arrived, group)).await;
    match verified.map_err(std::io::Error::other).and_then(|verified| verified) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::Unsupported => {
            Err(Status::failed_precondition(error.to_string()))
        }
        Err(error) => Err(Status::data_loss(error.to_string())),
    }
}

fn respond<T: Serialize>(answer: &T) -> Result<Response<v1::RaftResponse>, Status> {
    let payload = encode(answer).map_err(|error| Status::internal(error.to_string()))?;
    Ok(Response::new(v1::RaftResponse { payload: payload.into() }))
}

fn stopped(error: impl std::fmt::Display) -> Status {
    Status::unavailable(format!("the group has stopped: {error}"))
}

/// The request of a candidate for a pre-vote, as [`super::network::Network`] sends it.
#[cfg(test)]
pub(crate) fn pre_vote_request(
    cluster: ClusterId,
    group: GroupId,
    target: NodeId,
    from: NodeId,
) -> v1::RaftRequest {
    let vote = openraft::alias::VoteOf::<TypeConfig>::new(1_000, from.0);
    let message = VoteRequest::<TypeConfig>::new(vote, None);
    v1::RaftRequest {
        cluster_id: cluster.0.to_vec().into(),
        group_id: group.0,
        target: target.0,
        payload: encode(&message).expect("a vote can be written").into(),
        payload_version: PAYLOAD_VERSION,
    }
}
