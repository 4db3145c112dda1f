//! Writes that go on through faults: one report after the other, each until it is acknowledged.

use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hearth_client::{Client, ClientConfig};
use hearth_proto::v1::cluster_client::ClusterClient;
use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::v1::propose_response::Result as Answer;
use hearth_proto::{BlockKey, v1};
use hearth_tests::TestCluster;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

/// A node that reports and does not exist.
const REPORTER: u64 = 1 << 40;
/// How long one node may take to answer before another one is asked.
const ATTEMPT: Duration = Duration::from_millis(250);
/// Pause after nobody led.
const PAUSE: Duration = Duration::from_millis(5);

/// The last report that was acknowledged: its number, and when it was first sent.
#[derive(Clone, Copy, Debug)]
struct Acknowledged {
    sequence: u64,
    sent: Option<Instant>,
}

/// A task that reports blocks, and what it has reached.
pub(super) struct Writer {
    acknowledged: watch::Receiver<Acknowledged>,
    avoid: Arc<watch::Sender<Option<usize>>>,
    stop: CancellationToken,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Writer {
    /// Begins to write.
    pub(super) async fn start(cluster: &TestCluster) -> anyhow::Result<Self> {
        let status = Client::new(ClientConfig::new(cluster.seeds(0)))?;
        let cluster_id = status.status(&cluster.nodes[0].control_address()).await?.cluster_id;
        let addresses: Vec<String> =
            cluster.nodes.iter().map(hearth_tests::NodeProcess::control_address).collect();
        let nodes = addresses.iter().map(|address| connect(address)).collect::<anyhow::Result<Vec<_>>>()?;
        let (sender, acknowledged) = watch::channel(Acknowledged { sequence: 0, sent: None });
        let avoid = Arc::new(watch::Sender::new(None));
        let stop = CancellationToken::new();
        let work =
            Work { cluster_id, addresses, nodes, asked: 0, avoid: avoid.clone(), acknowledged: sender };
        let task = tokio::spawn(work.run(stop.clone()));
        Ok(Self { acknowledged, avoid, stop, task })
    }

    /// Leaves out a node that was struck, which a client that knows better would not ask any more.
    pub(super) fn avoid(&self, node: Option<usize>) {
        self.avoid.send_replace(node);
    }

    pub(super) fn acknowledged(&self) -> u64 {
        self.acknowledged.borrow().sequence
    }

    /// Waits for the acknowledgement of a write that was first sent after `begun`, and says how long after.
    pub(super) async fn next_acknowledged(
        &self,
        begun: Instant,
        patience: Duration,
    ) -> anyhow::Result<Duration> {
        let mut acknowledged = self.acknowledged.clone();
        let next = acknowledged.wait_for(|reached| reached.sent.is_some_and(|sent| sent >= begun));
        tokio::time::timeout(patience, next).await.context("no write is taken any more")??;
        Ok(begun.elapsed())
    }

    /// Ends; gives the number of writes.
    pub(super) async fn stop(self) -> anyhow::Result<u64> {
        self.stop.cancel();
        self.task.await??;
        Ok(self.acknowledged.borrow().sequence)
    }
}

struct Work {
    cluster_id: bytes::Bytes,
    addresses: Vec<String>,
    nodes: Vec<ClusterClient<Channel>>,
    asked: usize,
    avoid: Arc<watch::Sender<Option<usize>>>,
    acknowledged: watch::Sender<Acknowledged>,
}

impl Work {
    async fn run(mut self, stop: CancellationToken) -> anyhow::Result<()> {
        for sequence in 1.. {
            if stop.is_cancelled() {
                break;
            }
            let sent = Instant::now();
            self.write(sequence).await?;
            self.acknowledged.send_replace(Acknowledged { sequence, sent: Some(sent) });
        }
        Ok(())
    }

    /// Reports one block until the directory has it. Repeating it is harmless; a gap is a write that was lost.
    async fn write(&mut self, sequence: u64) -> anyhow::Result<()> {
        let request = v1::ProposeRequest {
            cluster_id: self.cluster_id.clone(),
            group_id: 1,
            command: Some(v1::Command {
                version: 1,
                stamp_ms: 0,
                body: Some(Body::BlockReport(v1::BlockReport {
                    node_id: REPORTER,
                    incarnation: 1,
                    sequence,
                    reset: sequence == 1,
                    deltas: delta(sequence).into(),
                    ..Default::default()
                })),
            }),
        };
        loop {
            if *self.avoid.borrow() == Some(self.asked) {
                self.asked = (self.asked + 1) % self.nodes.len();
            }
            let call = self.nodes[self.asked].propose(Request::new(request.clone()));
            let answer = match tokio::time::timeout(ATTEMPT, call).await {
                Ok(Ok(response)) => response.into_inner().result,
                Ok(Err(_)) | Err(_) => None,
            };
            let hint = match answer {
                Some(Answer::Applied(applied)) => match applied.outcome.and_then(|outcome| outcome.kind) {
                    Some(Kind::ReportApplied(_)) => return Ok(()),
                    Some(Kind::ReportGap(gap)) => {
                        bail!("INV-ACK: report {sequence} follows an acknowledged one that is lost: {gap:?}")
                    }
                    other => bail!("a report had the outcome {other:?}"),
                },
                Some(Answer::NotLeader(other) | Answer::Unknown(other)) => other.leader_address,
                None => String::new(),
            };
            let hinted = self.addresses.iter().position(|address| *address == hint);
            match hinted.filter(|node| *self.avoid.borrow() != Some(*node) && *node != self.asked) {
                Some(leader) => self.asked = leader,
                None => {
                    self.asked = (self.asked + 1) % self.nodes.len();
                    tokio::time::sleep(PAUSE).await;
                }
            }
        }
    }
}

/// One block that was added to a node's memory, as a report packs it.
fn delta(number: u64) -> Vec<u8> {
    let key = BlockKey({
        let mut key = [0xfa; 32];
        key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
        key
    });
    let mut packed = 0u32.to_le_bytes().to_vec();
    packed.extend_from_slice(&key.0);
    packed.extend_from_slice(&[hearth_proto::Tier::Host as u8, 1]);
    packed.extend_from_slice(&4_096u32.to_le_bytes());
    packed
}

/// Has the control group commit something through one of the `nodes`, which finds the leader itself; the
/// same node is admitted each time. Says how long after `begun` that was done.
pub(super) async fn admit(nodes: &[String], begun: Instant, patience: Duration) -> anyhow::Result<Duration> {
    let request = v1::JoinRequest {
        node_uuid: vec![0xfa; 16].into(),
        name: "failover".into(),
        // Whatever version the cluster is at.
        command_version: u32::MAX,
        ..Default::default()
    };
    for node in nodes.iter().cycle() {
        ensure!(begun.elapsed() < patience, "no node is admitted any more");
        let mut client = connect(node)?;
        let admitted = tokio::time::timeout(patience, client.join(Request::new(request.clone()))).await;
        if let Ok(Ok(response)) = admitted
            && let Some(v1::join_response::Result::NodeId(_)) = response.into_inner().result
        {
            return Ok(begun.elapsed());
        }
    }
    bail!("there is no node to ask")
}

fn connect(address: &str) -> anyhow::Result<ClusterClient<Channel>> {
    let endpoint =
        Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true).connect_timeout(ATTEMPT);
    Ok(ClusterClient::new(endpoint.connect_lazy()))
}
