//! What is to be prefilled, as far as its time depends on it.

use hearth_proto::limits::PLACEMENT_TOKENS_MAX;

use super::range::{RangeError, check_count};

/// So many prefills, their new tokens, and the pairs of tokens that attention looks at.
///
/// The time that a prefill takes is a sum of these three, so that prefills are added up without knowing the worker.
/// All of it is whole numbers: what is added and taken away again leaves nothing behind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PrefillWork {
    requests: u64,
    tokens: u64,
    /// Twice `n * (c + n / 2)` for n new tokens behind c cached ones.
    pairs_twice: u64,
}

impl PrefillWork {
    /// Nothing to do.
    pub const NONE: Self = Self { requests: 0, tokens: 0, pairs_twice: 0 };

    /// One prefill of new tokens behind cached ones.
    ///
    /// # Errors
    /// [`RangeError`] without new tokens, or with more of either than [`PLACEMENT_TOKENS_MAX`]; the caller mends it.
    pub fn new(new_tokens: u32, cached_tokens: u32) -> Result<Self, RangeError> {
        let max = u64::from(PLACEMENT_TOKENS_MAX);
        check_count("new tokens", u64::from(new_tokens), 1, max)?;
        check_count("cached tokens", u64::from(cached_tokens), 0, max)?;
        Ok(Self::of(new_tokens, cached_tokens))
    }

    /// The same of tokens that are known to be in their range.
    pub(super) fn of(new_tokens: u32, cached_tokens: u32) -> Self {
        let (new, cached) = (u64::from(new_tokens), u64::from(cached_tokens));
        Self { requests: 1, tokens: new, pairs_twice: new * (2 * cached + new) }
    }

    /// Prefills.
    pub const fn requests(self) -> u64 {
        self.requests
    }

    /// New tokens of all of them.
    pub const fn tokens(self) -> u64 {
        self.tokens
    }

    /// Pairs of tokens that attention looks at.
    pub fn pairs(self) -> f64 {
        self.pairs_twice as f64 / 2.0
    }

    /// Both together.
    #[must_use]
    pub const fn plus(self, other: Self) -> Self {
        Self {
            requests: self.requests.saturating_add(other.requests),
            tokens: self.tokens.saturating_add(other.tokens),
            pairs_twice: self.pairs_twice.saturating_add(other.pairs_twice),
        }
    }

    /// What is left when a part of it is done.
    #[must_use]
    pub const fn minus(self, part: Self) -> Self {
        Self {
            requests: self.requests.saturating_sub(part.requests),
            tokens: self.tokens.saturating_sub(part.tokens),
            pairs_twice: self.pairs_twice.saturating_sub(part.pairs_twice),
        }
    }
}
