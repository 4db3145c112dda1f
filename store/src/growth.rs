//! Whether a slab may grow: it leaves its file system room for the metadata beside it, and after
//! a refusal makes do with what it has for a while.
//!
//! The index of the store and the Raft log lie on the same file system as the slab. Without room they
//! can take no change, and the node would lose more than the blocks that one extent holds.

use std::io;

use hearth_proto::limits::{
    GROWTH_RETRY_MS, METADATA_RESERVE_BYTES, METADATA_RESERVE_BYTES_MIN, METADATA_RESERVE_DIVISOR,
};

use crate::device::{Device, Space};

/// When growth may be tried. Time is passed in, in microseconds of the store's clock.
#[derive(Default)]
pub(crate) struct Growth {
    refused: bool,
    next_try_us: u64,
}

/// Why the slab did not grow.
#[derive(Debug, thiserror::Error)]
pub(crate) enum GrowthError {
    #[error(
        "{free_bytes} bytes are free, an extent takes {extent_bytes}, and {reserve_bytes} are kept for metadata"
    )]
    Reserve { free_bytes: u64, extent_bytes: u64, reserve_bytes: u64 },
    #[error(transparent)]
    Device(#[from] io::Error),
}

impl Growth {
    pub(crate) fn may_try(&self, now_us: u64) -> bool {
        now_us >= self.next_try_us
    }

    /// Notes a refusal; true if it is the first since the slab grew last.
    pub(crate) fn refused(&mut self, now_us: u64) -> bool {
        self.next_try_us = now_us.saturating_add(GROWTH_RETRY_MS * 1_000);
        !std::mem::replace(&mut self.refused, true)
    }

    /// Notes that the slab grew; true if that was refused before.
    pub(crate) fn succeeded(&mut self) -> bool {
        self.next_try_us = 0;
        std::mem::take(&mut self.refused)
    }
}

/// Lengthens the device by an extent, up to `len_bytes`, if the file system keeps enough room.
pub(crate) fn lengthen(device: &dyn Device, len_bytes: u64, extent_bytes: u64) -> Result<(), GrowthError> {
    if let Some(Space { free_bytes, total_bytes }) = device.space()? {
        let reserve_bytes = reserve_bytes(total_bytes);
        if free_bytes < extent_bytes.saturating_add(reserve_bytes) {
            return Err(GrowthError::Reserve { free_bytes, extent_bytes, reserve_bytes });
        }
    }
    Ok(device.allocate(len_bytes)?)
}

/// What stays free on a file system of `total_bytes`.
pub(crate) fn reserve_bytes(total_bytes: u64) -> u64 {
    let fixed = (total_bytes / 4).clamp(METADATA_RESERVE_BYTES_MIN, METADATA_RESERVE_BYTES);
    fixed.max(total_bytes / METADATA_RESERVE_DIVISOR)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reserve_follows_the_size_of_the_file_system() {
        const MIB: u64 = 1 << 20;
        for (total_mib, reserve_mib) in
            [(100, 64), (400, 100), (2_048, 512), (65_536, 512), (131_072, 1_024), (4 << 20, 32_768)]
        {
            assert_eq!(reserve_bytes(total_mib * MIB), reserve_mib * MIB, "of {total_mib} MiB");
        }
    }

    #[test]
    fn a_refusal_is_told_once_and_growth_is_tried_at_a_bounded_rate() {
        let mut growth = Growth::default();
        let pause_us = GROWTH_RETRY_MS * 1_000;
        assert!(growth.may_try(0));
        assert!(growth.refused(10));
        assert!(!growth.may_try(10 + pause_us - 1));
        assert!(growth.may_try(10 + pause_us));
        assert!(!growth.refused(10 + pause_us), "the second refusal in a row is no news");
        assert!(!growth.may_try(10 + pause_us));
        assert!(growth.succeeded());
        assert!(growth.may_try(11 + pause_us));
        assert!(!growth.succeeded(), "growing that nothing refused is no news");
        assert!(growth.refused(12 + pause_us));
    }
}
