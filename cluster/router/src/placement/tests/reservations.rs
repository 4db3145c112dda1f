//! Reservations beside a list of what was said.

use std::collections::BTreeMap;

use hearth_proto::Urgency;
use hearth_proto::limits::{RESERVATION_MARKS_MAX, RESERVATION_MS_MAX, RESERVATIONS_MAX};
use proptest::prelude::*;

use super::super::*;
use super::models::Draws;

const WORKERS: u64 = 4;
const NOW_MS: u64 = 1_700_000_000_000;

fn reservation() -> impl Strategy<Value = Reservation> {
    let tokens = (1..100_000_u32, 0..100_000_u32, 0..10_000_u32);
    (0..12_u128, 0..WORKERS, 0..3_usize, tokens, 1..400_u64).prop_map(
        |(request, worker, urgency, (new_tokens, cached_tokens, blocks), ttl_ms)| Reservation {
            request: RequestId(request),
            worker: WorkerId(worker),
            urgency: Urgency::ALL[urgency],
            new_tokens,
            cached_tokens,
            blocks,
            expires_ms: NOW_MS + ttl_ms,
        },
    )
}

fn change() -> impl Strategy<Value = Change> {
    let request = || (0..12_u128).prop_map(RequestId);
    prop_oneof![
        3 => reservation().prop_map(Change::Reserve),
        1 => request().prop_map(Change::PrefillDone),
        2 => request().prop_map(Change::Complete),
    ]
}

fn sum<'a>(live: impl Iterator<Item = (&'a Reservation, bool)>, worker: WorkerId) -> WorkerLoad {
    let mut load = WorkerLoad::default();
    for (reservation, is_prefilled) in live.filter(|(reservation, _)| reservation.worker == worker) {
        if !is_prefilled {
            let work = PrefillWork::new(reservation.new_tokens, reservation.cached_tokens).unwrap();
            load.queue.add(reservation.urgency, work);
        }
        load.sequences += 1;
        load.blocks += u64::from(reservation.blocks);
    }
    load
}

/// What is known of each request: its reservation, whether its prompt was computed, whether it is over.
#[derive(Default)]
struct Oracle(BTreeMap<RequestId, (Option<Reservation>, bool, bool)>);

impl Oracle {
    fn apply(&mut self, change: Change, now_ms: u64) {
        let is_over = |reservation: &Reservation| reservation.expires_ms <= now_ms;
        // What has expired is as if it had never been.
        self.0.retain(|_, (reservation, ..)| !reservation.as_ref().is_some_and(is_over));
        match change {
            Change::Reserve(reservation) if is_over(&reservation) => {}
            Change::Reserve(reservation) => {
                let known = self.0.entry(reservation.request).or_default();
                if !known.2 {
                    known.0.get_or_insert(reservation);
                }
            }
            Change::PrefillDone(request) => self.0.entry(request).or_default().1 = true,
            Change::Complete(request) => self.0.entry(request).or_default().2 = true,
        }
    }

    fn live(&self) -> impl Iterator<Item = (&Reservation, bool)> {
        let live = self.0.values().filter(|(.., is_over)| !is_over);
        live.filter_map(|(reservation, is_prefilled, _)| Some((reservation.as_ref()?, *is_prefilled)))
    }
}

proptest! {
    #[test]
    fn loads_are_the_sums_of_what_is_live(
        changes in prop::collection::vec((change(), 0..20_u64), 0..120),
    ) {
        let (mut reservations, mut oracle) = (Reservations::default(), Oracle::default());
        let mut now_ms = NOW_MS;
        for (change, later_ms) in changes {
            now_ms += later_ms;
            let was = reservations.clone();
            let applied = reservations.apply(change, now_ms);
            oracle.apply(change, now_ms);
            for worker in (0..WORKERS).map(WorkerId) {
                prop_assert_eq!(reservations.load(worker), sum(oracle.live(), worker));
            }
            prop_assert_eq!(reservations.len(), oracle.live().count());
            prop_assert_eq!(reservations.iter().count(), reservations.len());
            prop_assert!(reservations.iter().all(|one| oracle.live().any(|(known, _)| known == one)));
            if applied != Ok(Applied::Changed) {
                // Nothing but what expired is gone.
                prop_assert!(was.iter().filter(|one| one.expires_ms > now_ms).eq(reservations.iter()));
            }
            // What is said again changes nothing.
            let known = format!("{reservations:?}");
            prop_assert!(reservations.apply(change, now_ms) != Ok(Applied::Changed));
            prop_assert_eq!(known, format!("{reservations:?}"));
        }
        reservations.expire(NOW_MS + 400 + 120 * 20 + RESERVATION_MS_MAX);
        prop_assert_eq!(format!("{reservations:?}"), format!("{:?}", Reservations::default()));
    }

    #[test]
    fn routers_agree_in_whatever_order_they_hear(
        mut reserved in prop::collection::vec(reservation(), 1..12),
        ended in prop::collection::vec((any::<bool>(), any::<bool>()), 12),
        order in any::<u64>(),
    ) {
        let mut changes = Vec::new();
        for (at, (reservation, (is_prefilled, is_over))) in reserved.iter_mut().zip(ended).enumerate() {
            reservation.request = RequestId(at as u128);
            changes.push(Change::Reserve(*reservation));
            changes.extend(is_prefilled.then_some(Change::PrefillDone(reservation.request)));
            changes.extend(is_over.then_some(Change::Complete(reservation.request)));
        }
        let mut one = Reservations::default();
        for change in &changes {
            one.apply(*change, NOW_MS).unwrap();
        }
        // Each twice, in another order.
        let mut shuffled = [changes.clone(), changes].concat();
        let mut draws = Draws(order);
        for at in (1..shuffled.len()).rev() {
            shuffled.swap(at, (draws.next() * (at + 1) as f64) as usize);
        }
        let mut other = Reservations::default();
        for change in shuffled {
            other.apply(change, NOW_MS).unwrap();
        }
        prop_assert!(one.iter().eq(other.iter()));
        for worker in (0..WORKERS).map(WorkerId) {
            prop_assert_eq!(one.load(worker), other.load(worker));
        }
    }
}

