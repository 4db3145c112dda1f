//! Leaves a failed node alone for a while, and lets one call try it again. Pure: time is passed in.

use std::time::{Duration, Instant};

use hearth_proto::limits::{BREAKER_PAUSE_MS_MAX, BREAKER_PAUSE_MS_MIN};

const PAUSE_MIN: Duration = Duration::from_millis(BREAKER_PAUSE_MS_MIN);
const PAUSE_MAX: Duration = Duration::from_millis(BREAKER_PAUSE_MS_MAX);

/// Whether a node may be called, from how its last calls went.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Breaker {
    open: Option<Open>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    until: Instant,
    pause: Duration,
}

impl Breaker {
    /// Whether a call may go out now. When a pause has ended, exactly one caller per pause is let
    /// through: it decides for all.
    pub(crate) fn admits(&mut self, now: Instant) -> bool {
        match &mut self.open {
            None => true,
            Some(open) if now < open.until => false,
            Some(open) => {
                open.until = now + open.pause;
                true
            }
        }
    }

    /// A call went well: the node is used again.
    pub(crate) fn succeeded(&mut self) {
        self.open = None;
    }

    /// A call failed or timed out: the node is left alone, twice as long as the last time.
    pub(crate) fn failed(&mut self, now: Instant) {
        let pause = self.open.map_or(PAUSE_MIN, |open| (open.pause * 2).min(PAUSE_MAX));
        self.open = Some(Open { until: now + pause, pause });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_node_is_left_alone_then_tried_by_one_caller() {
        let start = Instant::now();
        let mut breaker = Breaker::default();
        assert!(breaker.admits(start));
        breaker.failed(start);
        assert!(!breaker.admits(start + PAUSE_MIN / 2));
        assert!(breaker.admits(start + PAUSE_MIN));
        assert!(!breaker.admits(start + PAUSE_MIN), "a second caller must wait for the first one's answer");
        breaker.succeeded();
        assert!(breaker.admits(start + PAUSE_MIN));
    }

    #[test]
    fn the_pause_doubles_up_to_its_limit() {
        let mut now = Instant::now();
        let mut breaker = Breaker::default();
        let mut longest = Duration::ZERO;
        for _ in 0..20 {
            breaker.failed(now);
            let pause = (1..).map(Duration::from_millis).find(|d| {
                let mut probe = breaker;
                probe.admits(now + *d)
            });
            longest = pause.expect("every pause ends");
            assert!(longest <= PAUSE_MAX);
            now += longest;
        }
        assert_eq!(longest, PAUSE_MAX);
    }
}
