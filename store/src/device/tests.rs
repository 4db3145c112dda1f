//! The ring itself, on a real file.

use std::sync::mpsc;
use std::time::{Duration, Instant};

use hearth_proto::{BlockId, BlockKey, Generation, NamespaceId};
use tempfile::tempdir;

use super::*;
use crate::arena::HostBlock;
use crate::codec::Codec;
use crate::slab::Footer;

const TIMEOUT: Duration = Duration::from_secs(20);

struct Bench {
    arena: Arc<Arena>,
    device: Arc<dyn Device>,
    _dir: tempfile::TempDir,
}

fn bench() -> Bench {
    let dir = tempdir().unwrap();
    let arena = Arena::new(8 << 20, 1 << 20).unwrap();
    let member = Member::open(&dir.path().join("slab")).unwrap();
    let started = start(member, Arc::clone(&arena), DriverOptions::default()).unwrap();
    started.wait_until_ready();
    let device = started.device;
    device.allocate(4 << 20).unwrap();
    Bench { arena, device, _dir: dir }
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

fn read(bench: &Bench, offset: u64, len: usize, deadline: Instant) -> ReadEnd {
    let (done, end) = ReadDone::new();
    let slot = bench.arena.allocate(len).unwrap();
    bench.device.submit(Request::Read { offset, slot, urgency: Urgency::Normal, deadline, done });
    end
}

fn done() -> (Done, mpsc::Receiver<io::Result<()>>) {
    let (done, wait) = mpsc::channel();
    (Box::new(move |result| done.send(result).unwrap()), wait)
}

fn write(bench: &Bench, offset: u64, block: Arc<HostBlock>) -> mpsc::Receiver<io::Result<()>> {
    let (done, wait) = done();
    bench.device.submit(Request::Write { offset, block, done });
    wait
}

fn sync(bench: &Bench) -> mpsc::Receiver<io::Result<()>> {
    let (done, wait) = done();
    bench.device.submit(Request::Sync { done });
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
    sync(&bench).recv_timeout(TIMEOUT).unwrap().unwrap();
    let deadline = Instant::now() + TIMEOUT;
    let reads: Vec<_> = (0..200_u64).map(|n| read(&bench, n * 8_192, 8_000, deadline)).collect();
    for (n, wait) in reads.into_iter().enumerate() {
        let slot = wait.wait().unwrap();
        assert!(slot.iter().all(|byte| *byte == n as u8), "record {n}");
        assert!(Footer::decode(slot.footer()).is_ok(), "record {n}");
    }
    bench.device.stop();
}

#[test]
fn reads_that_are_too_late_fail_at_once_and_hold_up_nobody() {
    let bench = bench();
    let late: Vec<_> = (0..300).map(|_| read(&bench, 0, 100, Instant::now())).collect();
    for wait in late {
        assert_eq!(wait.wait().unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
    bench.device.stop();
}

#[test]
fn a_read_beyond_the_end_says_so() {
    let bench = bench();
    let wait = read(&bench, 4 << 20, 100, Instant::now() + TIMEOUT);
    assert_eq!(wait.wait().unwrap_err().kind(), io::ErrorKind::UnexpectedEof);
    bench.device.stop();
}

#[test]
fn stopping_completes_what_was_taken_and_refuses_the_rest() {
    let bench = bench();
    let writes: Vec<_> =
        (0..200_u8).map(|n| write(&bench, u64::from(n) * 8_192, block(&bench.arena, 8_000, n))).collect();
    bench.device.stop();
    for wait in writes {
        wait.try_recv().expect("stopping waits for every transfer").unwrap();
    }
    assert_eq!(sync(&bench).try_recv().unwrap().unwrap_err().kind(), io::ErrorKind::NotConnected);
    assert_eq!(crate::sync::lock(bench.arena.slots()).used_bytes(), 0, "INV-LEAK");
}
