//! What blocks are called whatever engine holds them: hashes of their tokens, and of the chain up to them.
//!
//! *Source*: Mooncake's RFC #1403, and dynamo-kv-router 1.6.1, whose numbers the tests have.

use xxhash_rust::xxh3::xxh3_64_with_seed;

/// Seed of chains, and of blocks without an adapter or a salt.
const SEED: u64 = 1337;
/// Seeds of what an adapter's name and a salt add to it.
const LORA_SEED: u64 = 0;
const SALT_SEED: u64 = 1;

/// Hashes of the tokens of whole blocks, each by itself. Tokens behind the last whole block are left out.
///
/// Prompts for different adapters, or with different salts, have nothing in common. An empty name is none.
///
/// *Units*: the size of a block is in tokens; there are no blocks of size zero.
pub fn local_hashes(tokens: &[u32], block_size: u32, lora: Option<&str>, salt: Option<&str>) -> Vec<u64> {
    let mut hashes = Vec::with_capacity(tokens.len().checked_div(block_size as usize).unwrap_or(0));
    let seed = block_seed(lora, salt);
    for_each_local(tokens, block_size, seed, &mut Vec::new(), |local| hashes.push(local));
    hashes
}

/// Hashes of chains: each stands for a block and all before it.
pub fn sequence_hashes(locals: &[u64]) -> Vec<u64> {
    let roll = |before: &mut Option<u64>, local: &u64| {
        *before = Some(next(*before, *local));
        *before
    };
    locals.iter().scan(None, roll).collect()
}

/// The hash of a chain whose last block has this local hash, behind another chain or nothing.
#[inline]
pub(super) fn next(before: Option<u64>, local: u64) -> u64 {
    let Some(before) = before else { return local };
    let mut bytes = [0; 16];
    bytes[..8].copy_from_slice(&before.to_le_bytes());
    bytes[8..].copy_from_slice(&local.to_le_bytes());
    xxh3_64_with_seed(&bytes, SEED)
}

/// What local hashes are seeded with.
pub(super) fn block_seed(lora: Option<&str>, salt: Option<&str>) -> u64 {
    let mixed = |name: Option<&str>, seed| {
        name.filter(|name| !name.is_empty()).map_or(0, |name| xxh3_64_with_seed(name.as_bytes(), seed))
    };
    SEED.wrapping_add(mixed(lora, LORA_SEED)).wrapping_add(mixed(salt, SALT_SEED))
}

/// Gives the local hash of each whole block in turn. The bytes are scratch.
pub(super) fn for_each_local(
    tokens: &[u32],
    block_size: u32,
    seed: u64,
    bytes: &mut Vec<u8>,
    mut visit: impl FnMut(u64),
) {
    if block_size == 0 {
        return;
    }
    for block in tokens.chunks_exact(block_size as usize) {
        bytes.resize(size_of_val(block), 0);
        let (words, _) = bytes.as_chunks_mut();
        words.iter_mut().zip(block).for_each(|(word, token)| *word = token.to_le_bytes());
        visit(xxh3_64_with_seed(bytes, seed));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(tokens: &[u32], block_size: u32, [lora, salt]: [&str; 2], locals: &[u64], sequence: &[u64]) {
        assert_eq!(local_hashes(tokens, block_size, Some(lora), Some(salt)), locals, "{lora} {salt}");
        assert_eq!(sequence_hashes(locals), sequence, "{lora} {salt}");
    }

    /// What `compute_block_hash_for_seq` and `compute_seq_hash_for_block` of dynamo-kv-router 1.6.1 give.
    #[test]
    fn hashes_are_those_of_dynamo() {
        let ten: Vec<u32> = (1..=10).collect();
        let high: Vec<u32> = (0..200).map(|number| u32::MAX - number * 977).collect();
        let squares: Vec<u32> = (0..300).map(|number| number * number).collect();
        let sevens = [7, 7, 7];
        let first = 0xcb38e4d7fb2dca5c;
        check(&ten, 4, ["", ""], &[first, 0xe8d3ec39b907b74c], &[first, 0x44a2b2379d6d3c3d]);
        let first = 0x4af8e65e6822e2c9;
        check(&ten, 4, ["adapter", ""], &[first, 0xc90002535ab21eb5], &[first, 0xc7aff5031bea5468]);
        let first = 0xbfede5efadd62c9f;
        check(&ten, 4, ["", "tenant-7"], &[first, 0xb6a1f627d425f461], &[first, 0xc338776ae53f103b]);
        let first = 0x8937aeb7b9409991;
        check(&ten, 4, ["adapter", "tenant-7"], &[first, 0x23cf6071749bf17b], &[first, 0xf4d359dd771fb26f]);
        let first = 0x1aa3da0a15701049;
        check(&squares, 128, ["a", "b"], &[first, 0xbede3ac804c4f276], &[first, 0x4873d5d58cc2d2d8]);
        let first = 0x486aa58463bfbbdc;
        let locals = [first, 0x2ffbbeb3043290c5, 0x965f9e8ce7728706];
        check(&high, 64, ["", ""], &locals, &[first, 0x0d2674f8bbb9129d, 0x76e4fb24fdbffa81]);
        let first = 0x98d1c3d5e07f17e1;
        check(&sevens, 1, ["", ""], &[first; 3], &[first, 0x48183dd03802bf10, 0x5fd1fec05009fcb0]);
        check(&sevens, 4, ["", ""], &[], &[]);
        assert_eq!(local_hashes(&ten, 4, None, None), local_hashes(&ten, 4, Some(""), Some("")));
        assert!(local_hashes(&ten, 0, None, None).is_empty());
    }
}
