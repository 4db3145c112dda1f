//! Those who wait for room in the arena: a line for each record size, in the order of arrival.
//!
//! Only the first of a line tries again when there may be room, so one of each size is woken, however many
//! wait, and a size that finds none holds up no other. A line lives while somebody stands in it.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::{Notify, Semaphore};

use crate::sync::lock;

#[derive(Default)]
pub(super) struct Lines {
    lines: Mutex<BTreeMap<u32, Arc<Line>>>,
    /// How many lines there are: whoever makes room takes no lock while nobody waits for any.
    count: AtomicUsize,
}

pub(super) struct Line {
    /// Those who stand in the line, the first one included.
    waiting: AtomicUsize,
    /// Lets one at a time be the first.
    pub(super) turnstile: Semaphore,
    /// Tells the first that there may be room.
    pub(super) room: Notify,
}

impl Lines {
    /// True if anyone waits for a slot of `class` sectors.
    pub(super) fn anyone_waits(&self, class: u32) -> bool {
        self.count.load(Ordering::SeqCst) > 0 && lock(&self.lines).contains_key(&class)
    }

    /// Lets the first of each line try again.
    pub(super) fn made_room(&self) {
        if self.count.load(Ordering::SeqCst) > 0 {
            lock(&self.lines).values().for_each(|line| line.room.notify_one());
        }
    }

    /// Puts one more at the end of a line.
    pub(super) fn join(&self, class: u32) -> Arc<Line> {
        let mut lines = lock(&self.lines);
        let line = Arc::clone(lines.entry(class).or_insert_with(|| Arc::new(Line::new())));
        line.waiting.fetch_add(1, Ordering::SeqCst);
        self.count.store(lines.len(), Ordering::SeqCst);
        line
    }

    /// Takes one out of a line, wherever he stood. True if he was the last.
    pub(super) fn leave(&self, class: u32, line: &Line) -> bool {
        let mut lines = lock(&self.lines);
        let last = line.waiting.fetch_sub(1, Ordering::SeqCst) == 1;
        if last {
            lines.remove(&class);
            self.count.store(lines.len(), Ordering::SeqCst);
        }
        last
    }
}

impl Line {
    fn new() -> Self {
        Self { waiting: AtomicUsize::new(0), turnstile: Semaphore::new(1), room: Notify::new() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_lives_while_somebody_stands_in_it() {
        let lines = Lines::default();
        let (first, second) = (lines.join(3), lines.join(3));
        assert!(Arc::ptr_eq(&first, &second));
        assert!(lines.anyone_waits(3) && !lines.anyone_waits(4));
        assert!(!lines.leave(3, &first));
        assert!(lines.anyone_waits(3));
        assert!(lines.leave(3, &second));
        assert!(!lines.anyone_waits(3));
    }
}
