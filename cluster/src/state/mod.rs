//! The replicated state of each group, and the only function that changes it.
//!
//! Pure: no clock, randomness, files, sockets or tasks. Time enters as the stamp of a command. The
//! same commands in the same order give the same bytes on every replica, which is what
//! [`State::encode`] lets a test check. Every change is also known as a set of touched records, so
//! that a store can persist it without writing everything again.

mod block_table;
pub(crate) mod command;
mod control;
mod directory;
mod outcome;
#[cfg(test)]
mod property_tests;
mod record;
#[cfg(test)]
mod tests;

use hearth_proto::{GroupId, v1};

pub(crate) use control::Control;
pub(crate) use directory::{Directory, Replica, tier_bit};
pub(crate) use record::{RecordError, RecordKey};

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
        match self {
            Self::Control(control) => control.apply(command.stamp_ms, body),
            Self::Directory(directory) => directory.apply(body),
        }
    }

    /// The records that changed since the last call, each named once.
    pub(crate) fn take_touched(&mut self) -> Vec<RecordKey> {
        match self {
            Self::Control(control) => control.take_touched(),
            Self::Directory(directory) => directory.take_touched(),
        }
    }

    /// Writes the value of a record to `out`; false when there is no such record any more.
    pub(crate) fn read_record(&self, key: &RecordKey, out: &mut Vec<u8>) -> bool {
        match self {
            Self::Control(control) => control.read_record(key, out),
            Self::Directory(directory) => directory.read_record(key, out),
        }
    }

    /// Puts back one record that [`Self::read_record`] gave.
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

    /// Every record in the order of its key: the canonical bytes of this state.
    #[cfg(any(test, feature = "sim"))]
    pub(crate) fn encode(&self) -> Vec<(Vec<u8>, Vec<u8>)> {
        let mut keys = match self {
            Self::Control(control) => control.record_keys(),
            Self::Directory(directory) => directory.record_keys(),
        };
        keys.sort_unstable();
        keys.into_iter()
            .map(|key| {
                let mut value = Vec::new();
                assert!(self.read_record(&key, &mut value), "{key:?} is listed and absent");
                (key.encode(), value)
            })
            .collect()
    }
}
