//! Looks for an order of all operations that explains every answer and goes against no operation's time.
//!
//! *Source*: Wing and Gong, "Testing and Verifying Concurrent Objects", 1993, with the memory of what was tried that
//! Lowe adds in "Testing for Linearizability", 2017. Operations on different keys are checked apart (Herlihy and
//! Wing: linearizability is local).

use std::collections::{BTreeMap, HashSet};

use super::history::{Outcome, Record};
use super::model::Model;

/// States that are looked at for one key; a search that needs more has not ended, which is no pass.
const STATES_MAX: usize = 4_000_000;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order for every key; so many operations were put into one.
    Linearizable {
        /// Operations that were checked.
        operations: usize,
    },
    /// There is none for this key.
    Violation {
        /// The key.
        key: u64,
        /// The longest order that was found ends before one of these, each as text.
        stuck_before: Vec<String>,
    },
    /// The search for this key did not end within its bounds.
    Unfinished {
        /// The key.
        key: u64,
    },
}

/// Checks a history.
pub fn check(records: &[Record]) -> Verdict {
    let mut by_key: BTreeMap<u64, Vec<&Record>> = BTreeMap::new();
    for record in records {
        by_key.entry(record.key).or_default().push(record);
    }
    for (key, records) in by_key {
        match check_key(&records) {
            Ok(()) => {}
            Err(Some(stuck_before)) => return Verdict::Violation { key, stuck_before },
            Err(None) => return Verdict::Unfinished { key },
        }
    }
    Verdict::Linearizable { operations: records.len() }
}

/// A depth-first search over which operation comes next. `Err(None)` if it does not end.
fn check_key(records: &[&Record]) -> Result<(), Option<Vec<String>>> {
    let mut search = Search::new(records);
    let mut path: Vec<Step> = vec![Step { state: Model::default(), next: 0, placed: None }];
    let mut best = (0, Vec::new());
    let mut looked = 0;
    while let Some(step) = path.last_mut() {
        if search.is_complete() {
            return Ok(());
        }
        looked += 1;
        if looked > STATES_MAX {
            return Err(None);
        }
        let candidate = (step.next..records.len()).find(|index| search.may_be_next(*index));
        let Some(index) = candidate else {
            if search.placed_count >= best.0 {
                best = (search.placed_count, search.candidates());
            }
            if let Some(placed) = step.placed {
                search.take_back(placed);
            }
            path.pop();
            continue;
        };
        step.next = index + 1;
        let said = search.said(index);
        let Some(after) = step.state.step(&records[index].operation, said) else { continue };
        if said.is_none() && after == step.state {
            // Whether it happened here or never makes no difference to anybody.
            continue;
        }
        search.place(index);
        if search.is_new(&after) {
            path.push(Step { state: after, next: 0, placed: Some(index) });
        } else {
            search.take_back(index);
        }
    }
    let texts = best.1.into_iter().map(|index| format!("{:?}", records[index]));
    Err(Some(texts.collect()))
}

/// One place in the order that is being tried.
struct Step {
    state: Model,
    /// The first operation that was not tried in the place after it.
    next: usize,
    placed: Option<usize>,
}

struct Search<'a> {
    records: &'a [&'a Record],
    placed: Vec<u64>,
    placed_count: usize,
    /// Operations whose answer is known and that have no place yet.
    known_left: usize,
    tried: HashSet<(Vec<u64>, Model)>,
}

