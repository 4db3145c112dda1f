//! The options of a replay, shared by `hearth replay` and `hearth-bench replay`.

use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use hearth_proto::limits::{
    BLOCK_BYTES_MAX, CALL_DEADLINE_MS_DEFAULT, CALL_DEADLINE_MS_MAX, REPLAY_CONCURRENCY_MAX,
};

use crate::workload::Slice;

/// Sessions that are generated when neither a trace nor a number is given.
const AGENTS_DEFAULT: usize = 16;
/// Sessions that are generated for a quick replay.
const AGENTS_QUICK: usize = 4;
/// A quick replay sends no request after this; with set-up and report it stays within a minute.
const QUICK_TIME_LIMIT: Duration = Duration::from_secs(40);

/// Replays a workload as inference engines would send it, and checks every byte.
#[derive(Args, Clone, Debug)]
#[command(after_long_help = EXAMPLES)]
pub struct ReplayArgs {
    /// Replay this trace: JSON lines, plain or xz.
    ///
    /// The format is found from the content: sessions of kv-cache-tester (a coding-agent session a
    /// line) or requests of Mooncake (a request a line). Without this, sessions are generated.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["agents", "seed"])]
    pub trace: Option<PathBuf>,

    /// Generate this many coding-agent sessions [default: 16, with --quick 4].
    ///
    /// They are like measured ones: a shared set-up of tools and system prompt, turns that append
    /// tool results and answers, compaction near the window's limit, sub-agents. A session has about
    /// 60 requests with prompts of about 100,000 tokens.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub agents: Option<usize>,

    /// Seed of the generated sessions: the same seed gives the same sessions, byte for byte.
    #[arg(long, value_name = "NUMBER", default_value_t = 1)]
    pub seed: u64,

    /// Size of one block, such as 65536, 64KiB or 1MiB.
    ///
    /// An engine's blocks are 64 tokens x layers x 2 x KV heads x head size x bytes per element, divided
    /// by the number of GPUs that share a model: 64 KiB up to a few MiB.
    #[arg(long, value_name = "SIZE", default_value = "64KiB", value_parser = parse_block_bytes)]
    pub block_bytes: usize,

    /// Replay only this many sessions.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub sessions: Option<usize>,

    /// Replay only this many requests, counted session by session.
    #[arg(long, value_name = "N", value_parser = at_least_one)]
    pub requests: Option<usize>,

    /// Leave out this many sessions at the front.
    #[arg(long, value_name = "N", default_value_t = 0)]
    pub skip: usize,

    /// Sessions in work at a time.
    ///
    /// The requests of one session follow each other, each on the next worker, so this is also the
    /// number of requests in flight. With --speed a waiting session keeps its place: give room.
    #[arg(long, value_name = "N", default_value_t = 8, value_parser = parse_concurrency)]
    pub concurrency: usize,

    /// Keep the pauses of the workload, at this many times real time.
    ///
    /// Latency then counts from when a request should have been sent. Without this, each request is
    /// sent as soon as the one before it in its session is done.
    #[arg(long, value_name = "X", value_parser = parse_speed)]
    pub speed: Option<f64>,

    /// Deadline of each call, in milliseconds; a call that misses it counts as a miss and an error.
    #[arg(
        long,
        value_name = "MS",
        default_value_t = CALL_DEADLINE_MS_DEFAULT,
        value_parser = clap::value_parser!(u64).range(1..=CALL_DEADLINE_MS_MAX)
    )]
    pub deadline_ms: u64,

    /// Write the report to this file, as JSON.
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,

    /// Draw hit rate, throughput and latencies into this file, as SVG.
    #[arg(long, value_name = "FILE")]
    pub plot: Option<PathBuf>,

    /// Fail when a byte was wrong, or when the hit rate is more than 1 point below the bound.
    ///
    /// The bound is what an infinite cache would have hit. A store smaller than the workload's
    /// different blocks cannot reach it, so give it room first.
    #[arg(long)]
    pub check: bool,

    /// End within a minute: fewer generated sessions, and no request after 40 seconds.
    #[arg(long)]
    pub quick: bool,
}

