//! How long the frames of a connection are held up by those before them that find no room.

use std::time::{Duration, Instant};

use futures::FutureExt;
use hearth_proto::frame::BlockStatus;
use hearth_proto::limits::SLOT_PAUSE_FACTOR;
use tokio::task::coop::unconstrained;

/// Waits for room, but not for each of many in turn: after one wait in vain it only looks whether there
/// is room, until there was some or a while has passed. Without the second, a connection that does not
/// wait would never have its turn in a store where others always do.
pub(super) struct Patience {
    wait: Duration,
    /// Until when it only looks.
    looks_until: Option<Instant>,
}

impl Patience {
    pub(super) fn new(wait: Duration) -> Self {
        Self { wait, looks_until: None }
    }

    /// What `room` gives; `refusal` if it gives nothing in time.
    ///
    /// *Errors*: those of `room`; `refusal`; `DeadlineExceeded`.
    pub(super) async fn wait_for<T>(
        &mut self,
        room: impl Future<Output = Result<T, BlockStatus>>,
        refusal: BlockStatus,
        deadline: Instant,
    ) -> Result<T, BlockStatus> {
        let now = Instant::now();
        if deadline <= now {
            return Err(BlockStatus::DeadlineExceeded);
        }
        // The budget of this task shall not make room look taken.
        let room = unconstrained(room);
        let found = match self.waits_until(now, deadline) {
            None => room.now_or_never().unwrap_or(Err(refusal)),
            Some(until) => {
                let found = tokio::time::timeout_at(until.into(), room).await;
                self.waited_in_vain(Instant::now());
                found.unwrap_or(Err(if until == deadline { BlockStatus::DeadlineExceeded } else { refusal }))
            }
        };
        if found.is_ok() {
            self.looks_until = None;
        }
        found
    }

    /// How long to wait for room; `None` to look only.
    fn waits_until(&self, now: Instant, deadline: Instant) -> Option<Instant> {
        match self.looks_until {
            Some(until) if now < until => None,
            _ => Some(deadline.min(now + self.wait)),
        }
    }

    fn waited_in_vain(&mut self, now: Instant) {
        self.looks_until = Some(now + self.wait * SLOT_PAUSE_FACTOR);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WAIT: Duration = Duration::from_millis(100);

    fn later(ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(ms)
    }

    #[test]
    fn a_tenth_of_the_time_is_waited_in_vain_at_most() {
        let mut patience = Patience::new(WAIT);
        let begun = Instant::now();
        let deadline = begun + Duration::from_secs(60);
        let (mut now, mut waited, mut waits) = (begun, Duration::ZERO, 0);
        while now < deadline {
            match patience.waits_until(now, deadline) {
                Some(until) => {
                    waited += until - now;
                    waits += 1;
                    patience.waited_in_vain(until);
                    now = until;
                }
                None => now += Duration::from_millis(1),
            }
        }
        assert!(waited <= (deadline - begun) / 10 + WAIT, "waited {waited:?}");
        assert!(waits >= 59, "it waits anew now and then, but did so {waits} times only");
    }

    #[tokio::test]
    async fn it_waits_again_once_there_was_room() {
        let mut patience = Patience::new(Duration::from_millis(1));
        let nothing = || std::future::pending::<Result<(), BlockStatus>>();
        let full = patience.wait_for(nothing(), BlockStatus::Full, later(60_000)).await;
        assert_eq!(full, Err(BlockStatus::Full));
        patience.wait = Duration::from_secs(3_600);
        patience.waited_in_vain(Instant::now());
        // An hour's wait would outlast the test: it only looks.
        let looked = patience.wait_for(nothing(), BlockStatus::Overloaded, later(60_000)).await;
        assert_eq!(looked, Err(BlockStatus::Overloaded));
        assert_eq!(patience.wait_for(async { Ok(7) }, BlockStatus::Full, later(60_000)).await, Ok(7));
        let deadline = later(5);
        assert_eq!(patience.waits_until(Instant::now(), deadline), Some(deadline));
        let late = patience.wait_for(nothing(), BlockStatus::Full, deadline).await;
        assert_eq!(late, Err(BlockStatus::DeadlineExceeded));
    }
}
