//! Tells a torn end of RocksDB's log files from damage, before RocksDB opens them.
//!
//! RocksDB takes a record that seems to reach beyond the end of its file for the torn last write of a crash
//! and drops it in silence, with everything behind it. One flipped bit in a length does that to records that
//! were synced and acknowledged, and a node that lost its vote that way votes twice in a term. It also takes
//! a record whose type turned into that of a recycled log for the end of the file. So its log files (the
//! write-ahead logs, and the manifest, which has the same form) are read here first, strictly: an end is torn
//! only if nothing whole stands in it.
//!
//! A file that lost power may be longer than what was written of it: its size was written and its last pages were
//! not, which read as zeros. Nothing of that was synced, and it is cut off here, because RocksDB takes some of it for
//! damage. Pages that were written behind one that was not are no such end: a node that finds that does not go on.
//!
//! Source: RocksDB, `db/log_format.h`, `db/log_reader.cc` `ReadPhysicalRecord`: blocks of 32 KiB; records of
//! masked crc32c of type and payload, length u16, type u8, payload; fewer than 7 bytes left of a block are
//! filled up.

use std::fs::File;
use std::io::{self, Read, Seek};
use std::path::Path;

const BLOCK_BYTES: usize = 32 << 10;
const HEADER_BYTES: usize = 7;
/// What a file system writes, or does not.
const PAGE_BYTES: u64 = 4_096;
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
            && let Found::Damaged(offset) = check_file(&path)?
        {
            return Err(Damage { name: name.to_owned(), offset }.into());
        }
    }
    Ok(())
}

/// How a log file ends, or does not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Found {
    /// With a record, or with a part of one that was never written in full.
    Good,
    /// From here on with what was never written, as zeros.
    Unwritten(u64),
    /// From here on it holds something else than was written.
    Damaged(u64),
}

fn check_file(path: &Path) -> io::Result<Found> {
    let mut file = File::options().read(true).write(true).open(path)?;
    let found = read_through(&mut file)?;
    if let Found::Unwritten(offset) = found {
        tracing::warn!(?path, offset, "the file ends with pages that were never written; they are cut off");
        file.set_len(offset)?;
        file.sync_all()?;
    }
    Ok(found)
}

fn read_through(file: &mut File) -> io::Result<Found> {
    let end = End { written: end_of_written(file)?, size: file.metadata()?.len() };
    file.rewind()?;
    let (mut block, mut start) = (vec![0; BLOCK_BYTES], 0);
    while start < end.size {
        let size = usize::try_from(end.size - start).unwrap_or(usize::MAX).min(BLOCK_BYTES);
        file.read_exact(&mut block[..size])?;
        match look_at(&block[..size], start, end) {
            Found::Good => start += size as u64,
            other => return Ok(other),
        }
    }
    Ok(Found::Good)
}

/// Where a file ends.
#[derive(Debug, Clone, Copy)]
struct End {
    /// Zeros from here on.
    written: u64,
    size: u64,
}

fn end_of_written(file: &mut File) -> io::Result<u64> {
    file.rewind()?;
    let (mut bytes, mut start, mut written) = (vec![0; BLOCK_BYTES], 0, 0);
    loop {
        let size = file.read(&mut bytes)?;
        if size == 0 {
            return Ok(written);
        }
        if let Some(last) = bytes[..size].iter().rposition(|byte| *byte != 0) {
            written = start + last as u64 + 1;
        }
        start += size as u64;
    }
}

/// Whether a block, which begins at `start`, holds what was written.
fn look_at(block: &[u8], start: u64, end: End) -> Found {
    let is_last = start + block.len() as u64 == end.size;
    let mut at = 0;
    while block.len() - at >= HEADER_BYTES {
        let offset = start + at as u64;
        match whole_record(&block[at..]) {
            Some(size) => at += size,
            None if is_unwritten(&block[at..], offset, end) => return Found::Unwritten(offset),
            None if is_last && is_torn(&block[at..]) => return Found::Good,
            None => return Found::Damaged(offset),
        }
    }
    Found::Good
}

