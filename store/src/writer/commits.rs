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
    queue: Option<SyncSender<(Changes, Answer)>>,
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

fn run(mut catalog: Box<dyn Catalog>, batches: &Receiver<(Changes, Answer)>) {
    while let Ok((changes, answer)) = batches.recv() {
        answer.give(catalog.commit(&changes));
    }
}

/// Who is to be told of the end of a commit, and is told even if the thread dies.
struct Answer(Option<Done>);

impl Answer {
    fn give(mut self, result: io::Result<()>) {
        if let Some(done) = self.0.take() {
            done(result);
        }
    }
}

impl Drop for Answer {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(io::Error::other("the thread of the index is gone")));
        }
    }
}

impl Commits for CommitThread {
    fn submit(&mut self, changes: Changes, done: Done) {
        let queue = self.queue.as_ref().expect("the queue is there until the thread is told to end");
        // If nobody receives it the answer says so.
        let _ = queue.send((changes, Answer(Some(done))));
    }

    fn commit_now(&mut self, changes: Changes) -> io::Result<()> {
        let (done, wait) = sync_channel(1);
        self.submit(changes, Box::new(move |result| drop(done.send(result))));
        wait.recv().unwrap_or_else(|error| Err(io::Error::other(error)))
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::OpenError;
    use crate::slab::{BlockEntry, Remembered};

    struct Dying;

    impl Catalog for Dying {
        fn remembered(&self) -> Result<Remembered, OpenError> {
            unreachable!("nobody opens it")
        }

        fn blocks(&self, _visit: &mut dyn FnMut(BlockEntry)) -> Result<u64, OpenError> {
            unreachable!("nobody opens it")
        }

        fn commit(&mut self, _changes: &Changes) -> io::Result<()> {
            panic!("as a bug would")
        }
    }

    #[test]
    fn whoever_waits_for_a_commit_is_told_that_the_thread_died() {
        let mut commits = CommitThread::spawn(Box::new(Dying)).unwrap();
        assert!(commits.commit_now(Changes::default()).is_err());
        assert!(commits.commit_now(Changes::default()).is_err());
    }
}
