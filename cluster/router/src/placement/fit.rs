//! A sum of terms whose factors are learned from measurements.
//!
//! What is learned is by how much each term of a prior has to be multiplied. A measurement comes as the share that each
//! term has in what the prior expects, and as the ratio of what was measured to that: all of it is without units, and a
//! short prefill teaches as much as a long one.
//!
//! It is recursive least squares with forgetting, of errors relative to what was expected when the measurement came.
//! What is kept are the sums themselves and not their inverse, and the prior is added to them anew each time: where
//! measurements say nothing about a factor, it goes back to one. The factors are those that fit best within their
//! bounds, found exactly: with three terms there are 27 ways to be at a bound or between.
//!
//! A measurement that is far off counts as one that is only so far off, and makes what was learned before count for
//! less: now and then it changes little, and where all are far off the new truth is soon arrived at.
//!
//! *Source*: L. Ljung, System Identification, 2nd edition, section 11.2.

use hearth_proto::limits::{MODEL_OUTLIER_FACTOR, MODEL_PRIOR_FACTOR_MAX};

/// What the prior counts for beside a measurement that consists of one term alone.
const PRIOR_WEIGHT: f64 = 0.01;
/// As how many measurements one that is far off makes the past be forgotten.
const HASTE: i32 = 8;
const FACTOR_MIN: f64 = 1.0 / MODEL_PRIOR_FACTOR_MAX;
const FACTOR_MAX: f64 = MODEL_PRIOR_FACTOR_MAX;

/// See the module.
///
/// *Invariants*: every factor is from `1 / MODEL_PRIOR_FACTOR_MAX` to `MODEL_PRIOR_FACTOR_MAX`, and so is the ratio of
/// what is expected to what the prior expects.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Fit<const N: usize> {
    /// Sums of the products of shares, older ones counting less.
    products: [[f64; N]; N],
    /// Sums of shares times ratios, likewise.
    moments: [f64; N],
    factors: [f64; N],
    kept: f64,
}

impl<const N: usize> Fit<N> {
    /// One that knows nothing but the prior. After `window` measurements an older one counts for about a third.
    pub(super) fn new(window: u32) -> Self {
        let kept = 1.0 - 1.0 / f64::from(window);
        Self { products: [[0.0; N]; N], moments: [0.0; N], factors: [1.0; N], kept }
    }

    /// What the terms of the prior are to be multiplied by.
    pub(super) fn factors(&self) -> [f64; N] {
        self.factors
    }

    /// Learns from one measurement and says whether it was so far from what was expected that it counts for less.
    ///
    /// *Invariants*: shares are not negative and add up to one; the ratio is finite and above zero.
    pub(super) fn learn(&mut self, shares: [f64; N], ratio: f64) -> bool {
        let expected = dot(&shares, &self.factors);
        let taken = ratio.clamp(expected / MODEL_OUTLIER_FACTOR, expected * MODEL_OUTLIER_FACTOR);
        let is_far_off = taken != ratio;
        let kept = if is_far_off { self.kept.powi(HASTE) } else { self.kept };
        let weight = expected.powi(-2);
        for ((row, moment), share) in self.products.iter_mut().zip(&mut self.moments).zip(shares) {
            for (product, other) in row.iter_mut().zip(shares) {
                *product = *product * kept + weight * share * other;
            }
            *moment = *moment * kept + weight * share * taken;
        }
        self.factors = self.best(self.prior_weights());
        is_far_off
    }

    /// The prior counts as measurements of each term alone do, and never more than where it is right: all measurements
    /// together hardly are further from what is expected because of it.
    fn prior_weights(&self) -> [f64; N] {
        self.factors.map(|factor| PRIOR_WEIGHT / factor.max(1.0).powi(2))
    }