/// Whether nothing is there from this record on, or a page of it and all behind it was never written.
fn is_unwritten(rest: &[u8], offset: u64, end: End) -> bool {
    if offset >= end.written {
        return true;
    }
    // Zeros may be of the record itself: whole pages of them are not of one that was written in full.
    let missing = end.written.next_multiple_of(PAGE_BYTES);
    let length = u64::from(u16::from_le_bytes([rest[4], rest[5]]));
    let reaches = offset + HEADER_BYTES as u64 + length > missing;
    missing < end.size && reaches && (1..rest.len()).all(|at| whole_record(&rest[at..]).is_none())
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
        let look = |bytes: &[u8], is_last: bool| {
            let size = bytes.len() as u64 + u64::from(!is_last);
            let written = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last as u64 + 1);
            look_at(bytes, 0, End { written: if is_last { written } else { size }, size })
        };
        assert_eq!(look(&good, true), Found::Good);
        for bit in 0..good.len() * 8 {
            let mut bad = good.clone();
            bad[bit / 8] ^= 1 << (bit % 8);
            let found = look(&bad, true);
            assert!(matches!(found, Found::Damaged(_)), "bit {} of byte {}: {found:?}", bit % 8, bit / 8);
        }
        for size in 0..good.len() {
            assert_eq!(look(&good[..size], true), Found::Good, "cut after {size} bytes");
        }
        let start = (good.len() - records[3].len()) as u64;
        let found = look(&good[..good.len() - 1], false);
        assert_eq!(found, Found::Damaged(start), "nothing before the last block is torn");
    }

    fn file_of(bytes: &[u8]) -> (tempfile::TempDir, std::path::PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("000001.log");
        std::fs::write(&path, bytes).unwrap();
        (dir, path)
    }

    #[test]
    fn what_was_never_written_is_cut_off() {
        let good = [record(b"the first"), record(&[7; 600])].concat();
        for zeros in [1, 6, 7, 16, 4_096, 8_192, 3 * BLOCK_BYTES] {
            let (_dir, path) = file_of(&[good.clone(), vec![0; zeros]].concat());
            // Fewer than a header are what fills a block up.
            let expected =
                if zeros < HEADER_BYTES { Found::Good } else { Found::Unwritten(good.len() as u64) };
            assert_eq!(check_file(&path).unwrap(), expected, "{zeros} zeros");
            if zeros >= HEADER_BYTES {
                assert_eq!(std::fs::read(&path).unwrap(), good);
            }
        }
        // A record of three pages, of which the last, or the last two, are missing.
        let long = record(&[7; 10_000]);
        for page in [4_096, 8_192] {
            let mut bytes = [good.clone(), long.clone()].concat();
            bytes[page..].fill(0);
            let (_dir, path) = file_of(&bytes);
            assert_eq!(check_file(&path).unwrap(), Found::Unwritten(good.len() as u64));
        }
    }

    #[test]
    fn zeros_that_are_no_missing_pages_are_damage() {
        let good = [record(b"the first"), record(&[7; 600])].concat();
        let long = record(&[7; 10_000]);
        let whole = [good.clone(), long.clone()].concat();
        // Within a page; a page in the middle; a flipped bit before pages that are missing behind the record.
        let mut cases = [whole.clone(), whole.clone(), [whole.clone(), vec![0; 8_192]].concat()];
        let last = whole.len() - 100;
        cases[0][last..].fill(0);
        cases[1][4_096..8_192].fill(0);
        cases[2][good.len() + 50] ^= 1;
        for (number, bytes) in cases.iter().enumerate() {
            let (_dir, path) = file_of(bytes);
            assert_eq!(check_file(&path).unwrap(), Found::Damaged(good.len() as u64), "case {number}");
            assert_eq!(std::fs::read(&path).unwrap(), *bytes, "it stays as it is");
        }
    }
}