fn one(request: u128) -> Reservation {
    Reservation {
        request: RequestId(request),
        worker: WorkerId(1),
        urgency: Urgency::Normal,
        new_tokens: 1_000,
        cached_tokens: 500,
        blocks: 100,
        expires_ms: NOW_MS + 60_000,
    }
}

#[test]
fn a_reservation_that_comes_after_its_end_does_not_come_back() {
    let mut reservations = Reservations::default();
    assert_eq!(reservations.complete(RequestId(1), NOW_MS), Applied::Changed);
    assert_eq!(reservations.reserve(one(1), NOW_MS + 1), Ok(Applied::Late));
    assert!(reservations.is_empty());
    // Nor when it was live before, for as long as it could.
    reservations.reserve(one(2), NOW_MS).unwrap();
    reservations.complete(RequestId(2), NOW_MS);
    assert_eq!(reservations.reserve(one(2), NOW_MS + 59_999), Ok(Applied::Late));
    let late = reservations.reserve(one(2), NOW_MS + 60_000);
    assert!(matches!(late, Err(ReserveError::Expired { .. })), "{late:?}");
    assert_eq!(reservations.next_expiry_ms(), Some(NOW_MS + RESERVATION_MS_MAX));
}

#[test]
fn a_reservation_ends_by_itself() {
    let mut reservations = Reservations::default();
    reservations.reserve(one(1), NOW_MS).unwrap();
    assert_eq!(reservations.next_expiry_ms(), Some(NOW_MS + 60_000));
    assert_eq!(reservations.expire(NOW_MS + 59_999), 0);
    assert_eq!(reservations.load(WorkerId(1)).sequences, 1);
    assert_eq!(reservations.expire(NOW_MS + 60_000), 1);
    assert_eq!(reservations.load(WorkerId(1)), WorkerLoad::default());
    assert_eq!(reservations.next_expiry_ms(), None);
}

#[test]
fn a_reservation_that_cannot_be_is_refused() {
    let mut reservations = Reservations::default();
    reservations.reserve(one(1), NOW_MS).unwrap();
    let elsewhere = Reservation { worker: WorkerId(2), ..one(1) };
    assert_eq!(reservations.reserve(elsewhere, NOW_MS), Err(ReserveError::Taken { worker: WorkerId(1) }));
    for bad in [
        Reservation { new_tokens: 0, ..one(2) },
        Reservation { cached_tokens: u32::MAX, ..one(2) },
        Reservation { blocks: u32::MAX, ..one(2) },
        Reservation { expires_ms: u64::MAX, ..one(2) },
    ] {
        assert!(matches!(reservations.reserve(bad, NOW_MS), Err(ReserveError::Range(_))), "{bad:?}");
    }
    assert_eq!(reservations.len(), 1);
}

#[test]
fn there_are_no_more_than_the_bounds_allow() {
    let mut reservations = Reservations::default();
    for request in 0..RESERVATIONS_MAX as u128 {
        reservations.reserve(one(request), NOW_MS).unwrap();
    }
    let last = one(RESERVATIONS_MAX as u128);
    assert_eq!(reservations.reserve(last, NOW_MS), Err(ReserveError::Full));
    reservations.complete(RequestId(0), NOW_MS);
    assert_eq!(reservations.reserve(last, NOW_MS), Ok(Applied::Changed));
    assert_eq!(reservations.load(WorkerId(1)).sequences, RESERVATIONS_MAX as u64);

    // The marks of requests that nobody reserved stay longer, and the one that would go first makes place.
    for request in 0..RESERVATION_MARKS_MAX as u128 {
        reservations.complete(RequestId(request + (1 << 64)), NOW_MS + 1);
    }
    assert_eq!(reservations.next_expiry_ms(), Some(NOW_MS + 60_000));
    reservations.expire(NOW_MS + 60_000);
    assert!(reservations.is_empty());
    assert_eq!(reservations.next_expiry_ms(), Some(NOW_MS + 1 + RESERVATION_MS_MAX));
}

#[test]
fn a_placement_is_reserved_as_it_was_planned() {
    let worker = Worker {
        id: WorkerId(9),
        prefill: PrefillCurve::PRIOR,
        decode: DecodeSpeed::default(),
        load: WorkerLoad::default(),
        blocks_max: 10_000,
        is_draining: false,
    };
    let request = Request::new(Prompt::new(1_000, 16, 1 << 20).unwrap());
    let candidates = [Candidate { worker: &worker, held: Held::resident(10) }];
    let placement = place(&request, &candidates, &Settings::default()).unwrap();
    let reservation = Reservation::of(&request, &placement, RequestId(5), NOW_MS + 1_000);
    let mut reservations = Reservations::default();
    reservations.reserve(reservation, NOW_MS).unwrap();
    let load = reservations.load(WorkerId(9));
    assert_eq!(load.queue.of(Urgency::Normal), PrefillWork::new(840, 160).unwrap());
    // The request and 256 tokens to come.
    assert_eq!((load.sequences, load.blocks), (1, 79));
    // It is what the next one waits for.
    let busy = Worker { load, ..worker };
    let next = Candidate { worker: &busy, held: Held::resident(10) };
    let terms = place(&request, &[next], &Settings::default()).unwrap().terms;
    assert!((terms.queue_s - placement.terms.compute_s).abs() < 1e-12);
}
