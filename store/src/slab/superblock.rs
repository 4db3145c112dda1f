//! The superblock that begins every slab file and device, byte for byte.
//!
//! ```text
//! offset  0      8        10      12     16        32            40           48            80     4092
//!         magic  version  member  zeros  store_id  extent_bytes  data_offset  created_with  zeros  crc
//! ```
//!
//! Numbers are little-endian. `crc` is the crc32 of the 4,092 bytes before it, in every version, so that
//! damage is told from a version of the future. It is written once, when the slab is made, and says
//! nothing that changes.

use std::fmt;

use hearth_proto::hex;
use hearth_proto::limits::{SECTOR_BYTES, SUPERBLOCK_BYTES};

const MAGIC: &[u8; 8] = b"HRTHSLB\n";
const VERSION: u16 = 1;
/// Longest text that says which program made a slab.
const CREATED_WITH_BYTES: usize = 32;
const CREATED_WITH_AT: usize = 48;
const FIELDS_END: usize = CREATED_WITH_AT + CREATED_WITH_BYTES;
const CRC_AT: usize = SUPERBLOCK_BYTES - 4;

/// The identity of a store: 16 random bytes, the same in all its slabs and in its index.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct StoreId(pub(crate) [u8; 16]);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Name and version of the program that made a slab: at most 32 printable characters of ASCII.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct CreatedWith(String);

impl CreatedWith {
    /// Takes what fits of a text: other characters are left out, and what is too long is cut.
    pub(crate) fn new(text: &str) -> Self {
        Self(text.chars().filter(|c| is_printable(*c)).take(CREATED_WITH_BYTES).collect())
    }

    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }

    /// Reads the field: the text, then zeros alone.
    fn from_field(field: &[u8]) -> Option<Self> {
        let len = field.iter().position(|byte| *byte == 0).unwrap_or(field.len());
        let (text, padding) = field.split_at(len);
        let text = std::str::from_utf8(text).ok()?;
        let sound = text.chars().all(is_printable) && padding.iter().all(|byte| *byte == 0);
        sound.then(|| Self(text.to_owned()))
    }
}

fn is_printable(c: char) -> bool {
    matches!(c, ' '..='~')
}

/// What a slab says of itself.
///
/// *Units*: bytes. *Invariants*: `extent_bytes` is a positive multiple of a sector, and so is
/// `data_offset`, which lies behind the superblock.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Superblock {
    pub(crate) store_id: StoreId,
    /// Which of the store's slabs this is, counted from zero.
    pub(crate) member: u16,
    pub(crate) extent_bytes: u64,
    /// Where the first extent begins.
    pub(crate) data_offset: u64,
    pub(crate) created_with: CreatedWith,
}

/// Why bytes are not a superblock that this version can use.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum SuperblockError {
    /// Nothing was written here: a slab may be made.
    #[error("there is no superblock, only zeros")]
    Blank,
    /// Something else than a slab lies here, which may be somebody's: it is left alone.
    #[error("there is no superblock, but other data")]
    NoSuperblock,
    /// The slab is damaged: it is set aside.
    #[error("the superblock's checksum is wrong")]
    Checksum,
    /// The slab belongs to a newer Hearth: it is left alone, and the operator installs that one.
    #[error("the slab has format {found}, and this version of Hearth knows formats up to {supported}")]
    Newer { found: u16, supported: u16 },
    /// The checksum is right and a field is not: no version of Hearth wrote this.
    #[error("the superblock's {0} is not one")]
    Field(&'static str),
}

impl Superblock {
    /// True if a superblock may begin with these bytes.
    pub(crate) fn may_begin_with(bytes: &[u8]) -> bool {
        !bytes.is_empty() && bytes.iter().zip(MAGIC).all(|(found, magic)| found == magic)
    }

