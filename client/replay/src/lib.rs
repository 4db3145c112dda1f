//! Replays the requests of language-model workloads against Hearth, as an inference engine would
//! send them, checks every byte that comes back, and compares the hit rate with what an infinite
//! cache would have given.
//!
//! A [`workload`] is generated from a seed or read from a trace; the [`engine`] serves it from any
//! [`BlockStore`]; the [`oracle`] knows the bound; [`content`] makes and checks the bytes; the
//! [`report`] is printed as a table, written as JSON and drawn by [`plot`].

pub mod content;
pub mod engine;
mod hearth;
pub mod options;
pub mod oracle;
pub mod plot;
mod progress;
pub mod report;
mod run;
pub mod workload;

pub use engine::{
    BlockStore, Held, PutBlock, PutOutcome, ReadBlock, StoreError, StoreErrorKind, WrittenBlock,
};
pub use hearth::{HearthStore, worker_clients};
pub use options::ReplayArgs;
pub use progress::Progress;
pub use report::{BenchReport, CheckError, Figure, Goal, Machine, Report};
pub use run::{RunError, run};
