//! Small pieces of synchronisation shared by the threads of the store.

use std::collections::VecDeque;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

/// Locks `mutex` even if a thread panicked while holding it.
///
/// Every critical section here leaves its data whole at each step that can panic, so a poisoned lock
/// tells of a bug that was already reported and must not turn into a second one.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A queue into one thread.
///
/// It has no bound of its own: each message stands for a permit, a reserved slot or a request in
/// flight, and those are bounded where they are given out (INV-BOUND).
pub(crate) struct Mailbox<T> {
    state: Mutex<State<T>>,
    arrived: Condvar,
}

struct State<T> {
    messages: VecDeque<T>,
    /// True if the reader is to be woken for what there is.
    urgent: bool,
    /// True while every message is urgent.
    attentive: bool,
    closed: bool,
}

/// Messages that wait for the reader to look by itself, at the most.
const QUIET_MAX: usize = 64;

impl<T> Mailbox<T> {
    pub(crate) fn new() -> Self {
        Self {
            state: Mutex::new(State {
                messages: VecDeque::new(),
                urgent: false,
                attentive: false,
                closed: false,
            }),
            arrived: Condvar::new(),
        }
    }

    /// Queues a message; gives it back if nobody will read it any more.
    pub(crate) fn send(&self, message: T) -> Result<(), T> {
        let mut state = lock(&self.state);
        if state.closed {
            return Err(message);
        }
        state.messages.push_back(message);
        if !std::mem::replace(&mut state.urgent, true) {
            self.arrived.notify_one();
        }
        Ok(())
    }

    /// Queues a message that can wait until there is another one, or many of its kind. If nobody will read it
    /// any more it is dropped.
    pub(crate) fn send_quietly(&self, message: T) {
        let mut state = lock(&self.state);
        if state.closed {
            return;
        }
        state.messages.push_back(message);
        let is_urgent = state.attentive || state.messages.len() >= QUIET_MAX;
        if is_urgent && !std::mem::replace(&mut state.urgent, true) {
            self.arrived.notify_one();
        }
    }

    /// Lets the reader be woken by every message, or by those alone that cannot wait.
    pub(crate) fn set_attentive(&self, attentive: bool) {
        let mut state = lock(&self.state);
        state.attentive = attentive;
        state.urgent |= attentive && !state.messages.is_empty();
    }

    /// Waits until there is a message that cannot wait, and moves all of them to `into`.
    pub(crate) fn receive_all(&self, into: &mut VecDeque<T>) {
        let mut state = lock(&self.state);
        while !state.urgent {
            state = self.arrived.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.urgent = false;
        into.append(&mut state.messages);
    }

    /// Moves all messages that there are to `into`. Never waits.
    pub(crate) fn take_all(&self, into: &mut VecDeque<T>) {
        let mut state = lock(&self.state);
        state.urgent = false;
        into.append(&mut state.messages);
    }

    /// Moves those messages to `into` that `is_wanted` names; the others keep their order. Never waits.
    pub(crate) fn take_where(&self, is_wanted: impl Fn(&T) -> bool, into: &mut VecDeque<T>) {
        let mut state = lock(&self.state);
        let messages = std::mem::take(&mut state.messages);
        let (mut wanted, others) = messages.into_iter().partition(is_wanted);
        state.messages = others;
        into.append(&mut wanted);
    }

    pub(crate) fn is_empty(&self) -> bool {
        lock(&self.state).messages.is_empty()
    }

    /// Refuses further messages and gives back those that were not read.
    pub(crate) fn close(&self) -> VecDeque<T> {
        let mut state = lock(&self.state);
        state.closed = true;
        std::mem::take(&mut state.messages)
    }
}
