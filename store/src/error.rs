//! What can go wrong, one enum per operation.

use std::io;
use std::path::PathBuf;

use hearth_proto::{Classified, ErrorKind};

use crate::device::DeviceError;

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OpenError {
    /// The configuration contradicts itself or a limit.
    #[error("bad store configuration: {detail}")]
    Config {
        /// What is wrong and what is allowed.
        detail: String,
    },
    /// Another process, or another store of this one, has the folder open.
    #[error("the store at {dir} is in use by another process: {detail}")]
    InUse {
        /// The folder of the NVMe tier.
        dir: PathBuf,
        /// What the index said.
        detail: String,
    },
    /// A newer version of Hearth wrote the folder.
    #[error(
        "the store at {dir} has format {found}, this version reads up to format {supported}: \
         open it with a newer version of Hearth"
    )]
    NewerFormat {
        /// The folder of the NVMe tier.
        dir: PathBuf,
        /// The format found there.
        found: u32,
        /// The newest format that this build reads.
        supported: u32,
    },
    /// An older version of Hearth wrote the folder, and this one does not read its format.
    #[error(
        "the store at {dir} has format {found}, this version reads format {supported} only: open it with \
         the older version, or delete the folder, which holds nothing but cached blocks"
    )]
    OlderFormat {
        /// The folder of the NVMe tier.
        dir: PathBuf,
        /// The format found there.
        found: u32,
        /// The format that this build reads.
        supported: u32,
    },
    /// The store was founded with extents of another size.
    #[error("the store at {dir} has extents of {found} bytes, the configuration asks for {asked}")]
    ExtentBytesChanged {
        /// The folder of the NVMe tier.
        dir: PathBuf,
        /// The size it was founded with.
        found: u64,
        /// The size in the configuration.
        asked: u64,
    },
    /// A slab belongs to another store.
    #[error("the slab {path} belongs to another store: name the right one, or delete or wipe it")]
    ForeignSlab {
        /// The file or device.
        path: PathBuf,
    },
    /// A file or device holds something that is no slab, and is left alone.
    #[error("{path} holds something that is no slab: name another, or delete or wipe it")]
    NotASlab {
        /// The file or device.
        path: PathBuf,
    },
    /// Two of the slabs are one, or one is a copy of the other.
    #[error("the slab {path} is the same as another one that was named, or a copy of it")]
    SameSlab {
        /// The second of the two.
        path: PathBuf,
    },
    /// A file that held blocks is not there. Nothing was changed.
    #[error(
        "the slab {path} is missing and the store remembers blocks in it: bring it back, or name it no more, \
         or delete the folder {dir} too"
    )]
    SlabMissing {
        /// The file.
        path: PathBuf,
        /// The folder of the index.
        dir: PathBuf,
    },
    /// The index cannot be read; opening sets it aside. The blocks are a cache.
    #[error("the index of the store at {dir} is damaged: {detail}")]
    IndexDamaged {
        /// The folder of the NVMe tier.
        dir: PathBuf,
        /// What is damaged.
        detail: String,
    },
    /// The file or device of the slab cannot hold blocks.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The operating system refused something that the store cannot do without.
    #[error("the store cannot {what}")]
    Io {
        /// What was tried.
        what: String,
        /// The refusal.
        #[source]
        source: io::Error,
    },
}

impl OpenError {
    pub(crate) fn io(what: impl Into<String>) -> impl FnOnce(io::Error) -> Self {
        let what = what.into();
        move |source| Self::Io { what, source }
    }
}

impl Classified for OpenError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Config { .. }
            | Self::ExtentBytesChanged { .. }
            | Self::ForeignSlab { .. }
            | Self::NotASlab { .. }
            | Self::SameSlab { .. } => ErrorKind::FixRequest,
            Self::InUse { .. } => ErrorKind::Retry,
            Self::Device(error) => error.kind(),
            Self::NewerFormat { .. }
            | Self::OlderFormat { .. }
            | Self::SlabMissing { .. }
            | Self::IndexDamaged { .. }
            | Self::Io { .. } => ErrorKind::Stop,
        }
    }
}

