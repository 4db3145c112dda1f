//! What each committed entry did, as the first node said that applied it. No invariant by itself: others follow it.

use std::collections::BTreeMap;

use hearth_cluster::sim::AppliedView;
use hearth_proto::GroupId;
use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;

use crate::world::Heard;

/// The first command format that moves the replicated time, as `cluster/src/state/command.rs` has it.
const TIME_SINCE: u32 = 3;

/// All groups' entries by index.
#[derive(Default)]
pub(super) struct History(BTreeMap<(GroupId, u64), Entry>);

/// One entry.
pub(super) struct Entry {
    pub(super) applied: AppliedView,
    /// Who applied it first.
    pub(super) machine: usize,
}

impl Entry {
    pub(super) fn body(&self) -> Option<&Body> {
        self.applied.command.as_ref()?.body.as_ref()
    }

    pub(super) fn outcome(&self) -> Option<&Kind> {
        self.applied.outcome.kind.as_ref()
    }

    /// The replicated time after it.
    pub(super) fn time_ms(&self) -> u64 {
        self.applied.time_ms
    }

    /// Whether it ended what was due.
    pub(super) fn moves_time(&self) -> bool {
        self.applied.command.as_ref().is_some_and(|command| command.version >= TIME_SINCE)
    }
}

impl History {
    /// Adds what is new in it.
    pub(super) fn add(&mut self, heard: &[Heard]) {
        for Heard { machine, applied, .. } in heard {
            let new = || Entry { applied: applied.clone(), machine: *machine };
            self.0.entry((applied.group, applied.index)).or_insert_with(new);
        }
    }

    pub(super) fn entry(&self, group: GroupId, index: u64) -> Option<&Entry> {
        self.0.get(&(group, index))
    }

    /// The entries of a group from `from` on without a gap.
    pub(super) fn from(&self, group: GroupId, from: u64) -> impl Iterator<Item = (u64, &Entry)> {
        let entries = self.0.range((group, from)..=(group, u64::MAX));
        let numbered = entries.map(|((_, index), entry)| (*index, entry)).zip(from..);
        numbered.take_while(|((index, _), wanted)| index == wanted).map(|(numbered, _)| numbered)
    }

    /// The last entry of a group that any node has applied.
    pub(super) fn last(&self, group: GroupId) -> u64 {
        self.0.range((group, 0)..=(group, u64::MAX)).next_back().map_or(0, |((_, index), _)| *index)
    }
}
