//! The footer that ends every record, byte for byte.
//!
//! ```text
//! offset  0      8        10     11        12         16   48           52          56
//!         magic  version  codec  priority  namespace  key  payload_len  stored_len  generation
//! offset  64           68     72             80     124
//!         payload_crc  depth  expires_at_ms  zeros  footer_crc
//! ```
//!
//! Numbers are little-endian. `footer_crc` is the crc32 of the 124 bytes before it, `payload_crc` that of
//! the payload as it was put, whatever the codec. How the block is kept is what the put said of it. The record begins with the stored bytes and has as many
//! whole sectors as they and the footer take. The footer lies in its last 128 bytes, so a torn write of
//! the record's last sector is seen by the footer's crc and a torn write of any other by the payload's.

use hearth_proto::limits::RECORD_FOOTER_BYTES;
use hearth_proto::{BlockId, BlockKey, Generation, NamespaceId, Priority};

use super::BlockEntry;
use crate::codec::Codec;

/// Length of a footer.
pub(crate) const FOOTER_BYTES: usize = RECORD_FOOTER_BYTES;
const MAGIC: &[u8; 8] = b"HRTHREC\n";
const VERSION: u16 = 2;
/// Where the fields end and the zeros begin that the crc follows.
const FIELDS_END: usize = 80;
/// Stands for a priority that never falls back.
const NEVER: u64 = u64::MAX;
/// Where the generation lies in a footer.
pub(crate) const GENERATION_AT: usize = 56;
const CRC_AT: usize = FOOTER_BYTES - 4;

/// What a record says of itself.
///
/// *Invariants*: a raw record stores exactly its payload, no other stores more than it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) id: BlockId,
    pub(crate) codec: Codec,
    pub(crate) payload_len: u32,
    pub(crate) stored_len: u32,
    pub(crate) generation: Generation,
    pub(crate) payload_crc: u32,
    pub(crate) depth: u32,
    pub(crate) priority: Priority,
    /// Milliseconds since the Unix epoch at which the priority falls back; `None` is never.
    pub(crate) expires_at_ms: Option<u64>,
}

/// Why bytes are not a footer that this version can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum FooterError {
    #[error("there is no record here")]
    NoRecord,
    #[error("the footer's checksum is wrong")]
    Checksum,
    #[error("the record has version {0}")]
    Version(u16),
    #[error("the record has codec {0}")]
    Codec(u8),
    #[error("the lengths contradict each other")]
    Lengths,
    #[error("there is no priority {0}")]
    Priority(u8),
    #[error("bytes are set that this version leaves zero")]
    Reserved,
}

impl Footer {
    /// The entry of the record in the index, if it begins at `sector`.
    pub(crate) fn entry(&self, sector: u32) -> BlockEntry {
        BlockEntry {
            id: self.id,
            sector,
            payload_len: self.payload_len,
            generation: self.generation,
            payload_crc: self.payload_crc,
            depth: self.depth,
            priority: self.priority,
            expires_at_ms: self.expires_at_ms,
        }
    }

