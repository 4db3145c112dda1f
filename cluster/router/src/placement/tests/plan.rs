//! The plan for one worker beside every cut there is.

use hearth_proto::{NodeId, Tier};
use proptest::prelude::*;

use super::super::*;

fn source() -> impl Strategy<Value = Source> {
    let speed = (0.0..0.02_f64, 5.0..11.0_f64)
        .prop_map(|(latency_s, log)| LinkSpeed::new(latency_s, 10_f64.powf(log)).unwrap());
    let origin = prop_oneof![Just(Origin::Worker), (1..9_u64).prop_map(|node| Origin::Node(NodeId(node)))];
    (prop_oneof![Just(Tier::Host), Just(Tier::Nvme)], origin, 0..400_u32, speed)
        .prop_map(|(tier, origin, prefix_blocks, speed)| Source { tier, origin, prefix_blocks, speed })
}

pub(super) fn held() -> impl Strategy<Value = Held> {
    (0..200_u32, prop::collection::vec(source(), 0..5)).prop_map(|(resident, sources)| {
        let mut held = Held::resident(resident);
        for source in sources {
            held.add(source).unwrap();
        }
        held
    })
}

pub(super) fn prompt() -> impl Strategy<Value = Prompt> {
    (1..6_000_u32, 1..40_u32, 1..2_000_000_u64)
        .prop_map(|(tokens, block_tokens, bytes)| Prompt::new(tokens, block_tokens, bytes).unwrap())
}

pub(super) fn curve() -> impl Strategy<Value = PrefillCurve> {
    (0.0..0.02_f64, -7.0..-3.0_f64, prop_oneof![Just(0.0), 1e-10..1e-6_f64])
        .prop_map(|(base, log, pair)| PrefillCurve::new(base, 10_f64.powf(log), pair).unwrap())
}

/// What the prompt takes if all blocks from this one on are computed: block by block, from the first place that has it.
fn seconds(prompt: Prompt, held: &Held, curve: &PrefillCurve, cut: u32) -> f64 {
    let mut from_each = vec![0_u64; held.sources().len()];
    for block in held.resident_blocks()..cut {
        let first = held.sources().iter().position(|source| source.prefix_blocks > block).unwrap();
        from_each[first] += 1;
    }
    let loads = held.sources().iter().zip(from_each).filter(|(_, blocks)| *blocks > 0);
    let load_s: f64 = loads.map(|(source, blocks)| source.speed.seconds(blocks * prompt.block_bytes())).sum();
    let (cached, [base, token, pair]) = (f64::from(cut * prompt.block_tokens()), curve.coefficients());
    let new = f64::from(prompt.tokens()) - cached;
    load_s + base + token * new + pair * new * (cached + new / 2.0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_cut_is_faster(prompt in prompt(), held in held(), curve in curve()) {
        let (tokens, block_tokens) = (prompt.tokens(), prompt.block_tokens());
        let useful = (tokens - 1) / block_tokens;
        let stored = held.sources().iter().map(|source| source.prefix_blocks).max().unwrap_or(0);
        let (first, last) = (held.resident_blocks().min(useful), stored.min(useful));
        let plan = LoadPlan::fastest(prompt, &held, &curve);
        let took = plan.load_s + plan.compute_s;
        prop_assert!((took - seconds(prompt, &held, &curve, plan.compute_from_block)).abs() < 1e-9 * took);
        for cut in first..=last.max(first) {
            prop_assert!(took <= seconds(prompt, &held, &curve, cut) * (1.0 + 1e-9), "{cut} in {plan:?}");
        }
        // What it says adds up.
        prop_assert_eq!(plan.resident_blocks, first);
        prop_assert_eq!(plan.loads.iter().map(|load| load.blocks).sum::<u32>(), plan.loaded_blocks());
        prop_assert!(plan.loads.iter().all(|load| load.blocks > 0));
        prop_assert_eq!(plan.compute_from_block + plan.not_worth_loading_blocks, last.max(first));
        prop_assert_eq!(plan.cached_tokens, plan.compute_from_block * block_tokens);
        prop_assert_eq!(plan.cached_tokens + plan.new_tokens, tokens);
        prop_assert!(plan.new_tokens > 0 && plan.load_s.is_finite() && plan.compute_s.is_finite());
    }
}

const NODE: Origin = Origin::Node(NodeId(4));

fn at(tier: Tier, origin: Origin, prefix_blocks: u32, bytes_per_second: f64) -> Source {
    Source { tier, origin, prefix_blocks, speed: LinkSpeed::new(1e-4, bytes_per_second).unwrap() }
}

fn all_of(sources: &[Source]) -> Held {
    let mut held = Held::resident(10);
    for source in sources {
        held.add(*source).unwrap();
    }
    held
}

#[test]
fn each_place_adds_the_blocks_behind_those_before_it() {
    let prompt = Prompt::new(16_000, 16, 2 << 20).unwrap();
    let held = all_of(&[
        at(Tier::Host, Origin::Worker, 100, 20e9),
        at(Tier::Nvme, Origin::Worker, 90, 6e9),
        at(Tier::Host, NODE, 700, 10e9),
        at(Tier::Nvme, NODE, 800, 5e9),
    ]);
    let plan = LoadPlan::fastest(prompt, &held, &PrefillCurve::PRIOR);
    let load = |tier, origin, blocks| LoadStep { tier, origin, blocks };
    let expected =
        [load(Tier::Host, Origin::Worker, 90), load(Tier::Host, NODE, 600), load(Tier::Nvme, NODE, 100)];
    assert_eq!(plan.loads.as_slice(), expected);
    assert_eq!((plan.resident_blocks, plan.compute_from_block, plan.not_worth_loading_blocks), (10, 800, 0));
    assert_eq!((plan.new_tokens, plan.cached_tokens), (3_200, 12_800));
}

#[test]
fn what_is_computed_sooner_is_not_loaded() {
    let prompt = Prompt::new(16_000, 16, 2 << 20).unwrap();
    let held = all_of(&[at(Tier::Host, Origin::Worker, 100, 20e9), at(Tier::Nvme, NODE, 800, 50e6)]);
    let plan = LoadPlan::fastest(prompt, &held, &PrefillCurve::PRIOR);
    assert_eq!(
        (plan.loaded_blocks(), plan.compute_from_block, plan.not_worth_loading_blocks),
        (90, 100, 700)
    );
}

#[test]
fn the_last_token_is_always_computed() {
    for (tokens, useful) in [(1, 0), (16, 0), (17, 1), (32, 1), (33, 2)] {
        let prompt = Prompt::new(tokens, 16, 1).unwrap();
        let plan = LoadPlan::fastest(prompt, &Held::resident(1_000), &PrefillCurve::PRIOR);
        assert_eq!((plan.resident_blocks, plan.new_tokens), (useful, tokens - useful * 16));
    }
}

#[test]
fn a_worker_loads_from_four_places_at_the_most() {
    let source = at(Tier::Host, NODE, 5, 1e9);
    let mut held = all_of(&[source; 4]);
    assert_eq!(held.add(source), Err(TooManySources));
    assert_eq!(held.sources().len(), 4);
}
