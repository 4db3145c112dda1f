//! Counts what one worker's requests met: plain numbers and histograms, no judgement.

use std::time::{Duration, Instant};

use hdrhistogram::Histogram;
use hearth_proto::Tier;

use super::store::{PutOutcome, StoreErrorKind};

/// Latencies are recorded in units of 100 ns.
pub(crate) const LATENCY_UNIT_NS: u64 = 100;
/// Longest latency told apart: an hour.
const LATENCY_MAX_UNITS: u64 = 3_600 * 1_000_000_000 / LATENCY_UNIT_NS;
/// Seconds that a time series tells apart; later ones are added to the last.
const SERIES_SECONDS_MAX: usize = 86_400;
/// Examples of wrong bytes that are kept; all are counted.
const WRONG_EXAMPLES_MAX: usize = 16;

/// What happened in one second.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Second {
    pub(crate) requests: u64,
    pub(crate) blocks: u64,
    pub(crate) hit_blocks: u64,
    pub(crate) bound_blocks: u64,
    pub(crate) bytes_read: u64,
    pub(crate) bytes_written: u64,
}

impl Second {
    fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.blocks += other.blocks;
        self.hit_blocks += other.hit_blocks;
        self.bound_blocks += other.bound_blocks;
        self.bytes_read += other.bytes_read;
        self.bytes_written += other.bytes_written;
    }
}

/// Latencies of one kind of operation.
#[derive(Clone, Debug)]
pub(crate) struct Latencies(pub(crate) Histogram<u32>);

impl Latencies {
    fn new() -> Self {
        let histogram = Histogram::new_with_bounds(1, LATENCY_MAX_UNITS, 3);
        Self(histogram.expect("the bounds are constants that the histogram takes"))
    }

    pub(crate) fn record(&mut self, latency: Duration) {
        let units = latency.as_nanos() / u128::from(LATENCY_UNIT_NS);
        self.0.saturating_record(u64::try_from(units).unwrap_or(u64::MAX).max(1));
    }

    fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("histograms of equal bounds add up");
    }
}

/// All that is counted. One for each worker; their sum is the whole.
#[derive(Clone, Debug)]
pub(crate) struct Meter {
    pub(crate) requests: u64,
    pub(crate) blocks: u64,
    pub(crate) hit_blocks: u64,
    pub(crate) bound_blocks: u64,
    /// Blocks of the bound that another request was still making.
    pub(crate) raced_blocks: u64,
    pub(crate) input_tokens: u64,
    pub(crate) hit_tokens: u64,
    pub(crate) bound_tokens: u64,
    /// Blocks that a lookup promised and a get did not deliver whole.
    pub(crate) lost_blocks: u64,
    pub(crate) blocks_read: u64,
    pub(crate) bytes_read: u64,
    /// By [`Tier::ALL`]; the last is for stores that do not say.
    pub(crate) bytes_by_tier: [u64; 5],
    pub(crate) blocks_written: u64,
    pub(crate) bytes_written: u64,
    pub(crate) blocks_existing: u64,
    pub(crate) blocks_refused: u64,
    /// Calls and blocks that failed, by [`StoreErrorKind::ALL`].
    pub(crate) errors: [u64; StoreErrorKind::ALL.len()],
    pub(crate) wrong_blocks: u64,
    pub(crate) wrong_examples: Vec<String>,
    pub(crate) verify_time: Duration,
    pub(crate) lookup: Latencies,
    pub(crate) get_block: Latencies,
    pub(crate) get_chain: Latencies,
    pub(crate) put_block: Latencies,
    pub(crate) put_chain: Latencies,
    pub(crate) request: Latencies,
    pub(crate) series: Vec<Second>,
}

impl Meter {
    pub(crate) fn new() -> Self {
        Self {
            requests: 0,
            blocks: 0,
            hit_blocks: 0,
            bound_blocks: 0,
            raced_blocks: 0,
            input_tokens: 0,
            hit_tokens: 0,
            bound_tokens: 0,
            lost_blocks: 0,
            blocks_read: 0,
            bytes_read: 0,
            bytes_by_tier: [0; 5],
            blocks_written: 0,
            bytes_written: 0,
            blocks_existing: 0,
            blocks_refused: 0,
            errors: [0; StoreErrorKind::ALL.len()],
            wrong_blocks: 0,
            wrong_examples: Vec::new(),
            verify_time: Duration::ZERO,
            lookup: Latencies::new(),
            get_block: Latencies::new(),
            get_chain: Latencies::new(),
            put_block: Latencies::new(),
            put_chain: Latencies::new(),
            request: Latencies::new(),
            series: Vec::new(),
        }
    }

    pub(crate) fn error(&mut self, kind: StoreErrorKind) {
        self.errors[kind as usize] += 1;
    }

    pub(crate) fn wrong(&mut self, example: String) {
        self.wrong_blocks += 1;
        if self.wrong_examples.len() < WRONG_EXAMPLES_MAX {
            self.wrong_examples.push(example);
        }
    }

