//! One block on its way to the nodes that lack it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_cluster::Cluster;
use hearth_cluster::placement::HeldCopy;
use hearth_fabric::{BlockStatus, Mover, PutItem};
use hearth_proto::limits::COPY_MS_MAX;
use hearth_proto::{AckLevel, ClusterId, Fingerprint, NodeId};
use hearth_store::{BlockCopy, Store};
use smallvec::SmallVec;

use super::links::{Link, Links};
use super::queue::Task;
use super::search::Plan;

/// What copies are made with.
#[derive(Clone)]
pub(super) struct Copying {
    pub(super) cluster: Cluster,
    pub(super) store: Store,
    pub(super) links: Arc<Links>,
    pub(super) plan: Arc<Plan>,
    /// Where each node is reached.
    pub(super) addresses: Arc<Vec<(NodeId, String)>>,
}

/// What became of a task.
#[derive(Debug)]
pub(super) struct Copied {
    pub(super) task: Task,
    /// The nodes that have a copy now.
    pub(super) made: SmallVec<[NodeId; 2]>,
    /// Tries that failed.
    pub(super) failures: u32,
    /// Something is missing still that another try may bring.
    pub(super) again: bool,
}

/// How a try to give a node a copy ended.
enum Given {
    Done,
    /// The node cannot take it now.
    NotNow,
    /// It never will.
    Never,
}

impl Copying {
    /// Copies a block to the nodes that shall have it and do not.
    ///
    /// The directory is asked anew: what was missing when the task came to wait may have come since. A node
    /// that acts on what it should have left to another does no harm: the copy is refused as one that is
    /// there, or is one more than needed, which is evicted before any last copy.
    pub(super) async fn run(self, task: Task, settling: SmallVec<[NodeId; 2]>) -> Copied {
        let mut ended = Copied { task, made: SmallVec::new(), failures: 0, again: false };
        let own = self.cluster.node_id();
        let copies = self.copies(&task, own, &settling);
        let (name, replicas) = (Fingerprint::of(&task.id), self.plan.policy.replicas_of(task.id.namespace));
        let Some(shortage) = self.plan.sites.judge(&name, &copies, replicas) else { return ended };
        if shortage.responsible != own && !task.is_new {
            return ended;
        }
        let settled = shortage.settled.len();
        let mut avoid = self.links.paused(Instant::now());
        avoid.push(own);
        let wanted = settled + shortage.missing;
        let chosen = self.plan.sites.choose(&name, &shortage.settled, wanted, &avoid);
        let targets = chosen.get(settled..).unwrap_or_default();
        ended.again = targets.len() < shortage.missing;
        if targets.is_empty() {
            return ended;
        }
        let deadline = Instant::now() + Duration::from_millis(COPY_MS_MAX);
        let copy = match self.store.read_copy(&task.id, deadline).await {
            Ok(Some(copy)) => copy,
            // It is held no longer, or the store closes.
            Ok(None) | Err(hearth_store::GetError::Closed) => return Copied { again: false, ..ended },
            Err(_) => return Copied { again: true, failures: 1, ..ended },
        };
        let durable = shortage.durable && self.plan.sites.has_durable();
        for target in targets {
            match self.give(*target, &task, &copy, durable, deadline).await {
                Given::Done => ended.made.push(*target),
                Given::NotNow => {
                    ended.failures += 1;
                    ended.again = true;
                }
                Given::Never => ended.failures += 1,
            }
        }
        ended
    }

    /// Who holds the block, as far as is known here before the directory knows it.
    fn copies(&self, task: &Task, own: NodeId, settling: &[NodeId]) -> Vec<HeldCopy> {
        let mut copies = self.cluster.copies_of(&task.id);
        copies.retain(|copy| copy.node != own && !settling.contains(&copy.node));
        let here = self.store.contains(&task.id);
        if here.any() {
            copies.push(HeldCopy { node: own, host: here.host, nvme: here.nvme });
        }
        copies.extend(settling.iter().map(|node| HeldCopy { node: *node, host: true, nvme: true }));
        copies
    }

    async fn give(
        &self,
        target: NodeId,
        task: &Task,
        copy: &BlockCopy,
        durable: bool,
        deadline: Instant,
    ) -> Given {
        let Some((_, address)) = self.addresses.iter().find(|(node, _)| *node == target) else {
            return Given::NotNow;
        };
        let link = self.links.to(target, address);
        let item = PutItem {
            key: task.id.key,
            payload: Bytes::from_owner(copy.lease.clone()),
            crc32: copy.meta.crc32,
            ack: if durable { AckLevel::Durable } else { AckLevel::Host },
            retention: copy.meta.retention,
            depth: copy.meta.depth,
            copy_of: Some(task.id.namespace),
        };
        match put(&link, self.cluster.cluster_id(), item, deadline).await {
            Ok(()) => Given::Done,
            Err(status) => {
                tracing::debug!(node = %target, block = %task.id.key, ?status, "a copy did not get there");
                match status {
                    BlockStatus::BadRequest | BlockStatus::TooLarge | BlockStatus::Corrupt => Given::Never,
                    _ => {
                        link.pause(Instant::now());
                        Given::NotNow
                    }
                }
            }
        }
    }
}

async fn put(link: &Link, cluster: ClusterId, item: PutItem, deadline: Instant) -> Result<(), BlockStatus> {
    let mover = link.mover(cluster, deadline).await.ok_or(BlockStatus::Disconnected)?;
    let mut completions = mover.put(vec![item], deadline);
    match completions.next().await {
        Some(completion) => completion.result.map(|_| ()),
        None => Err(BlockStatus::Disconnected),
    }
}
