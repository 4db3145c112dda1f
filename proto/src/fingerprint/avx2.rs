//! Fingerprints of eight keys at a time, one word of four of them in a register.
#![allow(unsafe_code)] // A function for some processors only has no safe call.

use std::arch::x86_64::*;

use super::HASH_KEY;
use crate::BlockKey;

/// The words of eight keys; `None` if this processor cannot.
#[inline]
pub(super) fn words_of_eight(keys: &[BlockKey; 8]) -> Option<[[u64; 2]; 8]> {
    is_x86_feature_detected!("avx2").then(|| {
        // SAFETY: the function needs AVX2, which was found to be there.
        unsafe { hash(keys) }
    })
}

/// One word of the state, of each of four keys.
type Words = __m256i;

/// Of two fours: neither waits for what the processor does with the other.
#[target_feature(enable = "avx2")]
fn hash(keys: &[BlockKey; 8]) -> [[u64; 2]; 8] {
    let all = |word: u64| _mm256_set1_epi64x(word as i64);
    let key = HASH_KEY.as_chunks::<8>().0;
    let [k0, k1] = [u64::from_le_bytes(key[0]), u64::from_le_bytes(key[1])];
    let start = [
        all(k0 ^ 0x736f_6d65_7073_6575),
        all(k1 ^ 0x646f_7261_6e64_6f6d ^ 0xee),
        all(k0 ^ 0x6c79_6765_6e65_7261),
        all(k1 ^ 0x7465_6462_7974_6573),
    ];
    let mut states = [start; 2];
    let word_of = |key: usize, word: usize| i64::from_le_bytes(keys[key].0.as_chunks::<8>().0[word]);
    for word in 0..4 {
        let four = |key: usize| {
            let [a, b, c, d] = [0, 1, 2, 3].map(|more| word_of(key + more, word));
            _mm256_set_epi64x(d, c, b, a)
        };
        compress(&mut states, [four(0), four(4)]);
    }
    // The length closes the input.
    compress(&mut states, [all(32 << 56); 2]);
    states.iter_mut().for_each(|state| state[2] = _mm256_xor_si256(state[2], all(0xee)));
    let first = finish(&mut states);
    states.iter_mut().for_each(|state| state[1] = _mm256_xor_si256(state[1], all(0xdd)));
    let second = finish(&mut states);
    std::array::from_fn(|key| [first[key / 4][key % 4], second[key / 4][key % 4]])
}

#[inline]
#[target_feature(enable = "avx2")]
fn compress(states: &mut [[Words; 4]; 2], words: [Words; 2]) {
    for (state, words) in states.iter_mut().zip(words) {
        state[3] = _mm256_xor_si256(state[3], words);
    }
    round(states);
    for (state, words) in states.iter_mut().zip(words) {
        state[0] = _mm256_xor_si256(state[0], words);
    }
}

#[inline]
#[target_feature(enable = "avx2")]
fn finish(states: &mut [[Words; 4]; 2]) -> [[u64; 4]; 2] {
    (0..3).for_each(|_| round(states));
    states.map(|[a, b, c, d]| {
        let words = _mm256_xor_si256(_mm256_xor_si256(a, b), _mm256_xor_si256(c, d));
        [
            _mm256_extract_epi64::<0>(words) as u64,
            _mm256_extract_epi64::<1>(words) as u64,
            _mm256_extract_epi64::<2>(words) as u64,
            _mm256_extract_epi64::<3>(words) as u64,
        ]
    })
}

#[inline]
#[target_feature(enable = "avx2")]
fn round(states: &mut [[Words; 4]; 2]) {
    for state in states {
        let [a, b, c, d] = *state;
        let (a, c) = (_mm256_add_epi64(a, b), _mm256_add_epi64(c, d));
        let (b, d) = (_mm256_xor_si256(rotate::<13, 51>(b), a), _mm256_xor_si256(rotate_by_16(d), c));
        let a = rotate_by_32(a);
        let (c, a) = (_mm256_add_epi64(c, b), _mm256_add_epi64(a, d));
        let (b, d) = (_mm256_xor_si256(rotate::<17, 47>(b), c), _mm256_xor_si256(rotate::<21, 43>(d), a));
        *state = [a, b, rotate_by_32(c), d];
    }
}

/// Rotates each word to the left; the two numbers of bits make 64.
#[inline]
#[target_feature(enable = "avx2")]
fn rotate<const LEFT: i32, const RIGHT: i32>(words: Words) -> Words {
    _mm256_or_si256(_mm256_slli_epi64::<LEFT>(words), _mm256_srli_epi64::<RIGHT>(words))
}

#[inline]
#[target_feature(enable = "avx2")]
fn rotate_by_16(words: Words) -> Words {
    let from = _mm_setr_epi8(6, 7, 0, 1, 2, 3, 4, 5, 14, 15, 8, 9, 10, 11, 12, 13);
    _mm256_shuffle_epi8(words, _mm256_broadcastsi128_si256(from))
}

#[inline]
#[target_feature(enable = "avx2")]
fn rotate_by_32(words: Words) -> Words {
    _mm256_shuffle_epi32::<0b10_11_00_01>(words)
}
