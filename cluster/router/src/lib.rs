//! Where a request should go: what engines say of the blocks that they hold, an exact index of their prefixes, and
//! the choice of a worker.
//!
//! Pure: no clock, no files, no sockets, no tasks. What engines say comes in as changes, questions come in as chains
//! of block hashes, and whoever uses it says what time it is.

pub mod catalog;
pub mod events;
mod index;
pub mod placement;
mod swap;

pub use index::{Added, Index, IndexError, IndexStats, Matches, Member, Removed};
