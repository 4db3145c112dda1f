//! The batches of one publisher, in order.
//!
//! Owns the sequence: what comes twice is ignored, what is missing is asked for, and what cannot be had any more means
//! that the publisher's blocks are forgotten. It has no socket and no clock: messages and the time are given to it, and
//! it answers with steps.
//!
//! A publisher numbers its batches from 0, keeps the last ones, and sends them again when asked. ZMQ keeps the order of
//! what it delivers. So a live batch with a number that was live before is no late one: it is a copy, or the publisher
//! began anew. 0 means that it did, and so do two such numbers in a row. Taking a copy for that costs one replay.

use hearth_proto::limits::{EVENT_REPLAY_ATTEMPTS_MAX, EVENT_REPLAY_STALL_MS, EVENT_SILENCE_MS};

use super::held::Held;
use super::{ClearReason, Step, StreamStats, Taken};

/// See the module.
///
/// *Units*: times are milliseconds of a clock that never goes back; numbers of batches are those of a
/// [`Message`](super::Message), which ends at 2^63.
///
/// *Invariants*: between two [`Step::Clear`], and before the first, the batches to apply have consecutive numbers.
#[derive(Debug)]
pub struct Stream<T> {
    /// The batch to apply next.
    next: u64,
    /// The highest that was live, since the publisher began.
    newest: Option<u64>,
    /// The last live one that was not above it, if none above it came since.
    repeated: Option<u64>,
    /// Live ones behind a hole.
    held: Held<T>,
    replay: Option<Replay>,
    has_replay: bool,
    /// Nothing was applied since the caller knew nothing.
    is_clear: bool,
    heard_ms: u64,
    /// When the last replay was over: live copies of what it sent may come for a while.
    replayed_ms: Option<u64>,
    stats: StreamStats,
}

/// A replay that is on its way.
#[derive(Clone, Copy, Debug)]
struct Replay {
    from: u64,
    /// How often in a row it was asked for in vain, this time included.
    attempts: u32,
    heard_ms: u64,
}

impl<T: AsRef<[u8]>> Stream<T> {
    /// A publisher of which nothing is known, and no blocks either.
    pub const fn new(now_ms: u64, has_replay: bool) -> Self {
        Self {
            next: 0,
            newest: None,
            repeated: None,
            held: Held::new(),
            replay: None,
            has_replay,
            is_clear: true,
            heard_ms: now_ms,
            replayed_ms: None,
            stats: StreamStats { applied: 0, ignored: 0, full: 0, replays: 0, losses: 0 },
        }
    }

    /// Asks for what the publisher said before anybody listened. To be called once the subscription stands, so that
    /// nothing falls between the two.
    pub fn begin(&mut self, now_ms: u64, steps: &mut Vec<Step<T>>) {
        if self.has_replay && self.replay.is_none() {
            self.ask(now_ms, 1, steps);
        }
    }

    /// Takes a batch that was published just now.
    pub fn live(&mut self, now_ms: u64, seq: u64, payload: T, steps: &mut Vec<Step<T>>) -> Taken {
        self.heard_ms = now_ms;
        self.settle(now_ms);
        let is_repeated = self.newest.is_some_and(|newest| seq <= newest);
        let is_first = seq == 0 || self.repeated.is_some_and(|repeated| repeated + 1 == seq);
        self.repeated = is_repeated.then_some(seq);
        if is_repeated && !is_first {
            return self.ignore();
        }
        if is_repeated {
            self.begin_anew(steps);
        }
        self.newest = Some(seq);
        let taken = if seq < self.next {
            self.ignore()
        } else if seq == self.next {
            self.apply(payload, steps);
            Taken::Applied
        } else if self.held.push(seq, payload) {
            Taken::Held
        } else {
            self.stats.full += 1;
            Taken::Full
        };
        if self.replay.is_none() {
            self.mend(now_ms, ClearReason::NoReplay, steps);
        }
        if seq < self.next && taken == Taken::Held { Taken::Applied } else { taken }
    }

    /// Takes a batch that a replay sent.
    pub fn replayed(&mut self, now_ms: u64, seq: u64, payload: T, steps: &mut Vec<Step<T>>) -> Taken {
        self.heard_ms = now_ms;
        let Some(replay) = &mut self.replay else { return self.ignore() };
        replay.heard_ms = now_ms;
        if seq < self.next {
            return self.ignore();
        }
        if seq > self.next {
            // A replay begins with the oldest batch that the publisher has, and leaves none out.
            self.lose(seq, ClearReason::Forgotten, steps);
        }
        self.apply(payload, steps);
        Taken::Applied
    }

    /// Takes the end of a replay.
    pub fn replay_ended(&mut self, now_ms: u64, steps: &mut Vec<Step<T>>) {
        self.heard_ms = now_ms;
        self.replay_over(now_ms, ClearReason::Forgotten, steps);
    }

    /// Takes it that a replay will not come, as when its socket fails.
    pub fn replay_failed(&mut self, now_ms: u64, steps: &mut Vec<Step<T>>) {
        self.replay_over(now_ms, ClearReason::ReplayLost, steps);
    }

