//! One node as the client uses it: its control channel, its block connection, and whether to call it.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use hearth_fabric::{Mover, TcpMover, TcpOptions};
use hearth_proto::frame::BlockStatus;
use hearth_proto::limits::ANSWER_MS_MIN;
use hearth_proto::{ClusterId, NodeId};
use tonic::transport::{Channel, Endpoint};

use crate::breaker::Breaker;

/// How long one attempt to connect may take, within the caller's deadline.
const CONNECT_PATIENCE: Duration = Duration::from_millis(1_000);

/// How a call found its node.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Heard {
    /// Nothing came by the deadline.
    Silence,
    /// The connection could not be made, or ended.
    Broken,
    /// The node answered, if only to refuse.
    Answer,
}

impl Heard {
    /// What a block's status tells of its node.
    pub(crate) fn by(status: BlockStatus) -> Self {
        match status {
            BlockStatus::DeadlineExceeded => Self::Silence,
            BlockStatus::Disconnected => Self::Broken,
            _ => Self::Answer,
        }
    }
}

/// Whether a node that had from `asked` to `until` had long enough for its silence to tell anything of
/// it. A caller with hardly any time must not have the node taken from everybody else.
pub(crate) fn is_telling(asked: Instant, until: Instant) -> bool {
    until.saturating_duration_since(asked) >= Duration::from_millis(ANSWER_MS_MIN)
}

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

    /// Takes in that nothing came from `asked` to `until`.
    pub(crate) fn was_silent(&self, asked: Instant, until: Instant) {
        if is_telling(asked, until) {
            self.failed();
        }
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

    /// Takes in how a call went that had from `asked` to `until`. A node that was silent all that time
    /// is left alone for a while and then reached by a new connection, since nothing tells a slow peer
    /// from one whose packets have come to be lost.
    pub(crate) fn judge(&self, heard: Heard, asked: Instant, until: Instant) {
        match heard {
            Heard::Answer => lock(&self.breaker).succeeded(),
            Heard::Silence if !is_telling(asked, until) => {}
            Heard::Silence | Heard::Broken => {
                lock(&self.breaker).failed(Instant::now());
                // Whoever holds the lock is connecting anew already.
                if let Ok(mut mover) = self.mover.try_lock() {
                    mover.take();
                }
            }
        }
    }

    /// The connection, made anew if there is none or it broke; `None` if that fails by `deadline`,
    /// and then the node has been judged for it.
    pub(crate) async fn mover(&self, cluster: Option<ClusterId>, deadline: Instant) -> Option<TcpMover> {
        let asked = Instant::now();
        let deadline = deadline.min(asked + CONNECT_PATIENCE);
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
        let mover = tokio::time::timeout_at(deadline.into(), connect).await.unwrap_or(None);
        if mover.is_none() {
            let heard = if Instant::now() < deadline { Heard::Broken } else { Heard::Silence };
            self.judge(heard, asked, deadline);
        }
        mover
    }
}

fn lock(breaker: &Mutex<Breaker>) -> std::sync::MutexGuard<'_, Breaker> {
    breaker.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn silence_counts_only_against_a_node_that_had_time_to_answer() {
        let peer = DataPeer::new(NodeId(1), "127.0.0.1:1".into());
        let asked = Instant::now();
        let floor = Duration::from_millis(ANSWER_MS_MIN);
        peer.judge(Heard::Silence, asked, asked + floor / 2);
        peer.judge(Heard::Silence, asked, asked);
        assert!(peer.admits(asked), "an impatient caller must not take the node from others");
        peer.judge(Heard::Broken, asked, asked);
        assert!(!peer.admits(asked), "a broken connection tells at once");
        peer.judge(Heard::Answer, asked, asked);
        assert!(peer.admits(asked));
        peer.judge(Heard::Silence, asked, asked + floor);
        assert!(!peer.admits(asked));
    }

    #[tokio::test]
    async fn a_refused_connection_counts_however_little_time_there_was() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
        let address = listener.local_addr().expect("it is bound").to_string();
        drop(listener);
        let peer = DataPeer::new(NodeId(1), address);
        let now = Instant::now();
        assert!(peer.mover(None, now + Duration::from_secs(5)).await.is_none());
        assert!(!peer.admits(now));
    }
}
