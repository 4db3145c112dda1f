//! A client that does one thing after the other and notes each of them.

use std::error::Error;
use std::sync::Arc;
use std::time::Duration;

use hearth_proto::{GroupId, v1};
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Status};
use v1::cluster_client::ClusterClient;
use v1::directory_client::DirectoryClient;
use v1::propose_response::Result as Answer;

use super::command::{Answered, Reporter, SEQUENCE_MAX, answered, command, lookup, read};
use super::history::{Outcome, Record, Recorder};
use super::model::{Operation, Said};

/// How long one operation may take before its end is unknown.
const PATIENCE: Duration = Duration::from_millis(2_000);
/// How long opening a connection may take.
const CONNECT: Duration = Duration::from_millis(300);
/// Pause before another node is asked.
const RETRY: Duration = Duration::from_millis(10);
/// Longest pause between two operations.
const PAUSE_MS: u64 = 20;
/// How long claims last: nearly all of them end within a history.
const CLAIM_TTLS_MS: [u64; 8] = [300, 300, 500, 500, 900, 1_500, 3_000, 600_000];
/// How long pins last, of which none may be shorter than a second.
const PIN_TTLS_MS: [u64; 5] = [1_000, 1_200, 1_700, 3_000, 600_000];

/// The cluster, as clients and faults reach it.
#[derive(Clone, Debug)]
pub(super) struct Nodes {
    pub(super) cluster_id: bytes::Bytes,
    pub(super) addresses: Vec<String>,
    pub(super) channels: Vec<Channel>,
}

/// What a client needs.
pub(super) struct Client {
    pub(super) id: u32,
    pub(super) nodes: Nodes,
    /// One for each object.
    pub(super) reporters: Arc<Vec<Reporter>>,
    pub(super) recorder: Arc<Recorder>,
    pub(super) rng: ChaCha8Rng,
    /// What this client last heard of each object.
    pub(super) heard: Vec<Heard>,
}

/// What a client knows of an object.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Heard {
    /// The number of the next report.
    next: u64,
    /// Of the last claim that was its own, over or not.
    token: u64,
    /// Whether the block that is claimed was there.
    is_present: bool,
}

/// How an attempt ended.
enum Attempt {
    Said(Said),
    /// It certainly did not happen; another node may take it.
    NotTaken(String),
    Unknown,
}

impl Nodes {
    /// Connections are opened when they are needed, and again when they break.
    pub(super) fn connect(cluster_id: bytes::Bytes, addresses: Vec<String>) -> anyhow::Result<Self> {
        let channel = |address: &String| {
            let endpoint = Endpoint::from_shared(format!("http://{address}"))?
                .tcp_nodelay(true)
                .connect_timeout(CONNECT)
                .http2_keep_alive_interval(PATIENCE)
                .keep_alive_timeout(PATIENCE)
                .keep_alive_while_idle(true);
            Ok(endpoint.connect_lazy())
        };
        let channels = addresses.iter().map(channel).collect::<anyhow::Result<_>>()?;
        Ok(Self { cluster_id, addresses, channels })
    }

    /// Gives a node one command.
    pub(super) async fn propose(
        &self,
        node: usize,
        group: GroupId,
        command: v1::Command,
    ) -> Result<Option<Answer>, Status> {
        let cluster_id = self.cluster_id.clone();
        let request = v1::ProposeRequest { cluster_id, group_id: group.0, command: Some(command) };
        let mut client = ClusterClient::new(self.channels[node].clone());
        Ok(client.propose(Request::new(request)).await?.into_inner().result)
    }
}

