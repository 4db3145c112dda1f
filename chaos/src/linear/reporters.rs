//! Nodes without a process: admitted and registered, so that lookups show what they report, and kept up with
//! heartbeats for as long as a history lasts.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use hearth_proto::limits::NODE_DOWN_AFTER_MS;
use hearth_proto::{GroupId, v1};
use tokio::task::JoinSet;
use tonic::Request;
use v1::cluster_client::ClusterClient;
use v1::command::Body;
use v1::directory_client::DirectoryClient;
use v1::outcome::Kind;
use v1::propose_response::Result as Answer;
use v1::{NodeState, RefusalReason};

use super::client::Nodes;
use super::command::Reporter;

/// The version of commands that know of nodes that never vote.
const VERSION: u32 = 3;
/// Pause between heartbeats: many of them may be lost before a node counts as down.
const HEARTBEAT: Duration = Duration::from_millis(NODE_DOWN_AFTER_MS / 12);
/// How long one call may take.
const CALL: Duration = Duration::from_millis(1_000);
/// Attempts to commit a command, and the pause between them.
const ATTEMPTS: u32 = 600;
const RETRY: Duration = Duration::from_millis(50);

/// Brings `count` reporters into the cluster. Nobody connects to them: they have no addresses.
///
/// # Errors
/// If the cluster does not take them in.
pub(super) async fn register(nodes: &Nodes, count: u64) -> anyhow::Result<Vec<Reporter>> {
    let mut reporters = Vec::new();
    for number in 0..count {
        let id: Bytes = [[0xc4; 8], number.to_le_bytes()].concat().into();
        let name = format!("reporter-{number}");
        let admit = v1::AdmitNode { node_uuid: id.clone(), name: name.clone(), ..Default::default() };
        let Kind::Admitted(admitted) = commit(nodes, Body::AdmitNode(admit)).await? else {
            bail!("the cluster does not admit a node");
        };
        let register = v1::RegisterNode {
            node_id: admitted.node_id,
            boot_id: id.clone(),
            name,
            command_version: VERSION,
            never_votes: true,
            ..Default::default()
        };
        let Kind::Registered(registered) = commit(nodes, Body::RegisterNode(register)).await? else {
            bail!("the cluster does not register a node");
        };
        reporters.push(Reporter {
            node_id: admitted.node_id,
            incarnation: registered.incarnation,
            boot_id: id,
        });
    }
    Ok(reporters)
}

/// Sends heartbeats for all reporters to all nodes until it is dropped: whoever leads takes them.
pub(super) fn keep_up(nodes: &Nodes, reporters: &Arc<Vec<Reporter>>) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    for channel in nodes.channels.clone() {
        let (cluster_id, reporters) = (nodes.cluster_id.clone(), reporters.clone());
        tasks.spawn(async move {
            let mut client = ClusterClient::new(channel);
            loop {
                for reporter in reporters.iter() {
                    let mut beat = Request::new(v1::HeartbeatRequest {
                        cluster_id: cluster_id.clone(),
                        node_id: reporter.node_id,
                        incarnation: reporter.incarnation,
                        boot_id: reporter.boot_id.clone(),
                        command_version: VERSION,
                    });
                    beat.set_timeout(HEARTBEAT);
                    // Whoever does not answer, or does not lead, is asked again soon.
                    if !matches!(tokio::time::timeout(HEARTBEAT, client.heartbeat(beat)).await, Ok(Ok(_))) {
                        break;
                    }
                }
                tokio::time::sleep(HEARTBEAT).await;
            }
        });
    }
    tasks
}

/// Whether no reporter was declared down: what one reports shows no more after that, which no order of operations
/// explains. Nothing registers it again, so the end tells of the whole history.
///
/// # Errors
/// If no node says which nodes there are.
pub(super) async fn are_all_up(nodes: &Nodes, reporters: &[Reporter]) -> anyhow::Result<bool> {
    let mut heard = false;
    for channel in &nodes.channels {
        let mut client = DirectoryClient::new(channel.clone());
        let Ok(Ok(listed)) = tokio::time::timeout(CALL, client.nodes(v1::NodesRequest {})).await else {
            continue;
        };
        heard = true;
        let listed = listed.into_inner().nodes;
        let is_up = |reporter: &Reporter| {
            listed.iter().any(|node| {
                (node.node_id, node.incarnation) == (reporter.node_id, reporter.incarnation)
                    && node.state() == NodeState::Up
            })
        };
        if !reporters.iter().all(is_up) {
            return Ok(false);
        }
    }
    if heard { Ok(true) } else { bail!("no node says which nodes there are") }
}

/// Gives a command to whoever leads the control group.
async fn commit(nodes: &Nodes, body: Body) -> anyhow::Result<Kind> {
    let command = v1::Command { version: VERSION, stamp_ms: 0, body: Some(body) };
    for attempt in 0..ATTEMPTS {
        let node = attempt as usize % nodes.channels.len();
        let proposed = nodes.propose(node, GroupId::CONTROL, command.clone());
        if let Ok(Ok(Some(Answer::Applied(applied)))) = tokio::time::timeout(CALL, proposed).await {
            match applied.outcome.and_then(|outcome| outcome.kind) {
                // Not every node has said yet which commands it knows.
                Some(Kind::Refused(refused)) if refused.reason() == RefusalReason::Version => {}
                kind => return kind.context("a command has no outcome"),
            }
        }
        tokio::time::sleep(RETRY).await;
    }
    bail!("no node leads the control group")
}
