//! A replay from options to report: what both binaries call.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hearth_proto::{Classified, ErrorKind, Layout, LayoutId};

use crate::engine::{self, BlockStore, Settings};
use crate::options::ReplayArgs;
use crate::plot;
use crate::progress::Progress;
use crate::report::Report;
use crate::workload::agents::{AgentParams, generate};
use crate::workload::{ReadError, TreeFull, Workload, read_trace};

/// A replay could not be run, or its report could not be written.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// No store was given. The caller names at least one node.
    #[error("no store to replay against; name at least one node")]
    NoStore,
    /// The workload has no request. The caller widens `--sessions`, `--requests` or `--skip`.
    #[error("the workload has no request; check --skip, --sessions and --requests")]
    Empty,
    /// The trace could not be read.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// The sessions could not be generated. The caller asks for fewer.
    #[error("cannot generate the sessions")]
    Generate(#[from] TreeFull),
    /// The report or the plot could not be written. The caller names another file.
    #[error("cannot write {}", file.display())]
    Write {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
}

impl Classified for RunError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::FixRequest
    }
}

/// Replays what `args` name against `stores`, one worker each, writes the files that `args` ask
/// for, and returns the report.
///
/// A wrong byte or a low hit rate is no error here: print [`Report::table`], then, with `--check`,
/// exit by [`Report::check`].
///
/// # Errors
/// [`RunError`]; the caller mends the options.
///
/// *Cancel safety*: dropping the future ends the replay; no file is written.
pub async fn run<S: BlockStore>(
    args: &ReplayArgs,
    stores: Vec<Arc<S>>,
    mut progress: Progress,
) -> Result<Report, RunError> {
    if stores.is_empty() {
        return Err(RunError::NoStore);
    }
    let workload = Arc::new(load(args, &mut progress).await?);
    if workload.request_count() == 0 {
        return Err(RunError::Empty);
    }
    let settings = Settings {
        block_bytes: args.block_bytes,
        layout: layout(workload.block_tokens, args.block_bytes),
        concurrency: args.concurrency,
        speed: args.speed,
        deadline: Duration::from_millis(args.deadline_ms),
        time_limit: args.time_limit(),
    };
    let outcome = engine::replay(workload.clone(), stores, settings, &mut progress).await;
    let report = Report::new(&workload, &settings, &outcome);
    if let Some(file) = &args.json {
        written(file, report.to_bench("replay").write_json(file))?;
    }
    if let Some(file) = &args.plot {
        written(file, std::fs::write(file, plot::render(&report)))?;
    }
    Ok(report)
}

/// Reads or makes the workload, off the threads that serve connections.
async fn load(args: &ReplayArgs, progress: &mut Progress) -> Result<Workload, RunError> {
    progress.say(if args.trace.is_some() { "reading the trace" } else { "generating the sessions" });
    let args = args.clone();
    let work = move || match &args.trace {
        Some(trace) => Ok(read_trace(trace, args.slice())?.1),
        None => Ok(generate(&AgentParams::default(), args.agent_count(), args.seed)?.slice(args.slice())),
    };
    match tokio::task::spawn_blocking(work).await {
        Ok(loaded) => loaded,
        Err(failure) => std::panic::resume_unwind(failure.into_panic()),
    }
}

fn written(file: &Path, result: io::Result<()>) -> Result<(), RunError> {
    result.map_err(|source| RunError::Write { file: file.to_owned(), source })
}

/// The layout of replayed blocks: no engine has it, so replayed bytes never stand for real ones.
fn layout(block_tokens: u32, block_bytes: usize) -> LayoutId {
    let layout = Layout {
        model: "hearth-replay".into(),
        revision: String::new(),
        dtype: "u8".into(),
        block_tokens,
        tensor_parallel: (0, 1),
        pipeline_parallel: (0, 1),
        shape: vec![block_bytes as u64],
        page_order: "opaque".into(),
    };
    layout.id()
}
