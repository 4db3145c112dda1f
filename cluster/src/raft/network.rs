//! openraft's network over gRPC: every call carries cluster, group and target, and ends by a deadline.

use std::future::Future;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};

use futures::{Stream, StreamExt};
use hearth_proto::limits::{
    RAFT_APPEND_MS, RAFT_HEARTBEAT_MS, SNAPSHOT_BYTES_PER_SECOND, SNAPSHOT_CHUNK_BYTES,
};
use hearth_proto::{GroupId, NodeId, v1};
use openraft::OptionalSend;
use openraft::entry::RaftEntry;
use openraft::errors::{NetworkError, RPCError, ReplicationClosed, StreamingError, Timeout, Unreachable};
use openraft::network::{RPCOption, RPCTypes, RaftNetworkFactory, RaftNetworkV2};
use openraft::raft::{
    AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, StreamAppendResult, TransferLeaderRequest,
    TransferLeaderResponse, VoteRequest, VoteResponse,
};
use serde::Serialize;
use serde::de::DeserializeOwned;
use tonic::{Code, Response, Status};

use super::log_store::{decode, encode};
use super::pace::Pace;
use super::peers::Peers;
use super::snapshot::SnapshotFile;
use super::types::{LogId, SnapshotMeta, TypeConfig, Vote};
use crate::mutant::{self, Mutant};
use crate::offload::spawn_blocking;

type Node = openraft::alias::NodeOf<TypeConfig>;
type Snapshot = openraft::alias::SnapshotOf<TypeConfig, SnapshotFile>;
type RpcResult<T> = Result<T, RPCError<TypeConfig>>;
type BoxStream<'a, T> = std::pin::Pin<Box<dyn Stream<Item = T> + Send + 'a>>;
type BoxFuture<'a, T> = std::pin::Pin<Box<dyn Future<Output = T> + Send + 'a>>;

/// The format of the payloads: openraft's messages as this build has them, in postcard.
pub(super) const PAYLOAD_VERSION: u32 = 2;
/// Append requests of one stream that may wait for their answers.
const STREAM_IN_FLIGHT_MAX: usize = 64;

/// Makes the links of one group.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) group: GroupId,
    pub(crate) node: NodeId,
    pub(crate) peers: Peers,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Link;

    async fn new_client(&mut self, target: u64, node: &Node) -> Link {
        Link { network: self.clone(), target: NodeId(target), address: node.addr.clone(), streams: true }
    }

    async fn new_heartbeat_client(&mut self, target: u64, node: &Node) -> Link {
        // A heartbeat is one message; a stream for each would only cost more.
        Link { streams: false, ..self.new_client(target, node).await }
    }
}

/// The way from one group's leader or candidate here to one other member.
#[derive(Clone, Debug)]
pub(crate) struct Link {
    network: Network,
    target: NodeId,
    /// From the group's membership; used until the control state knows better.
    address: String,
    streams: bool,
}

impl Link {
    fn client(&self) -> RpcResult<v1::raft_client::RaftClient<tonic::transport::Channel>> {
        self.network
            .peers
            .raft(self.target, &self.address)
            .map_err(|error| RPCError::Unreachable(Unreachable::new(&error)))
    }

    fn request<T: Serialize>(&self, message: &T) -> RpcResult<v1::RaftRequest> {
        let payload = encode(message).map_err(|error| RPCError::Network(NetworkError::new(&error)))?;
        Ok(v1::RaftRequest {
            cluster_id: self.network.peers.cluster().0.to_vec().into(),
            group_id: self.network.group.0,
            target: self.target.0,
            payload: payload.into(),
            payload_version: PAYLOAD_VERSION,
        })
    }

