//! What many histories came to, for a file of results.

use std::collections::BTreeMap;

use serde::Serialize;

use super::checker::Verdict;
use super::run::{Count, LinearOptions, LinearOutcome};

/// Sums over histories.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// Histories that were checked to the end, those with a violation included.
    histories: u64,
    /// Of these: in which clocks jumped.
    histories_with_clock_jumps: u64,
    /// Of these: in which nodes could be cut off from each other.
    histories_with_partitions: u64,
    linearizable: u64,
    violations: Vec<String>,
    /// Searches that did not end, which are no passes.
    unfinished: Vec<String>,
    /// Histories that say nothing, because a node that only the run kept up was declared down; made anew.
    spoilt: u64,
    /// Histories that could not be made.
    errors: Vec<String>,
    operations: u64,
    answered: u64,
    unknown: u64,
    by_operation: BTreeMap<&'static str, Count>,
    faults: u64,
    by_fault: BTreeMap<&'static str, u64>,
    states: u64,
    states_of_longest: u64,
    longest_check_seconds: f64,
}

impl Summary {
    /// Adds a history.
    pub fn add(&mut self, options: &LinearOptions, outcome: &LinearOutcome) {
        if !outcome.reporters_stayed {
            self.spoilt += 1;
            return;
        }
        self.histories += 1;
        self.histories_with_clock_jumps += u64::from(options.clock_jumps);
        self.histories_with_partitions += u64::from(options.partitions);
        let found = || format!("seed {}: {:?}", options.seed, outcome.finding.verdict);
        match outcome.finding.verdict {
            Verdict::Linearizable => self.linearizable += 1,
            Verdict::Violation { .. } => self.violations.push(found()),
            Verdict::Unfinished { .. } => self.unfinished.push(found()),
        }
        for (name, count) in &outcome.operations {
            let sum = self.by_operation.entry(name).or_default();
            *sum = Count { all: sum.all + count.all, answered: sum.answered + count.answered };
            self.operations += count.all;
            self.answered += count.answered;
            self.unknown += count.all - count.answered;
        }
        for (kind, count) in &outcome.faults {
            *self.by_fault.entry(kind).or_default() += count;
            self.faults += count;
        }
        self.states += outcome.finding.states;
        self.states_of_longest = self.states_of_longest.max(outcome.finding.states);
        let seconds = outcome.checked_in.as_secs_f64();
        self.longest_check_seconds = self.longest_check_seconds.max(seconds);
    }

    /// Adds a history that could not be made.
    pub fn add_error(&mut self, seed: u64, error: &anyhow::Error) {
        self.errors.push(format!("seed {seed}: {error:#}"));
    }

    /// Histories so far that say something.
    pub fn histories(&self) -> u64 {
        self.histories
    }

    /// Histories so far that do not.
    pub fn failures(&self) -> u64 {
        self.spoilt + self.errors.len() as u64
    }

    /// Whether each history has an order.
    pub fn is_pass(&self) -> bool {
        self.linearizable == self.histories && self.errors.is_empty()
    }
}
