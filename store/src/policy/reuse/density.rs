//! From counted lives to what a block is worth: uses per tick of keeping it.

use super::age::{BINS, lower};

/// Bins on either side over which counts are smoothed.
const SMOOTHING: usize = 3;
/// A life that is left to fewer than this share is not followed further.
const SURVIVORS_MIN: f32 = 0.02;

/// One number for each bin of age.
pub(super) type ByAge = [f32; BINS];

/// How the lives of one class of blocks ended.
#[derive(Clone, Debug)]
pub(super) struct Ends {
    /// Lives that ended with a use at this age.
    pub(super) used: ByAge,
    /// Lives that were lost from sight at this age.
    pub(super) lost: ByAge,
}

impl Ends {
    pub(super) const NONE: Self = Self { used: [0.0; BINS], lost: [0.0; BINS] };

    pub(super) fn is_empty(&self) -> bool {
        self.used.iter().chain(&self.lost).all(|count| *count == 0.0)
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.used.iter_mut().zip(&other.used).for_each(|(sum, count)| *sum += count);
        self.lost.iter_mut().zip(&other.lost).for_each(|(sum, count)| *sum += count);
    }

    pub(super) fn fade(&mut self, factor: f32) {
        self.used.iter_mut().chain(&mut self.lost).for_each(|count| *count *= factor);
    }

    /// The chance of being used at each age, having come to it unused: the estimate of Kaplan and Meier,
    /// smoothed over neighbours, with `weight` lives that ended as `prior` says.
    pub(super) fn hazard(&self, prior: &ByAge, weight: f32) -> ByAge {
        let mut risk = [0.0; BINS];
        let mut alive = 0.0;
        for bin in (0..BINS).rev() {
            alive += self.used[bin] + self.lost[bin];
            risk[bin] = alive - self.lost[bin] / 2.0;
        }
        std::array::from_fn(|bin| {
            let (mut used, mut at_risk, mut shares) = (0.0, 0.0, 0.0);
            let first = bin.saturating_sub(SMOOTHING);
            let counts = self.used.iter().zip(&risk).enumerate().skip(first);
            for (near, (ended, alive)) in counts.take_while(|(near, _)| *near <= bin + SMOOTHING) {
                let share = 1.0 - near.abs_diff(bin) as f32 / (SMOOTHING + 1) as f32;
                used += share * ended;
                at_risk += share * alive;
                shares += share;
            }
            (used / shares + weight * prior[bin]) / (at_risk / shares + weight)
        })
    }
}

/// The most uses per tick that keeping a block of each age can bring, over all times to give it up.
///
/// After its peak the density never rises again: where lives are few, blocks leave in order of age.
///
/// *Source*: Gittins, "Bandit Processes and Dynamic Allocation Indices" (1979), as the ideal that least hit
/// density (Beckmann, Chen, Cidon, NSDI 2018) approaches.
pub(super) fn density(hazard: &ByAge) -> ByAge {
    let mut density: ByAge = std::array::from_fn(|age| {
        let (mut alive, mut ticks, mut best) = (1.0_f32, 0.0_f32, 0.0_f32);
        for (bin, hazard) in hazard.iter().enumerate().skip(age) {
            // The block stands somewhere in its bin: half of it lies ahead.
            let ahead = if bin == age { 0.5 } else { 1.0 };
            let chance = (hazard * ahead).min(0.999);
            ticks += alive * (lower(bin + 1) - lower(bin)) as f32 * ahead * (1.0 - chance / 2.0);
            alive *= 1.0 - chance;
            best = best.max((1.0 - alive) / ticks);
            if alive < SURVIVORS_MIN {
                break;
            }
        }
        best
    });
    let peak = (0..BINS).fold(0, |peak, bin| if density[bin] > density[peak] { bin } else { peak });
    for bin in peak + 1..BINS {
        density[bin] = density[bin].min(density[bin - 1]);
    }
    density
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::policy::reuse::age::bin;

    #[test]
    fn the_hazard_counts_only_lives_that_came_to_that_age() {
        // 60 lives: 20 used at the first age, 20 lost later, 20 used last.
        let mut ends = Ends::NONE;
        (ends.used[10], ends.lost[40], ends.used[80]) = (20.0, 20.0, 20.0);
        let hazard = ends.hazard(&[0.0; BINS], 1e-6);
        let around = |at: usize| hazard[at - SMOOTHING..=at + SMOOTHING].iter().sum::<f32>();
        assert!((around(10) - 1.0 / 3.0).abs() < 0.06, "{}", around(10));
        assert_eq!(around(40), 0.0);
        assert!(hazard[80] > 0.25, "{}", hazard[80]);
    }

    #[test]
    fn where_nothing_is_known_the_prior_speaks() {
        let prior = [0.01; BINS];
        let hazard = Ends::NONE.hazard(&prior, 10.0);
        assert!(hazard.iter().zip(&prior).all(|(found, prior)| (found - prior).abs() < 1e-6));
        let density = density(&hazard);
        // A constant chance per octave means: the older, the less worth.
        assert!(density.windows(2).skip(4).all(|pair| pair[1] <= pair[0]));
    }

    #[test]
    fn a_block_about_to_be_used_is_worth_more_than_one_just_used() {
        // All lives end between 60 and 80 ticks.
        let mut ends = Ends::NONE;
        ends.used[bin(64)] = 1_000.0;
        let density = density(&ends.hazard(&[1e-4; BINS], 1.0));
        assert!(density[bin(60)] > 2.0 * density[0]);
        assert!(density[bin(400)] < density[0] / 10.0);
    }
}
