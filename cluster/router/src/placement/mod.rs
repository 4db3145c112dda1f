//! Which worker should serve a request, and why.
//!
//! It owns three things. *Models* learn from reports how long prefills and transfers take ([`PrefillModel`],
//! [`LinkModel`]). The *choice* takes what is known of each worker and says where a request costs the least, what is
//! loaded there and what is computed ([`place`], [`explain`], [`LoadPlan`]). *Reservations* are what workers are
//! expected to do because of earlier choices ([`Reservations`]).
//!
//! It reads no clock, draws no numbers, sends nothing, and does not look for blocks: all of it is passed in.
//!
//! What a request costs on a worker, in seconds, is the time until its last token:
//!
//! - *waiting* for the prefills ahead of it, one after the other, as the worker's own model has them. Those of lower
//!   urgency do not count, as if the engine let it overtake them; those that come later do not either.
//! - *loading*, after waiting, and *computing*, after loading, with the cut between them that is fastest.
//! - *decoding* the expected output, at the speed that a token has beside what is there now and for as long.
//! - less what it is worth to stay with the session's worker, if this is the one.
//!
//! What the request costs others is not in it, but for the line that they wait in and the memory that it takes up. Blocks
//! that it would share with other sequences of the worker are counted again, as memory and as what decoding reads.

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
mod reservation;
mod reservations;
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
pub use reservation::{Applied, Change, RequestId, Reservation, ReserveError};
pub use reservations::Reservations;
pub use settings::Settings;
pub use work::PrefillWork;
pub use worker::{DecodeSpeed, Queue, Worker, WorkerId, WorkerLoad};
