//! What can be known of the replicated time and of the end that it will bring, from when operations began and ended.
//!
//! Nobody outside sees which time an operation had, only bounds of it: it did not pass before the operation began, nor
//! after it had ended. From those follow bounds of every end that was granted, and these again bound the times of
//! what comes later. All of it is kept as the least and greatest values that are possible, so that two ways to the
//! same operations that leave the same bounds are one state for the search.

/// Milliseconds of replicated time between which the time of one operation lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Window {
    pub(super) from_ms: u64,
    pub(super) to_ms: u64,
}

impl Window {
    /// Nothing is known, as where clocks jump.
    pub(super) const ANY: Self = Self { from_ms: 0, to_ms: u64::MAX };
}

/// An end that was granted: `min_ms <= end <= max_ms`, and `end <= time + ahead_ms`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct End {
    min_ms: u64,
    max_ms: u64,
    ahead_ms: u64,
}

/// The replicated time, as early as it may be, and the end that was granted, if there is one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub(super) struct Lease {
    time_min_ms: u64,
    end: Option<End>,
}

impl Lease {
    /// True if whatever is possible in `other` is possible here as well.
    pub(super) fn covers(&self, other: &Self) -> bool {
        let ends = match (&self.end, &other.end) {
            (None, None) => true,
            (Some(ours), Some(theirs)) => {
                ours.min_ms <= theirs.min_ms
                    && ours.max_ms >= theirs.max_ms
                    && ours.ahead_ms >= theirs.ahead_ms
            }
            _ => false,
        };
        ends && self.time_min_ms <= other.time_min_ms
    }

    /// The time of the next operation lies in this window, and is not before that of the last one.
    pub(super) fn reach(mut self, window: Window) -> Option<Self> {
        self.time_min_ms = self.time_min_ms.max(window.from_ms);
        if let Some(end) = &mut self.end {
            // The last operation was not later than this one ended.
            end.max_ms = end.max_ms.min(window.to_ms.saturating_add(end.ahead_ms));
            self.time_min_ms = self.time_min_ms.max(end.min_ms.saturating_sub(end.ahead_ms));
        }
        (self.time_min_ms <= window.to_ms).then_some(self)?.checked()
    }

    /// The end has not come yet.
    pub(super) fn before_end(mut self) -> Option<Self> {
        let end = self.end.as_mut()?;
        end.min_ms = end.min_ms.max(self.time_min_ms.saturating_add(1));
        self.checked()
    }

    /// The end has come, by an operation that ended at `to_ms`.
    pub(super) fn after_end(mut self, to_ms: u64) -> Option<Self> {
        let end = self.end.take()?;
        self.time_min_ms = self.time_min_ms.max(end.min_ms);
        (self.time_min_ms <= to_ms).then_some(self)
    }

    /// There is no end any more.
    pub(super) fn without_end(self) -> Self {
        Self { end: None, ..self }
    }

    /// The end is so long after the time of this operation.
    pub(super) fn with_end_in(self, ttl_ms: u64, to_ms: u64) -> Self {
        let end = End {
            min_ms: self.time_min_ms.saturating_add(ttl_ms),
            max_ms: to_ms.saturating_add(ttl_ms),
            ahead_ms: ttl_ms,
        };
        Self { end: Some(end), ..self }
    }

    /// The end, which has not come, moves to so long after this operation, unless it is later anyway: what is
    /// possible if it moves, and what is if it stays.
    pub(super) fn prolonged(self, ttl_ms: u64, to_ms: u64) -> [Option<Self>; 2] {
        let Some(end) = self.end else { return [None, None] };
        let to_ms = to_ms.min(end.max_ms.saturating_sub(1));
        let moved_from_ms = self.time_min_ms.max(end.min_ms.saturating_add(1).saturating_sub(ttl_ms));
        let moved = (moved_from_ms <= to_ms)
            .then(|| Self { time_min_ms: moved_from_ms, ..self }.with_end_in(ttl_ms, to_ms));
        let stays_min_ms = end.min_ms.max(self.time_min_ms.saturating_add(ttl_ms));
        let stays = Self { end: Some(End { min_ms: stays_min_ms, ..end }), ..self };
        [moved, stays.checked()]
    }

