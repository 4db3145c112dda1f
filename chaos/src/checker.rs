//! What the load saw: counts, and every broken promise in words.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use hearth_proto::limits::DEADLINE_GRACE_MS;

/// What the deadline's grace is given on top: the machine is shared with the nodes under test, and
/// a call that hangs overruns by seconds.
const SCHEDULING: Duration = Duration::from_millis(300);
/// Broken promises that are kept in words; all are counted.
const VIOLATIONS_KEPT: usize = 20;

/// Everything that the load and the final check found.
#[derive(Debug, Default, Clone)]
pub struct Findings {
    /// Blocks that came with exactly their bytes.
    pub hits: u64,
    /// Blocks that were missed, by reason.
    pub misses: BTreeMap<&'static str, u64>,
    /// Blocks stored.
    pub stored: u64,
    /// Blocks not known to be stored, by reason.
    pub not_stored: BTreeMap<&'static str, u64>,
    /// The longest that a call took beyond its deadline.
    pub longest_overrun: Duration,
    /// Broken promises, counted.
    pub violation_count: u64,
    /// The first of them, in words.
    pub violations: Vec<String>,
}

impl Findings {
    /// Blocks that a fault kept from being got or stored: a run without any has tested nothing.
    pub fn faults_felt(&self) -> u64 {
        let felt = |counts: &BTreeMap<&'static str, u64>| -> u64 {
            let of_faults = |reason: &&str| matches!(*reason, "unreachable" | "deadline" | "unknown");
            counts.iter().filter(|(reason, _)| of_faults(reason)).map(|(_, count)| count).sum()
        };
        felt(&self.misses) + felt(&self.not_stored)
    }
}

/// Collects findings from all tasks of the load.
#[derive(Debug, Default)]
pub(crate) struct Checker(Mutex<Findings>);

impl Checker {
    pub(crate) fn hit(&self) {
        self.with(|f| f.hits += 1);
    }

    pub(crate) fn missed(&self, reason: &'static str) {
        self.with(|f| *f.misses.entry(reason).or_default() += 1);
    }

    pub(crate) fn stored(&self) {
        self.with(|f| f.stored += 1);
    }

    pub(crate) fn not_stored(&self, reason: &'static str) {
        self.with(|f| *f.not_stored.entry(reason).or_default() += 1);
    }

    /// Holds a call against its deadline (INV-DEADLINE).
    pub(crate) fn took(&self, what: &str, elapsed: Duration, patience: Duration) {
        let overrun = elapsed.saturating_sub(patience);
        self.with(|f| f.longest_overrun = f.longest_overrun.max(overrun));
        if overrun > Duration::from_millis(DEADLINE_GRACE_MS) + SCHEDULING {
            self.violation(format!("INV-DEADLINE: a {what} of {patience:?} took {elapsed:?}"));
        }
    }

    pub(crate) fn violation(&self, what: String) {
        self.with(|f| {
            f.violation_count += 1;
            if f.violations.len() < VIOLATIONS_KEPT {
                f.violations.push(what);
            }
        });
    }

    pub(crate) fn findings(&self) -> Findings {
        self.with(|f| f.clone())
    }

    fn with<T>(&self, change: impl FnOnce(&mut Findings) -> T) -> T {
        change(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}
