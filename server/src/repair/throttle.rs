//! How many bytes may be moved by now. Pure: time is passed in.

use std::time::{Duration, Instant};

/// Part of a second, as a divisor, whose bytes may be moved at once after a pause.
const BURST_DIVISOR: u64 = 8;

/// A token bucket that may go into debt for one block, so that blocks larger than the bucket pass too.
#[derive(Debug)]
pub(super) struct Throttle {
    bytes_per_second: u64,
    /// Bytes that may be moved now; what was moved beyond that if it is negative.
    balance: i128,
    at: Instant,
}

impl Throttle {
    pub(super) fn new(bytes_per_second: u64, now: Instant) -> Self {
        let rate = bytes_per_second.max(1);
        Self { bytes_per_second: rate, balance: i128::from(rate / BURST_DIVISOR), at: now }
    }

    /// Changes the rate from now on; a debt is paid off at the new one.
    pub(super) fn set_rate(&mut self, bytes_per_second: u64, now: Instant) {
        self.refill(now);
        self.bytes_per_second = bytes_per_second.max(1);
        self.balance = self.balance.min(self.burst());
    }

    /// Takes the bytes of one block.
    ///
    /// # Errors
    /// When to ask again; nothing was taken.
    pub(super) fn take(&mut self, bytes: u64, now: Instant) -> Result<(), Instant> {
        self.refill(now);
        if self.balance < 0 {
            let debt = self.balance.unsigned_abs() * 1_000_000_000;
            let nanos = debt.div_ceil(u128::from(self.bytes_per_second));
            return Err(self.at + Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX >> 1)));
        }
        self.balance -= i128::from(bytes);
        Ok(())
    }

    /// Takes bytes that were moved already, whatever is left: whoever is next waits for them.
    pub(super) fn charge(&mut self, bytes: u64) {
        self.balance -= i128::from(bytes);
    }

    fn refill(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.at);
        let gained = elapsed.as_nanos() * u128::from(self.bytes_per_second) / 1_000_000_000;
        // What is less than a byte is not lost: its time is counted again.
        if gained > 0 {
            self.at = now;
            self.balance = (self.balance + gained as i128).min(self.burst());
        }
    }

    fn burst(&self) -> i128 {
        i128::from(self.bytes_per_second / BURST_DIVISOR)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// Bytes moved in `seconds` by someone who always wants to move a block of `block` bytes.
    fn moved(throttle: &mut Throttle, from: Instant, seconds: u64, block: u64) -> u64 {
        let (mut now, mut moved) = (from, 0);
        while now < from + Duration::from_secs(seconds) {
            match throttle.take(block, now) {
                Ok(()) => moved += block,
                Err(at) => {
                    assert!(at > now, "whoever waits until then gets on");
                    now = at;
                }
            }
        }
        moved
    }

    #[test]
    fn the_rate_holds_whatever_the_size_of_blocks() {
        let start = Instant::now();
        for block in [1_000, 64 << 10, MIB, 64 * MIB] {
            let mut throttle = Throttle::new(10 * MIB, start);
            let moved = moved(&mut throttle, start, 100, block);
            let expected = 1_000 * MIB;
            assert!(moved.abs_diff(expected) <= 2 * block + 10 * MIB / BURST_DIVISOR, "{block}: {moved}");
        }
    }

    #[test]
    fn a_pause_earns_no_more_than_the_burst() {
        let start = Instant::now();
        let mut throttle = Throttle::new(8 * MIB, start);
        let later = start + Duration::from_secs(3_600);
        let at_once = (0..).take_while(|_| throttle.take(64 << 10, later).is_ok()).count() as u64;
        assert_eq!(at_once, MIB / (64 << 10) + 1);
    }

    #[test]
    fn what_was_moved_without_asking_is_made_up_for() {
        let start = Instant::now();
        let mut throttle = Throttle::new(MIB, start);
        assert!(throttle.take(64 << 10, start).is_ok());
        throttle.charge(4 * MIB);
        let due = throttle.take(64 << 10, start).expect_err("there is a debt");
        let waits = due.duration_since(start).as_millis();
        assert!((3_900..4_000).contains(&waits), "{waits} ms");
    }

    #[test]
    fn a_new_rate_holds_from_then_on_and_no_rate_is_never() {
        let start = Instant::now();
        let mut throttle = Throttle::new(100 * MIB, start);
        moved(&mut throttle, start, 1, MIB);
        let later = start + Duration::from_secs(2);
        throttle.set_rate(MIB, later);
        let moved = moved(&mut throttle, later, 20, 64 << 10);
        assert!((19 * MIB..=21 * MIB).contains(&moved), "{moved}");
        throttle.set_rate(0, later);
        let _one_block_may_pass = throttle.take(MIB, later);
        assert!(throttle.take(MIB, later + Duration::from_secs(60)).is_err());
    }
}
