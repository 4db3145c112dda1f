//! What the codecs save and cost: `bench/results/compression.md` is this table.

use std::hint::black_box;
use std::time::Instant;

use super::samples::{self, Tensor, bf16, fp16};
use super::{decoded, encoded};
use crate::codec::{Codec, Coder, record_sectors};

const LEN: usize = 1 << 20;
const REPEATS: usize = 15;

#[test]
#[ignore = "a measurement: run it alone, in a release build, with --nocapture"]
fn what_each_codec_saves_and_costs() {
    let keys = |correlation| Tensor { keys: true, correlation };
    let values = |correlation| Tensor { keys: false, correlation };
    let cases = [
        ("gaussian bf16", samples::gaussian(bf16, 1.0, 1, LEN)),
        ("gaussian bf16, scale 0.02", samples::gaussian(bf16, 0.02, 1, LEN)),
        ("gaussian fp16", samples::gaussian(fp16, 1.0, 1, LEN)),
        ("gaussian fp8 e4m3", samples::gaussian_e4m3(LEN)),
        ("keys bf16, drift 0.9", samples::kv_pages(bf16, keys(0.9), LEN)),
        ("keys bf16, drift 0.99", samples::kv_pages(bf16, keys(0.99), LEN)),
        ("values bf16, drift 0.5", samples::kv_pages(bf16, values(0.5), LEN)),
        ("values bf16, drift 0.9", samples::kv_pages(bf16, values(0.9), LEN)),
        ("keys fp16, drift 0.9", samples::kv_pages(fp16, keys(0.9), LEN)),
        ("values fp16, drift 0.5", samples::kv_pages(fp16, values(0.5), LEN)),
        ("half empty, bf16", samples::half_empty(bf16, 1, LEN)),
        ("half empty layers, bf16", samples::half_empty_layers(bf16, 1, LEN)),
        ("token ids, u32", samples::token_ids(LEN)),
        ("text", samples::text(LEN)),
        ("random", samples::noise(4, LEN)),
        ("zeros", vec![0; LEN]),
    ];
    println!("| 1 MiB of | codec | ratio | record saved | encode GB/s | decode GB/s | memcpy GB/s |");
    println!("|---|---|--:|--:|--:|--:|--:|");
    for (name, payload) in &cases {
        for codec in [Codec::Lz4, Codec::PlanesLz4] {
            println!("| {name} | {} | {}", codec.name(), figures(codec, payload));
        }
    }
}

/// One line: best of the repeats, which take turns.
fn figures(codec: Codec, payload: &[u8]) -> String {
    let mut coder = Coder::new();
    let stored = encoded(&mut coder, codec, payload);
    assert_eq!(decoded(&mut coder, codec, &stored, payload.len()).unwrap(), payload);
    let mut out = vec![0; 2 * payload.len()];
    let mut back = vec![0; payload.len()];
    let mut best = [f64::MAX; 3];
    for _ in 0..REPEATS {
        let mut clock = |n: usize, work: &mut dyn FnMut()| {
            let start = Instant::now();
            work();
            best[n] = start.elapsed().as_secs_f64().min(best[n]);
        };
        clock(0, &mut || assert!(coder.encode(codec, black_box(payload), black_box(&mut out)).is_some()));
        clock(1, &mut || coder.decode(codec, black_box(&stored), black_box(&mut back)).unwrap());
        clock(2, &mut || black_box(&mut back).copy_from_slice(black_box(payload)));
    }
    let [encode, decode, copy] = best.map(|seconds| payload.len() as f64 / seconds / 1e9);
    let ratio = payload.len() as f64 / stored.len() as f64;
    let raw = record_sectors(payload.len()) as f64;
    let saved = 100.0 * (raw - record_sectors(stored.len()) as f64) / raw;
    format!("{ratio:.2} | {saved:.1}% | {encode:.2} | {decode:.2} | {copy:.1} |")
}
