//! Looks for an order of all operations that explains every answer and goes against no operation's time.
//!
//! *Source*: Wing and Gong, "Testing and Verifying Concurrent Objects", 1993, with the memory of what was tried that
//! Lowe adds in "Testing for Linearizability", 2017. Operations on different keys are checked apart (Herlihy and
//! Wing: linearizability is local), but for the tokens of claims, which no two claims of a group share.

use std::collections::{BTreeMap, HashMap};

use super::history::{Header, History, Outcome, Record};
use super::lease::{Lease, Window};
use super::model::{Model, Object, Operation, Said};

/// States that are looked at for one key; a search that needs more has not ended, which is no pass.
const STATES_MAX: u64 = 4_000_000;
/// How far the clocks of a machine are apart that are one clock, rounded to milliseconds here and there.
const TOLERANCE_MS: u64 = 25;
const NS_PER_MS: u64 = 1_000_000;

/// What a check found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// There is an order for every key.
    Linearizable,
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

impl Verdict {
    /// Anything else is no pass.
    pub fn is_pass(&self) -> bool {
        *self == Self::Linearizable
    }
}

/// A verdict, and what it took.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// What was found.
    pub verdict: Verdict,
    /// States that were looked at, over all keys.
    pub states: u64,
}

/// Checks a history.
pub fn check(history: &History) -> Finding {
    let mut by_key: BTreeMap<u64, Vec<Entry<'_>>> = BTreeMap::new();
    for record in &history.records {
        by_key.entry(record.key).or_default().extend(Entry::new(record, &history.header));
    }
    let mut states = 0;
    for (key, mut entries) in by_key {
        entries.sort_by_key(|entry| entry.began_ns);
        let stuck = search(&entries, &mut states);
        let verdict = match stuck {
            Ok(()) => continue,
            Err(Stuck::Before(stuck_before)) => Verdict::Violation { key, stuck_before },
            Err(Stuck::Unfinished) => Verdict::Unfinished { key },
        };
        return Finding { verdict, states };
    }
    Finding { verdict: shared_token(&history.records).unwrap_or(Verdict::Linearizable), states }
}

/// Two claims with one token.
fn shared_token(records: &[Record]) -> Option<Verdict> {
    let mut claims = HashMap::new();
    for record in records {
        let Operation::Claim { claimant, .. } = record.operation else { continue };
        let Outcome::Said { said: Said::Granted { token, .. }, .. } = record.outcome else { continue };
        let claim = *claims.entry(token).or_insert((record.key, claimant));
        if claim != (record.key, claimant) {
            let first = format!("token {token} was given to claimant {} of key {}", claim.1, claim.0);
            return Some(Verdict::Violation {
                key: record.key,
                stuck_before: vec![first, format!("{record:?}")],
            });
        }
    }
    None
}

/// A record as the search needs it.
struct Entry<'a> {
    record: &'a Record,
    said: Option<&'a Said>,
    began_ns: u64,
    /// `u64::MAX` if nobody knows.
    ended_ns: u64,
    window: Window,
}

impl<'a> Entry<'a> {
    /// `None` for a read without an answer, which says nothing.
    fn new(record: &'a Record, header: &Header) -> Option<Self> {
        let (said, ended_ns) = match &record.outcome {
            Outcome::Said { at_ns, said } => (Some(said), *at_ns),
            Outcome::Unknown if record.operation == Operation::Read => return None,
            Outcome::Unknown => (None, u64::MAX),
        };
        let at_ms = |ns: u64| header.began_ms.saturating_add(ns / NS_PER_MS);
        let window = if header.clocks_jump {
            Window::ANY
        } else {
            Window {
                from_ms: at_ms(record.began_ns).saturating_sub(TOLERANCE_MS),
                to_ms: at_ms(ended_ns).saturating_add(TOLERANCE_MS),
            }
        };
        Some(Self { record, said, began_ns: record.began_ns, ended_ns, window })
    }
}

enum Stuck {
    Before(Vec<String>),
    Unfinished,
}

/// A depth-first search over which operation comes next.
fn search(entries: &[Entry<'_>], states: &mut u64) -> Result<(), Stuck> {
    let mut order = Order::new(entries);
    let begin = Model::default();
    let mut path = vec![Step { next: order.successors(&begin), placed: None }];
    let (mut best, mut looked) = ((0, Vec::new()), 0);
    while let Some(step) = path.last_mut() {
        if order.known_left == 0 {
            // Operations that nobody knows the end of need no place.
            return Ok(());
        }
        let Some((index, after)) = step.next.pop() else {
            let placed = step.placed;
            if order.placed_count >= best.0 {
                best = (order.placed_count, order.candidates());
            }
            if let Some(placed) = placed {
                order.take_back(placed);
            }
            path.pop();
            continue;
        };
        (looked, *states) = (looked + 1, *states + 1);
        if looked > STATES_MAX {
            return Err(Stuck::Unfinished);
        }
        order.place(index);
        if order.is_new(&after) {
            path.push(Step { next: order.successors(&after), placed: Some(index) });
        } else {
            order.take_back(index);
        }
    }
    let texts = best.1.into_iter().map(|index: usize| format!("{:?}", entries[index].record));
    Err(Stuck::Before(texts.take(8).collect()))
}

/// One place in the order that is being tried.
struct Step {
    /// What may be in the place after it, with the states after that; the last one is tried first.
    next: Vec<(usize, Model)>,
    placed: Option<usize>,
}

struct Order<'a> {
    /// By when they began.
    entries: &'a [Entry<'a>],
    /// Which of the operations with an answer have a place, and which of those without one.
    placed: Places,
    placed_unknown: Places,
    placed_count: usize,
    /// Operations whose answer is known and that have no place yet.
    known_left: usize,
    /// Everything before it has a place.
    first_left: usize,
    /// By the operations with an answer that have a place.
    tried: HashMap<(Places, Object), Vec<(Places, Lease)>>,
}

