//! What goes when an index has used up its memory.

use std::sync::atomic::Ordering;

use crossbeam_epoch::Guard;

use super::Index;

/// Runs among which the one is chosen that goes.
const SAMPLE: usize = 16;
/// Runs that go at the most for one change, whoever makes it.
const SHED_MAX: usize = 64;

impl Index {
    /// Lets runs go until the memory is within its bounds: of a few that come next, the one that was asked for longest
    /// ago, and of those the one with the fewest blocks that somebody holds.
    pub(super) fn keep_to_budget(&self, guard: &Guard) {
        if self.bytes() <= self.bytes_max {
            return;
        }
        // Whoever comes while another is at it has nothing to do.
        let Ok(mut hand) = self.hand.try_lock() else { return };
        for _ in 0..SHED_MAX {
            if self.bytes() <= self.bytes_max {
                return;
            }
            let Some(number) = self.least_valuable(&mut hand, guard) else { return };
            let held = self.change(number, guard, |locked| {
                let body = locked.body()?;
                Some(locked.let_go(body))
            });
            if let Some(held) = held {
                self.shed_runs.fetch_add(1, Ordering::Relaxed);
                self.shed_held.fetch_add(u64::from(held), Ordering::Relaxed);
            }
        }
    }

    fn least_valuable(&self, hand: &mut u32, guard: &Guard) -> Option<u32> {
        let end = self.runs.end();
        let now = self.now.load(Ordering::Relaxed);
        let mut next = || {
            *hand = if *hand + 1 < end { *hand + 1 } else { 1 };
            *hand
        };
        // Of numbers that are free there are few: the next new run takes one.
        let candidates = std::iter::repeat_with(&mut next).take(end as usize).filter_map(|number| {
            let run = self.runs.get(number)?;
            let body = run.body(guard)?;
            let age = now.wrapping_sub(run.used.load(Ordering::Relaxed));
            let held: u32 = body.held().map(|held| held.range().len() as u32).sum();
            Some((age, std::cmp::Reverse(held), number))
        });
        candidates.take(SAMPLE).max().map(|(.., number)| number)
    }
}
