//! Round trips, bytes that never change, and bytes that nobody encoded.

mod measure;
mod samples;
mod sampling;

use proptest::prelude::*;

use super::coder::DecodeError;
use super::coder::PIECE_BYTES;
use super::{Codec, Coder};

/// Encodes with all the room that a codec may need.
fn encoded(coder: &mut Coder, codec: Codec, payload: &[u8]) -> Vec<u8> {
    let mut out = vec![0xee; payload.len() + 8 * (payload.len() / PIECE_BYTES + 2)];
    let len = coder.encode(codec, payload, &mut out).expect("headers are all that may be added");
    out.truncate(len);
    out
}

fn decoded(coder: &mut Coder, codec: Codec, stored: &[u8], len: usize) -> Result<Vec<u8>, DecodeError> {
    let mut out = vec![0xdd; len];
    coder.decode(codec, stored, &mut out).map(|()| out)
}

/// Bytes as blocks have them: runs, noise and repetition, cut to any length.
fn payload() -> impl Strategy<Value = Vec<u8>> {
    let part = prop_oneof![
        (any::<u8>(), 1..90_000_usize).prop_map(|(byte, len)| vec![byte; len]),
        (any::<u64>(), 1..20_000_usize).prop_map(|(seed, len)| samples::noise(seed, len)),
        (prop::collection::vec(any::<u8>(), 1..40), 1..2_000_usize)
            .prop_map(|(word, times)| word.repeat(times)),
    ];
    prop::collection::vec(part, 0..5).prop_map(|parts| parts.concat())
}

fn codec() -> impl Strategy<Value = Codec> {
    prop::sample::select(&Codec::ALL[..])
}

proptest! {
    #[test]
    fn every_payload_survives_every_codec(payload in payload()) {
        let mut coder = Coder::new();
        for codec in Codec::ALL {
            let stored = encoded(&mut coder, codec, &payload);
            prop_assert_eq!(&decoded(&mut coder, codec, &stored, payload.len()).unwrap(), &payload);
        }
    }

    #[test]
    fn an_encoder_writes_within_its_room_and_says_when_that_is_too_little(
        payload in payload(), codec in codec(), part in 0.0..1.0_f64,
    ) {
        let mut coder = Coder::new();
        let stored = encoded(&mut coder, codec, &payload);
        let mut exact = vec![0; stored.len()];
        prop_assert_eq!(coder.encode(codec, &payload, &mut exact), Some(stored.len()));
        prop_assert_eq!(&exact, &stored);
        let room = (stored.len() as f64 * part) as usize;
        if room < stored.len() {
            prop_assert_eq!(coder.encode(codec, &payload, &mut exact[..room]), None);
        }
    }

    #[test]
    fn another_length_than_the_encoded_one_is_refused(payload in payload(), codec in codec(), by in 1..70_000_usize) {
        let mut coder = Coder::new();
        let stored = encoded(&mut coder, codec, &payload);
        prop_assert!(decoded(&mut coder, codec, &stored, payload.len() + by).is_err());
        if let Some(len) = payload.len().checked_sub(by) {
            prop_assert!(decoded(&mut coder, codec, &stored, len).is_err());
        }
        let cut = stored.len().saturating_sub(by);
        if cut < stored.len() {
            prop_assert!(decoded(&mut coder, codec, &stored[..cut], payload.len()).is_err());
        }
    }

    #[test]
    fn damaged_bytes_are_refused_or_decode_to_something(
        payload in payload(), codec in codec(), damage in prop::collection::vec((any::<prop::sample::Index>(), 1..=255_u8), 1..20),
    ) {
        let mut coder = Coder::new();
        let mut stored = encoded(&mut coder, codec, &payload);
        if !stored.is_empty() {
            for (at, flip) in damage {
                let at = at.index(stored.len());
                stored[at] ^= flip;
            }
            // Which of the two, the footer's crc decides.
            let _ = decoded(&mut coder, codec, &stored, payload.len());
        }
    }

    #[test]
    fn decoding_anything_never_panics(
        stored in prop::collection::vec(any::<u8>(), 0..300), codec in codec(), len in 0..200_000_usize,
    ) {
        if let Ok(payload) = decoded(&mut Coder::new(), codec, &stored, len) {
            let mut coder = Coder::new();
            let again = encoded(&mut coder, codec, &payload);
            prop_assert_eq!(decoded(&mut coder, codec, &again, len).unwrap(), payload);
        }
    }
}

#[test]
fn lengths_around_pieces_and_groups_survive() {
    let mut coder = Coder::new();
    let pattern: Vec<u8> = (0..3 * PIECE_BYTES).map(|at| (at / 7) as u8).collect();
    let near = |len: usize| [len - 2, len - 1, len, len + 1, len + 2];
    let lens = [0, 1, 2, 3, 5].into_iter().chain(near(PIECE_BYTES)).chain(near(2 * PIECE_BYTES));
    for len in lens {
        for codec in Codec::ALL {
            let stored = encoded(&mut coder, codec, &pattern[..len]);
            assert_eq!(decoded(&mut coder, codec, &stored, len).unwrap(), &pattern[..len], "{codec:?} {len}");
        }
    }
}

