//! A frame without its payload: the body, and how it goes to bytes and comes back.

use super::VERSION_MIN;
use super::blocks::{CopyBlock, Get, GetBlock, PutBlock, PutDone};
use super::control::{Goodbye, Hello, HelloAck, Keys, RemoveReply, TierBits};
use super::error::FrameError;
use super::header::{FrameKind, Header};
use super::wire::Fields;
use crate::limits::FRAME_HEADER_BYTES;

/// The body of a frame, of any kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Body {
    /// See [`FrameKind::Hello`].
    Hello(Hello),
    /// See [`FrameKind::HelloAck`].
    HelloAck(HelloAck),
    /// See [`FrameKind::Get`].
    Get(Get),
    /// See [`FrameKind::GetBlock`].
    GetBlock(GetBlock),
    /// See [`FrameKind::PutBlock`].
    PutBlock(PutBlock),
    /// See [`FrameKind::PutDone`].
    PutDone(PutDone),
    /// See [`FrameKind::Contains`].
    Contains(Keys),
    /// See [`FrameKind::ContainsReply`].
    ContainsReply(Vec<TierBits>),
    /// See [`FrameKind::Remove`].
    Remove(Keys),
    /// See [`FrameKind::RemoveReply`].
    RemoveReply(RemoveReply),
    /// See [`FrameKind::Cancel`].
    Cancel,
    /// See [`FrameKind::Goodbye`].
    Goodbye(Goodbye),
    /// See [`FrameKind::CopyBlock`].
    CopyBlock(CopyBlock),
}

impl Body {
    /// The kind that the header states.
    pub const fn kind(&self) -> FrameKind {
        match self {
            Self::Hello(_) => FrameKind::Hello,
            Self::HelloAck(_) => FrameKind::HelloAck,
            Self::Get(_) => FrameKind::Get,
            Self::GetBlock(_) => FrameKind::GetBlock,
            Self::PutBlock(_) => FrameKind::PutBlock,
            Self::PutDone(_) => FrameKind::PutDone,
            Self::Contains(_) => FrameKind::Contains,
            Self::ContainsReply(_) => FrameKind::ContainsReply,
            Self::Remove(_) => FrameKind::Remove,
            Self::RemoveReply(_) => FrameKind::RemoveReply,
            Self::Cancel => FrameKind::Cancel,
            Self::Goodbye(_) => FrameKind::Goodbye,
            Self::CopyBlock(_) => FrameKind::CopyBlock,
        }
    }

    /// The version that the header states: the oldest that can say this.
    const fn version(&self) -> u16 {
        match self {
            Self::Get(get) => get.version(),
            Self::CopyBlock(_) => CopyBlock::SINCE,
            _ => VERSION_MIN,
        }
    }

    /// Appends header and body to `out`; the caller sends `payload_len` bytes of payload after them.
    ///
    /// # Panics
    /// If a batch or payload is beyond its limit: the caller checks what it was given before this.
    pub fn encode(&self, request_id: u64, payload_len: u32, out: &mut Vec<u8>) {
        let start = out.len();
        out.resize(start + FRAME_HEADER_BYTES, 0);
        match self {
            Self::Hello(body) => body.write(out),
            Self::HelloAck(body) => body.write(out),
            Self::Get(body) => body.write(out),
            Self::GetBlock(body) => body.write(out),
            Self::PutBlock(body) => body.write(out),
            Self::PutDone(body) => body.write(out),
            Self::Contains(body) | Self::Remove(body) => body.write(out),
            Self::ContainsReply(tiers) => out.extend(tiers.iter().map(|bits| bits.0)),
            Self::RemoveReply(body) => body.write(out),
            Self::Cancel => {}
            Self::Goodbye(body) => body.write(out),
            Self::CopyBlock(body) => body.write(out),
        }
        let kind = self.kind();
        let body = &out[start + FRAME_HEADER_BYTES..];
        let (body_min, body_max) = kind.body_bytes();
        assert!((body_min..=body_max).contains(&body.len()), "{kind:?} body of {} bytes", body.len());
        assert!(payload_len as usize <= kind.payload_bytes_max(), "{kind:?} payload of {payload_len} bytes");
        let header = Header {
            version: self.version(),
            kind,
            request_id,
            body_len: body.len() as u32,
            payload_len,
            body_crc: crc32fast::hash(body),
        };
        out[start..start + FRAME_HEADER_BYTES].copy_from_slice(&header.encode());
    }

    /// Reads the body that `header` announced.
    ///
    /// # Errors
    /// [`FrameError`]; the caller says goodbye and closes the connection.
    pub fn decode(header: &Header, bytes: &[u8]) -> Result<Self, FrameError> {
        let kind = header.kind;
        if bytes.len() != header.body_len as usize {
            return Err(FrameError::BodyLength { kind, len: header.body_len });
        }
        if crc32fast::hash(bytes) != header.body_crc {
            return Err(FrameError::BodyCrc);
        }
        let mut fields = Fields::new(kind, bytes);
        let body = match kind {
            FrameKind::Hello => Self::Hello(Hello::read(&mut fields)?),
            FrameKind::HelloAck => Self::HelloAck(HelloAck::read(&mut fields)?),
            FrameKind::Get => Self::Get(Get::read(&mut fields)?),
            FrameKind::GetBlock => Self::GetBlock(GetBlock::read(&mut fields, header.payload_len)?),
            FrameKind::PutBlock => Self::PutBlock(PutBlock::read(&mut fields, header.payload_len)?),
            FrameKind::PutDone => Self::PutDone(PutDone::read(&mut fields)?),
            FrameKind::Contains => Self::Contains(Keys::read(&mut fields)?),
            FrameKind::ContainsReply => {
                Self::ContainsReply(fields.rest().iter().map(|byte| TierBits(*byte)).collect())
            }
            FrameKind::Remove => Self::Remove(Keys::read(&mut fields)?),
            FrameKind::RemoveReply => Self::RemoveReply(RemoveReply::read(&mut fields)?),
            FrameKind::Cancel => Self::Cancel,
            FrameKind::Goodbye => Self::Goodbye(Goodbye::read(&mut fields)?),
            FrameKind::CopyBlock => Self::CopyBlock(CopyBlock::read(&mut fields, header.payload_len)?),
        };
        fields.end()?;
        if body.version() != header.version {
            return Err(FrameError::Field { kind, field: "version" });
        }
        Ok(body)
    }
}
