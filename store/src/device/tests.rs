//! The ring itself, on a real file.

use std::sync::mpsc;
use std::time::Duration;

use hearth_proto::{BlockId, BlockKey, Generation, NamespaceId};
use tempfile::tempdir;

use super::*;
use crate::arena::Arena;
use crate::codec::Codec;
use crate::slab::Footer;

const TIMEOUT: Duration = Duration::from_secs(20);

struct Bench {
    arena: Arc<Arena>,
    ring: Ring,
    thread: RingThread,
    _dir: tempfile::TempDir,
}

fn bench() -> Bench {
    let dir = tempdir().unwrap();
    let arena = Arena::new(8 << 20, 1 << 20).unwrap();
    let file = open_slab(&dir.path().join("slab")).unwrap();
    let (ring, thread) = Ring::start(file, Arc::clone(&arena)).unwrap();
    thread.wait_until_started().unwrap();
    ring.allocate(4 << 20).unwrap();
    Bench { arena, ring, thread, _dir: dir }
}

fn block(arena: &Arc<Arena>, len: usize, fill: u8) -> Arc<HostBlock> {
    let mut slot = arena.allocate(len).unwrap();
    slot.fill(fill);
    let id = BlockId { namespace: NamespaceId(0), key: BlockKey([fill; 32]) };
    let payload_len = len as u32;
    slot.seal(&Footer {
        id,
        codec: Codec::Raw,
        payload_len,
        stored_len: payload_len,
        generation: Generation(1),
        payload_crc: 0,
    });
    Arc::new(HostBlock::new(slot.into_slot(), Generation(1), 0))
}

fn read(
    bench: &Bench,
    offset: u64,
    len: usize,
    deadline: Instant,
) -> mpsc::Receiver<(SlotMut, io::Result<()>)> {
    let (done, wait) = mpsc::channel();
    let slot = bench.arena.allocate(len).unwrap();
    bench.ring.read(offset, slot, deadline, Box::new(move |slot, result| done.send((slot, result)).unwrap()));
    wait
}

fn write(bench: &Bench, offset: u64, block: Arc<HostBlock>) -> mpsc::Receiver<io::Result<()>> {
    let (done, wait) = mpsc::channel();
    bench.ring.write(offset, block, Box::new(move |result| done.send(result).unwrap()));
    wait
}

#[test]
fn many_transfers_at_once_keep_their_bytes() {
    let bench = bench();
    let writes: Vec<_> =
        (0..200_u8).map(|n| write(&bench, u64::from(n) * 8_192, block(&bench.arena, 8_000, n))).collect();
    for wait in writes {
        wait.recv_timeout(TIMEOUT).unwrap().unwrap();
    }
    let (done, wait) = mpsc::channel();
    bench.ring.sync(Box::new(move |result| done.send(result).unwrap()));
    wait.recv_timeout(TIMEOUT).unwrap().unwrap();
    let deadline = Instant::now() + TIMEOUT;
    let reads: Vec<_> = (0..200_u64).map(|n| read(&bench, n * 8_192, 8_000, deadline)).collect();
    for (n, wait) in reads.into_iter().enumerate() {
        let (slot, result) = wait.recv_timeout(TIMEOUT).unwrap();
        result.unwrap();
        assert!(slot.iter().all(|byte| *byte == n as u8), "record {n}");
        assert!(Footer::decode(slot.footer()).is_ok(), "record {n}");
    }
    bench.thread.stop();
}

#[test]
fn reads_that_are_too_late_fail_at_once_and_hold_up_nobody() {
    let bench = bench();
    let late: Vec<_> = (0..300).map(|_| read(&bench, 0, 100, Instant::now())).collect();
    for wait in late {
        let (_, result) = wait.recv_timeout(TIMEOUT).unwrap();
        assert_eq!(result.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
    bench.thread.stop();
}

#[test]
fn a_read_beyond_the_end_says_so() {
    let bench = bench();
    let wait = read(&bench, 4 << 20, 100, Instant::now() + TIMEOUT);
    assert_eq!(wait.recv_timeout(TIMEOUT).unwrap().1.unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    bench.thread.stop();
}

#[test]
fn stopping_completes_what_was_taken_and_refuses_the_rest() {
    let bench = bench();
    let writes: Vec<_> =
        (0..200_u8).map(|n| write(&bench, u64::from(n) * 8_192, block(&bench.arena, 8_000, n))).collect();
    bench.thread.stop();
    for wait in writes {
        wait.try_recv().expect("stopping waits for every transfer").unwrap();
    }
    let (done, wait) = mpsc::channel();
    bench.ring.sync(Box::new(move |result| done.send(result).unwrap()));
    assert_eq!(wait.try_recv().unwrap().unwrap_err().kind(), io::ErrorKind::NotConnected);
    assert_eq!(crate::sync::lock(bench.arena.slots()).used_bytes(), 0, "INV-LEAK");
}
