//! Brings a command to the leader of its group, wherever that is, and back an outcome.

use std::time::{Duration, Instant};

use hearth_proto::limits::{PROPOSE_ATTEMPT_MS, PROPOSE_RETRY_MS, RAFT_ELECTION_MS_MAX};
use hearth_proto::{GroupId, LogIndex, NodeId, v1};
use tonic::{Code, Request};
use v1::outcome::Kind;
use v1::propose_response::Result as Answer;

use crate::cluster::Cluster;
use crate::error::{ProposeError, Silent};
use crate::raft::{Group, LocalProposal};
use crate::state::State;

/// How long a proposal waits for this node to hear of a leader before it asks others: elections are over by then.
pub(crate) const ASK_AFTER_MS: u64 = RAFT_ELECTION_MS_MAX * 2;

impl Cluster {
    /// Commits a command, asking leader after leader until the deadline. The command may be committed
    /// more than once, which changes nothing (INV-IDEMPOTENT).
    ///
    /// # Errors
    /// [`ProposeError`]; after `Unknown` the caller repeats the same command.
    ///
    /// # Cancel safety
    /// A proposal that is dropped may still be committed.
    pub(crate) async fn propose(
        &self,
        group_id: GroupId,
        command: v1::Command,
        deadline: Instant,
    ) -> Result<(LogIndex, Kind), ProposeError> {
        match self.commit(group_id, command, deadline).await? {
            (_, Kind::Refused(refused)) => {
                Err(ProposeError::Refused { reason: refused.reason(), detail: refused.detail })
            }
            outcome => Ok(outcome),
        }
    }

    /// The same, where a refusal is an outcome like any other.
    pub(crate) async fn commit(
        &self,
        group_id: GroupId,
        command: v1::Command,
        deadline: Instant,
    ) -> Result<(LogIndex, Kind), ProposeError> {
        let Some(group) = self.group(group_id) else {
            return Err(ProposeError::NoLeader { group: group_id, silent: Silent::default() });
        };
        let mut unknown = false;
        let (begun, mut asked) = (Instant::now(), 0);
        let mut hint: Option<(NodeId, String)> = None;
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                let silent = self.silent_voters(group);
                return Err(match unknown {
                    true => ProposeError::Unknown { group: group_id, silent },
                    false => ProposeError::NoLeader { group: group_id, silent },
                });
            }
            let limit = left.min(Duration::from_millis(PROPOSE_ATTEMPT_MS));
            let attempt = match hint.take().or_else(|| self.known_leader(group)) {
                Some((leader, _)) if leader == self.node_id() => {
                    self.propose_here(group, &command, limit).await
                }
                Some((leader, address)) => {
                    let asked = self.propose_there(group_id, leader, &address, command.clone(), limit);
                    tokio::select! {
                        attempt = asked => attempt,
                        // A leader that was stopped answers nothing, and its connection lives on.
                        () = self.deposed(group, leader) => LocalProposal::Unknown,
                    }
                }
                None => group.failure().map_or(LocalProposal::NotLeader(None), LocalProposal::Stopped),
            };
            match attempt {
                LocalProposal::Applied(index, outcome) => return answer(index, outcome),
                LocalProposal::NotLeader(leader) => hint = leader,
                LocalProposal::Unknown => unknown = true,
                LocalProposal::Stopped(_) if unknown => {
                    let silent = self.silent_voters(group);
                    return Err(ProposeError::Unknown { group: group_id, silent });
                }
                LocalProposal::Stopped(detail) => {
                    return Err(ProposeError::Stopped { group: group_id, detail });
                }
            }
            let left = deadline.saturating_duration_since(Instant::now());
            // Whoever gets no log any more, or not yet, hears of no leader, or of one that is long gone.
            if hint.is_none() && begun.elapsed() > Duration::from_millis(ASK_AFTER_MS) {
                hint = self.ask_who_leads(group_id, &mut asked, left).await;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            tokio::time::sleep(left.min(Duration::from_millis(PROPOSE_RETRY_MS))).await;
        }
    }

    /// Resolves once a node that was known to lead here is known not to any more. What another node said of
    /// its leader is news to this one, and ends by the limit of the attempt.
    pub(crate) async fn deposed(&self, group: &Group, leader: NodeId) {
        if group.leader() == Some(leader) {
            group.deposed(leader).await;
        } else {
            std::future::pending::<()>().await;
        }
    }

    /// Answers another node's proposal: here or nowhere, so that no proposal goes in circles.
    pub(crate) async fn propose_for_peer(&self, group: &Group, command: v1::Command) -> v1::ProposeResponse {
        let limit = Duration::from_millis(PROPOSE_ATTEMPT_MS);
        answer_peer(self.propose_here(group, &command, limit).await)
    }

    async fn propose_here(&self, group: &Group, command: &v1::Command, limit: Duration) -> LocalProposal {
        if let Some(refused) = self.version_refusal(command) {
            let outcome = v1::Outcome { kind: Some(Kind::Refused(refused)) };
            return LocalProposal::Applied(LogIndex(0), outcome);
        }
        let proposed = tokio::time::timeout(limit, group.propose(command)).await;
        proposed.unwrap_or(LocalProposal::Unknown)
    }

    /// The members that this node knows of, one after the other, for whoever has to ask where the leader is.
    pub(crate) fn another_member(&self, asked: &mut usize) -> Option<(NodeId, String)> {
        let replicated = self.0.control.replicated();
        let State::Control(control) = &replicated.state else { return None };
        let others = || {
            control.nodes().filter(|node| {
                node.node_id != self.node_id().0
                    && node.state() != v1::NodeState::Removed
                    && !node.control_address.is_empty()
            })
        };
        let position = *asked % others().count().max(1);
        *asked += 1;
        others().nth(position).map(|node| (NodeId(node.node_id), node.control_address.clone()))
    }

    /// The leader of a group as this node knows it, with its address.
    pub(crate) fn known_leader(&self, group: &Group) -> Option<(NodeId, String)> {
        let leader = group.leader()?;
        let address = self.0.peers.known_address(leader).or_else(|| group.member_address(leader));
        Some((leader, address.unwrap_or_default()))
    }

    async fn propose_there(
        &self,
        group: GroupId,
        leader: NodeId,
        address: &str,
        command: v1::Command,
        limit: Duration,
    ) -> LocalProposal {
        let Ok(mut client) = self.0.peers.cluster_service(leader, address) else {
            return LocalProposal::NotLeader(None);
        };
        let mut request = Request::new(v1::ProposeRequest {
            cluster_id: self.cluster_id().0.to_vec().into(),
            group_id: group.0,
            command: Some(command),
        });
        request.set_timeout(limit);
        let response = match tokio::time::timeout(limit, client.propose(request)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) if is_refusal(status.code()) => {
                tracing::warn!(%leader, %status, "a proposal was not taken");
                return LocalProposal::NotLeader(None);
            }
            // The request may have arrived although no answer did.
            Ok(Err(_)) | Err(_) => return LocalProposal::Unknown,
        };
        match response.result {
            Some(Answer::Applied(applied)) => {
                LocalProposal::Applied(LogIndex(applied.log_index), applied.outcome.unwrap_or_default())
            }
            Some(Answer::NotLeader(other)) => LocalProposal::NotLeader(
                Some((NodeId(other.leader_id), other.leader_address)).filter(|(leader, _)| leader.0 != 0),
            ),
            Some(Answer::Unknown(_)) | None => LocalProposal::Unknown,
        }
    }
}

