//! One node as the client uses it: its control channel, its block connection, and whether to call it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use hearth_fabric::{Mover, TcpMover, TcpOptions};
use hearth_proto::{ClusterId, NodeId};
use tonic::transport::{Channel, Endpoint};

use crate::breaker::Breaker;

/// How long one attempt to connect may take, within the caller's deadline.
const CONNECT_PATIENCE: Duration = Duration::from_millis(1_000);

/// The gRPC services at one address.
pub(crate) struct Router {
    pub(crate) address: String,
    pub(crate) channel: Channel,
    breaker: Mutex<Breaker>,
}

impl Router {
    /// A channel that connects when first used; `None` if the address cannot be one.
    pub(crate) fn new(address: &str) -> Option<Self> {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).ok()?;
        let channel = endpoint
            .connect_timeout(CONNECT_PATIENCE)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(Duration::from_secs(5))
            .keep_alive_timeout(Duration::from_secs(3))
            .connect_lazy();
        Some(Self { address: address.to_owned(), channel, breaker: Mutex::default() })
    }

    pub(crate) fn admits(&self, now: Instant) -> bool {
        lock(&self.breaker).admits(now)
    }

    pub(crate) fn succeeded(&self) {
        lock(&self.breaker).succeeded();
    }

    pub(crate) fn failed(&self) {
        lock(&self.breaker).failed(Instant::now());
    }
}

/// The block service of one node at one address.
pub(crate) struct DataPeer {
    pub(crate) node: NodeId,
    pub(crate) address: String,
    breaker: Mutex<Breaker>,
    /// Held while connecting, so that one connection is made however many calls wait for it.
    mover: tokio::sync::Mutex<Option<TcpMover>>,
}

impl DataPeer {
    pub(crate) fn new(node: NodeId, address: String) -> Self {
        Self { node, address, breaker: Mutex::default(), mover: tokio::sync::Mutex::new(None) }
    }

    pub(crate) fn admits(&self, now: Instant) -> bool {
        lock(&self.breaker).admits(now)
    }

    /// Takes in how a call went: whether the node was heard at all. A node that was silent is left
    /// alone for a while and then reached by a new connection, since nothing tells a slow peer from
    /// one whose packets have come to be lost.
    pub(crate) fn judge(&self, heard: bool) {
        if heard {
            lock(&self.breaker).succeeded();
        } else {
            self.failed();
            // Whoever holds the lock is connecting anew already.
            if let Ok(mut mover) = self.mover.try_lock() {
                mover.take();
            }
        }
    }

    pub(crate) fn failed(&self) {
        lock(&self.breaker).failed(Instant::now());
    }

    /// The connection, made anew if there is none or it broke; `None` if that fails by `deadline`.
    pub(crate) async fn mover(&self, cluster: Option<ClusterId>, deadline: Instant) -> Option<TcpMover> {
        let deadline = deadline.min(Instant::now() + CONNECT_PATIENCE);
        let connect = async {
            let mut slot = self.mover.lock().await;
            if let Some(mover) = slot.as_ref().filter(|mover| !mover.is_closed()) {
                return Some(mover.clone());
            }
            let options = TcpOptions { cluster, ..TcpOptions::default() };
            match TcpMover::connect(&self.address, options, deadline).await {
                Ok(mover) if mover.peer().node_id == self.node => {
                    *slot = Some(mover.clone());
                    Some(mover)
                }
                Ok(mover) => {
                    let found = mover.peer().node_id;
                    tracing::debug!(address = %self.address, wanted = %self.node, %found, "another node answers");
                    None
                }
                Err(error) => {
                    tracing::debug!(address = %self.address, %error, "cannot connect");
                    None
                }
            }
        };
        tokio::time::timeout_at(deadline.into(), connect).await.unwrap_or(None)
    }
}

fn lock(breaker: &Mutex<Breaker>) -> std::sync::MutexGuard<'_, Breaker> {
    breaker.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