#[test]
fn stored_bytes_mean_the_same_for_ever() {
    let mut coder = Coder::new();
    // Sixteen times the bf16 numbers 1.0 and -2.0, and an odd byte.
    let payload = [&[0x80, 0x3f, 0x00, 0xc0].repeat(16)[..], &[9]].concat();
    let lz4 = [&[14, 0, 0, 0][..], &LZ4_BLOCK].concat();
    let planes = [&[12, 0, 0, 0][..], &LOW_PLANE, &[12, 0, 0, 0], &HIGH_PLANE].concat();
    let plain = [&[65, 0, 0, 0x80][..], &payload].concat();
    for (codec, stored) in
        [(Codec::Raw, &payload), (Codec::Lz4, &lz4), (Codec::Lz4, &plain), (Codec::PlanesLz4, &planes)]
    {
        assert_eq!(decoded(&mut coder, codec, stored, payload.len()).unwrap(), payload);
    }
}

#[test]
fn pieces_that_lz4_does_not_help_are_stored_as_they_are_low_plane_first() {
    let mut coder = Coder::new();
    let payload = [1, 2, 3, 4, 5, 6, 7, 8, 9];
    assert_eq!(encoded(&mut coder, Codec::Raw, &payload), payload);
    assert_eq!(encoded(&mut coder, Codec::Lz4, &payload), [&[9, 0, 0, 0x80][..], &payload].concat());
    let planes = [5, 0, 0, 0x80, 1, 3, 5, 7, 9, 4, 0, 0, 0x80, 2, 4, 6, 8];
    assert_eq!(encoded(&mut coder, Codec::PlanesLz4, &payload), planes);
    assert_eq!(encoded(&mut coder, Codec::PlanesLz4, &[7]), [1, 0, 0, 0x80, 7]);
}

/// What follows from the lz4 block format by hand: four literals, a match of 56 bytes at distance 4, and
/// five literals.
const LZ4_BLOCK: [u8; 14] = [0x4f, 0x80, 0x3f, 0x00, 0xc0, 4, 0, 37, 0x50, 0x80, 0x3f, 0x00, 0xc0, 9];
/// Two literals, a match of 26 bytes at distance 2, and five literals.
const LOW_PLANE: [u8; 12] = [0x2f, 0x80, 0x00, 2, 0, 7, 0x50, 0x80, 0x00, 0x80, 0x00, 9];
/// Two literals, a match of 25 bytes at distance 2, and five literals.
const HIGH_PLANE: [u8; 12] = [0x2f, 0x3f, 0xc0, 2, 0, 6, 0x50, 0xc0, 0x3f, 0xc0, 0x3f, 0xc0];

#[test]
fn an_lz4_block_is_not_taken_for_a_payload_of_its_own_length() {
    let mut coder = Coder::new();
    for codec in [Codec::Lz4, Codec::PlanesLz4] {
        let stored = encoded(&mut coder, codec, &[0; 1_000]);
        for len in 0..1_000 {
            assert!(decoded(&mut coder, codec, &stored, len).is_err(), "{codec:?} {len}");
        }
    }
}

#[test]
fn each_fault_has_its_name() {
    let mut coder = Coder::new();
    let mut fault = |codec, stored: &[u8], len| decoded(&mut coder, codec, stored, len).unwrap_err();
    assert!(matches!(fault(Codec::Raw, &[1, 2], 3), DecodeError::RawLength { stored: 2, expected: 3 }));
    assert!(matches!(fault(Codec::Raw, &[1, 2, 3], 2), DecodeError::Trailing(1)));
    assert!(matches!(fault(Codec::Lz4, &[1, 0, 0], 20), DecodeError::Truncated));
    assert!(matches!(fault(Codec::Lz4, &[5, 0, 0, 0, 1], 20), DecodeError::Truncated));
    assert!(matches!(
        fault(Codec::Lz4, &[255; 300], 20),
        DecodeError::PieceLength { claimed: 0x7fff_ffff, piece: 20 }
    ));
    // A plain piece is as long as the piece, an lz4 block is shorter.
    for header in [[2, 0, 0, 0], [1, 0, 0, 0x80], [3, 0, 0, 0x80]] {
        let stored = [&header[..], &[8, 9, 1]].concat();
        assert!(matches!(fault(Codec::Lz4, &stored, 2), DecodeError::PieceLength { piece: 2, .. }));
    }
    assert!(matches!(fault(Codec::Lz4, &[0, 0, 0, 0], 20), DecodeError::Lz4(_)));
    assert!(matches!(
        fault(Codec::Lz4, &[2, 0, 0, 0, 0x10, 7], 20),
        DecodeError::DecodedLength { decoded: 1, expected: 20 }
    ));
    assert!(matches!(fault(Codec::Lz4, &[2, 0, 0, 0x80, 8, 9, 1], 2), DecodeError::Trailing(1)));
    assert!(matches!(fault(Codec::PlanesLz4, &[1, 0, 0, 0x80, 8], 2), DecodeError::Truncated));
    // A match that reaches back before the beginning.
    assert!(matches!(fault(Codec::Lz4, &[4, 0, 0, 0, 0x10, 7, 9, 0], 20), DecodeError::Lz4(_)));
}