/// The wire form of a leader hint.
pub(crate) fn not_leader(leader: Option<(NodeId, String)>) -> v1::NotLeader {
    let (leader_id, leader_address) = leader.unwrap_or_default();
    v1::NotLeader { leader_id: leader_id.0, leader_address }
}

/// What came of a proposal, for the node that made it.
pub(crate) fn answer_peer(proposed: LocalProposal) -> v1::ProposeResponse {
    let result = match proposed {
        LocalProposal::Applied(index, outcome) => {
            Answer::Applied(v1::ProposalApplied { log_index: index.0, outcome: Some(outcome) })
        }
        LocalProposal::NotLeader(leader) => Answer::NotLeader(not_leader(leader)),
        LocalProposal::Unknown => Answer::Unknown(v1::NotLeader::default()),
        LocalProposal::Stopped(_) => Answer::NotLeader(v1::NotLeader::default()),
    };
    v1::ProposeResponse { result: Some(result) }
}

fn answer(index: LogIndex, outcome: v1::Outcome) -> Result<(LogIndex, Kind), ProposeError> {
    match outcome.kind {
        Some(kind) => Ok((index, kind)),
        None => Err(ProposeError::Refused {
            reason: v1::RefusalReason::FutureVersion,
            detail: "the leader gave an outcome of a later version".into(),
        }),
    }
}

/// Codes that a receiver gives before it does anything.
fn is_refusal(code: Code) -> bool {
    matches!(
        code,
        Code::FailedPrecondition
            | Code::InvalidArgument
            | Code::NotFound
            | Code::Unimplemented
            | Code::ResourceExhausted
    )
}
