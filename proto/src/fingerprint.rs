//! What a block is called in the directory.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;

use std::hash::Hasher;

use siphasher::sip128::{Hasher128, SipHasher13};

use crate::{BlockId, BlockKey, NamespaceId};

/// A block as the directory knows it: its namespace, and 16 bytes made from all 32 of its key.
///
/// Two keys of a namespace that have one fingerprint are one block to the directory, which is then wrong about who
/// holds which: the nodes know whole keys, so the worst that comes of it is a miss. Among 10^10 blocks there is such a
/// pair with a probability of 10^-19. Keys are chosen by whoever uses the cluster, so the words must not be easy to
/// choose by that: a table in which one tenant's blocks lie in one place is slow for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Fingerprint {
    /// Whose block it is.
    pub namespace: NamespaceId,
    /// The first says which directory group knows the block.
    pub words: [u64; 2],
}

impl Fingerprint {
    /// Bytes on the wire, without the namespace.
    pub const BYTES: usize = 16;

    /// The fingerprint of a block.
    #[inline]
    pub fn of(id: &BlockId) -> Self {
        Self { namespace: id.namespace, words: words_of(&id.key) }
    }

    /// Appends the fingerprints of a namespace's blocks, in their order: faster than one by one.
    #[inline]
    pub fn extend_of_keys(namespace: NamespaceId, keys: &[BlockKey], out: &mut Vec<Self>) {
        let (eights, rest) = keys.as_chunks::<8>();
        for eight in eights {
            out.extend(words_of_eight(eight).map(|words| Self { namespace, words }));
        }
        out.extend(rest.iter().map(|key| Self { namespace, words: words_of(key) }));
    }

    /// The words, little-endian.
    #[inline]
    pub fn to_bytes(self) -> [u8; Self::BYTES] {
        let mut bytes = [0; Self::BYTES];
        bytes[..8].copy_from_slice(&self.words[0].to_le_bytes());
        bytes[8..].copy_from_slice(&self.words[1].to_le_bytes());
        bytes
    }

    /// The inverse of [`Self::to_bytes`].
    #[inline]
    pub fn from_bytes(namespace: NamespaceId, bytes: &[u8; Self::BYTES]) -> Self {
        let bits = u128::from_le_bytes(*bytes);
        Self { namespace, words: [bits as u64, (bits >> 64) as u64] }
    }
}

/// Says what the hash is for, and is no secret.
const HASH_KEY: &[u8; 16] = b"hearth directory";

/// The words of a key's fingerprint. Part of the format of a cluster, never to be changed.
///
/// *Source*: SipHash (Aumasson, Bernstein 2012) with one and three rounds and an output of 128 bits.
#[inline]
pub(crate) fn words_of(key: &BlockKey) -> [u64; 2] {
    let mut hasher = SipHasher13::new_with_key(HASH_KEY);
    let (words, _) = key.0.as_chunks::<8>();
    // As all of its bytes at once, and faster.
    words.iter().for_each(|word| hasher.write_u64(u64::from_le_bytes(*word)));
    let hashed = hasher.finish128();
    [hashed.h1, hashed.h2]
}

