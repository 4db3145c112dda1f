//! Fingerprints of eight keys at a time, one word of each in a register.
#![allow(unsafe_code)] // A function for some processors only has no safe call.

use std::arch::x86_64::*;

use super::HASH_KEY;
use crate::BlockKey;

/// The words of eight keys; `None` if this processor cannot.
#[inline]
pub(super) fn words_of_eight(keys: &[BlockKey; 8]) -> Option<[[u64; 2]; 8]> {
    is_x86_feature_detected!("avx512f").then(|| {
        // SAFETY: the function needs AVX-512F, which was found to be there.
        unsafe { hash(keys) }
    })
}

/// One word of the state, of each of the eight.
type Words = __m512i;

#[target_feature(enable = "avx512f")]
fn hash(keys: &[BlockKey; 8]) -> [[u64; 2]; 8] {
    let all = |word: u64| _mm512_set1_epi64(word as i64);
    let key = HASH_KEY.as_chunks::<8>().0;
    let [k0, k1] = [u64::from_le_bytes(key[0]), u64::from_le_bytes(key[1])];
    let mut state = [
        all(k0 ^ 0x736f_6d65_7073_6575),
        all(k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee),
        all(k0 ^ 0x6c79_6765_6e65_7261),
        all(k1 ^ 0x7465_6462_7974_6573),
    ];
    let word_of = |key: usize, word: usize| i64::from_le_bytes(keys[key].0.as_chunks::<8>().0[word]);
    for word in 0..4 {
        let [a, b, c, d, e, f, g, h] = std::array::from_fn(|key| word_of(key, word));
        compress(&mut state, _mm512_set_epi64(h, g, f, e, d, c, b, a));
    }
    // The length closes the input.
    compress(&mut state, all(32 << 56));
    state[2] = _mm512_xor_si512(state[2], all(0xee));
    let first = finish(&mut state);
    state[1] = _mm512_xor_si512(state[1], all(0xdd));
    let second = finish(&mut state);
    std::array::from_fn(|key| [first[key], second[key]])
}

#[inline]
#[target_feature(enable = "avx512f")]
fn compress(state: &mut [Words; 4], words: Words) {
    state[3] = _mm512_xor_si512(state[3], words);
    round(state);
    state[0] = _mm512_xor_si512(state[0], words);
}

#[inline]
#[target_feature(enable = "avx512f")]
fn finish(state: &mut [Words; 4]) -> [u64; 8] {
    (0..3).for_each(|_| round(state));
    let [a, b, c, d] = *state;
    let words = _mm512_xor_si512(_mm512_xor_si512(a, b), _mm512_xor_si512(c, d));
    let mut all = [0; 8];
    // SAFETY: the array has the size of a register, and the store asks for no alignment.
    unsafe { _mm512_storeu_si512(all.as_mut_ptr().cast(), words) };
    all
}

#[inline]
#[target_feature(enable = "avx512f")]
fn round(state: &mut [Words; 4]) {
    let [a, b, c, d] = *state;
    let (a, c) = (_mm512_add_epi64(a, b), _mm512_add_epi64(c, d));
    let b = _mm512_xor_si512(_mm512_rol_epi64::<13>(b), a);
    let d = _mm512_xor_si512(_mm512_rol_epi64::<16>(d), c);
    let a = _mm512_rol_epi64::<32>(a);
    let (c, a) = (_mm512_add_epi64(c, b), _mm512_add_epi64(a, d));
    let b = _mm512_xor_si512(_mm512_rol_epi64::<17>(b), c);
    let d = _mm512_xor_si512(_mm512_rol_epi64::<21>(d), a);
    *state = [a, b, _mm512_rol_epi64::<32>(c), d];
}