    pub(crate) fn read(&mut self, bytes: u64, tier: Option<Tier>) {
        self.blocks_read += 1;
        self.bytes_read += bytes;
        self.bytes_by_tier[tier.map_or(Tier::ALL.len(), |tier| tier as usize - 1)] += bytes;
    }

    pub(crate) fn written(&mut self, bytes: u64, outcome: PutOutcome) {
        match outcome {
            PutOutcome::Stored => {
                self.blocks_written += 1;
                self.bytes_written += bytes;
            }
            PutOutcome::Exists => self.blocks_existing += 1,
            PutOutcome::Refused => self.blocks_refused += 1,
            PutOutcome::Failed(kind) => self.error(kind),
        }
    }

    pub(crate) fn second(&mut self, elapsed: Duration) -> &mut Second {
        let index = (elapsed.as_secs() as usize).min(SERIES_SECONDS_MAX - 1);
        if self.series.len() <= index {
            self.series.resize(index + 1, Second::default());
        }
        &mut self.series[index]
    }

    pub(crate) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.blocks += other.blocks;
        self.hit_blocks += other.hit_blocks;
        self.bound_blocks += other.bound_blocks;
        self.raced_blocks += other.raced_blocks;
        self.input_tokens += other.input_tokens;
        self.hit_tokens += other.hit_tokens;
        self.bound_tokens += other.bound_tokens;
        self.lost_blocks += other.lost_blocks;
        self.blocks_read += other.blocks_read;
        self.bytes_read += other.bytes_read;
        self.blocks_written += other.blocks_written;
        self.bytes_written += other.bytes_written;
        self.blocks_existing += other.blocks_existing;
        self.blocks_refused += other.blocks_refused;
        self.wrong_blocks += other.wrong_blocks;
        self.verify_time += other.verify_time;
        let sum = |to: &mut [u64], from: &[u64]| to.iter_mut().zip(from).for_each(|(to, from)| *to += from);
        sum(&mut self.bytes_by_tier, &other.bytes_by_tier);
        sum(&mut self.errors, &other.errors);
        let room = WRONG_EXAMPLES_MAX.saturating_sub(self.wrong_examples.len());
        self.wrong_examples.extend(other.wrong_examples.iter().take(room).cloned());
        self.lookup.add(&other.lookup);
        self.get_block.add(&other.get_block);
        self.get_chain.add(&other.get_chain);
        self.put_block.add(&other.put_block);
        self.put_chain.add(&other.put_chain);
        self.request.add(&other.request);
        if self.series.len() < other.series.len() {
            self.series.resize(other.series.len(), Second::default());
        }
        self.series.iter_mut().zip(&other.series).for_each(|(to, from)| to.add(from));
    }
}

/// Wall time during which at least one call of a kind was in progress.
#[derive(Debug, Default)]
pub(crate) struct BusyClock {
    in_progress: usize,
    since: Option<Instant>,
    busy: Duration,
}

impl BusyClock {
    pub(crate) fn enter(&mut self, now: Instant) {
        if self.in_progress == 0 {
            self.since = Some(now);
        }
        self.in_progress += 1;
    }

    pub(crate) fn leave(&mut self, now: Instant) {
        self.in_progress -= 1;
        if self.in_progress == 0
            && let Some(since) = self.since.take()
        {
            self.busy += now.saturating_duration_since(since);
        }
    }

    pub(crate) fn busy(&self) -> Duration {
        self.busy
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn overlapping_calls_are_busy_once() {
        let start = Instant::now();
        let at = |ms| start + Duration::from_millis(ms);
        let mut clock = BusyClock::default();
        clock.enter(at(0));
        clock.enter(at(5));
        clock.leave(at(10));
        clock.leave(at(20));
        clock.enter(at(100));
        clock.leave(at(101));
        assert_eq!(clock.busy(), Duration::from_millis(21));
    }

    #[test]
    fn meters_add_up() {
        let mut a = Meter::new();
        let mut b = Meter::new();
        a.second(Duration::from_secs(1)).requests = 2;
        b.second(Duration::from_secs(3)).requests = 5;
        b.read(10, Some(Tier::Nvme));
        b.read(7, None);
        b.error(StoreErrorKind::Overdue);
        (0..40).for_each(|number| b.wrong(number.to_string()));
        b.lookup.record(Duration::from_millis(3));
        a.add(&b);
        assert_eq!(a.series.iter().map(|second| second.requests).collect::<Vec<_>>(), [0, 2, 0, 5]);
        assert_eq!((a.bytes_by_tier, a.bytes_read), ([0, 0, 10, 0, 7], 17));
        assert_eq!(a.errors[StoreErrorKind::Overdue as usize], 1);
        assert_eq!((a.wrong_blocks, a.wrong_examples.len()), (40, 16));
        assert_eq!(a.lookup.0.len(), 1);
    }
}
