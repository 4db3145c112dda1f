//! Known bugs, each of which the simulation must find. Without the feature `mutants` none can be switched on,
//! and the compiler removes them. `MUTANTS.md` says what each does and which seed finds it.

/// A bug that a cluster could have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mutant {
    /// A vote counts before it is on disk.
    VoteNotSynced,
    /// Log entries count before they are on disk.
    AppendNotSynced,
    /// A leader that comes back leads on without an election.
    LeaderRestored,
    /// A follower that does not answer counts as one that has the entries.
    CommitWithoutQuorum,
    /// A log is not cut back before other entries are written.
    TruncateIgnored,
    /// A snapshot lacks its last record.
    SnapshotForgets,
    /// A report that was applied already is applied again.
    DuplicateReportApplied,
    /// A report is applied although the one before it is missing.
    GapAccepted,
    /// A report of a former incarnation is applied.
    OldIncarnationAccepted,
    /// What a returning node and the directory do not have in common stays in the directory.
    ResyncKeepsAll,
    /// A process that replaces another one gets the same incarnation.
    IncarnationKept,
    /// A lookup names what a former incarnation held.
    LookupIgnoresIncarnation,
    /// Whoever let a claim expire renews it, although another one has it now.
    ExpiredClaimRenewed,
    /// A claim that has expired goes on for a while.
    ExpiredClaimKept,
    /// A snapshot lacks the last token that was given out.
    TokenGivenAgain,
    /// A leader confirms reads without asking a quorum, as if it had a lease that a pause does not end.
    LeaseReadAfterPause,
    /// A read is answered before this node has applied what the leader confirmed.
    ReadNotAwaited,
    /// A snapshot of the control group lacks the pins.
    SnapshotForgetsPins,
    /// A pin is held against the quota without the other pins of its namespace.
    PinsUncounted,
    /// An unpin is acknowledged and the pin stays.
    UnpinForgotten,
    /// Each node applies commands at the time of its own clock.
    FollowersClock,
    /// The replicated time is that of the last command, even if an earlier one had a later time.
    TimeGoesBack,
}

impl Mutant {
    /// All of them.
    pub const ALL: [Self; 22] = [
        Self::VoteNotSynced,
        Self::AppendNotSynced,
        Self::LeaderRestored,
        Self::CommitWithoutQuorum,
        Self::TruncateIgnored,
        Self::SnapshotForgets,
        Self::DuplicateReportApplied,
        Self::GapAccepted,
        Self::OldIncarnationAccepted,
        Self::ResyncKeepsAll,
        Self::IncarnationKept,
        Self::LookupIgnoresIncarnation,
        Self::ExpiredClaimRenewed,
        Self::ExpiredClaimKept,
        Self::TokenGivenAgain,
        Self::LeaseReadAfterPause,
        Self::ReadNotAwaited,
        Self::SnapshotForgetsPins,
        Self::PinsUncounted,
        Self::UnpinForgotten,
        Self::FollowersClock,
        Self::TimeGoesBack,
    ];

    /// The one of this name.
    pub fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|mutant| format!("{mutant:?}") == name)
    }
}

/// True if the cluster is to have this bug.
#[cfg(not(feature = "mutants"))]
#[inline(always)]
pub(crate) const fn is(_mutant: Mutant) -> bool {
    false
}

#[cfg(feature = "mutants")]
mod switch {
    use std::sync::OnceLock;

    use super::Mutant;

    static PRESENT: OnceLock<Mutant> = OnceLock::new();

    /// Gives a bug to every member that runs in this process, for good.
    ///
    /// # Panics
    /// If they have one already.
    pub fn set(mutant: Mutant) {
        assert!(PRESENT.set(mutant).is_ok(), "one process has one bug");
    }

    /// True if the cluster is to have this bug.
    pub(crate) fn is(mutant: Mutant) -> bool {
        PRESENT.get() == Some(&mutant)
    }
}

#[cfg(feature = "mutants")]
pub(crate) use switch::is;
#[cfg(feature = "mutants")]
pub use switch::set;
