//! A block store in memory, for tests: it can be told to fail, lie and wait, and it counts what it has lent.
#![allow(dead_code, unreachable_pub)]

use std::collections::HashMap;
use std::future::Future;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_fabric::{
    BlockBuf, BlockService, BlockStatus, GetCompletion, GetHit, GetItem, GetRequest, Mover, PeerInfo, PutAck,
    PutCompletion, PutItem, PutRequest, TierBits,
};
use hearth_proto::{BlockKey, ClusterId, Generation, Incarnation, NamespaceId, NodeId, Tier, Urgency};
use tokio::sync::{Notify, Semaphore};

pub const CLUSTER: ClusterId = ClusterId([7; 16]);
pub const INCARNATION: Incarnation = Incarnation(3);
/// Longer than any test may take.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// How a block misbehaves.
#[derive(Clone)]
pub enum Fault {
    WrongCrc,
    ZeroGeneration,
    Fails(BlockStatus),
    /// Waits for a permit of the gate, at get and at put.
    Waits(Arc<Semaphore>),
}

/// Counts what is lent, and how much at most.
#[derive(Default)]
pub struct Gauge {
    now: AtomicUsize,
    peak: AtomicUsize,
    changed: Notify,
}

impl Gauge {
    fn lend(self: &Arc<Self>) -> Alive {
        let now = self.now.fetch_add(1, Ordering::SeqCst) + 1;
        self.peak.fetch_max(now, Ordering::SeqCst);
        self.changed.notify_waiters();
        Alive(Arc::clone(self))
    }

    pub fn now(&self) -> usize {
        self.now.load(Ordering::SeqCst)
    }

    pub fn peak(&self) -> usize {
        self.peak.load(Ordering::SeqCst)
    }

    /// Waits until `count` are lent.
    pub async fn reaches(&self, count: usize) {
        let reached = async {
            loop {
                let changed = self.changed.notified();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if self.now() == count {
                    return;
                }
                changed.await;
            }
        };
        let waited = tokio::time::timeout(PATIENCE, reached).await;
        assert!(waited.is_ok(), "{} are lent, expected {count}", self.now());
    }
}

pub struct Alive(Arc<Gauge>);

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.now.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

pub struct Lease {
    bytes: Bytes,
    _alive: Alive,
}

impl AsRef<[u8]> for Lease {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

pub struct Slot {
    bytes: Vec<u8>,
    _alive: Alive,
}

impl AsRef<[u8]> for Slot {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl AsMut<[u8]> for Slot {
    fn as_mut(&mut self) -> &mut [u8] {
        &mut self.bytes
    }
}

#[derive(Clone)]
struct Stored {
    bytes: Bytes,
    crc32: u32,
    generation: Generation,
}

pub struct MemoryService {
    blocks: Mutex<HashMap<(NamespaceId, BlockKey), Stored>>,
    faults: Mutex<HashMap<BlockKey, Fault>>,
    /// How urgently each block was asked for last.
    urgencies: Mutex<HashMap<BlockKey, Urgency>>,
    info: Mutex<PeerInfo>,
    generation: AtomicU64,
    /// Leases, slots and lookups that live.
    pub lent: Arc<Gauge>,
    /// Lookups and puts that wait at a gate.
    pub waiting: Arc<Gauge>,
    /// Puts that were said to be copies.
    pub copies: AtomicUsize,
    /// Puts whose bytes were not those of their crc32.
    pub corrupt_puts: AtomicUsize,
    /// Slots that may be lent.
    pub slots: Arc<Semaphore>,
}

impl Default for MemoryService {
    fn default() -> Self {
        let info = PeerInfo {
            node_id: NodeId(5),
            incarnation: INCARNATION,
            cluster_id: CLUSTER,
            block_bytes_max: hearth_proto::limits::BLOCK_BYTES_MAX,
        };
        Self {
            blocks: Mutex::default(),
            faults: Mutex::default(),
            urgencies: Mutex::default(),
            info: Mutex::new(info),
            generation: AtomicU64::new(1),
            lent: Arc::default(),
            waiting: Arc::default(),
            copies: AtomicUsize::new(0),
            corrupt_puts: AtomicUsize::new(0),
            slots: Arc::new(Semaphore::new(1_000_000)),
        }
    }
}

impl MemoryService {
    pub fn with_slots(count: usize) -> Self {
        Self { slots: Arc::new(Semaphore::new(count)), ..Self::default() }
    }

