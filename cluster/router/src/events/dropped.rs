//! Events that were left out, by reason.

/// Why an event of a batch was left out. The others of the batch count all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
pub enum DropReason {
    /// Its type is not known: it may be one of the future.
    UnknownType,
    /// It names a medium that is not known, so nobody can say where the blocks are.
    UnknownMedium,
    /// Its blocks are not on the engine's own node: what is shared or lies on another node is no reason to route to
    /// this engine.
    Remote,
    /// Its blocks belong to a store beside the engine, which tells of them itself.
    Owned,
    /// It names more blocks than one event may.
    TooManyBlocks,
    /// A field is missing, has another type or is out of its range.
    Malformed,
}

impl DropReason {
    /// Every reason.
    pub const ALL: [Self; 6] = [
        Self::UnknownType,
        Self::UnknownMedium,
        Self::Remote,
        Self::Owned,
        Self::TooManyBlocks,
        Self::Malformed,
    ];

    /// The name used in labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::UnknownType => "unknown_type",
            Self::UnknownMedium => "unknown_medium",
            Self::Remote => "remote",
            Self::Owned => "owned",
            Self::TooManyBlocks => "too_many_blocks",
            Self::Malformed => "malformed",
        }
    }
}

/// How many events were left out for each reason.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Dropped([u32; DropReason::ALL.len()]);

impl Dropped {
    /// Counts one more.
    pub fn add(&mut self, reason: DropReason) {
        let count = &mut self.0[reason as usize];
        *count = count.saturating_add(1);
    }

    /// How many for this reason.
    pub const fn of(&self, reason: DropReason) -> u32 {
        self.0[reason as usize]
    }

    /// How many for any.
    pub fn total(&self) -> u64 {
        self.0.iter().map(|count| u64::from(*count)).sum()
    }

    /// The reasons for which there were some.
    pub fn iter(&self) -> impl Iterator<Item = (DropReason, u32)> {
        DropReason::ALL.into_iter().map(|reason| (reason, self.of(reason))).filter(|(_, count)| *count > 0)
    }
}
