//! Commits of the index, one batch after the other, away from whoever asks for them: a synced write to
//! RocksDB takes its time.

use std::io;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread::JoinHandle;

use crate::device::Done;
use crate::slab::{Catalog, Changes};

/// Makes changes of the index durable, in the order in which they come.
pub(crate) trait Commits: Send {
    /// Queues changes. `done` is told when all of them are durable, or refused; after a refusal either may be
    /// the case. The caller waits for that before it queues more.
    fn submit(&mut self, changes: Changes, done: Done);

    /// Makes changes durable before it returns.
    fn commit_now(&mut self, changes: Changes) -> io::Result<()>;
}

/// The thread that owns the index in RocksDB while the store is open.
pub(crate) struct CommitThread {
    queue: Option<SyncSender<(Changes, Done)>>,
    thread: Option<JoinHandle<()>>,
}

impl CommitThread {
    /// # Errors
    /// The system has no thread to give.
    pub(crate) fn spawn(catalog: Box<dyn Catalog>) -> io::Result<Self> {
        let (queue, batches) = sync_channel(1);
        let thread = std::thread::Builder::new().name("hearth-index".into());
        let thread = thread.spawn(move || run(catalog, &batches))?;
        Ok(Self { queue: Some(queue), thread: Some(thread) })
    }
}

fn run(mut catalog: Box<dyn Catalog>, batches: &Receiver<(Changes, Done)>) {
    while let Ok((changes, done)) = batches.recv() {
        done(catalog.commit(&changes));
    }
}

impl Commits for CommitThread {
    fn submit(&mut self, changes: Changes, done: Done) {
        let queue = self.queue.as_ref().expect("the queue is there until the thread is told to end");
        if let Err(refused) = queue.send((changes, done)) {
            (refused.0.1)(Err(io::Error::other("the thread of the index is gone")));
        }
    }

    fn commit_now(&mut self, changes: Changes) -> io::Result<()> {
        let (done, wait) = sync_channel(1);
        self.submit(changes, Box::new(move |result| drop(done.send(result))));
        wait.recv().unwrap_or_else(|_| Err(io::Error::other("the thread of the index is gone")))
    }
}

impl Drop for CommitThread {
    fn drop(&mut self) {
        self.queue = None;
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the thread of the index panicked");
        }
    }
}
