//! What happened, as lines and as one digest of all of them.

use std::hash::{DefaultHasher, Hash, Hasher};

/// The history of one run.
#[derive(Debug, Default)]
pub(crate) struct Trace {
    hasher: DefaultHasher,
    print: bool,
    events: u64,
}

impl Trace {
    pub(crate) fn new(print: bool) -> Self {
        Self { print, ..Self::default() }
    }

    /// Notes an event.
    pub(crate) fn note(&mut self, now_ms: u64, event: &str) {
        (now_ms, event).hash(&mut self.hasher);
        self.events += 1;
        if self.print {
            eprintln!("{now_ms:>6} ms  {event}");
        }
    }

    pub(crate) fn digest(&self) -> u64 {
        self.hasher.finish()
    }

    pub(crate) fn events(&self) -> u64 {
        self.events
    }
}
