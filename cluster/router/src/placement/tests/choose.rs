//! The choice of a worker, by its properties.

use hearth_proto::{Classified, ErrorKind, Urgency};
use proptest::prelude::*;

use super::super::*;
use super::plan::{curve, held, prompt};

fn queue() -> impl Strategy<Value = Queue> {
    let work = || (1..20_000_u32, 0..20_000_u32, 0..4_usize);
    prop::array::uniform3(work()).prop_map(|works| {
        let mut queue = Queue::default();
        for (urgency, (new, cached, times)) in Urgency::ALL.into_iter().zip(works) {
            for _ in 0..times {
                queue.add(urgency, PrefillWork::new(new, cached).unwrap());
            }
        }
        queue
    })
}

fn worker() -> impl Strategy<Value = Worker> {
    let decode = (0.0..0.1_f64, 0.0..1e-3_f64, 0.0..1e-5_f64)
        .prop_map(|(fixed, sequence, block)| DecodeSpeed::new(fixed, sequence, block).unwrap());
    let load = (queue(), 0..200_u64, 0..8_000_u64).prop_map(|(queue, sequences, blocks)| WorkerLoad {
        queue,
        sequences,
        blocks,
    });
    (curve(), decode, load, 1_000..60_000_u64, prop::bool::weighted(0.1)).prop_map(
        |(prefill, decode, load, blocks_max, is_draining)| Worker {
            id: WorkerId(0),
            prefill,
            decode,
            load,
            blocks_max,
            is_draining,
        },
    )
}

/// Some are equal in all but their numbers.
fn fleet() -> impl Strategy<Value = Vec<(Worker, Held)>> {
    prop::collection::vec((worker(), held(), 1..4_usize), 1..12).prop_map(|kinds| {
        let all = kinds.into_iter().flat_map(|(worker, held, times)| vec![(worker, held); times]);
        let numbered = all
            .enumerate()
            .map(|(at, (worker, held))| (Worker { id: WorkerId(at as u64 * 7 + 1), ..worker }, held));
        numbered.collect()
    })
}

fn request() -> impl Strategy<Value = Request> {
    let urgency = prop::sample::select(Urgency::ALL.to_vec());
    let rest = (prop::option::of(0..50_000_u32), prop::option::of(0..80_u64), any::<u64>(), any::<u64>());
    (prompt(), urgency, rest).prop_map(|(prompt, urgency, (output_tokens, preferred, spread, seed))| {
        Request { prompt, urgency, output_tokens, preferred: preferred.map(WorkerId), spread, seed }
    })
}

fn settings() -> impl Strategy<Value = Settings> {
    let temperature = prop_oneof![Just(Seconds::ZERO), (0.0..5.0_f64).prop_map(|s| Seconds::new(s).unwrap())];
    (temperature, 0.0..10.0_f64, 0.0..100.0_f64).prop_map(|(temperature, affinity, queue_max)| Settings {
        affinity: Seconds::new(affinity).unwrap(),
        temperature,
        queue_max: Seconds::new(queue_max).unwrap(),
        ..Settings::default()
    })
}

fn candidates(fleet: &[(Worker, Held)]) -> Vec<Candidate<'_>> {
    fleet.iter().map(|(worker, held)| Candidate { worker, held: held.clone() }).collect()
}

