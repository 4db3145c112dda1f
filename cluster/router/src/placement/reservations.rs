//! What workers are expected to do because requests were placed on them: bounded, and gone when it has expired.
//!
//! Routers tell each other what they placed, as well as they can. So that it does not matter in which order they hear,
//! a request that is over is remembered for as long as a reservation of it could still come and count, and one of which
//! is known only that its prompt was computed likewise. When there are too many to remember, those go that would be
//! forgotten first: then a reservation that comes late counts until it expires.

use std::collections::{BTreeMap, BTreeSet};

use hearth_proto::limits::{RESERVATION_MARKS_MAX, RESERVATION_MS_MAX, RESERVATIONS_MAX};

use super::reservation::{Applied, Change, RequestId, Reservation, ReserveError};
use super::work::PrefillWork;
use super::worker::{WorkerId, WorkerLoad};

/// See the module.
///
/// Times are milliseconds since 1970, and are passed in.
///
/// *Invariants*: what [`load`](Self::load) says of a worker is the sum of the reservations that are live, to the last
/// token.
#[derive(Clone, Debug, Default)]
pub struct Reservations {
    states: BTreeMap<RequestId, State>,
    loads: BTreeMap<WorkerId, WorkerLoad>,
    /// When which live reservation ends.
    live: BTreeSet<(u64, RequestId)>,
    /// When which other request is forgotten.
    marks: BTreeSet<(u64, RequestId)>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Live {
        reservation: Reservation,
        /// What is still to be computed.
        work: PrefillWork,
    },
    /// Its prompt was computed, and nothing else is known of it.
    Prefilled { forget_ms: u64 },
    /// It is over.
    Over,
}

impl Reservations {
    /// Takes a change in, whoever made it. The caller passes its own on to the other routers.
    ///
    /// # Errors
    /// [`ReserveError`] of a reservation that does not count; nothing is changed.
    pub fn apply(&mut self, change: Change, now_ms: u64) -> Result<Applied, ReserveError> {
        match change {
            Change::Reserve(reservation) => self.reserve(reservation, now_ms),
            Change::PrefillDone(request) => Ok(self.prefill_done(request, now_ms)),
            Change::Complete(request) => Ok(self.complete(request, now_ms)),
        }
    }

    /// Reserves a worker.
    ///
    /// # Errors
    /// [`ReserveError`]; its kind says whether it may be tried again. The request can be served nonetheless.
    pub fn reserve(&mut self, reservation: Reservation, now_ms: u64) -> Result<Applied, ReserveError> {
        self.expire(now_ms);
        let Reservation { request, worker, .. } = reservation;
        let mut work = reservation.check(now_ms)?;
        match self.states.get(&request) {
            Some(State::Live { reservation: known, .. }) if *known == reservation => {
                return Ok(Applied::Known);
            }
            Some(State::Live { reservation: known, .. }) => {
                return Err(ReserveError::Taken { worker: known.worker });
            }
            Some(State::Over) => return Ok(Applied::Late),
            _ if self.live.len() >= RESERVATIONS_MAX => return Err(ReserveError::Full),
            Some(State::Prefilled { forget_ms }) => {
                self.marks.remove(&(*forget_ms, request));
                work = PrefillWork::NONE;
            }
            None => {}
        }
        let load = self.loads.entry(worker).or_default();
        load.queue.add(reservation.urgency, work);
        load.sequences += 1;
        load.blocks += u64::from(reservation.blocks);
        self.live.insert((reservation.expires_ms, request));
        self.states.insert(request, State::Live { reservation, work });
        Ok(Applied::Changed)
    }