    pub(crate) fn encode(&self) -> [u8; SUPERBLOCK_BYTES] {
        assert!(is_extent_size(self.extent_bytes) && is_data_offset(self.data_offset), "{self:?} is unsound");
        let mut bytes = [0; SUPERBLOCK_BYTES];
        bytes[0..8].copy_from_slice(MAGIC);
        bytes[8..10].copy_from_slice(&VERSION.to_le_bytes());
        bytes[10..12].copy_from_slice(&self.member.to_le_bytes());
        bytes[16..32].copy_from_slice(&self.store_id.0);
        bytes[32..40].copy_from_slice(&self.extent_bytes.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.data_offset.to_le_bytes());
        let text = self.created_with.as_str().as_bytes();
        bytes[CREATED_WITH_AT..][..text.len()].copy_from_slice(text);
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    pub(crate) fn decode(bytes: &[u8; SUPERBLOCK_BYTES]) -> Result<Self, SuperblockError> {
        if bytes[0..8] != *MAGIC {
            let blank = bytes.iter().all(|byte| *byte == 0);
            return Err(if blank { SuperblockError::Blank } else { SuperblockError::NoSuperblock });
        }
        if u32::from_le_bytes(array(bytes, CRC_AT)) != crc32fast::hash(&bytes[..CRC_AT]) {
            return Err(SuperblockError::Checksum);
        }
        let version = u16::from_le_bytes(array(bytes, 8));
        if version > VERSION {
            return Err(SuperblockError::Newer { found: version, supported: VERSION });
        }
        let sound = |sound: bool, field| if sound { Ok(()) } else { Err(SuperblockError::Field(field)) };
        sound(version == VERSION, "version")?;
        let zeros = |range: &[u8]| range.iter().all(|byte| *byte == 0);
        sound(zeros(&bytes[12..16]) && zeros(&bytes[FIELDS_END..CRC_AT]), "reserved part")?;
        let extent_bytes = u64::from_le_bytes(array(bytes, 32));
        sound(is_extent_size(extent_bytes), "extent size")?;
        let data_offset = u64::from_le_bytes(array(bytes, 40));
        sound(is_data_offset(data_offset), "data offset")?;
        let created_with = CreatedWith::from_field(&bytes[CREATED_WITH_AT..FIELDS_END]);
        Ok(Self {
            store_id: StoreId(array(bytes, 16)),
            member: u16::from_le_bytes(array(bytes, 10)),
            extent_bytes,
            data_offset,
            created_with: created_with.ok_or(SuperblockError::Field("creator"))?,
        })
    }
}

fn is_extent_size(bytes: u64) -> bool {
    bytes > 0 && bytes.is_multiple_of(SECTOR_BYTES as u64)
}

fn is_data_offset(offset: u64) -> bool {
    offset >= SUPERBLOCK_BYTES as u64 && offset.is_multiple_of(SECTOR_BYTES as u64)
}

/// The bytes of a field, which lies within the superblock.
fn array<const N: usize>(bytes: &[u8; SUPERBLOCK_BYTES], at: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[at..at + N]);
    field
}

#[cfg(test)]
mod tests {
    use hearth_proto::limits::{EXTENT_BYTES, SLAB_DATA_OFFSET_BYTES};
    use proptest::prelude::*;

    use super::*;

    fn superblock() -> Superblock {
        Superblock {
            store_id: StoreId([0xab; 16]),
            member: 0x0102,
            extent_bytes: EXTENT_BYTES as u64,
            data_offset: SLAB_DATA_OFFSET_BYTES,
            created_with: CreatedWith::new("hearth 0.1.0"),
        }
    }

    #[test]
    fn the_bytes_of_a_superblock_never_change() {
        let mut golden = Vec::new();
        golden.extend(b"HRTHSLB\n");
        golden.extend([1, 0, 2, 1, 0, 0, 0, 0]);
        golden.extend([0xab; 16]);
        golden.extend([0, 0, 0, 8, 0, 0, 0, 0]);
        golden.extend([0, 0, 0x10, 0, 0, 0, 0, 0]);
        golden.extend(b"hearth 0.1.0");
        golden.resize(CRC_AT, 0);
        // Taken from Python: `zlib.crc32` of the 4,092 bytes above.
        golden.extend(0x9dca_58ad_u32.to_le_bytes());
        assert_eq!(superblock().encode().to_vec(), golden);
    }

