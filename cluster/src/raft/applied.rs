//! Waiting for this node to have applied an entry that the leader told of.

use std::time::Instant;

use hearth_proto::LogIndex;

use super::group::Group;

impl Group {
    /// Waits until this node has applied the log up to `index`. False if it had not by the deadline, or
    /// never will since the group has stopped here.
    pub(crate) async fn wait_applied(&self, index: LogIndex, deadline: Instant) -> bool {
        if self.replicated().applied_index() >= index.0 {
            return true;
        }
        let limit = deadline.saturating_duration_since(Instant::now());
        let wait = self.raft().wait(Some(limit));
        wait.applied_index_at_least(Some(index.0), "an entry that the leader told of").await.is_ok()
    }
}
