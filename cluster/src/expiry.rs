//! Moves the replicated time on when something is due to end by it. A cluster in which nothing ends adds
//! nothing to its logs.

use std::time::{Duration, Instant};

use hearth_proto::limits::{EXPIRY_MS_MAX, EXPIRY_MS_MIN, PROPOSE_ATTEMPT_MS};
use hearth_proto::v1;
use hearth_proto::v1::command::Body;

use crate::cluster::{Cluster, now_ms};
use crate::raft::{Group, LocalProposal};
use crate::state::command;

/// The time as the leader of a group sees it: its clock, or the replicated time and what has passed since,
/// whichever is later. A clock that jumped ahead once has moved the replicated time ahead for good; what is
/// granted after that must not last until all clocks have caught up.
#[derive(Debug, Default)]
struct Pace {
    seen: Option<(u64, Instant)>,
}

impl Pace {
    /// What the time is now.
    fn now_ms(&mut self, replicated_ms: u64, clock_ms: u64, now: Instant) -> u64 {
        let since = match self.seen {
            Some((seen_ms, since)) if seen_ms == replicated_ms => since,
            _ => {
                self.seen = Some((replicated_ms, now));
                now
            }
        };
        let passed = now.saturating_duration_since(since).as_millis();
        clock_ms.max(replicated_ms.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX)))
    }
}

impl Cluster {
    /// Ends what is due in the groups that this node leads, for ever.
    pub(crate) async fn end_what_is_due(&self) {
        futures::future::join_all(self.all_groups().map(|group| end_due_of(group))).await;
    }
}

async fn end_due_of(group: &Group) {
    let longest = Duration::from_millis(EXPIRY_MS_MAX);
    let mut pace = Pace::default();
    loop {
        if group.leading_term().is_none() {
            pace = Pace::default();
            tokio::time::sleep(longest).await;
            continue;
        }
        let (replicated_ms, first_end_ms) = {
            let replicated = group.replicated();
            (replicated.state.time_ms(), replicated.state.first_end_ms())
        };
        let now_ms = pace.now_ms(replicated_ms, now_ms(), Instant::now());
        let wait = match first_end_ms {
            None => longest,
            Some(end_ms) if end_ms > now_ms => Duration::from_millis(end_ms - now_ms).min(longest),
            Some(_) => {
                advance(group, now_ms).await;
                Duration::ZERO
            }
        };
        // A group that takes no commands now must not be asked without a pause.
        tokio::time::sleep(wait.max(Duration::from_millis(EXPIRY_MS_MIN))).await;
    }
}

async fn advance(group: &Group, stamp_ms: u64) {
    let command = command::new(Body::AdvanceTime(v1::AdvanceTime {}));
    let proposal = group.propose(&command, stamp_ms);
    match tokio::time::timeout(Duration::from_millis(PROPOSE_ATTEMPT_MS), proposal).await {
        Ok(LocalProposal::Applied(..) | LocalProposal::NotLeader(_)) => {}
        Ok(other) => tracing::debug!(group = %group.id(), ?other, "the replicated time was not moved on"),
        Err(_) => tracing::debug!(group = %group.id(), "the replicated time was not moved on in time"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_passes_even_if_the_clock_is_far_behind_the_replicated_one() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut pace = Pace::default();
        assert_eq!(pace.now_ms(9_000, 100, start), 9_000);
        assert_eq!(pace.now_ms(9_000, 250, start + ms(150)), 9_150);
        assert_eq!(pace.now_ms(9_000, 9_500, start + ms(200)), 9_500, "a clock that is ahead is believed");
        assert_eq!(pace.now_ms(9_500, 300, start + ms(300)), 9_500);
        assert_eq!(pace.now_ms(9_500, 350, start + ms(350)), 9_550);
    }
}
