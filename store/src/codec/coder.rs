//! Payloads into stored bytes and back.
//!
//! ```text
//! Raw        the payload
//! Lz4        pieces of 64 KiB of the payload, the last one shorter
//! PlanesLz4  groups of 128 KiB of the payload, the last one shorter; of each its low plane as a piece, then its high
//!            plane as a piece, left out if it is empty
//!
//! piece      u32, little-endian: the stored length, with the top bit set if the piece is stored as it is;
//!            then as many bytes: the piece itself, or an lz4 block that is shorter
//! ```
//!
//! Pieces keep the buffers at the size of a core's cache, whatever the block's size, and each is stored
//! as it is when lz4 does not help it: so the mantissas of a float cost a copy and not a decompression.

use lz4_flex::block::{
    CompressTable, DecompressError, compress_into_with_table, decompress_into, get_maximum_output_size,
};

use super::Codec;
use super::planes::{merge, plane_lens, split};

/// Length of a piece: the window of lz4, which could not look further back anyway.
pub(super) const PIECE_BYTES: usize = 64 << 10;
/// Length of a group: each of its planes is one piece.
const GROUP_BYTES: usize = 2 * PIECE_BYTES;
const PIECE_HEADER_BYTES: usize = 4;
/// Set in the header of a piece that is stored as it is. Without it a payload would also decode to one
/// of another length, namely that of its lz4 block.
const PLAIN: u32 = 1 << 31;
/// Part of a piece, as a divisor, that lz4 must save, or the piece is stored as it is.
const PIECE_SAVING_DIVISOR: usize = 16;

const _: () = assert!(PIECE_BYTES < PLAIN as usize);

/// Why stored bytes are not a payload of the length that was asked for. They are damaged, or were never
/// written by an encoder: the caller treats the block as lost.
#[derive(Debug, thiserror::Error)]
pub(crate) enum DecodeError {
    #[error("a raw payload of {expected} bytes has {stored} stored bytes")]
    RawLength { stored: usize, expected: usize },
    #[error("the stored bytes end within a piece")]
    Truncated,
    #[error("a piece of {piece} bytes claims {claimed} stored bytes")]
    PieceLength { claimed: usize, piece: usize },
    #[error("a piece is not an lz4 block")]
    Lz4(#[source] DecompressError),
    #[error("a piece decodes to {decoded} bytes and should to {expected}")]
    DecodedLength { decoded: usize, expected: usize },
    #[error("{0} bytes follow the last piece")]
    Trailing(usize),
}

/// Encodes and decodes, with buffers that are used again for each block.
///
/// *Units*: about 350 KiB of memory each. One per thread that encodes or decodes.
pub(crate) struct Coder {
    low: Box<[u8]>,
    high: Box<[u8]>,
    packer: Packer,
}

impl Coder {
    pub(crate) fn new() -> Self {
        Self { low: zeros(PIECE_BYTES), high: zeros(PIECE_BYTES), packer: Packer::new() }
    }

    /// Writes the stored form of `payload` to the beginning of `out` and returns its length; `None` if
    /// `out` is too short, which then holds nothing of use.
    pub(crate) fn encode(&mut self, codec: Codec, payload: &[u8], out: &mut [u8]) -> Option<usize> {
        let mut output = Output { bytes: out, len: 0 };
        match codec {
            Codec::Raw => output.push(payload)?,
            Codec::Lz4 => {
                for piece in payload.chunks(PIECE_BYTES) {
                    self.packer.pack(piece, &mut output)?;
                }
            }
            Codec::PlanesLz4 => {
                for group in payload.chunks(GROUP_BYTES) {
                    let (low_len, high_len) = plane_lens(group.len());
                    let (low, high) = (&mut self.low[..low_len], &mut self.high[..high_len]);
                    split(group, low, high);
                    self.packer.pack(low, &mut output)?;
                    self.packer.pack(high, &mut output)?;
                }
            }
        }
        Some(output.len)
    }

