//! Keys and values of the index, byte for byte. Numbers are little-endian in values, big-endian in keys.

use hearth_proto::{BlockId, BlockKey, Generation, NamespaceId, Priority};

/// Length of a block's key: namespace, block key.
const BLOCK_KEY_BYTES: usize = 36;
/// Length of a block's value.
const BLOCK_VALUE_BYTES: usize = 40;
/// Where the fields of a block's value end and the zeros begin.
const FIELDS_END: usize = 33;
/// Stands for a priority that never falls back.
const NEVER: u64 = u64::MAX;
/// Length of an extent's value.
const EXTENT_VALUE_BYTES: usize = 11;

/// Where a block lies, and how long it is kept.
///
/// ```text
/// offset  0       4            8           16           20     24            32        33     40
///         sector  payload_len  generation  payload_crc  depth  expires_at_ms priority  zeros
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct BlockEntry {
    pub(crate) id: BlockId,
    pub(crate) sector: u32,
    pub(crate) payload_len: u32,
    pub(crate) generation: Generation,
    pub(crate) payload_crc: u32,
    pub(crate) depth: u32,
    pub(crate) priority: Priority,
    /// Milliseconds since the Unix epoch at which the priority falls back; `None` is never.
    pub(crate) expires_at_ms: Option<u64>,
}

impl BlockEntry {
    pub(crate) fn key_of(id: &BlockId) -> [u8; BLOCK_KEY_BYTES] {
        let mut key = [0; BLOCK_KEY_BYTES];
        key[..4].copy_from_slice(&id.namespace.0.to_be_bytes());
        key[4..].copy_from_slice(&id.key.0);
        key
    }

    pub(crate) fn value(&self) -> [u8; BLOCK_VALUE_BYTES] {
        let mut value = [0; BLOCK_VALUE_BYTES];
        value[0..4].copy_from_slice(&self.sector.to_le_bytes());
        value[4..8].copy_from_slice(&self.payload_len.to_le_bytes());
        value[8..16].copy_from_slice(&self.generation.0.to_le_bytes());
        value[16..20].copy_from_slice(&self.payload_crc.to_le_bytes());
        value[20..24].copy_from_slice(&self.depth.to_le_bytes());
        value[24..32].copy_from_slice(&self.expires_at_ms.unwrap_or(NEVER).to_le_bytes());
        value[32] = self.priority.value();
        value
    }

    /// Reads an entry back; `None` if the bytes are not one. There is one way to say an entry: what
    /// decodes is what [`BlockEntry::value`] makes of it again.
    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let key: &[u8; BLOCK_KEY_BYTES] = key.try_into().ok()?;
        let value: &[u8; BLOCK_VALUE_BYTES] = value.try_into().ok()?;
        if value[FIELDS_END..].iter().any(|byte| *byte != 0) {
            return None;
        }
        let (namespace, block) = key.split_first_chunk()?;
        let u32_at = |at: usize| value[at..].first_chunk().copied().map(u32::from_le_bytes);
        let u64_at = |at: usize| value[at..].first_chunk().copied().map(u64::from_le_bytes);
        Some(Self {
            id: BlockId {
                namespace: NamespaceId(u32::from_be_bytes(*namespace)),
                key: BlockKey::try_from(block).ok()?,
            },
            sector: u32_at(0)?,
            payload_len: u32_at(4)?,
            generation: Generation(u64_at(8)?),
            payload_crc: u32_at(16)?,
            depth: u32_at(20)?,
            priority: Priority::new(value[32]).ok()?,
            expires_at_ms: u64_at(24).filter(|ms| *ms != NEVER),
        })
    }
}

/// Where an extent lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Place {
    /// Number of the member.
    pub(crate) member: u16,
    /// Which of the member's extents it is.
    pub(crate) local: u32,
}

/// The record size that an extent serves, where it lies, and whether it may be used.
///
/// ```text
/// offset  0      4      8       10      11
///         class  local  member  fenced
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ExtentEntry {
    pub(crate) extent: u32,
    /// Sectors of one slot; zero if the extent was fenced before it served anyone.
    pub(crate) class: u32,
    pub(crate) fenced: bool,
    /// Where the extent lies.
    pub(crate) place: Place,
}

impl ExtentEntry {
    pub(crate) fn key(&self) -> [u8; 4] {
        self.extent.to_be_bytes()
    }

    pub(crate) fn value(&self) -> [u8; EXTENT_VALUE_BYTES] {
        let mut value = [0; EXTENT_VALUE_BYTES];
        value[0..4].copy_from_slice(&self.class.to_le_bytes());
        value[4..8].copy_from_slice(&self.place.local.to_le_bytes());
        value[8..10].copy_from_slice(&self.place.member.to_le_bytes());
        value[10] = u8::from(self.fenced);
        value
    }

    pub(crate) fn decode(key: &[u8], value: &[u8]) -> Option<Self> {
        let extent = u32::from_be_bytes(key.try_into().ok()?);
        let value: &[u8; EXTENT_VALUE_BYTES] = value.try_into().ok()?;
        let [c0, c1, c2, c3, l0, l1, l2, l3, m0, m1, fenced @ (0 | 1)] = *value else { return None };
        let (member, local) = (u16::from_le_bytes([m0, m1]), u32::from_le_bytes([l0, l1, l2, l3]));
        let class = u32::from_le_bytes([c0, c1, c2, c3]);
        Some(Self { extent, class, fenced: fenced == 1, place: Place { member, local } })
    }
}

/// A slot in which a record may lie that the index does not name. One after the other they make one value:
/// the first sector, then the generation, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ReadySlot {
    pub(crate) sector: u32,
    /// The first put whose record counts: what puts before it left there was let go of.
    pub(crate) from: Generation,
}

