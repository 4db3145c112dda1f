//! Which worker should serve a request, and why.
//!
//! It reads no clock, draws no numbers, sends nothing, and does not look for blocks: all of it is passed in.

mod fit;
mod held;
mod link;
mod links;
mod plan;
mod prefill;
mod range;
mod request;
#[cfg(test)]
mod tests;
mod work;
mod worker;

pub use held::{Held, Origin, Source, TooManySources};
pub use link::{LinkModel, LinkSpeed, Transfer};
pub use links::{LinkError, LinkId, Links, PathId};
pub use plan::{LoadPlan, LoadStep};
pub use prefill::{ModelStats, PrefillCurve, PrefillModel, PrefillReport};
pub use range::{RangeError, Seconds};
pub use request::{Prompt, Request};
pub use work::PrefillWork;
pub use worker::{DecodeSpeed, Queue, Worker, WorkerId, WorkerLoad};
