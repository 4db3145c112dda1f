//! Holds what moves in bulk to a rate.

use std::time::{Duration, Instant};

/// Shorter waits are put off: a sleep costs more than they are worth.
const WAIT_MIN: Duration = Duration::from_millis(2);

/// So many bytes a second since it began, at the most. Time in which nothing moved is not made up for.
#[derive(Debug)]
pub(super) struct Pace {
    bytes_per_second: u64,
    /// When the bytes until now may have been moved.
    due: Instant,
}

impl Pace {
    pub(super) fn new(bytes_per_second: u64, now: Instant) -> Self {
        Self { bytes_per_second, due: now }
    }

    /// Counts bytes, and says how long to wait before more are moved.
    pub(super) fn moved(&mut self, bytes: usize, now: Instant) -> Duration {
        let takes = Duration::from_nanos(bytes as u64 * 1_000_000_000 / self.bytes_per_second);
        self.due = self.due.max(now) + takes;
        Some(self.due.saturating_duration_since(now)).filter(|wait| *wait >= WAIT_MIN).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_take_their_time_and_a_pause_is_not_made_up_for() {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let mut pace = Pace::new(1_000_000, began);
        assert_eq!(pace.moved(1_000, at(0)), Duration::ZERO, "put off");
        assert_eq!(pace.moved(2_000, at(0)), Duration::from_millis(3));
        assert_eq!(pace.moved(5_000, at(1)), Duration::from_millis(7));
        assert_eq!(pace.moved(4_000, at(900)), Duration::from_millis(4));
    }
}