impl ReadySlot {
    const BYTES: usize = 12;

    /// The value that stands for all of them.
    pub(crate) fn value(slots: impl Iterator<Item = Self>) -> Vec<u8> {
        let bytes = |slot: Self| {
            let mut bytes = [0; Self::BYTES];
            bytes[..4].copy_from_slice(&slot.sector.to_le_bytes());
            bytes[4..].copy_from_slice(&slot.from.0.to_le_bytes());
            bytes
        };
        slots.flat_map(bytes).collect()
    }

    /// Reads them back; `None` if the bytes are no such value.
    pub(crate) fn decode(value: &[u8]) -> Option<Vec<Self>> {
        let (slots, rest) = value.as_chunks::<{ Self::BYTES }>();
        let slot = |bytes: &[u8; Self::BYTES]| {
            let (sector, from) = bytes.split_first_chunk()?;
            let from = u64::from_le_bytes(from.try_into().ok()?);
            Some(Self { sector: u32::from_le_bytes(*sector), from: Generation(from) })
        };
        if rest.is_empty() { slots.iter().map(slot).collect() } else { None }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn the_bytes_of_an_entry_never_change() {
        let entry = BlockEntry {
            id: BlockId { namespace: NamespaceId(0x0102_0304), key: BlockKey([9; 32]) },
            sector: 0x0a0b_0c0d,
            payload_len: 7,
            generation: Generation(0x0102_0304_0506_0708),
            payload_crc: 0x1112_1314,
            depth: 3,
            priority: Priority::new(80).unwrap(),
            expires_at_ms: None,
        };
        let key = BlockEntry::key_of(&entry.id);
        assert_eq!(key[..5], [1, 2, 3, 4, 9]);
        let mut golden = vec![0x0d, 0x0c, 0x0b, 0x0a, 7, 0, 0, 0, 8, 7, 6, 5, 4, 3, 2, 1];
        golden.extend([0x14, 0x13, 0x12, 0x11, 3, 0, 0, 0]);
        golden.extend([0xff; 8]);
        golden.extend([80, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(entry.value().to_vec(), golden);
        assert_eq!(BlockEntry::decode(&key, &golden), Some(entry));
        for reserved in FIELDS_END..BLOCK_VALUE_BYTES {
            let mut bytes = golden.clone();
            bytes[reserved] = 1;
            assert_eq!(BlockEntry::decode(&key, &bytes), None, "byte {reserved} is set");
        }
    }

    #[test]
    fn ready_slots_survive_their_bytes() {
        let first = ReadySlot { sector: 0x0102_0304, from: Generation(0x1112_1314_1516_1718) };
        let second = ReadySlot { sector: 9, from: Generation(0) };
        let value = ReadySlot::value([first, second].into_iter());
        assert_eq!(value[..12], [4, 3, 2, 1, 0x18, 0x17, 0x16, 0x15, 0x14, 0x13, 0x12, 0x11]);
        assert_eq!(ReadySlot::decode(&value), Some(vec![first, second]));
        assert_eq!((ReadySlot::decode(&[]), ReadySlot::decode(&value[1..])), (Some(Vec::new()), None));
    }

    #[test]
    fn an_extent_survives_its_bytes() {
        let place = Place { member: 0x0304, local: 0x0a0b_0c0d };
        let entry = ExtentEntry { extent: 5, class: 0x0102, fenced: true, place };
        assert_eq!(entry.key(), [0, 0, 0, 5]);
        assert_eq!(entry.value(), [2, 1, 0, 0, 0x0d, 0x0c, 0x0b, 0x0a, 4, 3, 1]);
        assert_eq!(ExtentEntry::decode(&entry.key(), &entry.value()), Some(entry));
        assert_eq!(ExtentEntry::decode(&entry.key(), &[2, 1, 0, 0, 0, 0, 0, 0, 0, 0, 2]), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_refused_or_the_only_way_to_say_an_entry(
            key in prop::collection::vec(any::<u8>(), 0..40),
            value in prop::collection::vec(any::<u8>(), 0..44),
            block_key: [u8; BLOCK_KEY_BYTES], fields: [u8; FIELDS_END],
            extent_key: [u8; 4], extent_value: [u8; 5],
        ) {
            let mut block_value = [0; BLOCK_VALUE_BYTES];
            block_value[..FIELDS_END].copy_from_slice(&fields);
            for (key, value) in [(&key[..], &value[..]), (&block_key, &block_value)] {
                if let Some(entry) = BlockEntry::decode(key, value) {
                    prop_assert_eq!((&BlockEntry::key_of(&entry.id)[..], &entry.value()[..]), (key, value));
                }
            }
            for (key, value) in [(&key[..], &value[..]), (&extent_key, &extent_value)] {
                if let Some(entry) = ExtentEntry::decode(key, value) {
                    prop_assert_eq!((&entry.key()[..], &entry.value()[..]), (key, value));
                }
            }
        }

        #[test]
        fn every_entry_survives(
            key: [u8; 32], numbers: (u32, u32, u32, u64, u32, u32), priority in 0..=100_u8,
            expires_at_ms in prop::option::of(0..u64::MAX),
        ) {
            let (namespace, sector, payload_len, generation, payload_crc, depth) = numbers;
            let entry = BlockEntry {
                id: BlockId { namespace: NamespaceId(namespace), key: BlockKey(key) },
                sector, payload_len, payload_crc, depth, expires_at_ms,
                generation: Generation(generation),
                priority: Priority::new(priority).unwrap(),
            };
            prop_assert_eq!(BlockEntry::decode(&BlockEntry::key_of(&entry.id), &entry.value()), Some(entry));
        }
    }
}
