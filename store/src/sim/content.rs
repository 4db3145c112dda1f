//! Names and bytes of simulated blocks. The bytes follow from name and version, and say which.

use hearth_proto::{BlockId, BlockKey, NamespaceId};

/// Blocks that a run knows; two and two differ in their namespace alone.
pub(super) const NAMES: u32 = 14;
/// The shortest payload: it says whose it is.
pub(super) const PAYLOAD_BYTES_MIN: usize = 16;

/// One of the blocks of a run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Name(pub(super) u32);

/// One of the payloads that were put under a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Version(pub(super) u32);

impl Name {
    pub(super) fn id(self) -> BlockId {
        let mut key = [0; 32];
        key[0] = (self.0 / 2) as u8;
        key[31] = key[0].wrapping_mul(37);
        BlockId { namespace: NamespaceId(self.0 % 2), key: BlockKey(key) }
    }

    pub(super) fn of(id: &BlockId) -> Self {
        Self(u32::from(id.key.0[0]) * 2 + id.namespace.0)
    }
}

pub(super) fn fill(payload: &mut [u8], name: Name, version: Version) {
    let len = payload.len();
    for (index, chunk) in payload.chunks_mut(8).enumerate() {
        chunk.copy_from_slice(&word(index, name, version, len).to_le_bytes()[..chunk.len()]);
    }
}

/// What a payload says it is.
pub(super) fn claim(payload: &[u8]) -> Option<(Name, Version)> {
    let word: &[u8; 8] = payload.first_chunk()?;
    let word = u64::from_le_bytes(*word);
    Some((Name((word >> 32) as u32), Version(word as u32)))
}

/// True if a payload is exactly that of this name and version.
pub(super) fn is(payload: &[u8], name: Name, version: Version) -> bool {
    let len = payload.len();
    let mut words = payload.chunks_exact(8);
    let whole = words
        .by_ref()
        .enumerate()
        .fold(true, |same, (index, chunk)| same & (chunk == word(index, name, version, len).to_le_bytes()));
    let rest = words.remainder();
    whole && *rest == word(len / 8, name, version, len).to_le_bytes()[..rest.len()]
}

fn word(index: usize, name: Name, version: Version, len: usize) -> u64 {
    let named = u64::from(name.0) << 32 | u64::from(version.0);
    match index {
        0 => named,
        // A third of all payloads is worth compressing.
        _ if version.0.is_multiple_of(3) => named.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ (index as u64 >> 6),
        _ => (named ^ (len as u64) << 48).wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index as u64),
    }
}
