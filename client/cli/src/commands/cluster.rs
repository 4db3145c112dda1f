//! `status` and `nodes`.

use futures::future::join_all;
use hearth_client::Client;
use hearth_proto::{ClusterId, v1};
use serde_json::json;

use crate::args::Output;
use crate::exit::Exit;
use crate::output;

fn state_name(node: &v1::Node) -> &'static str {
    match node.state() {
        v1::NodeState::Up => "up",
        v1::NodeState::Down => "down",
        v1::NodeState::Draining => "draining",
        v1::NodeState::Removed => "removed",
        v1::NodeState::Unspecified => "unknown",
    }
}

fn cluster_name(bytes: &[u8]) -> String {
    ClusterId::try_from(bytes).map_or_else(|_| "?".into(), |id| id.to_string())
}

/// Lists the nodes as the cluster's control group knows them.
pub(crate) async fn nodes(client: &Client, form: Output) -> anyhow::Result<Exit> {
    let answer = client.nodes().await?;
    if form == Output::Json {
        let nodes: Vec<_> = answer.nodes.iter().map(node_json).collect();
        output::json(&json!({
            "cluster_id": cluster_name(&answer.cluster_id),
            "applied_index": answer.applied_index,
            "nodes": nodes,
        }))?;
    } else {
        output::line(format_args!("cluster {}", cluster_name(&answer.cluster_id)));
        let header =
            ["NODE", "NAME", "STATE", "VOTER", "ZONE", "INCARNATION", "GRPC", "BLOCKS", "HOST", "NVME"];
        output::table(
            &header,
            answer.nodes.iter().map(|node| {
                vec![
                    node.node_id.to_string(),
                    node.name.clone(),
                    state_name(node).into(),
                    if node.voter { "yes" } else { "no" }.into(),
                    node.zone.clone(),
                    node.incarnation.to_string(),
                    node.control_address.clone(),
                    node.data_address.clone(),
                    output::bytes(node.host_capacity_bytes),
                    output::bytes(node.nvme_capacity_bytes),
                ]
            }),
        );
    }
    Ok(Exit::Done)
}

fn node_json(node: &v1::Node) -> serde_json::Value {
    json!({
        "node_id": node.node_id,
        "name": node.name,
        "state": state_name(node),
        "voter": node.voter,
        "zone": node.zone,
        "command_version": node.command_version,
        "incarnation": node.incarnation,
        "control_address": node.control_address,
        "data_address": node.data_address,
        "host_capacity_bytes": node.host_capacity_bytes,
        "nvme_capacity_bytes": node.nvme_capacity_bytes,
    })
}

/// Asks every node what it holds and how it sees the Raft groups. Nodes that do not answer are shown
/// as such, and make the command exit with "failed".
pub(crate) async fn status(client: &Client, form: Output) -> anyhow::Result<Exit> {
    let listed = client.nodes().await?;
    let answers = join_all(listed.nodes.iter().map(|node| client.status(&node.control_address))).await;
    let silent = listed
        .nodes
        .iter()
        .zip(&answers)
        .any(|(node, answer)| answer.is_err() && node.state() != v1::NodeState::Removed);
    if form == Output::Json {
        let nodes: Vec<_> = listed
            .nodes
            .iter()
            .zip(&answers)
            .map(|(node, answer)| match answer {
                Ok(status) => {
                    json!({ "node": node_json(node), "version": status.version, "uptime_ms": status.uptime_ms,
                            "store": status.store.map(store_json), "groups": groups_json(status) })
                }
                Err(error) => json!({ "node": node_json(node), "error": error.to_string() }),
            })
            .collect();
        output::json(&json!({ "cluster_id": cluster_name(&listed.cluster_id), "nodes": nodes }))?;
    } else {
        status_tables(&listed, &answers);
    }
    Ok(if silent { Exit::Failed } else { Exit::Done })
}

