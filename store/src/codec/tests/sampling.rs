//! What the sampler decides, of what data.

use hearth_proto::NamespaceId;
use hearth_proto::limits::{CODEC_LAYOUTS_MAX, CODEC_TRIAL_EVERY, CODEC_TRIALS_FIRST, SECTOR_BYTES};

use super::samples;
use crate::codec::{
    Codec, Coder, Compression, LayoutClass, LayoutCompression, Outcome, Plan, Sampler, Trial, record_sectors,
    stored_len_max,
};

const LEN: usize = 64 << 10;

fn class(payload_len: usize) -> LayoutClass {
    LayoutClass { namespace: NamespaceId(3), payload_len: payload_len as u32 }
}

/// A sampler, what encodes for it, and room for stored bytes.
struct Bench {
    sampler: Sampler,
    coder: Coder,
    out: Vec<u8>,
}

impl Bench {
    fn new(compression: Compression) -> Self {
        Self { sampler: Sampler::new(compression), coder: Coder::new(), out: vec![0; 2 << 20] }
    }

    /// Stores a block as a store does, and checks that it can be read again.
    fn store(&mut self, payload: &[u8]) -> (Plan, Outcome) {
        let plan = self.sampler.plan(class(payload.len()));
        let outcome = plan.carry_out(&mut self.coder, payload, &mut self.out);
        self.sampler.observe(class(payload.len()), &outcome);
        if outcome.codec == Codec::Raw {
            assert_eq!(outcome.stored_len, payload.len());
        } else {
            assert!(outcome.stored_len <= stored_len_max(payload.len()).unwrap(), "what is encoded pays");
            let mut back = vec![0; payload.len()];
            self.coder.decode(outcome.codec, &self.out[..outcome.stored_len], &mut back).unwrap();
            assert_eq!(back, payload);
        }
        (plan, outcome)
    }

    fn report(&self) -> LayoutCompression {
        self.sampler.report()[0]
    }
}

fn gaussian(seed: u64) -> Vec<u8> {
    samples::gaussian(samples::bf16, 1.0, seed, LEN)
}

#[test]
fn a_layout_gets_the_codec_that_pays() {
    type Block = fn(u64) -> Vec<u8>;
    let half_empty: Block = |seed| samples::half_empty(samples::fp16, seed, LEN);
    let fp16: Block = |seed| samples::gaussian(samples::fp16, 1.0, seed, LEN);
    let cases: [(&str, Block, Codec, Codec); 7] = [
        ("zeros", |_| vec![0; LEN], Codec::Lz4, Codec::Lz4),
        ("half empty", half_empty, Codec::Lz4, Codec::Lz4),
        ("text", |_| samples::text(LEN), Codec::Lz4, Codec::Lz4),
        ("random", |seed| samples::noise(seed, LEN), Codec::Raw, Codec::Raw),
        ("gaussian bf16", gaussian, Codec::Raw, Codec::PlanesLz4),
        ("gaussian fp16", fp16, Codec::Raw, Codec::Raw),
        ("gaussian fp8", |_| samples::gaussian_e4m3(LEN), Codec::Raw, Codec::Raw),
    ];
    for (name, block, fast, dense) in cases {
        for (compression, expected) in
            [(Compression::Off, Codec::Raw), (Compression::Fast, fast), (Compression::Dense, dense)]
        {
            let mut bench = Bench::new(compression);
            for seed in 0..u64::from(CODEC_TRIALS_FIRST) {
                let (_, outcome) = bench.store(&block(seed));
                assert_eq!(outcome.codec, expected, "a trial stores what is best: {name} {compression:?}");
            }
            let (plan, outcome) = bench.store(&block(99));
            let expected_plan = if expected == Codec::Raw { Plan::Raw } else { Plan::Encode(expected) };
            assert_eq!((plan, outcome.codec), (expected_plan, expected), "{name} {compression:?}");
        }
    }
}

#[test]
fn incompressible_blocks_of_a_compressible_layout_are_stored_raw() {
    let mut bench = Bench::new(Compression::Fast);
    for _ in 0..CODEC_TRIALS_FIRST {
        bench.store(&[7; LEN]);
    }
    let (plan, outcome) = bench.store(&samples::noise(1, LEN));
    assert_eq!((plan, outcome.codec), (Plan::Encode(Codec::Lz4), Codec::Raw));
    let (plan, outcome) = bench.store(&[7; LEN]);
    assert_eq!((plan, outcome.codec), (Plan::Encode(Codec::Lz4), Codec::Lz4));
}

#[test]
fn the_report_counts_what_lies_on_the_disk() {
    let mut bench = Bench::new(Compression::Fast);
    let mut stored_sectors = 0;
    for seed in 0..200 {
        let block = if seed % 4 == 0 { samples::noise(seed, LEN) } else { vec![0; LEN] };
        stored_sectors += record_sectors(bench.store(&block).1.stored_len);
    }
    let expected = LayoutCompression {
        namespace: NamespaceId(3),
        payload_len: LEN as u32,
        codec: Codec::Lz4,
        sampled: u64::from(CODEC_TRIALS_FIRST) + 200 / CODEC_TRIAL_EVERY,
        blocks: 200,
        blocks_encoded: 150,
        raw_bytes: (200 * record_sectors(LEN) * SECTOR_BYTES) as u64,
        stored_bytes: (stored_sectors * SECTOR_BYTES) as u64,
    };
    assert_eq!(bench.report(), expected);
    assert_eq!(stored_sectors, 50 * 17 + 150);
}

