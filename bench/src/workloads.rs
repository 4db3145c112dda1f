//! The workloads of simulations: traces that are named, or agents that are made up.

use std::path::PathBuf;

use hearth_replay::workload::{Slice, Workload, agents, read_trace};

/// Reads traces, the first sessions of each if not all are to be kept; without one, makes up so many sessions of agents.
pub(crate) fn traces_or_agents(
    traces: &[PathBuf],
    kept: Option<usize>,
    generated: usize,
    seed: u64,
) -> anyhow::Result<Vec<Workload>> {
    if traces.is_empty() {
        return Ok(vec![agents::generate(&agents::AgentParams::default(), generated, seed)?]);
    }
    let slice = Slice { sessions: kept, ..Slice::default() };
    traces.iter().map(|file| Ok(read_trace(file, slice)?.1)).collect()
}