    pub fn info(&self, change: impl FnOnce(&mut PeerInfo)) {
        change(&mut self.info.lock().expect("no test panics under a lock"));
    }

    pub fn store(&self, key: BlockKey, bytes: impl Into<Bytes>) {
        let bytes = bytes.into();
        let crc32 = crc32fast::hash(&bytes);
        let generation = Generation(self.generation.fetch_add(1, Ordering::Relaxed));
        let stored = Stored { bytes, crc32, generation };
        self.blocks.lock().expect("no test panics under a lock").insert((NamespaceId::DEFAULT, key), stored);
    }

    pub fn fault(&self, key: BlockKey, fault: Fault) {
        self.faults.lock().expect("no test panics under a lock").insert(key, fault);
    }

    pub fn holds(&self, key: BlockKey) -> bool {
        self.holds_of(NamespaceId::DEFAULT, key)
    }

    pub fn holds_of(&self, namespace: NamespaceId, key: BlockKey) -> bool {
        self.blocks.lock().expect("no test panics under a lock").contains_key(&(namespace, key))
    }

    pub fn urgency_of(&self, key: BlockKey) -> Option<Urgency> {
        self.urgencies.lock().expect("no test panics under a lock").get(&key).copied()
    }

    fn fault_of(&self, key: BlockKey) -> Option<Fault> {
        self.faults.lock().expect("no test panics under a lock").get(&key).cloned()
    }

    async fn pass(&self, fault: Option<&Fault>) -> Result<(), BlockStatus> {
        match fault {
            Some(Fault::Fails(status)) => Err(*status),
            Some(Fault::Waits(gate)) => {
                let _waits = self.waiting.lend();
                gate.acquire().await.expect("gates stay open").forget();
                Ok(())
            }
            _ => Ok(()),
        }
    }
}

impl BlockService for MemoryService {
    type Lease = Lease;
    type Slot = Slot;

    fn hello(&self) -> PeerInfo {
        *self.info.lock().expect("no test panics under a lock")
    }

    async fn get(
        &self,
        namespace: NamespaceId,
        GetRequest { key, urgency }: GetRequest,
        _deadline: Instant,
    ) -> Result<GetHit<Lease>, BlockStatus> {
        self.urgencies.lock().expect("no test panics under a lock").insert(key, urgency);
        let alive = self.lent.lend();
        let fault = self.fault_of(key);
        self.pass(fault.as_ref()).await?;
        let stored = self
            .blocks
            .lock()
            .expect("no test panics under a lock")
            .get(&(namespace, key))
            .cloned()
            .ok_or(BlockStatus::Miss)?;
        let wrong_crc = matches!(fault, Some(Fault::WrongCrc));
        let zero_generation = matches!(fault, Some(Fault::ZeroGeneration));
        Ok(GetHit {
            lease: Lease { bytes: stored.bytes, _alive: alive },
            tier: Tier::Host,
            generation: if zero_generation { Generation(0) } else { stored.generation },
            crc32: if wrong_crc { !stored.crc32 } else { stored.crc32 },
        })
    }

    async fn reserve(&self, _: NamespaceId, len: usize, _deadline: Instant) -> Result<Slot, BlockStatus> {
        self.slots.acquire().await.expect("slots stay open").forget();
        Ok(Slot { bytes: vec![0; len], _alive: self.lent.lend() })
    }

