//! What work costs: bytes moved, time on the wall, time on the processor, memory.

use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::time::{ClockId, clock_gettime};

/// What one side moved in one turn, and what that took.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Turn {
    pub(crate) bytes: u64,
    pub(crate) elapsed: Duration,
    pub(crate) cpu: Duration,
}

impl Turn {
    pub(crate) fn gb_per_s(&self) -> f64 {
        self.bytes as f64 / 1e9 / self.elapsed.as_secs_f64()
    }

    pub(crate) fn cpu_s_per_gb(&self) -> f64 {
        self.cpu.as_secs_f64() / (self.bytes as f64 / 1e9)
    }
}

/// Runs from its making to [`Clock::stop`].
pub(crate) struct Clock {
    started: Instant,
    cpu: Duration,
}

impl Clock {
    pub(crate) fn start() -> Self {
        Self { started: Instant::now(), cpu: cpu_time() }
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.started.elapsed()
    }

    pub(crate) fn stop(self, bytes: u64) -> Turn {
        Turn { bytes, elapsed: self.started.elapsed(), cpu: cpu_time().saturating_sub(self.cpu) }
    }
}

/// Processor time of all threads of this process, user and kernel, those of the kernel's io_uring
/// workers included.
fn cpu_time() -> Duration {
    let now = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(now.tv_sec.try_into().unwrap_or(0), now.tv_nsec.try_into().unwrap_or(0))
}

/// Memory of this process that is neither of a file nor shared, in bytes. The arena of a store is
/// shared memory and does not count.
pub(crate) fn anonymous_bytes() -> anyhow::Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status").context("cannot read the memory in use")?;
    parse_anonymous(&status).context("the kernel does not tell RssAnon")
}

fn parse_anonymous(status: &str) -> Option<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:"))?;
    line.trim().strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1_024)
}

/// The pair whose quotient is the median of all. The speed of a shared disk changes by the minute,
/// and the two of a pair were measured one right after the other.
pub(crate) fn median_pair<T: Copy>(pairs: &[(T, T)], rate: impl Fn(&T) -> f64) -> Option<(T, T)> {
    let mut sorted = pairs.to_vec();
    let quotient = |pair: &(T, T)| rate(&pair.0) / rate(&pair.1);
    sorted.sort_by(|a, b| quotient(a).total_cmp(&quotient(b)));
    sorted.get(sorted.len().saturating_sub(1) / 2).copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_count_decimal_gigabytes() {
        let (elapsed, cpu) = (Duration::from_secs(2), Duration::from_millis(500));
        let turn = Turn { bytes: 4_000_000_000, elapsed, cpu };
        assert_eq!((turn.gb_per_s(), turn.cpu_s_per_gb()), (2.0, 0.125));
    }

    #[test]
    fn the_median_pair_is_that_of_the_quotients_and_stays_together() {
        let pairs = [(9.0, 3.0), (1.0, 2.0), (10.0, 10.0)];
        assert_eq!(median_pair(&pairs, |value| *value), Some((10.0, 10.0)));
        // Of an even number the lower of the two in the middle: no figure looks better than it is.
        assert_eq!(median_pair(&pairs[..2], |value| *value), Some((1.0, 2.0)));
        assert_eq!(median_pair(&[], |value: &f64| *value), None);
    }

    #[test]
    fn anonymous_memory_is_read_as_the_kernel_writes_it() {
        assert_eq!(parse_anonymous("VmRSS:\t  9 kB\nRssAnon:\t     112 kB\nRssFile:\t1 kB\n"), Some(114_688));
        assert_eq!(parse_anonymous("VmRSS:\t  9 kB\n"), None);
        assert!(anonymous_bytes().unwrap() > 0);
    }

    #[test]
    fn work_costs_processor_time() {
        let clock = Clock::start();
        let mut sum = 0u64;
        while clock.started.elapsed() < Duration::from_millis(20) {
            sum = sum.wrapping_mul(31).wrapping_add(1);
        }
        assert!(std::hint::black_box(sum) > 0);
        let turn = clock.stop(1);
        assert!(turn.cpu > Duration::ZERO && turn.elapsed >= Duration::from_millis(20));
    }
}
