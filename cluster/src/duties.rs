//! What the leaders do: declare silent nodes down, place members and voters, purge what dead nodes claimed.

mod members;
mod placement;

use std::time::{Duration, Instant};

use hearth_proto::limits::{HEARTBEAT_MS, PROPOSE_ATTEMPT_MS};
use hearth_proto::v1::command::Body;
use hearth_proto::{GroupId, Incarnation, NodeId, v1};

use crate::cluster::Cluster;
use crate::error::MemberError;
use crate::lookup::{DeadHolder, dead_holders};
use crate::raft::{Group, LocalProposal};
use crate::state::{State, command};
pub(crate) use members::Absences;

impl Cluster {
    /// Does the duties of whatever this node leads, for ever. The failure detector runs by itself, so
    /// that a slow change of members is not taken for a pause of this process.
    /// Returns only when a group has stopped here.
    pub(crate) async fn do_duties(&self) -> MemberError {
        tokio::select! {
            error = self.watch_nodes() => error,
            () = self.keep_order() => MemberError::Stopped { detail: "the duties ended".into() },
            () = self.end_what_is_due() => MemberError::Stopped { detail: "the duties ended".into() },
        }
    }

    async fn watch_nodes(&self) -> MemberError {
        let mut ticks = ticks();
        loop {
            ticks.tick().await;
            for group in self.all_groups() {
                if let Some(failure) = group.failure() {
                    return MemberError::Stopped { detail: format!("group {}: {failure}", group.id()) };
                }
            }
            futures::future::join_all(self.all_groups().map(|group| group.snapshot_if_due())).await;
            let term = self.0.control.leading_term();
            self.0.liveness.tick(term, Instant::now());
            if term.is_some() {
                self.declare_silent_down().await;
            }
        }
    }

    async fn keep_order(&self) {
        let mut ticks = ticks();
        loop {
            ticks.tick().await;
            self.note_absences();
            // One that cannot change its members now holds up no other.
            futures::future::join_all(self.all_groups().map(async |group| {
                if group.leading_term().is_some() {
                    self.place_members(group).await;
                    if group.id() != GroupId::CONTROL {
                        self.purge_dead_claims(group).await;
                    }
                }
            }))
            .await;
        }
    }

    async fn declare_silent_down(&self) {
        let limit = Duration::from_millis(self.0.tuning.node_down_after_ms);
        let now = Instant::now();
        let silent: Vec<(NodeId, Incarnation)> = {
            let replicated = self.0.control.replicated();
            let State::Control(control) = &replicated.state else { return };
            control
                .nodes()
                .filter_map(|node| {
                    let id = NodeId(node.node_id);
                    control.serving_incarnation(id).map(|incarnation| (id, incarnation))
                })
                .filter(|(node, incarnation)| self.0.liveness.silence(*node, *incarnation, now) > limit)
                .collect()
        };
        for (node, incarnation) in silent {
            let down = v1::NodeDown { node_id: node.0, incarnation: incarnation.0 };
            if propose_here(&self.0.control, Body::NodeDown(down)).await {
                tracing::warn!(%node, %incarnation, "silent for too long, declared down");
            }
        }
    }

    async fn purge_dead_claims(&self, group: &Group) {
        let now_ms = self.0.control.stamp_ms();
        let dead = {
            let control = self.0.control.replicated();
            let directory = group.replicated();
            let (State::Control(control), State::Directory(directory)) = (&control.state, &directory.state)
            else {
                return;
            };
            dead_holders(control, directory, now_ms)
        };
        for DeadHolder { node, incarnation, removed } in dead {
            tracing::info!(%node, %incarnation, removed, "claims of a node that is gone are purged");
            let purge = v1::PurgeClaims { node_id: node.0, incarnation: incarnation.0, forget: removed };
            propose_here(group, Body::PurgeClaims(purge)).await;
        }
    }
}

/// Whether a duty was done. One that was not is done at the next tick, by whoever leads then.
async fn propose_here(group: &Group, body: Body) -> bool {
    let command = command::new(body);
    let proposal = group.propose(&command);
    match tokio::time::timeout(Duration::from_millis(PROPOSE_ATTEMPT_MS), proposal).await {
        Ok(LocalProposal::Applied(..)) => return true,
        Ok(LocalProposal::NotLeader(_)) => {}
        Ok(other) => tracing::debug!(?other, "a duty was not done"),
        Err(_) => tracing::debug!("a duty was not done in time"),
    }
    false
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(Duration::from_millis(HEARTBEAT_MS));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}
