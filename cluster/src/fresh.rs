//! Reads that say how new they must be, by a deadline. `any` asks nobody and always answers; what cannot be
//! made new enough in time is an error that says why, and never an older answer (INV-LINEAR, INV-DEADLINE).

use std::time::{Duration, Instant};

use hearth_proto::limits::{HEARTBEAT_MS, PROPOSE_ATTEMPT_MS, PROPOSE_RETRY_MS};
use hearth_proto::{BlockKey, Classified, ErrorKind, GroupId, LogIndex, NamespaceId, NodeId, v1};
use tonic::{Code, Request};
use v1::freshness::Kind;
use v1::read_index_response::Result as Answer;

use crate::cluster::Cluster;
use crate::error::Silent;
use crate::lookup::LookupAnswer;
use crate::mutant::{self, Mutant};
use crate::propose::ASK_AFTER_MS;
use crate::raft::{Applied, Group, LocalRead};
use crate::state::{Control, State};

/// How new an answer must be.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Freshness {
    /// What this node has, however old: answered without a word to anybody.
    #[default]
    Any,
    /// At least this far in the log of each of these groups: whoever was told an index reads his own writes.
    AtLeast(Vec<(GroupId, LogIndex)>),
    /// No older than anything that was acknowledged before the question was asked.
    Linearizable,
}

impl Freshness {
    /// What a request asks for; nothing said is `any`, and `None` is something that only a later build knows.
    pub fn from_wire(message: Option<v1::Freshness>) -> Option<Self> {
        let Some(message) = message else { return Some(Self::Any) };
        Some(match message.kind? {
            Kind::Linearizable(_) => Self::Linearizable,
            Kind::AtLeast(least) => Self::AtLeast(
                least.indexes.iter().map(|of| (GroupId(of.group_id), LogIndex(of.index))).collect(),
            ),
        })
    }
}

/// Why a read could not be made new enough.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ReadError {
    /// No leader confirmed with a quorum in time how far the log goes. Ask again later, or read `any`.
    #[error("no leader of group {group} confirmed the read with a quorum in time{silent}")]
    NotConfirmed {
        /// The group without one.
        group: GroupId,
        /// Its voters that this node cannot reach.
        silent: Silent,
    },
    /// This node had not applied enough in time. Ask again, ask another node, or read `any`.
    #[error("this node has applied group {group} up to {applied}, the read needs {wanted}")]
    Behind {
        /// The group that lags.
        group: GroupId,
        /// How far this node is.
        applied: LogIndex,
        /// How far it has to be.
        wanted: LogIndex,
    },
    /// There is no such group in this cluster.
    #[error("the cluster has no group {group}")]
    UnknownGroup {
        /// The group asked for.
        group: GroupId,
    },
    /// The group no longer runs on this node: ask another one.
    #[error("group {group} has stopped on this node")]
    Stopped {
        /// The stopped group.
        group: GroupId,
    },
}

impl Classified for ReadError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotConfirmed { .. } => ErrorKind::Retry,
            Self::Behind { .. } | Self::Stopped { .. } => ErrorKind::Reroute,
            Self::UnknownGroup { .. } => ErrorKind::FixRequest,
        }
    }
}

/// What came of one attempt to have a read confirmed.
enum Attempt {
    Index(LogIndex),
    NotLeader(Option<(NodeId, String)>),
    NoAnswer,
    Stopped,
}

impl Cluster {
    /// As [`Self::lookup`], once this node's copies are new enough.
    ///
    /// # Errors
    /// [`ReadError`], by the deadline.
    ///
    /// # Cancel safety
    /// Dropping it gives the read up, nothing else.
    pub async fn lookup_fresh(
        &self,
        namespace: NamespaceId,
        keys: &[BlockKey],
        freshness: &Freshness,
        deadline: Instant,
    ) -> Result<LookupAnswer, ReadError> {
        if *freshness != Freshness::Any {
            // Whose claims count is in the control group, so that one must be new enough as well.
            let split = self.directory_groups();
            let mut groups: Vec<GroupId> = keys.iter().map(|key| split.group_of(key)).collect();
            groups.push(GroupId::CONTROL);
            groups.sort_unstable();
            groups.dedup();
            self.make_fresh(&groups, freshness, deadline).await?;
        }
        Ok(self.lookup(namespace, keys))
    }

