//! The whole store on a simulated disk, index and clock, in one thread: one seed is one history, and run
//! twice it is the same one.
//!
//! For tests and `hearth-chaos`; no part of the store depends on it.

mod block;
mod catalog;
mod content;
mod device;
mod disk;
mod exhaustive;
mod faults;
mod flips;
mod history;
mod life;
mod medium;
mod mishaps;
mod oracle;
mod rng;
mod run;
mod tasks;
mod trace;
mod workload;
mod world;

pub use exhaustive::{Crossed, exhaust};
pub use flips::{Flips, flip_bits};
pub use run::{Counters, Options, Outcome, Violation, run};