    async fn call<T, F>(
        &self,
        action: RPCTypes,
        limit: Duration,
        call: impl FnOnce(v1::raft_client::RaftClient<tonic::transport::Channel>) -> F,
    ) -> RpcResult<T>
    where
        T: DeserializeOwned,
        F: Future<Output = Result<Response<v1::RaftResponse>, Status>>,
    {
        let client = self.client()?;
        let called = tokio::time::timeout(limit, call(client)).await;
        self.note(matches!(&called, Ok(Ok(_))));
        match called {
            Ok(Ok(response)) => read_response(&response.into_inner()),
            Ok(Err(status)) => Err(status_error(&status)),
            Err(_) => Err(RPCError::Timeout(self.timed_out(action, limit))),
        }
    }

    fn note(&self, answered: bool) {
        self.network.peers.note(self.target, answered);
    }

    fn timed_out(&self, action: RPCTypes, timeout: Duration) -> Timeout<TypeConfig> {
        Timeout { action, id: self.network.node.0, target: self.target.0, timeout }
    }

    async fn open_stream<S>(
        &self,
        input: S,
        option: RPCOption,
    ) -> RpcResult<BoxStream<'static, RpcResult<StreamAppendResult<TypeConfig>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        // The time to live that openraft gives is a heartbeat's; entries have to be synced as well.
        let limit = option.soft_ttl().max(Duration::from_millis(RAFT_APPEND_MS));
        let mut client = self.client()?;
        let link = self.clone();
        // Responses come in the order of the requests; the queue keeps what each one answers.
        let (sent, ranges) = tokio::sync::mpsc::channel(STREAM_IN_FLIGHT_MAX);
        // Those of a stream that was given up, for want of entries that were purged since, end it: openraft then
        // goes on with what it decided instead.
        let whole = input.take_while(|request| std::future::ready(is_whole(request)));
        let requests = whole.filter_map(move |request| {
            let last = request.entries.last().map(RaftEntry::log_id).or(request.prev_log_id);
            let encoded = link.request(&request).ok();
            let sent = sent.clone();
            async move {
                let encoded = encoded?;
                sent.send((request.prev_log_id, last)).await.ok()?;
                Some(encoded)
            }
        });
        let opened = tokio::time::timeout(limit, client.append_stream(requests)).await;
        self.note(matches!(&opened, Ok(Ok(_))));
        let responses = match opened {
            Ok(Ok(responses)) => responses.into_inner(),
            Ok(Err(status)) => {
                // openraft waits between attempts inside the stream of requests, which a connection that
                // is refused never polls: without this pause it would try without end and without rest.
                tokio::time::sleep(Duration::from_millis(RAFT_HEARTBEAT_MS)).await;
                return Err(status_error(&status));
            }
            Err(_) => return Err(RPCError::Timeout(self.timed_out(RPCTypes::AppendEntries, limit))),
        };
        let link = self.clone();
        let state = (responses, ranges, false);
        let results = futures::stream::unfold(state, move |(mut responses, mut ranges, ended)| {
            let link = link.clone();
            async move {
                if ended {
                    return None;
                }
                // While nothing is on its way there is nothing to wait for in vain.
                let (prev, last) = ranges.recv().await?;
                let item = match tokio::time::timeout(limit, responses.message()).await {
                    Ok(Ok(Some(response))) => append_result(&response, prev, last),
                    Ok(Ok(None)) => return None,
                    Ok(Err(status)) => Err(status_error(&status)),
                    Err(_) if mutant::is(Mutant::CommitWithoutQuorum) => Ok(Ok(last)),
                    Err(_) => Err(RPCError::Timeout(link.timed_out(RPCTypes::AppendEntries, limit))),
                };
                let ended = !matches!(item, Ok(Ok(_)));
                Some((item, (responses, ranges, ended)))
            }
        });
        Ok(Box::pin(results))
    }
}