    async fn put(
        &self,
        namespace: NamespaceId,
        request: PutRequest,
        slot: Slot,
        _deadline: Instant,
    ) -> Result<PutAck, BlockStatus> {
        self.pass(self.fault_of(request.key).as_ref()).await?;
        if crc32fast::hash(slot.as_ref()) != request.crc32 {
            self.corrupt_puts.fetch_add(1, Ordering::SeqCst);
            return Err(BlockStatus::Corrupt);
        }
        self.copies.fetch_add(usize::from(request.is_copy), Ordering::SeqCst);
        let mut blocks = self.blocks.lock().expect("no test panics under a lock");
        if let Some(stored) = blocks.get(&(namespace, request.key)) {
            return Ok(PutAck { generation: stored.generation, existed: true });
        }
        let generation = Generation(self.generation.fetch_add(1, Ordering::Relaxed));
        let bytes = Bytes::copy_from_slice(slot.as_ref());
        blocks.insert((namespace, request.key), Stored { bytes, crc32: request.crc32, generation });
        Ok(PutAck { generation, existed: false })
    }

    fn contains(&self, namespace: NamespaceId, key: BlockKey) -> TierBits {
        let held = self.blocks.lock().expect("no test panics under a lock").contains_key(&(namespace, key));
        if held { TierBits::NONE.with(Tier::Host) } else { TierBits::NONE }
    }

    async fn remove(&self, namespace: NamespaceId, key: BlockKey) -> BlockStatus {
        match self.blocks.lock().expect("no test panics under a lock").remove(&(namespace, key)) {
            Some(_) => BlockStatus::Ok,
            None => BlockStatus::Miss,
        }
    }
}

/// A key that differs for every number.
pub fn key(number: u32) -> BlockKey {
    let mut bytes = [0x5a; 32];
    bytes[..4].copy_from_slice(&number.to_le_bytes());
    BlockKey(bytes)
}

/// Bytes that differ for every number and every place.
pub fn payload(number: u32, len: usize) -> Bytes {
    let mut state = u64::from(number).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes.into()
}

pub fn soon() -> Instant {
    Instant::now() + PATIENCE
}

pub fn get_items(numbers: impl IntoIterator<Item = u32>, capacity: usize) -> Vec<GetItem> {
    let item = |number| GetItem { key: key(number), buffer: BlockBuf::with_capacity(capacity) };
    numbers.into_iter().map(item).collect()
}

pub fn put_items(numbers: impl IntoIterator<Item = u32>, len: usize) -> Vec<PutItem> {
    numbers.into_iter().map(|number| PutItem::new(key(number), payload(number, len))).collect()
}

/// All completions of a get in the order of its items; each index exactly once.
pub async fn get_all(mover: &impl Mover, items: Vec<GetItem>, deadline: Instant) -> Vec<GetCompletion> {
    let count = items.len();
    let mut stream = mover.get(items, Incarnation(0), Urgency::Normal, deadline);
    let mut completions = Vec::with_capacity(count);
    while let Some(completion) = stream.next().await {
        completions.push(completion);
    }
    completions.sort_by_key(|completion| completion.index);
    let indexes: Vec<u32> = completions.iter().map(|completion| completion.index).collect();
    assert_eq!(indexes, (0..count as u32).collect::<Vec<_>>(), "every block completes exactly once");
    completions
}

/// All completions of a put in the order of its items; each index exactly once.
pub async fn put_all(mover: &impl Mover, items: Vec<PutItem>, deadline: Instant) -> Vec<PutCompletion> {
    let count = items.len();
    let mut stream = mover.put(items, deadline);
    let mut completions = Vec::with_capacity(count);
    while let Some(completion) = stream.next().await {
        completions.push(completion);
    }
    completions.sort_by_key(|completion| completion.index);
    let indexes: Vec<u32> = completions.iter().map(|completion| completion.index).collect();
    assert_eq!(indexes, (0..count as u32).collect::<Vec<_>>(), "every block completes exactly once");
    completions
}

/// The failures of a get, `None` where the block arrived.
pub fn failures(completions: &[GetCompletion]) -> Vec<Option<BlockStatus>> {
    completions.iter().map(|completion| completion.result.as_ref().err().copied()).collect()
}

/// Fails the test if `future` takes longer than any test may.
pub async fn in_time<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("the test has run out of patience")
}

/// Waits until this runtime runs no task but the test (INV-LEAK).
pub async fn no_task_is_left() {
    let metrics = tokio::runtime::Handle::current().metrics();
    in_time(async {
        while metrics.num_alive_tasks() > 0 {
            tokio::task::yield_now().await;
        }
    })
    .await;
}
