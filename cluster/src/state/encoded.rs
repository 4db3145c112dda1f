//! A block as a snapshot has it: namespace u32, fingerprint, payload length u32, number u16 of claims and those,
//! little-endian.

use hearth_proto::{Fingerprint, NamespaceId};

use super::held::Held;
use super::record::RecordError;

/// Bytes of a block without its claims.
const HEAD_BYTES: usize = 4 + Fingerprint::BYTES + 4 + 2;

pub(super) fn encode_to(name: &Fingerprint, payload_len: u32, held: &[Held], out: &mut Vec<u8>) {
    out.extend_from_slice(&name.namespace.0.to_le_bytes());
    out.extend_from_slice(&name.to_bytes());
    out.extend_from_slice(&payload_len.to_le_bytes());
    out.extend_from_slice(&(held.len() as u16).to_le_bytes());
    out.extend(held.iter().flat_map(|held| held.to_bytes()));
}

/// A block that [`encode_to`] wrote.
#[derive(Clone, Copy, Debug)]
pub(super) struct Encoded<'a> {
    pub(super) name: Fingerprint,
    pub(super) payload_len: u32,
    held: &'a [[u8; 2]],
}

impl<'a> Encoded<'a> {
    /// The first block of these bytes, and the bytes behind it.
    pub(super) fn read(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), RecordError> {
        let cut = RecordError("a block that is cut");
        let (head, rest) = bytes.split_first_chunk::<HEAD_BYTES>().ok_or(cut.clone())?;
        let number = |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        let mut name = [0; Fingerprint::BYTES];
        name.copy_from_slice(&head[4..20]);
        let count = usize::from(u16::from_le_bytes([head[24], head[25]]));
        let (held, rest) = rest.split_at_checked(count * 2).ok_or(cut)?;
        let name = Fingerprint::from_bytes(NamespaceId(number(0)), &name);
        Ok((Self { name, payload_len: number(20), held: held.as_chunks().0 }, rest))
    }

    /// The claims; `None` for bytes that are none.
    pub(super) fn held(&self) -> impl Iterator<Item = Option<Held>> + 'a {
        self.held.iter().map(|bytes| Held::from_bytes(*bytes))
    }
}
