//! What a replay found, in figures.

use serde::Serialize;

use super::{BenchReport, Figure, Goal};
use crate::engine::{LATENCY_UNIT_NS, Latencies, Meter, Outcome, Second, Settings, StoreErrorKind};
use crate::workload::Workload;
use hearth_proto::{Classified, ErrorKind, Tier};

/// How far the hit rate may lie below that of an infinite cache when it is checked, in points.
const POINTS_BELOW_BOUND_MAX: f64 = 1.0;

/// What one replay found.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The workload, in words.
    pub workload: String,
    /// Tokens in one block.
    pub block_tokens: u32,
    /// Bytes in one block.
    pub block_bytes: usize,
    /// Sessions in work at a time.
    pub concurrency: usize,
    /// How much faster than recorded requests were sent; `None` is back to back.
    pub speed: Option<f64>,
    /// From the first request to the last answer, in seconds.
    pub elapsed_s: f64,
    /// The time limit ended the replay before the workload did.
    pub truncated: bool,
    /// Blocks hit in percent of blocks asked for.
    pub hit_rate_percent: f64,
    /// The same for a cache that never loses anything. Prompts that race for a new block make the
    /// hit rate fall short of it, by little.
    pub bound_percent: f64,
    /// Hit rate less bound.
    pub difference_points: f64,
    /// Tokens hit in percent of tokens asked for.
    pub hit_rate_tokens_percent: f64,
    /// The same for a cache that never loses anything.
    pub bound_tokens_percent: f64,
    /// Blocks read for each block written; `None` when none was written.
    pub read_write_blocks: Option<f64>,
    /// Bytes read for each byte written; `None` when none was written.
    pub read_write_bytes: Option<f64>,
    /// Bytes read per second of the time in which at least one get was in progress, the check of
    /// the bytes included.
    pub get_gb_per_s: f64,
    /// Bytes written per second of the time in which at least one put was in progress.
    pub put_gb_per_s: f64,
    /// Bytes read per second of the whole replay.
    pub get_gb_per_s_overall: f64,
    /// Bytes written per second of the whole replay.
    pub put_gb_per_s_overall: f64,
    /// Time spent on checking bytes, in seconds, summed over all sessions.
    pub verify_s: f64,
    /// All workers together.
    pub total: Counts,
    /// The first wrong bytes that were met.
    pub wrong_examples: Vec<String>,
    /// Latencies of all workers together.
    pub latency: LatencySummary,
    /// Each worker.
    pub workers: Vec<WorkerReport>,
    /// What happened in each second.
    pub series: Vec<SeriesPoint>,
    /// Latency distributions.
    pub curves: Vec<CdfCurve>,
}

/// What was counted.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Counts {
    /// Requests served.
    pub requests: u64,
    /// Blocks of their prompts.
    pub blocks: u64,
    /// Blocks that arrived whole, contiguous from the start of their prompt.
    pub hit_blocks: u64,
    /// Blocks that an infinite cache would have delivered.
    pub bound_blocks: u64,
    /// Blocks of the bound that were missed because another request was still making them: what
    /// a claim would have spared.
    pub raced_blocks: u64,
    /// Blocks that had to be made.
    pub missed_blocks: u64,
    /// Tokens of the prompts.
    pub input_tokens: u64,
    /// Tokens of the blocks that were hit.
    pub hit_tokens: u64,
    /// Tokens of the blocks that an infinite cache would have delivered.
    pub bound_tokens: u64,
    /// Blocks that a lookup promised and a get did not deliver whole.
    pub lost_blocks: u64,
    /// Blocks whose bytes arrived.
    pub blocks_read: u64,
    /// Bytes that arrived.
    pub bytes_read: u64,
    /// Bytes that arrived, by tier; tiers that gave none are left out.
    pub bytes_by_tier: Vec<TierBytes>,
    /// Blocks stored.
    pub blocks_written: u64,
    /// Bytes stored.
    pub bytes_written: u64,
    /// Blocks that were put and already there.
    pub blocks_existing: u64,
    /// Blocks that the store had no room for.
    pub blocks_refused: u64,
    /// Failed calls and blocks, by kind; kinds without any are left out.
    pub errors: Vec<ErrorCount>,
    /// Blocks with bytes that are not theirs. INV-BYTES: must be 0.
    pub wrong_blocks: u64,
}

impl Counts {
    /// The failures by kind, such as `3 deadline, 1 overloaded`.
    fn failures(&self) -> String {
        let kinds: Vec<String> = self.errors.iter().map(|e| format!("{} {}", e.count, e.kind)).collect();
        if kinds.is_empty() { "no failure".into() } else { kinds.join(", ") }
    }

