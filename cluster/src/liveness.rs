//! When the control leader last heard each node, in the leader's own time since it became leader.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hearth_proto::limits::HEARTBEAT_MS;
use hearth_proto::{Incarnation, NodeId};
use rustc_hash::FxHashMap;

/// The failure detector's memory. It starts anew with each term: a new leader has heard nobody yet
/// and gives every node the full time.
#[derive(Debug, Default)]
pub(crate) struct Liveness(Mutex<Heard>);

#[derive(Debug, Default)]
struct Heard {
    term: Option<u64>,
    /// Nodes are silent since then, unless heard later.
    since: Option<Instant>,
    last_tick: Option<Instant>,
    nodes: FxHashMap<NodeId, Heartbeat>,
}

#[derive(Debug, Clone, Copy)]
struct Heartbeat {
    of: Incarnation,
    at: Instant,
    command_version: u32,
}

impl Liveness {
    /// Notes a heartbeat that arrived while this node leads in `term`.
    pub(crate) fn hear(
        &self,
        term: u64,
        node: NodeId,
        incarnation: Incarnation,
        command_version: u32,
        now: Instant,
    ) {
        let mut heard = self.lock();
        heard.lead(term, now);
        heard.nodes.insert(node, Heartbeat { of: incarnation, at: now, command_version });
    }

    /// The newest command version that this incarnation of the node said it knows, if it was heard.
    pub(crate) fn command_version(&self, node: NodeId, incarnation: Incarnation) -> Option<u32> {
        self.lock().nodes.get(&node).filter(|beat| beat.of == incarnation).map(|beat| beat.command_version)
    }

    /// Called at each tick of the duties; without `term` this node does not lead.
    pub(crate) fn tick(&self, term: Option<u64>, now: Instant) {
        let mut heard = self.lock();
        let Some(term) = term else {
            *heard = Heard::default();
            return;
        };
        heard.lead(term, now);
        // This process was stopped for a while: what it did not hear says nothing about the others.
        let gap = heard.last_tick.map_or(Duration::ZERO, |last| now.saturating_duration_since(last));
        if gap > Duration::from_millis(HEARTBEAT_MS * 3) {
            heard.since = Some(now);
        }
        heard.last_tick = Some(now);
    }

    /// How long this incarnation of the node has been silent, as far as this leader can tell.
    pub(crate) fn silence(&self, node: NodeId, incarnation: Incarnation, now: Instant) -> Duration {
        let heard = self.lock();
        let last = heard.nodes.get(&node).filter(|beat| beat.of == incarnation).map(|beat| beat.at);
        last.max(heard.since).map_or(Duration::ZERO, |last| now.saturating_duration_since(last))
    }

    fn lock(&self) -> MutexGuard<'_, Heard> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Heard {
    fn lead(&mut self, term: u64, now: Instant) {
        if self.term != Some(term) {
            *self = Self { term: Some(term), since: Some(now), ..Self::default() };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(2);
    const FIRST: Incarnation = Incarnation(1);

    fn ms(count: u64) -> Duration {
        Duration::from_millis(count)
    }

    #[test]
    fn silence_counts_from_the_last_heartbeat_of_that_incarnation() {
        let (liveness, start) = (Liveness::default(), Instant::now());
        liveness.tick(Some(1), start);
        assert_eq!(liveness.silence(NODE, FIRST, start + ms(400)), ms(400));
        liveness.hear(1, NODE, FIRST, 3, start + ms(500));
        assert_eq!(liveness.silence(NODE, FIRST, start + ms(600)), ms(100));
        assert_eq!(liveness.silence(NODE, Incarnation(2), start + ms(600)), ms(600));
    }

    #[test]
    fn a_new_term_gives_every_node_the_full_time() {
        let (liveness, start) = (Liveness::default(), Instant::now());
        liveness.tick(Some(1), start);
        liveness.hear(1, NODE, FIRST, 3, start);
        liveness.tick(Some(2), start + ms(900));
        assert_eq!(liveness.silence(NODE, FIRST, start + ms(1_000)), ms(100));
        liveness.tick(None, start + ms(1_100));
        assert_eq!(liveness.silence(NODE, FIRST, start + ms(9_000)), ms(0));
    }

    #[test]
    fn a_leader_that_was_stopped_accuses_nobody() {
        let (liveness, start) = (Liveness::default(), Instant::now());
        liveness.tick(Some(1), start);
        liveness.hear(1, NODE, FIRST, 3, start);
        liveness.tick(Some(1), start + ms(60_000));
        assert_eq!(liveness.silence(NODE, FIRST, start + ms(60_500)), ms(500));
    }
}
