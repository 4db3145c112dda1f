//! The blocks of one shard, in an array that grows without moving what is in it.

use std::ops::{Index, IndexMut};

use hearth_proto::{Fingerprint, NamespaceId};

use super::held::Held;

/// Claims that lie beside the block.
pub(super) const NEAR_MAX: usize = 4;
/// Blocks that memory is asked for at a time: 16 KiB, so that an array wastes eight on average.
const CHUNK: usize = 1 << CHUNK_BITS;
const CHUNK_BITS: u32 = 9;

/// Half a line of the processor's cache, and never in two of them.
#[derive(Clone, Copy, Debug)]
#[repr(align(32))]
pub(super) struct Block {
    /// Of the fingerprint.
    pub(super) words: [u64; 2],
    pub(super) namespace: u32,
    pub(super) payload_len: u32,
    /// In the order of their holders; [`Held::SPILLED`] and then two halves of an index if there are more.
    pub(super) held: [Held; NEAR_MAX],
}

const _: () = assert!(size_of::<Block>() == 32);

impl Block {
    const FREE: Self = Self { words: [0; 2], namespace: 0, payload_len: 0, held: [Held::NONE; NEAR_MAX] };

    #[inline]
    pub(super) fn name(&self) -> Fingerprint {
        Fingerprint { namespace: NamespaceId(self.namespace), words: self.words }
    }

    #[inline]
    pub(super) fn is(&self, name: &Fingerprint) -> bool {
        self.words == name.words && self.namespace == name.namespace.0
    }
}

/// See the module. Slots are numbered from zero.
#[derive(Debug, Default)]
pub(super) struct Blocks {
    /// The first `len` blocks of them are there.
    chunks: Vec<Box<[Block; CHUNK]>>,
    len: usize,
}

impl Blocks {
    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn push(&mut self, block: Block) {
        let (chunk, at) = (self.len >> CHUNK_BITS, self.len & (CHUNK - 1));
        if chunk == self.chunks.len() {
            self.chunks.push(Box::new([Block::FREE; CHUNK]));
        }
        self.chunks[chunk][at] = block;
        self.len += 1;
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &Block> {
        self.chunks.iter().flat_map(|chunk| chunk.iter()).take(self.len)
    }
}

impl Index<u32> for Blocks {
    type Output = Block;

    #[inline]
    fn index(&self, slot: u32) -> &Block {
        &self.chunks[slot as usize >> CHUNK_BITS][slot as usize & (CHUNK - 1)]
    }
}

impl IndexMut<u32> for Blocks {
    #[inline]
    fn index_mut(&mut self, slot: u32) -> &mut Block {
        &mut self.chunks[slot as usize >> CHUNK_BITS][slot as usize & (CHUNK - 1)]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_keep_their_slots_while_more_come() {
        let block = |number: u32| Block {
            words: [number.into(); 2],
            namespace: number,
            payload_len: 0,
            held: [Held::NONE; NEAR_MAX],
        };
        let mut blocks = Blocks::default();
        let count = 2 * CHUNK as u32 + 3;
        (0..count).for_each(|number| blocks.push(block(number)));
        assert_eq!(blocks.len(), count as usize);
        for slot in [0, 1, CHUNK as u32 - 1, CHUNK as u32, count - 1] {
            assert_eq!(blocks[slot].namespace, slot);
        }
        blocks[CHUNK as u32].namespace = 7;
        assert_eq!(blocks[CHUNK as u32].namespace, 7);
        assert!(blocks.iter().map(|block| block.words[0]).eq(0..u64::from(count)));
    }
}