const EXAMPLES: &str = "\
Examples:
  Sixteen generated sessions, drawn:
    replay --plot replay.svg
  A recorded trace at 100 times real time, 200 sessions side by side:
    replay --trace claude_code_sessions.jsonl.xz --speed 100 --concurrency 200
  A check for CI, the same bytes every time:
    replay --quick --seed 7 --check --json replay.json

Every byte that is read is checked against what its key says; that cannot be turned off.";

impl ReplayArgs {
    /// Sessions to generate.
    pub(crate) fn agent_count(&self) -> usize {
        self.agents.unwrap_or(if self.quick { AGENTS_QUICK } else { AGENTS_DEFAULT })
    }

    /// The part of the workload that is replayed.
    pub(crate) fn slice(&self) -> Slice {
        Slice { skip: self.skip, sessions: self.sessions, requests: self.requests }
    }

    /// The time after which no request is sent.
    pub(crate) fn time_limit(&self) -> Option<Duration> {
        self.quick.then_some(QUICK_TIME_LIMIT)
    }
}

/// Reads the size of a block and checks its range.
fn parse_block_bytes(text: &str) -> Result<usize, String> {
    usize::try_from(hearth_proto::size::parse(text)?)
        .ok()
        .filter(|bytes| (1..=BLOCK_BYTES_MAX).contains(bytes))
        .ok_or_else(|| format!("a block has 1 to {BLOCK_BYTES_MAX} bytes"))
}

fn at_least_one(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number > 0).ok_or_else(|| "expected a whole number from 1".to_owned())
}

fn parse_concurrency(text: &str) -> Result<usize, String> {
    let number = at_least_one(text)?;
    if number > REPLAY_CONCURRENCY_MAX {
        return Err(format!("at most {REPLAY_CONCURRENCY_MAX} sessions run at a time"));
    }
    Ok(number)
}

fn parse_speed(text: &str) -> Result<f64, String> {
    let range = 0.001..=1e6;
    let speed = text.trim_end_matches(['x', 'X']).parse::<f64>().ok();
    speed
        .filter(|speed| range.contains(speed))
        .ok_or_else(|| "expected a factor from 0.001 to 1000000".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::{CommandFactory, Parser};

    #[derive(Parser)]
    struct Cli {
        #[command(flatten)]
        replay: ReplayArgs,
    }

    fn parse(arguments: &[&str]) -> Result<ReplayArgs, clap::Error> {
        Cli::try_parse_from([&["replay"], arguments].concat()).map(|cli| cli.replay)
    }

    #[test]
    fn sizes_are_read_with_and_without_suffix() {
        for text in ["65536", "64KiB", "64k", "64 kib", " 65536b "] {
            assert_eq!(parse_block_bytes(text), Ok(65_536), "{text}");
        }
        assert_eq!(parse_block_bytes("2MiB"), Ok(2 << 20));
        for bad in ["", "KiB", "0", "-1", "64GiB", "1.5MiB", "99999999999999999999", "65MiB"] {
            assert!(parse_block_bytes(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn the_options_are_consistent_and_refuse_what_makes_no_sense() {
        Cli::command().debug_assert();
        let defaults = parse(&[]).unwrap();
        assert_eq!((defaults.block_bytes, defaults.agent_count(), defaults.time_limit()), (65_536, 16, None));
        assert_eq!(parse(&["--quick"]).unwrap().agent_count(), 4);
        assert_eq!(parse(&["--speed", "100x"]).unwrap().speed, Some(100.0));
        for bad in [
            &["--trace", "t", "--agents", "3"][..],
            &["--agents", "0"],
            &["--concurrency", "0"],
            &["--concurrency", "9999"],
            &["--speed", "0"],
            &["--speed", "NaN"],
            &["--deadline-ms", "0"],
            &["--no-verify"],
        ] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
    }
}