    /// Everything counted that can make the hit rate fall short, none of it guessed.
    fn shortfall(&self) -> String {
        format!(
            "{} blocks raced for, {} promised and not delivered, {} refused for want of room, {} written; {}",
            self.raced_blocks,
            self.lost_blocks,
            self.blocks_refused,
            self.blocks_written,
            self.failures()
        )
    }
}

/// Bytes that came from one tier.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TierBytes {
    /// The tier, or `unknown`.
    pub tier: &'static str,
    /// Bytes that came from it.
    pub bytes: u64,
}

/// Failures of one kind.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct ErrorCount {
    /// The kind.
    pub kind: &'static str,
    /// How many there were.
    pub count: u64,
}

/// Latencies of the operations.
#[derive(Clone, Debug, Serialize)]
pub struct LatencySummary {
    /// Of a whole chain, from when the request should have been sent.
    pub lookup: Latency,
    /// Of one block within a get, from the beginning of the call.
    pub get_block: Latency,
    /// Of all blocks held of a chain, checked.
    pub get_chain: Latency,
    /// Of one block within a put, from the beginning of the call.
    pub put_block: Latency,
    /// Of all missing blocks of a chain; making them is not counted.
    pub put_chain: Latency,
    /// From when the request should have been sent to the end of its last put; making blocks is counted.
    pub request: Latency,
}

/// A latency distribution, in milliseconds; `None` without samples.
#[derive(Clone, Copy, Debug, Serialize)]
pub struct Latency {
    /// Samples.
    pub count: u64,
    /// Median.
    pub p50_ms: Option<f64>,
    /// 99th percentile.
    pub p99_ms: Option<f64>,
    /// 99.9th percentile.
    pub p999_ms: Option<f64>,
    /// The longest.
    pub max_ms: Option<f64>,
}

/// What one worker met.
#[derive(Clone, Debug, Serialize)]
pub struct WorkerReport {
    /// Number of the worker, from 0.
    pub worker: usize,
    /// What was counted.
    pub counts: Counts,
    /// Its latencies.
    pub latency: LatencySummary,
}

/// What happened in one second of the replay.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct SeriesPoint {
    /// The end of the second, since the start; the last may end early.
    pub at_s: f64,
    /// Requests answered.
    pub requests: u64,
    /// Blocks hit in percent of those asked for; `None` without requests.
    pub hit_rate_percent: Option<f64>,
    /// The same for an infinite cache.
    pub bound_percent: Option<f64>,
    /// Rate of bytes read.
    pub get_gb_per_s: f64,
    /// Rate of bytes written.
    pub put_gb_per_s: f64,
}

/// One latency distribution, for drawing.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct CdfCurve {
    /// The operation.
    pub name: &'static str,
    /// Latency in milliseconds, and the share of samples that took no longer.
    pub points: Vec<(f64, f64)>,
}

/// A replay did not pass its check.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum CheckError {
    /// Bytes were wrong: INV-BYTES is broken.
    #[error("{blocks} block(s) had wrong bytes")]
    WrongBytes {
        /// How many blocks.
        blocks: u64,
    },
    /// Nothing came back, though prompts shared blocks that were made before.
    #[error("no block was read, though an infinite cache would have had {bound_blocks}: {found}")]
    NothingRead {
        /// Blocks that an infinite cache would have delivered.
        bound_blocks: u64,
        /// What was counted that tells why.
        found: String,
    },
    /// Calls or blocks failed.
    #[error("the store failed: {found}")]
    Failures {
        /// The failures, by kind.
        found: String,
    },
    /// The hit rate lies too far below that of an infinite cache.
    #[error(
        "the hit rate of {hit:.2}% is more than {POINTS_BELOW_BOUND_MAX} point below the {bound:.2}% of an infinite \
         cache: {found}"
    )]
    HitRate {
        /// The hit rate, in percent.
        hit: f64,
        /// The bound, in percent.
        bound: f64,
        /// What was counted that tells why.
        found: String,
    },
}

impl Classified for CheckError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Stop
    }
}

fn percent(part: u64, whole: u64) -> f64 {
    100.0 * part as f64 / whole.max(1) as f64
}

fn gb_per_s(bytes: u64, seconds: f64) -> f64 {
    if seconds > 0.0 { bytes as f64 / 1e9 / seconds } else { 0.0 }
}

fn quotient(a: u64, b: u64) -> Option<f64> {
    (b > 0).then(|| a as f64 / b as f64)
}

