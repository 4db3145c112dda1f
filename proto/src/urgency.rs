//! How much a get matters beside others that wait.

/// How much a get matters beside others that wait for the same device: the most urgent goes first, and among
/// equals the one with the earliest deadline.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// Nobody waits for it yet, as with a prefetch.
    Background,
    /// A get like any other.
    #[default]
    Normal,
    /// A get that is to overtake others, as when a user waits for the first token.
    Urgent,
}

impl Urgency {
    /// Every urgency, the most urgent first.
    pub const ALL: [Self; 3] = [Self::Urgent, Self::Normal, Self::Background];

    /// The wire number. The usual one is zero.
    pub const fn to_wire(self) -> u8 {
        match self {
            Self::Normal => 0,
            Self::Urgent => 1,
            Self::Background => 2,
        }
    }

    /// Reads the wire number; `None` for a number of the future.
    pub const fn from_wire(number: u8) -> Option<Self> {
        match number {
            0 => Some(Self::Normal),
            1 => Some(Self::Urgent),
            2 => Some(Self::Background),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_urgency_survives_its_number_and_orders_as_listed() {
        for urgency in Urgency::ALL {
            assert_eq!(Urgency::from_wire(urgency.to_wire()), Some(urgency));
        }
        assert_eq!((Urgency::from_wire(3), Urgency::default().to_wire()), (None, 0));
        assert!(Urgency::ALL.is_sorted_by(|a, b| a > b));
    }
}
