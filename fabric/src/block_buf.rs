//! Memory that a block is received into or sent from.

use std::fmt;

/// Memory that the caller owns and lends to a mover: where a block lands.
///
/// Today it is ordinary memory; registered and accelerator memory will be further variants, so its
/// fields are private. A buffer is reusable: receiving into it again zeroes nothing.
#[derive(Clone, Default)]
pub struct BlockBuf {
    /// All of it is initialised; its length is the capacity.
    memory: Vec<u8>,
    /// How much of the front holds bytes of a block.
    len: usize,
}

impl BlockBuf {
    /// A buffer with room for a block of `capacity` bytes, holding none yet.
    pub fn with_capacity(capacity: usize) -> Self {
        Self { memory: vec![0; capacity], len: 0 }
    }

    /// The bytes of the block received last, or none.
    pub fn as_slice(&self) -> &[u8] {
        &self.memory[..self.len]
    }

    /// Bytes of a block that it holds.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether it holds no bytes of a block.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The longest block that it can receive.
    pub fn capacity(&self) -> usize {
        self.memory.len()
    }

    /// Forgets the bytes it holds; the room stays.
    pub fn clear(&mut self) {
        self.len = 0;
    }

    /// The bytes it holds, without a copy.
    pub fn into_vec(mut self) -> Vec<u8> {
        self.memory.truncate(self.len);
        self.memory
    }

    /// The first `len` bytes of its room, to be written over.
    pub(crate) fn room(&mut self, len: usize) -> &mut [u8] {
        &mut self.memory[..len]
    }

    /// States that the first `len` bytes are now those of a verified block.
    pub(crate) fn set_len(&mut self, len: usize) {
        assert!(len <= self.memory.len(), "a block cannot be longer than its buffer");
        self.len = len;
    }
}

impl From<Vec<u8>> for BlockBuf {
    fn from(memory: Vec<u8>) -> Self {
        Self { len: memory.len(), memory }
    }
}

impl AsRef<[u8]> for BlockBuf {
    fn as_ref(&self) -> &[u8] {
        self.as_slice()
    }
}

impl fmt::Debug for BlockBuf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "BlockBuf({} of {} bytes)", self.len, self.memory.len())
    }
}
