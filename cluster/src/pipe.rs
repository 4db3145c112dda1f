//! Proposals that come to stand in a group's log in the order in which they were given, several of them on
//! their way at a time.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{BoxStream, FuturesOrdered};
use futures::{FutureExt, Stream, StreamExt};
use hearth_proto::limits::{COMMAND_BYTES_MAX, PROPOSE_ATTEMPT_MS, REPORTS_IN_FLIGHT_MAX};
use hearth_proto::{GroupId, LogIndex, NodeId, v1};
use prost::Message;
use tokio::sync::mpsc;
use tonic::{Status, Streaming};
use v1::propose_response::Result as Answer;

use crate::cluster::Cluster;
use crate::propose::answer_peer;
use crate::raft::{Group, LocalProposal, Pending, check_cluster};

type Outcomes = FuturesOrdered<futures::future::BoxFuture<'static, LocalProposal>>;

/// The way to a group's leader. When it ends, what was not answered may or may not be committed.
pub(crate) enum Pipe {
    Here {
        group: Arc<Group>,
        outcomes: Outcomes,
    },
    There {
        proposals: mpsc::Sender<v1::OrderedProposal>,
        answers: Box<Streaming<v1::ProposeResponse>>,
        to: To,
    },
}

/// What every proposal says of where it goes.
pub(crate) struct To {
    cluster_id: Bytes,
    group: GroupId,
}

impl To {
    fn proposal(&self, command: Bytes) -> v1::OrderedProposal {
        v1::OrderedProposal { cluster_id: self.cluster_id.clone(), group_id: self.group.0, command }
    }
}

impl Pipe {
    /// Gives it an encoded command. At most [`REPORTS_IN_FLIGHT_MAX`] may wait for their answers.
    pub(crate) async fn send(&mut self, command: Bytes) {
        match self {
            Self::Here { group, outcomes } => {
                outcomes.push_back(group.begin_propose(command).await.outcome().boxed());
            }
            // If the other end is gone, no answer says so.
            Self::There { proposals, to, .. } => drop(proposals.send(to.proposal(command)).await),
        }
    }

    /// The answer to the first proposal that has none yet; `None` when the way has ended.
    ///
    /// # Cancel safety
    /// Nothing is lost.
    pub(crate) async fn next(&mut self) -> Option<LocalProposal> {
        match self {
            Self::Here { outcomes, .. } => outcomes.next().await,
            Self::There { answers, .. } => match answers.message().await.ok().flatten()?.result? {
                Answer::Applied(applied) => {
                    let outcome = applied.outcome.unwrap_or_default();
                    Some(LocalProposal::Applied(LogIndex(applied.log_index), outcome))
                }
                Answer::NotLeader(other) => {
                    let leader = Some((NodeId(other.leader_id), other.leader_address));
                    Some(LocalProposal::NotLeader(leader.filter(|(leader, _)| leader.0 != 0)))
                }
                Answer::Unknown(_) => Some(LocalProposal::Unknown),
            },
        }
    }
}

impl Cluster {
    /// Opens a way to the leader that this node knows; `None` if there is none, or it cannot be reached.
    pub(crate) async fn open_pipe(&self, group: &Arc<Group>) -> Option<Pipe> {
        let (leader, address) = self.known_leader(group)?;
        if leader == self.node_id() {
            return Some(Pipe::Here { group: group.clone(), outcomes: Outcomes::new() });
        }
        let mut client = self.0.peers.cluster_service(leader, &address).ok()?;
        let (proposals, queue) = mpsc::channel(REPORTS_IN_FLIGHT_MAX);
        let queue = futures::stream::unfold(queue, async |mut queue| Some((queue.recv().await?, queue)));
        let opened = client.propose_in_order(queue);
        let limit = Duration::from_millis(PROPOSE_ATTEMPT_MS);
        let answers = tokio::time::timeout(limit, opened).await.ok()?.ok()?.into_inner();
        let to = To { cluster_id: self.cluster_id().0.to_vec().into(), group: group.id() };
        Some(Pipe::There { proposals, answers: Box::new(answers), to })
    }

    /// The other end of a way.
    pub(crate) fn propose_in_order(
        &self,
        proposals: impl Stream<Item = Result<v1::OrderedProposal, Status>> + Send + 'static,
    ) -> BoxStream<'static, Result<v1::ProposeResponse, Status>> {
        let cluster = self.clone();
        // The leader holds its ways open as long as it runs.
        let stopping = self.0.stopping.clone().cancelled_owned();
        let begin = move |proposal| {
            let cluster = cluster.clone();
            async move { cluster.begin_ordered(proposal?).await }
        };
        let begun = proposals.take_until(stopping).then(begin);
        let answered = begun.map(|begun: Result<Pending, Status>| async {
            let outcome = begun?.outcome().await;
            Ok(answer_peer(outcome))
        });
        answered.buffered(REPORTS_IN_FLIGHT_MAX).boxed()
    }

    async fn begin_ordered(&self, proposal: v1::OrderedProposal) -> Result<Pending, Status> {
        check_cluster(self.cluster_id(), &proposal.cluster_id)?;
        let group = self.group(GroupId(proposal.group_id));
        let group = group.ok_or_else(|| Status::not_found("this node does not have the group"))?;
        let command = read_command(&proposal.command)?;
        if let Some(refused) = self.version_refusal(&command) {
            return Err(Status::failed_precondition(refused.detail));
        }
        Ok(group.begin_propose(proposal.command).await)
    }
}

/// Refuses what must not come into a log.
fn read_command(bytes: &Bytes) -> Result<v1::Command, Status> {
    let size = bytes.len();
    if size > COMMAND_BYTES_MAX {
        let detail = format!("a command of {size} bytes is over the limit of {COMMAND_BYTES_MAX}");
        return Err(Status::invalid_argument(detail));
    }
    // The bytes of the parts are shared, not copied.
    v1::Command::decode(bytes.clone()).map_err(|_| Status::invalid_argument("an unreadable command"))
}
