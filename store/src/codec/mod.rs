//! How payloads lie on NVMe: as they are, or smaller where that pays.
//!
//! Owns the numbers and the byte format of the codecs, and the decision which of them a layout gets,
//! taken by trying them on some of its blocks. Pure: no clock, no threads, no randomness, no I/O. It
//! takes no checksums: the crc in a record's footer is of the payload, so what a wrong decoder would
//! return is noticed where every record is judged (INV-BYTES).

mod coder;
mod planes;
mod record;
mod sampler;
#[cfg(test)]
mod tests;
mod trial;
mod wire;

pub(crate) use coder::Coder;
pub(crate) use record::{record_sectors, stored_len_max};
pub use sampler::{Compression, LayoutCompression};
pub(crate) use sampler::{LayoutClass, Sampler};
pub(crate) use trial::{Outcome, Plan, Trial};
pub use wire::Codec;
