//! The contract of a device, kept by every driver on a real file.

mod block_device;
mod drivers;
mod measure;
mod transfers;

use std::path::Path;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use hearth_proto::{BlockId, BlockKey, Generation, NamespaceId, Priority, Urgency};
use tempfile::{TempDir, tempdir};

use super::request::{Done, ReadEnd};
use super::*;
use crate::arena::{HostBlock, SlotMut};
use crate::codec::Codec;
use crate::extents::class_of;
use crate::slab::Footer;
use crate::sync::lock;

const TIMEOUT: Duration = Duration::from_secs(20);
const FILE_BYTES: u64 = 4 << 20;

/// Every driver, and every option that it has.
const DRIVERS: [(&str, DriverOptions); 5] = {
    let ring = DriverOptions { driver: Driver::IoUring, sqpoll: false, iopoll: false };
    [
        ("ring", ring),
        ("ring, sqpoll", DriverOptions { sqpoll: true, ..ring }),
        ("ring, iopoll", DriverOptions { iopoll: true, ..ring }),
        ("ring, sqpoll, iopoll", DriverOptions { sqpoll: true, iopoll: true, ..ring }),
        ("threads", DriverOptions { driver: Driver::Threads, ..ring }),
    ]
};

/// A device and an arena.
struct Bench {
    arena: Arc<Arena>,
    device: Arc<dyn Device>,
}

impl Bench {
    /// A device with an arena of 8 MiB.
    fn new(path: &Path, options: DriverOptions) -> Self {
        Self::with(path, options, Arena::new(8 << 20, 1 << 20).unwrap())
    }

    fn with(path: &Path, options: DriverOptions, arena: Arc<Arena>) -> Self {
        let started = start(Member::open(path).unwrap(), &arena, options).unwrap();
        started.wait_until_ready();
        Self { arena, device: started.device }
    }

    /// A block filled with `fill`, sealed as the store does it.
    fn block(&self, len: usize, fill: u8) -> Arc<HostBlock> {
        block(&self.arena, len, fill)
    }

    fn read(&self, offset: u64, len: usize, deadline: Instant) -> ReadEnd {
        let (done, end) = ReadDone::new();
        let slot = self.arena.allocate(len, class_of(len)).unwrap();
        self.device.submit(Request::Read { offset, slot, urgency: Urgency::Normal, deadline, done });
        end
    }

    fn read_now(&self, offset: u64, len: usize) -> io::Result<SlotMut> {
        self.read(offset, len, soon()).wait()
    }

    fn write(&self, offset: u64, block: Arc<HostBlock>) -> Wait {
        let (done, wait) = done();
        self.device.submit(Request::Write { offset, block, done });
        wait
    }

    fn discard(&self, offset: u64, len: u64) -> Wait {
        let (done, wait) = done();
        self.device.submit(Request::Discard { offset, len, done });
        wait
    }

    fn used_bytes(&self) -> u64 {
        lock(self.arena.slots()).used_bytes()
    }
}

/// The waiter's end of a write or a discard.
struct Wait(mpsc::Receiver<io::Result<()>>);

impl Wait {
    fn wait(self) -> io::Result<()> {
        self.0.recv_timeout(TIMEOUT).expect("every request ends")
    }

    fn has_ended(&self) -> Option<io::Result<()>> {
        self.0.try_recv().ok()
    }
}

fn done() -> (Done, Wait) {
    let (done, wait) = mpsc::channel();
    (Box::new(move |result| done.send(result).unwrap()), Wait(wait))
}

fn soon() -> Instant {
    Instant::now() + TIMEOUT
}

fn block(arena: &Arc<Arena>, len: usize, fill: u8) -> Arc<HostBlock> {
    let mut slot = arena.allocate(len, class_of(len)).unwrap();
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
        depth: 0,
        priority: Priority::DEFAULT,
        expires_at_ms: None,
    });
    Arc::new(HostBlock::new(slot.into_slot(), Generation(1), 0))
}

/// Runs a test on every driver, on a file of [`FILE_BYTES`], and checks that nothing is left over.
fn on_every_driver(test: impl Fn(&Bench, &TempDir)) {
    for (name, options) in DRIVERS {
        println!("driver: {name}");
        let dir = tempdir().unwrap();
        let bench = Bench::new(&slab(&dir), options);
        bench.device.allocate(FILE_BYTES).unwrap();
        test(&bench, &dir);
        bench.device.stop();
        assert_eq!(bench.used_bytes(), 0, "INV-LEAK");
    }
}

fn slab(dir: &TempDir) -> std::path::PathBuf {
    dir.path().join("slab")
}