impl RaftNetworkV2<TypeConfig> for Link {
    type SnapshotData = SnapshotFile;

    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<AppendEntriesResponse<TypeConfig>> {
        if !is_whole(&rpc) {
            let detail = "the entries to be sent do not follow each other";
            return Err(RPCError::Network(NetworkError::from_string(detail)));
        }
        let request = self.request(&rpc)?;
        let append = |mut client: v1::raft_client::RaftClient<_>| async move { client.append(request).await };
        self.call(RPCTypes::AppendEntries, option.soft_ttl(), append).await
    }

    fn stream_append<'s, S>(
        &'s mut self,
        input: S,
        option: RPCOption,
    ) -> BoxFuture<'s, RpcResult<BoxStream<'s, RpcResult<StreamAppendResult<TypeConfig>>>>>
    where
        S: Stream<Item = AppendEntriesRequest<TypeConfig>> + OptionalSend + Unpin + 'static,
    {
        if !self.streams {
            return openraft::network::stream_append_sequential(self, input, option);
        }
        let link = self.clone();
        Box::pin(async move {
            let results = link.open_stream(input, option).await?;
            Ok(results as BoxStream<'s, _>)
        })
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let request = self.request(&rpc)?;
        let vote = |mut client: v1::raft_client::RaftClient<_>| async move { client.vote(request).await };
        self.call(RPCTypes::Vote, option.soft_ttl(), vote).await
    }

    async fn pre_vote(
        &mut self,
        rpc: VoteRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<VoteResponse<TypeConfig>> {
        let request = self.request(&rpc)?;
        let vote = |mut client: v1::raft_client::RaftClient<_>| async move { client.pre_vote(request).await };
        self.call(RPCTypes::Vote, option.soft_ttl(), vote).await
    }

    async fn transfer_leader(
        &mut self,
        req: TransferLeaderRequest<TypeConfig>,
        option: RPCOption,
    ) -> RpcResult<TransferLeaderResponse<TypeConfig>> {
        let request = self.request(&req)?;
        let transfer =
            |mut client: v1::raft_client::RaftClient<_>| async move { client.transfer_leader(request).await };
        self.call(RPCTypes::TransferLeader, option.soft_ttl(), transfer).await
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        option: RPCOption,
    ) -> Result<SnapshotResponse<TypeConfig>, StreamingError<TypeConfig>> {
        let payload: (Vote, SnapshotMeta) = (vote, snapshot.meta);
        let payload = encode(&payload).map_err(|error| StreamingError::Network(NetworkError::new(&error)))?;
        let file = snapshot.snapshot;
        let checksum = file.checksum().map_err(|error| StreamingError::Network(NetworkError::new(&error)))?;
        let header = v1::SnapshotHeader {
            cluster_id: self.network.peers.cluster().0.to_vec().into(),
            group_id: self.network.group.0,
            target: self.target.0,
            payload: payload.into(),
            size_bytes: file.size_bytes,
            payload_version: PAYLOAD_VERSION,
            checksum,
            offset: 0,
        };
        let install = |mut client: v1::raft_client::RaftClient<_>| async move {
            // What an earlier transfer brought is not sent again.
            let offset = client.snapshot_offset(header.clone()).await?.into_inner().offset;
            let offset = offset.min(header.size_bytes);
            let header = v1::SnapshotHeader { offset, ..header };
            let first = v1::SnapshotChunk { header: Some(header), data: bytes::Bytes::new() };
            let chunks = futures::stream::iter([first]).chain(chunks(file, offset));
            client.install_snapshot(chunks).await
        };
        let send = self.call(RPCTypes::InstallSnapshot, option.soft_ttl(), install);
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = send => sent.map_err(|error| match error {
                RPCError::Timeout(error) => StreamingError::Timeout(error),
                RPCError::Unreachable(error) => StreamingError::Unreachable(error),
                RPCError::Network(error) => StreamingError::Network(error),
                RPCError::RemoteError(error) => StreamingError::Network(NetworkError::new(&error)),
            }),
        }
    }
}

