//! Holds what moves in bulk to a rate.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use hearth_proto::limits::{
    SNAPSHOT_LOOK_MS, SNAPSHOT_WRITE_BYTES_PER_SECOND, SNAPSHOT_WRITE_BYTES_PER_SECOND_MIN,
};

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

/// The pace at which a snapshot is written: slower the faster the log grows beside it, which wants the same
/// processor and disk, but always so fast that it ends long before the next one is due.
#[derive(Debug)]
pub(super) struct SnapshotPace {
    pace: Pace,
    /// Grows with what is applied.
    applied_bytes: Arc<AtomicU64>,
    looked: Instant,
    seen_bytes: u64,
}

impl SnapshotPace {
    pub(super) fn new(applied_bytes: Arc<AtomicU64>, now: Instant) -> Self {
        let seen_bytes = applied_bytes.load(Ordering::Relaxed);
        let pace = Pace::new(SNAPSHOT_WRITE_BYTES_PER_SECOND_MIN, now);
        Self { pace, applied_bytes, looked: now, seen_bytes }
    }

    /// As [`Pace::moved`].
    pub(super) fn moved(&mut self, bytes: usize, now: Instant) -> Duration {
        let since = now.saturating_duration_since(self.looked);
        if since >= Duration::from_millis(SNAPSHOT_LOOK_MS) {
            let applied = self.applied_bytes.load(Ordering::Relaxed);
            let per_second =
                u128::from(applied.saturating_sub(self.seen_bytes)) * 1_000_000 / since.as_micros();
            self.pace.bytes_per_second = beside(u64::try_from(per_second).unwrap_or(u64::MAX));
            (self.looked, self.seen_bytes) = (now, applied);
        }
        self.pace.moved(bytes, now)
    }
}

/// How fast a snapshot is written beside a log that grows so fast, both in bytes a second.
fn beside(log: u64) -> u64 {
    // The next one is due when the log is as long as this one: twice its pace is soon enough.
    SNAPSHOT_WRITE_BYTES_PER_SECOND
        .saturating_sub(log.saturating_mul(6))
        .max(SNAPSHOT_WRITE_BYTES_PER_SECOND_MIN)
        .max(log.saturating_mul(2))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_makes_room_for_the_log_and_still_ends_before_the_next() {
        const MIB: u64 = 1 << 20;
        let paces = [0, 1, 4, 8, 12, 40, 200].map(|log| (log, beside(log * MIB) / MIB));
        assert_eq!(paces, [(0, 64), (1, 58), (4, 40), (8, 16), (12, 24), (40, 80), (200, 400)]);
        assert_eq!(beside(u64::MAX), u64::MAX);
    }

    #[test]
    fn the_pace_follows_what_is_applied() {
        let began = Instant::now();
        let at = |millis| began + Duration::from_millis(millis);
        let applied = Arc::new(AtomicU64::new(7));
        let mut pace = SnapshotPace::new(applied.clone(), began);
        assert_eq!(pace.moved(16 << 20, began), Duration::from_secs(1), "not known yet: slow");
        assert_eq!(pace.moved(64 << 20, at(1_000)), Duration::from_secs(1), "nothing is applied");
        applied.store(7 + (16 << 20), Ordering::Relaxed);
        assert_eq!(pace.moved(32 << 20, at(2_000)), Duration::from_secs(1), "twice as fast as the log");
        applied.store(0, Ordering::Relaxed);
        assert_eq!(pace.moved(64 << 20, at(3_000)), Duration::from_secs(1), "counted anew from zero");
    }

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
