//! The 32 bytes before every body: what follows, and how much of it.

use super::error::FrameError;
use super::{MAGIC, VERSION, VERSION_MIN};
use crate::limits::{
    BLOCK_BYTES_MAX, CHAIN_BLOCKS_MAX, FRAME_BODY_BYTES_MAX, FRAME_HEADER_BYTES, GOODBYE_TEXT_BYTES_MAX,
};

/// What a frame says; fixes the schema of its body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum FrameKind {
    /// Client to server, first: which versions and which cluster.
    Hello = 1,
    /// Server to client, first: the version chosen, and who answers.
    HelloAck = 2,
    /// Client to server: blocks wanted.
    Get = 3,
    /// Server to client: one block of a get, or why not.
    GetBlock = 4,
    /// Client to server: one block to keep.
    PutBlock = 5,
    /// Server to client: what became of some blocks of a put.
    PutDone = 6,
    /// Client to server: which of these are held?
    Contains = 7,
    /// Server to client: the tiers that hold each.
    ContainsReply = 8,
    /// Client to server: forget these.
    Remove = 9,
    /// Server to client: what became of each.
    RemoveReply = 10,
    /// Client to server: the request named in the header is no longer wanted.
    Cancel = 11,
    /// Either way, last: why the connection ends.
    Goodbye = 12,
    /// Node to node: one block to keep a copy of; answered like a put. From version 3 on.
    CopyBlock = 13,
}

impl FrameKind {
    /// Every kind, by wire number, from 1.
    pub const ALL: [Self; 13] = [
        Self::Hello,
        Self::HelloAck,
        Self::Get,
        Self::GetBlock,
        Self::PutBlock,
        Self::PutDone,
        Self::Contains,
        Self::ContainsReply,
        Self::Remove,
        Self::RemoveReply,
        Self::Cancel,
        Self::Goodbye,
        Self::CopyBlock,
    ];

    /// Reads the wire number; `None` for a number of the future.
    pub fn from_wire(number: u8) -> Option<Self> {
        Self::ALL.get(usize::from(number).checked_sub(1)?).copied()
    }

    /// The shortest and the longest body of this kind, in bytes.
    pub const fn body_bytes(self) -> (usize, usize) {
        match self {
            Self::Hello => (20, 20),
            Self::HelloAck => (40, 40),
            Self::Get => (16, 16 + 36 * CHAIN_BLOCKS_MAX),
            Self::GetBlock => (64, 64),
            Self::PutBlock => (60, 60),
            Self::CopyBlock => (64, 64),
            Self::PutDone => (4, 4 + 16 * CHAIN_BLOCKS_MAX),
            Self::Contains | Self::Remove => (8, 8 + 32 * CHAIN_BLOCKS_MAX),
            Self::ContainsReply | Self::RemoveReply => (0, CHAIN_BLOCKS_MAX),
            Self::Cancel => (0, 0),
            Self::Goodbye => (1, 1 + GOODBYE_TEXT_BYTES_MAX),
        }
    }

    /// The longest payload of this kind, in bytes.
    pub const fn payload_bytes_max(self) -> usize {
        match self {
            Self::GetBlock | Self::PutBlock | Self::CopyBlock => BLOCK_BYTES_MAX,
            _ => 0,
        }
    }
}

const _: () = {
    let mut i = 0;
    while i < FrameKind::ALL.len() {
        assert!(FrameKind::ALL[i] as usize == i + 1);
        assert!(FrameKind::ALL[i].body_bytes().1 <= FRAME_BODY_BYTES_MAX);
        i += 1;
    }
};

/// The header of a frame whose lengths are within the bounds of its kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// The version of the frame, between [`VERSION_MIN`] and [`VERSION`].
    pub version: u16,
    /// What the frame says.
    pub kind: FrameKind,
    /// The request that the frame belongs to; zero for the connection itself.
    pub request_id: u64,
    /// Bytes of body after the header.
    pub body_len: u32,
    /// Bytes of payload after the body.
    pub payload_len: u32,
    /// The crc32 of the body.
    pub body_crc: u32,
}

impl Header {
    /// The header's bytes.
    pub fn encode(&self) -> [u8; FRAME_HEADER_BYTES] {
        let mut bytes = [0; FRAME_HEADER_BYTES];
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..6].copy_from_slice(&self.version.to_le_bytes());
        bytes[6] = self.kind as u8;
        bytes[8..16].copy_from_slice(&self.request_id.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.body_len.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.payload_len.to_le_bytes());
        bytes[24..28].copy_from_slice(&self.body_crc.to_le_bytes());
        let crc = crc32fast::hash(&bytes[..28]);
        bytes[28..32].copy_from_slice(&crc.to_le_bytes());
        bytes
    }

    /// Reads a header; magic and version are judged first, because a future version may place
    /// everything after them elsewhere.
    ///
    /// # Errors
    /// [`FrameError`]; the caller says goodbye and closes the connection.
    pub fn decode(bytes: &[u8; FRAME_HEADER_BYTES]) -> Result<Self, FrameError> {
        let u32_at = |at: usize| u32::from_le_bytes([bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]]);
        let magic = u32_at(0);
        if magic != MAGIC {
            return Err(FrameError::BadMagic(magic));
        }
        let version = u16::from_le_bytes([bytes[4], bytes[5]]);
        if !(VERSION_MIN..=VERSION).contains(&version) {
            return Err(FrameError::Version { given: version });
        }
        if u32_at(28) != crc32fast::hash(&bytes[..28]) {
            return Err(FrameError::HeaderCrc);
        }
        let kind = FrameKind::from_wire(bytes[6]).ok_or(FrameError::UnknownKind(bytes[6]))?;
        if bytes[7] != 0 {
            return Err(FrameError::UnknownFlags(bytes[7]));
        }
        let (body_len, payload_len) = (u32_at(16), u32_at(20));
        let (body_min, body_max) = kind.body_bytes();
        if !(body_min..=body_max).contains(&(body_len as usize)) {
            return Err(FrameError::BodyLength { kind, len: body_len });
        }
        if payload_len as usize > kind.payload_bytes_max() {
            return Err(FrameError::PayloadLength { kind, len: payload_len });
        }
        let request_id = u64::from(u32_at(8)) | u64::from(u32_at(12)) << 32;
        Ok(Self { version, kind, request_id, body_len, payload_len, body_crc: u32_at(24) })
    }
}
