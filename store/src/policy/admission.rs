//! What is written to NVMe: not everything that is put will ever be read again.

use hearth_proto::{AckLevel, Priority};

/// Blocks of a lower priority than this are kept in memory while there is room, and not written.
///
/// Callers give the lowest priorities to what only the present request reads, such as reasoning tokens,
/// which no later prompt contains. Writing those would wear the device and push out what is read again.
const WRITTEN_PRIORITY_MIN: u8 = 10;

/// True if a block of `priority` is to be written to NVMe.
pub(crate) fn is_worth_writing(priority: Priority, ack: AckLevel) -> bool {
    ack == AckLevel::Durable || priority.value() >= WRITTEN_PRIORITY_MIN
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_lowest_priorities_stay_off_the_disk_unless_asked() {
        let priority = |value| Priority::new(value).unwrap();
        for (value, ack, written) in [
            (0, AckLevel::Host, false),
            (9, AckLevel::Host, false),
            (10, AckLevel::Host, true),
            (35, AckLevel::Host, true),
            (0, AckLevel::Durable, true),
        ] {
            assert_eq!(is_worth_writing(priority(value), ack), written, "priority {value}, {ack:?}");
        }
    }
}
