//! The nodes that a client knows: its seeds, and what answers have told it since.

use std::collections::BTreeMap;
use std::sync::{Arc, PoisonError, RwLock};
use std::time::{Duration, Instant};

use hearth_proto::{NodeId, v1};

use crate::peer::{DataPeer, Router};

/// How old the list of nodes may get before it is asked for again.
const REFRESH_AFTER: Duration = Duration::from_secs(2);

/// Nodes and how to reach them; grows with what the cluster tells, bounded by its own limits.
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
    up: bool,
    router: Option<Arc<Router>>,
    data: Arc<DataPeer>,
}

impl Topology {
    pub(crate) fn new(seeds: Vec<Arc<Router>>) -> Self {
        Self { seeds, known: RwLock::default() }
    }

    /// Takes in what an answer said of nodes. A changed address means a new connection.
    pub(crate) fn learn(&self, nodes: &[v1::Node]) {
        let mut known = self.known.write().unwrap_or_else(PoisonError::into_inner);
        for node in nodes {
            let id = NodeId(node.node_id);
            let state = node.state();
            if state == v1::NodeState::Removed {
                known.nodes.remove(&id);
                continue;
            }
            let up = matches!(state, v1::NodeState::Up | v1::NodeState::Draining);
            match known.nodes.get_mut(&id) {
                Some(old)
                    if old.data.address == node.data_address && old.is_router_at(&node.control_address) =>
                {
                    old.up = up;
                }
                _ => {
                    let router = self.router_at(&node.control_address);
                    let data = Arc::new(DataPeer::new(id, node.data_address.clone()));
                    known.nodes.insert(id, KnownNode { up, router, data });
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

    /// Nodes that may take new blocks: home first, then the others in an order that `spread` turns.
    pub(crate) fn writable(&self, spread: u64) -> Vec<Arc<DataPeer>> {
        let known = self.known.read().unwrap_or_else(PoisonError::into_inner);
        let mut peers: Vec<_> =
            known.nodes.values().filter(|node| node.up).map(|node| node.data.clone()).collect();
        if !peers.is_empty() {
            let turn = (spread % peers.len() as u64) as usize;
            peers.rotate_left(turn);
        }
        if let Some(position) = peers.iter().position(|peer| Some(peer.node) == known.home) {
            let home = peers.remove(position);
            peers.insert(0, home);
        }
        peers
    }

    fn router_at(&self, address: &str) -> Option<Arc<Router>> {
        match self.seeds.iter().find(|seed| seed.address == address) {
            Some(seed) => Some(seed.clone()),
            None => Router::new(address).map(Arc::new),
        }
    }
}

impl KnownNode {
    fn is_router_at(&self, address: &str) -> bool {
        self.router.as_ref().is_some_and(|router| router.address == address)
    }
}