impl Client {
    pub(super) async fn live(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let key = self.rng.random_range(0..self.reporters.len());
            let operation = self.choose(key);
            self.perform(key, operation).await;
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..PAUSE_MS))).await;
        }
    }

    /// A third of the objects is reported and looked up, a third is mostly claimed, and a third is pinned.
    fn choose(&mut self, key: usize) -> Operation {
        let Heard { token, is_present, .. } = self.heard[key];
        let chance = self.rng.random_range(0..100);
        match key % 3 {
            0 => match chance {
                0..50 => self.report(key),
                _ => Operation::Read,
            },
            1 => match chance {
                0..8 => self.report(key),
                // Nobody can claim it before it goes.
                8..70 if is_present => self.report(key),
                8..14 => Operation::Read,
                14..40 if token != 0 => Operation::Renew { token, ttl_ms: self.one_of(&CLAIM_TTLS_MS) },
                40..52 if token != 0 => Operation::Release { token },
                _ => Operation::Claim { claimant: self.id, ttl_ms: self.one_of(&CLAIM_TTLS_MS) },
            },
            _ => match chance {
                0..30 => Operation::Pin { ttl_ms: self.one_of(&PIN_TTLS_MS) },
                30..70 => Operation::Repin { ttl_ms: self.one_of(&PIN_TTLS_MS) },
                _ => Operation::Unpin,
            },
        }
    }

    fn report(&mut self, key: usize) -> Operation {
        let (known, incarnation) = (self.heard[key].next, self.reporters[key].incarnation);
        if known == 0 {
            return Operation::Report { incarnation, sequence: 1, reset: true };
        }
        // Mostly the next one, now and then one that is done or one too many.
        let sequence = match self.rng.random_range(0..10) {
            0 => known.saturating_sub(1).max(1),
            1 => known + 1,
            _ => known,
        };
        Operation::Report { incarnation, sequence: sequence.min(SEQUENCE_MAX), reset: false }
    }

    fn one_of(&mut self, ttls_ms: &[u64]) -> u64 {
        ttls_ms[self.rng.random_range(0..ttls_ms.len())]
    }

    async fn perform(&mut self, key: usize, operation: Operation) {
        let began_ns = self.recorder.now_ns();
        let mut said = None;
        let mut node = self.rng.random_range(0..self.nodes.channels.len());
        let until = Instant::now() + PATIENCE;
        while said.is_none() && Instant::now() < until {
            match self.attempt(node, key, &operation, until).await {
                Attempt::Said(answer) => said = Some(answer),
                Attempt::NotTaken(leader) => {
                    let hinted = self.nodes.addresses.iter().position(|address| *address == leader);
                    node = match hinted {
                        Some(leader) if leader != node => leader,
                        _ => self.rng.random_range(0..self.nodes.channels.len()),
                    };
                    tokio::time::sleep(RETRY).await;
                }
                // Said again it could happen twice, which an order of single operations does not explain.
                Attempt::Unknown => break,
            }
        }
        let heard = &mut self.heard[key];
        match &said {
            Some(Said::Applied { next } | Said::Gap { next }) => {
                (heard.next, heard.is_present) = (*next, next.is_multiple_of(2));
            }
            Some(Said::Granted { token, .. }) => (heard.token, heard.is_present) = (*token, false),
            Some(Said::Held { .. }) => heard.is_present = false,
            Some(Said::Present) => heard.is_present = true,
            _ => {}
        }
        let outcome = match said {
            Some(said) => Outcome::Said { at_ns: self.recorder.now_ns(), said },
            None => Outcome::Unknown,
        };
        self.recorder.note(Record { client: self.id, key: key as u64, operation, began_ns, outcome });
    }

    async fn attempt(&self, node: usize, key: usize, operation: &Operation, until: Instant) -> Attempt {
        let reporter = &self.reporters[key];
        let attempt = async {
            match command(key as u64, reporter, operation) {
                Some((group, command)) => self.propose(node, group, command).await,
                None => self.look_up(node, key, until).await,
            }
        };
        tokio::time::timeout_at(until, attempt).await.unwrap_or(Attempt::Unknown)
    }

    async fn propose(&self, node: usize, group: GroupId, command: v1::Command) -> Attempt {
        match self.nodes.propose(node, group, command).await {
            Ok(Some(Answer::Applied(applied))) => {
                match applied.outcome.and_then(|outcome| outcome.kind).as_ref().map(answered) {
                    Some(Answered::Said(said)) => Attempt::Said(said),
                    Some(Answered::NotNow) => Attempt::NotTaken(String::new()),
                    Some(Answered::Strange) | None => Attempt::Unknown,
                }
            }
            Ok(Some(Answer::NotLeader(other))) => Attempt::NotTaken(other.leader_address),
            Ok(Some(Answer::Unknown(_)) | None) => Attempt::Unknown,
            Err(status) if was_never_sent(&status) => Attempt::NotTaken(String::new()),
            Err(_) => Attempt::Unknown,
        }
    }

    /// A read that fails changed nothing, so that another node may be asked.
    async fn look_up(&self, node: usize, key: usize, until: Instant) -> Attempt {
        let mut request = Request::new(lookup(key as u64));
        request.set_timeout(until.saturating_duration_since(Instant::now()));
        let mut client = DirectoryClient::new(self.nodes.channels[node].clone());
        match client.lookup(request).await {
            Ok(found) => Attempt::Said(read(&self.reporters[key], found.get_ref())),
            Err(_) => Attempt::NotTaken(String::new()),
        }
    }
}

/// Whether no connection was there on which the request could have gone.
fn was_never_sent(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<tonic::ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}
