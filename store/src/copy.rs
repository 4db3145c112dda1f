//! Copies of blocks: those that are read for another node, and those that came from one.
//!
//! Moving blocks between nodes is no use of them. What is read for another node comes into no tier and keeps
//! its place in the order of eviction, and what came from one leaves memory as soon as it is on NVMe, so that
//! a repair of a whole node pushes nothing out of the arena that engines read.

use std::time::Instant;

use hearth_proto::{BlockId, Priority, Retention, Tier, Urgency};

use crate::arena::Lease;
use crate::core::Core;
use crate::error::GetError;
use crate::index::{Node, NvmeReplica};
use crate::policy::Keep;
use crate::read::{Flight, Promotion, Reading, board, read, wait_for_end};
use crate::store::{GetOutcome, PutMeta, Store};
use crate::sync::lock;

/// What another node is given of a block.
#[derive(Debug)]
pub struct BlockCopy {
    /// The bytes.
    pub lease: Lease,
    /// What a put of the copy says of it: the retention that is left.
    pub meta: PutMeta,
    /// True if the block is durable here.
    pub durable: bool,
}

/// How much a block is worth beside others, from what this store knows of it. Greater is worth more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Standing {
    /// The priority that it has now.
    pub priority: Priority,
    /// When it was last used, in the store's own time.
    pub used_ms: u64,
}

/// Where the bytes of a copy come from.
enum Source {
    Host(Lease, Facts),
    Nvme(Flight, Facts),
    Nowhere,
}

#[derive(Clone, Copy)]
struct Facts {
    retention: Retention,
    depth: u32,
    durable: bool,
}

impl Store {
    /// Leases a block for another node; `None` if there is nothing that can be read. It is read without
    /// haste and does not count as used, and what is read from NVMe stays out of the arena unless somebody
    /// else came to wait for it.
    ///
    /// # Errors
    /// [`GetError`], as [`Store::get`].
    ///
    /// *Cancel safe*, as [`Store::get`] is.
    pub async fn read_copy(&self, id: &BlockId, deadline: Instant) -> Result<Option<BlockCopy>, GetError> {
        let core = self.core();
        loop {
            if core.is_closed() {
                return Err(GetError::Closed);
            }
            match source(core, id) {
                Source::Nowhere => return Ok(None),
                Source::Host(lease, facts) => return Ok(Some(facts.copy(lease))),
                Source::Nvme(Flight::Follow(reading), _) => wait_for_end(core, reading, deadline).await?,
                Source::Nvme(Flight::Lead(record, ended), facts) => {
                    let _reading = Reading::new(core, id, ended);
                    match read(core, &record, Promotion::IfAwaited, deadline, deadline).await? {
                        Some(GetOutcome::Hit(lease)) => return Ok(Some(facts.copy(lease))),
                        Some(GetOutcome::Miss(_)) => return Ok(None),
                        None => {}
                    }
                }
            }
        }
    }

    /// Lets a copy that is durable leave the arena at once, unless somebody reads it there. True if it left.
    pub fn leave_arena(&self, id: &BlockId) -> bool {
        let core = self.core();
        let mut room = lock(&core.host_room);
        let shard = core.index.shard(id);
        let Some(handle) = shard.find(id) else { return false };
        let is_stored = matches!(shard.node(handle).nvme(), NvmeReplica::Stored(_));
        if !is_stored || shard.host(handle).is_none_or(|host| host.is_leased()) {
            return false;
        }
        // Whoever was about to make it a candidate for eviction finds that the index does not name it.
        let block = core.unname_host(&mut room.bags, shard, handle);
        drop(room);
        drop(block);
        core.arena.made_room();
        true
    }

    /// What a block is worth; `None` if it is not held. Does not count as use.
    pub fn standing(&self, id: &BlockId) -> Option<Standing> {
        let core = self.core();
        let now_us = core.clock.now_us();
        let shard = core.index.shard(id);
        let node = shard.get(id)?;
        let used_ms = node.reuse.used_at().begin_us(now_us) / 1_000;
        Some(Standing { priority: retention_left(&node.keep(), now_us).priority, used_ms })
    }
}

impl Facts {
    fn of(node: &Node, now_us: u64) -> Self {
        Self {
            retention: retention_left(&node.keep(), now_us),
            depth: u32::from(node.depth()),
            durable: matches!(node.nvme(), NvmeReplica::Stored(_)),
        }
    }

    fn copy(self, lease: Lease) -> BlockCopy {
        let meta = PutMeta { crc32: lease.crc32(), retention: self.retention, depth: self.depth };
        BlockCopy { lease, meta, durable: self.durable }
    }
}

fn source(core: &Core, id: &BlockId) -> Source {
    let now_us = core.clock.now_us();
    let mut shard = core.index.shard(id);
    let Some(handle) = shard.find(id) else { return Source::Nowhere };
    let facts = Facts::of(shard.node(handle), now_us);
    if let Some(host) = shard.host(handle) {
        return Source::Host(Lease::new(host, Tier::Host), facts);
    }
    board(&mut shard, id, Urgency::Background).map_or(Source::Nowhere, |flight| Source::Nvme(flight, facts))
}

/// The rest of a contract; what has ended is kept like any other block.
fn retention_left(keep: &Keep, now_us: u64) -> Retention {
    match keep.expires_at_us {
        None => Retention { priority: keep.priority, duration_ms: None },
        Some(at_us) if at_us > now_us => {
            Retention { priority: keep.priority, duration_ms: Some((at_us - now_us).div_ceil(1_000)) }
        }
        Some(_) => Retention::default(),
    }
}
