//! Payloads that can be told apart wherever they lie, and the fault that flips a byte of each on disk.

use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::timeline::Key;

/// What every payload begins with; its key follows, in eight bytes, little-endian. The peers' scripts do
/// the same.
const MARKER: &[u8; 16] = b"hearth-bench key";
const HEAD_BYTES: usize = MARKER.len() + 8;
const PIECE_BYTES: usize = 4 << 20;

/// The head of a key's payload. What follows it is up to the system that is tried.
pub(crate) fn head(key: Key) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..MARKER.len()].copy_from_slice(MARKER);
    head[MARKER.len()..].copy_from_slice(&u64::from(key).to_le_bytes());
    head
}

/// Flips one bit of one byte of every copy of every second key below `keys` in the files under `folder`, and
/// makes that durable. Returns the keys that were found. The others show what the damage costs its neighbours.
///
/// The byte lies at another place for each key, and never in the head.
pub(crate) fn flip_every_second(folder: &Path, keys: Key, block_bytes: usize) -> io::Result<BTreeSet<Key>> {
    let mut flipped = BTreeSet::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            flipped.extend(flip_every_second(&entry.path(), keys, block_bytes)?);
        } else if entry.file_type()?.is_file() {
            flipped.extend(flip_in_file(&entry.path(), keys, block_bytes)?);
        }
    }
    Ok(flipped)
}

fn flip_in_file(path: &Path, keys: Key, block_bytes: usize) -> io::Result<BTreeSet<Key>> {
    let mut flipped = BTreeSet::new();
    let places = places(&mut File::open(path)?)?;
    if places.is_empty() {
        return Ok(flipped);
    }
    let file = File::options().read(true).write(true).open(path)?;
    let length = file.metadata()?.len();
    for (at, key) in places.into_iter().filter(|(_, key)| *key < keys && key % 2 == 0) {
        let victim = at + victim(key, block_bytes) as u64;
        let mut byte = [0];
        // A copy that was being written when its process ended may be cut off.
        if victim < length {
            file.read_exact_at(&mut byte, victim)?;
            file.write_all_at(&[byte[0] ^ 1], victim)?;
            flipped.insert(key);
        }
    }
    file.sync_all()?;
    Ok(flipped)
}

/// The place of the byte within the payload.
fn victim(key: Key, block_bytes: usize) -> usize {
    HEAD_BYTES + (key as usize * 7_919) % (block_bytes - HEAD_BYTES)
}

/// Where payloads begin, and whose they are.
fn places(from: &mut impl Read) -> io::Result<Vec<(u64, Key)>> {
    let mut places = Vec::new();
    let mut piece = Vec::with_capacity(PIECE_BYTES + HEAD_BYTES);
    let mut start = 0;
    loop {
        let kept = piece.len();
        let read = from.by_ref().take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
        if read == 0 {
            return Ok(places);
        }
        debug_assert!(kept < HEAD_BYTES);
        let mut at = 0;
        while let Some(next) = next_marker(&piece[at..]) {
            let begins = at + next;
            let Some(number) = piece.get(begins + MARKER.len()..begins + HEAD_BYTES) else { break };
            let number = number.try_into().map(u64::from_le_bytes).map_err(io::Error::other)?;
            if let Ok(key) = Key::try_from(number) {
                places.push((start + begins as u64, key));
            }
            at = begins + HEAD_BYTES;
        }
        // A head that the end of the piece cuts is found with the next piece, and no other is found twice.
        let done = piece.len().saturating_sub(HEAD_BYTES - 1).max(at);
        piece.drain(..done);
        start += done as u64;
    }
}

fn next_marker(bytes: &[u8]) -> Option<usize> {
    let mut at = 0;
    loop {
        at += bytes[at..].iter().position(|byte| *byte == MARKER[0])?;
        if bytes[at..].starts_with(MARKER) {
            return Some(at);
        }
        at += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn heads_are_found_wherever_they_lie_also_across_pieces() {
        let mut bytes = vec![b'h'; 3 * PIECE_BYTES];
        let at = [0, 100, PIECE_BYTES - 10, 2 * PIECE_BYTES - HEAD_BYTES, 3 * PIECE_BYTES - HEAD_BYTES];
        for (key, at) in (0..).zip(at) {
            bytes[at..at + HEAD_BYTES].copy_from_slice(&head(key));
        }
        let found = places(&mut bytes.as_slice()).unwrap();
        assert_eq!(found, (0..).zip(at).map(|(key, at)| (at as u64, key)).collect::<Vec<_>>());
        // One that is cut off at the end is none.
        assert_eq!(places(&mut &bytes[..3 * PIECE_BYTES - 1]).unwrap().len(), 4);
    }

    #[test]
    fn exactly_one_bit_of_every_second_key_changes_and_not_in_its_head() {
        let folder = tempfile::tempdir().unwrap();
        let inner = folder.path().join("inner");
        std::fs::create_dir(&inner).unwrap();
        let payload = |key| [&head(key)[..], &[7; 1_000]].concat();
        let before = [payload(0), vec![9; 55], payload(1), payload(2), payload(70)].concat();
        let file = inner.join("bucket");
        std::fs::write(&file, &before).unwrap();
        std::fs::write(folder.path().join("other"), b"nothing of ours").unwrap();

        let flipped = flip_every_second(folder.path(), 70, payload(0).len()).unwrap();
        assert_eq!(flipped, BTreeSet::from([0, 2]), "70 is none of the keys");
        let after = std::fs::read(&file).unwrap();
        let changed: Vec<_> = (0..before.len()).filter(|at| before[*at] != after[*at]).collect();
        assert_eq!(changed.len(), 2);
        assert!(changed.iter().all(|at| (before[*at] ^ after[*at]).count_ones() == 1));
        assert_eq!(places(&mut after.as_slice()).unwrap(), places(&mut before.as_slice()).unwrap());
    }

    #[test]
    fn the_byte_lies_within_the_payload_for_every_key() {
        assert!((0..5_000).all(|key| (HEAD_BYTES..4_096).contains(&victim(key, 4_096))));
    }
}
