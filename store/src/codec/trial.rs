//! What is done with one block, and what came of it.

use super::sampler::choose;
use super::{Codec, Coder, Compression, record_sectors, stored_len_max};

/// What the sampler wants done with a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Plan {
    /// Store it raw.
    Raw,
    /// Encode it, and store it raw if that does not pay for this block.
    Encode(Codec),
    /// Try every codec that may be used, store what is best for this block, and report them all.
    Trial(Compression),
}

/// Stored lengths of one block by each codec that was tried; `None` where it did not pay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Trial {
    pub(crate) lz4: Option<usize>,
    pub(crate) planes: Option<usize>,
}

/// How a block is stored now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    pub(crate) codec: Codec,
    pub(crate) stored_len: usize,
    pub(crate) trial: Option<Trial>,
}

impl Plan {
    /// Does it. When the outcome's codec is not raw, `out` begins with the stored bytes; when it is, they
    /// are the payload itself, which is not copied.
    ///
    /// *Shapes*: `out` is used up to [`stored_len_max`] of the payload's length and no further; where
    /// that is `None`, nothing is tried.
    pub(crate) fn carry_out(self, coder: &mut Coder, payload: &[u8], out: &mut [u8]) -> Outcome {
        let raw = Outcome { codec: Codec::Raw, stored_len: payload.len(), trial: None };
        let Some(room) = stored_len_max(payload.len()) else { return raw };
        let room = room.min(out.len());
        let out = &mut out[..room];
        match self {
            Self::Raw => raw,
            Self::Encode(codec) => match coder.encode(codec, payload, out) {
                Some(stored_len) => Outcome { codec, stored_len, trial: None },
                None => raw,
            },
            Self::Trial(compression) => {
                let planes = match compression {
                    Compression::Dense => coder.encode(Codec::PlanesLz4, payload, out),
                    Compression::Off | Compression::Fast => None,
                };
                // Tried last, so that its bytes are there if it is taken, as it mostly is.
                let lz4 = coder.encode(Codec::Lz4, payload, out);
                let trial = Trial { lz4, planes };
                let codec = trial.best(payload.len());
                let stored_len = match codec {
                    Codec::Raw => Some(payload.len()),
                    Codec::Lz4 => lz4,
                    Codec::PlanesLz4 => coder.encode(codec, payload, out),
                };
                match stored_len {
                    Some(stored_len) => Outcome { codec, stored_len, trial: Some(trial) },
                    None => Outcome { trial: Some(trial), ..raw },
                }
            }
        }
    }
}

impl Trial {
    /// Sectors that each codec would have saved of a block's record: lz4, planes.
    pub(super) fn saved_sectors(&self, payload_len: usize) -> (u64, u64) {
        let raw = record_sectors(payload_len);
        let saved =
            |stored: Option<usize>| stored.map_or(0, |len| raw.saturating_sub(record_sectors(len)) as u64);
        (saved(self.lz4), saved(self.planes))
    }

    /// The codec for this block alone.
    fn best(&self, payload_len: usize) -> Codec {
        let (lz4, planes) = self.saved_sectors(payload_len);
        choose(None, record_sectors(payload_len) as u64, lz4, planes)
    }
}
