//! What one run comes to, in figures.

use hearth_router::placement::PrefillWork;

use super::arrivals::{Arrivals, seconds};
use super::fleet::{Fleet, Outcome, Served};
use super::hardware::Hardware;

/// See the module.
///
/// *Units*: seconds, percent.
#[derive(Clone, Debug)]
pub(super) struct Measured {
    pub(super) router: &'static str,
    pub(super) priorities: bool,
    pub(super) ttft_s: Quantiles,
    /// Of tagged requests alone.
    pub(super) tagged_ttft_s: Quantiles,
    /// Until the last token.
    pub(super) whole_s: Quantiles,
    /// Prompt tokens that were not computed, and of those the ones that were in the accelerator's memory.
    pub(super) hit_percent: f64,
    pub(super) resident_percent: f64,
    /// How long the busiest worker computed, and how long one does on average.
    pub(super) imbalance: f64,
    pub(super) busy_percent: f64,
    pub(super) wrong: u64,
    told: serde_json::Value,
}

/// The middle of some times, and their tail.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Quantiles {
    pub(super) p50: f64,
    pub(super) p90: f64,
    pub(super) p99: f64,
}

impl Quantiles {
    fn of(times_ns: impl Iterator<Item = u64>) -> Self {
        let mut times_ns: Vec<u64> = times_ns.collect();
        times_ns.sort_unstable();
        let at = |percent: usize| {
            let last = times_ns.len().checked_sub(1);
            last.map_or(f64::NAN, |last| seconds(times_ns[last * percent / 100]))
        };
        Self { p50: at(50), p90: at(90), p99: at(99) }
    }

    fn told(&self) -> serde_json::Value {
        serde_json::json!({ "p50": self.p50, "p90": self.p90, "p99": self.p99 })
    }
}

impl Measured {
    pub(super) fn of(fleet: &Fleet, outcome: Outcome) -> Self {
        let served = &outcome.served;
        let share = |tokens: fn(&Served) -> u64| {
            let all: u64 = served.iter().map(|served| u64::from(served.prompt_tokens)).sum();
            100.0 * served.iter().map(tokens).sum::<u64>() as f64 / all as f64
        };
        let busy_ns: u64 = outcome.busy_ns.iter().sum();
        let workers = outcome.busy_ns.len() as f64;
        let busiest_ns = outcome.busy_ns.iter().copied().max().unwrap_or(0);
        Self {
            router: fleet.router.name(),
            priorities: fleet.priorities,
            ttft_s: Quantiles::of(served.iter().map(|served| served.ttft_ns)),
            tagged_ttft_s: Quantiles::of(
                served.iter().filter(|served| served.is_tagged).map(|served| served.ttft_ns),
            ),
            whole_s: Quantiles::of(served.iter().map(|served| served.whole_ns)),
            hit_percent: share(|served| u64::from(served.resident_tokens + served.loaded_tokens)),
            resident_percent: share(|served| u64::from(served.resident_tokens)),
            imbalance: busiest_ns as f64 * workers / busy_ns as f64,
            busy_percent: 100.0 * busy_ns as f64 / workers / outcome.elapsed_ns as f64,
            wrong: outcome.wrong,
            told: outcome.told,
        }
    }

    /// A line for a terminal.
    pub(super) fn line(&self) -> String {
        let Quantiles { p50, p90, p99 } = self.ttft_s;
        let tagged = self.tagged_ttft_s;
        format!(
            "{:<26}{} TTFT p50 {p50:8.3} p90 {p90:8.3} p99 {p99:8.3} s, tagged {:8.3} {:8.3} {:8.3} s, answer p50 {:7.2} \
             p99 {:7.1} s, hit {:4.1}% (resident {:4.1}%), busy {:2.0}%, imbalance {:.2}",
            self.router,
            if self.priorities { "+" } else { " " },
            tagged.p50,
            tagged.p90,
            tagged.p99,
            self.whole_s.p50,
            self.whole_s.p99,
            self.hit_percent,
            self.resident_percent,
            self.busy_percent,
            self.imbalance,
        )
    }

    /// All of it, for the report.
    pub(super) fn told(&self) -> serde_json::Value {
        serde_json::json!({
            "router": self.router,
            "priorities_heeded": self.priorities,
            "ttft_s": self.ttft_s.told(),
            "tagged_ttft_s": self.tagged_ttft_s.told(),
            "answer_s": self.whole_s.told(),
            "hit_percent": self.hit_percent,
            "resident_percent": self.resident_percent,
            "busy_percent": self.busy_percent,
            "imbalance": self.imbalance,
            "router_says": self.told,
        })
    }
}

/// Times to the first token if everything that was asked before were in the accelerator's memory and nobody else there.
pub(super) fn floor_s(arrivals: &Arrivals, hardware: &Hardware) -> anyhow::Result<Quantiles> {
    let curve = hardware.prefill()?;
    let mut seen = vec![false; arrivals.blocks_end()];
    let mut times_ns = Vec::with_capacity(arrivals.jobs.len());
    for job in &arrivals.jobs {
        let chain = arrivals.chain(job);
        let known = chain.iter().take_while(|block| seen[**block as usize]).count() as u32;
        let useful = (job.input_tokens - 1) / arrivals.block_tokens;
        let cached_tokens = known.min(useful) * arrivals.block_tokens;
        let work = PrefillWork::new(job.input_tokens - cached_tokens, cached_tokens)?;
        times_ns.push(super::arrivals::ns(curve.seconds(work)));
        chain.iter().for_each(|block| seen[*block as usize] = true);
    }
    Ok(Quantiles::of(times_ns.into_iter()))
}
