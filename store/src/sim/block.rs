//! What the oracle knows of one name.

use super::medium::Durable;

/// Stands for a state that lasts.
pub(super) const NOW: u64 = u64::MAX;

/// What is known of one name.
#[derive(Clone, Default)]
pub(super) struct Block {
    pub(super) host: bool,
    pub(super) nvme: bool,
    /// The last step in which no tier held it.
    pub(super) absent_at: u64,
    /// The last step in which some tier held it.
    pub(super) held_at: u64,
    /// The last step in which NVMe held it.
    pub(super) nvme_at: u64,
    /// The replica on NVMe that is known to be whole.
    pub(super) sound: Option<Sound>,
    /// Until when the block may not leave the node, at the least.
    pub(super) pinned_until_us: u64,
    /// Removes that have begun and not ended: each may end a pin at any moment.
    pub(super) removes: u32,
}

#[derive(Clone, Copy)]
pub(super) struct Sound {
    pub(super) durable: Durable,
    /// Since which step.
    pub(super) since: u64,
}

impl Block {
    /// Notes in which steps what was the case.
    pub(super) fn settle(&mut self, step: u64) {
        let moment = |is: bool, before: u64| match (is, before) {
            (true, _) => NOW,
            (false, NOW) => step,
            (false, before) => before,
        };
        let held = self.host || self.nvme;
        self.absent_at = moment(!held, self.absent_at);
        self.held_at = moment(held, self.held_at);
        self.nvme_at = moment(self.nvme, self.nvme_at);
    }
}
