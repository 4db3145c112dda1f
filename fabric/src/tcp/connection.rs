//! The reading task of a connection's server end: greets, takes requests, receives puts into slots.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_proto::frame::{
    BlockStatus, Body, CopyBlock, Get, Goodbye, GoodbyeReason, Hello, HelloAck, Keys, PutBlock, PutEntry,
    RemoveReply, negotiate,
};
use hearth_proto::limits::{
    BLOCK_BYTES_MAX, CALL_DEADLINE_MS_MAX, CONNECTION_BLOCKS_IN_WORK_MAX, CONNECTION_ORDERS_MAX,
    DEADLINE_GRACE_MS,
};
use hearth_proto::{Generation, NamespaceId};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::driver::{Command, Driver, GetJob, Reply, Work};
use super::error::EndError;
use super::patience::Patience;
use super::reader::{Arrival, FrameReader};
use super::timeouts::TcpTimeouts;
use crate::mover::PutAck;
use crate::service::{BlockService, PutRequest};

/// A connection from its first byte to its last.
pub(super) struct Connection<S> {
    pub(super) reader: FrameReader,
    pub(super) output: OwnedWriteHalf,
    pub(super) service: Arc<S>,
    pub(super) namespace: NamespaceId,
    pub(super) shutdown: CancellationToken,
    pub(super) timeouts: TcpTimeouts,
}

impl<S: BlockService> Connection<S> {
    pub(super) async fn serve(mut self) {
        let shutdown = self.shutdown.clone();
        let greeted = tokio::select! {
            greeted = tokio::time::timeout(self.timeouts.handshake, self.greet()) => greeted,
            () = shutdown.cancelled() => return,
        };
        let refusal = match greeted {
            Ok(Ok(())) => return self.serve_requests().await,
            Ok(Err(error)) => error.goodbye(),
            Err(_) => Some(Goodbye::new(GoodbyeReason::Idle, "no hello came in time")),
        };
        if let Some(goodbye) = refusal {
            let mut batch = Batch::<&[u8]>::new();
            batch.push(0, &Body::Goodbye(goodbye), None);
            if batch.write(&self.output, self.timeouts.linger).await.is_ok() {
                // Dropping the half ends the stream after what was written; the reading half lives on.
                drop(self.output);
                self.reader.linger(self.timeouts.linger).await;
            }
        }
    }

    async fn greet(&mut self) -> Result<(), EndError> {
        let (_, body) = self.reader.frame(Some(self.timeouts.handshake)).await?;
        let Body::Hello(hello) = body else { return Err(EndError::Unexpected) };
        let ack = accept(&hello, &*self.service).map_err(EndError::Refused)?;
        let mut batch = Batch::<&[u8]>::new();
        batch.push(0, &Body::HelloAck(ack), None);
        batch.write(&self.output, self.timeouts.stall).await
    }

    async fn serve_requests(self) {
        let Self { reader, output, service, namespace, shutdown, timeouts } = self;
        let (orders, inbox) = mpsc::channel(CONNECTION_ORDERS_MAX);
        let written = CancellationToken::new();
        // The driver is a task of its own, so that receiving a put and sending a get share two cores.
        // It is aborted if this task is.
        let mut driver = tokio::task::JoinSet::new();
        let guard = written.clone().drop_guard();
        let work = Driver::new(Arc::clone(&service), namespace, output, inbox, timeouts.stall);
        driver.spawn(async move {
            let _guard = guard;
            work.run().await;
        });
        let puts = Arc::new(Semaphore::new(CONNECTION_BLOCKS_IN_WORK_MAX));
        let mut requests = Requests {
            reader,
            service,
            namespace,
            orders,
            puts,
            put_patience: Patience::new(timeouts.slot_wait),
            remove_patience: Patience::new(timeouts.slot_wait),
            timeouts,
        };
        let last = tokio::select! {
            biased;
            // The driver ends first only if the peer no longer takes what it asked for.
            () = written.cancelled() => return,
            last = requests.run(&shutdown) => last,
        };
        let Requests { mut reader, orders, .. } = requests;
        let order = match last {
            Last::Drain => {
                Command::Finish(Goodbye::new(GoodbyeReason::ShuttingDown, "the node is shutting down"))
            }
            Last::Refuse(goodbye) => Command::Refuse(goodbye),
            // Nobody is left to answer: the driver drops all it has.
            Last::Gone => return,
        };
        if orders.send(order).await.is_ok() {
            written.cancelled().await;
            reader.linger(timeouts.linger).await;
        }
    }
}

