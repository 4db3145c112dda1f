//! What an operator does to nodes and versions, for the Operate service.

use std::time::Instant;

use hearth_cluster::{Cluster, OperateError, ProposeError};
use hearth_proto::{NodeId, v1};
use tonic::Status;

use crate::calls;
use crate::progress::Progress;

/// Begins a drain of a node, or with `undo` ends it.
pub(crate) async fn drain(
    cluster: &Cluster,
    node_id: u64,
    undo: bool,
    deadline: Instant,
) -> Result<bool, Status> {
    cluster.drain_node(NodeId(node_id), undo, deadline).await.map_err(|error| status_of(&error))
}

/// Takes a node out for good. Without force it has to be drained, and the drain to have ended.
pub(crate) async fn remove(
    cluster: &Cluster,
    progress: &Progress,
    request: v1::RemoveRequest,
    deadline: Instant,
) -> Result<v1::RemoveResponse, Status> {
    let node = request.node_id;
    // One that is not drained is refused below, whatever it holds.
    if !request.force {
        let left = progress.remaining_blocks(NodeId(node), deadline).await.map_err(|unknown| {
            let detail =
                format!("it is not known what node {node} alone holds: {unknown}; ask again, or use --force");
            Status::unavailable(detail)
        })?;
        if left > 0 {
            let detail = format!(
                "node {node} is being drained, and {left} blocks are on no node that stays: wait until `hearth node \
                 progress` shows none, add a node if none can take them, or lose them with --force"
            );
            return Err(calls::refused(v1::RefusalReason::NotDrained, detail));
        }
    }
    let removed = cluster.remove_node(NodeId(request.node_id), request.force, deadline).await;
    removed.map(|changed| v1::RemoveResponse { changed }).map_err(|error| status_of(&error))
}

/// Lets newer commands into the logs.
pub(crate) async fn finalize_version(
    cluster: &Cluster,
    request: v1::FinalizeVersionRequest,
    deadline: Instant,
) -> Result<v1::FinalizeVersionResponse, Status> {
    let finalized = cluster.finalize_version(request.version, deadline).await;
    finalized
        .map(|(version, changed)| v1::FinalizeVersionResponse { version, changed })
        .map_err(|error| status_of(&error))
}

/// A refusal says its reason; `Unavailable` may be asked again, and is harmless to.
fn status_of(error: &OperateError) -> Status {
    match error {
        OperateError::Propose(ProposeError::Refused { reason, detail }) => {
            calls::refused(*reason, detail.clone())
        }
        OperateError::Propose(ProposeError::NoLeader { .. } | ProposeError::Unknown { .. })
        | OperateError::Read(_) => Status::unavailable(error.to_string()),
        OperateError::Propose(ProposeError::Stopped { group, .. }) => {
            Status::unavailable(format!("group {group} has stopped on this node; ask another one"))
        }
        OperateError::Unexpected { .. } => Status::internal(error.to_string()),
    }
}
