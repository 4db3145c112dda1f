//! What the policy costs: a use noted, a victim chosen.

use std::hint::black_box;
use std::time::Instant;

use hearth_replay::{Figure, Goal};
use hearth_store::policy::reuse::{Ranker, Reuse, Spot, Tick};

/// Lines that are compared at the most: the classes of reuse.
const LINES: usize = 80;
const BLOCKS: u64 = 100_000;
const TURNS: u32 = 7;
/// Goals, in nanoseconds.
const USED_NS: f64 = 50.0;
const VICTIM_NS: f64 = 3_000.0;

/// The best of some turns each, over states that do not all fit the processor's caches.
pub(super) fn figures() -> Vec<Figure> {
    let ranker = Ranker::new(BLOCKS as usize);
    let mut states: Vec<Reuse> =
        (0..BLOCKS).map(|key| ranker.inserted(key, Spot::default(), Tick::default())).collect();
    let (mut used_ns, mut least_ns, mut lesson_ns) = (f64::INFINITY, f64::INFINITY, f64::INFINITY);
    for turn in 1..=TURNS {
        let now = Tick::from_us(u64::from(turn) * 10_000_000);
        let started = Instant::now();
        for (key, state) in (0..).zip(&mut states) {
            *state = ranker.used(key, Spot::default(), *state, now);
        }
        used_ns = used_ns.min(started.elapsed().as_nanos() as f64 / BLOCKS as f64);
        let started = Instant::now();
        ranker.learn(now);
        lesson_ns = lesson_ns.min(started.elapsed().as_nanos() as f64);
        let later = Tick::from_us(u64::from(turn) * 10_000_000 + 5_000_000);
        let rounds = BLOCKS as usize / LINES;
        let started = Instant::now();
        for round in 0..rounds {
            let fronts = (0..LINES).map(|line| {
                // Odd, so that it walks over all of them.
                let at = (round * LINES + line) * 7_919 % BLOCKS as usize;
                (ranker.worth(states[at], later).to_bits(), at)
            });
            black_box(fronts.min());
        }
        least_ns = least_ns.min(started.elapsed().as_nanos() as f64 / rounds as f64);
    }
    vec![
        Figure::new("cost of noting a use", "ns", used_ns).with_goal(Goal::AtMost(USED_NS)),
        Figure::new(format!("cost of comparing {LINES} lines for a victim or a run of them"), "ns", least_ns)
            .with_goal(Goal::AtMost(VICTIM_NS)),
        Figure::new("cost of a lesson", "us", lesson_ns / 1_000.0),
    ]
}
