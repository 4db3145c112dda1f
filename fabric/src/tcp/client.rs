//! The two tasks of a connection's client end, and what they share with the callers.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_proto::frame::{BlockStatus, Body, CopyBlock, PutBlock};
use tokio::net::tcp::OwnedWriteHalf;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::error::EndError;
use super::reader::{Arrival, FrameReader};
use crate::call::Ledger;
use crate::mover::PutItem;
use crate::session::{Outcome, Session, Step, relative_ms};

/// What the writing task is told to send.
pub(super) enum Command {
    /// A frame without payload, encoded.
    Frame(Vec<u8>),
    /// The blocks of a put, each as long as the session awaits its answer.
    Put(PutJob),
}

pub(super) struct PutJob {
    pub(super) request_id: u64,
    pub(super) items: std::iter::Enumerate<std::vec::IntoIter<PutItem>>,
    pub(super) deadline: Instant,
}

/// What callers and tasks share.
pub(super) struct Shared {
    session: Mutex<Session<mpsc::Sender<Outcome>>>,
    pub(super) commands: mpsc::Sender<Command>,
    /// Ends both tasks.
    ended: CancellationToken,
}

impl Shared {
    pub(super) fn new(commands: mpsc::Sender<Command>) -> Self {
        Self { session: Mutex::default(), commands, ended: CancellationToken::new() }
    }

    pub(super) fn session(&self) -> MutexGuard<'_, Session<mpsc::Sender<Outcome>>> {
        // The session has no state between two of its steps that a panic elsewhere could break.
        self.session.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends the connection; everything outstanding completes with `why`.
    pub(super) fn end(&self, why: BlockStatus) {
        self.session().end(why);
        self.ended.cancel();
    }

    /// Hands an order to the writing task. The queue is full only if the peer has taken nothing while
    /// hundreds of requests came and went: the connection is then of no use.
    pub(super) fn send(&self, command: Command) {
        if self.commands.try_send(command).is_err() {
            self.end(BlockStatus::Overloaded);
        }
    }
}

impl Ledger for Shared {
    fn abandon(&self, request_id: u64, why: BlockStatus) -> Vec<Outcome> {
        let unanswered = self.session().abandon(request_id, why);
        if unanswered.is_some() {
            let mut frame = Vec::new();
            Body::Cancel.encode(request_id, 0, &mut frame);
            self.send(Command::Frame(frame));
        }
        unanswered.unwrap_or_default()
    }
}

/// Ends the connection when its task ends, also by a panic.
struct EndOnDrop<'a>(&'a Shared, BlockStatus);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end(self.1);
    }
}

/// Reads answers until the connection ends.
pub(super) async fn read_task(shared: Arc<Shared>, mut reader: FrameReader) {
    let mut end = EndOnDrop(&shared, BlockStatus::Disconnected);
    let error = tokio::select! {
        biased;
        () = shared.ended.cancelled() => return,
        error = read_answers(&shared, &mut reader) => error,
    };
    end.1 = error.status();
    tracing::debug!(error = &error as &dyn std::error::Error, "fabric connection ended");
}

async fn read_answers(shared: &Shared, reader: &mut FrameReader) -> EndError {
    loop {
        if let Err(error) = read_answer(shared, reader).await {
            return error;
        }
    }
}

async fn read_answer(shared: &Shared, reader: &mut FrameReader) -> Result<(), EndError> {
    // It waits for answers as long as the connection lives, because each caller keeps its own deadline.
    let (header, body) = reader.frame(None).await?;
    let request_id = header.request_id;
    match body {
        Body::GetBlock(block) => {
            let step = shared.session().got_block(request_id, &block, header.payload_len)?;
            match step {
                Step::Land(mut landing) => {
                    let deadline = landing.deadline();
                    let mut hasher = crc32fast::Hasher::new();
                    let room = landing.room();
                    match reader.payload(room, deadline, |piece| hasher.update(piece)).await? {
                        Arrival::Whole => shared.session().landed(landing, hasher.finalize()),
                        // The caller's own timer completes the block; its memory is not kept for it.
                        Arrival::Late => {
                            drop(landing);
                            reader.skip_payload().await?;
                        }
                    }
                }
                Step::Discard => reader.skip_payload().await?,
            }
        }
        Body::PutDone(done) => shared.session().put_done(request_id, &done)?,
        Body::ContainsReply(tiers) => shared.session().tiers(request_id, tiers)?,
        Body::RemoveReply(reply) => shared.session().removed(request_id, reply.statuses)?,
        Body::Goodbye(goodbye) => return Err(EndError::Goodbye(goodbye)),
        Body::Hello(_)
        | Body::HelloAck(_)
        | Body::Get(_)
        | Body::PutBlock(_)
        | Body::Contains(_)
        | Body::Remove(_)
        | Body::CopyBlock(_)
        | Body::Cancel => return Err(EndError::Unexpected),
    }
    Ok(())
}

/// Writes requests until the connection ends.
pub(super) async fn write_task(
    shared: Arc<Shared>,
    socket: OwnedWriteHalf,
    mut commands: mpsc::Receiver<Command>,
    stall: Duration,
) {
    let _end = EndOnDrop(&shared, BlockStatus::Disconnected);
    let write = async {
        let mut batch = Batch::new();
        let mut puts = VecDeque::new();
        loop {
            if puts.is_empty() {
                match commands.recv().await {
                    Some(command) => accept(command, &mut batch, &mut puts),
                    None => return Ok(()),
                }
            }
            // Small frames go before the next blocks, so that a long put does not hold up a get.
            while !batch.is_full() {
                let Ok(command) = commands.try_recv() else { break };
                accept(command, &mut batch, &mut puts);
            }
            while !batch.is_full() {
                let Some(job) = puts.pop_front() else { break };
                puts.extend(push_put(&shared, &mut batch, job));
            }
            batch.write(&socket, stall).await?;
        }
    };
    let written: Option<Result<(), EndError>> = tokio::select! {
        biased;
        () = shared.ended.cancelled() => None,
        written = write => Some(written),
    };
    if let Some(Err(error)) = written {
        tracing::debug!(error = &error as &dyn std::error::Error, "fabric connection ended");
    }
}

fn accept(command: Command, batch: &mut Batch<Bytes>, puts: &mut VecDeque<PutJob>) {
    match command {
        Command::Frame(frame) => batch.push_encoded(&frame),
        Command::Put(job) => puts.push_back(job),
    }
}

/// Appends the next block of a put that is still awaited; gives the put back if it may have more.
fn push_put(shared: &Shared, batch: &mut Batch<Bytes>, mut job: PutJob) -> Option<PutJob> {
    let now = Instant::now();
    if job.deadline <= now {
        return None;
    }
    let session = shared.session();
    let (index, item) = job
        .items
        .by_ref()
        .map(|(index, item)| (index as u32, item))
        .find(|(index, _)| session.awaits_put(job.request_id, *index))?;
    drop(session);
    let block = PutBlock {
        index,
        ack: item.ack,
        retention: item.retention,
        depth: item.depth,
        deadline_ms: relative_ms(now, job.deadline),
        key: item.key,
        crc32: item.crc32,
    };
    let body = match item.copy_of {
        None => Body::PutBlock(block),
        Some(namespace) => Body::CopyBlock(CopyBlock { namespace, block }),
    };
    batch.push(job.request_id, &body, Some(item.payload));
    Some(job)
}
