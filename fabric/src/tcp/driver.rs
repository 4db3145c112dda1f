//! The writing task of a connection's server end: looks blocks up, keeps what is in work within its
//! bounds, and sends answers as they become ready.
//!
//! It polls the lookups itself, without a task for each: a hit in memory is answered in the same turn,
//! and a lookup that waits for the disk goes on while others are written.

use std::collections::{HashMap, VecDeque};
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use futures::stream::FuturesUnordered;
use futures::{FutureExt, StreamExt};
use hearth_proto::frame::{
    BlockCodec, BlockStatus, Body, GetBlock, GetEntry, Goodbye, GoodbyeReason, PutDone, PutEntry,
};
use hearth_proto::limits::{
    BLOCK_BYTES_MAX, CHAIN_BLOCKS_MAX, CONNECTION_ANSWERS_MAX, CONNECTION_BLOCKS_IN_WORK_MAX,
    CONNECTION_BYTES_IN_WORK_MAX, CONNECTION_REQUESTS_MAX,
};
use hearth_proto::{Incarnation, NamespaceId, Urgency};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;

use super::batch::Batch;
use super::error::EndError;
use crate::service::{BlockService, GetHit, GetRequest};

/// A request in work that ends in an answer.
pub(super) type Work<L> = Pin<Box<dyn Future<Output = Reply<L>> + Send>>;

/// What the reading task tells the driver.
pub(super) enum Command<L> {
    Get(GetJob),
    /// The request is no longer wanted.
    Cancel(u64),
    Work(Work<L>),
    Reply(Reply<L>),
    /// Answer all that was asked, then say goodbye.
    Finish(Goodbye),
    /// Drop all that was asked and say goodbye.
    Refuse(Goodbye),
}

/// An answer that is ready to be sent.
pub(super) enum Reply<L> {
    Block(BlockReply<L>),
    Put(u64, PutEntry),
    Frame(u64, Body),
}

pub(super) struct BlockReply<L> {
    asked: Asked,
    /// All but the incarnation, which is told when it is sent.
    block: GetBlock,
    held: Option<Held<L>>,
}

/// One block that a get asks for.
#[derive(Clone, Copy)]
struct Asked {
    request_id: u64,
    index: u32,
    entry: GetEntry,
    urgency: Urgency,
    deadline: Instant,
}

impl Asked {
    fn refuse<L>(self, status: BlockStatus, block_len: u32) -> Reply<L> {
        // A store that fails with `Ok` is broken, and the wire has no way to say so.
        let status = if status == BlockStatus::Ok { BlockStatus::IoError } else { status };
        let block = GetBlock { block_len, ..GetBlock::refusal(self.index, self.entry.key, status) };
        Reply::Block(BlockReply { asked: self, block, held: None })
    }

    fn answer<L: AsRef<[u8]>>(self, hit: GetHit<L>, mut charge: Charge) -> Reply<L> {
        let len = hit.lease.as_ref().len();
        if len == 0 || len > BLOCK_BYTES_MAX {
            return self.refuse(BlockStatus::IoError, 0);
        }
        let block_len = len as u32;
        if block_len > self.entry.capacity {
            return self.refuse(BlockStatus::BufferTooSmall, block_len);
        }
        charge.shrink(len);
        let block = GetBlock {
            index: self.index,
            status: BlockStatus::Ok,
            tier: Some(hit.tier),
            codec: BlockCodec::Raw,
            generation: hit.generation,
            incarnation: Incarnation(0),
            key: self.entry.key,
            crc32: hit.crc32,
            block_len,
        };
        Reply::Block(BlockReply {
            asked: self,
            block,
            held: Some(Held { lease: hit.lease, _charge: charge }),
        })
    }
}

