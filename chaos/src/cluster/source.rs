//! What a simulated node holds: names of blocks, in memory until it crashes and on its disk for good.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::ControlFlow;
use std::pin::Pin;
use std::sync::{Mutex, MutexGuard, PoisonError};

use hearth_cluster::{BlockSource, DeltaStatus};
use hearth_proto::{BlockDelta, BlockId, BlockKey, NamespaceId, Tier};
use tokio::sync::Notify;

/// Blocks that there are in a simulated world, so few that nodes hold the same ones.
pub(crate) const BLOCKS: u64 = 12;
/// Changes that a node remembers to report; beyond it only the inventory is right.
const QUEUE_MAX: usize = 8;

/// A block by its number.
pub(crate) fn block(number: u64) -> BlockId {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    BlockId { namespace: NamespaceId::DEFAULT, key: BlockKey(key) }
}

/// The store of one node, as far as the directory is concerned.
#[derive(Debug, Default)]
pub(crate) struct Source {
    held: Mutex<Held>,
    changed: Notify,
}

#[derive(Debug, Default)]
struct Held {
    /// Bits of the tiers that hold each block.
    tiers: BTreeMap<u64, u8>,
    queue: VecDeque<BlockDelta>,
    overflowed: bool,
    /// What this life has held at any time.
    ever: BTreeSet<(u64, u8)>,
}

fn delta(number: u64, tier: Tier, added: bool) -> BlockDelta {
    BlockDelta { id: block(number), tier, added, payload_len: 4_096 }
}

impl Source {
    /// Adds a block to a tier, or takes it away if it is there.
    pub(crate) fn toggle(&self, number: u64, tier: Tier) {
        let mut held = self.lock();
        let tiers = held.tiers.entry(number).or_default();
        *tiers ^= 1 << tier as u8;
        let added = *tiers & (1 << tier as u8) != 0;
        if added {
            held.ever.insert((number, tier as u8));
        }
        held.queue.push_back(delta(number, tier, added));
        if held.queue.len() > QUEUE_MAX {
            held.queue.clear();
            held.overflowed = true;
        }
        drop(held);
        self.changed.notify_one();
    }

    /// A new life: what was in memory is gone, and so is what was still to be reported.
    pub(crate) fn crash(&self) {
        let mut held = self.lock();
        let on_disk = 1 << Tier::Nvme as u8;
        held.tiers.values_mut().for_each(|tiers| *tiers &= on_disk);
        held.tiers.retain(|_, tiers| *tiers != 0);
        held.queue.clear();
        held.overflowed = false;
        held.ever = held.tiers.keys().map(|number| (*number, Tier::Nvme as u8)).collect();
    }

    /// The tiers that hold a block, a bit each.
    pub(crate) fn tiers(&self, number: u64) -> u8 {
        self.lock().tiers.get(&number).copied().unwrap_or(0)
    }

    /// Whether this life ever held the block on the tier.
    pub(crate) fn ever_held(&self, number: u64, tier: Tier) -> bool {
        self.lock().ever.contains(&(number, tier as u8))
    }

    fn lock(&self) -> MutexGuard<'_, Held> {
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl BlockSource for Source {
    fn for_each_held(&self, visit: &mut dyn FnMut(BlockDelta) -> ControlFlow<()>) -> ControlFlow<()> {
        let held = self.lock().tiers.clone();
        let tiers = |number: u64, bits: u8| {
            let on = Tier::ALL.into_iter().filter(move |tier| bits & (1 << *tier as u8) != 0);
            on.map(move |tier| delta(number, tier, true))
        };
        held.iter().flat_map(|(number, bits)| tiers(*number, *bits)).try_for_each(visit)
    }

    fn take_deltas(&self, max: usize, out: &mut Vec<BlockDelta>) -> DeltaStatus {
        let mut held = self.lock();
        if std::mem::take(&mut held.overflowed) {
            held.queue.clear();
            return DeltaStatus::Overflowed;
        }
        let taken = max.min(held.queue.len());
        out.extend(held.queue.drain(..taken));
        if held.queue.is_empty() { DeltaStatus::Complete } else { DeltaStatus::More }
    }

    fn ready<'a>(&'a self) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async {
            loop {
                let changed = self.changed.notified();
                {
                    let held = self.lock();
                    if held.overflowed || !held.queue.is_empty() {
                        return;
                    }
                }
                changed.await;
            }
        })
    }
}
