//! What goes wrong in one run, and how often.

use super::rng::Rng;

/// Chances in ten thousand, each per operation of its kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Faults {
    /// A transfer ends before its length.
    pub(super) short: u32,
    /// A transfer is interrupted before it did anything.
    pub(super) interrupted: u32,
    pub(super) read_error: u32,
    pub(super) write_error: u32,
    pub(super) sync_error: u32,
    /// A sync says that it did what it did not.
    pub(super) lie: u32,
    pub(super) misdirected_read: u32,
    pub(super) misdirected_write: u32,
    /// A bit of the medium flips, per step of the simulation.
    pub(super) rot: u32,
    /// The disk refuses to become longer, for a while.
    pub(super) full: u32,
    /// The index refuses changes, and may have taken them all the same.
    pub(super) commit_error: u32,
    /// A crash comes in the middle of a commit.
    pub(super) commit_crash: u32,
    /// The device answers nothing for a while, per step.
    pub(super) stall: u32,
    /// The device can forget ranges.
    pub(super) discards: bool,
}

impl Faults {
    /// The faults of one run: half of all runs know crashes and delays alone.
    pub(super) fn choose(rng: &mut Rng) -> Self {
        let honest = Self {
            short: rng.pick(&[0, 300, 2_000]),
            interrupted: rng.pick(&[0, 300, 1_000]),
            full: rng.pick(&[0, 0, 1_000]),
            commit_crash: rng.pick(&[0, 300, 1_000]),
            stall: rng.pick(&[0, 0, 50]),
            discards: rng.below(2) == 0,
            ..Self::default()
        };
        match rng.below(10) {
            0..=4 => honest,
            5 | 6 => Self {
                read_error: rng.pick(&[0, 100, 400]),
                write_error: rng.pick(&[0, 200, 800]),
                sync_error: rng.pick(&[0, 200, 1_000]),
                ..honest
            },
            7 => Self { commit_error: rng.pick(&[300, 1_500]), ..honest },
            8 => Self {
                rot: rng.pick(&[0, 50, 200]),
                misdirected_read: rng.pick(&[0, 200]),
                misdirected_write: rng.pick(&[0, 200]),
                ..honest
            },
            _ => Self { lie: 3_000, ..honest },
        }
    }
}
