//! What a device is asked to do, and how it answers.

use std::io;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll, Wake, Waker};
use std::time::Instant;

pub(crate) use hearth_proto::Urgency;
use tokio::sync::oneshot;

use super::stopped;
use crate::arena::{HostBlock, SlotMut};

/// One thing for a device to do. Offsets and lengths are whole sectors.
pub(crate) enum Request {
    /// Fills the whole record of `slot`.
    ///
    /// Fails with `TimedOut` if it could not begin by `deadline`, and with `UnexpectedEof` if the device
    /// ends before the record does. Among the reads that wait, the most urgent begins first, and among
    /// those the one with the earliest deadline.
    Read { offset: u64, slot: SlotMut, urgency: Urgency, deadline: Instant, done: ReadDone },
    /// Writes the whole record of `block` and ends when that is durable. Writes that come close together
    /// share a sync.
    Write { offset: u64, block: Arc<HostBlock>, done: Done },
    /// Tells the device that the bytes of a range are not needed any more; what a read finds there is
    /// unspecified. Fails with `Unsupported` where that is not possible, which harms nobody.
    ///
    /// Requests are not ordered among each other: nobody else may use the range before this has ended.
    Discard { offset: u64, len: u64, done: Done },
}

impl Request {
    /// Ends a request that no device took.
    pub(crate) fn refuse(self, error: io::Error) {
        match self {
            Self::Read { done, .. } => done.end(Err(error)),
            Self::Write { done, .. } | Self::Discard { done, .. } => done(Err(error)),
        }
    }
}

/// Called once, when a write or a discard ended.
pub(crate) type Done = Box<dyn FnOnce(io::Result<()>) + Send>;

/// The device's end of a read.
pub(crate) struct ReadDone(oneshot::Sender<io::Result<SlotMut>>);

/// The waiter's end of a read: a future of the slot, filled, or of why it is not. Whoever drops it abandons
/// the read, which is then not begun, or runs to its end for nobody.
pub(crate) struct ReadEnd(oneshot::Receiver<io::Result<SlotMut>>);

impl ReadDone {
    pub(crate) fn new() -> (Self, ReadEnd) {
        let (sender, receiver) = oneshot::channel();
        (Self(sender), ReadEnd(receiver))
    }

    /// Ends the read. A slot that was not filled, or that nobody waits for, returns to the arena.
    pub(crate) fn end(self, slot: io::Result<SlotMut>) {
        drop(self.0.send(slot));
    }

    /// True if nobody waits any more.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.0.is_closed()
    }
}

impl ReadEnd {
    /// The slot, if the read has ended. For whoever has no threads to wait with.
    pub(crate) fn try_take(&mut self) -> Option<io::Result<SlotMut>> {
        match self.0.try_recv() {
            Ok(answer) => Some(answer),
            Err(oneshot::error::TryRecvError::Empty) => None,
            Err(oneshot::error::TryRecvError::Closed) => Some(Err(stopped())),
        }
    }

    /// Blocks the caller's thread until the read has ended.
    pub(crate) fn wait(self) -> io::Result<SlotMut> {
        let waker = Waker::from(Arc::new(Unpark(std::thread::current())));
        let mut context = Context::from_waker(&waker);
        // The thread may be one of tokio's, whose budget for polls has nothing to do with this.
        let mut end = pin!(tokio::task::unconstrained(self));
        loop {
            match end.as_mut().poll(&mut context) {
                Poll::Ready(answer) => return answer,
                Poll::Pending => std::thread::park(),
            }
        }
    }
}

/// Wakes a thread that waits.
struct Unpark(std::thread::Thread);

impl Wake for Unpark {
    fn wake(self: Arc<Self>) {
        self.0.unpark();
    }
}

impl Future for ReadEnd {
    type Output = io::Result<SlotMut>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        // A device that goes without answering is one that was stopped.
        Pin::new(&mut self.0).poll(context).map(|answer| answer.map_err(|_| stopped())?)
    }
}
