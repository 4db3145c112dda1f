//! What each object does when one operation comes after the other: what the cluster has to look like.
//!
//! An object of the directory is a holder that reports, whose blocks say the number of its last report, and a block
//! that it holds after every other report and that is claimed meanwhile. An object of the control group is a pin.

use serde::{Deserialize, Serialize};

use super::lease::{Lease, Window};

/// What a client asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Operation {
    /// A report of a holder: applied only if it is the next one, so it is a compare-and-set whose answer shows what
    /// is there. One with an odd number brings the block that is claimed, one with an even number takes it away.
    Report {
        /// Under which incarnation.
        incarnation: u64,
        /// Its number.
        sequence: u64,
        /// Whether it begins anew.
        reset: bool,
    },
    /// A linearizable lookup, asked of any node, of the blocks that spell the number of the last report.
    Read,
    /// Asks for the right to compute a block.
    Claim {
        /// Who asks.
        claimant: u32,
        /// How long the right is to last.
        ttl_ms: u64,
    },
    /// Prolongs a claim.
    Renew {
        /// The claim's.
        token: u64,
        /// How long it is to last from now on at the least.
        ttl_ms: u64,
    },
    /// Gives a claim back.
    Release {
        /// The claim's.
        token: u64,
    },
    /// Pins a block, or replaces the pin.
    Pin {
        /// How long the pin is to last.
        ttl_ms: u64,
    },
    /// Prolongs a pin that is there.
    Repin {
        /// How long it is to last from now on.
        ttl_ms: u64,
    },
    /// Takes a pin away.
    Unpin,
}

impl Operation {
    /// What the operation is called where operations are counted.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Report { .. } => "report",
            Self::Read => "linearizable lookup",
            Self::Claim { .. } => "claim",
            Self::Renew { .. } => "renew",
            Self::Release { .. } => "release",
            Self::Pin { .. } => "pin",
            Self::Repin { .. } => "renew pin",
            Self::Unpin => "unpin",
        }
    }
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
    /// The number of the last report that is in, zero if there is none.
    Value {
        /// It.
        last: u64,
    },
    /// The claim is the client's.
    Granted {
        /// Its token: every grant of a group has a larger one than those before.
        token: u64,
        /// Replicated time at which it ends.
        end_ms: u64,
    },
    /// The claim is another's.
    Held {
        /// Whose.
        claimant: u32,
        /// Replicated time at which it ends.
        end_ms: u64,
    },
    /// The block is there.
    Present,
    /// There is no such claim or pin any more.
    Gone,
    /// The block is pinned.
    Pinned {
        /// Replicated time at which the pin ends.
        end_ms: u64,
    },
    /// It was done.
    Done {
        /// Whether that made a difference.
        changed: bool,
    },
}

/// A claim's token, as far as anybody was told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Token {
    Known(u64),
    /// Nobody heard the answer that named it; it is greater than this.
    Above(u64),
}

/// What ends by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Right {
    Claim { claimant: u32, token: Token },
    Pin,
}

/// What an object is, but for its times.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Object {
    incarnation: u64,
    /// The number of the next report; zero if there was none.
    next: u64,
    right: Option<Right>,
    token_max: u64,
}

/// The state of one object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Model {
    pub(super) object: Object,
    /// There is an end if and only if there is a right.
    pub(super) lease: Lease,
}

impl Model {
    /// The states after an operation that was answered so; none if it could not be answered so. Without an answer,
    /// those in which it made a difference.
    pub(super) fn step(&self, operation: &Operation, window: Window, said: Option<&Said>) -> Vec<Self> {
        match *operation {
            Operation::Report { incarnation, sequence, reset } => {
                self.report((incarnation, sequence, reset), said)
            }
            Operation::Read => match said {
                Some(Said::Value { last }) if *last == self.object.next.saturating_sub(1) => {
                    vec![self.clone()]
                }
                _ => Vec::new(),
            },
            _ => self.timed(operation, window, said),
        }
    }

    /// A report moves no time on, and ends no right by it.
    fn report(&self, report: (u64, u64, bool), said: Option<&Said>) -> Vec<Self> {
        let mut after = self.clone();
        let answer = after.object.report(report);
        let is_new = after.object != self.object;
        if is_new && after.object.holds_block() && after.object.right.take().is_some() {
            after.lease = after.lease.without_end();
        }
        let fits = said.map_or(is_new, |said| *said == answer);
        if fits { vec![after] } else { Vec::new() }
    }

    /// Whatever brings its time with it: first what is over ends, then it is done.
    fn timed(&self, operation: &Operation, window: Window, said: Option<&Said>) -> Vec<Self> {
        let Some(lease) = self.lease.reach(window) else { return Vec::new() };
        if self.object.right.is_none() || !self.object.shows_right(operation) {
            // Whether a right is over makes no difference as long as nothing shows it.
            return Self { lease, ..self.clone() }.act(operation, window.to_ms, said);
        }
        let lives = lease.before_end().map(|lease| Self { lease, ..self.clone() });
        let ended = lease.after_end(window.to_ms).map(|lease| {
            let object = Object { right: None, ..self.object.clone() };
            Self { object, lease }
        });
        lives.into_iter().chain(ended).flat_map(|now| now.act(operation, window.to_ms, said)).collect()
    }

