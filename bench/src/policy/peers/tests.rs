use super::*;
use crate::policy::cache::{BlockPolicy, DeepestFirst, bound_percent, hit_percent};
use crate::policy::trace::Trace;

/// Hits and misses of single blocks, by hand.
fn play(policy: &mut impl BlockPolicy, accesses: &[u32]) -> String {
    let mut outcome = String::new();
    for block in accesses {
        outcome.push(if policy.holds(*block) { 'h' } else { '.' });
        policy.access(*block);
    }
    outcome
}

#[test]
fn lru_forgets_what_was_used_longest_ago() {
    assert_eq!(play(&mut Lru::new(9, 2), &[1, 2, 1, 3, 2, 1, 2]), "..h...h");
}

#[test]
fn sieve_spares_what_was_visited_and_its_hand_goes_on() {
    // 1 is visited: 2 goes for 4. From there the hand goes on: 3 goes for 2, 4 for 3, 2 for 4.
    assert_eq!(play(&mut Sieve::new(9, 3), &[1, 2, 3, 1, 4, 1, 2, 3, 4, 1]), "...h.h...h");
}

#[test]
fn s3_fifo_lets_one_timers_through_and_takes_ghosts_into_main() {
    // Small queue of one: 1 leaves as a ghost and comes back into main, where the scan does not reach it.
    let outcome = play(&mut S3Fifo::new(30, 10), &[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 1, 12, 13, 14, 1]);
    assert_eq!(outcome, "...............h");
}

#[test]
fn tiny_lfu_does_not_admit_a_scan() {
    let mut accesses = vec![1, 2, 3, 1, 2, 3, 1, 2, 3];
    accesses.extend(10..25);
    accesses.extend([1, 2]);
    let outcome = play(&mut TinyLfu::new(30, 4), &accesses);
    assert!(outcome.ends_with("...............hh"), "{outcome}");
}

/// Chains 1-2, 1-3 and 1-4 in a cache of two blocks.
fn three_chains() -> Trace {
    Trace::of_chains(vec![0, 0, 1, 1, 1], &[2, 3, 4, 2, 3, 4])
}

#[test]
fn belady_keeps_what_is_used_soonest_and_takes_in_nothing_else() {
    let trace = three_chains();
    let future = Future::of(&trace);
    // The root always but once, block 2 once more: 5 + 1 of 12.
    assert_eq!(hit_percent(&trace, &mut Belady::new(&trace, &future, 2)), 50.0);
    assert_eq!(hit_percent(&trace, &mut DeepestFirst(Lru::new(5, 2))), 100.0 * 5.0 / 12.0);
}

#[test]
fn no_policy_beats_belady_and_belady_not_the_bound() {
    let parents: Vec<u32> = (0..200_u32).map(|block| if block < 4 { 0 } else { block / 2 }).collect();
    let tips: Vec<u32> = (0..600_u32).map(|turn| 1 + (turn * turn + turn / 7) % 199).collect();
    let trace = Trace::of_chains(parents, &tips);
    let future = Future::of(&trace);
    for capacity in [10, 40, 100] {
        let best = hit_percent(&trace, &mut Belady::new(&trace, &future, capacity));
        assert!(best <= bound_percent(&trace));
        let n = trace.parents.len();
        for found in [
            hit_percent(&trace, &mut DeepestFirst(Lru::new(n, capacity))),
            hit_percent(&trace, &mut DeepestFirst(Sieve::new(n, capacity))),
            hit_percent(&trace, &mut DeepestFirst(S3Fifo::new(n, capacity))),
            hit_percent(&trace, &mut DeepestFirst(TinyLfu::new(n, capacity))),
        ] {
            assert!(found <= best, "{found} > {best} at {capacity}");
        }
    }
}
