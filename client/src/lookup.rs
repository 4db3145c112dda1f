//! Where the blocks of a chain are: asked of one router, or of the next when it does not answer.

use std::time::{Duration, Instant};

use hearth_proto::limits::CALL_ATTEMPTS_MAX;
use hearth_proto::v1::directory_client::DirectoryClient;
use hearth_proto::{BlockKey, GroupId, Incarnation, LogIndex, NodeId, Tier, v1};
use tonic::Code;

use crate::chain::Chain;
use crate::client::{Client, cause_of, share_of};
use crate::error::LookupError;

/// One stored copy of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Replica {
    /// The node that has it.
    pub node: NodeId,
    /// The registration of that node under which it was claimed.
    pub incarnation: Incarnation,
    /// The tier it lies on.
    pub tier: Tier,
}

/// How new the answer to a lookup must be.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Freshness {
    /// What the router has; [`LookupSource::staleness`] says how old that may be.
    #[default]
    Any,
    /// At least this far in the log of each of these groups, such as [`LookupSource::applied`] of an earlier
    /// answer.
    AtLeast(Vec<(GroupId, LogIndex)>),
    /// No older than anything that was acknowledged before the question was asked.
    Linearizable,
}

impl Freshness {
    fn to_wire(&self) -> Option<v1::Freshness> {
        let kind = match self {
            Self::Any => return None,
            Self::AtLeast(indexes) => {
                let index = |(group, index): &(GroupId, LogIndex)| v1::GroupIndex {
                    group_id: group.0,
                    index: index.0,
                };
                v1::freshness::Kind::AtLeast(v1::AtLeast { indexes: indexes.iter().map(index).collect() })
            }
            Self::Linearizable => v1::freshness::Kind::Linearizable(v1::Linearizable {}),
        };
        Some(v1::Freshness { kind: Some(kind) })
    }
}

/// The locations of a chain's blocks, as one router knew them.
#[derive(Debug, Clone)]
pub struct Lookup {
    pub(crate) chain: Chain,
    pub(crate) replicas: Vec<Vec<Replica>>,
    source: Option<LookupSource>,
}

/// Which router answered, and how fresh its answer was.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LookupSource {
    /// The node that answered.
    pub node: NodeId,
    /// The log index that the answer reflects of each directory group that was asked.
    pub applied: Vec<(GroupId, LogIndex)>,
    /// How old the answer may be, as far as that node knows; `None` if it has heard of no leader since its start.
    pub staleness: Option<Duration>,
}

impl Lookup {
    /// The chain asked for.
    pub fn chain(&self) -> &Chain {
        &self.chain
    }

    /// The copies of each block, in chain order; an empty list is a miss.
    pub fn replicas(&self) -> &[Vec<Replica>] {
        &self.replicas
    }

    /// Number of blocks with a copy, contiguous from the start.
    pub fn held_prefix(&self) -> usize {
        self.replicas.iter().take_while(|replicas| !replicas.is_empty()).count()
    }

    /// Who answered; `None` when no router did in time, which looks like a miss of every block.
    pub fn source(&self) -> Option<&LookupSource> {
        self.source.as_ref()
    }

    fn unanswered(chain: &Chain) -> Self {
        Self { chain: chain.clone(), replicas: vec![Vec::new(); chain.len()], source: None }
    }
}

impl Client {
    /// Finds the copies of each block of a chain. When no router answers within `patience`
    /// (default: the client's deadline), every block is a miss and [`Lookup::source`] is `None`.
    pub async fn lookup(&self, chain: &Chain, patience: Option<Duration>) -> Lookup {
        self.lookup_by(chain, self.deadline(patience)).await
    }

    /// As [`Self::lookup`], with an answer that is as new as asked, or none.
    ///
    /// # Errors
    /// [`LookupError`], by the deadline: read `any`, or ask again. For an engine, which needs an answer on
    /// time more than a new one, [`Self::lookup`] is the call.
    pub async fn lookup_fresh(
        &self,
        chain: &Chain,
        freshness: &Freshness,
        patience: Option<Duration>,
    ) -> Result<Lookup, LookupError> {
        self.ask_routers(chain, freshness, self.deadline(patience)).await
    }

    pub(crate) async fn lookup_by(&self, chain: &Chain, deadline: Instant) -> Lookup {
        let answered = self.ask_routers(chain, &Freshness::Any, deadline).await;
        answered.unwrap_or_else(|_| Lookup::unanswered(chain))
    }

