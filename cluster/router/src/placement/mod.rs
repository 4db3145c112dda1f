//! Which worker should serve a request, and why.
//!
//! It reads no clock, draws no numbers, sends nothing, and does not look for blocks: all of it is passed in.

mod chance;
mod choose;
mod fit;
mod held;
mod link;
mod links;
mod plan;
mod prefill;
mod range;
mod request;
mod settings;
#[cfg(test)]
mod tests;
mod work;
mod worker;

pub use choose::{
    Candidate, Considered, Excluded, Explained, Explanation, PlaceError, Placement, Terms, explain, place,
};
pub use held::{Held, Origin, Source, TooManySources};
pub use link::{LinkModel, LinkSpeed, Transfer};
pub use links::{LinkError, LinkId, Links, PathId};
pub use plan::{LoadPlan, LoadStep};
pub use prefill::{ModelStats, PrefillCurve, PrefillModel, PrefillReport};
pub use range::{RangeError, Seconds};
pub use request::{Prompt, Request};
pub use settings::Settings;
pub use work::PrefillWork;
pub use worker::{DecodeSpeed, Queue, Worker, WorkerId, WorkerLoad};
