//! The codecs and their numbers on the disk.

/// How a record's stored bytes stand for its payload.
///
/// *Invariants*: the numbers are written into records; none is ever given another meaning.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
#[repr(u8)]
pub enum Codec {
    /// The payload as it is.
    #[default]
    Raw = 0,
    /// Pieces of the payload, each by the lz4 block format where that is smaller.
    Lz4 = 1,
    /// The bytes of two-byte elements taken apart into two planes, then as [`Codec::Lz4`]. Of bf16, one
    /// plane holds signs and exponents, which repeat, and the other mantissas, which do not.
    PlanesLz4 = 2,
}

impl Codec {
    /// All codecs, in the order of their numbers.
    pub const ALL: [Self; 3] = [Self::Raw, Self::Lz4, Self::PlanesLz4];

    /// The number that stands for the codec in a record.
    pub const fn number(self) -> u8 {
        self as u8
    }

    /// The codec with this number; `None` if this version knows of none.
    pub fn from_number(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The name for people and metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Raw => "raw",
            Self::Lz4 => "lz4",
            Self::PlanesLz4 => "planes-lz4",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_numbers_of_codecs_never_change() {
        let numbers: Vec<u8> = Codec::ALL.into_iter().map(Codec::number).collect();
        assert_eq!(numbers, [0, 1, 2]);
        for number in 0..=u8::MAX {
            let known = Codec::from_number(number);
            assert_eq!(known.map(Codec::number), (number < 3).then_some(number));
        }
    }
}