/// Whether the entries follow each other and the one before them. Those behind a hole would be written, and never
/// be found to be wrong.
pub(super) fn is_whole(request: &AppendEntriesRequest<TypeConfig>) -> bool {
    let first = request.prev_log_id.as_ref().map_or(0, |before| before.index + 1);
    request.entries.iter().zip(first..).all(|(entry, index)| entry.index() == index)
}

/// The file's bytes from there on, at a pace that leaves room for others. A file that cannot be read ends the
/// stream early, and the receiver refuses what it got because the size is wrong.
fn chunks(snapshot: SnapshotFile, offset: u64) -> impl Stream<Item = v1::SnapshotChunk> + Send {
    let pace = Pace::new(SNAPSHOT_BYTES_PER_SECOND, Instant::now());
    futures::stream::unfold((snapshot, offset, pace), |(snapshot, offset, mut pace)| async move {
        if offset >= snapshot.size_bytes {
            return None;
        }
        let left = usize::try_from(snapshot.size_bytes - offset).unwrap_or(usize::MAX);
        let wanted = left.min(SNAPSHOT_CHUNK_BYTES);
        let reader = snapshot.file.clone();
        let read = spawn_blocking(move || {
            let mut data = vec![0; wanted];
            reader.read_exact_at(&mut data, offset).map(|()| data)
        });
        match read.await {
            Ok(Ok(data)) => {
                tokio::time::sleep(pace.moved(wanted, Instant::now())).await;
                let chunk = v1::SnapshotChunk { header: None, data: data.into() };
                Some((chunk, (snapshot, offset + wanted as u64, pace)))
            }
            Ok(Err(error)) => {
                tracing::error!(%error, "a snapshot file cannot be read");
                None
            }
            Err(_) => None,
        }
    })
}

fn append_result(
    response: &v1::RaftResponse,
    prev: Option<LogId>,
    last: Option<LogId>,
) -> RpcResult<StreamAppendResult<TypeConfig>> {
    let answer: AppendEntriesResponse<TypeConfig> = read_response(response)?;
    // Nothing can conflict with the beginning of the log; only a broken peer says so.
    if answer.is_conflict() && prev.is_none() {
        let detail = "a conflict with the beginning of the log";
        return Err(RPCError::Network(NetworkError::from_string(detail)));
    }
    Ok(answer.into_stream_result(prev, last))
}

fn read_response<T: DeserializeOwned>(response: &v1::RaftResponse) -> RpcResult<T> {
    decode(&response.payload).map_err(|error| RPCError::Network(NetworkError::new(&error)))
}

/// What cannot be helped at once makes openraft back off; the rest it tries again.
fn status_error(status: &Status) -> RPCError<TypeConfig> {
    match status.code() {
        Code::Unavailable | Code::FailedPrecondition | Code::Unimplemented | Code::NotFound => {
            RPCError::Unreachable(Unreachable::new(status))
        }
        _ => RPCError::Network(NetworkError::new(status)),
    }
}

#[cfg(test)]
mod tests {
    use openraft::testing::{blank_ent, log_id};

    use super::*;

    #[test]
    fn entries_are_sent_and_taken_only_if_they_follow_each_other() {
        let prev = |index| Some(log_id::<TypeConfig>(1, 1, index));
        for (prev_log_id, indexes, expected) in [
            (None, vec![], true),
            (None, vec![0, 1], true),
            (None, vec![1], false),
            (prev(4), vec![], true),
            (prev(4), vec![5, 6], true),
            (prev(4), vec![6], false),
            (prev(4), vec![5, 7], false),
        ] {
            let said = format!("{indexes:?} after {prev_log_id:?}");
            let entries = indexes.into_iter().map(|index| blank_ent::<TypeConfig>(1, 1, index)).collect();
            let vote = Vote::new(1, 1);
            let message =
                AppendEntriesRequest::<TypeConfig> { vote, prev_log_id, entries, leader_commit: None };
            assert_eq!(is_whole(&message), expected, "{said}");
        }
    }
}
