//! Time as the policy counts it, and ages in bins of a quarter octave.

/// Microseconds in a tick, as a shift: about 16 ms.
const TICK_SHIFT: u32 = 14;
/// Bins that hold every age.
pub(super) const BINS: usize = 124;

/// A moment, in ticks of 2^14 microseconds since an origin that the caller chose.
///
/// *Units*: 32 bits of ticks come round after 2.2 years; ages are told apart up to half of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tick(pub(super) u32);

impl Tick {
    /// The tick in which `us` lies.
    pub const fn from_us(us: u64) -> Self {
        Self((us >> TICK_SHIFT) as u32)
    }

    /// Ticks from `earlier` to here; 0 if another thread's clock was ahead.
    pub(crate) fn since(self, earlier: Self) -> u32 {
        let age = self.0.wrapping_sub(earlier.0);
        if age > u32::MAX / 2 { 0 } else { age }
    }

    /// When the tick began, in microseconds, given that it is not after `now_us`.
    pub(crate) fn begin_us(self, now_us: u64) -> u64 {
        let now = Self::from_us(now_us);
        (now_us >> TICK_SHIFT).saturating_sub(u64::from(now.since(self))) << TICK_SHIFT
    }

    pub(crate) fn is_after(self, other: Self) -> bool {
        self.since(other) > 0
    }
}

/// The bin of an age in ticks: one each up to 4 ticks, then four to an octave.
pub(super) fn bin(age: u32) -> usize {
    if age < 4 {
        return age as usize;
    }
    let octave = age.ilog2();
    let quarter = (age >> (octave - 2)) & 3;
    ((octave - 2) * 4 + quarter + 4) as usize
}

/// The youngest age of a bin; of the one after the last, the end of time.
pub(super) fn lower(bin: usize) -> u64 {
    if bin < 4 {
        return bin as u64;
    }
    let (octave, quarter) = ((bin - 4) / 4, (bin - 4) % 4);
    (4 + quarter as u64) << octave
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_age_lies_within_its_bin() {
        let edges = (0..32).flat_map(|shift| [(1_u32 << shift) - 1, 1 << shift, (1 << shift) | 1]);
        for age in edges.chain([u32::MAX, u32::MAX - 1, 300, 1_000_003]) {
            let at = bin(age);
            assert!(at < BINS && lower(at) <= u64::from(age) && u64::from(age) < lower(at + 1), "{age}");
        }
        assert_eq!(lower(BINS), 1 << 32);
    }

    #[test]
    fn ages_survive_the_end_of_the_ticks_and_clocks_that_run_ahead() {
        assert_eq!(Tick(5).since(Tick(u32::MAX - 4)), 10);
        assert_eq!(Tick(5).since(Tick(6)), 0);
        assert_eq!(Tick::from_us(1 << 20), Tick(64));
    }
}
