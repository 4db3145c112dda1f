//! What each object does when one operation comes after the other: what the cluster has to look like.

use serde::{Deserialize, Serialize};

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// A report of a holder: applied only if it is the next one, so it is a compare-and-set whose answer shows what
    /// is there.
    Report {
        /// Under which incarnation.
        incarnation: u64,
        /// Its number.
        sequence: u64,
        /// Whether it begins anew.
        reset: bool,
    },
    /// Asks for the right to compute a block.
    Claim {
        /// Who asks.
        claimant: u32,
    },
    /// Prolongs a claim.
    Renew {
        /// The claim's.
        token: u64,
    },
    /// Gives a claim back.
    Release {
        /// The claim's.
        token: u64,
    },
    /// Pins a block, or prolongs the pin; the pin has no end within a history.
    Pin,
    /// Takes a pin away.
    Unpin,
}

/// What a client is told.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Said {
    /// The report is in; this one is next.
    Applied {
        /// The number expected next.
        next: u64,
    },
    /// The report is not in; zero if only a new beginning will do.
    Gap {
        /// The number expected next.
        next: u64,
    },
    /// There is a later incarnation.
    Superseded {
        /// It.
        incarnation: u64,
    },
    /// The claim is the client's.
    Granted {
        /// Its token: every grant of a group has a larger one than those before.
        token: u64,
    },
    /// The claim is another's.
    Held {
        /// Whose.
        claimant: u32,
    },
    /// There is no such claim any more.
    Gone,
    /// It was done.
    Done {
        /// Whether that made a difference.
        changed: bool,
    },
}

/// The state of one object. Which one it is shows with the first operation.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Model {
    incarnation: u64,
    next: u64,
    claim: Option<(u32, u64)>,
    token_max: u64,
    pinned: bool,
}

impl Model {
    /// The state after an operation that was answered so; `None` if it could not be answered so. Without an answer
    /// any is taken that is possible.
    pub(super) fn step(&self, operation: &Operation, said: Option<&Said>) -> Option<Self> {
        let mut after = self.clone();
        let answer = match operation {
            Operation::Report { incarnation, sequence, reset } => {
                Some(after.report(*incarnation, *sequence, *reset))
            }
            Operation::Claim { claimant } => after.claim(*claimant, said),
            Operation::Renew { token } => Some(match self.claim {
                Some((_, held)) if held == *token => Said::Granted { token: *token },
                _ => Said::Gone,
            }),
            Operation::Release { token } => {
                let is_held = self.claim.is_some_and(|(_, held)| held == *token);
                if is_held {
                    after.claim = None;
                }
                Some(Said::Done { changed: is_held })
            }
            Operation::Pin => {
                after.pinned = true;
                Some(Said::Done { changed: true })
            }
            Operation::Unpin => {
                after.pinned = false;
                Some(Said::Done { changed: self.pinned })
            }
        }?;
        said.is_none_or(|said| *said == answer).then_some(after)
    }

    fn report(&mut self, incarnation: u64, sequence: u64, reset: bool) -> Said {
        if incarnation < self.incarnation {
            return Said::Superseded { incarnation: self.incarnation };
        }
        let unknown = incarnation > self.incarnation || self.next == 0;
        if !unknown && sequence < self.next {
            return Said::Applied { next: self.next };
        }
        if !reset && (unknown || sequence > self.next) {
            return Said::Gap { next: if unknown { 0 } else { self.next } };
        }
        (self.incarnation, self.next) = (incarnation, sequence + 1);
        Said::Applied { next: self.next }
    }

    fn claim(&mut self, claimant: u32, said: Option<&Said>) -> Option<Said> {
        if let Some((holder, token)) = self.claim {
            // Who holds it already is given the same claim again.
            return Some(if holder == claimant {
                Said::Granted { token }
            } else {
                Said::Held { claimant: holder }
            });
        }
        // The token is the cluster's choice; an answer that nobody heard chose one that is never seen.
        let token = match said {
            Some(Said::Granted { token }) if *token > self.token_max => *token,
            Some(_) => return None,
            None => self.token_max + 1,
        };
        (self.claim, self.token_max) = (Some((claimant, token)), token);
        Some(Said::Granted { token })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_a_compare_and_set() {
        let report = |sequence, reset| Operation::Report { incarnation: 1, sequence, reset };
        let fresh = Model::default();
        assert_eq!(fresh.step(&report(1, false), Some(&Said::Applied { next: 2 })), None);
        assert!(fresh.step(&report(1, false), Some(&Said::Gap { next: 0 })).is_some());
        let begun = fresh.step(&report(1, true), Some(&Said::Applied { next: 2 })).unwrap();
        assert!(begun.step(&report(3, false), Some(&Said::Gap { next: 2 })).is_some());
        let next = begun.step(&report(2, false), None).unwrap();
        assert_eq!(next.step(&report(2, false), Some(&Said::Applied { next: 3 })), Some(next.clone()));
        let old = Operation::Report { incarnation: 0, sequence: 9, reset: true };
        assert!(next.step(&old, Some(&Said::Superseded { incarnation: 1 })).is_some());
    }

    #[test]
    fn a_claim_has_one_holder_and_its_token_is_new() {
        let claim = |claimant| Operation::Claim { claimant };
        let held = Model::default().step(&claim(1), Some(&Said::Granted { token: 5 })).unwrap();
        assert_eq!(held.step(&claim(2), Some(&Said::Granted { token: 6 })), None);
        assert!(held.step(&claim(2), Some(&Said::Held { claimant: 1 })).is_some());
        let free = held.step(&Operation::Release { token: 5 }, Some(&Said::Done { changed: true })).unwrap();
        assert_eq!(free.step(&claim(2), Some(&Said::Granted { token: 5 })), None);
        assert!(free.step(&Operation::Renew { token: 5 }, Some(&Said::Gone)).is_some());
    }
}
