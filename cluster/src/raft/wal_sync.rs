//! Group commit: one thread syncs the write-ahead log, and everything that was written by the time
//! it begins, whatever the group, shares that sync.

use std::io;
use std::sync::Arc;
use std::thread::JoinHandle;

use hearth_proto::limits::SYNC_QUEUE_MAX;
use openraft::storage::IOFlushed;
use tokio::sync::{mpsc, oneshot};

use super::database::Database;
use super::types::TypeConfig;

/// Somebody whose write must be on disk before they go on.
enum Waiter {
    Append(IOFlushed<TypeConfig>),
    Write(oneshot::Sender<io::Result<()>>),
}

/// A handle to the sync thread. The last one to be dropped waits for the thread's end, so that no
/// thread uses the database once everybody who could has let go of it: a process that ends while
/// RocksDB is open aborts.
#[derive(Clone, Debug)]
pub(crate) struct WalSync(Arc<Thread>);

#[derive(Debug)]
struct Thread {
    /// `None` only while it is dropped.
    waiters: Option<mpsc::Sender<Waiter>>,
    thread: Option<JoinHandle<()>>,
}

impl WalSync {
    /// Starts the thread.
    ///
    /// # Errors
    /// The operating system's, if it gives no thread.
    pub(crate) fn start(database: Arc<Database>) -> io::Result<Self> {
        let (waiters, queue) = mpsc::channel(SYNC_QUEUE_MAX);
        #[cfg(feature = "sim")]
        if let Some(disk) = database.simulated().cloned() {
            tokio::spawn(run_simulated(disk, queue));
            return Ok(Self(Arc::new(Thread { waiters: Some(waiters), thread: None })));
        }
        let run = move || run(&database, queue);
        let thread = std::thread::Builder::new().name("hearth-raft-sync".into()).spawn(run)?;
        Ok(Self(Arc::new(Thread { waiters: Some(waiters), thread: Some(thread) })))
    }

    /// Calls `flushed` once everything written until now is on disk (INV-ACK).
    pub(crate) async fn notify(&self, flushed: IOFlushed<TypeConfig>) {
        if let Err(refused) = self.waiters().send(Waiter::Append(flushed)).await {
            complete(refused.0, Err(stopped()));
        }
    }

    /// Returns once everything written until now is on disk.
    ///
    /// # Errors
    /// The disk's; after one, every further sync fails too.
    pub(crate) async fn wait(&self) -> io::Result<()> {
        let (done, result) = oneshot::channel();
        self.waiters().send(Waiter::Write(done)).await.map_err(|_| stopped())?;
        result.await.map_err(|_| stopped())?
    }

    fn waiters(&self) -> &mpsc::Sender<Waiter> {
        self.0.waiters.as_ref().expect("the queue is there as long as a handle is")
    }
}

impl Drop for Thread {
    /// Blocks for as long as one sync, at the end of a database's life.
    fn drop(&mut self) {
        self.waiters = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the sync thread panicked");
        }
    }
}

fn run(database: &Database, mut queue: mpsc::Receiver<Waiter>) {
    let mut batch = Vec::new();
    let mut failed: Option<String> = None;
    while let Some(first) = queue.blocking_recv() {
        batch.push(first);
        while batch.len() < SYNC_QUEUE_MAX
            && let Ok(waiter) = queue.try_recv()
        {
            batch.push(waiter);
        }
        // A sync that failed may have dropped the dirty pages: a later success would be a lie (INV-EIO).
        if failed.is_none()
            && let Err(error) = database.db().flush_wal(true)
        {
            tracing::error!(%error, "the metadata log cannot be synced; this node stops writing it");
            failed = Some(error.into_string());
        }
        for waiter in batch.drain(..) {
            complete(waiter, failed.as_ref().map_or(Ok(()), |error| Err(io::Error::other(error.clone()))));
        }
    }
}

/// The same on a simulated disk, whose syncs take their time.
#[cfg(feature = "sim")]
async fn run_simulated(disk: crate::sim::SimDisk, mut queue: mpsc::Receiver<Waiter>) {
    let mut batch = Vec::new();
    while queue.recv_many(&mut batch, SYNC_QUEUE_MAX).await > 0 {
        let written = disk.written();
        tokio::time::sleep(crate::sim::sync_takes()).await;
        disk.sync_to(written);
        batch.drain(..).for_each(|waiter| complete(waiter, Ok(())));
    }
}

fn complete(waiter: Waiter, result: io::Result<()>) {
    match waiter {
        Waiter::Append(flushed) => flushed.io_completed(result),
        // Whoever no longer waits needs no answer.
        Waiter::Write(done) => drop(done.send(result)),
    }
}

fn stopped() -> io::Error {
    io::Error::other("the sync thread has stopped")
}
