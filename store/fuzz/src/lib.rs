//! What lies on a store's disk, decoded from any bytes (INV-BYTES, INV-WIRE).
//!
//! The formats are private to the store and pure, so their files are compiled here once more, by
//! themselves. A dependency on the store would give them away to every user of it, and would compile
//! RocksDB again, with a fuzzer's instruments in it.

#![allow(dead_code, unused_imports)] // The files are the store's: here only their two ends are used.

#[path = "../../src/codec/mod.rs"]
mod codec;
#[path = "../../src/slab/entry.rs"]
mod entry;
#[path = "../../src/slab/footer.rs"]
mod footer;
#[path = "../../src/slab/superblock.rs"]
mod superblock;

use std::cell::RefCell;

use codec::{Codec, Coder};
use entry::{BlockEntry, ExtentEntry, ReadySlot};
use footer::{FOOTER_BYTES, Footer};
use hearth_proto::limits::SUPERBLOCK_BYTES;
use superblock::Superblock;

const MAGIC_AND_VERSION_BYTES: usize = 10;
const CRC_BYTES: usize = 4;
/// Longest payload that is asked for: two groups of the codecs and some of a third.
const PAYLOAD_BYTES_MAX: usize = 300_000;

/// Any 128 bytes are a footer, said in the only way there is, or a typed refusal.
pub fn footer(bytes: &[u8]) {
    let bytes = padded::<FOOTER_BYTES>(bytes);
    for bytes in [bytes, sealed(bytes, b"HRTHREC\n\x02\0")] {
        if let Ok(footer) = Footer::decode(&bytes) {
            assert_eq!(footer.encode(), bytes, "there is one way to say a footer");
        }
    }
}

/// Any 4 KiB are a superblock, said in the only way there is, or a typed refusal.
pub fn superblock(bytes: &[u8]) {
    let bytes = padded::<SUPERBLOCK_BYTES>(bytes);
    for bytes in [bytes, sealed(bytes, b"HRTHSLB\n\x01\0")] {
        if let Ok(superblock) = Superblock::decode(&bytes) {
            assert_eq!(superblock.encode(), bytes, "there is one way to say a superblock");
        }
    }
}

/// Any key and value are an entry of the index, said in the only way there is, or none.
pub fn entry(key: &[u8], value: &[u8]) {
    if let Some(entry) = BlockEntry::decode(key, value) {
        assert_eq!(BlockEntry::key_of(&entry.id), key, "there is one key for a block");
        assert_eq!(entry.value(), value, "there is one way to say a block's entry");
    }
    if let Some(entry) = ExtentEntry::decode(key, value) {
        assert_eq!(entry.key(), key, "there is one key for an extent");
        assert_eq!(entry.value(), value, "there is one way to say an extent's entry");
    }
    if let Some(slots) = ReadySlot::decode(value) {
        assert_eq!(ReadySlot::value(slots.into_iter()), value, "there is one way to say the ready slots");
    }
}

/// Any bytes are the stored form of one payload of the length asked for, or a typed refusal; and any
/// bytes are a payload that survives its stored form, which stands for no payload of another length.
pub fn decode(codec: u8, len: u32, bytes: &[u8]) {
    thread_local! {
        // One for all inputs, as in a store: what one block leaves in its buffers must not reach another.
        static CODER: RefCell<Coder> = RefCell::new(Coder::new());
    }
    let Some(codec) = Codec::from_number(codec) else { return };
    let len = len as usize % PAYLOAD_BYTES_MAX;
    CODER.with_borrow_mut(|coder| {
        let (mut payload, mut again) = (vec![0x00; len], vec![0xff; len]);
        if coder.decode(codec, bytes, &mut payload).is_ok() {
            coder.decode(codec, bytes, &mut again).expect("what decodes once decodes twice");
            assert_eq!(payload, again, "no byte of a payload is what was in the buffer before");
            survives(coder, codec, &payload, bytes.len());
        }
        survives(coder, codec, bytes, len);
    });
}

fn survives(coder: &mut Coder, codec: Codec, payload: &[u8], other_len: usize) {
    // Each piece has a header, and pieces are short only at the end.
    let mut stored = vec![0; payload.len() + payload.len() / 4_096 + 64];
    let stored_len = coder.encode(codec, payload, &mut stored).expect("headers are all that may be added");
    let stored = &stored[..stored_len];
    let mut back = vec![0xee; payload.len()];
    coder.decode(codec, stored, &mut back).expect("what was encoded decodes");
    assert_eq!(back, payload, "a payload survives its stored form");
    back.resize(other_len, 0);
    let other = coder.decode(codec, stored, &mut back);
    assert!(other.is_err() || other_len == payload.len(), "stored bytes stand for one length");
}

fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut padded = [0; N];
    let len = bytes.len().min(N);
    padded[..len].copy_from_slice(&bytes[..len]);
    padded
}

/// The same bytes with what no mutation finds put right: how they begin, and the crc they end with.
fn sealed<const N: usize>(mut bytes: [u8; N], begin: &[u8; MAGIC_AND_VERSION_BYTES]) -> [u8; N] {
    bytes[..MAGIC_AND_VERSION_BYTES].copy_from_slice(begin);
    let (body, end) = bytes.split_at_mut(N - CRC_BYTES);
    end.copy_from_slice(&crc32fast::hash(body).to_le_bytes());
    bytes
}
