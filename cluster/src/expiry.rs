//! Moves the replicated time on when something is due to end by it. A cluster in which nothing ends adds
//! nothing to its logs.

use std::time::Duration;

use hearth_proto::limits::{EXPIRY_MS_MAX, EXPIRY_MS_MIN, PROPOSE_ATTEMPT_MS};
use hearth_proto::v1;
use hearth_proto::v1::command::Body;

use crate::cluster::Cluster;
use crate::raft::{Group, LocalProposal};
use crate::state::command;

impl Cluster {
    /// Ends what is due in the groups that this node leads, for ever.
    pub(crate) async fn end_what_is_due(&self) {
        futures::future::join_all(self.all_groups().map(|group| end_due_of(group))).await;
    }
}

async fn end_due_of(group: &Group) {
    let longest = Duration::from_millis(EXPIRY_MS_MAX);
    loop {
        if group.leading_term().is_none() {
            tokio::time::sleep(longest).await;
            continue;
        }
        let first_end_ms = group.replicated().state.first_end_ms();
        let now_ms = group.stamp_ms();
        let wait = match first_end_ms {
            None => longest,
            Some(end_ms) if end_ms > now_ms => Duration::from_millis(end_ms - now_ms).min(longest),
            Some(_) => {
                advance(group).await;
                Duration::ZERO
            }
        };
        // A group that takes no commands now must not be asked without a pause.
        tokio::time::sleep(wait.max(Duration::from_millis(EXPIRY_MS_MIN))).await;
    }
}

async fn advance(group: &Group) {
    let command = command::new(Body::AdvanceTime(v1::AdvanceTime {}));
    let proposal = group.propose(&command);
    match tokio::time::timeout(Duration::from_millis(PROPOSE_ATTEMPT_MS), proposal).await {
        Ok(LocalProposal::Applied(..) | LocalProposal::NotLeader(_)) => {}
        Ok(other) => tracing::debug!(group = %group.id(), ?other, "the replicated time was not moved on"),
        Err(_) => tracing::debug!(group = %group.id(), "the replicated time was not moved on in time"),
    }
}
