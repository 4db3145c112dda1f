//! A real device with something in front of it that fails or holds back transfers on demand.

use std::collections::VecDeque;
use std::io;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::sync::Notify;

use crate::device::{Device, Request, Space};
use crate::error::OpenError;
use crate::slab::{BlockEntry, Catalog, Changes, Remembered};
use crate::sync::lock;

pub(super) struct Faulty {
    device: Arc<dyn Device>,
    reads_to_fail: AtomicU32,
    writes_to_fail: AtomicU32,
    syncs_to_fail: AtomicU32,
    commits_to_fail: Arc<AtomicU32>,
    limit_bytes: AtomicU64,
    /// Bytes of the whole file system, and those of it that the device and what is free share.
    space: Mutex<Option<(u64, u64)>>,
    /// Transfers that are held back, while any are.
    held: Mutex<Option<VecDeque<Held>>>,
    came: Notify,
}

/// The index beside that device.
pub(super) struct FaultyCatalog {
    catalog: Box<dyn Catalog>,
    commits_to_fail: Arc<AtomicU32>,
}

type Held = Box<dyn FnOnce(&dyn Device) + Send>;

/// After this a transfer that is waited for will not come.
const PATIENCE: Duration = Duration::from_secs(20);

impl Faulty {
    pub(super) fn new(device: Arc<dyn Device>, catalog: Box<dyn Catalog>) -> (Self, FaultyCatalog) {
        let commits_to_fail = Arc::<AtomicU32>::default();
        let catalog = FaultyCatalog { catalog, commits_to_fail: Arc::clone(&commits_to_fail) };
        let device = Self {
            device,
            reads_to_fail: AtomicU32::new(0),
            writes_to_fail: AtomicU32::new(0),
            syncs_to_fail: AtomicU32::new(0),
            commits_to_fail,
            limit_bytes: AtomicU64::new(u64::MAX),
            space: Mutex::new(None),
            held: Mutex::new(None),
            came: Notify::new(),
        };
        (device, catalog)
    }

    /// Lets the index on disk refuse its next changes, as a full disk would.
    pub(super) fn refuse_commits(&self, count: u32) {
        self.commits_to_fail.store(count, Ordering::SeqCst);
    }

    pub(super) fn fail_reads(&self, count: u32) {
        self.reads_to_fail.store(count, Ordering::SeqCst);
    }

    pub(super) fn fail_writes(&self, count: u32) {
        self.writes_to_fail.store(count, Ordering::SeqCst);
    }

    /// Lets writes reach the device whose sync fails.
    pub(super) fn fail_syncs(&self, count: u32) {
        self.syncs_to_fail.store(count, Ordering::SeqCst);
    }

    pub(super) fn limit_bytes(&self, bytes: u64) {
        self.limit_bytes.store(bytes, Ordering::SeqCst);
    }

    /// Pretends that the file system has `total_bytes`, of which the device may take `room_bytes`.
    pub(super) fn pretend_space(&self, total_bytes: u64, room_bytes: u64) {
        *lock(&self.space) = Some((total_bytes, room_bytes));
    }

    /// Holds back every transfer from now on, but discards: those come when nothing else is to do.
    pub(super) fn hold(&self) {
        lock(&self.held).get_or_insert_default();
    }

    /// Lets everything pass that was held back, and what comes later.
    pub(super) fn release(&self) {
        for transfer in lock(&self.held).take().into_iter().flatten() {
            transfer(&*self.device);
        }
    }

    /// Lets the oldest transfer pass that was held back.
    pub(super) fn release_one(&self) {
        let oldest = lock(&self.held).as_mut().and_then(VecDeque::pop_front);
        if let Some(transfer) = oldest {
            transfer(&*self.device);
        }
    }

    pub(super) async fn wait_until_held(&self, count: usize) {
        let held = async {
            while lock(&self.held).as_ref().map_or(0, VecDeque::len) < count {
                self.came.notified().await;
            }
        };
        tokio::time::timeout(PATIENCE, held).await.expect("as many transfers come as are waited for");
    }

    fn pass(&self, transfer: Held) {
        let mut held = lock(&self.held);
        if let Some(held) = held.as_mut() {
            held.push_back(transfer);
            self.came.notify_one();
        } else {
            drop(held);
            transfer(&*self.device);
        }
    }
}

fn fails(count: &AtomicU32) -> bool {
    let taken = count.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |count| count.checked_sub(1));
    taken.is_ok()
}

fn eio() -> io::Error {
    io::Error::from_raw_os_error(libc::EIO)
}

impl Catalog for FaultyCatalog {
    fn remembered(&self) -> Result<Remembered, OpenError> {
        self.catalog.remembered()
    }

    fn blocks(&self, visit: &mut dyn FnMut(BlockEntry)) -> Result<u64, OpenError> {
        self.catalog.blocks(visit)
    }

    fn commit(&mut self, changes: &Changes) -> io::Result<()> {
        match fails(&self.commits_to_fail) {
            true => Err(io::ErrorKind::StorageFull.into()),
            false => self.catalog.commit(changes),
        }
    }
}

impl Device for Faulty {
    fn len_bytes(&self) -> u64 {
        self.device.len_bytes()
    }

    fn space(&self) -> io::Result<Option<Space>> {
        let Some((total_bytes, room_bytes)) = *lock(&self.space) else { return self.device.space() };
        Ok(Some(Space { free_bytes: room_bytes.saturating_sub(self.len_bytes()), total_bytes }))
    }

    fn allocate(&self, len_bytes: u64) -> io::Result<()> {
        if len_bytes > self.limit_bytes.load(Ordering::SeqCst) {
            return Err(io::Error::from_raw_os_error(libc::ENOSPC));
        }
        self.device.allocate(len_bytes)
    }

    fn submit(&self, request: Request) {
        let failing = match &request {
            Request::Read { .. } => fails(&self.reads_to_fail),
            Request::Write { .. } => fails(&self.writes_to_fail),
            Request::Discard { .. } => false,
        };
        if failing {
            return request.refuse(eio());
        }
        let request = match request {
            Request::Write { offset, block, done } if fails(&self.syncs_to_fail) => {
                Request::Write { offset, block, done: Box::new(|_| done(Err(eio()))) }
            }
            request => request,
        };
        if matches!(request, Request::Discard { .. }) {
            return self.device.submit(request);
        }
        self.pass(Box::new(move |device| device.submit(request)));
    }

    fn stop(&self) {
        self.device.stop();
    }
}
