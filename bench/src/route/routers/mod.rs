//! Routers: whom they send a request to, and what they learn from what engines say.

mod ours;
mod peers;

use hearth_proto::Urgency;

use super::arrivals::{Arrivals, Block, Job};
use super::fleet::Fleet;
use super::hardware::Hardware;
use super::world::Said;

pub(super) use ours::Ours;

/// A request that is to be sent to some worker.
pub(super) struct Ask<'a> {
    pub(super) number: u32,
    pub(super) job: &'a Job,
    pub(super) chain: &'a [Block],
    pub(super) urgency: Urgency,
    /// Tokens that each worker has yet to compute, as the workers themselves know it.
    pub(super) queued_tokens: &'a [u64],
    pub(super) now_ns: u64,
}

/// Chooses workers.
pub(super) trait Router {
    /// The worker that a request is sent to.
    fn choose(&mut self, ask: &Ask<'_>, arrivals: &Arrivals) -> usize;

    /// Hears what an engine or the store says.
    fn hear(&mut self, _said: &Said, _arrivals: &Arrivals, _now_ns: u64) {}

    /// What it can tell of itself.
    fn told(&self) -> serde_json::Value {
        serde_json::Value::Null
    }
}

/// Which router.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    RoundRobin,
    LeastLoaded,
    Sticky,
    Overlap,
    /// Ours with its settings as they come.
    HearthDefaults,
    /// Ours, tuned to agents.
    Hearth,
}

impl Kind {
    /// All of them, ours last.
    pub(super) const ALL: [Self; 6] = [
        Self::RoundRobin,
        Self::LeastLoaded,
        Self::Sticky,
        Self::Overlap,
        Self::HearthDefaults,
        Self::Hearth,
    ];

    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::RoundRobin => "round robin",
            Self::LeastLoaded => "least loaded",
            Self::Sticky => "session sticky",
            Self::Overlap => "overlap only",
            Self::HearthDefaults => "Hearth, default settings",
            Self::Hearth => "Hearth",
        }
    }

    /// One for a fleet of so many workers.
    pub(super) fn start(
        self,
        fleet: &Fleet,
        hardware: &Hardware,
        block_tokens: u32,
    ) -> anyhow::Result<Box<dyn Router>> {
        Ok(match self {
            Self::RoundRobin => Box::new(peers::RoundRobin::default()),
            Self::LeastLoaded => Box::new(peers::LeastLoaded),
            Self::Sticky => Box::new(peers::Sticky),
            Self::Overlap => Box::new(peers::Overlap::new(fleet.workers)),
            Self::HearthDefaults => Box::new(Ours::new(fleet.workers, hardware, block_tokens, false)?),
            Self::Hearth => Box::new(Ours::new(fleet.workers, hardware, block_tokens, true)?),
        })
    }
}