    /// Looks at the time. To be called at [`deadline_ms`](Self::deadline_ms), and harmless whenever else.
    pub fn tick(&mut self, now_ms: u64, steps: &mut Vec<Step<T>>) {
        if self.deadline_ms().is_some_and(|deadline| now_ms >= deadline) {
            self.replay_failed(now_ms, steps);
        }
    }

    /// When a replay that stands still is given up.
    pub fn deadline_ms(&self) -> Option<u64> {
        self.replay.map(|replay| replay.heard_ms.saturating_add(EVENT_REPLAY_STALL_MS))
    }

    /// Takes it that the publisher is another one, as when the engine registers anew. The numbers show it only if the
    /// new one has not yet come as far as the old one had.
    pub fn restarted(&mut self, now_ms: u64, steps: &mut Vec<Step<T>>) {
        self.begin_anew(steps);
        self.begin(now_ms, steps);
    }

    /// Whether nothing was heard for longer than an engine is silent that has work. One without work is silent too:
    /// it is a reason to look, not to forget.
    pub const fn is_silent(&self, now_ms: u64) -> bool {
        now_ms.saturating_sub(self.heard_ms) >= EVENT_SILENCE_MS
    }

    /// Whether a replay is on its way. When it is not, its socket can be closed.
    pub const fn is_replaying(&self) -> bool {
        self.replay.is_some()
    }

    /// Whether batches are known that were not applied yet.
    pub fn is_behind(&self) -> bool {
        self.newest.is_some_and(|newest| newest >= self.next)
    }

    /// What it has come to.
    pub const fn stats(&self) -> StreamStats {
        self.stats
    }

    /// Once copies of what a replay sent can no longer come, its numbers count as live ones.
    fn settle(&mut self, now_ms: u64) {
        let is_over = |ended_ms: &u64| now_ms.saturating_sub(*ended_ms) >= EVENT_REPLAY_STALL_MS;
        if self.replay.is_none() && self.replayed_ms.take_if(|ended_ms| is_over(ended_ms)).is_some() {
            self.newest = self.newest.max(self.next.checked_sub(1));
        }
    }

    fn apply(&mut self, payload: T, steps: &mut Vec<Step<T>>) {
        let mut payload = Some(payload);
        while let Some(ready) = payload {
            steps.push(Step::Apply { seq: self.next, payload: ready });
            self.is_clear = false;
            self.stats.applied += 1;
            self.next += 1;
            payload = self.held.pop(self.next);
        }
    }

    fn ignore(&mut self) -> Taken {
        self.stats.ignored += 1;
        Taken::Ignored
    }

    /// Does what can be done about a hole, if there is one.
    fn mend(&mut self, now_ms: u64, otherwise: ClearReason, steps: &mut Vec<Step<T>>) {
        if self.is_behind() && self.has_replay {
            self.ask(now_ms, 1, steps);
        } else {
            self.give_up(otherwise, steps);
        }
    }

    /// A replay that brought nothing is asked for again: what it was wanted for may have been published after it.
    fn replay_over(&mut self, now_ms: u64, otherwise: ClearReason, steps: &mut Vec<Step<T>>) {
        let Some(replay) = self.replay.take() else { return };
        self.replayed_ms = Some(now_ms);
        if self.next > replay.from {
            self.mend(now_ms, otherwise, steps);
        } else if self.is_behind() && replay.attempts < EVENT_REPLAY_ATTEMPTS_MAX {
            self.ask(now_ms, replay.attempts + 1, steps);
        } else {
            self.give_up(otherwise, steps);
        }
    }

    fn ask(&mut self, now_ms: u64, attempts: u32, steps: &mut Vec<Step<T>>) {
        self.stats.replays += 1;
        self.replay = Some(Replay { from: self.next, attempts, heard_ms: now_ms });
        steps.push(Step::AskReplay { from: self.next });
    }

    /// Goes on behind every hole there is.
    fn give_up(&mut self, reason: ClearReason, steps: &mut Vec<Step<T>>) {
        while let Some(newest) = self.newest.filter(|newest| *newest >= self.next) {
            // What was not held is lost as well.
            let until = self.held.first().unwrap_or(newest + 1);
            self.lose(until, reason, steps);
            if let Some(payload) = self.held.pop(until) {
                self.apply(payload, steps);
            }
        }
    }

    /// Goes on with a later batch than the next one.
    fn lose(&mut self, until: u64, reason: ClearReason, steps: &mut Vec<Step<T>>) {
        self.stats.losses += 1;
        self.clear(reason, steps);
        self.next = until;
    }

    fn begin_anew(&mut self, steps: &mut Vec<Step<T>>) {
        self.stats.losses += 1;
        self.clear(ClearReason::Restarted, steps);
        self.next = 0;
        (self.newest, self.repeated, self.replay, self.replayed_ms) = (None, None, None, None);
        self.held.clear();
    }

    /// Nothing has to be forgotten twice.
    fn clear(&mut self, reason: ClearReason, steps: &mut Vec<Step<T>>) {
        if !self.is_clear {
            steps.push(Step::Clear { reason });
            self.is_clear = true;
        }
    }
}
