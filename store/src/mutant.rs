//! Known bugs, each of which the simulation must find. Without the feature `mutants` none can be switched
//! on, and the compiler removes them.

/// A bug that a store could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// The footer is written first, and the record counts as written before its payload is.
    FooterBeforePayload,
    /// A record is believed whatever its generation, if it agrees with itself.
    GenerationNotChecked,
    /// Writes count as durable without a sync.
    SyncIgnored,
    /// A read that ended before its length counts as whole.
    ShortReadAccepted,
    /// A replica on NVMe is named when it is written, before it is durable.
    PublishBeforeDurable,
    /// What the index remembers of a former life is believed without a look at the record.
    StaleIndexTrusted,
    /// The slot of a block is given out again while somebody reads the block.
    SlotReusedUnderLease,
    /// A write or a sync that failed counts as done.
    EioTakenAsClean,
    /// The checksum of a payload is not verified.
    ChecksumNotVerified,
    /// The index names a record before the sync that makes it durable.
    CommitBeforeSync,
    /// A sync counts for the writes that ended while it ran.
    SyncCoversLaterWrites,
    /// A put is acknowledged as durable when its record is written.
    AckBeforeDurable,
    /// What was removed is not deleted from the index on disk.
    RemoveNotLogged,
    /// A store that opens uses the generations of its former life again.
    GenerationsReused,
    /// The index does not remember that an extent is out of service.
    FenceForgotten,
    /// A record whose index entry was refused keeps its slot.
    SlotLeakedOnRefusal,
    /// A part of a file that was cut off and comes back gets a second number.
    ExtentNumberedTwice,
    /// Records go to slots before the index knows that some may lie there.
    AckBeforeReady,
    /// The index goes on believing what lies in a slot whose block was removed.
    ReadyForEver,
    /// What lies in a ready slot counts, however old it is.
    OldRecordTaken,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 20] = [
        Self::FooterBeforePayload,
        Self::GenerationNotChecked,
        Self::SyncIgnored,
        Self::ShortReadAccepted,
        Self::PublishBeforeDurable,
        Self::StaleIndexTrusted,
        Self::SlotReusedUnderLease,
        Self::EioTakenAsClean,
        Self::ChecksumNotVerified,
        Self::CommitBeforeSync,
        Self::SyncCoversLaterWrites,
        Self::AckBeforeDurable,
        Self::RemoveNotLogged,
        Self::GenerationsReused,
        Self::FenceForgotten,
        Self::SlotLeakedOnRefusal,
        Self::ExtentNumberedTwice,
        Self::AckBeforeReady,
        Self::ReadyForEver,
        Self::OldRecordTaken,
    ];
}

/// True if the store is to have this bug.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub(crate) const fn is(_mutant: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
mod switch {
    use std::cell::Cell;

    use super::Mutant;

    thread_local! {
        static PRESENT: Cell<Option<Mutant>> = const { Cell::new(None) };
    }

    /// Gives a bug to the stores that run on this thread, or takes it away.
    pub fn set(mutant: Option<Mutant>) {
        PRESENT.set(mutant);
    }

    /// True if the store is to have this bug.
    pub(crate) fn is(mutant: Mutant) -> bool {
        PRESENT.get() == Some(mutant)
    }
}

#[cfg(feature = "mutants")]
pub(crate) use switch::is;
#[cfg(feature = "mutants")]
pub use switch::set;
