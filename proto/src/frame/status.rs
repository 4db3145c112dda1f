//! What became of one block of a request.

use crate::error::{Classified, ErrorKind};

/// What became of one block of a request, as it travels on the wire.
///
/// As an error it never is [`BlockStatus::Ok`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[repr(u8)]
pub enum BlockStatus {
    /// Done; for a get the payload follows.
    #[error("done")]
    Ok = 0,
    /// The peer does not hold the block.
    #[error("the block is not held here")]
    Miss = 1,
    /// The block is longer than the buffer that the caller offered.
    #[error("the block is longer than the buffer offered")]
    BufferTooSmall = 2,
    /// The peer, or this end of the connection, has too much in work.
    #[error("too much in work")]
    Overloaded = 3,
    /// The deadline passed first. Whether a put took effect is unknown.
    #[error("the deadline passed")]
    DeadlineExceeded = 4,
    /// The bytes did not match their key, generation or checksum, and were withheld.
    #[error("the bytes failed verification")]
    Corrupt = 5,
    /// The node registered anew since the location was learned.
    #[error("the location is of an earlier incarnation of the node")]
    Stale = 6,
    /// The request contradicts the protocol's bounds.
    #[error("the request is malformed")]
    BadRequest = 7,
    /// The block is longer than the peer takes.
    #[error("the block is longer than the peer takes")]
    TooLarge = 8,
    /// The store has no room for the block.
    #[error("the store has no room")]
    Full = 9,
    /// The device failed.
    #[error("the device failed")]
    IoError = 10,
    /// The node is going down.
    #[error("the node is shutting down")]
    ShuttingDown = 11,
    /// The connection ended before an answer came. Whether a put took effect is unknown.
    #[error("the connection ended before the answer")]
    Disconnected = 12,
}

impl BlockStatus {
    /// Every status, by wire number.
    pub const ALL: [Self; 13] = [
        Self::Ok,
        Self::Miss,
        Self::BufferTooSmall,
        Self::Overloaded,
        Self::DeadlineExceeded,
        Self::Corrupt,
        Self::Stale,
        Self::BadRequest,
        Self::TooLarge,
        Self::Full,
        Self::IoError,
        Self::ShuttingDown,
        Self::Disconnected,
    ];

    /// Reads the wire number; `None` for a number of the future.
    pub fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The name used in output and labels.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Miss => "miss",
            Self::BufferTooSmall => "buffer_too_small",
            Self::Overloaded => "overloaded",
            Self::DeadlineExceeded => "deadline_exceeded",
            Self::Corrupt => "corrupt",
            Self::Stale => "stale",
            Self::BadRequest => "bad_request",
            Self::TooLarge => "too_large",
            Self::Full => "full",
            Self::IoError => "io_error",
            Self::ShuttingDown => "shutting_down",
            Self::Disconnected => "disconnected",
        }
    }
}

impl Classified for BlockStatus {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Ok | Self::Overloaded | Self::DeadlineExceeded | Self::Disconnected => ErrorKind::Retry,
            Self::Miss | Self::Corrupt | Self::Stale | Self::Full | Self::IoError | Self::ShuttingDown => {
                ErrorKind::Reroute
            }
            Self::BufferTooSmall | Self::BadRequest | Self::TooLarge => ErrorKind::FixRequest,
        }
    }
}
