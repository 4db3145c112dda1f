//! What a leader stamps its commands with.

use std::time::Instant;

/// The time of every command that the leader of a group proposes: its clock, or the latest time that it saw or
/// gave and what has passed since, whichever is later. A clock that jumped ahead once has moved the time ahead
/// for good, and what is granted after that must last as long as it should, not until all clocks have caught up.
#[derive(Debug, Default)]
pub(super) struct LeaderTime {
    latest: Option<(u64, Instant)>,
}

impl LeaderTime {
    /// What the time is now.
    pub(super) fn now_ms(&mut self, replicated_ms: u64, clock_ms: u64, now: Instant) -> u64 {
        let passed_ms = self.latest.map_or(0, |(latest_ms, since)| {
            let passed = now.saturating_duration_since(since).as_millis();
            latest_ms.saturating_add(u64::try_from(passed).unwrap_or(u64::MAX))
        });
        let now_ms = passed_ms.max(clock_ms).max(replicated_ms);
        if now_ms > passed_ms {
            self.latest = Some((now_ms, now));
        }
        now_ms
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use hearth_proto::{GroupId, v1};
    use v1::command::Body;
    use v1::outcome::Kind;

    use super::*;
    use crate::state::{State, command};

    #[test]
    fn the_time_passes_even_if_the_clock_is_far_behind_the_replicated_one() {
        let (start, ms) = (Instant::now(), Duration::from_millis);
        let mut time = LeaderTime::default();
        assert_eq!(time.now_ms(9_000, 100, start), 9_000);
        assert_eq!(time.now_ms(9_000, 250, start + ms(150)), 9_150);
        assert_eq!(time.now_ms(9_000, 9_500, start + ms(200)), 9_500, "a clock that is ahead is believed");
        assert_eq!(time.now_ms(9_500, 300, start + ms(300)), 9_600);
        assert_eq!(time.now_ms(9_600, 350, start + ms(350)), 9_650);
    }

    /// A clock jumped an hour ahead, its time came into the log, and it was set right: who renews in time keeps
    /// the claim, and who does not loses it as soon as ever.
    #[test]
    fn claims_last_as_long_as_they_should_while_the_clock_is_behind_the_replicated_time() {
        let (start, hour_ms, ttl_ms) = (Instant::now(), 3_600_000, 3_000);
        let advance = Body::AdvanceTime(v1::AdvanceTime {});
        let mut state = State::new(GroupId::DIRECTORY);
        state.apply(&v1::Command { stamp_ms: hour_ms, ..command::new(advance.clone()) });
        let mut time = LeaderTime::default();
        let mut apply = |body: Body, passed_ms: u64| {
            let now = start + Duration::from_millis(passed_ms);
            let stamp_ms = time.now_ms(state.time_ms(), 1_000 + passed_ms, now);
            state.apply(&v1::Command { stamp_ms, ..command::new(body) }).kind.unwrap()
        };
        let key: bytes::Bytes = vec![7; 32].into();
        let claim = |claimant: &'static [u8]| {
            let (key, claimant) = (key.clone(), claimant.into());
            Body::ClaimPrefill(v1::ClaimPrefill { key, claimant, ttl_ms, ..Default::default() })
        };
        let Kind::ClaimGranted(granted) = apply(claim(b"a"), 0) else { panic!() };
        let token = granted.token;
        let renew = Body::RenewClaim(v1::RenewClaim { namespace_id: 0, key: key.clone(), token, ttl_ms });
        for passed_ms in (1_000..60_000).step_by(1_000) {
            assert!(matches!(apply(renew.clone(), passed_ms), Kind::ClaimGranted(_)), "{passed_ms}");
            apply(advance.clone(), passed_ms + 500);
            assert!(matches!(apply(claim(b"b"), passed_ms + 900), Kind::ClaimHeld(_)), "{passed_ms}");
        }
        apply(advance.clone(), 62_100);
        assert!(matches!(apply(claim(b"b"), 62_200), Kind::ClaimGranted(_)));
    }
}