/// Judges a hello.
fn accept<S: BlockService>(hello: &Hello, service: &S) -> Result<HelloAck, Goodbye> {
    let info = service.hello();
    let Some(version) = negotiate(hello.version_min, hello.version_max) else {
        return Err(Goodbye::new(GoodbyeReason::WrongVersion, "no common version of the protocol"));
    };
    if hello.cluster_id.0 != [0; 16] && hello.cluster_id != info.cluster_id {
        return Err(Goodbye::new(GoodbyeReason::WrongCluster, "this node belongs to another cluster"));
    }
    let block_bytes_max = info.block_bytes_max.min(BLOCK_BYTES_MAX) as u32;
    Ok(HelloAck {
        version,
        block_bytes_max,
        node_id: info.node_id,
        incarnation: info.incarnation,
        cluster_id: info.cluster_id,
    })
}

/// How the reading of requests ended.
enum Last {
    /// The node shuts down: what is in work is finished.
    Drain,
    /// The client is told why it is not served any more.
    Refuse(Goodbye),
    /// The client is gone.
    Gone,
}

/// A block whose payload is about to arrive.
struct Offered {
    block: PutBlock,
    namespace: NamespaceId,
    is_copy: bool,
}

struct Requests<S: BlockService> {
    reader: FrameReader,
    service: Arc<S>,
    namespace: NamespaceId,
    orders: mpsc::Sender<Command<S::Lease>>,
    /// Bounds the puts and removes of this connection that are in work.
    puts: Arc<Semaphore>,
    put_patience: Patience,
    remove_patience: Patience,
    timeouts: TcpTimeouts,
}

impl<S: BlockService> Requests<S> {
    async fn run(&mut self, shutdown: &CancellationToken) -> Last {
        loop {
            let frame = tokio::select! {
                biased;
                () = shutdown.cancelled() => return Last::Drain,
                frame = self.reader.frame(Some(self.timeouts.idle)) => frame,
            };
            let taken = match frame {
                Ok((header, body)) => self.take(header.request_id, body, header.payload_len).await,
                Err(error) => Err(error),
            };
            if let Err(error) = taken {
                tracing::debug!(error = &error as &dyn std::error::Error, "fabric connection ended");
                return error.goodbye().map_or(Last::Gone, Last::Refuse);
            }
        }
    }

    async fn take(&mut self, request_id: u64, body: Body, payload_len: u32) -> Result<(), EndError> {
        match body {
            Body::Get(get) => {
                let job = self.get_job(request_id, get);
                self.order(Command::Get(job)).await
            }
            Body::PutBlock(block) => {
                let put = Offered { block, namespace: self.namespace, is_copy: false };
                self.receive(request_id, put, payload_len as usize).await
            }
            Body::CopyBlock(CopyBlock { namespace, block }) => {
                let put = Offered { block, namespace, is_copy: true };
                self.receive(request_id, put, payload_len as usize).await
            }
            Body::Contains(keys) => {
                let held = keys.keys.iter().map(|key| self.service.contains(self.namespace, *key)).collect();
                self.order(Command::Reply(Reply::Frame(request_id, Body::ContainsReply(held)))).await
            }
            Body::Remove(keys) => self.remove(request_id, keys).await,
            Body::Cancel => self.order(Command::Cancel(request_id)).await,
            Body::Goodbye(goodbye) => Err(EndError::Goodbye(goodbye)),
            Body::Hello(_)
            | Body::HelloAck(_)
            | Body::GetBlock(_)
            | Body::PutDone(_)
            | Body::ContainsReply(_)
            | Body::RemoveReply(_) => Err(EndError::Unexpected),
        }
    }

    async fn order(&self, command: Command<S::Lease>) -> Result<(), EndError> {
        self.orders.send(command).await.map_err(|_| EndError::Closed)
    }

    fn get_job(&self, request_id: u64, get: Get) -> GetJob {
        let current = self.service.hello().incarnation;
        let stale = get.incarnation.0 != 0 && get.incarnation != current;
        let deadline = deadline(get.deadline_ms);
        GetJob::new(request_id, get.entries, get.urgency, deadline, stale.then_some(BlockStatus::Stale))
    }