    pub(crate) fn encode(&self) -> [u8; FOOTER_BYTES] {
        assert!(lengths_agree(self.codec, self.payload_len, self.stored_len), "{self:?} contradicts itself");
        let mut bytes = [0; FOOTER_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10] = self.codec.number();
        bytes[11] = self.priority.value();
        bytes[12..16].copy_from_slice(&self.id.namespace.0.to_le_bytes());
        bytes[16..48].copy_from_slice(&self.id.key.0);
        bytes[48..52].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[52..56].copy_from_slice(&self.stored_len.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.generation.0.to_le_bytes());
        bytes[64..68].copy_from_slice(&self.payload_crc.to_le_bytes());
        bytes[68..72].copy_from_slice(&self.depth.to_le_bytes());
        bytes[72..80].copy_from_slice(&self.expires_at_ms.unwrap_or(NEVER).to_le_bytes());
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; FOOTER_BYTES]) -> Result<Self, FooterError> {
        if &bytes[0..8] != MAGIC {
            return Err(FooterError::NoRecord);
        }
        if le_u32(bytes, CRC_AT) != crc32fast::hash(&bytes[..CRC_AT]) {
            return Err(FooterError::Checksum);
        }
        let version = u16::from_le_bytes([bytes[8], bytes[9]]);
        if version != VERSION {
            return Err(FooterError::Version(version));
        }
        let codec = Codec::from_number(bytes[10]).ok_or(FooterError::Codec(bytes[10]))?;
        let (payload_len, stored_len) = (le_u32(bytes, 48), le_u32(bytes, 52));
        if !lengths_agree(codec, payload_len, stored_len) {
            return Err(FooterError::Lengths);
        }
        let priority = Priority::new(bytes[11]).map_err(|_| FooterError::Priority(bytes[11]))?;
        if bytes[FIELDS_END..CRC_AT].iter().any(|byte| *byte != 0) {
            return Err(FooterError::Reserved);
        }
        let mut key = [0; 32];
        key.copy_from_slice(&bytes[16..48]);
        let expires_at_ms = le_u64(bytes, 72);
        Ok(Self {
            id: BlockId { namespace: NamespaceId(le_u32(bytes, 12)), key: BlockKey(key) },
            codec,
            payload_len,
            stored_len,
            generation: Generation(le_u64(bytes, 56)),
            payload_crc: le_u32(bytes, 64),
            depth: le_u32(bytes, 68),
            priority,
            expires_at_ms: (expires_at_ms != NEVER).then_some(expires_at_ms),
        })
    }
}

/// Whether a record of this codec may store so many bytes for so long a payload.
fn lengths_agree(codec: Codec, payload_len: u32, stored_len: u32) -> bool {
    match codec {
        Codec::Raw => stored_len == payload_len,
        Codec::Lz4 | Codec::PlanesLz4 => stored_len <= payload_len,
    }
}

