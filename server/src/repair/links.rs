//! The connections to the block services of other nodes, and which of them are given no copies for a while.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hearth_fabric::{Mover, TcpMover, TcpOptions};
use hearth_proto::limits::COPY_PAUSE_MS;
use hearth_proto::{ClusterId, NodeId, v1};
use rustc_hash::FxHashMap;

const PAUSE: Duration = Duration::from_millis(COPY_PAUSE_MS);

/// The other nodes, as far as copies went to them.
#[derive(Default)]
pub(super) struct Links(Mutex<FxHashMap<NodeId, Arc<Link>>>);

/// One other node at one address.
pub(super) struct Link {
    node: NodeId,
    address: String,
    paused_until: Mutex<Option<Instant>>,
    /// Held while connecting, so that one connection is made however many copies wait for it.
    mover: tokio::sync::Mutex<Option<TcpMover>>,
}

impl Links {
    /// Forgets nodes that are not among these or have moved; their connections end with their last copy.
    pub(super) fn keep(&self, nodes: &[v1::Node]) {
        self.lock().retain(|id, link| {
            nodes.iter().any(|node| node.node_id == id.0 && node.data_address == link.address)
        });
    }

    /// The link to a node at an address.
    pub(super) fn to(&self, node: NodeId, address: &str) -> Arc<Link> {
        let mut links = self.lock();
        let link = links.entry(node).or_insert_with(|| Arc::new(Link::new(node, address)));
        if link.address != address {
            *link = Arc::new(Link::new(node, address));
        }
        Arc::clone(link)
    }

    /// The nodes that are given nothing now.
    pub(super) fn paused(&self, now: Instant) -> Vec<NodeId> {
        self.lock().values().filter(|link| link.is_paused(now)).map(|link| link.node).collect()
    }

    fn lock(&self) -> MutexGuard<'_, FxHashMap<NodeId, Arc<Link>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Link {
    fn new(node: NodeId, address: &str) -> Self {
        Self {
            node,
            address: address.to_owned(),
            paused_until: Mutex::default(),
            mover: tokio::sync::Mutex::default(),
        }
    }

    /// The connection, made anew if there is none or it broke; `None` if that fails by the deadline.
    pub(super) async fn mover(&self, cluster: ClusterId, deadline: Instant) -> Option<TcpMover> {
        let connect = async {
            let mut slot = self.mover.lock().await;
            if let Some(mover) = slot.as_ref().filter(|mover| !mover.is_closed()) {
                return Some(mover.clone());
            }
            let options = TcpOptions { cluster: Some(cluster), ..TcpOptions::default() };
            let connected = TcpMover::connect(&self.address, options, deadline).await;
            let mover = connected
                .inspect_err(|error| tracing::debug!(node = %self.node, %error, "cannot connect for copies"))
                .ok()
                .filter(|mover| mover.peer().node_id == self.node)?;
            Some(slot.insert(mover).clone())
        };
        tokio::time::timeout_at(deadline.into(), connect).await.unwrap_or(None)
    }

    /// Gives the node nothing for a while.
    pub(super) fn pause(&self, now: Instant) {
        *self.paused_until.lock().unwrap_or_else(PoisonError::into_inner) = Some(now + PAUSE);
    }

    fn is_paused(&self, now: Instant) -> bool {
        self.paused_until.lock().unwrap_or_else(PoisonError::into_inner).is_some_and(|until| until > now)
    }
}
