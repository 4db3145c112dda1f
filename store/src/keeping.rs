//! How blocks that are here are kept, when that is said after they were put.

use hearth_proto::{BlockId, Retention};

use crate::policy::Keep;
use crate::space::Resident;
use crate::store::Store;

impl Store {
    /// Changes how a block is kept from now on, in every tier and across restarts. False if it is not here.
    pub fn retain(&self, id: &BlockId, retention: Retention) -> bool {
        let core = self.core();
        let (resident, keep) = {
            let shard = core.index.shard(id);
            let Some(node) = shard.get(id) else { return false };
            let keep = Keep::new(retention, u32::from(node.depth()), core.clock.now_us());
            if node.keeps(&keep) {
                return true;
            }
            (Resident { id: *id, generation: node.generation() }, keep)
        };
        core.change_keep(&resident, &keep);
        true
    }

    /// Length of a block's payload; `None` if it is not here. Does not count as use.
    pub fn payload_len(&self, id: &BlockId) -> Option<u32> {
        self.core().index.shard(id).get(id).map(|node| node.payload_len())
    }
}