proptest! {
    #[test]
    fn the_answer_does_not_depend_on_the_order(
        request in request(), fleet in fleet(), settings in settings(), rotate in 0..36_usize,
    ) {
        let mut turned = fleet.clone();
        turned.rotate_left(rotate % fleet.len());
        turned.reverse();
        let one = place(&request, &candidates(&fleet), &settings);
        let other = place(&request, &candidates(&turned), &settings);
        prop_assert_eq!(one.clone().map(|one| (one.worker, one.terms)), other.map(|one| (one.worker, one.terms)));
        prop_assert_eq!(one, place(&request, &candidates(&fleet), &settings));
    }

    #[test]
    fn an_explanation_says_everything_and_decides_the_same(
        request in request(), fleet in fleet(), settings in settings(),
    ) {
        let candidates = candidates(&fleet);
        let explained = explain(&request, &candidates, &settings);
        prop_assert_eq!(&explained.placement, &place(&request, &candidates, &settings));
        let mut named: Vec<usize> = explained.candidates.iter().map(|one| one.candidate).collect();
        named.sort_unstable();
        prop_assert!(named.into_iter().eq(0..fleet.len()));
        let mut best = f64::NEG_INFINITY;
        for one in &explained.candidates {
            prop_assert_eq!(one.worker, fleet[one.candidate].0.id);
            let Ok(considered) = &one.verdict else { continue };
            prop_assert!(considered.score_s >= best);
            best = considered.score_s;
            let Terms { load_s, compute_s, queue_s, decode_s, affinity_s, total_s } = considered.terms;
            for term in [load_s, compute_s, queue_s, decode_s, affinity_s] {
                prop_assert!(term.is_finite() && term >= 0.0);
            }
            let sum = load_s + compute_s + queue_s + decode_s - affinity_s;
            prop_assert!((total_s - sum).abs() <= 1e-9 * (1.0 + sum.abs()));
            prop_assert!(affinity_s == 0.0 || request.preferred == Some(one.worker));
            prop_assert!(affinity_s <= settings.affinity.value());
            prop_assert_eq!((considered.plan.load_s, considered.plan.compute_s), (load_s, compute_s));
        }
        match (&explained.placement, &explained.candidates[0].verdict) {
            (Ok(placement), Ok(first)) => {
                prop_assert_eq!(placement.worker, explained.candidates[0].worker);
                prop_assert_eq!((&placement.terms, &placement.plan), (&first.terms, &first.plan));
            }
            (Err(PlaceError::AllExcluded { draining, too_large, memory, queue }), Err(_)) => {
                prop_assert_eq!(draining + too_large + memory + queue, fleet.len());
            }
            other => prop_assert!(false, "{:?}", other),
        }
    }

    #[test]
    fn less_urgent_work_changes_nothing_but_ties(
        request in request(), fleet in fleet(), settings in settings(), new in 1..2_000_000_u32,
    ) {
        let terms = |fleet: &[(Worker, Held)]| {
            let mut all = explain(&request, &candidates(fleet), &settings).candidates;
            all.sort_by_key(|one| one.candidate);
            all.into_iter().map(|one| one.verdict.map(|one| one.terms)).collect::<Vec<_>>()
        };
        let mut busier = fleet.clone();
        for urgency in Urgency::ALL.into_iter().filter(|urgency| *urgency < request.urgency) {
            busier[0].0.load.queue.add(urgency, PrefillWork::new(new, 0).unwrap());
        }
        prop_assert_eq!(terms(&fleet), terms(&busier));
    }
}

fn idle(id: u64) -> Worker {
    Worker {
        id: WorkerId(id),
        prefill: PrefillCurve::PRIOR,
        decode: DecodeSpeed::new(0.01, 1e-4, 1e-7).unwrap(),
        load: WorkerLoad::default(),
        blocks_max: 10_000,
        is_draining: false,
    }
}

fn with_queue(id: u64, urgency: Urgency, new_tokens: u32) -> Worker {
    let mut worker = idle(id);
    worker.load.queue.add(urgency, PrefillWork::new(new_tokens, 0).unwrap());
    worker
}

fn simple() -> Request {
    Request::new(Prompt::new(8_000, 16, 2 << 20).unwrap())
}

fn chosen(request: &Request, fleet: &[(Worker, Held)], settings: &Settings) -> WorkerId {
    place(request, &candidates(fleet), settings).unwrap().worker
}

#[test]
fn a_prefix_counts_until_the_line_is_longer() {
    let fleet = |new_tokens| {
        [(with_queue(1, Urgency::Normal, new_tokens), Held::resident(400)), (idle(2), Held::resident(0))]
    };
    assert_eq!(chosen(&simple(), &fleet(1_000), &Settings::default()), WorkerId(1));
    assert_eq!(chosen(&simple(), &fleet(10_000), &Settings::default()), WorkerId(2));
    // Who is more urgent than the line goes past it.
    let urgent = Request { urgency: Urgency::Urgent, ..simple() };
    assert_eq!(chosen(&urgent, &fleet(10_000), &Settings::default()), WorkerId(1));
}

#[test]
fn decode_load_counts_for_each_token_of_the_output() {
    let mut busy = idle(1);
    busy.load = WorkerLoad { sequences: 64, blocks: 5_000, ..WorkerLoad::default() };
    let fleet = [(busy, Held::resident(400)), (idle(2), Held::resident(0))];
    let short = Request { output_tokens: Some(4), ..simple() };
    let long = Request { output_tokens: Some(2_000), ..simple() };
    assert_eq!(chosen(&short, &fleet, &Settings::default()), WorkerId(1));
    assert_eq!(chosen(&long, &fleet, &Settings::default()), WorkerId(2));
    let terms = place(&long, &candidates(&fleet[..1]), &Settings::default()).unwrap().terms;
    // 65 sequences, and 5,000 blocks beside its own 625.
    assert!((terms.decode_s - 2_000.0 * (0.01 + 65.0 * 1e-4 + 5_625.0 * 1e-7)).abs() < 1e-9);
}

