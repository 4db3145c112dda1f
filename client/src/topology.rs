//! The nodes that a client knows: its seeds, and what answers have told it since.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hearth_proto::limits::NODES_MAX;
use hearth_proto::{Incarnation, NodeId, v1};

use crate::peer::{DataPeer, Router};

/// How old the list of nodes may get before it is asked for again.
const REFRESH_AFTER: Duration = Duration::from_secs(2);

/// Nodes and how to reach them; grows with what the cluster tells, up to [`NODES_MAX`].
pub(crate) struct Topology {
    seeds: Vec<Arc<Router>>,
    known: RwLock<Known>,
}

#[derive(Default)]
struct Known {
    nodes: BTreeMap<NodeId, KnownNode>,
    /// The node behind the first seed that answered: the writer's own, preferred for puts.
    home: Option<NodeId>,
    refreshed: Option<Instant>,
}

struct KnownNode {
    /// Of the registration that all else here is from. A router that lags may still tell an older one.
    incarnation: Incarnation,
    /// False also for a node that was removed: it is remembered, so that what came before stays past.
    up: bool,
    /// It gives its blocks away: what is put there has to be moved.
    draining: bool,
    router: Option<Arc<Router>>,
    data: Arc<DataPeer>,
}

impl Topology {
    pub(crate) fn new(seeds: Vec<Arc<Router>>) -> Self {
        Self { seeds, known: RwLock::default() }
    }

    /// Takes in what an answer said of nodes, unless a later registration of the node is known already.
    /// A changed address means a new connection.
    pub(crate) fn learn(&self, nodes: &[v1::Node]) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for node in nodes {
            let id = NodeId(node.node_id);
            let incarnation = Incarnation(node.incarnation);
            let draining = node.state() == v1::NodeState::Draining;
            let up = draining || node.state() == v1::NodeState::Up;
            match known.nodes.get_mut(&id) {
                Some(old) if incarnation < old.incarnation => {}
                Some(old)
                    if old.data.address == node.data_address && old.is_router_at(&node.control_address) =>
                {
                    (old.up, old.draining) = (up, draining);
                    old.incarnation = incarnation;
                }
                old => {
                    if old.is_none() && !known.make_room() {
                        tracing::warn!(node = %id, "a node beyond the limit of {NODES_MAX} is not used");
                        continue;
                    }
                    let router = self.router_at(&node.control_address);
                    let data = Arc::new(DataPeer::new(id, node.data_address.clone()));
                    known.nodes.insert(id, KnownNode { incarnation, up, draining, router, data });
                }
            }
        }
    }

    /// Remembers which node is behind the seed that answered.
    pub(crate) fn learn_home(&self, answered_by: &Router, node: NodeId) {
        if self.seeds.first().is_some_and(|seed| seed.address == answered_by.address) {
            self.known.write().unwrap_or_else(PoisonError::into_inner).home = Some(node);
        }
    }

    /// Whether the list of nodes is old. Says so to one caller per period, who then asks for it.
    pub(crate) fn take_refresh(&self, now: Instant) -> bool {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        let is_due = known.refreshed.is_none_or(|at| now.duration_since(at) >= REFRESH_AFTER);
        if is_due {
            known.refreshed = Some(now);
        }
        is_due
    }

    /// Where to ask for locations, best first: the seeds, then every other node that is up.
    pub(crate) fn routers(&self) -> Vec<Arc<Router>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut routers = self.seeds.clone();
        for node in known.nodes.values().filter(|node| node.up) {
            if let Some(router) = &node.router
                && !routers.iter().any(|r| r.address == router.address)
            {
                routers.push(router.clone());
            }
        }
        routers
    }

    /// The block service of a node, if the node is known and not down.
    pub(crate) fn data(&self, node: NodeId) -> Option<Arc<DataPeer>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        known.nodes.get(&node).filter(|node| node.up).map(|node| node.data.clone())
    }

    pub(crate) fn home(&self) -> Option<NodeId> {
        self.known.read().unwrap_or_else(PoisonError::into_inner).home
    }

    /// Nodes that may take new blocks: home first, then the others in an order that `spread` turns. Those that
    /// are being drained come last, home among them.
    pub(crate) fn writable(&self, spread: u64) -> Vec<Arc<DataPeer>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let up = || known.nodes.values().filter(|node| node.up);
        let mut peers: Vec<_> = up().filter(|node| !node.draining).map(|node| node.data.clone()).collect();
        if !peers.is_empty() {
            let turn = (spread % peers.len() as u64) as usize;
            peers.rotate_left(turn);
        }
        if let Some(position) = peers.iter().position(|peer| Some(peer.node) == known.home) {
            let home = peers.remove(position);
            peers.insert(0, home);
        }
        peers.extend(up().filter(|node| node.draining).map(|node| node.data.clone()));
        peers
    }

    fn router_at(&self, address: &str) -> Option<Arc<Router>> {
        match self.seeds.iter().find(|seed| seed.address == address) {
            Some(seed) => Some(seed.clone()),
            None => Router::new(address).map(Arc::new),
        }
    }
}

impl Known {
    /// Makes sure that one more node fits, if need be by forgetting one that is not up.
    fn make_room(&mut self) -> bool {
        if self.nodes.len() < NODES_MAX {
            return true;
        }
        let gone = self.nodes.iter().find(|(_, node)| !node.up).map(|(id, _)| *id);
        gone.is_some_and(|id| self.nodes.remove(&id).is_some())
    }
}

