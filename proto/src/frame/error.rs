//! Why bytes are not a frame.

use super::header::FrameKind;
use super::{VERSION, VERSION_MIN};
use crate::error::{Classified, ErrorKind};

/// Why bytes from a peer are not a frame. The connection that gave them cannot be trusted further.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The peer speaks something else: it is not a Hearth data plane.
    #[error("the bytes do not begin like a frame (magic {0:#010x})")]
    BadMagic(u32),
    /// The peer uses a version that was not agreed, perhaps one of the future.
    #[error("frame version {given} is not one of {VERSION_MIN} to {VERSION}")]
    Version {
        /// The version in the header.
        given: u16,
    },
    /// The header was damaged.
    #[error("the header's checksum does not match")]
    HeaderCrc,
    /// The kind is not of this version.
    #[error("frame kind {0} is unknown")]
    UnknownKind(u8),
    /// A flag is set that this version does not know.
    #[error("frame flags {0:#04x} are unknown")]
    UnknownFlags(u8),
    /// The body is longer or shorter than its kind allows.
    #[error("a {kind:?} frame cannot have a body of {len} bytes")]
    BodyLength {
        /// The kind in the header.
        kind: FrameKind,
        /// The length in the header.
        len: u32,
    },
    /// The payload is longer than its kind allows.
    #[error("a {kind:?} frame cannot have a payload of {len} bytes")]
    PayloadLength {
        /// The kind in the header.
        kind: FrameKind,
        /// The length in the header.
        len: u32,
    },
    /// The body was damaged.
    #[error("the body's checksum does not match")]
    BodyCrc,
    /// A field of the body has a value that this version does not know.
    #[error("a {kind:?} frame has a bad {field}")]
    Field {
        /// The kind in the header.
        kind: FrameKind,
        /// The field's name.
        field: &'static str,
    },
}

impl Classified for FrameError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::BadMagic(_) | Self::Version { .. } => ErrorKind::Stop,
            _ => ErrorKind::Retry,
        }
    }
}
