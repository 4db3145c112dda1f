//! Data as blocks hold it, for the tests and the measurement.

use rand::{Rng, RngCore, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// How a float becomes bytes.
pub(super) type Format = fn(f32) -> [u8; 2];

pub(super) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    ChaCha8Rng::seed_from_u64(seed).fill_bytes(&mut bytes);
    bytes
}

/// A text with the redundancy of prose.
pub(super) fn text(len: usize) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(7);
    let words = ["block", "of", "the", "cache", "is", "stored", "where", "it", "was", "read", "again", "\n"];
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        bytes.extend(words[rng.random_range(0..words.len())].as_bytes());
        bytes.push(b' ');
    }
    bytes.truncate(len);
    bytes
}

/// Token ids of a vocabulary of 128,000, the small ones more often.
pub(super) fn token_ids(len: usize) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(3);
    let mut id = || (rng.random::<f32>().powi(3) * 128_000.0) as u32;
    (0..len / 4).flat_map(|_| id().to_le_bytes()).collect()
}

/// Normally distributed numbers.
pub(super) fn gaussian(format: Format, scale: f32, seed: u64, len: usize) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    (0..len / 2).flat_map(|_| format(normal(&mut rng) * scale)).collect()
}

/// Normally distributed numbers in fp8.
pub(super) fn gaussian_e4m3(len: usize) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(2);
    (0..len).map(|_| e4m3(normal(&mut rng))).collect()
}

/// A block of which the second half was never filled.
pub(super) fn half_empty(format: Format, seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = gaussian(format, 1.0, seed, len / 2);
    bytes.resize(len, 0);
    bytes
}

/// A block of which each layer's page of 32 KiB was filled by half.
pub(super) fn half_empty_layers(format: Format, seed: u64, len: usize) -> Vec<u8> {
    let mut bytes = gaussian(format, 1.0, seed, len);
    bytes.chunks_mut(32 << 10).for_each(|page| page[16 << 10..].fill(0));
    bytes
}

/// Which tensor of a layer, and how a channel's value follows from the token before.
#[derive(Clone, Copy)]
pub(super) struct Tensor {
    pub(super) keys: bool,
    pub(super) correlation: f32,
}

const TOKENS: usize = 16;
const HEADS: usize = 8;
const HEAD_DIM: usize = 128;
const ROPE_BASE: f32 = 500_000.0;

/// Pages of 16 tokens, 8 heads and 128 channels. Every channel has a mean and a scale of its own; one key
/// channel in twenty is an outlier; values drift from token to token; keys are rotated by their position.
pub(super) fn kv_pages(format: Format, tensor: Tensor, len: usize) -> Vec<u8> {
    let mut rng = ChaCha8Rng::seed_from_u64(5);
    let mut bytes = Vec::with_capacity(len);
    while bytes.len() < len {
        page(format, tensor, &mut rng, &mut bytes);
    }
    bytes.truncate(len);
    bytes
}

fn page(format: Format, tensor: Tensor, rng: &mut ChaCha8Rng, bytes: &mut Vec<u8>) {
    let channels: Vec<(f32, f32)> = (0..HEADS * HEAD_DIM).map(|_| channel(tensor, rng)).collect();
    let mut drift: Vec<f32> = channels.iter().map(|_| normal(rng)).collect();
    let first_position = rng.random_range(0..10_000);
    let fresh = (1.0 - tensor.correlation * tensor.correlation).sqrt();
    for token in 0..TOKENS {
        for value in &mut drift {
            *value = tensor.correlation * *value + fresh * normal(rng);
        }
        let values: Vec<f32> =
            channels.iter().zip(&drift).map(|((mean, scale), drift)| mean + scale * drift).collect();
        for head in values.chunks_exact(HEAD_DIM) {
            for at in 0..HEAD_DIM {
                let value = if tensor.keys { rotated(head, at, first_position + token) } else { head[at] };
                bytes.extend(format(value));
            }
        }
    }
}

/// Mean and scale of one channel.
fn channel(tensor: Tensor, rng: &mut ChaCha8Rng) -> (f32, f32) {
    let scale = (0.5 * normal(rng)).exp() * if tensor.keys { 1.0 } else { 0.3 };
    let outlier = tensor.keys && rng.random::<f32>() < 0.05;
    let mean = normal(rng) * if outlier { 8.0 } else { 0.3 * scale };
    (mean, scale)
}

/// Rotary position embedding of one channel, halves paired as in Llama.
fn rotated(head: &[f32], at: usize, position: usize) -> f32 {
    let half = HEAD_DIM / 2;
    let pair = at % half;
    let angle = position as f32 * ROPE_BASE.powf(-(pair as f32) / half as f32);
    let (sin, cos) = angle.sin_cos();
    if at < half { head[at] * cos - head[at + half] * sin } else { head[at] * cos + head[at - half] * sin }
}

fn normal(rng: &mut ChaCha8Rng) -> f32 {
    let (u, v): (f32, f32) = (1.0 - rng.random::<f32>(), rng.random());
    (-2.0 * u.ln()).sqrt() * (std::f32::consts::TAU * v).cos()
}

pub(super) fn bf16(value: f32) -> [u8; 2] {
    let bits = value.to_bits();
    let to_nearest_even = 0x7fff + ((bits >> 16) & 1);
    (((bits + to_nearest_even) >> 16) as u16).to_le_bytes()
}

pub(super) fn fp16(value: f32) -> [u8; 2] {
    let sign = if value.is_sign_negative() { 0x8000 } else { 0 };
    (sign | small_float(value.abs(), 10, 15, 0x7bff)).to_le_bytes()
}

fn e4m3(value: f32) -> u8 {
    let sign = if value.is_sign_negative() { 0x80 } else { 0 };
    sign | small_float(value.abs(), 3, 7, 0x7e) as u8
}

/// Exponent and mantissa of a small format, rounded to nearest and cut at its largest number.
fn small_float(value: f32, mantissa_bits: u32, bias: i32, largest: u16) -> u16 {
    let exponent_min = 1 - bias;
    let exponent = (value.log2().floor() as i32).max(exponent_min);
    let steps = (value * 2_f32.powi(mantissa_bits as i32 - exponent)).round() as i32;
    // A mantissa that was rounded up to the next power carries into the exponent by itself.
    let code = ((exponent - exponent_min) << mantissa_bits) + steps;
    code.clamp(0, i32::from(largest)) as u16
}

#[test]
fn small_floats_are_what_the_formats_say() {
    for (value, bits) in [(1.0, 0x3c00), (-2.0, 0xc000), (0.5, 0x3800), (65_504.0, 0x7bff), (0.0, 0)] {
        assert_eq!(u16::from_le_bytes(fp16(value)), bits, "{value}");
    }
    for (value, bits) in [(1.0, 0x38), (-1.5, 0xbc), (448.0, 0x7e), (0.015_625, 0x08), (0.001_953_125, 1)] {
        assert_eq!(e4m3(value), bits, "{value}");
    }
    assert_eq!(bf16(1.0), [0x80, 0x3f]);
}
