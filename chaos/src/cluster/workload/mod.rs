//! What clients do meanwhile: each operation is one more kind of thing that the cluster must not forget.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use hearth_proto::v1::cluster_client::ClusterClient;
use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::v1::propose_response::Result as Answer;
use hearth_proto::{BlockId, GroupId, NodeId, Tier, v1};
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use crate::network::{PORT, connect};
use crate::source::{BLOCKS, block};
use crate::world::world;

/// Clients of each kind.
pub(crate) const REPORTERS: u64 = 2;
/// A reporter is a node that reports and does not exist.
const REPORTER: u64 = 1 << 40;
/// How long a call may take: the network does not repeat what it lost.
const CALL: Duration = Duration::from_millis(400);
/// Uuids of the nodes that are admitted again and again.
const UUIDS: u64 = 4;

/// A reporter's name in the directory.
pub(crate) fn reporter(number: u64) -> NodeId {
    NodeId(REPORTER + number)
}

/// The block by which a reporter says how far it is: only the latest is held.
pub(crate) fn mark(reporter: u64, sequence: u64) -> BlockId {
    block(1_000_000 * (reporter + 1) + sequence)
}

/// A write that a client was told is done.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) group: GroupId,
    pub(crate) index: u64,
    pub(crate) command: v1::Command,
    pub(crate) outcome: Kind,
}

/// What the clients know.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Acknowledged writes that no checker has taken yet.
    acknowledged: Vec<Acknowledged>,
    /// What a client was told that cannot be.
    wrong: Vec<String>,
    /// The last acknowledged report of each reporter.
    pub(crate) reported: BTreeMap<u64, u64>,
    pub(crate) count: u64,
}

/// The clients' common ledger.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clients(Arc<Mutex<Ledger>>);

impl Clients {
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was acknowledged since the last call.
    pub(crate) fn take_acknowledged(&self) -> Vec<Acknowledged> {
        std::mem::take(&mut self.ledger().acknowledged)
    }

    pub(crate) fn wrong(&self) -> Option<String> {
        self.ledger().wrong.first().cloned()
    }

    fn acknowledge(&self, written: Acknowledged) {
        world().note(&format!("acknowledged at {}/{}: {:?}", written.group, written.index, written.outcome));
        let mut ledger = self.ledger();
        ledger.count += 1;
        ledger.acknowledged.push(written);
    }

    fn wrong_answer(&self, what: String) {
        self.ledger().wrong.push(what);
    }

    /// All clients, on one host.
    pub(crate) async fn live(self) -> turmoil::Result {
        for number in 0..REPORTERS {
            tokio::spawn(self.clone().report(number));
        }
        tokio::spawn(self.clone().admit());
        std::future::pending().await
    }