#[test]
fn a_session_stays_for_as_much_as_it_is_worth_and_no_more() {
    let stay = Request { preferred: Some(WorkerId(1)), ..simple() };
    // A thousand tokens of waiting are 45 ms and a little.
    let fleet = [(with_queue(1, Urgency::Normal, 1_000), Held::resident(0)), (idle(2), Held::resident(0))];
    assert_eq!(chosen(&stay, &fleet, &Settings::default()), WorkerId(1));
    assert_eq!(chosen(&simple(), &fleet, &Settings::default()), WorkerId(2));
    let little = Settings { affinity: Seconds::from_ms(40), ..Settings::default() };
    assert_eq!(chosen(&stay, &fleet, &little), WorkerId(2));
}

#[test]
fn equal_workers_share_what_comes_and_a_session_keeps_its_own() {
    let fleet: Vec<_> = (0..8).map(|id| (idle(id), Held::resident(0))).collect();
    let mut counts = [0_u32; 8];
    for spread in 0..4_000 {
        let request = Request { spread, ..simple() };
        let worker = chosen(&request, &fleet, &Settings::default());
        counts[worker.0 as usize] += 1;
        // Without a worker that it does not go to, it goes where it went.
        let others: Vec<_> =
            fleet.iter().filter(|(other, _)| other.id.0 != (worker.0 + 1) % 8).cloned().collect();
        assert_eq!(chosen(&request, &others, &Settings::default()), worker);
    }
    assert!(counts.iter().all(|count| (400..600).contains(count)), "{counts:?}");
}

#[test]
fn of_equal_costs_the_least_loaded_is_taken() {
    // Work in the background delays nobody, but counts as load.
    for spread in 0..64 {
        let fleet = [
            (with_queue(1, Urgency::Background, 50_000), Held::resident(0)),
            (with_queue(2, Urgency::Background, 10), Held::resident(0)),
        ];
        assert_eq!(chosen(&Request { spread, ..simple() }, &fleet, &Settings::default()), WorkerId(2));
    }
}

#[test]
fn chance_takes_each_as_often_as_its_cost_says() {
    // The second waits 25 ms and a little: three tenths of the temperature.
    let fleet = [(idle(1), Held::resident(0)), (with_queue(2, Urgency::Normal, 500), Held::resident(0))];
    let settings = Settings { temperature: Seconds::from_ms(84), ..Settings::default() };
    let waits = fleet[1].0.prefill.seconds(fleet[1].0.load.queue.whole());
    let expected = 1.0 / (1.0 + (-waits / 0.084).exp());
    let draws = 20_000_u64;
    let first = (0..draws)
        .filter(|seed| chosen(&Request { seed: *seed, ..simple() }, &fleet, &settings) == WorkerId(1));
    let share = first.count() as f64 / draws as f64;
    assert!((share - expected).abs() < 0.015, "{share} instead of {expected}");
}

#[test]
fn who_cannot_take_it_is_excluded_with_the_reason() {
    let (mut draining, mut small, mut full) = (idle(1), idle(2), idle(3));
    draining.is_draining = true;
    small.blocks_max = 100;
    full.load.blocks = 9_900;
    let behind = with_queue(4, Urgency::Urgent, 2_000_000);
    let fleet: Vec<_> =
        [draining, small, full, behind].into_iter().map(|worker| (worker, Held::resident(0))).collect();
    let explained = explain(&simple(), &candidates(&fleet), &Settings::default());
    let error = explained.placement.unwrap_err();
    assert_eq!(error, PlaceError::AllExcluded { draining: 1, too_large: 1, memory: 1, queue: 1 });
    assert_eq!(error.kind(), ErrorKind::Retry);
    let reasons: Vec<_> = explained.candidates.into_iter().map(|one| one.verdict.unwrap_err()).collect();
    // 8,000 tokens and 256 to come are 516 blocks.
    assert_eq!(reasons[0], Excluded::Draining);
    assert_eq!(reasons[1], Excluded::TooLarge { blocks: 516, blocks_max: 100 });
    assert_eq!(reasons[2], Excluded::Memory { blocks: 516, blocks_free: 100 });
    assert!(matches!(reasons[3], Excluded::Queue { queue_s, queue_max_s: 60.0 } if queue_s > 60.0));

    let never = place(&simple(), &candidates(&fleet[1..2]), &Settings::default()).unwrap_err();
    assert_eq!(never.kind(), ErrorKind::FixRequest);
    assert_eq!(place(&simple(), &[], &Settings::default()), Err(PlaceError::NoCandidates));
    let many = vec![candidates(&fleet)[0].clone(); 4_097];
    assert_eq!(place(&simple(), &many, &Settings::default()), Err(PlaceError::TooManyCandidates(4_097)));
}
