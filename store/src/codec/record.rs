//! What a stored length costs on the disk.

use hearth_proto::limits::{CODEC_BLOCK_SAVING_DIVISOR, RECORD_FOOTER_BYTES, SECTOR_BYTES};

/// Sectors of a record: stored bytes and footer, rounded up.
pub(crate) const fn record_sectors(stored_len: usize) -> usize {
    (stored_len + RECORD_FOOTER_BYTES).div_ceil(SECTOR_BYTES)
}

/// The longest stored length with which a block pays: its record is a sector shorter than the raw one at
/// the least, and by a sixteenth. `None` if no stored length is short enough.
///
/// *Units*: bytes. An encoder that is given this much room answers "it fits" exactly when it pays.
pub(crate) const fn stored_len_max(payload_len: usize) -> Option<usize> {
    let raw = record_sectors(payload_len);
    // At least one sector, since it is rounded up.
    let sectors = raw - raw.div_ceil(CODEC_BLOCK_SAVING_DIVISOR);
    if sectors == 0 { None } else { Some(sectors * SECTOR_BYTES - RECORD_FOOTER_BYTES) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_fits_saves_whole_sectors() {
        for (payload_len, room) in [
            (0, None),
            (1, None),
            (3_968, None),
            (3_969, Some(3_968)),
            (16 << 10, Some(4 * 4_096 - 128)),
            (64 << 10, Some(15 * 4_096 - 128)),
            // 257 sectors raw; a sixteenth of them are 17.
            (1 << 20, Some(240 * 4_096 - 128)),
        ] {
            assert_eq!(stored_len_max(payload_len), room, "{payload_len}");
            if let Some(room) = room {
                assert!(record_sectors(room) < record_sectors(payload_len));
                assert_eq!(record_sectors(room + 1), record_sectors(room) + 1, "no sector is left half used");
            }
        }
    }
}
