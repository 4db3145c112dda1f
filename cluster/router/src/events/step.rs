//! What a stream tells its caller to do.

/// One thing to do. The caller does them in the order in which they come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Step<T> {
    /// Read this batch and apply it. If it cannot be read, forget what is known of the publisher's blocks.
    Apply {
        /// Its number.
        seq: u64,
        /// Its payload.
        payload: T,
    },
    /// Ask the publisher for its batches from this one on, over a socket of its own: what comes late of an earlier
    /// replay must not be taken for this one's. An earlier one is over.
    AskReplay {
        /// The first batch that is missing.
        from: u64,
    },
    /// Forget what is known of the publisher's blocks: batches are lost that may have removed some. What follows is
    /// applied to nothing.
    Clear {
        /// Why.
        reason: ClearReason,
    },
}

/// Why a publisher's blocks have to be forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClearReason {
    /// The publisher began anew: it is another process, with an empty cache.
    Restarted,
    /// It no longer has the batches that are missing.
    Forgotten,
    /// It did not send them in time.
    ReplayLost,
    /// It has no replay.
    NoReplay,
}

impl ClearReason {
    /// The name used in labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Restarted => "restarted",
            Self::Forgotten => "forgotten",
            Self::ReplayLost => "replay_lost",
            Self::NoReplay => "no_replay",
        }
    }
}

/// What became of a batch that a stream was given.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Taken {
    /// It is among the steps.
    Applied,
    /// It was there before, or its time is over.
    Ignored,
    /// It waits for those before it.
    Held,
    /// It would wait, but as much as may be held is held. It is asked for once there is room.
    Full,
}

/// What a stream has come to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct StreamStats {
    /// Batches that were applied.
    pub applied: u64,
    /// Batches that were ignored.
    pub ignored: u64,
    /// Batches that there was no room to hold.
    pub full: u64,
    /// Replays that were asked for.
    pub replays: u64,
    /// Times that batches were lost for good, or the publisher was another one.
    pub losses: u64,
}
