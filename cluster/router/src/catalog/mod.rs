//! Who holds what: the workers of each pool, and an index of their blocks.
//!
//! A block is known by the hashes of its tokens ([`hashes`]), whatever the engine calls it.

pub mod hashes;