    /// As [`Self::nodes`], once this node's copy of the control state is new enough.
    ///
    /// # Errors
    /// [`ReadError`], by the deadline.
    pub async fn nodes_fresh(
        &self,
        freshness: &Freshness,
        deadline: Instant,
    ) -> Result<Vec<v1::Node>, ReadError> {
        self.make_fresh(&[GroupId::CONTROL], freshness, deadline).await?;
        Ok(self.nodes())
    }

    /// Waits until this node's copies of all groups have all that was acknowledged before.
    ///
    /// # Errors
    /// [`ReadError`], by the deadline: what is read then is as old as it is.
    pub async fn refresh(&self, deadline: Instant) -> Result<(), ReadError> {
        let groups: Vec<GroupId> = self.all_groups().map(|group| group.id()).collect();
        self.make_fresh(&groups, &Freshness::Linearizable, deadline).await
    }

    /// Reads the control state, once this node's copy is new enough. Entries wait while `read` runs.
    pub(crate) async fn read_control<T>(
        &self,
        freshness: &Freshness,
        deadline: Instant,
        read: impl FnOnce(&Control) -> T,
    ) -> Result<T, ReadError> {
        self.make_fresh(&[GroupId::CONTROL], freshness, deadline).await?;
        match &self.0.control.replicated().state {
            State::Control(control) => Ok(read(control)),
            State::Directory(_) => Err(ReadError::UnknownGroup { group: GroupId::CONTROL }),
        }
    }

    /// Waits until this node's copies of `groups` are as new as asked.
    async fn make_fresh(
        &self,
        groups: &[GroupId],
        freshness: &Freshness,
        deadline: Instant,
    ) -> Result<(), ReadError> {
        match freshness {
            Freshness::Any => Ok(()),
            Freshness::AtLeast(indexes) => {
                let waits = indexes.iter().map(|(group, index)| self.wait_applied(*group, *index, deadline));
                futures::future::try_join_all(waits).await.map(drop)
            }
            Freshness::Linearizable => {
                let confirm = async |group: GroupId| {
                    let index = self.read_index(group, deadline).await?;
                    if mutant::is(Mutant::ReadNotAwaited) {
                        return Ok(());
                    }
                    self.wait_applied(group, index, deadline).await
                };
                futures::future::try_join_all(groups.iter().map(|group| confirm(*group))).await.map(drop)
            }
        }
    }

    async fn wait_applied(
        &self,
        group_id: GroupId,
        wanted: LogIndex,
        deadline: Instant,
    ) -> Result<(), ReadError> {
        let group = self.group(group_id).ok_or(ReadError::UnknownGroup { group: group_id })?;
        match group.wait_applied(wanted, deadline).await {
            Applied::Reached => Ok(()),
            Applied::Behind(applied) => Err(ReadError::Behind { group: group_id, applied, wanted }),
            Applied::Stopped => Err(ReadError::Stopped { group: group_id }),
        }
    }