    /// The prompt of a request was computed: nobody waits for it any more.
    pub fn prefill_done(&mut self, request: RequestId, now_ms: u64) -> Applied {
        self.expire(now_ms);
        match self.states.get_mut(&request) {
            Some(State::Live { work: PrefillWork::NONE, .. } | State::Prefilled { .. }) => Applied::Known,
            Some(State::Over) => Applied::Late,
            Some(State::Live { reservation, work }) => {
                let done = std::mem::take(work);
                if let Some(load) = self.loads.get_mut(&reservation.worker) {
                    load.queue.remove(reservation.urgency, done);
                }
                Applied::Changed
            }
            None => {
                let forget_ms = now_ms.saturating_add(RESERVATION_MS_MAX);
                self.mark(request, forget_ms, State::Prefilled { forget_ms });
                Applied::Changed
            }
        }
    }

    /// A request is over, however it ended: its worker is free of it.
    pub fn complete(&mut self, request: RequestId, now_ms: u64) -> Applied {
        self.expire(now_ms);
        let forget_ms = match self.states.get(&request) {
            Some(State::Over) => return Applied::Known,
            Some(State::Live { reservation, work }) => {
                let (reservation, work) = (*reservation, *work);
                self.release(&reservation, work);
                // After that a reservation that comes late has expired.
                reservation.expires_ms
            }
            Some(State::Prefilled { forget_ms }) => {
                self.marks.remove(&(*forget_ms, request));
                now_ms.saturating_add(RESERVATION_MS_MAX)
            }
            None => now_ms.saturating_add(RESERVATION_MS_MAX),
        };
        self.mark(request, forget_ms, State::Over);
        Applied::Changed
    }

    /// Lets go of all that has expired, and says of how many reservations. Every change does so by itself.
    pub fn expire(&mut self, now_ms: u64) -> usize {
        let mut count = 0;
        while let Some(&(expires_ms, request)) = self.live.first()
            && expires_ms <= now_ms
        {
            if let Some(State::Live { reservation, work }) = self.states.remove(&request) {
                self.release(&reservation, work);
            }
            count += 1;
        }
        while self.marks.first().is_some_and(|(forget_ms, _)| *forget_ms <= now_ms) {
            self.forget_first();
        }
        count
    }

    /// When [`expire`](Self::expire) has something to do next, in milliseconds since 1970.
    pub fn next_expiry_ms(&self) -> Option<u64> {
        let firsts = [self.live.first(), self.marks.first()];
        firsts.into_iter().flatten().map(|(at_ms, _)| *at_ms).min()
    }

    /// What a worker is expected to do.
    pub fn load(&self, worker: WorkerId) -> WorkerLoad {
        self.loads.get(&worker).copied().unwrap_or_default()
    }

    /// The live reservation of a request.
    pub fn get(&self, request: RequestId) -> Option<&Reservation> {
        match self.states.get(&request)? {
            State::Live { reservation, .. } => Some(reservation),
            State::Prefilled { .. } | State::Over => None,
        }
    }

    /// The live reservations, in the order in which they end.
    pub fn iter(&self) -> impl Iterator<Item = &Reservation> {
        self.live.iter().filter_map(|(_, request)| self.get(*request))
    }

    /// Live reservations.
    pub fn len(&self) -> usize {
        self.live.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.live.is_empty()
    }

    /// Takes a live reservation out of the sums. The caller replaces its state.
    fn release(&mut self, reservation: &Reservation, work: PrefillWork) {
        self.live.remove(&(reservation.expires_ms, reservation.request));
        let Some(load) = self.loads.get_mut(&reservation.worker) else { return };
        load.queue.remove(reservation.urgency, work);
        load.sequences -= 1;
        load.blocks -= u64::from(reservation.blocks);
        if load.sequences == 0 {
            debug_assert_eq!(*load, WorkerLoad::default());
            self.loads.remove(&reservation.worker);
        }
    }

    /// Remembers a request that has no live reservation.
    fn mark(&mut self, request: RequestId, forget_ms: u64, state: State) {
        if self.marks.len() >= RESERVATION_MARKS_MAX {
            self.forget_first();
        }
        self.marks.insert((forget_ms, request));
        self.states.insert(request, state);
    }

    fn forget_first(&mut self) {
        if let Some((_, request)) = self.marks.pop_first() {
            self.states.remove(&request);
        }
    }
}
