//! The parts of a ZMQ message.

use hearth_proto::{Classified, ErrorKind};

/// The sequence number that ends a replay: -1.
const END: [u8; 8] = [0xff; 8];

/// What a message of a publisher is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A batch.
    Batch {
        /// Its place among those of this publisher, from 0.
        seq: u64,
        /// What [`decode`](super::decode) reads.
        payload: &'a [u8],
    },
    /// A replay is over.
    ReplayEnd,
}

/// Why parts are not a message. The caller leaves the message out: if it was a batch, the next one shows a gap.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// There are too few or too many.
    #[error(
        "a message has {count} parts, not `topic, sequence, payload`: leave it out, and see whose port this is"
    )]
    PartCount {
        /// How many there are.
        count: usize,
    },
    /// The sequence number is not one.
    #[error("a sequence number has {len} bytes, not 8: leave the message out, and see whose port this is")]
    SeqLength {
        /// How long it is.
        len: usize,
    },
    /// The number is one that no publisher comes to.
    #[error("{seq} is no sequence number of a batch: leave the message out")]
    Seq {
        /// The number, with its sign.
        seq: i64,
    },
}

impl Classified for FrameError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::FixRequest
    }
}

impl<'a> Message<'a> {
    /// Reads what a SUB socket received: `[topic, sequence, payload]`.
    ///
    /// *Errors*: other parts, or a number below 0; see [`FrameError`].
    pub fn from_live<Part: AsRef<[u8]>>(parts: &'a [Part]) -> Result<Self, FrameError> {
        match parts {
            [_, seq, payload] => match Self::from_parts(seq.as_ref(), payload.as_ref())? {
                Self::ReplayEnd => Err(FrameError::Seq { seq: -1 }),
                batch => Ok(batch),
            },
            _ => Err(FrameError::PartCount { count: parts.len() }),
        }
    }

    /// Reads what a DEALER socket received of a replay: an empty part and `[sequence, payload]`, with the topic between
    /// them since vLLM 0.26. Without the empty part it is the same; but a REQ socket receives the first answer only.
    ///
    /// *Errors*: other parts, or a number below -1; see [`FrameError`].
    pub fn from_replay<Part: AsRef<[u8]>>(parts: &'a [Part]) -> Result<Self, FrameError> {
        match parts {
            [seq, payload] | [_, seq, payload] | [_, _, seq, payload] => {
                Self::from_parts(seq.as_ref(), payload.as_ref())
            }
            _ => Err(FrameError::PartCount { count: parts.len() }),
        }
    }

    fn from_parts(seq: &[u8], payload: &'a [u8]) -> Result<Self, FrameError> {
        let seq: [u8; 8] = seq.try_into().map_err(|_| FrameError::SeqLength { len: seq.len() })?;
        if seq == END {
            return Ok(Self::ReplayEnd);
        }
        let signed = i64::from_be_bytes(seq);
        let seq = u64::try_from(signed).map_err(|_| FrameError::Seq { seq: signed })?;
        Ok(Self::Batch { seq, payload })
    }
}

/// The part that asks for a replay from this batch on. A DEALER socket sends an empty part before it.
pub const fn replay_request(from: u64) -> [u8; 8] {
    from.to_be_bytes()
}
