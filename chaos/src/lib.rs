//! Faults on purpose: a nemesis kills and pauses real nodes under load while a checker looks at every
//! byte, every deadline and every promise.

mod checker;
pub mod linear;
mod nemesis;
mod run;
pub mod simulated;
mod workload;

pub use checker::Findings;
pub use nemesis::{Fault, FaultKind};
pub use run::{ChaosOptions, Outcome, run};
