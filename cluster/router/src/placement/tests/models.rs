//! Models of prefills and of links beside true ones.

use hearth_proto::Tier;
use hearth_proto::limits::{
    LINK_TRANSFER_BYTES_MAX, MODEL_OUTLIER_FACTOR, MODEL_PRIOR_FACTOR_MAX, PLACEMENT_SECONDS_MAX,
    PLACEMENT_TOKENS_MAX,
};
use proptest::prelude::*;

use super::super::*;

const LENGTHS: [(u32, u32); 6] =
    [(64, 0), (500, 8_000), (2_000, 0), (8_000, 24_000), (32_000, 0), (100_000, 4_000)];

fn seconds(curve: &PrefillCurve, new_tokens: u32, cached_tokens: u32) -> f64 {
    curve.seconds(PrefillWork::new(new_tokens, cached_tokens).unwrap())
}

fn true_curve() -> impl Strategy<Value = PrefillCurve> {
    let times = || (-2.5..2.5_f64).prop_map(f64::exp);
    let [base, token, pair] = PrefillCurve::PRIOR.coefficients();
    (times(), times(), times())
        .prop_map(move |(a, b, d)| PrefillCurve::new(base * a, token * b, pair * d).unwrap())
}

/// Numbers from zero to one, from a seed.
pub(super) struct Draws(pub(super) u64);

impl Draws {
    pub(super) fn next(&mut self) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn between(&mut self, least: f64, most: f64) -> f64 {
        least + (most - least) * self.next()
    }

    /// New and cached tokens of a prompt: often none, often many.
    fn lengths(&mut self) -> (u32, u32) {
        let new_tokens = self.between(4.0, 11.5).exp() as u32;
        (new_tokens, self.between(-50_000.0, 100_000.0).max(0.0) as u32)
    }
}

/// What a model makes of prefills on true workers whose times are multiplied by some noise.
fn learned(truth: &PrefillCurve, seed: u64, noise: impl Fn(usize, &mut Draws) -> f64) -> PrefillCurve {
    let (mut draws, mut model) = (Draws(seed), PrefillModel::new(PrefillCurve::PRIOR));
    for at in 0..3_000 {
        let (new_tokens, cached_tokens) = draws.lengths();
        let times = noise(at, &mut draws);
        let seconds = (seconds(truth, new_tokens, cached_tokens) * times).min(PLACEMENT_SECONDS_MAX);
        model.report(PrefillReport { new_tokens, cached_tokens, seconds }).unwrap();
    }
    model.curve()
}

/// By how much a curve is off for prompts of some lengths, as a factor either way, and where.
fn worst(curve: &PrefillCurve, truth: &PrefillCurve) -> (f64, (u32, u32)) {
    let off = LENGTHS.map(|(new, cached)| {
        let ratio = seconds(curve, new, cached) / seconds(truth, new, cached);
        (ratio.max(1.0 / ratio), (new, cached))
    });
    off.into_iter().max_by(|one, other| one.0.total_cmp(&other.0)).expect("there are some")
}

