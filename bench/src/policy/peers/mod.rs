//! The policies that ours is compared with, as their papers give them.

mod belady;
mod list;
mod lru;
mod s3_fifo;
mod sieve;
#[cfg(test)]
mod tests;
mod tiny_lfu;

pub(super) use belady::{Belady, Future};
pub(super) use lru::Lru;
pub(super) use s3_fifo::S3Fifo;
pub(super) use sieve::Sieve;
pub(super) use tiny_lfu::TinyLfu;