    /// Receives the payload of a put into a slot, or throws it away if there is none in time.
    async fn receive(&mut self, request_id: u64, put: Offered, len: usize) -> Result<(), EndError> {
        let Offered { block, namespace, is_copy } = put;
        let deadline = deadline(block.deadline_ms);
        let entry = |result| put_entry(block.index, result);
        let (mut slot, permit) = match self.slot(namespace, len, deadline).await {
            Ok(slot) => slot,
            Err(status) => {
                self.reader.skip_payload().await?;
                return self.order(Command::Reply(Reply::Put(request_id, entry(Err(status))))).await;
            }
        };
        let late = deadline + Duration::from_millis(DEADLINE_GRACE_MS);
        // The bytes are judged by the service, and not looked at twice.
        if self.reader.payload(slot.as_mut(), late, |_| {}).await? == Arrival::Late {
            // The memory is for others; the connection is for what comes after these bytes.
            drop((slot, permit));
            self.reader.skip_payload().await?;
            let late = entry(Err(BlockStatus::DeadlineExceeded));
            return self.order(Command::Reply(Reply::Put(request_id, late))).await;
        }
        let service = Arc::clone(&self.service);
        let request = PutRequest {
            key: block.key,
            crc32: block.crc32,
            ack: block.ack,
            retention: block.retention,
            depth: block.depth,
            is_copy,
        };
        let work: Work<S::Lease> = Box::pin(async move {
            let _permit = permit;
            let put = service.put(namespace, request, slot, deadline);
            let result = tokio::time::timeout_at(deadline.into(), put).await;
            let result = result.unwrap_or(Err(BlockStatus::DeadlineExceeded));
            Reply::Put(request_id, put_entry(block.index, result))
        });
        self.order(Command::Work(work)).await
    }

    /// Memory of `len` bytes, within the time that puts may hold up the frames behind them.
    async fn slot(
        &mut self,
        namespace: NamespaceId,
        len: usize,
        deadline: Instant,
    ) -> Result<(S::Slot, OwnedSemaphorePermit), BlockStatus> {
        if len > self.service.hello().block_bytes_max {
            return Err(BlockStatus::TooLarge);
        }
        let reserved = async {
            let permit = permit(&self.puts).await?;
            let slot = self.service.reserve(namespace, len, deadline).await?;
            Ok((slot, permit))
        };
        let (mut slot, permit) = self.put_patience.wait_for(reserved, BlockStatus::Full, deadline).await?;
        if slot.as_mut().len() == len {
            Ok((slot, permit))
        } else {
            tracing::error!(
                len,
                slot_len = slot.as_mut().len(),
                "fabric: the store gave a slot of another length"
            );
            Err(BlockStatus::IoError)
        }
    }

    async fn remove(&mut self, request_id: u64, keys: Keys) -> Result<(), EndError> {
        let deadline = deadline(keys.deadline_ms);
        let place = permit(&self.puts);
        let permit = match self.remove_patience.wait_for(place, BlockStatus::Overloaded, deadline).await {
            Ok(permit) => permit,
            Err(status) => {
                let refused = RemoveReply { statuses: vec![status; keys.keys.len()] };
                return self
                    .order(Command::Reply(Reply::Frame(request_id, Body::RemoveReply(refused))))
                    .await;
            }
        };
        let (service, namespace) = (Arc::clone(&self.service), self.namespace);
        let work: Work<S::Lease> = Box::pin(async move {
            let _permit = permit;
            let mut statuses = Vec::with_capacity(keys.keys.len());
            for key in keys.keys {
                let removed = tokio::time::timeout_at(deadline.into(), service.remove(namespace, key)).await;
                statuses.push(removed.unwrap_or(BlockStatus::DeadlineExceeded));
            }
            Reply::Frame(request_id, Body::RemoveReply(RemoveReply { statuses }))
        });
        self.order(Command::Work(work)).await
    }
}

/// A place among the puts and removes in work.
async fn permit(places: &Arc<Semaphore>) -> Result<OwnedSemaphorePermit, BlockStatus> {
    Arc::clone(places).acquire_owned().await.map_err(|_| BlockStatus::ShuttingDown)
}

/// When a request must be answered that was received now.
fn deadline(deadline_ms: u32) -> Instant {
    Instant::now() + Duration::from_millis(u64::from(deadline_ms).min(CALL_DEADLINE_MS_MAX))
}

fn put_entry(index: u32, result: Result<PutAck, BlockStatus>) -> PutEntry {
    match result {
        Ok(ack) => {
            PutEntry { index, status: BlockStatus::Ok, existed: ack.existed, generation: ack.generation }
        }
        // A store that fails with `Ok` is broken, and the wire has no way to say so.
        Err(BlockStatus::Ok) => put_entry(index, Err(BlockStatus::IoError)),
        Err(status) => PutEntry { index, status, existed: false, generation: Generation(0) },
    }
}
