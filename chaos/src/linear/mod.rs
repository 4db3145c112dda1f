//! Linearizability of the metadata plane over real processes (INV-LINEAR): clients note when each operation began
//! and ended and what it said, while nodes are killed, stopped and cut off and their clocks jump; afterwards a
//! checker looks for an order of all operations that explains every answer.

mod checker;
mod client;
mod command;
mod history;
mod lease;
mod model;
mod nemesis;
mod network;
mod reporters;
mod run;
mod summary;

pub use checker::{Finding, Verdict, check};
pub use history::{Header, History, Outcome, Record};
pub use model::{Operation, Said};
pub use network::{Cuts, cuts};
pub use run::{Count, LinearOptions, LinearOutcome, run};
pub use summary::Summary;