impl KnownNode {
    fn is_router_at(&self, address: &str) -> bool {
        self.router.as_ref().is_some_and(|router| router.address == address)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(id: u64, state: v1::NodeState, port: u16) -> v1::Node {
        v1::Node {
            node_id: id,
            state: state.into(),
            control_address: format!("127.0.0.1:{port}"),
            data_address: format!("127.0.0.1:{}", port + 1),
            ..v1::Node::default()
        }
    }

    fn topology() -> Topology {
        let seed = Router::new("127.0.0.1:7400").map(Arc::new).expect("an address");
        let topology = Topology::new(vec![seed.clone()]);
        topology.learn(&[
            node(1, v1::NodeState::Up, 7400),
            node(2, v1::NodeState::Up, 7410),
            node(3, v1::NodeState::Up, 7420),
        ]);
        topology.learn_home(&seed, NodeId(1));
        topology
    }

    fn ids(peers: &[Arc<DataPeer>]) -> Vec<u64> {
        peers.iter().map(|peer| peer.node.0).collect()
    }

    #[tokio::test]
    async fn the_own_node_is_first_and_the_others_take_turns() {
        let topology = topology();
        assert_eq!(ids(&topology.writable(0)), [1, 2, 3]);
        assert_eq!(ids(&topology.writable(2)), [1, 3, 2]);
        let routers: Vec<_> = topology.routers().iter().map(|r| r.address.clone()).collect();
        assert_eq!(routers, ["127.0.0.1:7400", "127.0.0.1:7410", "127.0.0.1:7420"]);
    }

    #[tokio::test]
    async fn nodes_that_are_down_or_removed_are_not_used() {
        let topology = topology();
        topology.learn(&[node(2, v1::NodeState::Down, 7410), node(3, v1::NodeState::Removed, 7420)]);
        assert_eq!(ids(&topology.writable(0)), [1]);
        assert!(topology.data(NodeId(2)).is_none() && topology.data(NodeId(3)).is_none());
        topology.learn(&[node(2, v1::NodeState::Up, 7410)]);
        assert!(topology.data(NodeId(2)).is_some(), "a node that is up again is used again");
    }

    #[tokio::test]
    async fn a_node_that_is_drained_is_read_from_and_written_to_last() {
        let topology = topology();
        topology.learn(&[node(1, v1::NodeState::Draining, 7400)]);
        assert_eq!(ids(&topology.writable(0)), [2, 3, 1], "also the caller's own");
        assert!(topology.data(NodeId(1)).is_some());
        topology.learn(&[node(2, v1::NodeState::Down, 7410), node(3, v1::NodeState::Down, 7420)]);
        assert_eq!(ids(&topology.writable(0)), [1], "rather there than nowhere");
        topology.learn(&[node(1, v1::NodeState::Up, 7400), node(2, v1::NodeState::Up, 7410)]);
        assert_eq!(ids(&topology.writable(1)), [1, 2]);
    }

    #[tokio::test]
    async fn an_older_registration_never_replaces_a_newer_one() {
        let topology = topology();
        let registered = |incarnation, state, port| v1::Node { incarnation, ..node(2, state, port) };
        topology.learn(&[registered(7, v1::NodeState::Up, 7500)]);
        topology.learn(&[registered(6, v1::NodeState::Down, 7410)]);
        assert_eq!(topology.data(NodeId(2)).expect("node 2 is up").address, "127.0.0.1:7501");
        topology.learn(&[registered(7, v1::NodeState::Removed, 7500)]);
        topology.learn(&[registered(6, v1::NodeState::Up, 7410)]);
        assert!(topology.data(NodeId(2)).is_none(), "a router that lags does not bring a removed node back");
        topology.learn(&[registered(8, v1::NodeState::Up, 7600)]);
        assert_eq!(topology.data(NodeId(2)).expect("node 2 is up").address, "127.0.0.1:7601");
    }

    #[tokio::test]
    async fn the_nodes_known_are_bounded_and_those_that_are_gone_make_room() {
        let topology = topology();
        let many: Vec<_> = (4..=NODES_MAX as u64).map(|id| node(id, v1::NodeState::Up, 9000)).collect();
        topology.learn(&many);
        let beyond = NODES_MAX as u64 + 1;
        topology.learn(&[node(beyond, v1::NodeState::Up, 9000)]);
        assert!(topology.data(NodeId(beyond)).is_none());
        assert_eq!(topology.writable(0).len(), NODES_MAX);
        topology.learn(&[node(3, v1::NodeState::Down, 7420), node(beyond, v1::NodeState::Up, 9000)]);
        assert!(topology.data(NodeId(beyond)).is_some());
    }

    #[tokio::test]
    async fn a_node_keeps_its_connection_until_its_address_changes() {
        let topology = topology();
        let before = topology.data(NodeId(2)).expect("node 2 is up");
        topology.learn(&[node(2, v1::NodeState::Up, 7410)]);
        assert!(Arc::ptr_eq(&before, &topology.data(NodeId(2)).expect("node 2 is up")));
        topology.learn(&[node(2, v1::NodeState::Up, 7500)]);
        assert_eq!(topology.data(NodeId(2)).expect("node 2 is up").address, "127.0.0.1:7501");
    }

    #[tokio::test]
    async fn the_list_is_refreshed_by_one_caller_per_period() {
        let topology = topology();
        let now = Instant::now();
        assert!(topology.take_refresh(now));
        assert!(!topology.take_refresh(now + REFRESH_AFTER / 2));
        assert!(topology.take_refresh(now + REFRESH_AFTER));
    }
}
