//! How long a prefill takes, learned from those that were.

use hearth_proto::limits::{PLACEMENT_SECONDS_MAX, PLACEMENT_SECONDS_MIN, PREFILL_WINDOW_REPORTS};

use super::fit::Fit;
use super::range::{RangeError, check};
use super::work::PrefillWork;

/// The least that one token takes: a worker for which tokens are free would get them all.
const TOKEN_SECONDS_MIN: f64 = 1e-12;

/// How long prefills take on one class of workers: `a + b * n + d * n * (c + n / 2)` seconds for n new tokens behind c
/// cached ones. Attention looks at each pair of a new token and one before it, so that its part is quadratic.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrefillCurve {
    base_s: f64,
    token_s: f64,
    pair_s: f64,
}

/// One prefill that was measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrefillReport {
    /// Tokens that were computed.
    pub new_tokens: u32,
    /// Tokens before them that were cached.
    pub cached_tokens: u32,
    /// What it took, without waiting and without loading.
    pub seconds: f64,
}

/// A [`PrefillCurve`] that is fitted to reports as they come: one for each class of workers, that is accelerator, model
/// and parallelism.
///
/// It starts from a prior. What reports say of each coefficient counts, older ones less; where they say nothing, the
/// prior stands.
///
/// *Invariants*: no coefficient is negative, and no expectation is further from the prior's than by
/// [`MODEL_PRIOR_FACTOR_MAX`](hearth_proto::limits::MODEL_PRIOR_FACTOR_MAX), whatever is reported. A report counts for
/// no more than [`MODEL_OUTLIER_FACTOR`](hearth_proto::limits::MODEL_OUTLIER_FACTOR) times what was expected, and no
/// less than that part of it: a model that is wrong by more follows in steps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrefillModel {
    prior: PrefillCurve,
    curve: PrefillCurve,
    fit: Fit<3>,
    stats: ModelStats,
}

/// What became of the measurements that a model was given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ModelStats {
    /// Those that counted.
    pub taken: u64,
    /// Of those, how many were so far from what was expected that they counted for less.
    pub clamped: u64,
    /// Those that were absurd and changed nothing.
    pub refused: u64,
}

impl PrefillCurve {
    /// What is assumed of a worker of which nothing is known: a dense model of eight billion parameters and 32 layers
    /// of 4,096 on an accelerator that does 4e14 operations a second. A token takes two operations for each parameter,
    /// a pair of tokens four for each element of each layer.
    pub const PRIOR: Self = Self { base_s: 5e-3, token_s: 4e-5, pair_s: 1.3e-9 };

    /// Checks the coefficients.
    ///
    /// *Units*: seconds for each prefill, for each new token, and for each pair of tokens.
    ///
    /// # Errors
    /// [`RangeError`] if one is negative, no number or beyond [`PLACEMENT_SECONDS_MAX`], or if a token takes less than
    /// 1e-12 seconds; the caller mends it.
    pub fn new(base_s: f64, token_s: f64, pair_s: f64) -> Result<Self, RangeError> {
        Ok(Self {
            base_s: check("seconds for each prefill", base_s, 0.0, PLACEMENT_SECONDS_MAX)?,
            token_s: check("seconds for each token", token_s, TOKEN_SECONDS_MIN, PLACEMENT_SECONDS_MAX)?,
            pair_s: check("seconds for each pair of tokens", pair_s, 0.0, PLACEMENT_SECONDS_MAX)?,
        })
    }

    /// How long the work takes, one prefill after the other.
    ///
    /// *Units*: seconds.
    #[inline]
    pub fn seconds(&self, work: PrefillWork) -> f64 {
        let [base, tokens, pairs] = self.terms(work);
        base + tokens + pairs
    }

    /// Seconds for each prefill, for each new token, and for each pair of tokens.
    pub const fn coefficients(&self) -> [f64; 3] {
        [self.base_s, self.token_s, self.pair_s]
    }

    #[inline]
    fn terms(&self, work: PrefillWork) -> [f64; 3] {
        [
            self.base_s * work.requests() as f64,
            self.token_s * work.tokens() as f64,
            self.pair_s * work.pairs(),
        ]
    }
}

impl PrefillModel {
    /// One that knows nothing but the prior. A coefficient that is zero there stays zero.
    pub fn new(prior: PrefillCurve) -> Self {
        Self { prior, curve: prior, fit: Fit::new(PREFILL_WINDOW_REPORTS), stats: ModelStats::default() }
    }

    /// Learns from a prefill.
    ///
    /// # Errors
    /// [`RangeError`] if the report is absurd: no new tokens, more than any prompt has, or a time that is no number,
    /// not above zero or beyond [`PLACEMENT_SECONDS_MAX`]. It is counted and changes nothing; who sent it is broken.
    pub fn report(&mut self, report: PrefillReport) -> Result<(), RangeError> {
        let checked = PrefillWork::new(report.new_tokens, report.cached_tokens).and_then(|work| {
            let seconds =
                check("seconds of a prefill", report.seconds, PLACEMENT_SECONDS_MIN, PLACEMENT_SECONDS_MAX)?;
            Ok((work, seconds))
        });
        let (work, seconds) = checked.inspect_err(|_| self.stats.refused += 1)?;
        let terms = self.prior.terms(work);
        let whole: f64 = terms.iter().sum();
        self.stats.taken += 1;
        self.stats.clamped += u64::from(self.fit.learn(terms.map(|term| term / whole), seconds / whole));
        let [base, token, pair] = self.fit.factors();
        self.curve = PrefillCurve {
            base_s: self.prior.base_s * base,
            token_s: self.prior.token_s * token,
            pair_s: self.prior.pair_s * pair,
        };
        Ok(())
    }

    /// The curve as it is now.
    pub const fn curve(&self) -> PrefillCurve {
        self.curve
    }

    /// What became of the reports.
    pub const fn stats(&self) -> ModelStats {
        self.stats
    }
}
