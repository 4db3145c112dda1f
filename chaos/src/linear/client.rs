//! A client that does one thing after the other and notes each of them.

use std::sync::Arc;
use std::time::Duration;

use hearth_proto::v1;
use hearth_proto::v1::cluster_client::ClusterClient;
use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::v1::propose_response::Result as Answer;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tokio_util::sync::CancellationToken;
use tonic::Request;
use tonic::transport::{Channel, Endpoint};

use super::history::{History, Outcome, Record};
use super::model::{Operation, Said};

/// A holder that reports and does not exist; one for each key.
const REPORTER: u64 = 1 << 41;
/// How long one operation may take before its end is unknown.
const PATIENCE: Duration = Duration::from_millis(2_500);
/// How long opening a connection may take.
const CONNECT: Duration = Duration::from_millis(300);
/// Claims do not end by themselves within a history.
const TTL_MS: u64 = 600_000;

/// What a client needs.
pub(super) struct Client {
    pub(super) id: u32,
    pub(super) keys: u64,
    pub(super) cluster_id: bytes::Bytes,
    pub(super) nodes: Vec<ClusterClient<Channel>>,
    pub(super) addresses: Vec<String>,
    pub(super) history: Arc<History>,
    pub(super) rng: ChaCha8Rng,
    /// What this client last heard of each key: the number of the next report, or its claim's token.
    pub(super) next: Vec<u64>,
    pub(super) tokens: Vec<u64>,
    /// Whether the cluster knows claims.
    pub(super) claims: bool,
}

/// How an attempt ended.
enum Attempt {
    Said(Said),
    /// It certainly did not happen; another node may take it.
    NotTaken(String),
    Unknown,
}

/// Clients to all nodes.
pub(super) fn connect(addresses: &[String]) -> anyhow::Result<Vec<ClusterClient<Channel>>> {
    let client = |address: &String| {
        let endpoint = Endpoint::from_shared(format!("http://{address}"))?
            .tcp_nodelay(true)
            .connect_timeout(CONNECT)
            .http2_keep_alive_interval(PATIENCE)
            .keep_alive_timeout(PATIENCE)
            .keep_alive_while_idle(true);
        Ok(ClusterClient::new(endpoint.connect_lazy()))
    };
    addresses.iter().map(client).collect()
}

impl Client {
    pub(super) async fn live(mut self, stop: CancellationToken) {
        while !stop.is_cancelled() {
            let key = self.rng.random_range(0..self.keys);
            let operation = self.choose(key);
            self.perform(key, operation).await;
            tokio::time::sleep(Duration::from_millis(self.rng.random_range(0..20))).await;
        }
    }

    /// Half of the keys are holders of reports, half of them are blocks that are claimed.
    fn choose(&mut self, key: u64) -> Operation {
        let known = self.next[key as usize];
        if self.claims && key % 2 == 1 {
            let token = self.tokens[key as usize];
            return match self.rng.random_range(0..10) {
                0..5 => Operation::Claim { claimant: self.id },
                5..7 if token != 0 => Operation::Renew { token },
                7..10 if token != 0 => Operation::Release { token },
                _ => Operation::Claim { claimant: self.id },
            };
        }
        if known == 0 {
            return Operation::Report { incarnation: 1, sequence: 1, reset: true };
        }
        // Mostly the next one, now and then one that is done or one too many.
        let sequence = match self.rng.random_range(0..10) {
            0 => known.saturating_sub(1).max(1),
            1 => known + 1,
            _ => known,
        };
        Operation::Report { incarnation: 1, sequence, reset: false }
    }

    async fn perform(&mut self, key: u64, operation: Operation) {
        let command = command(key, &operation);
        let began_ns = self.history.now_ns();
        let mut outcome = None;
        let mut node = self.rng.random_range(0..self.nodes.len());
        let until = tokio::time::Instant::now() + PATIENCE;
        while outcome.is_none() && tokio::time::Instant::now() < until {
            match self.attempt(node, &command, until).await {
                Attempt::Said(said) => outcome = Some(said),
                Attempt::NotTaken(leader) => {
                    let hinted = self.addresses.iter().position(|address| *address == leader);
                    node = match hinted {
                        Some(leader) if leader != node => leader,
                        _ => self.rng.random_range(0..self.nodes.len()),
                    };
                    tokio::time::sleep(Duration::from_millis(10)).await;
                }
                // Said again it could happen twice, which an order of single operations does not explain.
                Attempt::Unknown => break,
            }
        }
        match &outcome {
            Some(Said::Applied { next } | Said::Gap { next }) => self.next[key as usize] = *next,
            Some(Said::Granted { token }) => self.tokens[key as usize] = *token,
            _ => {}
        }
        let outcome = match outcome {
            Some(said) => Outcome::Said { at_ns: self.history.now_ns(), said },
            None => Outcome::Unknown,
        };
        self.history.note(Record { client: self.id, key, operation, began_ns, outcome });
    }