impl Report {
    pub(crate) fn new(workload: &Workload, settings: &Settings, outcome: &Outcome) -> Self {
        let mut whole = Meter::new();
        outcome.workers.iter().for_each(|meter| whole.add(meter));
        let elapsed_s = outcome.elapsed.as_secs_f64();
        let worker = |(worker, meter): (usize, &Meter)| WorkerReport {
            worker,
            counts: Counts::new(meter),
            latency: LatencySummary::new(meter),
        };
        Self {
            workload: workload.name.clone(),
            block_tokens: workload.block_tokens,
            block_bytes: settings.block_bytes,
            concurrency: settings.concurrency,
            speed: settings.speed,
            elapsed_s,
            truncated: outcome.truncated,
            hit_rate_percent: percent(whole.hit_blocks, whole.blocks),
            bound_percent: percent(whole.bound_blocks, whole.blocks),
            difference_points: percent(whole.hit_blocks, whole.blocks)
                - percent(whole.bound_blocks, whole.blocks),
            hit_rate_tokens_percent: percent(whole.hit_tokens, whole.input_tokens),
            bound_tokens_percent: percent(whole.bound_tokens, whole.input_tokens),
            read_write_blocks: quotient(whole.blocks_read, whole.blocks_written),
            read_write_bytes: quotient(whole.bytes_read, whole.bytes_written),
            get_gb_per_s: gb_per_s(whole.bytes_read, outcome.get_busy.as_secs_f64()),
            put_gb_per_s: gb_per_s(whole.bytes_written, outcome.put_busy.as_secs_f64()),
            get_gb_per_s_overall: gb_per_s(whole.bytes_read, elapsed_s),
            put_gb_per_s_overall: gb_per_s(whole.bytes_written, elapsed_s),
            verify_s: whole.verify_time.as_secs_f64(),
            total: Counts::new(&whole),
            wrong_examples: whole.wrong_examples.clone(),
            latency: LatencySummary::new(&whole),
            workers: outcome.workers.iter().enumerate().map(worker).collect(),
            series: series(&whole.series, elapsed_s),
            curves: vec![
                curve("lookup, chain", &whole.lookup),
                curve("get, block", &whole.get_block),
                curve("get, chain", &whole.get_chain),
                curve("put, block", &whole.put_block),
                curve("put, chain", &whole.put_chain),
            ],
        }
    }

    /// Checks that no byte was wrong and that the hit rate is within a point of the bound.
    ///
    /// # Errors
    /// [`CheckError`] with the first of both that does not hold; the caller exits with a failure.
    pub fn check(&self) -> Result<(), CheckError> {
        self.check_served()?;
        if self.hit_rate_percent < self.bound_percent - POINTS_BELOW_BOUND_MAX {
            let (hit, bound) = (self.hit_rate_percent, self.bound_percent);
            return Err(CheckError::HitRate { hit, bound, found: self.total.shortfall() });
        }
        Ok(())
    }

    /// Checks that the store served at all: right bytes, and some where some were to be had.
    ///
    /// # Errors
    /// [`CheckError::WrongBytes`] or [`CheckError::NothingRead`].
    pub fn check_served(&self) -> Result<(), CheckError> {
        let total = &self.total;
        if total.wrong_blocks > 0 {
            return Err(CheckError::WrongBytes { blocks: total.wrong_blocks });
        }
        if total.blocks_read == 0 && total.bound_blocks > 0 {
            let bound_blocks = total.bound_blocks;
            return Err(CheckError::NothingRead { bound_blocks, found: total.shortfall() });
        }
        Ok(())
    }

    /// Checks that the store served and nothing failed, as a healthy cluster left in peace must.
    ///
    /// # Errors
    /// As [`Report::check_served`], and [`CheckError::Failures`].
    pub fn check_faultless(&self) -> Result<(), CheckError> {
        self.check_served()?;
        if !self.total.errors.is_empty() {
            return Err(CheckError::Failures { found: self.total.failures() });
        }
        Ok(())
    }

    /// The report in the common form, with all of it as its detail.
    pub fn to_bench(&self, command: impl Into<String>) -> BenchReport {
        let within = Goal::WithinOfPeer(POINTS_BELOW_BOUND_MAX);
        let latency = &self.latency;
        let mut figures = vec![
            Figure::new("hit rate, blocks", "%", self.hit_rate_percent)
                .with_peer("infinite cache", self.bound_percent)
                .with_goal(within),
            Figure::new("hit rate, tokens", "%", self.hit_rate_tokens_percent)
                .with_peer("infinite cache", self.bound_tokens_percent),
            Figure::new("read : written, bytes", "ratio", self.read_write_bytes),
            Figure::new("get, while busy", "GB/s", self.get_gb_per_s),
            Figure::new("get, overall", "GB/s", self.get_gb_per_s_overall),
            Figure::new("put, while busy", "GB/s", self.put_gb_per_s),
            Figure::new("put, overall", "GB/s", self.put_gb_per_s_overall),
        ];
        for (name, of) in [
            ("lookup of a chain", &latency.lookup),
            ("get of a block", &latency.get_block),
            ("get of a chain", &latency.get_chain),
            ("put of a block", &latency.put_block),
            ("put of a chain", &latency.put_chain),
        ] {
            figures.push(Figure::new(format!("{name}, p50"), "ms", of.p50_ms));
            figures.push(Figure::new(format!("{name}, p99"), "ms", of.p99_ms));
            figures.push(Figure::new(format!("{name}, p99.9"), "ms", of.p999_ms));
        }
        let errors = self.total.errors.iter().map(|error| error.count).sum::<u64>();
        figures.push(Figure::new("errors", "calls and blocks", errors as f64));
        let mut report = BenchReport::new(command, figures, self.total.wrong_blocks);
        report.detail = serde_json::to_value(self).ok();
        report
    }
}

