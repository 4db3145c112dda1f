//! The checker against a cluster that is made up: what that answers passes for every seed, and each of its known bugs
//! is found soon.

use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::super::model::{Operation, Said};
use super::*;

const BEGAN_MS: u64 = 1_000_000;
const CLIENTS: u32 = 5;
const LASTS_MS: u64 = 5_000;

/// What the made-up cluster does wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Bug {
    None,
    /// Rights end 60 ms before their time.
    EndsEarly,
    /// Rights end 60 ms after their time.
    EndsLate,
    /// The time that rights end by goes back now and then.
    TimeGoesBack,
    /// Who renews a claim that has ended has it again.
    Revived,
    /// A claim that another one holds is granted, one time in ten.
    TwoHolders,
    /// Reads see what was there 40 ms ago.
    OldReads,
    /// One report in twenty is lost.
    ReportLost,
    /// One unpin in five is lost.
    UnpinLost,
    /// A block that comes does not end its claim.
    ClaimStays,
}

#[derive(Clone, Copy)]
struct Right {
    claimant: u32,
    token: u64,
    end_ms: u64,
}

/// One object, as a cluster has it that applies one operation after the other.
struct MadeUp {
    bug: Bug,
    rng: ChaCha8Rng,
    time_ms: u64,
    next: u64,
    /// When reports came, with the number of the next one.
    past: Vec<(u64, u64)>,
    right: Option<Right>,
    last_token: u64,
}

impl MadeUp {
    fn new(bug: Bug, rng: ChaCha8Rng) -> Self {
        Self { bug, rng, time_ms: 0, next: 0, past: vec![(0, 0)], right: None, last_token: 0 }
    }

    fn apply(&mut self, operation: &Operation, stamp_ms: u64, now_ms: u64) -> Said {
        match *operation {
            Operation::Report { sequence, reset, .. } => return self.report(sequence, reset, now_ms),
            Operation::Read => {
                let until_ms = if self.bug == Bug::OldReads { now_ms.saturating_sub(40) } else { now_ms };
                let seen = self.past.iter().rev().find(|(at_ms, _)| *at_ms <= until_ms);
                return Said::Value { last: seen.map_or(0, |(_, next)| next.saturating_sub(1)) };
            }
            _ => {}
        }
        self.time_ms = if self.bug == Bug::TimeGoesBack { stamp_ms } else { self.time_ms.max(stamp_ms) };
        let (early_ms, late_ms) = match self.bug {
            Bug::EndsEarly => (60, 0),
            Bug::EndsLate => (0, 60),
            _ => (0, 0),
        };
        if self.right.is_some_and(|right| right.end_ms <= (self.time_ms + early_ms).saturating_sub(late_ms)) {
            self.right = None;
        }
        let end_in = |ttl_ms: u64| self.time_ms + ttl_ms;
        match *operation {
            Operation::Claim { claimant, ttl_ms } => {
                if self.next > 0 && self.next.is_multiple_of(2) {
                    return Said::Present;
                }
                let twice = self.bug == Bug::TwoHolders && self.rng.random_bool(0.1);
                match self.right {
                    Some(held) if held.claimant != claimant && !twice => {
                        Said::Held { claimant: held.claimant, end_ms: held.end_ms }
                    }
                    Some(held) if !twice => self.prolong(held, end_in(ttl_ms)),
                    _ => {
                        self.last_token += 1 + u64::from(self.rng.random_bool(0.5));
                        self.prolong(Right { claimant, token: self.last_token, end_ms: 0 }, end_in(ttl_ms))
                    }
                }
            }
            Operation::Renew { token, ttl_ms } => match self.right {
                Some(held) if held.token == token => self.prolong(held, end_in(ttl_ms)),
                None if self.bug == Bug::Revived => {
                    self.prolong(Right { claimant: 0, token, end_ms: 0 }, end_in(ttl_ms))
                }
                _ => Said::Gone,
            },
            Operation::Release { token } => {
                let is_held = self.right.is_some_and(|held| held.token == token);
                self.right = self.right.filter(|_| !is_held);
                Said::Done { changed: is_held }
            }
            Operation::Repin { .. } if self.right.is_none() => Said::Gone,
            Operation::Pin { ttl_ms } | Operation::Repin { ttl_ms } => {
                let end_ms = end_in(ttl_ms);
                self.right = Some(Right { claimant: 0, token: 0, end_ms });
                Said::Pinned { end_ms }
            }
            _ => {
                let is_lost = self.bug == Bug::UnpinLost && self.rng.random_bool(0.2);
                let changed = self.right.is_some();
                self.right = self.right.filter(|_| is_lost);
                Said::Done { changed }
            }
        }
    }

    fn prolong(&mut self, right: Right, end_ms: u64) -> Said {
        let end_ms = end_ms.max(right.end_ms);
        self.right = Some(Right { end_ms, ..right });
        Said::Granted { token: right.token, end_ms }
    }

    fn report(&mut self, sequence: u64, reset: bool, now_ms: u64) -> Said {
        if self.next > 0 && sequence < self.next {
            return Said::Applied { next: self.next };
        }
        if !reset && sequence > self.next {
            return Said::Gap { next: self.next };
        }
        if self.bug != Bug::ReportLost || !self.rng.random_bool(0.05) {
            self.next = sequence + 1;
            self.past.push((now_ms, self.next));
            if sequence % 2 == 1 && self.bug != Bug::ClaimStays {
                self.right = None;
            }
        }
        Said::Applied { next: sequence + 1 }
    }
}