/// A set of operations, a bit each.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Places(Vec<u64>);

impl Places {
    fn has(&self, index: usize) -> bool {
        self.0[index / 64] & (1 << (index % 64)) != 0
    }

    fn flip(&mut self, index: usize) {
        self.0[index / 64] ^= 1 << (index % 64);
    }

    fn is_within(&self, other: &Self) -> bool {
        self.0.iter().zip(&other.0).all(|(ours, theirs)| ours & !theirs == 0)
    }
}

impl<'a> Order<'a> {
    fn new(entries: &'a [Entry<'a>]) -> Self {
        let known_left = entries.iter().filter(|entry| entry.said.is_some()).count();
        let placed = Places(vec![0; entries.len().div_ceil(64)]);
        Self {
            entries,
            placed: placed.clone(),
            placed_unknown: placed,
            placed_count: 0,
            known_left,
            first_left: 0,
            tried: HashMap::new(),
        }
    }

    fn is_placed(&self, index: usize) -> bool {
        self.placed.has(index) || self.placed_unknown.has(index)
    }

    fn flip(&mut self, index: usize) {
        let is_known = self.entries[index].said.is_some();
        if is_known { self.placed.flip(index) } else { self.placed_unknown.flip(index) }
    }

    /// Operations without a place that may have the next one: no other one without a place ended before they began.
    fn candidates(&self) -> Vec<usize> {
        let mut candidates = Vec::new();
        let mut first_end_ns = u64::MAX;
        for index in self.first_left..self.entries.len() {
            let entry = &self.entries[index];
            if entry.began_ns > first_end_ns {
                break;
            }
            if !self.is_placed(index) {
                first_end_ns = first_end_ns.min(entry.ended_ns);
                candidates.push(index);
            }
        }
        candidates
    }

    /// What may come next. Tried first is what ended first, and last what nobody knows the end of.
    fn successors(&self, state: &Model) -> Vec<(usize, Model)> {
        let mut candidates = self.candidates();
        candidates.retain(|index| !self.is_interchangeable(*index));
        candidates.sort_by_key(|index| std::cmp::Reverse(self.entries[*index].ended_ns));
        let after = |index: usize| {
            let Entry { record, window, said, .. } = &self.entries[index];
            state.step(&record.operation, *window, *said).into_iter().map(move |after| (index, after))
        };
        candidates.into_iter().flat_map(after).collect()
    }

    /// Whether nobody knows the end of the operation, nor that of an earlier one that does the same and has no place:
    /// either can take the place of the other, so that the earlier one is tried alone.
    fn is_interchangeable(&self, index: usize) -> bool {
        let entry = &self.entries[index];
        let is_like_it = |other: usize| {
            let other_entry = &self.entries[other];
            other_entry.said.is_none()
                && other_entry.record.operation == entry.record.operation
                && !self.is_placed(other)
        };
        entry.said.is_none() && (self.first_left..index).any(is_like_it)
    }

    fn place(&mut self, index: usize) {
        self.flip(index);
        self.placed_count += 1;
        self.known_left -= usize::from(self.entries[index].said.is_some());
        while self.first_left < self.entries.len() && self.is_placed(self.first_left) {
            self.first_left += 1;
        }
    }

    fn take_back(&mut self, index: usize) {
        self.flip(index);
        self.placed_count -= 1;
        self.known_left += usize::from(self.entries[index].said.is_some());
        self.first_left = self.first_left.min(index);
    }

    /// False if whatever can follow here can follow a state that was tried already: the same operations with an
    /// answer had a place, no other one without an answer was used up, and there was as much room for the times.
    fn is_new(&mut self, state: &Model) -> bool {
        let tried = self.tried.entry((self.placed.clone(), state.object.clone())).or_default();
        let is_covered = |(used, lease): &(Places, Lease)| {
            used.is_within(&self.placed_unknown) && lease.covers(&state.lease)
        };
        if tried.iter().any(is_covered) {
            return false;
        }
        tried.push((self.placed_unknown.clone(), state.lease));
        true
    }
}

#[cfg(test)]
#[path = "checker_tests.rs"]
mod tests;

#[cfg(test)]
#[path = "simulated_tests.rs"]
mod simulated_tests;
