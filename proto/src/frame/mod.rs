//! The frames of the data plane: what two ends of a fabric connection say to each other.
//!
//! A frame is a header of 32 bytes, a body of a fixed schema and, for blocks, the payload. All numbers
//! are little-endian. Header and body carry a crc each; the crc of the payload is a field of the body,
//! because the store computed it long before the frame was made. This module encodes and decodes; it
//! reads no socket, keeps no state and refuses everything that it does not know (INV-WIRE).
//!
//! ```text
//! offset  0        4         6      7       8            16         20            24         28           32
//!         magic    version   kind   flags   request_id   body_len   payload_len   body_crc   header_crc
//! ```
//!
//! The place of magic and version never changes, and neither does the body of [`Hello`]. Both ends learn
//! from the greeting which is the newest version that both know. Each frame states the oldest version that
//! can say what it says, so what a newer end says to an older one is in the bytes that this one knows; what
//! only a newer version can say is not said to an older one.
//!
//! | version | what is new |
//! |---|---|
//! | 2 | a get has an urgency |
//! | 3 | a node gives another one a copy of a block |

mod blocks;
mod body;
mod control;
mod error;
mod header;
mod status;
mod wire;

pub use blocks::{BlockCodec, CopyBlock, Get, GetBlock, GetEntry, PutBlock, PutDone, PutEntry};
pub use body::Body;
pub use control::{Goodbye, GoodbyeReason, Hello, HelloAck, Keys, RemoveReply, TierBits};
pub use error::FrameError;
pub use header::{FrameKind, Header};
pub use status::BlockStatus;

/// The first four bytes of every frame: `HRTH`.
pub const MAGIC: u32 = u32::from_le_bytes(*b"HRTH");
/// The newest version of the frames that this build speaks.
pub const VERSION: u16 = 3;
/// The oldest version of the frames that this build speaks.
pub const VERSION_MIN: u16 = 1;

/// The version that two ends share, given what the peer speaks; `None` if there is none.
pub const fn negotiate(peer_min: u16, peer_max: u16) -> Option<u16> {
    let newest = if peer_max < VERSION { peer_max } else { VERSION };
    let oldest = if peer_min > VERSION_MIN { peer_min } else { VERSION_MIN };
    if oldest <= newest { Some(newest) } else { None }
}

#[cfg(test)]
mod tests;