    /// The factors within bounds that fit best.
    fn best(&self, prior_weights: [f64; N]) -> [f64; N] {
        let (mut products, mut moments) = (self.products, self.moments);
        for (at, weight) in prior_weights.into_iter().enumerate() {
            products[at][at] += weight;
            moments[at] += weight;
        }
        let mut best = (f64::INFINITY, [1.0; N]);
        for choice in 0..3_usize.pow(N as u32) {
            let factors = solve(products, moments, choice);
            if !factors.iter().all(|factor| (FACTOR_MIN..=FACTOR_MAX).contains(factor)) {
                continue;
            }
            let error: f64 =
                products.iter().zip(&moments).zip(&factors).fold(0.0, |sum, ((row, moment), factor)| {
                    sum + factor * (dot(row, &factors) / 2.0 - moment)
                });
            if error < best.0 {
                best = (error, factors);
            }
            // With none at its bound it is the best there is.
            if choice == 0 {
                break;
            }
        }
        best.1
    }
}

/// The factors that fit best of those for which some are at a bound: the digits of the choice, to the base of three,
/// say which are free (0), least (1) or greatest (2).
fn solve<const N: usize>(mut rows: [[f64; N]; N], mut rights: [f64; N], mut choice: usize) -> [f64; N] {
    for at in 0..N {
        let bound = [None, Some(FACTOR_MIN), Some(FACTOR_MAX)][choice % 3];
        choice /= 3;
        if let Some(bound) = bound {
            rows[at] = [0.0; N];
            rows[at][at] = 1.0;
            rights[at] = bound;
        }
    }
    // The free ones are a part of a positive definite matrix, so that no pivot is zero.
    for at in 0..N {
        let (row, right) = (rows[at], rights[at]);
        for below in at + 1..N {
            let times = rows[below][at] / row[at];
            for (value, above) in rows[below].iter_mut().zip(row) {
                *value -= times * above;
            }
            rights[below] -= times * right;
        }
    }
    let mut factors = [0.0; N];
    for at in (0..N).rev() {
        // Those before it are still zero.
        factors[at] = (rights[at] - dot(&rows[at], &factors)) / rows[at][at];
    }
    factors
}

fn dot<const N: usize>(left: &[f64; N], right: &[f64; N]) -> f64 {
    left.iter().zip(right).map(|(left, right)| left * right).sum()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn shares() -> impl Strategy<Value = [f64; 3]> {
        prop::array::uniform3(0.001..1.0_f64).prop_map(|parts| {
            let whole: f64 = parts.iter().sum();
            parts.map(|part| part / whole)
        })
    }

    fn error(fit: &Fit<3>, weights: [f64; 3], factors: [f64; 3]) -> f64 {
        let priors = weights.into_iter().zip(factors);
        let of_prior: f64 = priors.map(|(weight, factor)| weight * factor * (factor / 2.0 - 1.0)).sum();
        let pairs = fit.products.iter().zip(&fit.moments).zip(factors);
        of_prior
            + pairs.map(|((row, moment), factor)| factor * (dot(row, &factors) / 2.0 - moment)).sum::<f64>()
    }

    proptest! {
        #[test]
        fn no_factors_within_bounds_fit_better(
            measured in prop::collection::vec((shares(), 0.001..500.0_f64), 1..60),
            steps in prop::collection::vec(prop::array::uniform3(-1.0..1.0_f64), 40),
        ) {
            let mut fit = Fit::new(32);
            let mut weights = fit.prior_weights();
            for (shares, ratio) in measured {
                weights = fit.prior_weights();
                fit.learn(shares, ratio);
            }
            let found = error(&fit, weights, fit.factors());
            for step in steps {
                for size in [1e-3, 0.1, 10.0] {
                    let mut near = fit.factors();
                    for (factor, step) in near.iter_mut().zip(step) {
                        *factor = (*factor + step * size).clamp(FACTOR_MIN, FACTOR_MAX);
                    }
                    prop_assert!(found <= error(&fit, weights, near) + 1e-9 * (1.0 + found.abs()));
                }
            }
        }
    }

    #[test]
    fn what_is_never_measured_stays_as_the_prior_has_it() {
        let mut fit = Fit::new(32);
        for _ in 0..500 {
            fit.learn([0.0, 1.0], 4.0);
        }
        let [first, second] = fit.factors();
        assert!((first - 1.0).abs() < 1e-9 && (second - 4.0).abs() < 0.01, "{first} {second}");
    }
}
