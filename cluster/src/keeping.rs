//! Tells this node's store how blocks are kept: what is pinned in the cluster, and what was said of blocks
//! after they were put.

use std::sync::Arc;
use std::time::Duration;

use hearth_proto::{BlockId, GroupId, Retention};

use crate::cluster::Cluster;
use crate::news::Changed;
use crate::raft::Group;
use crate::state::State;

/// Blocks that the store is told of in one go.
const ORDERS_MAX: usize = 256;

/// The node's store, as far as the cluster decides how it keeps blocks. Blocks that it does not hold are
/// named too, and are no concern of it.
pub trait BlockKeeper: Send + Sync + 'static {
    /// Blocks that it keeps because it was told to pin them.
    fn pinned(&self) -> Vec<BlockId>;

    /// Keeps a block from eviction for so long, or no more.
    fn pin(&self, id: &BlockId, duration: Option<Duration>);

    /// Changes how a block is kept from now on.
    fn retain(&self, id: &BlockId, retention: Retention);
}

enum Order {
    Pin(BlockId, Option<Duration>),
    Retain(BlockId, Retention),
}

impl Cluster {
    /// Tells `keeper` how its blocks are kept, all of it first and then whatever changes, for ever. A pin is
    /// told with the time that it has left, so that a node that hears nothing more lets go by itself.
    ///
    /// # Cancel safety
    /// Dropping it stops the work; changes that were being told may be lost until the node starts again.
    pub async fn keep_blocks(&self, keeper: Arc<dyn BlockKeeper>) {
        futures::future::join_all(self.all_groups().map(|group| keep_blocks_of(group, &keeper))).await;
    }

    /// Takes note of blocks that came to this node's store: what is known of them is told to its keeper.
    pub fn blocks_came(&self, blocks: &[BlockId]) {
        let groups = self.directory_groups();
        for group in self.all_groups() {
            let is_of =
                |id: &&BlockId| group.id() == GroupId::CONTROL || group.id() == groups.group_of(&id.key);
            let known: Vec<BlockId> = {
                let replicated = group.replicated();
                let known = blocks.iter().filter(is_of).filter(|id| is_kept(&replicated.state, id));
                known.copied().collect()
            };
            group.news().kept.push(known);
        }
    }
}

async fn keep_blocks_of(group: &Group, keeper: &Arc<dyn BlockKeeper>) {
    loop {
        let blocks = match group.news().kept.take().await {
            Changed::These(blocks) => blocks,
            Changed::All => {
                let mut blocks = known_blocks(group);
                // What is pinned here and not there any more has to be let go of.
                if group.id() == GroupId::CONTROL {
                    blocks.extend(keeper.pinned());
                }
                blocks.sort_unstable();
                blocks.dedup();
                blocks
            }
        };
        for some in blocks.chunks(ORDERS_MAX) {
            let orders = orders(group, some);
            let keeper = Arc::clone(keeper);
            // The store takes locks that puts hold, which an async thread does not wait for.
            let told =
                crate::offload::spawn_blocking(move || orders.iter().for_each(|order| order.give(&*keeper)));
            if let Err(error) = told.await {
                tracing::error!(%error, "the store was not told how blocks are kept");
            }
        }
    }
}

impl Order {
    fn give(&self, keeper: &dyn BlockKeeper) {
        match self {
            Self::Pin(id, duration) => keeper.pin(id, *duration),
            Self::Retain(id, retention) => keeper.retain(id, *retention),
        }
    }
}

/// Every block of which the group knows how it is kept.
fn known_blocks(group: &Group) -> Vec<BlockId> {
    let replicated = group.replicated();
    match &replicated.state {
        State::Control(control) => control.tenancy().pins().blocks().copied().collect(),
        State::Directory(directory) => directory.timed().retentions().blocks().copied().collect(),
    }
}

fn is_kept(state: &State, id: &BlockId) -> bool {
    match state {
        State::Control(control) => control.tenancy().pins().pinned_until(id).is_some(),
        State::Directory(directory) => directory.timed().retentions().find(id, state.time_ms()).is_some(),
    }
}

/// What is to be told of blocks as the state is now, whatever it was when they were noted.
fn orders(group: &Group, blocks: &[BlockId]) -> Vec<Order> {
    let replicated = group.replicated();
    let now_ms = replicated.state.time_ms();
    let order = |id: &BlockId| match &replicated.state {
        State::Control(control) => {
            let until_ms = control.tenancy().pins().pinned_until(id);
            Some(Order::Pin(
                *id,
                until_ms.map(|until_ms| Duration::from_millis(until_ms.saturating_sub(now_ms))),
            ))
        }
        State::Directory(directory) => {
            directory.timed().retentions().find(id, now_ms).map(|retention| Order::Retain(*id, retention))
        }
    };
    blocks.iter().filter_map(order).collect()
}
