//! What decides among workers that are equally good, and what chance there is: functions of numbers that are given.

use super::worker::WorkerId;

/// How far a worker comes in a race for this number; the furthest wins. When a worker comes or goes, only the numbers
/// that it wins move.
///
/// Routers of different builds must agree, so that it never changes.
///
/// *Source*: D. Thaler, C. Ravishankar, Using name-based mappings to increase hit rates, 1998.
#[inline]
pub(super) fn spread(number: u64, worker: WorkerId) -> u64 {
    mixed(mixed(number) ^ mixed(worker.0 ^ 0x9e37_79b9_7f4a_7c15))
}

/// A draw from Gumbel's distribution for each seed and worker. To take the worker whose cost less `t` times its draw is
/// least is to take each as often as `exp(-cost / t)` says, in whatever order they come.
///
/// *Source*: E. J. Gumbel, Statistical theory of extreme values and some practical applications, 1954.
#[inline]
pub(super) fn gumbel(seed: u64, worker: WorkerId) -> f64 {
    // Another race than that which decides among equals. From zero to one, neither included.
    let drawn = ((spread(seed ^ 0x5851_f42d_4c95_7f2d, worker) >> 12) as f64 + 0.5) / (1_u64 << 52) as f64;
    -(-drawn.ln()).ln()
}

/// A number in which each bit depends on every bit of this one.
///
/// *Source*: the finalizer of SplitMix64, G. Steele et al., Fast splittable pseudorandom number generators, 2014.
#[inline]
fn mixed(number: u64) -> u64 {
    let number = (number ^ (number >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ (number >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ (number >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_race_never_changes() {
        let won = |number| (0..8).max_by_key(|worker| spread(number, WorkerId(*worker)));
        let winners: Vec<u64> = (0..12).filter_map(won).collect();
        assert_eq!(winners, [2, 5, 1, 1, 7, 3, 4, 1, 4, 0, 1, 0]);
    }

    #[test]
    fn every_worker_wins_about_as_often() {
        let mut wins = [0_u32; 8];
        for number in 0..8_000 {
            let worker = (0..8).max_by_key(|worker| spread(number, WorkerId(*worker)));
            wins[worker.expect("there are eight") as usize] += 1;
        }
        assert!(wins.iter().all(|wins| (900..1_100).contains(wins)), "{wins:?}");
    }

    #[test]
    fn draws_are_numbers_with_the_right_mean() {
        let draws = (0..20_000).map(|seed| gumbel(seed, WorkerId(3)));
        let mean = draws.inspect(|draw| assert!(draw.is_finite())).sum::<f64>() / 20_000.0;
        // Euler's constant.
        assert!((mean - 0.5772).abs() < 0.03, "{mean}");
    }
}
