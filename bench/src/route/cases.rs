//! What is compared: one workload on one fleet, with and without a store, and under memory pressure.

use hearth_replay::workload::Workload;

use super::arrivals::{Arrivals, Pace, Sent};
use super::fleet::Fleet;
use super::hardware::Hardware;
use super::measured::{Measured, Quantiles, floor_s};
use super::routers::Kind;

/// Tokens that the memory of a worker's machine has room for when memory is short.
const PRESSED_HOST_TOKENS: u64 = 500_000;

/// What all cases have in common.
#[derive(Clone, Copy, Debug)]
pub(super) struct Common {
    pub(super) workers: usize,
    pub(super) hardware: Hardware,
    pub(super) think_max_s: f64,
    pub(super) speed: f64,
    pub(super) tagged: f64,
    pub(super) seed: u64,
}

/// What is beneath the engines.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Beneath {
    /// The memory of each worker's own machine.
    Nothing,
    /// And Hearth's store, whoever routes.
    Store,
    /// Little of that memory.
    Pressure,
}

/// One workload at one load on one fleet, with several routers.
#[derive(Clone, Debug)]
pub(super) struct Case {
    pub(super) workload: String,
    pub(super) load: String,
    pub(super) beneath: Beneath,
    pub(super) requests: usize,
    pub(super) left_out: usize,
    pub(super) floor_s: Quantiles,
    pub(super) hardware: Hardware,
    pub(super) rows: Vec<Measured>,
}

impl Common {
    /// Every router on the same requests, with so many sessions at a time for each worker.
    pub(super) fn compare(
        &self,
        workload: &Workload,
        sessions: usize,
        beneath: Beneath,
    ) -> anyhow::Result<Case> {
        let fleets: Vec<(Kind, bool)> = match beneath {
            Beneath::Pressure => vec![
                (Kind::RoundRobin, false),
                (Kind::Overlap, false),
                (Kind::Hearth, false),
                (Kind::Hearth, true),
            ],
            Beneath::Nothing | Beneath::Store => Kind::ALL.into_iter().map(|kind| (kind, false)).collect(),
        };
        let hardware = self.hardware_with(beneath);
        let block_tokens = u64::from(workload.block_tokens);
        let arrivals = Arrivals::new(
            workload,
            Sent {
                speed: self.speed,
                sessions: sessions * self.workers,
                think_max_s: self.think_max_s,
                tagged: self.tagged,
                tokens_max: hardware.gpu_tokens / block_tokens * block_tokens,
                seed: self.seed,
            },
        )?;
        let load = match arrivals.pace {
            Pace::Open { speed } => format!("{speed} times the recorded rate"),
            Pace::Closed { sessions } => format!("{sessions} sessions at a time"),
        };
        let mut case = Case {
            workload: workload.name.clone(),
            load,
            beneath,
            requests: arrivals.jobs.len(),
            left_out: arrivals.left_out,
            floor_s: floor_s(&arrivals, &hardware)?,
            hardware,
            rows: Vec::new(),
        };
        eprintln!("{}", case.name());
        for (router, priorities) in fleets {
            let fleet = Fleet { workers: self.workers, router, priorities, seed: self.seed };
            let measured = Measured::of(&fleet, fleet.run(&arrivals, &hardware)?);
            eprintln!("  {}", measured.line());
            case.rows.push(measured);
        }
        Ok(case)
    }

    fn hardware_with(&self, beneath: Beneath) -> Hardware {
        let Hardware { gpu_tokens, host_tokens, store_tokens, .. } = self.hardware;
        match beneath {
            Beneath::Nothing => self.hardware.with_memory(gpu_tokens, host_tokens, 0),
            Beneath::Store => self.hardware.with_memory(gpu_tokens, host_tokens, store_tokens),
            Beneath::Pressure => {
                self.hardware.with_memory(gpu_tokens, host_tokens.min(PRESSED_HOST_TOKENS), 0)
            }
        }
    }
}

impl Case {
    /// What it is, for a reader.
    pub(super) fn name(&self) -> String {
        let beneath = match self.beneath {
            Beneath::Nothing => "no store",
            Beneath::Store => "a store beneath all",
            Beneath::Pressure => "memory pressure",
        };
        format!("{}, {}, {beneath}", self.workload, self.load)
    }

    /// What a router did.
    pub(super) fn of(&self, router: Kind, priorities: bool) -> Option<&Measured> {
        self.rows.iter().find(|row| row.router == router.name() && row.priorities == priorities)
    }

    /// All of it, for the report.
    pub(super) fn told(&self) -> serde_json::Value {
        serde_json::json!({
            "case": self.name(),
            "requests": self.requests,
            "left_out_as_too_large": self.left_out,
            "ttft_s_p50_if_all_were_resident_and_nobody_there": self.floor_s.p50,
            "hardware": self.hardware.told(),
            "rows": self.rows.iter().map(Measured::told).collect::<Vec<_>>(),
        })
    }
}