    async fn attempt(&mut self, node: usize, command: &v1::Command, until: tokio::time::Instant) -> Attempt {
        let request = v1::ProposeRequest {
            cluster_id: self.cluster_id.clone(),
            group_id: 1,
            command: Some(command.clone()),
        };
        let call = self.nodes[node].propose(Request::new(request));
        let response = match tokio::time::timeout_at(until, call).await {
            Ok(Ok(response)) => response.into_inner(),
            Ok(Err(_)) | Err(_) => return Attempt::Unknown,
        };
        match response.result {
            Some(Answer::Applied(applied)) => {
                let kind = applied.outcome.and_then(|outcome| outcome.kind);
                kind.as_ref().and_then(said).map_or(Attempt::Unknown, Attempt::Said)
            }
            Some(Answer::NotLeader(other)) => Attempt::NotTaken(other.leader_address),
            Some(Answer::Unknown(_)) | None => Attempt::Unknown,
        }
    }
}

/// The block that a key stands for.
fn block_key(key: u64) -> Vec<u8> {
    let mut bytes = vec![0x5c; 32];
    bytes[..8].copy_from_slice(&key.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    bytes
}

/// The command that does an operation.
pub(super) fn command(key: u64, operation: &Operation) -> v1::Command {
    let (version, body) = match *operation {
        Operation::Report { incarnation, sequence, reset } => {
            let report = v1::BlockReport {
                node_id: REPORTER + key,
                incarnation,
                sequence,
                reset,
                ..Default::default()
            };
            (1, Body::BlockReport(report))
        }
        Operation::Claim { claimant } => {
            let claim = v1::ClaimPrefill {
                namespace_id: 0,
                key: block_key(key).into(),
                claimant: claimant.to_string().into_bytes().into(),
                ttl_ms: TTL_MS,
                ..Default::default()
            };
            (3, Body::ClaimPrefill(claim))
        }
        Operation::Renew { token } => {
            let renew = v1::RenewClaim { namespace_id: 0, key: block_key(key).into(), token, ttl_ms: TTL_MS };
            (3, Body::RenewClaim(renew))
        }
        Operation::Release { token } => {
            (3, Body::ReleaseClaim(v1::ReleaseClaim { namespace_id: 0, key: block_key(key).into(), token }))
        }
        Operation::Pin => (
            3,
            Body::PinBlocks(v1::PinBlocks {
                pin_id: vec![key as u8; 16].into(),
                namespace_id: 0,
                keys: block_key(key).into(),
                size_bytes: 1,
                ttl_ms: TTL_MS,
            }),
        ),
        Operation::Unpin => {
            (3, Body::UnpinBlocks(v1::UnpinBlocks { pin_id: vec![key as u8; 16].into(), namespace_id: 0 }))
        }
    };
    v1::Command { version, stamp_ms: 0, body: Some(body) }
}

/// What an outcome says, if it is one of the model's.
pub(super) fn said(kind: &Kind) -> Option<Said> {
    Some(match kind {
        Kind::ReportApplied(applied) => Said::Applied { next: applied.next_sequence },
        Kind::ReportGap(gap) => Said::Gap { next: gap.next_sequence },
        Kind::Superseded(by) => Said::Superseded { incarnation: by.incarnation },
        Kind::ClaimGranted(granted) => Said::Granted { token: granted.token },
        Kind::ClaimHeld(held) => {
            Said::Held { claimant: std::str::from_utf8(&held.claimant).ok()?.parse().ok()? }
        }
        Kind::ClaimGone(_) => Said::Gone,
        Kind::Pinned(_) => Said::Done { changed: true },
        Kind::Done(done) => Said::Done { changed: done.changed },
        _ => return None,
    })
}