/// Why no slot was given.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ReserveError {
    /// The payload can never fit.
    #[error("a payload of {payload_len} bytes exceeds {limit_name} of {limit} bytes")]
    TooLarge {
        /// The length that was asked for.
        payload_len: usize,
        /// The largest that is possible.
        limit: usize,
        /// Which limit it is.
        limit_name: &'static str,
    },
    /// A block without bytes.
    #[error("a block has at least one byte")]
    Empty,
    /// Nothing could be evicted by the deadline: every slot is leased or waits to be written.
    #[error("no slot became free by the deadline")]
    Deadline,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl Classified for ReserveError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::TooLarge { .. } | Self::Empty => ErrorKind::FixRequest,
            Self::Deadline => ErrorKind::Retry,
            Self::Closed => ErrorKind::Reroute,
        }
    }
}

/// Why a block was not pinned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PinError {
    /// This store does not have the block.
    #[error("the block is not here")]
    NotHere,
    /// Pins take as much of the tier as they may.
    #[error("{pinned_bytes} bytes are pinned of at most {limit_bytes}")]
    TooMuch {
        /// What is pinned without this block.
        pinned_bytes: u64,
        /// What may be pinned: PINNED_PERMILLE_MAX of the tier.
        limit_bytes: u64,
    },
}

impl Classified for PinError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NotHere => ErrorKind::Reroute,
            Self::TooMuch { .. } => ErrorKind::Retry,
        }
    }
}

/// Why a block of the arena was not lent.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum LendError {
    /// The block is not in the arena; a get brings it there.
    #[error("the block is not in the arena")]
    NotInArena,
    /// As many blocks are lent as may be.
    #[error("{0} blocks are lent, which is the limit LOANS_MAX")]
    TooMany(usize),
}

impl Classified for LendError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Retry
    }
}

/// Why a put was not acknowledged.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PutError {
    /// The bytes in the slot are not those the caller took the checksum of. Nothing was stored.
    #[error("the payload has crc32 {actual:08x}, the put said {expected:08x}")]
    ChecksumMismatch {
        /// The checksum the put named.
        expected: u32,
        /// The checksum of the bytes in the slot.
        actual: u32,
    },
    /// The block is stored with other bytes. Those stay: blocks never change.
    #[error("the block is stored with crc32 {stored:08x}, the put brought other bytes with {offered:08x}")]
    Conflict {
        /// The checksum of what is stored.
        stored: u32,
        /// The checksum of what was offered.
        offered: u32,
    },
    /// The slot was reserved in another store. Nothing was stored.
    #[error("the slot belongs to another store")]
    ForeignSlot,
    /// A durable put was asked of a store without an NVMe tier. Nothing was stored.
    #[error("this store has no NVMe tier, so nothing can be durable")]
    NoNvme,
    /// The deadline passed before the block was taken, or there was no room to read what may be an older
    /// replica of it. Nothing was stored.
    #[error("the store was too busy to take the block")]
    Overloaded,
    /// The deadline passed while the block was being made durable; it is in the arena and may yet
    /// become durable. Putting it again is harmless and waits for the same write.
    #[error("the block was not durable by the deadline; whether it becomes so is unknown")]
    UnknownDurability,
    /// The block is in the arena, and will not become durable: the device refused it or is full.
    #[error("the block could not be made durable")]
    NotDurable,
    /// The block was removed while it was being made durable.
    #[error("the block was removed before it was durable")]
    Removed,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// Why a put could not find out whether its block is there already.
impl From<GetError> for PutError {
    fn from(error: GetError) -> Self {
        match error {
            GetError::Deadline => Self::Overloaded,
            GetError::Closed => Self::Closed,
        }
    }
}

impl Classified for PutError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::ChecksumMismatch { .. } | Self::Conflict { .. } | Self::ForeignSlot | Self::NoNvme => {
                ErrorKind::FixRequest
            }
            Self::Overloaded | Self::UnknownDurability => ErrorKind::Retry,
            Self::NotDurable | Self::Removed | Self::Closed => ErrorKind::Reroute,
        }
    }
}

/// Why a get gave neither bytes nor a miss.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum GetError {
    /// The block is stored but could not be read by the deadline.
    #[error("the block could not be read by the deadline")]
    Deadline,
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

impl Classified for GetError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Deadline => ErrorKind::Retry,
            Self::Closed => ErrorKind::Reroute,
        }
    }
}