    /// The end is known to be this.
    pub(super) fn with_end_at(mut self, end_ms: u64) -> Option<Self> {
        let end = self.end.as_mut()?;
        if !(end.min_ms..=end.max_ms).contains(&end_ms) {
            return None;
        }
        (end.min_ms, end.max_ms) = (end_ms, end_ms);
        self.time_min_ms = self.time_min_ms.max(end_ms.saturating_sub(end.ahead_ms));
        self.checked()
    }

    /// `None` if there is no end that keeps its bounds.
    fn checked(self) -> Option<Self> {
        self.end.is_none_or(|end| end.min_ms <= end.max_ms).then_some(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window(from_ms: u64, to_ms: u64) -> Window {
        Window { from_ms, to_ms }
    }

    fn granted(from_ms: u64, to_ms: u64, ttl_ms: u64) -> Lease {
        Lease::default().reach(window(from_ms, to_ms)).unwrap().with_end_in(ttl_ms, to_ms)
    }

    #[test]
    fn an_end_comes_neither_before_its_time_nor_after() {
        // Granted between 100 and 110 for 300 ms: it ends between 400 and 410.
        let lease = granted(100, 110, 300);
        let at = |from, to| lease.reach(window(from, to)).unwrap();
        assert_eq!(at(390, 399).after_end(399), None, "too early");
        assert!(at(390, 400).after_end(400).is_some());
        assert!(at(405, 420).before_end().is_some());
        assert_eq!(at(410, 420).before_end(), None, "too late");
    }

    #[test]
    fn what_was_seen_bounds_what_comes_later() {
        let lease = granted(100, 200, 300);
        // Alive at 430 or later, so it was granted after 130, and cannot be over by 430.
        let alive = lease.reach(window(430, 440)).unwrap().before_end().unwrap();
        assert_eq!(alive.reach(window(430, 430)).unwrap().after_end(430), None);
        // Over by 420, so that everything later is later than the end.
        let over = lease.reach(window(410, 420)).unwrap().after_end(420).unwrap();
        assert_eq!(over.time_min_ms, 410);
        // The next operation ended at 150, so the grant was not later than that.
        let earlier = lease.reach(window(100, 150)).unwrap();
        assert_eq!(earlier.reach(window(451, 500)).unwrap().before_end(), None);
    }

    #[test]
    fn an_answer_that_names_the_end_says_when_it_was_granted() {
        assert_eq!(granted(100, 110, 300).with_end_at(411), None);
        assert_eq!(granted(100, 110, 300).with_end_at(399), None);
        let lease = granted(100, 110, 300).with_end_at(407).unwrap();
        assert_eq!(lease.reach(window(0, 106)), None, "the time was 107 already");
        assert_eq!(lease.reach(window(407, 500)).unwrap().before_end(), None);
        // Clocks that jump take no bound away that the answers give.
        let lease = Lease::default().reach(Window::ANY).unwrap().with_end_in(300, u64::MAX);
        let lease = lease.with_end_at(5_000).unwrap();
        let later = lease.reach(Window::ANY).unwrap().after_end(u64::MAX).unwrap();
        assert_eq!(later.with_end_in(100, u64::MAX).with_end_at(5_099), None);
        assert!(later.with_end_in(100, u64::MAX).with_end_at(5_100).is_some());
    }

    #[test]
    fn renewing_moves_an_end_on_and_never_back() {
        let lease = granted(100, 110, 300).with_end_at(405).unwrap();
        let at = lease.reach(window(200, 210)).unwrap().before_end().unwrap();
        let ends = |ttl_ms, end_ms: u64| {
            at.prolonged(ttl_ms, 210).into_iter().flatten().any(|lease| lease.with_end_at(end_ms).is_some())
        };
        assert!(ends(100, 405) && !ends(100, 310), "it stays");
        assert!(ends(300, 500) && ends(300, 510) && !ends(300, 405) && !ends(300, 511), "it moves");
        assert!(ends(200, 405) && ends(200, 408) && !ends(200, 400), "either");
    }

    #[test]
    fn wider_bounds_cover_narrower_ones() {
        let wide = granted(100, 110, 300);
        let narrow = wide.with_end_at(405).unwrap();
        assert!(wide.covers(&narrow) && !narrow.covers(&wide) && wide.covers(&wide));
        assert!(!wide.covers(&wide.without_end()) && !wide.without_end().covers(&wide));
    }
}
