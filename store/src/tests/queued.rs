//! A real device behind a table of transfers that begins its reads when it is told to.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Instant;

use hearth_proto::{AckLevel, Urgency};
use tempfile::TempDir;
use tokio::sync::Notify;

use super::{config, put, soon};
use crate::device::transfer::Memory;
use crate::device::transfers::{PLACES_MIN, Submission, Transfers, Work};
use crate::device::{Device, Request, Space};
use crate::recovery::Parts;
use crate::sync::lock;
use crate::{Store, open};

pub(super) struct Queued {
    device: Arc<dyn Device>,
    file: File,
    state: Mutex<State>,
    came: Notify,
}

struct State {
    transfers: Transfers,
    /// Of every read that came.
    urgencies: Vec<Urgency>,
}

impl Queued {
    /// A store on such a device, with blocks `0..count` on NVMe alone.
    pub(super) async fn open(dir: &TempDir, count: u64) -> (Store, Arc<Self>) {
        let config = config(dir, 1, 4);
        let (store, _) = Store::open(config.clone()).unwrap();
        for n in 0..count {
            put(&store, n, AckLevel::Durable, soon()).await.unwrap();
        }
        store.close().await;
        drop(store);
        let queued = OnceLock::new();
        let interpose = |parts: Parts| {
            let mut members = parts.members;
            let device = Self::new(Arc::clone(&members[0].device), &dir.path().join("blocks.slab"));
            let device = queued.get_or_init(|| Arc::new(device));
            members[0].device = Arc::clone(device) as Arc<dyn Device>;
            Parts { members, ..parts }
        };
        let (core, threads, _) = open::open(&config, Some(&interpose)).unwrap();
        (Store::new(core, threads), queued.into_inner().unwrap())
    }

    fn new(device: Arc<dyn Device>, path: &Path) -> Self {
        let state = State { transfers: Transfers::new(PLACES_MIN), urgencies: Vec::new() };
        Self { device, file: File::open(path).unwrap(), state: Mutex::new(state), came: Notify::new() }
    }

    /// How urgent the reads were that came so far, once there are `count`.
    pub(super) async fn urgencies(&self, count: usize) -> Vec<Urgency> {
        loop {
            let urgencies = lock(&self.state).urgencies.clone();
            if urgencies.len() >= count {
                return urgencies;
            }
            self.came.notified().await;
        }
    }

    /// Performs the read whose turn it is.
    pub(super) fn perform_next(&self) {
        self.end_next(|file, room, offset| file.read_exact_at(room, offset));
    }

    /// Fails the read whose turn it is.
    pub(super) fn fail_next(&self) {
        self.end_next(|_, _, _| Err(io::Error::from_raw_os_error(libc::EIO)));
    }

    fn end_next(&self, read: impl FnOnce(&File, &mut [u8], u64) -> io::Result<()>) {
        let mut state = lock(&self.state);
        let Some(Submission { place, work: Work::Read(span) }) = state.transfers.next(Instant::now()) else {
            panic!("no read waits");
        };
        let Some(Memory::Slot(mut slot)) = state.transfers.lend(place) else { panic!("a read fills a slot") };
        let room = &mut slot.record_mut()[span.start..span.start + span.len];
        let result = read(&self.file, room, span.offset);
        state.transfers.restore(place, Memory::Slot(slot));
        state.transfers.complete(place, result.map(|()| span.len));
        let ended = state.transfers.pop_ended().expect("the read has ended");
        drop(state);
        ended.tell();
    }
}

impl Device for Queued {
    fn len_bytes(&self) -> u64 {
        self.device.len_bytes()
    }

    fn space(&self) -> io::Result<Option<Space>> {
        self.device.space()
    }

    fn allocate(&self, len_bytes: u64) -> io::Result<()> {
        self.device.allocate(len_bytes)
    }

    fn submit(&self, request: Request) {
        let Request::Read { urgency, .. } = request else { return self.device.submit(request) };
        let mut state = lock(&self.state);
        state.urgencies.push(urgency);
        state.transfers.push(request);
        self.came.notify_one();
    }

    fn stop(&self) {
        self.device.stop();
    }
}