fn status_tables(
    listed: &v1::NodesResponse,
    answers: &[Result<v1::StatusResponse, hearth_client::StatusError>],
) {
    output::line(format_args!("cluster {}", cluster_name(&listed.cluster_id)));
    let header =
        ["NODE", "STATE", "UP FOR", "HOST USED", "BLOCKS", "NVME USED", "BLOCKS", "HITS", "MISSES", "PUTS"];
    output::table(
        &header,
        listed.nodes.iter().zip(answers).map(|(node, answer)| {
            let name = format!("{} {}", node.node_id, node.name);
            let Ok(status) = answer else {
                return vec![name, state_name(node).into(), "no answer".into()];
            };
            let s = status.store.unwrap_or_default();
            vec![
                name,
                state_name(node).into(),
                format!("{} s", status.uptime_ms / 1_000),
                format!("{} of {}", output::bytes(s.host_used_bytes), output::bytes(s.host_capacity_bytes)),
                s.host_blocks.to_string(),
                format!("{} of {}", output::bytes(s.nvme_used_bytes), output::bytes(s.nvme_capacity_bytes)),
                s.nvme_blocks.to_string(),
                (s.gets_host + s.gets_nvme).to_string(),
                s.gets_missed.to_string(),
                s.puts.to_string(),
            ]
        }),
    );
    let header = ["GROUP", "SEEN BY", "LEADER", "TERM", "APPLIED", "VOTERS", "LEARNERS", "BLOCKS"];
    output::table(
        &header,
        listed.nodes.iter().zip(answers).flat_map(|(node, answer)| {
            answer.iter().flat_map(|status| &status.groups).map(|group| {
                vec![
                    group.group_id.to_string(),
                    node.node_id.to_string(),
                    leader(group),
                    group.term.to_string(),
                    group.applied_index.to_string(),
                    format!("{:?}", group.voters),
                    format!("{:?}", group.learners),
                    if group.group_id == 0 { String::new() } else { group.blocks.to_string() },
                ]
            })
        }),
    );
    for (node, answer) in listed.nodes.iter().zip(answers) {
        let fenced = answer.as_ref().ok().and_then(|status| status.store).map_or(0, |s| s.fenced_extents);
        if fenced > 0 {
            output::line(format_args!(
                "node {}: {fenced} extents of its slabs are out of service since an I/O error; when the cause is \
                 gone, start it once with --nvme-lift-fences",
                node.node_id
            ));
        }
        let groups = answer.iter().flat_map(|status| &status.groups);
        for group in groups.filter(|group| !group.stopped.is_empty()) {
            output::line(format_args!("node {}: group {} {}", node.node_id, group.group_id, group.stopped));
        }
    }
}

fn leader(group: &v1::GroupStatus) -> String {
    match group.leader {
        _ if !group.stopped.is_empty() => "stopped here".into(),
        0 => "none".into(),
        leader => leader.to_string(),
    }
}

fn groups_json(status: &v1::StatusResponse) -> Vec<serde_json::Value> {
    let group = |g: &v1::GroupStatus| {
        json!({
            "group_id": g.group_id, "leader": g.leader, "term": g.term, "last_log_index": g.last_log_index,
            "applied_index": g.applied_index, "voters": g.voters, "learners": g.learners, "blocks": g.blocks,
            "stopped": g.stopped,
        })
    };
    status.groups.iter().map(group).collect()
}

fn store_json(s: v1::StoreStatus) -> serde_json::Value {
    json!({
        "host_capacity_bytes": s.host_capacity_bytes, "host_used_bytes": s.host_used_bytes,
        "host_blocks": s.host_blocks, "nvme_capacity_bytes": s.nvme_capacity_bytes,
        "nvme_used_bytes": s.nvme_used_bytes, "nvme_blocks": s.nvme_blocks, "gets_host": s.gets_host,
        "gets_nvme": s.gets_nvme, "gets_missed": s.gets_missed, "puts": s.puts, "put_bytes": s.put_bytes,
        "evicted_host": s.evicted_host, "evicted_nvme": s.evicted_nvme, "corrupt_blocks": s.corrupt_blocks,
        "io_errors": s.io_errors, "pending_writes": s.pending_writes, "fenced_extents": s.fenced_extents,
    })
}
