//! Searches what this node holds for blocks that lack copies, as the directory has it, and that it has to see to.

use std::ops::ControlFlow;
use std::sync::Arc;

use hearth_cluster::placement::Sites;
use hearth_cluster::{Cluster, CopyPolicy};
use hearth_proto::{BlockId, Fingerprint, NodeId};
use hearth_store::{Standing, Store};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

/// Blocks that are looked at in one piece.
const SEARCH_BLOCKS: usize = 1_024;

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
    sum: Sum,
    /// What this node holds, some of it at a time.
    held: mpsc::Receiver<Vec<Held>>,
    /// Some of it is looked at, off the threads that move blocks.
    task: Option<JoinHandle<Vec<Found>>>,
}

/// A block that this node holds, and its payload's length in bytes.
type Held = (BlockId, u32);

/// What one step of a search gave.
pub(super) enum Step {
    Found(Vec<Found>),
    /// There is no more, and this is what there was.
    Last(Sum),
}

impl Search {
    pub(super) fn new(scope: Scope, store: &Store) -> Self {
        let (pieces, held) = mpsc::channel(1);
        let store = store.clone();
        // Ends by itself, at the latest when nobody asks any more.
        tokio::task::spawn_blocking(move || tell_held(&store, &pieces));
        Self { scope, sum: Sum::default(), held, task: None }
    }

    pub(super) fn scope(&self) -> Scope {
        self.scope
    }

    /// Looks at the next blocks. *Cancel safe*: each is looked at once.
    pub(super) async fn step(&mut self, cluster: &Cluster, store: &Store, plan: &Arc<Plan>) -> Step {
        let task = match &mut self.task {
            Some(task) => task,
            None => {
                let Some(piece) = self.held.recv().await else { return Step::Last(self.sum) };
                let (cluster, store, plan) = (cluster.clone(), store.clone(), Arc::clone(plan));
                let scope = self.scope;
                self.task
                    .insert(tokio::task::spawn_blocking(move || look(&cluster, &store, &plan, scope, &piece)))
            }
        };
        // A look that panicked found nothing; the next search finds it.
        let found = task.await.unwrap_or_default();
        self.task = None;
        self.sum.blocks += found.len() as u64;
        self.sum.bytes += found.iter().map(|found| u64::from(found.payload_len)).sum::<u64>();
        Step::Found(found)
    }
}

/// Gives what is held, each block once, until nobody takes it any more.
fn tell_held(store: &Store, pieces: &mpsc::Sender<Vec<Held>>) {
    let mut piece: Vec<Held> = Vec::with_capacity(SEARCH_BLOCKS);
    let broken = store.for_each_held(|delta| {
        // What is held on several tiers is told of several times in a row.
        if piece.last().is_none_or(|(id, _)| *id != delta.id) {
            if piece.len() == SEARCH_BLOCKS {
                let full = std::mem::replace(&mut piece, Vec::with_capacity(SEARCH_BLOCKS));
                if pieces.blocking_send(full).is_err() {
                    return ControlFlow::Break(());
                }
            }
            piece.push((delta.id, delta.payload_len));
        }
        ControlFlow::Continue(())
    });
    if broken.is_continue() && !piece.is_empty() {
        // Whoever is gone needs no news.
        pieces.blocking_send(piece).ok();
    }
}

fn look(cluster: &Cluster, store: &Store, plan: &Plan, scope: Scope, held: &[Held]) -> Vec<Found> {
    let own: NodeId = cluster.node_id();
    let ids: Vec<BlockId> = held.iter().map(|(id, _)| *id).collect();
    let mut found = Vec::new();
    cluster.for_each_copies(&ids, |at, copies| {
        // What came a moment ago is not in the directory yet, and is told of otherwise.
        if !copies.iter().any(|copy| copy.node == own) {
            return;
        }
        let (id, payload_len) = held[at];
        let replicas = plan.policy.replicas_of(id.namespace);
        let Some(shortage) = plan.sites.judge(&Fingerprint::of(&id), copies, replicas) else { return };
        let is_meant = scope == Scope::All || shortage.settled.is_empty();
        if is_meant && shortage.responsible == own {
            found.push(Found { id, payload_len, worth: store.standing(&id) });
        }
    });
    found
}
