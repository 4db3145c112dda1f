//! Tells a torn end of RocksDB's log files from damage, before RocksDB opens them.
//!
//! RocksDB takes a record that seems to reach beyond the end of its file for the torn last write of a crash
//! and drops it in silence, with everything behind it. One flipped bit in a length does that to records that
//! were synced and acknowledged, and a node that lost its vote that way votes twice in a term. It also takes
//! a record whose type turned into that of a recycled log for the end of the file. So its log files (the
//! write-ahead logs, and the manifest, which has the same form) are read here first, strictly: an end is torn
//! only if nothing whole stands in it.
//!
//! Source: RocksDB, `db/log_format.h`, `db/log_reader.cc` `ReadPhysicalRecord`: blocks of 32 KiB; records of
//! masked crc32c of type and payload, length u16, type u8, payload; fewer than 7 bytes left of a block are
//! filled up.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
/// Full, first, middle, last; the others are of features that this database does not use.
const TYPES: std::ops::RangeInclusive<u8> = 1..=4;

/// A log file that holds something else than was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("its file {name} holds something else than was written from byte {offset} on")]
pub(super) struct Damage {
    name: String,
    offset: u64,
}

/// Why the log files were not found good.
#[derive(Debug, thiserror::Error)]
pub(super) enum CheckError {
    #[error(transparent)]
    Damaged(#[from] Damage),
    #[error("the log files of the metadata cannot be read")]
    Io(#[from] io::Error),
}

/// Checks the log files of the database in `dir`, which need not exist.
pub(super) fn check(dir: &Path) -> Result<(), CheckError> {
    let entries = match std::fs::read_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let path = entry?.path();
        let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        let is_log = name.strip_suffix(".log").is_some_and(|stem| stem.bytes().all(|b| b.is_ascii_digit()));
        if (is_log || name.starts_with("MANIFEST-"))
            && let Some(offset) = damage_in_file(&path)?
        {
            return Err(Damage { name: name.to_owned(), offset }.into());
        }
    }
    Ok(())
}

fn damage_in_file(path: &Path) -> io::Result<Option<u64>> {
    let mut file = File::open(path)?;
    let mut left = file.metadata()?.len();
    let mut block = vec![0; BLOCK_BYTES];
    let mut start = 0;
    while left > 0 {
        let size = usize::try_from(left).unwrap_or(usize::MAX).min(BLOCK_BYTES);
        file.read_exact(&mut block[..size])?;
        left -= size as u64;
        if let Some(offset) = damage_in(&block[..size], left == 0) {
            return Ok(Some(start + offset as u64));
        }
        start += size as u64;
    }
    Ok(None)
}

/// Where a block begins to hold something else than was written, if it does; the last one may be torn.
fn damage_in(block: &[u8], is_last: bool) -> Option<usize> {
    let mut at = 0;
    while block.len() - at >= HEADER_BYTES {
        match whole_record(&block[at..]) {
            Some(size) => at += size,
            None if is_last && is_torn(&block[at..]) => return None,
            None => return Some(at),
        }
    }
    None
}

/// The size of the whole record that `bytes` begin with.
fn whole_record(bytes: &[u8]) -> Option<usize> {
    let (header, rest) = bytes.split_first_chunk::<HEADER_BYTES>()?;
    let length = usize::from(u16::from_le_bytes([header[4], header[5]]));
    let is_whole = TYPES.contains(&header[6]) && length <= rest.len() && crc_matches(bytes, length);
    is_whole.then_some(HEADER_BYTES + length)
}

/// Whether what is left of the last block is a record that was never written in full: it says that it is
/// longer, was not simply given a wrong length, and nothing whole stands behind its beginning.
fn is_torn(rest: &[u8]) -> bool {
    let length = usize::from(u16::from_le_bytes([rest[4], rest[5]]));
    TYPES.contains(&rest[6])
        && HEADER_BYTES + length > rest.len()
        && !crc_matches(rest, rest.len() - HEADER_BYTES)
        && (1..rest.len()).all(|at| whole_record(&rest[at..]).is_none())
}

fn crc_matches(record: &[u8], length: usize) -> bool {
    let stored = u32::from_le_bytes([record[0], record[1], record[2], record[3]]);
    let crc = crc32c(&record[HEADER_BYTES - 1..HEADER_BYTES + length]);
    crc.rotate_right(15).wrapping_add(0xa282_ead8) == stored
}

/// Castagnoli's polynomial, as RocksDB has it; the other crc of this crate is another one.
fn crc32c(bytes: &[u8]) -> u32 {
    !bytes.iter().fold(!0u32, |crc, byte| (crc >> 8) ^ CRC_TABLE[usize::from(crc.to_le_bytes()[0] ^ byte)])
}

const CRC_TABLE: [u32; 256] = {
    let mut table = [0; 256];
    let mut byte = 0;
    while byte < 256 {
        let mut crc = byte as u32;
        let mut bit = 0;
        while bit < 8 {
            crc = if crc & 1 == 1 { (crc >> 1) ^ 0x82f6_3b78 } else { crc >> 1 };
            bit += 1;
        }
        table[byte] = crc;
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    fn record(payload: &[u8]) -> Vec<u8> {
        let typed = [&[1], payload].concat();
        let crc = crc32c(&typed).rotate_right(15).wrapping_add(0xa282_ead8);
        let length = u16::try_from(payload.len()).unwrap().to_le_bytes();
        [&crc.to_le_bytes(), &length[..], &typed].concat()
    }

    #[test]
    fn the_crc_is_castagnolis() {
        assert_eq!(crc32c(b"123456789"), 0xe306_9283);
    }

    #[test]
    fn every_flipped_bit_is_damage_and_every_cut_is_torn() {
        let records = [record(b"the first"), record(b"the second one"), record(&[7; 600]), record(b"last")];
        let good = records.concat();
        assert_eq!(damage_in(&good, true), None);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            assert!(damage_in(&bad, true).is_some(), "bit {} of byte {}", bit % 8, bit / 8);
        }
        for size in 0..good.len() {
            assert_eq!(damage_in(&good[..size], true), None, "cut after {size} bytes");
        }
        let start = good.len() - records[3].len();
        assert_eq!(
            damage_in(&good[..good.len() - 1], false),
            Some(start),
            "nothing before the last block is torn"
        );
    }
}
