//! `node drain`, `node undrain`, `node progress`, `node remove` and `upgrade finalize`.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hearth_client::Client;
use hearth_proto::v1;
use serde_json::json;

use crate::args::{NodeCommand, Output, UpgradeCommand};
use crate::exit::{BadRequest, Exit};
use crate::output;

/// How often a drain that is waited for is looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long the cluster may be silent about it.
const HEARD_WITHIN: Duration = Duration::from_secs(30);

/// Drains a node, ends that, takes it out for good, or shows how far drains are.
pub(crate) async fn node(client: &Client, form: Output, command: NodeCommand) -> anyhow::Result<Exit> {
    let (name, done, was_so) = match &command {
        NodeCommand::Drain { node, .. } => (node, "is being drained", "was being drained already"),
        NodeCommand::Undrain { node } => (node, "is drained no more", "was not being drained"),
        NodeCommand::Remove { node, .. } => (node, "is removed", "was removed already"),
        NodeCommand::Progress => return progress(client, form).await,
    };
    let node_id = node_id_of(client, name).await?;
    let (changed, wait) = match command {
        NodeCommand::Drain { wait, .. } => (client.drain_node(node_id).await?, wait),
        NodeCommand::Undrain { .. } => (client.undrain_node(node_id).await?, false),
        NodeCommand::Remove { force, .. } => (client.remove_node(node_id, force).await?, false),
        NodeCommand::Progress => return Ok(Exit::Done),
    };
    if form == Output::Table || !wait {
        said(form, node_id, changed, if changed { done } else { was_so })?;
    }
    if wait {
        wait_until_drained(client, form, node_id).await?;
        said(form, node_id, changed, "holds nothing that no other node has")?;
    }
    Ok(Exit::Done)
}

fn said(form: Output, node_id: u64, changed: bool, text: &str) -> anyhow::Result<()> {
    if form == Output::Json {
        return output::json(&json!({ "node_id": node_id, "changed": changed }));
    }
    output::line(format_args!("node {node_id} {text}"));
    Ok(())
}

/// Waits for the end of a drain, however long it takes, as long as the node is drained.
async fn wait_until_drained(client: &Client, form: Output, node_id: u64) -> anyhow::Result<()> {
    let began = Instant::now();
    let (mut seen, mut silent) = (false, None);
    loop {
        match client.progress().await {
            Ok(answer) => {
                silent = None;
                let of_node = |drain: &&v1::DrainProgress| {
                    drain.node.as_ref().is_some_and(|node| node.node_id == node_id)
                };
                match answer.drains.iter().find(of_node) {
                    Some(drain) if drain.remaining_blocks == 0 => return Ok(()),
                    Some(drain) => {
                        seen = true;
                        if form == Output::Table {
                            output::line(format_args!("node {node_id}: {}", remaining(drain)));
                        }
                    }
                    // The member that answers may hear of the drain a moment later.
                    None if !seen && began.elapsed() < HEARD_WITHIN => {}
                    None => bail!("node {node_id} is drained no more"),
                }
            }
            // A leader may be missing for a moment, and the drain goes on.
            Err(error) => {
                let since = *silent.get_or_insert_with(Instant::now);
                if since.elapsed() > HEARD_WITHIN {
                    return Err(error.into());
                }
            }
        }
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

/// Shows what drained nodes hold still, and what replicas are missing.
async fn progress(client: &Client, form: Output) -> anyhow::Result<Exit> {
    let answer = client.progress().await?;
    if form == Output::Json {
        let drain = |drain: &v1::DrainProgress| {
            json!({
                "node_id": drain.node.as_ref().map(|node| node.node_id),
                "remaining_blocks": drain.remaining_blocks,
                "remaining_bytes": drain.remaining_bytes,
                "eta_seconds": Some(drain.eta_seconds).filter(|eta| *eta > 0 || drain.remaining_blocks == 0),
            })
        };
        output::json(&json!({
            "drains": answer.drains.iter().map(drain).collect::<Vec<_>>(),
            "missing_blocks": answer.missing_blocks,
            "missing_bytes": answer.missing_bytes,
        }))?;
        return Ok(Exit::Done);
    }
    if answer.drains.is_empty() {
        output::line("no node is being drained");
    }
    for drain in &answer.drains {
        let node = drain.node.clone().unwrap_or_default();
        output::line(format_args!("node {} {}: {}", node.node_id, node.name, remaining(drain)));
    }
    let (blocks, size) = (answer.missing_blocks, output::bytes(answer.missing_bytes));
    output::line(format_args!("replicas missing: {blocks} blocks, {size}"));
    Ok(Exit::Done)
}

fn remaining(drain: &v1::DrainProgress) -> String {
    let left = match (drain.remaining_blocks, drain.eta_seconds) {
        (0, _) => return "nothing is left that no other node has".into(),
        (_, 0) => "the rate is not known yet".into(),
        (_, eta) => format!("about {eta} s"),
    };
    format!("{} blocks, {} to move, {left}", drain.remaining_blocks, output::bytes(drain.remaining_bytes))
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