fn le_u32(bytes: &[u8; FOOTER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

fn le_u64(bytes: &[u8; FOOTER_BYTES], at: usize) -> u64 {
    u64::from(le_u32(bytes, at)) | u64::from(le_u32(bytes, at + 4)) << 32
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn footer() -> Footer {
        Footer {
            id: BlockId { namespace: NamespaceId(0x0102_0304), key: BlockKey([0xab; 32]) },
            codec: Codec::Raw,
            payload_len: 16_384,
            stored_len: 16_384,
            generation: Generation(0x1122_3344_5566_7788),
            payload_crc: 0xdead_beef,
            depth: 0x0102_0304,
            priority: Priority::MAX,
            expires_at_ms: None,
        }
    }

    fn golden(codec: u8, stored_len: [u8; 4], crc: u32) -> Vec<u8> {
        let mut golden = Vec::new();
        golden.extend(b"HRTHREC\n");
        golden.extend([2, 0, codec, 100]);
        golden.extend([4, 3, 2, 1]);
        golden.extend([0xab; 32]);
        golden.extend([0, 0x40, 0, 0]);
        golden.extend(stored_len);
        golden.extend([0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        golden.extend([0xef, 0xbe, 0xad, 0xde]);
        golden.extend([4, 3, 2, 1]);
        golden.extend([0xff; 8]);
        golden.resize(CRC_AT, 0);
        golden.extend(crc.to_le_bytes());
        golden
    }

    #[test]
    fn the_bytes_of_a_footer_never_change() {
        // The checksums are from Python: `zlib.crc32` of the 124 bytes before them.
        assert_eq!(footer().encode().to_vec(), golden(0, [0, 0x40, 0, 0], 0x000b_1c87));
        let planes = Footer { codec: Codec::PlanesLz4, stored_len: 0x3039, ..footer() };
        assert_eq!(planes.encode().to_vec(), golden(2, [0x39, 0x30, 0, 0], 0xdc0b_8942));
    }

    fn resealed(mut bytes: [u8; FOOTER_BYTES]) -> [u8; FOOTER_BYTES] {
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn each_fault_has_its_name() {
        let good = footer().encode();
        let changed = |at: usize| {
            let mut bytes = good;
            bytes[at] ^= 0x40;
            bytes
        };
        assert_eq!(Footer::decode(&[0; FOOTER_BYTES]), Err(FooterError::NoRecord));
        assert_eq!(Footer::decode(&changed(20)), Err(FooterError::Checksum));
        assert_eq!(Footer::decode(&resealed(changed(8))), Err(FooterError::Version(0x42)));
        assert_eq!(Footer::decode(&resealed(changed(10))), Err(FooterError::Codec(0x40)));
        let mut beyond = good;
        beyond[11] = 101;
        assert_eq!(Footer::decode(&resealed(beyond)), Err(FooterError::Priority(101)));
        for reserved in [80, 123] {
            assert_eq!(Footer::decode(&resealed(changed(reserved))), Err(FooterError::Reserved));
        }
    }

    #[test]
    fn raw_records_store_their_payload_and_others_no_more_than_it() {
        for (codec, stored_len, refused) in [
            (0, 16_383_u32, true),
            (0, 16_384, false),
            (0, 16_385, true),
            (1, 0, false),
            (1, 16_384, false),
            (1, 16_385, true),
            (2, u32::MAX, true),
        ] {
            let mut bytes = footer().encode();
            bytes[10] = codec;
            bytes[52..56].copy_from_slice(&stored_len.to_le_bytes());
            let found = Footer::decode(&resealed(bytes));
            assert_eq!(found == Err(FooterError::Lengths), refused, "{codec} {stored_len}");
            assert_eq!(found.is_ok(), !refused, "{codec} {stored_len}");
        }
    }

    fn any_footer() -> impl Strategy<Value = Footer> {
        let lengths = (prop::sample::select(&Codec::ALL[..]), any::<u32>(), any::<u32>());
        let lengths = lengths.prop_map(|(codec, a, b)| match codec {
            Codec::Raw => (codec, a, a),
            Codec::Lz4 | Codec::PlanesLz4 => (codec, a.max(b), a.min(b)),
        });
        let rest = any::<(u32, [u8; 32], u64, u32, u32)>();
        let keep = (0..=100_u8, prop::option::of(0..NEVER));
        (lengths, rest, keep).prop_map(|((codec, payload_len, stored_len), rest, keep)| {
            let (namespace, key, generation, payload_crc, depth) = rest;
            Footer {
                id: BlockId { namespace: NamespaceId(namespace), key: BlockKey(key) },
                codec,
                payload_len,
                stored_len,
                generation: Generation(generation),
                payload_crc,
                depth,
                priority: Priority::new(keep.0).unwrap(),
                expires_at_ms: keep.1,
            }
        })
    }

    proptest! {
        #[test]
        fn every_footer_survives(footer in any_footer()) {
            prop_assert_eq!(Footer::decode(&footer.encode()), Ok(footer));
        }

        #[test]
        fn any_changed_byte_is_noticed(footer in any_footer(), at in 0..FOOTER_BYTES, flip in 1..=255_u8) {
            let mut bytes = footer.encode();
            bytes[at] ^= flip;
            prop_assert!(Footer::decode(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_refused_or_the_only_way_to_say_a_footer(
            footer in any_footer(), changes in prop::collection::vec((0..FOOTER_BYTES, any::<u8>()), 0..6),
            noise in any::<[[u8; 32]; 4]>(), from_noise: bool,
        ) {
            let mut bytes = if from_noise { noise.concat().try_into().unwrap() } else { footer.encode() };
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            for bytes in [bytes, resealed(bytes)] {
                if let Ok(footer) = Footer::decode(&bytes) {
                    prop_assert_eq!(footer.encode(), bytes);
                }
            }
        }
    }
}
