//! Whether the node lives and serves: what /readyz and /metrics are answered from, before its parts
//! are open and while they close.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};

use hearth_cluster::Cluster;
use hearth_store::Store;

use crate::metrics::Exported;
use crate::repair::CopyCounters;

/// The node's parts as health and metrics see them.
#[derive(Default)]
pub(crate) struct Vitals {
    /// Set once the block store and the metadata plane are open.
    parts: OnceLock<(Cluster, Exported)>,
    stopping: AtomicBool,
}

impl Vitals {
    /// The parts are open.
    pub(crate) fn opened(&self, store: &Store, cluster: &Cluster, copies: &Arc<CopyCounters>) {
        let exported = Exported::new(store.clone(), cluster.clone(), Arc::clone(copies));
        let parts = (cluster.clone(), exported);
        assert!(self.parts.set(parts).is_ok(), "a node opens its parts once");
    }

    /// The node takes no more requests.
    pub(crate) fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// `None` when the node serves; otherwise what it waits for, or what it lacks for good.
    pub(crate) fn not_ready_because(&self) -> Option<String> {
        if self.stopping.load(Ordering::Relaxed) {
            return Some("stopping".into());
        }
        let Some((cluster, _)) = self.parts.get() else {
            return Some("opening the block store and the metadata plane".into());
        };
        if let Some(failure) = cluster.failure() {
            Some(format!("the metadata plane does not work on this node: {failure}"))
        } else {
            cluster.waits_for()
        }
    }

    /// Copies the counters of the open parts into the exporter.
    pub(crate) fn refresh_metrics(&self) {
        if let Some((_, exported)) = self.parts.get() {
            exported.refresh();
        }
    }
}