    /// Asks leader after leader until one confirms with a quorum how far its log goes.
    async fn read_index(&self, group_id: GroupId, deadline: Instant) -> Result<LogIndex, ReadError> {
        let group = self.group(group_id).ok_or(ReadError::UnknownGroup { group: group_id })?;
        let mut hint: Option<(NodeId, String)> = None;
        let (begun, mut asked) = (Instant::now(), 0);
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(ReadError::NotConfirmed { group: group_id, silent: self.silent_voters(group) });
            }
            let limit = left.min(Duration::from_millis(PROPOSE_ATTEMPT_MS));
            let attempt = match hint.take().or_else(|| self.known_leader(group)) {
                Some((leader, _)) if leader == self.node_id() => match group.read_index(limit).await {
                    LocalRead::Index(index) => Attempt::Index(index),
                    LocalRead::NotLeader(leader) => Attempt::NotLeader(leader),
                    LocalRead::NoQuorum => Attempt::NoAnswer,
                    LocalRead::Stopped => Attempt::Stopped,
                },
                Some((leader, address)) => {
                    let ask = self.read_index_there(group_id, leader, &address, limit);
                    tokio::select! {
                        attempt = ask => attempt,
                        // A leader that was stopped answers nothing, and its connection lives on.
                        () = self.deposed(group, leader) => Attempt::NoAnswer,
                    }
                }
                None if group.stopped().is_some() => Attempt::Stopped,
                None => Attempt::NoAnswer,
            };
            match attempt {
                Attempt::Index(index) => return Ok(index),
                Attempt::NotLeader(leader) => hint = leader,
                Attempt::NoAnswer => {}
                Attempt::Stopped => return Err(ReadError::Stopped { group: group_id }),
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if hint.is_none() && begun.elapsed() > Duration::from_millis(ASK_AFTER_MS) {
                hint = self.ask_who_leads(group_id, &mut asked, left).await;
            }
            let left = deadline.saturating_duration_since(Instant::now());
            tokio::time::sleep(left.min(Duration::from_millis(PROPOSE_RETRY_MS))).await;
        }
    }

    /// Asks the next of the members that this node knows who leads a group; changes nothing there.
    pub(crate) async fn ask_who_leads(
        &self,
        group: GroupId,
        asked: &mut usize,
        limit: Duration,
    ) -> Option<(NodeId, String)> {
        let (member, address) = self.another_member(asked)?;
        let limit = limit.min(Duration::from_millis(HEARTBEAT_MS));
        match self.read_index_there(group, member, &address, limit).await {
            Attempt::Index(_) => Some((member, address)),
            Attempt::NotLeader(leader) => leader,
            Attempt::NoAnswer | Attempt::Stopped => None,
        }
    }

    async fn read_index_there(
        &self,
        group: GroupId,
        leader: NodeId,
        address: &str,
        limit: Duration,
    ) -> Attempt {
        let Ok(mut client) = self.0.peers.cluster_service(leader, address) else {
            return Attempt::NoAnswer;
        };
        let mut request = Request::new(v1::ReadIndexRequest {
            cluster_id: self.cluster_id().0.to_vec().into(),
            group_id: group.0,
        });
        request.set_timeout(limit);
        let response = match tokio::time::timeout(limit, client.read_index(request)).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(status)) => {
                let code = status.code();
                tracing::debug!(%leader, %group, %status, "a read was not confirmed");
                if code == Code::Unimplemented {
                    tracing::warn!(%leader, "the leader runs a build that cannot confirm reads; upgrade it");
                }
                return Attempt::NoAnswer;
            }
            Err(_) => return Attempt::NoAnswer,
        };
        match response.result {
            Some(Answer::LogIndex(index)) => Attempt::Index(LogIndex(index)),
            Some(Answer::NotLeader(other)) => Attempt::NotLeader(
                Some((NodeId(other.leader_id), other.leader_address)).filter(|(leader, _)| leader.0 != 0),
            ),
            None => Attempt::NoAnswer,
        }
    }

    /// The voters of a group that this node tried to reach of late and could not.
    pub(crate) fn silent_voters(&self, group: &Group) -> Silent {
        let (voters, _) = group.members();
        let silent = voters.into_iter().filter(|voter| self.0.peers.is_silent(*voter));
        let place = |voter| self.0.peers.known_address(voter).unwrap_or_else(|| "an unknown address".into());
        Silent(silent.map(|voter| (voter, place(voter))).collect())
    }
}