    fn act(self, operation: &Operation, to_ms: u64, said: Option<&Said>) -> Vec<Self> {
        match *operation {
            Operation::Claim { claimant, ttl_ms } => self.claim(claimant, ttl_ms, to_ms, said),
            Operation::Renew { token, ttl_ms } => match self.object.token_as(token) {
                Some(known) => self.prolong(known, ttl_ms, to_ms, said),
                None => self.unchanged(said, &Said::Gone),
            },
            Operation::Release { token } => {
                let is_held = self.object.token_as(token).is_some();
                self.end_if(is_held, said)
            }
            Operation::Unpin => {
                let is_pinned = self.object.right == Some(Right::Pin);
                self.end_if(is_pinned, said)
            }
            Operation::Pin { ttl_ms } => self.pin(ttl_ms, to_ms, said),
            Operation::Repin { ttl_ms } => match self.object.right {
                Some(Right::Pin) => self.pin(ttl_ms, to_ms, said),
                _ => self.unchanged(said, &Said::Gone),
            },
            Operation::Report { .. } | Operation::Read => Vec::new(),
        }
    }

    /// Nothing happens but the answer; what nobody was told of then makes no difference.
    fn unchanged(self, said: Option<&Said>, answer: &Said) -> Vec<Self> {
        if said == Some(answer) { vec![self] } else { Vec::new() }
    }

    fn claim(self, claimant: u32, ttl_ms: u64, to_ms: u64, said: Option<&Said>) -> Vec<Self> {
        if self.object.holds_block() {
            return self.unchanged(said, &Said::Present);
        }
        match self.object.right {
            Some(Right::Claim { claimant: holder, token }) if holder == claimant => {
                // Who holds it already is given the same claim again.
                let known = match said {
                    Some(Said::Granted { token: told, .. }) => self.object.token_as(*told),
                    Some(_) => None,
                    None => Some(token),
                };
                known.map_or_else(Vec::new, |known| self.prolong(known, ttl_ms, to_ms, said))
            }
            Some(Right::Claim { claimant: holder, .. }) => match said {
                Some(Said::Held { claimant, end_ms }) if *claimant == holder => self.ending(*end_ms),
                _ => Vec::new(),
            },
            Some(Right::Pin) => Vec::new(),
            None => {
                // The token is the cluster's choice; one that nobody heard is known to be new.
                let token = match said {
                    Some(Said::Granted { token, .. }) if *token > self.object.token_max => {
                        Token::Known(*token)
                    }
                    Some(_) => return Vec::new(),
                    None => Token::Above(self.object.token_max),
                };
                let mut object = self.object.clone();
                object.hold(Right::Claim { claimant, token });
                Self { object, lease: self.lease.with_end_in(ttl_ms, to_ms) }.answered(said)
            }
        }
    }

    /// Moves the end of a claim on; `token` is what is known of its token then.
    fn prolong(self, token: Token, ttl_ms: u64, to_ms: u64, said: Option<&Said>) -> Vec<Self> {
        let Some(Right::Claim { claimant, .. }) = self.object.right else { return Vec::new() };
        let mut object = self.object.clone();
        object.hold(Right::Claim { claimant, token });
        if let Some(said) = said
            && !matches!((said, token), (Said::Granted { token, .. }, Token::Known(known)) if *token == known)
        {
            return Vec::new();
        }
        let [moves, stays] = self.lease.prolonged(ttl_ms, to_ms);
        // A claim that stays as it is makes no difference.
        let leases = moves.into_iter().chain(stays.filter(|_| said.is_some()));
        leases.flat_map(|lease| Self { object: object.clone(), lease }.answered(said)).collect()
    }

    fn pin(self, ttl_ms: u64, to_ms: u64, said: Option<&Said>) -> Vec<Self> {
        let mut object = self.object.clone();
        object.hold(Right::Pin);
        Self { object, lease: self.lease.with_end_in(ttl_ms, to_ms) }.answered(said)
    }

    /// What was granted ends when the answer says.
    fn answered(self, said: Option<&Said>) -> Vec<Self> {
        match said {
            Some(Said::Granted { end_ms, .. } | Said::Pinned { end_ms }) => self.ending(*end_ms),
            Some(_) => Vec::new(),
            None => vec![self],
        }
    }

    fn ending(self, end_ms: u64) -> Vec<Self> {
        let lease = self.lease.with_end_at(end_ms);
        lease.map(|lease| Self { lease, ..self }).into_iter().collect()
    }

    fn end_if(self, is_held: bool, said: Option<&Said>) -> Vec<Self> {
        if !is_held {
            return self.unchanged(said, &Said::Done { changed: false });
        }
        if said.is_some_and(|said| *said != Said::Done { changed: true }) {
            return Vec::new();
        }
        let object = Object { right: None, ..self.object };
        vec![Self { object, lease: self.lease.without_end() }]
    }
}

impl Object {
    /// Whether the holder has the block that is claimed.
    fn holds_block(&self) -> bool {
        report_holds_block(self.next.saturating_sub(1))
    }

    fn report(&mut self, (incarnation, sequence, reset): (u64, u64, bool)) -> Said {
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

    /// Whether an operation does something else if there is the right than if it is over.
    fn shows_right(&self, operation: &Operation) -> bool {
        match operation {
            Operation::Renew { token, .. } | Operation::Release { token } => self.token_as(*token).is_some(),
            // What it replaces makes no difference to it.
            Operation::Pin { .. } => false,
            _ => true,
        }
    }

    /// What is known of the token of the claim, if this can be it.
    fn token_as(&self, token: u64) -> Option<Token> {
        let Some(Right::Claim { token: held, .. }) = self.right else { return None };
        let is_it = match held {
            Token::Known(known) => token == known,
            Token::Above(least) => token > least,
        };
        is_it.then_some(Token::Known(token))
    }

    fn hold(&mut self, right: Right) {
        if let Right::Claim { token: Token::Known(token), .. } = right {
            self.token_max = self.token_max.max(token);
        }
        self.right = Some(right);
    }
}

/// Whether the holder has the block that is claimed after a report of this number.
pub(super) fn report_holds_block(sequence: u64) -> bool {
    sequence % 2 == 1
}
