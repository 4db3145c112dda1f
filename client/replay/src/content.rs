//! The bytes of a block, derived from its key alone, and the check of every one of them.
//!
//! Eight xorshift lanes run side by side, which compilers turn into vector code: bytes are made
//! and checked at about the speed of memory, so that the check does not hide the store. This is
//! no cryptography; it tells blocks, and places within a block, apart.

use hearth_proto::{BlockKey, Classified, ErrorKind};

const LANES: usize = 8;
const STEP_BYTES: usize = LANES * 8;

/// The first byte of a block that is not what its key says.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WrongBytes {
    /// A byte differs.
    #[error("block {key}: byte {offset} is {found:#04x}, should be {expected:#04x}")]
    Byte {
        /// The block.
        key: BlockKey,
        /// Place of the byte in the block.
        offset: usize,
        /// What the key says.
        expected: u8,
        /// What was read.
        found: u8,
    },
    /// The block has another length.
    #[error("block {key}: {found} bytes, should be {expected}")]
    Length {
        /// The block.
        key: BlockKey,
        /// The length of all blocks of this replay.
        expected: usize,
        /// The length that was read.
        found: usize,
    },
}

impl Classified for WrongBytes {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Stop
    }
}

/// Fills `bytes` with the content of the block `key`.
pub fn fill(key: &BlockKey, bytes: &mut [u8]) {
    let mut stream = Stream::new(key);
    let mut steps = bytes.chunks_exact_mut(STEP_BYTES);
    for step in &mut steps {
        let words = stream.next();
        for (slot, word) in step.chunks_exact_mut(8).zip(words) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
    }
    let rest = steps.into_remainder();
    let tail = stream.next_bytes();
    rest.copy_from_slice(&tail[..rest.len()]);
}

/// Checks that `bytes` is the whole content of the block `key`: every byte, with no allocation.
///
/// # Errors
/// [`WrongBytes`] with the first byte that differs, or the length. The store broke INV-BYTES.
pub fn verify(key: &BlockKey, expected_len: usize, bytes: &[u8]) -> Result<(), WrongBytes> {
    if bytes.len() != expected_len {
        return Err(WrongBytes::Length { key: *key, expected: expected_len, found: bytes.len() });
    }
    let mut stream = Stream::new(key);
    let mut steps = bytes.chunks_exact(STEP_BYTES);
    let mut differences = [0u64; LANES];
    for step in &mut steps {
        let words = stream.next();
        for lane in 0..LANES {
            let mut read = [0; 8];
            read.copy_from_slice(&step[lane * 8..lane * 8 + 8]);
            differences[lane] |= u64::from_le_bytes(read) ^ words[lane];
        }
    }
    let rest = steps.remainder();
    if differences == [0; LANES] && stream.next_bytes()[..rest.len()] == *rest {
        return Ok(());
    }
    Err(first_difference(key, bytes))
}

#[cold]
fn first_difference(key: &BlockKey, bytes: &[u8]) -> WrongBytes {
    let mut stream = Stream::new(key);
    for (step, read) in bytes.chunks(STEP_BYTES).enumerate() {
        let made = stream.next_bytes();
        if let Some(at) = read.iter().zip(made).position(|(&found, expected)| found != expected) {
            let offset = step * STEP_BYTES + at;
            return WrongBytes::Byte { key: *key, offset, expected: made[at], found: read[at] };
        }
    }
    unreachable!("called only for bytes that differ from the stream of their key")
}

struct Stream {
    lanes: [u64; LANES],
}

impl Stream {
    fn new(key: &BlockKey) -> Self {
        let mut words = [0u64; 4];
        for (word, bytes) in words.iter_mut().zip(key.0.chunks_exact(8)) {
            let mut array = [0; 8];
            array.copy_from_slice(bytes);
            *word = u64::from_le_bytes(array);
        }
        // Every lane depends on the whole key, and a xorshift state is never zero.
        let mut state = 0u64;
        let lanes = std::array::from_fn(|lane| {
            state = mix(state ^ words[lane % 4]).wrapping_add(0x9e37_79b9_7f4a_7c15);
            state
        });
        Self { lanes: lanes.map(|lane| mix(lane ^ state) | 1) }
    }

    #[inline(always)]
    fn next(&mut self) -> [u64; LANES] {
        for lane in &mut self.lanes {
            *lane ^= *lane << 13;
            *lane ^= *lane >> 7;
            *lane ^= *lane << 17;
        }
        self.lanes
    }

    fn next_bytes(&mut self) -> [u8; STEP_BYTES] {
        let mut bytes = [0; STEP_BYTES];
        for (slot, word) in bytes.chunks_exact_mut(8).zip(self.next()) {
            slot.copy_from_slice(&word.to_le_bytes());
        }
        bytes
    }
}

/// The finaliser of SplitMix64: every bit of the input reaches every bit of the output.
fn mix(mut word: u64) -> u64 {
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_flipped_bit_is_found_where_it_is(
            key: [u8; 32],
            len in 1usize..5_000,
            at: prop::sample::Index,
            bit in 0u32..8,
        ) {
            let key = BlockKey(key);
            let mut bytes = vec![0; len];
            fill(&key, &mut bytes);
            prop_assert_eq!(verify(&key, len, &bytes), Ok(()));
            let offset = at.index(len);
            let expected = bytes[offset];
            bytes[offset] ^= 1 << bit;
            let found = bytes[offset];
            let wrong = WrongBytes::Byte { key, offset, expected, found };
            prop_assert_eq!(verify(&key, len, &bytes), Err(wrong));
        }

        #[test]
        fn another_key_has_other_bytes(key: [u8; 32], at in 0usize..32, bit in 0u32..8) {
            let mut other = key;
            other[at] ^= 1 << bit;
            let mut bytes = vec![0; 256];
            fill(&BlockKey(key), &mut bytes);
            prop_assert!(verify(&BlockKey(other), 256, &bytes).is_err());
        }
    }

    #[test]
    fn every_byte_of_a_block_is_checked() {
        let key = BlockKey([7; 32]);
        let mut bytes = vec![0; 4_096 + 13];
        fill(&key, &mut bytes);
        for offset in 0..bytes.len() {
            bytes[offset] ^= 0x80;
            assert!(verify(&key, bytes.len(), &bytes).is_err(), "a wrong byte at {offset} passed");
            bytes[offset] ^= 0x80;
        }
        assert_eq!(verify(&key, bytes.len(), &bytes), Ok(()));
    }

    #[test]
    fn another_length_is_wrong_even_when_the_bytes_agree() {
        let key = BlockKey([1; 32]);
        let mut bytes = vec![0; 128];
        fill(&key, &mut bytes);
        assert!(matches!(verify(&key, 128, &bytes[..64]), Err(WrongBytes::Length { found: 64, .. })));
    }

    #[test]
    fn sectors_of_one_block_differ() {
        let mut bytes = vec![0; 1 << 20];
        fill(&BlockKey([0; 32]), &mut bytes);
        let sectors: std::collections::HashSet<&[u8]> = bytes.chunks(4_096).collect();
        assert_eq!(sectors.len(), 256);
    }
}