#[test]
fn a_layout_that_changes_is_noticed_by_its_trials() {
    let mut bench = Bench::new(Compression::Fast);
    let store = |bench: &mut Bench, block: &dyn Fn(u64) -> Vec<u8>, trials: u64| {
        for seed in 0..trials * CODEC_TRIAL_EVERY {
            bench.store(&block(seed));
        }
        bench.report().codec
    };
    let noise = samples::noise(0, 8 << 10);
    assert_eq!(store(&mut bench, &|_| noise.clone(), 2), Codec::Raw);
    assert_eq!(store(&mut bench, &|_| vec![0; 8 << 10], 32), Codec::Lz4);
    assert_eq!(store(&mut bench, &|_| noise.clone(), 64), Codec::Raw);
}

/// Plans until the next trial and answers it with stored lengths that save so many thousandths.
fn answer_trial(sampler: &mut Sampler, lz4: usize, planes: usize) -> Codec {
    const BIG: usize = 1_000 * SECTOR_BYTES - 128;
    let stored_len = |permille: usize| BIG - permille * SECTOR_BYTES;
    while !matches!(sampler.plan(class(BIG)), Plan::Trial(_)) {}
    let trial = Trial { lz4: Some(stored_len(lz4)), planes: Some(stored_len(planes)) };
    sampler.observe(class(BIG), &Outcome { codec: Codec::Raw, stored_len: BIG, trial: Some(trial) });
    sampler.report()[0].codec
}

/// What a layout gets in the end after many trials with each of these savings.
fn settled(savings: &[(usize, usize)]) -> Codec {
    let mut sampler = Sampler::new(Compression::Dense);
    let mut codec = Codec::Raw;
    for (lz4, planes) in savings {
        for _ in 0..10 * CODEC_TRIALS_FIRST {
            codec = answer_trial(&mut sampler, *lz4, *planes);
        }
    }
    codec
}

#[test]
fn bars_are_where_they_should_be_and_higher_for_a_change() {
    use Codec::{Lz4, PlanesLz4, Raw};
    for (savings, expected) in [
        (&[(124, 124)][..], Raw),
        (&[(125, 125)], Lz4),
        (&[(0, 125)], PlanesLz4),
        (&[(200, 299)], Lz4),
        (&[(200, 300)], PlanesLz4),
        // Raw is left for a saving well above the bar, and returned to just below it.
        (&[(0, 0), (150, 0)], Raw),
        (&[(0, 0), (156, 0)], Lz4),
        (&[(200, 0), (130, 0)], Lz4),
        (&[(200, 0), (120, 0)], Raw),
        // So is lz4 for planes.
        (&[(200, 0), (200, 325)], Lz4),
        (&[(200, 0), (200, 332)], PlanesLz4),
        (&[(200, 400), (200, 305)], PlanesLz4),
        (&[(200, 400), (200, 295)], Lz4),
    ] {
        assert_eq!(settled(savings), expected, "{savings:?}");
    }
}

#[test]
fn trials_are_the_first_blocks_and_few_later_ones() {
    let mut bench = Bench::new(Compression::Fast);
    let trials: Vec<u64> =
        (1..=300).filter(|_| matches!(bench.store(&[1; 5_000]).0, Plan::Trial(Compression::Fast))).collect();
    let expected: Vec<u64> =
        (1..=u64::from(CODEC_TRIALS_FIRST)).chain([CODEC_TRIAL_EVERY, 2 * CODEC_TRIAL_EVERY]).collect();
    assert_eq!(trials, expected);
}

#[test]
fn blocks_of_one_sector_are_never_tried() {
    let mut bench = Bench::new(Compression::Dense);
    assert_eq!(bench.store(&[0; 3_968]).0, Plan::Raw);
    assert!(bench.sampler.report().is_empty());
    assert!(matches!(bench.store(&[0; 3_969]).0, Plan::Trial(_)));
}

#[test]
fn layouts_beyond_the_bound_are_stored_raw_and_cost_nothing() {
    let mut sampler = Sampler::new(Compression::Fast);
    for n in 0..2 * CODEC_LAYOUTS_MAX {
        let plan = sampler.plan(class(10_000 + n));
        assert_eq!(matches!(plan, Plan::Trial(_)), n < CODEC_LAYOUTS_MAX, "{n}");
        sampler
            .observe(class(10_000 + n), &Outcome { codec: Codec::Raw, stored_len: 10_000 + n, trial: None });
    }
    assert_eq!(sampler.report().len(), CODEC_LAYOUTS_MAX);
    assert!(matches!(sampler.plan(class(10_000)), Plan::Trial(_)), "those that are known stay");
}

#[test]
fn what_fits_into_a_shorter_buffer_than_pays_is_all_that_is_written() {
    let mut coder = Coder::new();
    let outcome = Plan::Encode(Codec::Lz4).carry_out(&mut coder, &[0; LEN], &mut [0; 100]);
    assert_eq!((outcome.codec, outcome.stored_len), (Codec::Raw, LEN));
}
