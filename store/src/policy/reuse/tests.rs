use proptest::prelude::*;

use super::*;

const SECOND: u32 = 61;

/// Blocks of two kinds: those below `paced` are used every `every` ticks, the others once.
fn taught(paced: u64, once: u64, every: u32) -> (Ranker, Vec<Reuse>, Tick) {
    let ranker = Ranker::new(1_000);
    let mut blocks: Vec<Reuse> =
        (0..paced).map(|key| ranker.inserted(key, Spot::default(), Tick(0))).collect();
    let mut now = 0;
    for round in 0..20 {
        now += every;
        for (key, block) in (0..).zip(&mut blocks) {
            *block = ranker.used(key, Spot::default(), *block, Tick(now));
        }
        for key in 0..once / 20 {
            ranker.inserted(1 << 32 | round << 20 | key, Spot::default(), Tick(now));
        }
        ranker.learn(Tick(now));
    }
    (ranker, blocks, Tick(now))
}

/// What was learned of a block, whether or not it is followed.
fn learned(ranker: &Ranker, block: Reuse, now: Tick) -> f32 {
    ranker.learned(block.class(), now.since(block.used_at()))
}

#[test]
fn untaught_it_is_lru() {
    let ranker = Ranker::new(100);
    let at = |tick| ranker.inserted(0, Spot::default(), Tick(tick));
    let now = Tick(100_000);
    let worth = [99_000, 90_000, 50_000, 10_000, 0].map(|tick| ranker.worth(at(tick), now));
    assert!(worth.windows(2).all(|pair| pair[0] > pair[1]), "{worth:?}");
}

#[test]
fn what_comes_back_is_kept_before_what_never_did() {
    let (ranker, blocks, now) = taught(200, 4_000, 30 * SECOND);
    let fresh = ranker.inserted(7 << 40, Spot::default(), now);
    assert!(learned(&ranker, blocks[0], now) > 3.0 * learned(&ranker, fresh, now));
}

#[test]
fn a_block_that_missed_its_time_is_worth_little() {
    let (ranker, blocks, now) = taught(200, 0, 30 * SECOND);
    let late = Tick(now.0 + 3_000 * SECOND);
    assert!(learned(&ranker, blocks[1], late) < learned(&ranker, blocks[1], now) / 10.0);
}

#[test]
fn a_lesson_falls_due_by_insertions() {
    let ranker = Ranker::new(10);
    for key in 0..LESSON_MIN as u64 {
        assert!(!ranker.lesson_due());
        ranker.inserted(key, Spot::default(), Tick(0));
    }
    assert!(ranker.lesson_due());
    ranker.learn(Tick(1));
    assert!(!ranker.lesson_due());
}

proptest! {
    /// Whatever was learned, a worth is a number and not negative, so that ranks can be compared.
    #[test]
    fn a_worth_is_always_finite_and_not_negative(
        steps in prop::collection::vec((0..400_u64, 0..5_000_u32), 1..400),
        ages in prop::collection::vec(any::<u32>(), 1..20),
    ) {
        let ranker = Ranker::new(64);
        let mut blocks = std::collections::HashMap::new();
        let mut now = 0;
        for (key, later) in steps {
            now += later;
            let block = match blocks.get(&key) {
                Some(block) => ranker.used(key, Spot::default(), *block, Tick(now)),
                None => ranker.inserted(key, Spot::default(), Tick(now)),
            };
            blocks.insert(key, block);
        }
        ranker.learn(Tick(now));
        for (block, age) in blocks.values().zip(ages) {
            let worth = ranker.worth(*block, Tick(block.used_at().0.wrapping_add(age)));
            prop_assert!(worth.is_finite() && worth >= 0.0, "{worth}");
        }
    }

    /// Two rankers that are told the same say the same.
    #[test]
    fn it_is_deterministic(uses in prop::collection::vec((0..50_u64, 0..2_000_u32), 1..200)) {
        let run = || {
            let ranker = Ranker::new(32);
            let mut now = 0;
            let mut ranks = Vec::new();
            for (key, later) in &uses {
                now += later;
                let block = ranker.inserted(*key, Spot::default(), Tick(now));
                if now % 7 == 0 { ranker.learn(Tick(now)); }
                ranks.push(ranker.worth(block, Tick(now + 100)).to_bits());
            }
            ranks
        };
        prop_assert_eq!(run(), run());
    }
}
