//! Which payloads were put under which name, and which of them may still be read.

use std::collections::BTreeMap;

use hearth_proto::Generation;

use super::content::{Name, Version};
use super::rng::Rng;

/// An invariant that did not hold.
#[derive(Clone, Debug)]
pub(super) struct Broken {
    pub(super) invariant: &'static str,
    pub(super) detail: String,
}

pub(super) fn broken<T>(invariant: &'static str, detail: impl Into<String>) -> Result<T, Broken> {
    Err(Broken { invariant, detail: detail.into() })
}

#[derive(Default)]
pub(super) struct History {
    attempts: BTreeMap<(Name, Version), Attempts>,
    generations: BTreeMap<Generation, (Name, Version)>,
    /// The steps in which the last remove of a name that has ended began and ended.
    removed_at: BTreeMap<Name, (u64, u64)>,
    versions: u32,
}

/// All puts of one payload under one name.
#[derive(Default)]
struct Attempts {
    len: usize,
    running: u32,
    /// True if one that has ended may have stored the payload.
    stored: bool,
    /// The step in which the last one ended that may have stored it.
    ended_at: u64,
}

impl History {
    pub(super) fn new_version(&mut self) -> Version {
        self.versions += 1;
        Version(self.versions)
    }

    /// The payload that was put last under a name.
    pub(super) fn latest(&self, name: Name) -> Option<(Version, usize)> {
        let range = (name, Version(0))..=(name, Version(u32::MAX));
        self.attempts.range(range).next_back().map(|((_, version), attempts)| (*version, attempts.len))
    }

    /// Some payload that was put under a name.
    pub(super) fn some_version(&self, name: Name, rng: &mut Rng) -> Option<(Version, usize)> {
        let range = (name, Version(0))..=(name, Version(u32::MAX));
        let count = self.attempts.range(range.clone()).count();
        let chosen = rng.index(count.max(1));
        let ((_, version), attempts) = self.attempts.range(range).nth(chosen)?;
        Some((*version, attempts.len))
    }

    pub(super) fn put_began(&mut self, name: Name, version: Version, len: usize) {
        let attempts = self.attempts.entry((name, version)).or_default();
        attempts.len = len;
        attempts.running += 1;
    }

    pub(super) fn put_ended(&mut self, name: Name, version: Version, step: u64, maybe_stored: bool) {
        let attempts = self.attempts.entry((name, version)).or_default();
        attempts.running -= 1;
        if maybe_stored {
            attempts.stored = true;
            attempts.ended_at = step;
        }
    }

    pub(super) fn removed(&mut self, name: Name, began: u64, ended: u64) {
        let removed_at = self.removed_at.entry(name).or_default();
        *removed_at = (began, ended).max(*removed_at);
    }

    /// Forgets removals that may come to nothing: the index refused changes before the crash.
    pub(super) fn forget_removals(&mut self) {
        self.removed_at.clear();
    }

    /// True to a read that began in step `began`: some put may have stored this payload, and no remove
    /// that ended before came after all of them.
    pub(super) fn may_be_read(&self, name: Name, version: Version, began: u64) -> Result<(), Broken> {
        let Some(attempts) = self.attempts.get(&(name, version)) else {
            return broken("INV-BYTES", format!("{name:?} {version:?} was never put"));
        };
        if attempts.running > 0 {
            return Ok(());
        }
        if !attempts.stored {
            return broken("INV-BYTES", format!("{name:?} {version:?} was refused by every put"));
        }
        match self.removed_at.get(&name) {
            Some(removed_at) if attempts.ended_at < removed_at.0 && removed_at.1 < began => broken(
                "INV-REMOVE",
                format!("{name:?} {version:?}, put until {}, came back: {removed_at:?}", attempts.ended_at),
            ),
            _ => Ok(()),
        }
    }

    /// A generation stands for one put for ever.
    pub(super) fn generation_is(
        &mut self,
        generation: Generation,
        name: Name,
        version: Version,
    ) -> Result<(), Broken> {
        let known = *self.generations.entry(generation).or_insert((name, version));
        match known == (name, version) {
            true => Ok(()),
            false => broken("INV-FENCE", format!("{generation:?} is {known:?} and {:?}", (name, version))),
        }
    }
}