    fn resealed(mut bytes: [u8; SUPERBLOCK_BYTES]) -> [u8; SUPERBLOCK_BYTES] {
        let crc = crc32fast::hash(&bytes[..CRC_AT]);
        bytes[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    #[test]
    fn each_fault_has_its_name() {
        let changed = |at: usize, byte: u8| {
            let mut bytes = superblock().encode();
            bytes[at] = byte;
            bytes
        };
        let resealed = |at: usize, byte: u8| Superblock::decode(&resealed(changed(at, byte)));
        assert_eq!(Superblock::decode(&[0; SUPERBLOCK_BYTES]), Err(SuperblockError::Blank));
        assert_eq!(Superblock::decode(&changed(0, b'h')), Err(SuperblockError::NoSuperblock));
        assert_eq!(Superblock::decode(&changed(8, 2)), Err(SuperblockError::Checksum));
        assert_eq!(Superblock::decode(&changed(3_000, 1)), Err(SuperblockError::Checksum));
        assert_eq!(resealed(8, 2), Err(SuperblockError::Newer { found: 2, supported: 1 }));
        assert_eq!(resealed(9, 1), Err(SuperblockError::Newer { found: 257, supported: 1 }));
        for (at, byte, field) in [
            (8, 0, "version"),
            (12, 1, "reserved part"),
            (80, 1, "reserved part"),
            (4_091, 1, "reserved part"),
            (32, 1, "extent size"),
            (35, 0, "extent size"),
            (40, 1, "data offset"),
            (42, 0, "data offset"),
            (48, 0x1f, "creator"),
            (49, 0xc3, "creator"),
            (79, b'x', "creator"),
        ] {
            assert_eq!(resealed(at, byte), Err(SuperblockError::Field(field)), "{at} is {byte}");
        }
    }

    #[test]
    fn a_newer_version_is_named_beside_ours() {
        let text = SuperblockError::Newer { found: 7, supported: 1 }.to_string();
        assert_eq!(text, "the slab has format 7, and this version of Hearth knows formats up to 1");
    }

    #[test]
    fn the_creator_is_what_fits_of_a_text() {
        assert_eq!(CreatedWith::new("hearth\n0.1 \u{e9}").as_str(), "hearth0.1 ");
        assert_eq!(CreatedWith::new(&"x".repeat(33)).as_str(), "x".repeat(32));
    }

    fn any_superblock() -> impl Strategy<Value = Superblock> {
        let sectors = u64::MAX / SECTOR_BYTES as u64;
        (any::<([u8; 16], u16, String)>(), 1..=sectors, 1..=sectors).prop_map(|(fields, extent, offset)| {
            Superblock {
                store_id: StoreId(fields.0),
                member: fields.1,
                extent_bytes: extent * SECTOR_BYTES as u64,
                data_offset: offset * SECTOR_BYTES as u64,
                created_with: CreatedWith::new(&fields.2),
            }
        })
    }

    proptest! {
        #[test]
        fn every_superblock_survives(superblock in any_superblock()) {
            prop_assert_eq!(Superblock::decode(&superblock.encode()), Ok(superblock));
        }

        #[test]
        fn any_changed_byte_is_noticed(superblock in any_superblock(), at in 0..SUPERBLOCK_BYTES, flip in 1..=255_u8) {
            let mut bytes = superblock.encode();
            bytes[at] ^= flip;
            prop_assert!(Superblock::decode(&bytes).is_err());
        }

        #[test]
        fn any_bytes_are_refused_or_the_only_way_to_say_a_superblock(
            superblock in any_superblock(), blank: bool,
            changes in prop::collection::vec((prop_oneof![0..100_usize, 0..SUPERBLOCK_BYTES], any::<u8>()), 0..8),
        ) {
            let mut bytes = if blank { [0; SUPERBLOCK_BYTES] } else { superblock.encode() };
            for (at, byte) in changes {
                bytes[at] = byte;
            }
            for bytes in [bytes, resealed(bytes)] {
                if let Ok(superblock) = Superblock::decode(&bytes) {
                    prop_assert!(superblock.encode() == bytes);
                }
            }
        }
    }
}