    async fn ask_routers(
        &self,
        chain: &Chain,
        freshness: &Freshness,
        deadline: Instant,
    ) -> Result<Lookup, LookupError> {
        self.refresh_nodes_if_old();
        let routers = self.inner.topology.routers();
        let mut attempts = CALL_ATTEMPTS_MAX as usize;
        let keys = chain.keys().iter().map(|key| key.0.to_vec().into()).collect();
        let message = v1::LookupRequest { keys, freshness: freshness.to_wire() };
        let mut refused = None;
        for (position, router) in routers.iter().enumerate() {
            // Asked only when it is this router's turn: being admitted may be the one try of a pause.
            let asked = Instant::now();
            if attempts == 0 || asked >= deadline {
                break;
            }
            if !router.admits(asked) {
                continue;
            }
            let until = share_of(deadline, attempts.min(routers.len() - position));
            attempts -= 1;
            let mut service = DirectoryClient::new(router.channel.clone())
                .max_decoding_message_size(hearth_proto::limits::GRPC_MESSAGE_BYTES_MAX);
            let mut request = tonic::Request::new(message.clone());
            if *freshness != Freshness::Any {
                // Until then the router waits for its copy to be as new as asked.
                request.set_timeout(until.saturating_duration_since(asked));
            }
            match tokio::time::timeout_at(until.into(), service.lookup(request)).await {
                Ok(Ok(answer)) => {
                    let answer = answer.into_inner();
                    if let Err(error) = self.refuse_other_cluster(router, &answer.cluster_id) {
                        router.failed();
                        tracing::warn!(%error, "a lookup was answered by a stranger");
                        continue;
                    }
                    router.succeeded();
                    self.inner.topology.learn(&answer.nodes);
                    self.inner.topology.learn_home(router, NodeId(answer.node_id));
                    if answer.blocks.len() == chain.len() {
                        return Ok(parse(chain, answer));
                    }
                    tracing::warn!(router = %router.address, "a lookup was answered for another number of blocks");
                }
                // The router is well, and could not make its answer new enough.
                Ok(Err(status)) if status.code() == Code::Aborted => {
                    router.succeeded();
                    refused = Some(LookupError::NotFresh {
                        address: router.address.clone(),
                        problem: status.message().to_owned(),
                    });
                }
                Ok(Err(status)) => {
                    router.failed();
                    tracing::debug!(router = %router.address, problem = cause_of(&status), "lookup failed");
                }
                Err(_) => {
                    router.was_silent(asked, until);
                    tracing::debug!(router = %router.address, "lookup not answered in time");
                }
            }
        }
        Err(refused.unwrap_or(LookupError::Unanswered))
    }

    /// The same lookup for some positions of a chain, as a list in the order of `positions`; `None` if
    /// no router answered.
    pub(crate) async fn lookup_positions(
        &self,
        chain: &Chain,
        positions: &[usize],
        deadline: Instant,
    ) -> Option<Vec<Vec<Replica>>> {
        let keys: Vec<BlockKey> = positions.iter().map(|&i| chain.keys()[i]).collect();
        let answer = self.lookup_by(&Chain::from_keys(keys).ok()?, deadline).await;
        answer.source.map(|_| answer.replicas)
    }
}

fn parse(chain: &Chain, answer: v1::LookupResponse) -> Lookup {
    let mut applied: Vec<_> =
        answer.applied.iter().map(|of| (GroupId(of.group_id), LogIndex(of.index))).collect();
    if applied.is_empty() {
        // From a node of before there could be several.
        applied.push((GroupId::DIRECTORY, LogIndex(answer.applied_index)));
    }
    let source = LookupSource {
        node: NodeId(answer.node_id),
        applied,
        staleness: (answer.staleness_ms != u64::MAX).then(|| Duration::from_millis(answer.staleness_ms)),
    };
    let replicas = answer
        .blocks
        .into_iter()
        .map(|block| block.replicas.into_iter().filter_map(parse_replica).collect())
        .collect();
    Lookup { chain: chain.clone(), replicas, source: Some(source) }
}

/// A replica on a tier of the future is no use to this client, and no reason to fail.
fn parse_replica(replica: v1::Replica) -> Option<Replica> {
    Some(Replica {
        node: NodeId(replica.node_id),
        incarnation: Incarnation(replica.incarnation),
        tier: Tier::from_wire(u8::try_from(replica.tier).ok()?)?,
    })
}