    /// Reports one change after the other, never two at a time; says some of it again later, as a network does.
    async fn report(self, number: u64) {
        let mut caller = Caller::new();
        let (mut incarnation, mut reset) = (1, true);
        for sequence in 1.. {
            let command = report(number, incarnation, sequence, reset);
            let (index, outcome) = caller.write(GroupId::DIRECTORY, &command).await;
            match &outcome {
                Kind::ReportApplied(applied) if applied.next_sequence == sequence + 1 => {}
                // It was done already, and more after it: nobody else reports under this name.
                other => self.wrong_answer(format!(
                    "INV-ACK: report {sequence} of reporter {number} follows acknowledged ones and got {other:?}"
                )),
            }
            self.acknowledge(Acknowledged {
                group: GroupId::DIRECTORY,
                index,
                command: command.clone(),
                outcome,
            });
            self.ledger().reported.insert(number, sequence);
            reset = false;
            let (again, ahead, renew, pause) = {
                let mut rng = world().rng();
                (
                    rng.chance(30),
                    rng.chance(10),
                    rng.chance(5),
                    rng.between(5, if world().is_quiet() { 400 } else { 150 }),
                )
            };
            if again && sequence > 1 {
                let stale = report(number, incarnation, sequence - 1, false);
                let (index, outcome) = caller.write(GroupId::DIRECTORY, &stale).await;
                self.acknowledge(Acknowledged { group: GroupId::DIRECTORY, index, command: stale, outcome });
            }
            if ahead {
                // One that overtook the report before it, as if that was lost.
                let early = report(number, incarnation, sequence + 2, false);
                let (index, outcome) = caller.write(GroupId::DIRECTORY, &early).await;
                if !matches!(&outcome, Kind::ReportGap(gap) if gap.next_sequence == sequence + 1) {
                    self.wrong_answer(format!(
                        "INV-IDEMPOTENT: a report ahead of {sequence} got {outcome:?}"
                    ));
                }
                self.acknowledge(Acknowledged { group: GroupId::DIRECTORY, index, command: early, outcome });
            }
            if renew {
                let late = report(number, incarnation, sequence + 1, false);
                incarnation += 1;
                let renewed = report(number, incarnation, sequence, true);
                let (index, outcome) = caller.write(GroupId::DIRECTORY, &renewed).await;
                self.acknowledge(Acknowledged {
                    group: GroupId::DIRECTORY,
                    index,
                    command: renewed,
                    outcome,
                });
                // What the former life still had on its way must find itself fenced.
                let (index, outcome) = caller.write(GroupId::DIRECTORY, &late).await;
                if !matches!(outcome, Kind::Superseded(_)) {
                    self.wrong_answer(format!("INV-FENCE: a report of a former incarnation got {outcome:?}"));
                }
                self.acknowledge(Acknowledged { group: GroupId::DIRECTORY, index, command: late, outcome });
            }
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }

    /// Admits the same few nodes again and again: each must get the same id every time.
    async fn admit(self) {
        let mut caller = Caller::new();
        let mut ids: BTreeMap<u64, u64> = BTreeMap::new();
        loop {
            let (uuid, pause) = {
                let mut rng = world().rng();
                (rng.below(UUIDS), rng.between(50, 600))
            };
            let command = command(Body::AdmitNode(v1::AdmitNode {
                node_uuid: vec![0xa0 + uuid as u8; 16].into(),
                name: format!("admitted-{uuid}"),
                ..Default::default()
            }));
            let (index, outcome) = caller.write(GroupId::CONTROL, &command).await;
            match &outcome {
                Kind::Admitted(admitted) => {
                    let known = *ids.entry(uuid).or_insert(admitted.node_id);
                    if known != admitted.node_id {
                        let now = admitted.node_id;
                        self.wrong_answer(format!(
                            "INV-IDEMPOTENT: one uuid was node {known} and is node {now}"
                        ));
                    }
                }
                // Before the cluster is founded.
                Kind::Refused(_) => {}
                other => self.wrong_answer(format!("an admission had the outcome {other:?}")),
            }
            self.acknowledge(Acknowledged { group: GroupId::CONTROL, index, command, outcome });
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }
}

fn command(body: Body) -> v1::Command {
    v1::Command { version: 1, stamp_ms: 0, body: Some(body) }
}

/// The report of a number: adds its own mark, takes away the one before, and changes one of a few blocks. It
/// follows from its arguments alone.
fn report(reporter_number: u64, incarnation: u64, sequence: u64, reset: bool) -> v1::Command {
    let mut deltas = Vec::new();
    pack(&mut deltas, &mark(reporter_number, sequence), Tier::Nvme, true);
    if sequence > 1 {
        pack(&mut deltas, &mark(reporter_number, sequence - 1), Tier::Nvme, false);
    }
    let number = sequence.wrapping_mul(7) % BLOCKS;
    pack(&mut deltas, &block(number), Tier::Host, !sequence.is_multiple_of(3));
    command(Body::BlockReport(v1::BlockReport {
        node_id: reporter(reporter_number).0,
        incarnation,
        sequence,
        reset,
        deltas: deltas.into(),
    }))
}

/// Appends a delta as reports pack it: namespace, key, tier, whether it was added, length.
fn pack(out: &mut Vec<u8>, id: &BlockId, tier: Tier, added: bool) {
    out.extend_from_slice(&id.namespace.0.to_le_bytes());
    out.extend_from_slice(&id.key.0);
    out.extend_from_slice(&[tier as u8, u8::from(added)]);
    out.extend_from_slice(&4_096u32.to_le_bytes());
}

/// A client's way to the leader of whatever group.
struct Caller {
    nodes: Vec<ClusterClient<Channel>>,
    asked: usize,
}

impl Caller {
    fn new() -> Self {
        let client = |name: &str| {
            let endpoint =
                Endpoint::from_shared(format!("http://{name}:{PORT}")).expect("a name is an address");
            let endpoint =
                endpoint.http2_keep_alive_interval(CALL).keep_alive_timeout(CALL).keep_alive_while_idle(true);
            ClusterClient::new(connect(&endpoint))
        };
        Self { nodes: world().machines.iter().map(|machine| client(&machine.name)).collect(), asked: 0 }
    }

    /// Proposes a command until it is acknowledged. It may be committed more than once.
    async fn write(&mut self, group: GroupId, command: &v1::Command) -> (u64, Kind) {
        loop {
            let request = v1::ProposeRequest {
                cluster_id: vec![0xc5; 16].into(),
                group_id: group.0,
                command: Some(command.clone()),
            };
            let call = self.nodes[self.asked].propose(Request::new(request));
            let answer = tokio::time::timeout(CALL, call).await;
            let hint =
                match answer.ok().and_then(Result::ok).and_then(|response| response.into_inner().result) {
                    Some(Answer::Applied(applied)) => {
                        if let Some(kind) = applied.outcome.and_then(|outcome| outcome.kind) {
                            return (applied.log_index, kind);
                        }
                        String::new()
                    }
                    Some(Answer::NotLeader(other) | Answer::Unknown(other)) => other.leader_address,
                    None => String::new(),
                };
            let name = hint.split(':').next().unwrap_or_default();
            let hinted = world().machines.iter().position(|machine| machine.name == name);
            let pause = {
                let mut rng = world().rng();
                self.asked = match hinted {
                    // A node may go on believing in a leader that is gone.
                    Some(leader) if leader != self.asked && rng.chance(80) => leader,
                    _ => rng.index(self.nodes.len()),
                };
                rng.between(5, 50)
            };
            tokio::time::sleep(Duration::from_millis(pause)).await;
        }
    }
}