/// The words of eight keys: at once where the processor can.
#[inline]
fn words_of_eight(keys: &[BlockKey; 8]) -> [[u64; 2]; 8] {
    #[cfg(target_arch = "x86_64")]
    if let Some(words) = avx512::words_of_eight(keys).or_else(|| avx2::words_of_eight(keys)) {
        return words;
    }
    std::array::from_fn(|key| words_of(&keys[key]))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    fn id(key: [u8; 32]) -> BlockId {
        BlockId { namespace: NamespaceId(7), key: BlockKey(key) }
    }

    #[test]
    fn the_fingerprint_of_a_block_never_changes() {
        let mut key = [0; 32];
        key.iter_mut().zip(1..).for_each(|(byte, number)| *byte = number);
        let found = Fingerprint::of(&id(key));
        assert_eq!(Fingerprint::from_bytes(NamespaceId(7), &found.to_bytes()), found);
        // As another implementation of the hash has it.
        let golden =
            [0x56, 0x7a, 0xe7, 0xe4, 0xb2, 0x10, 0x56, 0x7b, 0x04, 0x0c, 0x6f, 0xa1, 0x8a, 0x18, 0x37, 0x7e];
        assert_eq!(found.to_bytes(), golden);
    }

    #[test]
    fn many_keys_have_the_fingerprints_that_each_has() {
        // Bytes that depend on nothing but their place.
        let byte = |at: usize| (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[6];
        let keys: Vec<BlockKey> =
            (0..203).map(|key| BlockKey(std::array::from_fn(|at| byte(key * 32 + at)))).collect();
        for count in [0, 1, 7, 8, 9, 16, 203] {
            let each = keys[..count].iter().map(|key| Fingerprint::of(&id(key.0)));
            let mut found = Vec::new();
            Fingerprint::extend_of_keys(NamespaceId(7), &keys[..count], &mut found);
            assert!(found.into_iter().eq(each), "{count} keys");
        }
    }

    #[test]
    #[cfg(target_arch = "x86_64")]
    fn whatever_the_processor_can_do_gives_the_same_words() {
        let keys: [BlockKey; 8] = std::array::from_fn(|key| BlockKey([key as u8 * 29 + 3; 32]));
        let each = std::array::from_fn(|key| words_of(&keys[key]));
        for found in [avx2::words_of_eight(&keys), avx512::words_of_eight(&keys)] {
            assert_eq!(found.unwrap_or(each), each);
        }
    }

    #[test]
    fn every_bit_of_a_key_counts_in_both_words() {
        let whole = Fingerprint::of(&id([0x5a; 32]));
        let (mut first, mut second) = (0, 0);
        for bit in 0..256 {
            let mut key = [0x5a; 32];
            key[bit / 8] ^= 1 << (bit % 8);
            let other = Fingerprint::of(&id(key));
            first += (whole.words[0] ^ other.words[0]).count_ones();
            second += (whole.words[1] ^ other.words[1]).count_ones();
        }
        for changed in [first, second] {
            assert!((256 * 28..256 * 36).contains(&changed), "{changed} bits of 16384 changed");
        }
    }

    #[test]
    fn keys_that_a_product_would_make_alike_differ() {
        // With a multiplication of the parts of a key, one part would hide the others.
        let constants = [0x1d8e_4e27_c47d_124f_u64 ^ 1, 0xe703_7ed1_a0b4_28db ^ 1, 0, 1, u64::MAX];
        let mut words = HashSet::new();
        for (first, third) in constants.iter().flat_map(|a| constants.iter().map(move |c| (a, c))) {
            for number in 0..1_000_u64 {
                let mut key = [0; 32];
                key[..8].copy_from_slice(&first.to_le_bytes());
                key[8..16].copy_from_slice(&number.to_le_bytes());
                key[16..24].copy_from_slice(&third.to_le_bytes());
                let [a, b] = Fingerprint::of(&id(key)).words;
                assert!(words.insert(a) && words.insert(b), "{first:x} {third:x} {number}");
            }
        }
    }

    #[test]
    fn keys_that_are_no_digests_have_fingerprints_of_their_own_in_either_word() {
        let (mut first, mut second) = (HashSet::new(), HashSet::new());
        for (number, at) in (0..100_000_u64).flat_map(|number| [(number, 0), (number, 12), (number, 24)]) {
            let mut key = [0; 32];
            key[at..at + 8].copy_from_slice(&number.to_be_bytes());
            if number == 0 && at > 0 {
                continue;
            }
            let Fingerprint { words, .. } = Fingerprint::of(&id(key));
            assert!(first.insert(words[0]) && second.insert(words[1]), "{number} at {at}");
        }
    }
}
