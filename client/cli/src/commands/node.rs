//! `node drain`, `node undrain`, `node remove` and `upgrade finalize`.

use std::collections::BTreeMap;

use anyhow::Context;
use hearth_client::Client;
use hearth_proto::v1;
use serde_json::json;

use crate::args::{NodeCommand, Output, UpgradeCommand};
use crate::exit::{BadRequest, Exit};
use crate::output;

/// Drains a node, ends that, or takes it out for good.
pub(crate) async fn node(client: &Client, form: Output, command: NodeCommand) -> anyhow::Result<Exit> {
    let (name, done, was_so) = match &command {
        NodeCommand::Drain { node } => (node, "is being drained", "was being drained already"),
        NodeCommand::Undrain { node } => (node, "is drained no more", "was not being drained"),
        NodeCommand::Remove { node, .. } => (node, "is removed", "was removed already"),
    };
    let node_id = node_id_of(client, name).await?;
    let changed = match command {
        NodeCommand::Drain { .. } => client.drain_node(node_id).await?,
        NodeCommand::Undrain { .. } => client.undrain_node(node_id).await?,
        NodeCommand::Remove { force, .. } => client.remove_node(node_id, force).await?,
    };
    if form == Output::Json {
        output::json(&json!({ "node_id": node_id, "changed": changed }))?;
    } else {
        output::line(format_args!("node {node_id} {}", if changed { done } else { was_so }));
    }
    Ok(Exit::Done)
}

/// Lets the newest commands into the logs that every node knows.
pub(crate) async fn upgrade(client: &Client, form: Output, command: UpgradeCommand) -> anyhow::Result<Exit> {
    let UpgradeCommand::Finalize { version } = command;
    let v1::FinalizeVersionResponse { version, changed } = client.finalize_version(version).await?;
    if form == Output::Json {
        output::json(&json!({ "version": version, "changed": changed }))?;
    } else {
        let was = if changed { "is" } else { "was already" };
        output::line(format_args!("the cluster {was} at version {version}"));
    }
    Ok(Exit::Done)
}

/// The node of this id or name.
async fn node_id_of(client: &Client, name: &str) -> anyhow::Result<u64> {
    if let Ok(id) = name.parse() {
        return Ok(id);
    }
    let nodes = client.nodes().await?.nodes;
    // One that was removed leaves its name to others.
    let staying = nodes.into_iter().filter(|node| node.state() != v1::NodeState::Removed);
    let mut ids: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    staying.for_each(|node| ids.entry(node.name).or_default().push(node.node_id));
    match ids.get(name).map(Vec::as_slice) {
        Some([id]) => Ok(*id),
        Some(several) => {
            let problem = format!("several nodes are called {name:?}: {several:?}; give the id");
            Err(BadRequest(problem).into())
        }
        None => {
            Err(BadRequest(format!("no node is called {name:?}; see `hearth nodes`"))).context("which node?")
        }
    }
}
