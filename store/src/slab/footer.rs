//! The footer that ends every record, byte for byte.
//!
//! ```text
//! offset  0      8        10     11    12         16   48           52          56          64           68     124
//!         magic  version  codec  zero  namespace  key  payload_len  stored_len  generation  payload_crc  zeros  footer_crc
//! ```
//!
//! Numbers are little-endian. `footer_crc` is the crc32 of the 124 bytes before it. The footer lies in
//! the last 128 bytes of a record, so a torn write of the record's last sector is seen by its crc and a
//! torn write of any other sector by the payload's crc.

use hearth_proto::{BlockId, BlockKey, Generation, NamespaceId};

/// Length of a footer.
pub(crate) const FOOTER_BYTES: usize = 128;
const MAGIC: &[u8; 8] = b"HRTHREC\n";
const VERSION: u16 = 1;
const CODEC_RAW: u8 = 0;
const CRC_AT: usize = FOOTER_BYTES - 4;

/// What a record says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Footer {
    pub(crate) id: BlockId,
    pub(crate) payload_len: u32,
    pub(crate) generation: Generation,
    pub(crate) payload_crc: u32,
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
}

impl Footer {
    pub(crate) fn encode(&self) -> [u8; FOOTER_BYTES] {
        let mut bytes = [0; FOOTER_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10] = CODEC_RAW;
        bytes[12..16].copy_from_slice(&self.id.namespace.0.to_le_bytes());
        bytes[16..48].copy_from_slice(&self.id.key.0);
        bytes[48..52].copy_from_slice(&self.payload_len.to_le_bytes());
        // Raw records store exactly their payload.
        bytes[52..56].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[56..64].copy_from_slice(&self.generation.0.to_le_bytes());
        bytes[64..68].copy_from_slice(&self.payload_crc.to_le_bytes());
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
        if bytes[10] != CODEC_RAW {
            return Err(FooterError::Codec(bytes[10]));
        }
        let payload_len = le_u32(bytes, 48);
        if le_u32(bytes, 52) != payload_len {
            return Err(FooterError::Lengths);
        }
        let mut key = [0; 32];
        key.copy_from_slice(&bytes[16..48]);
        let mut generation = [0; 8];
        generation.copy_from_slice(&bytes[56..64]);
        Ok(Self {
            id: BlockId { namespace: NamespaceId(le_u32(bytes, 12)), key: BlockKey(key) },
            payload_len,
            generation: Generation(u64::from_le_bytes(generation)),
            payload_crc: le_u32(bytes, 64),
        })
    }
}

fn le_u32(bytes: &[u8; FOOTER_BYTES], at: usize) -> u32 {
    u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]])
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn footer() -> Footer {
        Footer {
            id: BlockId { namespace: NamespaceId(0x0102_0304), key: BlockKey([0xab; 32]) },
            payload_len: 16_384,
            generation: Generation(0x1122_3344_5566_7788),
            payload_crc: 0xdead_beef,
        }
    }

    #[test]
    fn the_bytes_of_a_footer_never_change() {
        let mut golden = Vec::new();
        golden.extend(b"HRTHREC\n");
        golden.extend([1, 0, 0, 0]);
        golden.extend([4, 3, 2, 1]);
        golden.extend([0xab; 32]);
        golden.extend([0, 0x40, 0, 0]);
        golden.extend([0, 0x40, 0, 0]);
        golden.extend([0x88, 0x77, 0x66, 0x55, 0x44, 0x33, 0x22, 0x11]);
        golden.extend([0xef, 0xbe, 0xad, 0xde]);
        golden.resize(CRC_AT, 0);
        golden.extend(GOLDEN_CRC.to_le_bytes());
        assert_eq!(footer().encode().to_vec(), golden);
    }

    /// Taken from Python: `zlib.crc32` of the 124 bytes above.
    const GOLDEN_CRC: u32 = 0xd420_06ec;

    #[test]
    fn each_fault_has_its_name() {
        let good = footer().encode();
        let reseal = |mut bytes: [u8; FOOTER_BYTES]| {
            let crc = crc32fast::hash(&bytes[..CRC_AT]);
            bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
            bytes
        };
        let changed = |at: usize| {
            let mut bytes = good;
            bytes[at] ^= 0x40;
            bytes
        };
        assert_eq!(Footer::decode(&[0; FOOTER_BYTES]), Err(FooterError::NoRecord));
        assert_eq!(Footer::decode(&changed(20)), Err(FooterError::Checksum));
        assert_eq!(Footer::decode(&reseal(changed(8))), Err(FooterError::Version(0x41)));
        assert_eq!(Footer::decode(&reseal(changed(10))), Err(FooterError::Codec(0x40)));
        assert_eq!(Footer::decode(&reseal(changed(52))), Err(FooterError::Lengths));
    }

    proptest! {
        #[test]
        fn every_footer_survives(namespace: u32, key: [u8; 32], payload_len: u32, generation: u64, payload_crc: u32) {
            let id = BlockId { namespace: NamespaceId(namespace), key: BlockKey(key) };
            let footer = Footer { id, payload_len, generation: Generation(generation), payload_crc };
            prop_assert_eq!(Footer::decode(&footer.encode()), Ok(footer));
        }

        #[test]
        fn any_changed_byte_is_noticed(at in 0..FOOTER_BYTES, flip in 1..=255_u8) {
            let mut bytes = footer().encode();
            bytes[at] ^= flip;
            prop_assert!(Footer::decode(&bytes).is_err());
        }

        #[test]
        fn decoding_anything_never_panics(
            bytes in prop::collection::vec(any::<u8>(), FOOTER_BYTES),
            with_magic: bool,
            with_crc: bool,
        ) {
            let mut bytes: [u8; FOOTER_BYTES] = bytes.try_into().unwrap();
            if with_magic {
                bytes[0..8].copy_from_slice(MAGIC);
            }
            if with_crc {
                let crc = crc32fast::hash(&bytes[..CRC_AT]);
                bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
            }
            if let Ok(footer) = Footer::decode(&bytes) {
                prop_assert_eq!(&footer.encode()[8..68], &bytes[8..68]);
            }
        }
    }
}