fn any_report() -> impl Strategy<Value = PrefillReport> {
    let tokens = || prop_oneof![0..100_u32, 0..2_000_000_u32, any::<u32>()];
    let seconds = prop_oneof![
        1e-9..1e-3_f64,
        1e-3..PLACEMENT_SECONDS_MAX,
        prop::num::f64::ANY,
        Just(f64::NAN),
        Just(-1.0),
        Just(0.0),
    ];
    (tokens(), tokens(), seconds).prop_map(|(new_tokens, cached_tokens, seconds)| PrefillReport {
        new_tokens,
        cached_tokens,
        seconds,
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn a_prefill_model_comes_to_the_true_one_under_noise(truth in true_curve(), seed in any::<u64>()) {
        let curve = learned(&truth, seed, |_, draws| draws.between(0.8, 1.2));
        let (off, at) = worst(&curve, &truth);
        prop_assert!(off < 1.25, "{off} at {at:?}: {curve:?}");
    }

    #[test]
    fn one_report_in_ten_that_is_far_off_hardly_moves_a_prefill_model(
        truth in true_curve(), seed in any::<u64>(), times in 10.0..1_000.0_f64,
    ) {
        let noise = |at, draws: &mut Draws| if at % 10 == 9 { times } else { draws.between(0.95, 1.05) };
        let curve = learned(&truth, seed, noise);
        let (off, at) = worst(&curve, &truth);
        prop_assert!(off < 1.35, "{off} at {at:?}: {curve:?}");
    }

    #[test]
    fn no_flood_of_reports_moves_a_prefill_model_beyond_its_bounds(
        reports in prop::collection::vec(any_report(), 0..400),
    ) {
        let mut model = PrefillModel::new(PrefillCurve::PRIOR);
        for report in reports {
            let (before, stats) = (model.curve(), model.stats());
            match model.report(report) {
                Ok(()) => prop_assert_eq!(model.stats().taken, stats.taken + 1),
                Err(_) => {
                    prop_assert_eq!(model.curve(), before);
                    prop_assert_eq!(model.stats(), ModelStats { refused: stats.refused + 1, ..stats });
                }
            }
            for (new, cached) in LENGTHS {
                let ratio = seconds(&model.curve(), new, cached) / seconds(&PrefillCurve::PRIOR, new, cached);
                let bounds = 0.999 / MODEL_PRIOR_FACTOR_MAX..=1.001 * MODEL_PRIOR_FACTOR_MAX;
                prop_assert!(bounds.contains(&ratio), "{new} behind {cached}: {ratio}");
            }
            prop_assert!(model.curve().coefficients().into_iter().all(|one| one > 0.0 && one.is_finite()));
        }
    }

    #[test]
    fn a_link_model_comes_to_the_true_one_under_noise(
        (latency, bandwidth) in (-2.5..2.5_f64, -2.5..2.5_f64), seed in any::<u64>(),
    ) {
        let (latency_s, bytes_per_second) = (1e-4 * latency.exp(), 3e9 * bandwidth.exp());
        let mut model = LinkModel::new(LinkSpeed::new(1e-4, 3e9).unwrap());
        let mut draws = Draws(seed);
        for _ in 0..1_000 {
            let bytes = draws.between(8.0, 21.0).exp() as u64;
            let ahead_bytes = draws.between(-4e6, 4e6).max(0.0) as u64;
            let seconds = (latency_s + (bytes + ahead_bytes) as f64 / bytes_per_second) * draws.between(0.8, 1.2);
            model.report(Transfer { bytes, ahead_bytes, seconds }).unwrap();
        }
        for bytes in [1 << 14, 1 << 20, 1 << 27] {
            let ratio = model.speed().seconds(bytes) / (latency_s + bytes as f64 / bytes_per_second);
            prop_assert!((0.75..1.33).contains(&ratio), "{bytes}: {ratio}");
        }
    }
}

#[test]
fn absurd_reports_are_refused_and_counted() {
    let mut model = PrefillModel::new(PrefillCurve::PRIOR);
    let good = PrefillReport { new_tokens: 1_000, cached_tokens: 0, seconds: 0.05 };
    let absurd = [
        PrefillReport { new_tokens: 0, ..good },
        PrefillReport { new_tokens: PLACEMENT_TOKENS_MAX + 1, ..good },
        PrefillReport { cached_tokens: u32::MAX, ..good },
        PrefillReport { seconds: f64::NAN, ..good },
        PrefillReport { seconds: -0.1, ..good },
        PrefillReport { seconds: 0.0, ..good },
        PrefillReport { seconds: f64::INFINITY, ..good },
        PrefillReport { seconds: PLACEMENT_SECONDS_MAX * 1.01, ..good },
    ];
    for report in absurd {
        model.report(report).unwrap_err();
    }
    assert_eq!(model.curve(), PrefillCurve::PRIOR);
    model.report(good).unwrap();
    assert_eq!(model.stats(), ModelStats { taken: 1, clamped: 0, refused: 8 });

    let mut links = Links::default();
    let id = LinkId { tier: Tier::Nvme, path: PathId(7) };
    let good = Transfer { bytes: 1 << 20, ahead_bytes: 0, seconds: 1e-3 };
    assert_eq!(links.report(id, good), Err(LinkError::Unknown));
    links.add(id, LinkSpeed::new(1e-4, 1e9).unwrap()).unwrap();
    for absurd in [
        Transfer { bytes: 0, ..good },
        Transfer { bytes: u64::MAX, ..good },
        Transfer { ahead_bytes: LINK_TRANSFER_BYTES_MAX + 1, ..good },
        Transfer { seconds: f64::NAN, ..good },
        Transfer { seconds: 0.0, ..good },
    ] {
        assert!(matches!(links.report(id, absurd), Err(LinkError::Absurd(_))));
    }
    links.report(id, good).unwrap();
    let stats = links.model_mut(id).map(|model| model.stats());
    assert_eq!(stats, Some(ModelStats { taken: 1, clamped: 0, refused: 5 }));
}

#[test]
fn one_report_moves_an_expectation_by_no_more_than_the_outlier_factor() {
    for seconds_reported in [1e-9, PLACEMENT_SECONDS_MAX] {
        let mut model = PrefillModel::new(PrefillCurve::PRIOR);
        model
            .report(PrefillReport { new_tokens: 2_000, cached_tokens: 0, seconds: seconds_reported })
            .unwrap();
        let ratio = seconds(&model.curve(), 2_000, 0) / seconds(&PrefillCurve::PRIOR, 2_000, 0);
        assert!((1.0 / MODEL_OUTLIER_FACTOR..=MODEL_OUTLIER_FACTOR).contains(&ratio), "{ratio}");
        assert_eq!(model.stats().clamped, 1);
    }
}

#[test]
fn a_prefill_model_follows_a_worker_that_becomes_slower() {
    let mut model = PrefillModel::new(PrefillCurve::PRIOR);
    for times in [1.0, 10.0, 0.5] {
        for round in 0..2_000_u32 {
            let new_tokens = 500 + round * 37 % 20_000;
            let seconds = times * seconds(&PrefillCurve::PRIOR, new_tokens, 0);
            model.report(PrefillReport { new_tokens, cached_tokens: 0, seconds }).unwrap();
        }
        let ratio = seconds(&model.curve(), 4_000, 0) / seconds(&PrefillCurve::PRIOR, 4_000, 0);
        assert!((0.95..1.05).contains(&(ratio / times)), "{times}: {ratio}");
    }
}

#[test]
fn bytes_in_flight_are_waited_for() {
    let mut model = LinkModel::new(LinkSpeed::new(1e-3, 1e9).unwrap());
    model.begin(500_000_000);
    model.begin(500_000_000);
    assert!((model.speed().seconds(1_000_000_000) - 2.001).abs() < 1e-9);
    model.end(500_000_000);
    assert!((model.speed().start_s() - 0.501).abs() < 1e-9);
    model.end(u64::MAX);
    assert_eq!((model.in_flight_bytes(), model.speed().start_s()), (0, 1e-3));
    model.set_in_flight(1_000_000_000);
    assert!((model.speed().seconds(0) - 1.001).abs() < 1e-9);
}
