//! Which worker should serve a request, and why.
//!
//! It reads no clock, draws no numbers, sends nothing, and does not look for blocks: all of it is passed in.

mod fit;
mod link;
mod links;
mod prefill;
mod range;
#[cfg(test)]
mod tests;
mod work;

pub use link::{LinkModel, LinkSpeed, Transfer};
pub use links::{LinkError, LinkId, Links, PathId};
pub use prefill::{ModelStats, PrefillCurve, PrefillModel, PrefillReport};
pub use range::{RangeError, Seconds};
pub use work::PrefillWork;
