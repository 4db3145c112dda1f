//! Reads one batch.

use hearth_proto::limits::{EVENT_BATCH_BYTES_MAX, EVENT_BATCH_EVENTS_MAX};
use hearth_proto::{Classified, ErrorKind};

use super::event::event;
use super::fields::Fields;
use super::reader::{Fault, Head, Reader};
use super::{Batch, Dropped, Event};

/// What a caller wants of batches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Options {
    /// Whether tokens are read; otherwise they are stepped over.
    pub keep_tokens: bool,
}

/// Why a batch could not be read. What it said is lost, and asked for again it is the same bytes: the caller
/// forgets what it knows of this publisher's blocks, and goes on with the next batch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// It has more bytes than a batch may have.
    #[error("the batch has {len} bytes, {EVENT_BATCH_BYTES_MAX} at the most: forget this publisher's blocks")]
    TooLong {
        /// The bytes that it has.
        len: usize,
    },
    /// It has more events than a batch may have.
    #[error(
        "the batch has {count} events, {EVENT_BATCH_EVENTS_MAX} at the most: forget this publisher's blocks"
    )]
    TooManyEvents {
        /// The events that it says it has.
        count: usize,
    },
    /// It ends too early, or claims a length that it does not have.
    #[error("the batch ends before the value that begins at byte {at}: forget this publisher's blocks")]
    Truncated {
        /// Where the value begins.
        at: usize,
    },
    /// It is not MessagePack.
    #[error(
        "byte {at} of the batch is not MessagePack: see whose port this is; forget this publisher's blocks"
    )]
    Reserved {
        /// Where the byte is.
        at: usize,
    },
    /// It is MessagePack, but not a batch.
    #[error("byte {at} of the batch does not begin {expected}: forget this publisher's blocks")]
    Unexpected {
        /// Where the value begins.
        at: usize,
        /// What should be there.
        expected: &'static str,
    },
    /// Something follows the batch.
    #[error("something follows the batch at byte {at}: forget this publisher's blocks")]
    Trailing {
        /// Where it begins.
        at: usize,
    },
}

impl Classified for DecodeError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::FixRequest
    }
}

/// Reads the payload of one message: `[ts, events, dp_rank]` or a map of those.
///
/// Members that follow and keys that are unknown are stepped over. An event that is not understood is counted in
/// [`Batch::dropped`] and left out.
///
/// A hash is a number, taken as 64 bits whatever its sign, or binary of 8 to 64 bytes, of which the last eight count,
/// the most significant first. That is what vLLM makes of its SHA-256 if it is to publish numbers, so that one block
/// has one hash whether it was published as the one or as the other.
///
/// *Source*: `EventBatch` in `kv_events.py` and `maybe_convert_block_hash` in `v1/core/kv_cache_utils.py` of vLLM.
///
/// *Errors*: each one means that the batch as a whole is lost; see [`DecodeError`].
pub fn decode(payload: &[u8], options: Options) -> Result<Batch, DecodeError> {
    if payload.len() > EVENT_BATCH_BYTES_MAX {
        return Err(DecodeError::TooLong { len: payload.len() });
    }
    let mut reader = Reader::new(payload);
    let mut draft = Draft::default();
    match reader.head()? {
        Head::Array(len) => draft.read_array(&mut reader, len, options)?,
        Head::Map(len) => draft.read_map(&mut reader, len, options)?,
        _ => return Err(DecodeError::Unexpected { at: 0, expected: "a batch" }),
    }
    if !reader.is_at_end() {
        return Err(DecodeError::Trailing { at: reader.at() });
    }
    let expected = |expected| DecodeError::Unexpected { at: 0, expected };
    let (events, dropped) = draft.events.ok_or(expected("a batch with events"))?;
    let ts_s = draft.ts_s.ok_or(expected("a batch with a time"))?;
    Ok(Batch { ts_s, dp_rank: draft.dp_rank, events, dropped })
}

/// What is known of a batch so far.
#[derive(Debug, Default)]
struct Draft {
    ts_s: Option<f64>,
    dp_rank: Option<u32>,
    events: Option<(Vec<Event>, Dropped)>,
}

impl Draft {
    fn read_array(
        &mut self,
        reader: &mut Reader<'_>,
        len: usize,
        options: Options,
    ) -> Result<(), DecodeError> {
        for position in 0..len {
            match position {
                0 => self.ts_s = Some(time(reader)?),
                1 => self.events = Some(events(reader, options)?),
                2 => self.dp_rank = rank(reader)?,
                _ => {
                    reader.value()?;
                }
            }
        }
        Ok(())
    }

    fn read_map(&mut self, reader: &mut Reader<'_>, len: usize, options: Options) -> Result<(), DecodeError> {
        for _ in 0..len {
            let at = reader.at();
            match reader.value()?.text() {
                Ok(b"ts") => self.ts_s = Some(time(reader)?),
                Ok(b"events") if self.events.is_some() => {
                    return Err(DecodeError::Unexpected { at, expected: "another key than `events` again" });
                }
                Ok(b"events") => self.events = Some(events(reader, options)?),
                Ok(b"data_parallel_rank" | b"attn_dp_rank" | b"dp_rank") => self.dp_rank = rank(reader)?,
                _ => {
                    reader.value()?;
                }
            }
        }
        Ok(())
    }
}

fn time(reader: &mut Reader<'_>) -> Result<f64, DecodeError> {
    let at = reader.at();
    match reader.head()? {
        Head::Float(seconds) => Ok(seconds),
        Head::Uint(seconds) => Ok(seconds as f64),
        Head::Negative(seconds) => Ok(seconds as f64),
        _ => Err(DecodeError::Unexpected { at, expected: "a time" }),
    }
}

fn rank(reader: &mut Reader<'_>) -> Result<Option<u32>, DecodeError> {
    let mut value = reader.value()?;
    if value.is_nil() {
        return Ok(None);
    }
    let at = value.at();
    value.uint32().map(Some).map_err(|_| DecodeError::Unexpected { at, expected: "a data-parallel rank" })
}

fn events(reader: &mut Reader<'_>, options: Options) -> Result<(Vec<Event>, Dropped), DecodeError> {
    let at = reader.at();
    let Head::Array(count) = reader.head()? else {
        return Err(DecodeError::Unexpected { at, expected: "an array of events" });
    };
    if count > EVENT_BATCH_EVENTS_MAX {
        return Err(DecodeError::TooManyEvents { count });
    }
    let (mut events, mut dropped) = (Vec::new(), Dropped::default());
    for _ in 0..count {
        match event(&Fields::read(reader)?, options) {
            Ok(event) => events.push(event),
            Err(reason) => dropped.add(reason),
        }
    }
    Ok((events, dropped))
}

impl From<Fault> for DecodeError {
    fn from(fault: Fault) -> Self {
        match fault {
            Fault::Truncated { at } => Self::Truncated { at },
            Fault::Reserved { at } => Self::Reserved { at },
            Fault::Unexpected { at } => Self::Unexpected { at, expected: "a batch" },
        }
    }
}
