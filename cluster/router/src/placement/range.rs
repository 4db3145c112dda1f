//! Numbers that are checked when they come in, so that nothing behind them has to ask.

use std::fmt;

use hearth_proto::limits::PLACEMENT_SECONDS_MAX;
use hearth_proto::{Classified, ErrorKind};

/// A number that is not one, or not in its range. Whoever gave it mends it.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{what} must be from {min} to {max}, got {given}")]
pub struct RangeError {
    /// What the number stands for, with its unit.
    pub what: &'static str,
    /// The least that it may be.
    pub min: f64,
    /// The most that it may be.
    pub max: f64,
    /// What was given.
    pub given: f64,
}

impl Classified for RangeError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::FixRequest
    }
}

/// Checks a number; one that is not a number is in no range.
pub(super) fn check(what: &'static str, given: f64, min: f64, max: f64) -> Result<f64, RangeError> {
    if (min..=max).contains(&given) { Ok(given) } else { Err(RangeError { what, min, max, given }) }
}

/// The same for a count. What is beyond 2^53 is beyond every range there is, and is only shown rounded.
pub(super) fn check_count(what: &'static str, given: u64, min: u64, max: u64) -> Result<(), RangeError> {
    if (min..=max).contains(&given) {
        Ok(())
    } else {
        Err(RangeError { what, min: min as f64, max: max as f64, given: given as f64 })
    }
}

/// A time that somebody chose.
///
/// *Units*: seconds, from zero to [`PLACEMENT_SECONDS_MAX`].
#[derive(Clone, Copy, Debug, Default, PartialEq, PartialOrd)]
pub struct Seconds(f64);

impl Seconds {
    /// No time.
    pub const ZERO: Self = Self(0.0);
    /// The longest.
    pub const MAX: Self = Self(PLACEMENT_SECONDS_MAX);

    /// Checks the range.
    ///
    /// # Errors
    /// [`RangeError`] below zero, above the longest, or of what is no number; the caller mends it.
    pub fn new(seconds: f64) -> Result<Self, RangeError> {
        check("a time in seconds", seconds, 0.0, PLACEMENT_SECONDS_MAX).map(Self)
    }

    /// So many milliseconds, and no more than the longest.
    pub const fn from_ms(milliseconds: u32) -> Self {
        let seconds = milliseconds as f64 / 1e3;
        if seconds < PLACEMENT_SECONDS_MAX { Self(seconds) } else { Self::MAX }
    }

    /// The number of seconds.
    pub const fn value(self) -> f64 {
        self.0
    }
}

impl fmt::Display for Seconds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} s", self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_time_is_refused() {
        for bad in [f64::NAN, f64::INFINITY, f64::NEG_INFINITY, -1e-9, PLACEMENT_SECONDS_MAX + 1.0] {
            let error = Seconds::new(bad).unwrap_err();
            assert_eq!((error.what, error.kind()), ("a time in seconds", ErrorKind::FixRequest));
        }
        for good in [0.0, 0.25, PLACEMENT_SECONDS_MAX] {
            assert_eq!(Seconds::new(good).map(Seconds::value), Ok(good));
        }
        assert_eq!((Seconds::from_ms(250).value(), Seconds::from_ms(u32::MAX)), (0.25, Seconds::MAX));
    }
}