/// The blocks of a get that were not yet looked up.
pub(super) struct GetJob {
    request_id: u64,
    entries: Vec<GetEntry>,
    /// The entry to look up next; there always is one while the job is in the driver.
    next: usize,
    urgency: Urgency,
    deadline: Instant,
    /// Answers every block without looking.
    refusal: Option<BlockStatus>,
}

impl GetJob {
    pub(super) fn new(
        request_id: u64,
        entries: Vec<GetEntry>,
        urgency: Urgency,
        deadline: Instant,
        refusal: Option<BlockStatus>,
    ) -> Self {
        Self { request_id, entries, next: 0, urgency, deadline, refusal }
    }
}

/// Gets with blocks not yet looked up, a line for each of [`Urgency::ALL`].
#[derive(Default)]
struct Jobs([VecDeque<GetJob>; Urgency::ALL.len()]);

impl Jobs {
    /// The first of the most urgent ones.
    fn pop(&mut self) -> Option<GetJob> {
        self.0.iter_mut().find_map(VecDeque::pop_front)
    }

    fn push_front(&mut self, job: GetJob) {
        self.line(job.urgency).push_front(job);
    }

    fn push_back(&mut self, job: GetJob) {
        self.line(job.urgency).push_back(job);
    }

    fn forget(&mut self, request_id: u64) {
        self.0.iter_mut().for_each(|line| line.retain(|job| job.request_id != request_id));
    }

    fn clear(&mut self) {
        self.0.iter_mut().for_each(VecDeque::clear);
    }

    fn is_empty(&self) -> bool {
        self.0.iter().all(VecDeque::is_empty)
    }

    fn line(&mut self, urgency: Urgency) -> &mut VecDeque<GetJob> {
        let line = Urgency::ALL.iter().position(|one| *one == urgency).expect("one of all");
        &mut self.0[line]
    }
}

/// What this connection has in work. Only the driver adds and takes, the atomics are for its guards.
#[derive(Default)]
struct Budget {
    blocks: AtomicUsize,
    bytes: AtomicUsize,
}

impl Budget {
    /// Whether a block of up to `bytes` fits; a connection always gets one.
    fn fits(&self, bytes: usize) -> bool {
        let blocks = self.blocks.load(Ordering::Relaxed);
        let in_work = self.bytes.load(Ordering::Relaxed);
        blocks == 0
            || (blocks < CONNECTION_BLOCKS_IN_WORK_MAX && in_work + bytes <= CONNECTION_BYTES_IN_WORK_MAX)
    }

