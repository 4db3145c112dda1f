//! Reports: the common form of every measurement, the machine it ran on, and what a replay found.

mod bench;
mod machine;
mod replay;
mod table;

pub use bench::{BenchReport, Figure, Goal};
pub use machine::Machine;
pub use replay::{
    CdfCurve, CheckError, Counts, ErrorCount, Latency, LatencySummary, Report, SeriesPoint, TierBytes,
    WorkerReport,
};