impl<'a> Search<'a> {
    fn new(records: &'a [&'a Record]) -> Self {
        let known_left =
            records.iter().filter(|record| matches!(record.outcome, Outcome::Said { .. })).count();
        let placed = vec![0; records.len().div_ceil(64)];
        Self { records, placed, placed_count: 0, known_left, tried: HashSet::new() }
    }

    /// Operations that nobody knows the end of need no place.
    fn is_complete(&self) -> bool {
        self.known_left == 0
    }

    fn said(&self, index: usize) -> Option<&'a super::model::Said> {
        match &self.records[index].outcome {
            Outcome::Said { said, .. } => Some(said),
            Outcome::Unknown => None,
        }
    }

    fn end_ns(&self, index: usize) -> u64 {
        match &self.records[index].outcome {
            Outcome::Said { at_ns, .. } => *at_ns,
            Outcome::Unknown => u64::MAX,
        }
    }

    fn is_placed(&self, index: usize) -> bool {
        self.placed[index / 64] & (1 << (index % 64)) != 0
    }

    /// True if no operation without a place ended before this one began.
    fn may_be_next(&self, index: usize) -> bool {
        let began = self.records[index].began_ns;
        !self.is_placed(index)
            && (0..self.records.len())
                // By when they began, and none ends before that.
                .take_while(|other| self.records[*other].began_ns < began)
                .all(|other| self.is_placed(other) || self.end_ns(other) >= began)
    }

    fn candidates(&self) -> Vec<usize> {
        (0..self.records.len()).filter(|index| self.may_be_next(*index)).take(6).collect()
    }

    fn place(&mut self, index: usize) {
        self.placed[index / 64] |= 1 << (index % 64);
        self.placed_count += 1;
        self.known_left -= usize::from(self.said(index).is_some());
    }

    fn take_back(&mut self, index: usize) {
        self.placed[index / 64] &= !(1 << (index % 64));
        self.placed_count -= 1;
        self.known_left += usize::from(self.said(index).is_some());
    }

    fn is_new(&mut self, state: &Model) -> bool {
        self.tried.insert((self.placed.clone(), state.clone()))
    }
}

#[cfg(test)]
mod tests {
    use super::super::model::{Operation, Said};
    use super::*;

    fn record(client: u32, times: (u64, u64), operation: Operation, said: Said) -> Record {
        let outcome = Outcome::Said { at_ns: times.1, said };
        Record { client, key: 1, operation, began_ns: times.0, outcome }
    }

    fn claim(client: u32, times: (u64, u64), said: Said) -> Record {
        record(client, times, Operation::Claim { claimant: client }, said)
    }

    #[test]
    fn two_claims_at_once_have_one_winner() {
        let granted = |token| Said::Granted { token };
        let fine = [claim(1, (0, 10), granted(1)), claim(2, (5, 8), Said::Held { claimant: 1 })];
        assert_eq!(check(&fine), Verdict::Linearizable { operations: 2 });
        let both = [claim(1, (0, 10), granted(1)), claim(2, (5, 8), granted(2))];
        assert!(matches!(check(&both), Verdict::Violation { key: 1, .. }));
        // What began after the other ended cannot come before it.
        let late = [claim(1, (0, 4), Said::Held { claimant: 2 }), claim(2, (5, 8), granted(1))];
        assert!(matches!(check(&late), Verdict::Violation { .. }));
    }

    #[test]
    fn what_nobody_knows_may_have_happened_or_not() {
        let unknown = |client, began_ns, operation| Record {
            client,
            key: 1,
            operation,
            began_ns,
            outcome: Outcome::Unknown,
        };
        let released = unknown(1, 2, Operation::Release { token: 1 });
        let first = claim(1, (0, 1), Said::Granted { token: 1 });
        for said in [Said::Granted { token: 2 }, Said::Held { claimant: 1 }] {
            let history = [first.clone(), released.clone(), claim(2, (10, 11), said)];
            assert_eq!(check(&history), Verdict::Linearizable { operations: 3 });
        }
        let early =
            [claim(2, (0, 1), Said::Held { claimant: 1 }), unknown(1, 5, Operation::Claim { claimant: 1 })];
        assert!(matches!(check(&early), Verdict::Violation { .. }), "it had not begun");
    }

    #[test]
    fn a_lost_report_shows() {
        let report = |times, sequence, said| {
            record(1, times, Operation::Report { incarnation: 1, sequence, reset: sequence == 1 }, said)
        };
        let applied = |next| Said::Applied { next };
        let fine =
            [report((0, 1), 1, applied(2)), report((2, 3), 2, applied(3)), report((4, 5), 1, applied(3))];
        assert_eq!(check(&fine), Verdict::Linearizable { operations: 3 });
        let lost =
            [report((0, 1), 1, applied(2)), report((2, 3), 2, applied(3)), report((4, 5), 1, applied(2))];
        assert!(matches!(check(&lost), Verdict::Violation { .. }));
    }
}
