//! Reading fixed-schema fields off a byte slice, each missing byte and bad value named.

use super::error::FrameError;
use super::header::FrameKind;
use crate::block::BlockKey;

/// The fields of one body that are still to be read.
pub(super) struct Fields<'a> {
    kind: FrameKind,
    rest: &'a [u8],
}

impl<'a> Fields<'a> {
    pub(super) fn new(kind: FrameKind, body: &'a [u8]) -> Self {
        Self { kind, rest: body }
    }

    pub(super) fn bad(&self, field: &'static str) -> FrameError {
        FrameError::Field { kind: self.kind, field }
    }

    pub(super) fn array<const N: usize>(&mut self, field: &'static str) -> Result<[u8; N], FrameError> {
        let (head, rest) = self.rest.split_first_chunk().ok_or_else(|| self.bad(field))?;
        self.rest = rest;
        Ok(*head)
    }

    pub(super) fn u8(&mut self, field: &'static str) -> Result<u8, FrameError> {
        self.array(field).map(|[byte]| byte)
    }

    pub(super) fn u16(&mut self, field: &'static str) -> Result<u16, FrameError> {
        self.array(field).map(u16::from_le_bytes)
    }

    pub(super) fn u32(&mut self, field: &'static str) -> Result<u32, FrameError> {
        self.array(field).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, field: &'static str) -> Result<u64, FrameError> {
        self.array(field).map(u64::from_le_bytes)
    }

    pub(super) fn key(&mut self) -> Result<BlockKey, FrameError> {
        self.array("key").map(BlockKey)
    }

    /// Reads bytes that must be zero in this version.
    pub(super) fn zeros<const N: usize>(&mut self) -> Result<(), FrameError> {
        if self.array::<N>("padding")? == [0; N] { Ok(()) } else { Err(self.bad("padding")) }
    }

    /// Reads the number of elements of `size` bytes that fill the rest of the body. It is checked
    /// against the bytes present, so that a caller may allocate for it.
    pub(super) fn count(&mut self, size: usize) -> Result<usize, FrameError> {
        let count = self.u32("count")? as usize;
        if count.checked_mul(size) == Some(self.rest.len()) { Ok(count) } else { Err(self.bad("count")) }
    }

    pub(super) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.rest)
    }

    /// Ends the reading: nothing may be left.
    pub(super) fn end(self) -> Result<(), FrameError> {
        if self.rest.is_empty() { Ok(()) } else { Err(self.bad("length")) }
    }
}

/// Writes a count and then, by the caller, as many elements.
pub(super) fn put_count(out: &mut Vec<u8>, count: usize) {
    let count = u32::try_from(count).expect("the caller's batch is within CHAIN_BLOCKS_MAX");
    out.extend_from_slice(&count.to_le_bytes());
}