/// When things happen to one operation.
struct Call {
    client: u32,
    began_ms: u64,
    stamp_ms: u64,
    applied_ms: u64,
    ended_ms: u64,
    is_heard: bool,
    is_done: bool,
}

fn calls(rng: &mut ChaCha8Rng, key: u64, clocks_jump: bool) -> Vec<Call> {
    // Rights that are asked for all the time never end.
    let pause_ms = if key == 0 { 40 } else { 300 };
    let mut calls = Vec::new();
    for client in 0..CLIENTS {
        let mut now_ms = 0;
        while now_ms < LASTS_MS {
            let began_ms = now_ms + rng.random_range(0..pause_ms);
            let is_heard = rng.random_bool(0.97);
            let stamped_ms = began_ms + rng.random_range(0..10);
            let late_ms = if is_heard { 10 } else { 600 };
            let applied_ms = stamped_ms + rng.random_range(0..late_ms);
            let ended_ms = applied_ms + rng.random_range(0..10);
            let off_ms = if clocks_jump { [0, 900, 200, 1_700][(stamped_ms / 300 % 4) as usize] } else { 0 };
            let stamp_ms = BEGAN_MS + stamped_ms + off_ms;
            let is_done = is_heard || rng.random_bool(0.5);
            calls.push(Call { client, began_ms, stamp_ms, applied_ms, ended_ms, is_heard, is_done });
            now_ms = if is_heard { ended_ms } else { began_ms + 300 };
        }
    }
    calls.sort_by_key(|call| call.applied_ms);
    calls
}

fn choose(rng: &mut ChaCha8Rng, key: u64, client: u32, next: u64, token: u64) -> Operation {
    let ttl_ms = [100, 200, 400, 900][rng.random_range(0..4)];
    let sequence = next.max(1) + u64::from(rng.random_bool(0.1));
    let report = Operation::Report { incarnation: 1, sequence, reset: next == 0 };
    let chance = rng.random_range(0..10);
    match key {
        0 if chance < 5 => report,
        0 => Operation::Read,
        1 => match chance {
            0 => report,
            1..4 => Operation::Renew { token, ttl_ms },
            4 => Operation::Release { token },
            _ => Operation::Claim { claimant: client, ttl_ms },
        },
        _ => match chance {
            0..2 => Operation::Pin { ttl_ms },
            2..7 => Operation::Repin { ttl_ms },
            _ => Operation::Unpin,
        },
    }
}

/// A history of three objects: one is reported and read, one is claimed, one is pinned.
fn history(seed: u64, bug: Bug, clocks_jump: bool) -> History {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    let mut records = Vec::new();
    for key in 0..3 {
        let mut cluster = MadeUp::new(bug, ChaCha8Rng::seed_from_u64(seed + 1));
        // What each client was told last.
        let mut told = [(0, 0); CLIENTS as usize];
        for call in calls(&mut rng, key, clocks_jump) {
            let (next, token) = told[call.client as usize];
            let operation = choose(&mut rng, key, call.client, next, token);
            let said = call.is_done.then(|| cluster.apply(&operation, call.stamp_ms, call.applied_ms));
            let outcome = match said.filter(|_| call.is_heard) {
                Some(said) => {
                    match said {
                        Said::Applied { next } | Said::Gap { next } => told[call.client as usize].0 = next,
                        Said::Granted { token, .. } => told[call.client as usize].1 = token,
                        _ => {}
                    }
                    Outcome::Said { at_ns: call.ended_ms * NS_PER_MS, said }
                }
                None => Outcome::Unknown,
            };
            let began_ns = call.began_ms * NS_PER_MS;
            records.push(Record { client: call.client, key, operation, began_ns, outcome });
        }
    }
    records.sort_by_key(|record| record.began_ns);
    History { header: Header { seed, began_ms: BEGAN_MS, clocks_jump }, records }
}

#[test]
fn what_a_right_cluster_answers_passes() {
    for seed in 0..60 {
        for clocks_jump in [false, true] {
            let history = history(seed, Bug::None, clocks_jump);
            let found = check(&history);
            let answered =
                history.records.iter().filter(|record| matches!(record.outcome, Outcome::Said { .. }));
            assert!(answered.count() > 400, "seed {seed}: too little was asked");
            assert!(found.verdict.is_pass(), "seed {seed}, clocks jump: {clocks_jump}: {found:#?}");
        }
    }
}

#[test]
fn each_bug_is_found_soon() {
    let always = [Bug::EndsEarly, Bug::TimeGoesBack, Bug::Revived, Bug::TwoHolders, Bug::OldReads];
    let always = always.into_iter().chain([Bug::ReportLost, Bug::UnpinLost, Bug::ClaimStays, Bug::EndsLate]);
    for bug in always {
        for clocks_jump in [false, true] {
            // Without jumps the time has no reason to go back; with them hardly anything comes within 60 ms.
            if (bug, clocks_jump) == (Bug::TimeGoesBack, false) || (bug, clocks_jump) == (Bug::EndsLate, true)
            {
                continue;
            }
            let found = (0..8).find(|seed| {
                matches!(check(&history(*seed, bug, clocks_jump)).verdict, Verdict::Violation { .. })
            });
            assert!(found.is_some(), "{bug:?}, clocks jump: {clocks_jump}");
        }
    }
}
