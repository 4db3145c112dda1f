//! The callers of a simulated store: futures, polled one at a time by whoever is told which.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use super::workload::{Answer, Call};

/// What a caller waits for.
pub(super) type Work = Pin<Box<dyn Future<Output = Answer> + Send>>;

struct Task {
    call: Call,
    work: Work,
    ready: Arc<Ready>,
    waker: Waker,
}

/// Set while a task wants to be polled.
struct Ready(AtomicBool);

impl Wake for Ready {
    fn wake(self: Arc<Self>) {
        self.0.store(true, Ordering::Relaxed);
    }
}

/// The calls that have not ended, and the answers that nobody has looked at.
#[derive(Default)]
pub(super) struct Tasks {
    running: Vec<Task>,
    ended: Vec<(Call, Answer)>,
}

impl Tasks {
    pub(super) fn spawn(&mut self, call: Call, work: Work) {
        let ready = Arc::new(Ready(AtomicBool::new(true)));
        let waker = Waker::from(Arc::clone(&ready));
        self.running.push(Task { call, work, ready, waker });
    }

    pub(super) fn len(&self) -> usize {
        self.running.len()
    }

    pub(super) fn ready_count(&self) -> usize {
        self.running.iter().filter(|task| task.is_ready()).count()
    }

    /// Polls one of the tasks that want it; `choice` says which. Says which call that was.
    pub(super) fn poll_any(&mut self, choice: u64) -> Option<u64> {
        let count = self.ready_count() as u64;
        let chosen = choice.checked_rem(count)? as usize;
        let (index, _) = self.running.iter().enumerate().filter(|(_, task)| task.is_ready()).nth(chosen)?;
        let task = &mut self.running[index];
        let number = task.call.number;
        task.ready.0.store(false, Ordering::Relaxed);
        if let Poll::Ready(answer) = task.work.as_mut().poll(&mut Context::from_waker(&task.waker)) {
            let task = self.running.swap_remove(index);
            self.ended.push((task.call, answer));
        }
        Some(number)
    }

    /// Drops the future of a call that has not ended.
    pub(super) fn cancel(&mut self, index: usize) -> Call {
        self.running.swap_remove(index).call
    }

    pub(super) fn take_ended(&mut self) -> Vec<(Call, Answer)> {
        std::mem::take(&mut self.ended)
    }
}

impl Task {
    fn is_ready(&self) -> bool {
        self.ready.0.load(Ordering::Relaxed)
    }
}