    /// Fills `out` with the payload that `stored` stands for.
    ///
    /// *Errors*: `stored` may be anything. Whatever is not the stored form of exactly `out.len()` bytes
    /// is refused, and `out` then holds nothing of use.
    pub(crate) fn decode(&mut self, codec: Codec, stored: &[u8], out: &mut [u8]) -> Result<(), DecodeError> {
        let mut input = Input { rest: stored };
        match codec {
            Codec::Raw => {
                let (stored, expected) = (stored.len(), out.len());
                let payload = input.take(expected).ok_or(DecodeError::RawLength { stored, expected })?;
                out.copy_from_slice(payload);
            }
            Codec::Lz4 => {
                for piece in out.chunks_mut(PIECE_BYTES) {
                    match input.piece(piece.len())? {
                        Piece::Plain(bytes) => piece.copy_from_slice(bytes),
                        Piece::Packed(bytes) => unpack(bytes, piece)?,
                    }
                }
            }
            Codec::PlanesLz4 => {
                for group in out.chunks_mut(GROUP_BYTES) {
                    let (low_len, high_len) = plane_lens(group.len());
                    let low = input.plane(&mut self.low[..low_len])?;
                    let high = input.plane(&mut self.high[..high_len])?;
                    merge(low, high, group);
                }
            }
        }
        if input.rest.is_empty() { Ok(()) } else { Err(DecodeError::Trailing(input.rest.len())) }
    }
}

/// Makes pieces.
struct Packer {
    packed: Box<[u8]>,
    table: CompressTable,
}

impl Packer {
    fn new() -> Self {
        // The large table hashes five bytes instead of four: fewer, longer matches, which decode faster.
        Self { packed: zeros(get_maximum_output_size(PIECE_BYTES)), table: CompressTable::large() }
    }

    fn pack(&mut self, piece: &[u8], output: &mut Output<'_>) -> Option<()> {
        if piece.is_empty() {
            return Some(());
        }
        let packed_len = compress_into_with_table(piece, &mut self.packed, &mut self.table)
            .expect("the buffer has the length that lz4 asks for");
        let saving_min = piece.len().div_ceil(PIECE_SAVING_DIVISOR);
        let (bytes, kind) = if packed_len + saving_min <= piece.len() {
            (&self.packed[..packed_len], 0)
        } else {
            (piece, PLAIN)
        };
        let header = kind | u32::try_from(bytes.len()).expect("a piece is shorter than 2 GiB");
        output.push(&header.to_le_bytes())?;
        output.push(bytes)
    }
}

/// The part of the output that was written, and what room there is.
struct Output<'a> {
    bytes: &'a mut [u8],
    len: usize,
}

impl Output<'_> {
    fn push(&mut self, bytes: &[u8]) -> Option<()> {
        self.bytes[self.len..].get_mut(..bytes.len())?.copy_from_slice(bytes);
        self.len += bytes.len();
        Some(())
    }
}

/// A piece as it is stored.
enum Piece<'a> {
    Plain(&'a [u8]),
    Packed(&'a [u8]),
}

/// The stored bytes that were not decoded yet.
struct Input<'a> {
    rest: &'a [u8],
}

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(bytes)
    }

    /// Takes the next piece, which stands for `len` bytes.
    fn piece(&mut self, len: usize) -> Result<Piece<'a>, DecodeError> {
        let (header, rest) =
            self.rest.split_first_chunk::<PIECE_HEADER_BYTES>().ok_or(DecodeError::Truncated)?;
        self.rest = rest;
        let header = u32::from_le_bytes(*header);
        let (is_plain, claimed) = (header & PLAIN != 0, (header & !PLAIN) as usize);
        if claimed > len || is_plain != (claimed == len) {
            return Err(DecodeError::PieceLength { claimed, piece: len });
        }
        let bytes = self.take(claimed).ok_or(DecodeError::Truncated)?;
        Ok(if is_plain { Piece::Plain(bytes) } else { Piece::Packed(bytes) })
    }

    /// Takes the next piece for a plane of the buffer's length, and decodes it there if it has to be.
    fn plane<'b>(&mut self, buffer: &'b mut [u8]) -> Result<&'b [u8], DecodeError>
    where
        'a: 'b,
    {
        if buffer.is_empty() {
            return Ok(buffer);
        }
        match self.piece(buffer.len())? {
            Piece::Plain(bytes) => Ok(bytes),
            Piece::Packed(bytes) => {
                unpack(bytes, buffer)?;
                Ok(buffer)
            }
        }
    }
}

/// Decodes one lz4 block of exactly `out.len()` bytes.
fn unpack(packed: &[u8], out: &mut [u8]) -> Result<(), DecodeError> {
    let decoded = decompress_into(packed, out).map_err(DecodeError::Lz4)?;
    if decoded == out.len() {
        Ok(())
    } else {
        Err(DecodeError::DecodedLength { decoded, expected: out.len() })
    }
}

fn zeros(len: usize) -> Box<[u8]> {
    vec![0; len].into_boxed_slice()
}
