//! Whether the nodes have been the same for long enough to make replicas again. Pure: time is passed in.

use std::time::{Duration, Instant};

use hearth_proto::limits::REPAIR_GRACES_MAX;
use hearth_proto::v1;

/// Waits for a grace after each change among the nodes: one that merely restarts is back by then, and has
/// said what it holds. Changes that do not end put repair off for some graces and no longer.
#[derive(Debug)]
pub(super) struct Calm {
    grace: Duration,
    known: Option<Vec<Known>>,
    disturbed: Option<Disturbed>,
}

/// A node's id, state and incarnation.
type Known = (u64, i32, u64);

#[derive(Clone, Copy, Debug)]
struct Disturbed {
    first: Instant,
    last: Instant,
}

impl Calm {
    pub(super) fn new(grace: Duration) -> Self {
        Self { grace, known: None, disturbed: None }
    }

    /// Takes in the nodes of the cluster; true if something changed, as it has when this is the first look.
    pub(super) fn observe(&mut self, nodes: &[v1::Node], now: Instant) -> bool {
        let nodes: Vec<Known> =
            nodes.iter().map(|node| (node.node_id, node.state, node.incarnation)).collect();
        if self.known.as_ref() == Some(&nodes) {
            return false;
        }
        self.known = Some(nodes);
        let first = self.disturbed.map_or(now, |disturbed| disturbed.first);
        self.disturbed = Some(Disturbed { first, last: now });
        true
    }

    /// Whether what is missing now is missing for good.
    pub(super) fn holds(&self, now: Instant) -> bool {
        self.disturbed.is_none_or(|Disturbed { first, last }| {
            now.saturating_duration_since(last) >= self.grace
                || now.saturating_duration_since(first) >= self.grace * REPAIR_GRACES_MAX
        })
    }

    /// What was missing is being looked for: later changes have a grace of their own.
    pub(super) fn answered(&mut self) {
        self.disturbed = None;
    }
}

#[cfg(test)]
mod tests {
    use hearth_proto::v1::NodeState;

    use super::*;

    const GRACE: Duration = Duration::from_secs(10);

    fn nodes(second: NodeState, incarnation: u64) -> Vec<v1::Node> {
        let node = |node_id, state: NodeState, incarnation| v1::Node {
            node_id,
            state: state.into(),
            incarnation,
            ..v1::Node::default()
        };
        vec![node(1, NodeState::Up, 1), node(2, second, incarnation)]
    }

    #[test]
    fn a_change_is_waited_out_and_a_restart_begins_anew() {
        let start = Instant::now();
        let mut calm = Calm::new(GRACE);
        assert!(calm.observe(&nodes(NodeState::Up, 1), start));
        assert!(!calm.holds(start) && calm.holds(start + GRACE));
        calm.answered();
        assert!(!calm.observe(&nodes(NodeState::Up, 1), start + GRACE) && calm.holds(start + GRACE));
        let down = start + GRACE * 3;
        assert!(calm.observe(&nodes(NodeState::Down, 1), down));
        assert!(!calm.holds(down + GRACE / 2));
        assert!(calm.observe(&nodes(NodeState::Up, 2), down + GRACE / 2));
        assert!(!calm.holds(down + GRACE), "the node is back and has not said yet what it holds");
        assert!(calm.holds(down + GRACE / 2 + GRACE));
    }

    #[test]
    fn nodes_that_never_rest_do_not_put_repair_off_for_ever() {
        let start = Instant::now();
        let mut calm = Calm::new(GRACE);
        let step = GRACE / 2;
        let held = (0..100_u32).find(|turn| {
            let now = start + step * *turn;
            calm.observe(&nodes(NodeState::Up, u64::from(*turn)), now);
            calm.holds(now)
        });
        assert_eq!(held, Some(REPAIR_GRACES_MAX * 2));
    }
}