impl Counts {
    fn new(meter: &Meter) -> Self {
        let tiers = Tier::ALL.iter().map(|tier| tier.as_str()).chain(["unknown"]);
        let kinds = StoreErrorKind::ALL.iter().map(|kind| kind.as_str());
        Self {
            requests: meter.requests,
            blocks: meter.blocks,
            hit_blocks: meter.hit_blocks,
            bound_blocks: meter.bound_blocks,
            raced_blocks: meter.raced_blocks,
            missed_blocks: meter.blocks - meter.hit_blocks,
            input_tokens: meter.input_tokens,
            hit_tokens: meter.hit_tokens,
            bound_tokens: meter.bound_tokens,
            lost_blocks: meter.lost_blocks,
            blocks_read: meter.blocks_read,
            bytes_read: meter.bytes_read,
            bytes_by_tier: tiers
                .zip(meter.bytes_by_tier)
                .filter(|(_, bytes)| *bytes > 0)
                .map(|(tier, bytes)| TierBytes { tier, bytes })
                .collect(),
            blocks_written: meter.blocks_written,
            bytes_written: meter.bytes_written,
            blocks_existing: meter.blocks_existing,
            blocks_refused: meter.blocks_refused,
            errors: kinds
                .zip(meter.errors)
                .filter(|(_, count)| *count > 0)
                .map(|(kind, count)| ErrorCount { kind, count })
                .collect(),
            wrong_blocks: meter.wrong_blocks,
        }
    }
}

impl LatencySummary {
    fn new(meter: &Meter) -> Self {
        Self {
            lookup: summary(&meter.lookup),
            get_block: summary(&meter.get_block),
            get_chain: summary(&meter.get_chain),
            put_block: summary(&meter.put_block),
            put_chain: summary(&meter.put_chain),
            request: summary(&meter.request),
        }
    }
}

fn milliseconds(units: u64) -> f64 {
    (units * LATENCY_UNIT_NS) as f64 / 1e6
}

fn summary(latencies: &Latencies) -> Latency {
    let histogram = &latencies.0;
    let some = |units: u64| (!histogram.is_empty()).then(|| milliseconds(units));
    Latency {
        count: histogram.len(),
        p50_ms: some(histogram.value_at_quantile(0.5)),
        p99_ms: some(histogram.value_at_quantile(0.99)),
        p999_ms: some(histogram.value_at_quantile(0.999)),
        max_ms: some(histogram.max()),
    }
}

/// Points of the distribution, closer together towards the tail.
fn curve(name: &'static str, latencies: &Latencies) -> CdfCurve {
    let histogram = &latencies.0;
    let body = (1..=98).map(|percent| f64::from(percent) / 100.0);
    let tail = [0.985, 0.99, 0.9925, 0.995, 0.9975, 0.999, 0.9995, 1.0];
    let points = body.chain(tail).map(|share| (milliseconds(histogram.value_at_quantile(share)), share));
    CdfCurve { name, points: if histogram.is_empty() { Vec::new() } else { points.collect() } }
}

fn series(seconds: &[Second], elapsed_s: f64) -> Vec<SeriesPoint> {
    let point = |(index, second): (usize, &Second)| {
        let begins = index as f64;
        let at_s = (begins + 1.0).min(elapsed_s.max(begins + 0.001));
        let rate = |part: u64| (second.blocks > 0).then(|| percent(part, second.blocks));
        SeriesPoint {
            at_s,
            requests: second.requests,
            hit_rate_percent: rate(second.hit_blocks),
            bound_percent: rate(second.bound_blocks),
            get_gb_per_s: gb_per_s(second.bytes_read, at_s - begins),
            put_gb_per_s: gb_per_s(second.bytes_written, at_s - begins),
        }
    };
    seconds.iter().enumerate().map(point).collect()
}
