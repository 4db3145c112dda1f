//! The replicated state of each group, and the only function that changes it.
//!
//! Pure: no clock, randomness, files, sockets or tasks. Time enters as the stamp of a command. The
//! same commands in the same order give the same bytes on every replica, which is what
//! [`State::encode`] lets a test check.

mod block_table;
mod blocks;
mod claims;
pub(crate) mod command;
mod control;
pub(crate) mod deltas;
mod directory;
mod encoded;
mod ends;
mod free_slots;
mod held;
mod holder;
mod membership;
mod namespaces;
mod outcome;
mod pins;
mod places;
#[cfg(test)]
mod property_tests;
mod record;
mod retentions;
mod tenancy;
#[cfg(test)]
mod tests;
mod timed;
#[cfg(test)]
mod timed_property_tests;
#[cfg(test)]
mod timed_tests;

use std::collections::HashMap;
use std::hash::BuildHasherDefault;

use hearth_proto::{BlockId, GroupId, v1};
use siphasher::sip::SipHasher13;

use crate::mutant::{self, Mutant};

pub(crate) use blocks::Shadow;
pub(crate) use control::Control;
pub(crate) use directory::{Digests, Directory, Overtaken, Replica, Walk, tier_bit};
pub(crate) use membership::FINALIZED_FIRST;
pub(crate) use record::{RecordError, RecordKey};
#[cfg(feature = "sim")]
pub(crate) use timed::Timed;

/// A map of blocks, whose keys are chosen by whoever uses the cluster: no choice makes it slow.
pub(crate) type BlockMap<V> = HashMap<BlockId, V, BuildHasherDefault<SipHasher13>>;

/// What commands did that somebody on this node waits for.
#[derive(Debug, Default)]
pub(crate) struct News {
    /// Blocks whose claims ended.
    pub(crate) unclaimed: Vec<BlockId>,
    /// Blocks that are pinned or kept otherwise than before.
    pub(crate) kept: Vec<BlockId>,
}

/// The state of one group: the control group has one shape, the directory groups another.
#[derive(Debug)]
pub(crate) enum State {
    Control(Control),
    Directory(Directory),
}

impl State {
    /// The state of `group` before its first command.
    pub(crate) fn new(group: GroupId) -> Self {
        if group == GroupId::CONTROL {
            Self::Control(Control::default())
        } else {
            Self::Directory(Directory::default())
        }
    }

    /// Applies one committed command. Applying it again changes nothing (INV-IDEMPOTENT).
    pub(crate) fn apply(&mut self, command: &v1::Command) -> v1::Outcome {
        if command.version > command::VERSION {
            return outcome::future_version(command.version);
        }
        let Some(body) = &command.body else {
            return outcome::refused(v1::RefusalReason::Malformed, "the command has no body");
        };
        if command.version >= command::TIME_SINCE {
            self.advance(command.stamp_ms);
        }
        match self {
            Self::Control(control) => control.apply(command.stamp_ms, body),
            Self::Directory(directory) => directory.apply(body),
        }
    }

    /// Moves the replicated time on and ends what has expired, before anything else is done.
    fn advance(&mut self, stamp_ms: u64) {
        match self {
            Self::Control(control) => control.advance(stamp_ms),
            Self::Directory(directory) => directory.timed_mut().advance(stamp_ms),
        }
    }

    /// The replicated time: the latest stamp of a command that moves it.
    pub(crate) fn time_ms(&self) -> u64 {
        match self {
            Self::Control(control) => control.time_ms(),
            Self::Directory(directory) => directory.timed().time_ms(),
        }
    }

    /// When the next thing ends by replicated time.
    pub(crate) fn first_end_ms(&self) -> Option<u64> {
        match self {
            Self::Control(control) => control.tenancy().pins().first_end_ms(),
            Self::Directory(directory) => directory.timed().first_end_ms(),
        }
    }

    /// What happened since the last call.
    pub(crate) fn take_news(&mut self) -> News {
        match self {
            Self::Control(control) => {
                News { unclaimed: Vec::new(), kept: control.tenancy_mut().pins_mut().take_changed() }
            }
            Self::Directory(directory) => News {
                unclaimed: directory.timed_mut().claims_mut().take_ended(),
                kept: directory.timed_mut().retentions_mut().take_changed(),
            },
        }
    }

    /// Begins a snapshot of this moment: its first records, and what is left to be written while commands
    /// go on. No two have the same number. An earlier one that is not written yet cannot be any more.
    pub(crate) fn begin_snapshot(&mut self, number: u64) -> (Vec<(RecordKey, Vec<u8>)>, Option<Walk>) {
        let (mut keys, walk) = match self {
            Self::Control(control) => (control.record_keys(), None),
            Self::Directory(directory) => (directory.record_keys(), Some(directory.begin_snapshot(number))),
        };
        if mutant::is(Mutant::SnapshotForgetsPins) {
            keys.retain(|key| !matches!(key, RecordKey::Pin(..)));
        }
        keys.sort_unstable();
        (keys.into_iter().map(|key| (key, self.record(&key))).collect(), walk)
    }

    /// Appends more of the snapshot to `out`, the value of a record of [`RecordKey::Blocks`], from so many
    /// slots at the most. False if there is no more.
    ///
    /// # Errors
    /// [`Overtaken`] if another one was begun.
    pub(crate) fn write_snapshot(
        &self,
        walk: &Walk,
        slots_max: u32,
        out: &mut Vec<u8>,
    ) -> Result<bool, Overtaken> {
        match self {
            Self::Control(_) => Ok(false),
            Self::Directory(directory) => directory.write_snapshot(walk, slots_max, out),
        }
    }

    /// Ends the snapshot, whether it was written or not, and gives what was kept for it, to be let go of where
    /// nobody waits.
    pub(crate) fn end_snapshot(&mut self, walk: &Walk) -> Option<Shadow> {
        match self {
            Self::Control(_) => None,
            Self::Directory(directory) => directory.end_snapshot(walk),
        }
    }

    fn record(&self, key: &RecordKey) -> Vec<u8> {
        let mut value = Vec::new();
        let is_there = match self {
            Self::Control(control) => control.read_record(key, &mut value),
            Self::Directory(directory) => directory.read_record(key, &mut value),
        };
        assert!(is_there, "{key:?} is listed and absent");
        value
    }

    /// Puts back one record of a snapshot; they come in the order of their keys.
    ///
    /// # Errors
    /// [`RecordError`] if the record is not one of this group or is damaged; the state is then unusable.
    pub(crate) fn restore(&mut self, key: &[u8], value: &[u8]) -> Result<(), RecordError> {
        let key = RecordKey::decode(key)?;
        match self {
            Self::Control(control) => control.restore(key, value),
            Self::Directory(directory) => directory.restore(key, value),
        }
    }

    /// Every record: the canonical bytes of this state.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn encode(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let (mut keys, blocks) = match self {
            Self::Control(control) => (control.record_keys(), Vec::new()),
            Self::Directory(directory) => (directory.record_keys(), directory.blocks()),
        };
        keys.sort_unstable();
        let records = keys.into_iter().map(|key| (key.encode(), self.record(&key)));
        records.chain(blocks.into_iter().map(|block| (RecordKey::Blocks.encode(), block))).collect()
    }
}
