//! Searches the directory for blocks that lack copies and that this node has to see to, a range at a time.

use std::sync::Arc;

use hearth_cluster::placement::Sites;
use hearth_cluster::{Cluster, CopyPolicy};
use hearth_proto::{BlockId, NodeId};
use hearth_store::{Standing, Store};
use tokio::task::JoinHandle;

/// What blocks are judged by.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) sites: Sites,
    pub(super) policy: CopyPolicy,
}

/// A block that this node has to see to.
#[derive(Debug)]
pub(super) struct Found {
    pub(super) id: BlockId,
    pub(super) payload_len: u32,
    /// `None` if it is held no longer.
    pub(super) worth: Option<Standing>,
}

/// What a search that has come to its end found.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sum {
    pub(super) blocks: u64,
    pub(super) bytes: u64,
}

/// What is searched for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scope {
    /// Whatever is missing.
    All,
    /// Blocks that only nodes have which are being drained.
    Leaving,
}

/// A search on its way.
#[derive(Debug)]
pub(super) struct Search {
    scope: Scope,
    position: usize,
    range: u8,
    sum: Sum,
    /// One range is looked at, off the threads that move blocks.
    task: Option<JoinHandle<Vec<Found>>>,
}

/// What one step of a search gave.
pub(super) enum Step {
    Found(Vec<Found>),
    /// The last range too, and what all of them had.
    Last(Vec<Found>, Sum),
}

impl Search {
    pub(super) fn new(scope: Scope) -> Self {
        Self { scope, position: 0, range: 0, sum: Sum::default(), task: None }
    }

    pub(super) fn scope(&self) -> Scope {
        self.scope
    }

    /// Looks at the next range. *Cancel safe*: the range is looked at once.
    pub(super) async fn step(&mut self, cluster: &Cluster, store: &Store, plan: &Arc<Plan>) -> Step {
        let (scope, position, range) = (self.scope, self.position, self.range);
        let task = self.task.get_or_insert_with(|| {
            let (cluster, store, plan) = (cluster.clone(), store.clone(), Arc::clone(plan));
            tokio::task::spawn_blocking(move || look(&cluster, &store, &plan, scope, position, range))
        });
        // A look that panicked found nothing; the next search finds it.
        let found = task.await.unwrap_or_default();
        self.task = None;
        self.sum.blocks += found.len() as u64;
        self.sum.bytes += found.iter().map(|found| u64::from(found.payload_len)).sum::<u64>();
        let last_of_group = self.range == u8::MAX;
        self.range = self.range.wrapping_add(1);
        self.position += usize::from(last_of_group);
        if self.position == cluster.directory_groups().count() as usize {
            Step::Last(found, self.sum)
        } else {
            Step::Found(found)
        }
    }
}

fn look(
    cluster: &Cluster,
    store: &Store,
    plan: &Plan,
    scope: Scope,
    position: usize,
    range: u8,
) -> Vec<Found> {
    let own: NodeId = cluster.node_id();
    let mut found = Vec::new();
    cluster.for_each_in_range(position, range, |id, payload_len, copies| {
        // Most blocks are elsewhere, and no concern of this node.
        if !copies.iter().any(|copy| copy.node == own) {
            return;
        }
        let replicas = plan.policy.replicas_of(id.namespace);
        let Some(shortage) = plan.sites.judge(id, copies, replicas) else { return };
        let is_meant = scope == Scope::All || shortage.settled.is_empty();
        if is_meant && shortage.responsible == own {
            found.push(Found { id: *id, payload_len, worth: None });
        }
    });
    for found in &mut found {
        found.worth = store.standing(&found.id);
    }
    found
}
