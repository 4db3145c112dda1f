//! Distributions given by their quantiles, as measurements are published.

use hearth_proto::{Classified, ErrorKind};
use rand::Rng;

/// A distribution that is linear between known quantiles.
///
/// It reproduces the quantiles that it was fitted to by construction, has no tail beyond the last
/// one, and needs only additions and products, so a seed gives the same draws on every machine.
#[derive(Clone, Debug, PartialEq)]
pub struct Quantiles {
    points: Vec<(f64, f64)>,
}

/// The points do not describe a distribution.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
#[error(
    "quantiles must run from probability 0 to 1 with neither column falling; see point {index}: {point:?}"
)]
pub struct QuantilesError {
    /// Position of the point at fault.
    pub index: usize,
    /// The point at fault: probability and value.
    pub point: (f64, f64),
}

impl Classified for QuantilesError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::FixRequest
    }
}

impl Quantiles {
    /// A distribution through the points `(probability, value)`.
    ///
    /// # Errors
    /// [`QuantilesError`] unless the probabilities run from 0 to 1 and both columns never fall.
    pub fn new(points: impl Into<Vec<(f64, f64)>>) -> Result<Self, QuantilesError> {
        let points = points.into();
        let fault =
            |index: usize| QuantilesError { index, point: points.get(index).copied().unwrap_or_default() };
        if points.len() < 2 || points[0].0 != 0.0 {
            return Err(fault(0));
        }
        if points[points.len() - 1].0 != 1.0 {
            return Err(fault(points.len() - 1));
        }
        let rises = |pair: &[(f64, f64)]| pair[0].0 <= pair[1].0 && pair[0].1 <= pair[1].1;
        match points.windows(2).position(|pair| !rises(pair)) {
            Some(index) => Err(fault(index + 1)),
            None => Ok(Self { points }),
        }
    }

    /// A distribution through the values at 0, 1, 5, 10, 25, 50, 75, 90, 95, 99 and 100 percent.
    ///
    /// # Panics
    /// If the values fall: they are constants of the source.
    pub fn of_percentiles(values: [f64; 11]) -> Self {
        const AT: [f64; 11] = [0.0, 0.01, 0.05, 0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.99, 1.0];
        let points: Vec<_> = AT.into_iter().zip(values).collect();
        Self::new(points).expect("percentile tables of the source rise")
    }

    /// The value below which the share `probability` of draws lies.
    pub fn at(&self, probability: f64) -> f64 {
        for pair in self.points.windows(2) {
            let ((low, from), (high, to)) = (pair[0], pair[1]);
            if probability <= high {
                let share = if high > low { (probability - low) / (high - low) } else { 1.0 };
                return from + (to - from) * share.max(0.0);
            }
        }
        self.points[self.points.len() - 1].1
    }

    /// One draw.
    pub fn draw(&self, rng: &mut impl Rng) -> f64 {
        self.at(rng.random())
    }

    /// One draw, as a count.
    pub fn draw_count(&self, rng: &mut impl Rng) -> u64 {
        self.draw(rng).max(0.0) as u64
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rand::SeedableRng;
    use rand_chacha::ChaCha8Rng;

    #[test]
    fn points_that_are_no_distribution_are_refused() {
        for bad in [
            vec![],
            vec![(0.0, 1.0)],
            vec![(0.1, 1.0), (1.0, 2.0)],
            vec![(0.0, 1.0), (0.9, 2.0)],
            vec![(0.0, 1.0), (0.5, 3.0), (1.0, 2.0)],
            vec![(0.0, 1.0), (0.5, f64::NAN), (1.0, 2.0)],
        ] {
            assert!(Quantiles::new(bad.clone()).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn draws_follow_the_quantiles(mut values in prop::array::uniform11(0.0..1e6f64), seed: u64) {
            values.sort_by(f64::total_cmp);
            let quantiles = Quantiles::of_percentiles(values);
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            let mut below = 0;
            for _ in 0..2_000 {
                let value = quantiles.draw(&mut rng);
                prop_assert!((values[0]..=values[10]).contains(&value));
                below += usize::from(value <= values[5]);
            }
            // 0.5 +- 6 standard deviations of a share of 2,000 draws.
            prop_assert!((below as f64 / 2_000.0 - 0.5).abs() < 0.068);
        }
    }
}