    fn charge(self: &Arc<Self>, bytes: usize) -> Charge {
        self.blocks.fetch_add(1, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        Charge { budget: Arc::clone(self), bytes }
    }
}

/// A block's share of the budget, given back when dropped.
struct Charge {
    budget: Arc<Budget>,
    bytes: usize,
}

impl Charge {
    /// Gives back what the block turned out not to need.
    fn shrink(&mut self, bytes: usize) {
        let spare = self.bytes.saturating_sub(bytes);
        self.bytes -= spare;
        self.budget.bytes.fetch_sub(spare, Ordering::Relaxed);
    }
}

impl Drop for Charge {
    fn drop(&mut self) {
        self.budget.blocks.fetch_sub(1, Ordering::Relaxed);
        self.budget.bytes.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// A lease on its way to the socket.
pub(super) struct Held<L> {
    lease: L,
    _charge: Charge,
}

impl<L: AsRef<[u8]>> AsRef<[u8]> for Held<L> {
    fn as_ref(&self) -> &[u8] {
        self.lease.as_ref()
    }
}

/// The sending half of a connection and all that it still has to answer.
pub(super) struct Driver<S: BlockService> {
    service: Arc<S>,
    namespace: NamespaceId,
    output: OwnedWriteHalf,
    orders: mpsc::Receiver<Command<S::Lease>>,
    stall: Duration,
    /// Gets with blocks not yet looked up, those of one urgency in turns.
    jobs: Jobs,
    /// Blocks not yet answered of each get; a get that was cancelled is not here.
    wanted: HashMap<u64, usize>,
    work: FuturesUnordered<Work<S::Lease>>,
    ready: VecDeque<Reply<S::Lease>>,
    batch: Batch<Held<S::Lease>>,
    budget: Arc<Budget>,
    /// The last words, once there is nothing more to take.
    goodbye: Option<Goodbye>,
}

impl<S: BlockService> Driver<S> {
    pub(super) fn new(
        service: Arc<S>,
        namespace: NamespaceId,
        output: OwnedWriteHalf,
        orders: mpsc::Receiver<Command<S::Lease>>,
        stall: Duration,
    ) -> Self {
        Self {
            service,
            namespace,
            output,
            orders,
            stall,
            jobs: Jobs::default(),
            wanted: HashMap::new(),
            work: FuturesUnordered::new(),
            ready: VecDeque::new(),
            batch: Batch::new(),
            budget: Arc::default(),
            goodbye: None,
        }
    }

    /// Answers until told to stop, or until the peer is gone.
    pub(super) async fn run(mut self) {
        if let Err(error) = self.answer().await {
            tracing::debug!(error = &error as &dyn std::error::Error, "fabric connection ended");
        }
    }

    async fn answer(&mut self) -> Result<(), EndError> {
        loop {
            std::future::poll_fn(|cx| {
                self.look_up(cx);
                Poll::Ready(())
            })
            .await;
            if self.batch.is_empty() {
                self.fill_batch();
            }
            let idle = self.batch.is_empty() && self.work.is_empty() && self.jobs.is_empty();
            if idle && let Some(goodbye) = self.goodbye.take() {
                self.batch.push(0, &Body::Goodbye(goodbye), None);
                return self.batch.write(&self.output, self.stall).await;
            }
            tokio::select! {
                written = self.batch.write(&self.output, self.stall), if !self.batch.is_empty() => written?,
                Some(reply) = self.work.next(), if !self.work.is_empty() => self.ready.push_back(reply),
                order = self.orders.recv(), if self.goodbye.is_none() && self.ready.len() < CONNECTION_ANSWERS_MAX => match order {
                    Some(command) => self.obey(command),
                    // The reading task left without a word: the peer is gone.
                    None => return Ok(()),
                },
            }
            // What became ready meanwhile shares the next write.
            while let Some(Some(reply)) = self.work.next().now_or_never() {
                self.ready.push_back(reply);
            }
        }
    }

    fn obey(&mut self, command: Command<S::Lease>) {
        match command {
            Command::Get(job) => self.take_get(job),
            Command::Cancel(request_id) => {
                if self.wanted.remove(&request_id).is_some() {
                    self.jobs.forget(request_id);
                }
            }
            Command::Work(work) => self.work.push(work),
            Command::Reply(reply) => self.ready.push_back(reply),
            Command::Finish(goodbye) => self.goodbye = Some(goodbye),
            Command::Refuse(goodbye) => self.refuse(goodbye),
        }
    }

    fn take_get(&mut self, job: GetJob) {
        if self.wanted.len() >= CONNECTION_REQUESTS_MAX {
            self.refuse(Goodbye::new(GoodbyeReason::Overloaded, "too many requests are open"));
        } else if self.wanted.insert(job.request_id, job.entries.len()).is_some() {
            self.refuse(Goodbye::new(GoodbyeReason::ProtocolError, "a request id was used twice"));
        } else if job.entries.is_empty() {
            self.wanted.remove(&job.request_id);
        } else {
            self.jobs.push_back(job);
        }
    }

    /// Forgets everything but the frames that are half-way out.
    fn refuse(&mut self, goodbye: Goodbye) {
        self.jobs.clear();
        self.wanted.clear();
        self.work.clear();
        self.ready.clear();
        self.goodbye = Some(goodbye);
    }

    /// Starts as many lookups as the budget has room for, the most urgent gets first, and those that are
    /// equally urgent in turns, block by block.
    fn look_up(&mut self, cx: &mut Context<'_>) {
        let now = Instant::now();
        while self.ready.len() < CONNECTION_ANSWERS_MAX
            && let Some(mut job) = self.jobs.pop()
        {
            let entry = job.entries[job.next];
            let room = (entry.capacity as usize).min(BLOCK_BYTES_MAX);
            let late = (job.deadline <= now).then_some(BlockStatus::DeadlineExceeded);
            let refusal = job.refusal.or(late);
            if refusal.is_none() && !self.budget.fits(room) {
                self.jobs.push_front(job);
                return;
            }
            let asked = Asked {
                request_id: job.request_id,
                index: job.next as u32,
                entry,
                urgency: job.urgency,
                deadline: job.deadline,
            };
            job.next += 1;
            if job.next < job.entries.len() {
                self.jobs.push_back(job);
            }
            if let Some(status) = refusal {
                self.ready.push_back(asked.refuse(status, 0));
                continue;
            }
            let mut work = self.lookup(asked, self.budget.charge(room));
            match work.as_mut().poll(cx) {
                Poll::Ready(reply) => self.ready.push_back(reply),
                Poll::Pending => self.work.push(work),
            }
        }
    }

    fn lookup(&self, asked: Asked, charge: Charge) -> Work<S::Lease> {
        let (service, namespace) = (Arc::clone(&self.service), self.namespace);
        Box::pin(async move {
            let request = GetRequest { key: asked.entry.key, urgency: asked.urgency };
            let found = service.get(namespace, request, asked.deadline);
            // The timer is armed only if the lookup does not end at once.
            match tokio::time::timeout_at(asked.deadline.into(), found).await {
                Ok(Ok(hit)) => asked.answer(hit, charge),
                Ok(Err(status)) => asked.refuse(status, 0),
                Err(_) => asked.refuse(BlockStatus::DeadlineExceeded, 0),
            }
        })
    }

    /// Moves answers that are still wanted to the batch, as many as one write shall take.
    fn fill_batch(&mut self) {
        let now = Instant::now();
        // Asked when the bytes are in hand, so that the client learns of an incarnation that began while
        // they were looked up (INV-FENCE).
        let incarnation =
            if self.ready.is_empty() { Incarnation(0) } else { self.service.hello().incarnation };
        while !self.batch.is_full()
            && let Some(reply) = self.ready.pop_front()
        {
            match reply {
                Reply::Block(reply) => self.push_block(reply, incarnation, now),
                Reply::Put(request_id, entry) => self.push_puts(request_id, entry),
                Reply::Frame(request_id, body) => self.batch.push(request_id, &body, None),
            }
        }
    }

    fn push_block(&mut self, reply: BlockReply<S::Lease>, incarnation: Incarnation, now: Instant) {
        let BlockReply { asked, mut block, mut held } = reply;
        let Some(left) = self.wanted.get_mut(&asked.request_id) else { return };
        *left -= 1;
        if *left == 0 {
            self.wanted.remove(&asked.request_id);
        }
        if held.is_some() && asked.deadline <= now {
            block = GetBlock::refusal(asked.index, asked.entry.key, BlockStatus::DeadlineExceeded);
            held = None;
        }
        block.incarnation = incarnation;
        self.batch.push(asked.request_id, &Body::GetBlock(block), held);
    }

    /// Answers of one put that became ready together share a frame.
    fn push_puts(&mut self, request_id: u64, first: PutEntry) {
        let mut entries = vec![first];
        while entries.len() < CHAIN_BLOCKS_MAX
            && let Some(Reply::Put(id, entry)) = self.ready.front()
            && *id == request_id
        {
            entries.push(*entry);
            self.ready.pop_front();
        }
        self.batch.push(request_id, &Body::PutDone(PutDone { entries }), None);
    }
}
