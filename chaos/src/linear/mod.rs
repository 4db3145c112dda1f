//! Linearizability of the metadata plane over real processes (INV-LINEAR): clients note when each operation began
//! and ended and what it said, while nodes are killed, stopped and cut off; afterwards a checker looks for an order
//! of all operations that explains every answer.

mod checker;
mod client;
mod history;
mod model;
mod network;
mod run;

pub use checker::{Verdict, check};
pub use history::{Outcome, Record, read};
pub use model::{Operation, Said};
pub use network::can_partition;
pub use run::{LinearOptions, LinearOutcome, run};
