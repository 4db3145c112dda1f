//! A client's way to the nodes: every call has a deadline, since the network does not repeat what it lost.

use std::time::Duration;

use hearth_proto::v1::claims_client::ClaimsClient;
use hearth_proto::v1::cluster_client::ClusterClient;
use hearth_proto::v1::directory_client::DirectoryClient;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::v1::propose_response::Result as Answer;
use hearth_proto::v1::retention_client::RetentionClient;
use hearth_proto::{GroupId, v1};
use tonic::transport::{Channel, Endpoint};
use tonic::{Request, Response, Status};

use crate::network::{PORT, connect};
use crate::world::world;

/// How long a call may take.
const CALL: Duration = Duration::from_millis(400);

/// The services of one node.
pub(super) struct Node {
    cluster: ClusterClient<Channel>,
    pub(super) directory: DirectoryClient<Channel>,
    pub(super) claims: ClaimsClient<Channel>,
    pub(super) retention: RetentionClient<Channel>,
}

/// A client's connections to all nodes.
pub(super) struct Caller {
    pub(super) nodes: Vec<Node>,
    asked: usize,
}

impl Caller {
    pub(super) fn new() -> Self {
        let node = |name: &str| {
            let endpoint =
                Endpoint::from_shared(format!("http://{name}:{PORT}")).expect("a name is an address");
            let endpoint =
                endpoint.http2_keep_alive_interval(CALL).keep_alive_timeout(CALL).keep_alive_while_idle(true);
            let channel = connect(&endpoint);
            Node {
                cluster: ClusterClient::new(channel.clone()),
                directory: DirectoryClient::new(channel.clone()),
                claims: ClaimsClient::new(channel.clone()),
                retention: RetentionClient::new(channel),
            }
        };
        Self { nodes: world().machines.iter().map(|machine| node(&machine.name)).collect(), asked: 0 }
    }

    /// Any node.
    pub(super) fn any_node(&self) -> usize {
        world().rng().index(self.nodes.len())
    }

    /// Proposes a command until it is acknowledged. It may be committed more than once.
    pub(super) async fn write(&mut self, group: GroupId, command: &v1::Command) -> (u64, Kind) {
        loop {
            let request = v1::ProposeRequest {
                cluster_id: vec![0xc5; 16].into(),
                group_id: group.0,
                command: Some(command.clone()),
            };
            let answer = within(self.nodes[self.asked].cluster.propose(Request::new(request))).await;
            let hint = match answer.and_then(|answer| answer.result) {
                // What is refused without a word to the log, as before the cluster is founded, is not done.
                Some(Answer::Applied(applied)) if applied.log_index > 0 => {
                    if let Some(kind) = applied.outcome.and_then(|outcome| outcome.kind) {
                        return (applied.log_index, kind);
                    }
                    String::new()
                }
                Some(Answer::NotLeader(other) | Answer::Unknown(other)) => other.leader_address,
                Some(Answer::Applied(_)) | None => String::new(),
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

/// What a node answers in time, if it does.
pub(super) async fn within<T>(call: impl Future<Output = Result<Response<T>, Status>>) -> Option<T> {
    let answer = tokio::time::timeout(CALL, call).await.ok()?;
    answer.ok().map(Response::into_inner)
}

pub(super) async fn pause(low_ms: u64, high_ms: u64) {
    let pause = world().rng().between(low_ms, high_ms);
    tokio::time::sleep(Duration::from_millis(pause)).await;
}
