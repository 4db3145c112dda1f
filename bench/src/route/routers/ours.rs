//! Our router: the prefix index, the placement with what its models have learned, and the reservations.

use std::collections::BTreeMap;

use hearth_proto::{NodeId, Tier};
use hearth_router::placement::{
    Candidate, DecodeSpeed, Held, LinkId, LinkSpeed, Links, LoadPlan, Origin, PathId, PlaceError, Placement,
    PrefillCurve, PrefillModel, Prompt, Request, RequestId, Reservation, Reservations, Seconds, Settings,
    Source, Worker, WorkerId, place,
};

use super::super::arrivals::Arrivals;
use super::super::blocks::Blocks;
use super::super::hardware::Hardware;
use super::super::world::{Place, Said};
use super::{Ask, Router};

/// How long a reservation lasts: an hour, less what clocks may differ by.
const RESERVED_MS: u64 = 3_500_000;
/// What it is worth to stay in any case, where tuned.
const AFFINITY_MS: u32 = 500;
/// How many times what it takes longer elsewhere, loading and computing, is added to that, where tuned. The placement
/// counts it once, for the request itself; those behind it in line wait for it too, and the blocks that it pushes out
/// are loaded or computed again.
const MOVE_TIMES: f64 = 2.0;
/// How many times a worker's memory may be reserved, where tuned. Engines let requests wait until there is room, and
/// that is sooner than what takes tens of seconds to compute elsewhere. Reservations count blocks that sequences share for
/// each of them, too.
const MEMORY_TIMES: u64 = 2;

/// See the module.
pub(crate) struct Ours {
    workers: usize,
    blocks: Blocks,
    prefill: PrefillModel,
    links: Links,
    decode: DecodeSpeed,
    reservations: Reservations,
    settings: Settings,
    is_tuned: bool,
    /// By session: the worker that had it last.
    last: BTreeMap<u32, WorkerId>,
    block_bytes: u64,
    blocks_max: u64,
    /// Requests for which every worker was too full or too busy.
    crowded: u64,
}

impl Ours {
    /// With its settings as they come, or tuned to agents: see [`MOVE_TIMES`] and [`MEMORY_TIMES`].
    pub(crate) fn new(
        workers: usize,
        hardware: &Hardware,
        block_tokens: u32,
        is_tuned: bool,
    ) -> anyhow::Result<Self> {
        let affinity = if is_tuned { Seconds::from_ms(AFFINITY_MS) } else { Settings::default().affinity };
        let memory_times = if is_tuned { MEMORY_TIMES } else { 1 };
        let mut links = Links::default();
        for worker in 0..workers {
            for (tier, link) in [(Tier::Host, hardware.host_link), (Tier::Nvme, hardware.store_link)] {
                links.add(link_id(worker, tier), hardware.believed(link)?)?;
            }
        }
        Ok(Self {
            workers,
            blocks: Blocks::new(workers),
            prefill: PrefillModel::new(PrefillCurve::PRIOR),
            links,
            decode: Hardware::decode(hardware.decode_believed_s, block_tokens)?,
            reservations: Reservations::default(),
            settings: Settings { affinity, ..Settings::default() },
            is_tuned,
            last: BTreeMap::new(),
            block_bytes: hardware.token_bytes * u64::from(block_tokens),
            blocks_max: memory_times * hardware.gpu_tokens / u64::from(block_tokens),
            crowded: 0,
        })
    }

    fn request(&self, ask: &Ask<'_>, arrivals: &Arrivals) -> Request {
        let prompt = Prompt::new(ask.job.input_tokens, arrivals.block_tokens, self.block_bytes)
            .expect("arrivals leave out what is too large, and add a token where there is none");
        Request {
            urgency: ask.urgency,
            preferred: self.last.get(&ask.job.session).copied(),
            spread: u64::from(ask.job.session),
            ..Request::new(prompt)
        }
    }

    /// What it is worth to stay with the session's worker, where tuned: see [`MOVE_TIMES`].
    fn affinity(&self, request: &Request, held: &[Held]) -> Seconds {
        let curve = self.prefill.curve();
        let takes_s = |held: &Held| {
            let plan = LoadPlan::fastest(request.prompt, held, &curve);
            plan.load_s + plan.compute_s
        };
        let Some(last) = request.preferred.filter(|_| self.is_tuned) else { return self.settings.affinity };
        let here_s = takes_s(&held[last.0 as usize]);
        let others = (0..).zip(held).filter(|(number, _)| *number != last.0);
        let elsewhere_s = others.map(|(_, held)| takes_s(held)).fold(f64::INFINITY, f64::min);
        let more_s = if elsewhere_s.is_finite() { (elsewhere_s - here_s).max(0.0) } else { 0.0 };
        let worth_s = self.settings.affinity.value() + MOVE_TIMES * more_s;
        Seconds::new(worth_s).unwrap_or(Seconds::MAX)
    }

    fn worker(&self, number: usize) -> Worker {
        let id = WorkerId(number as u64);
        Worker {
            id,
            prefill: self.prefill.curve(),
            decode: self.decode,
            load: self.reservations.load(id),
            blocks_max: self.blocks_max,
            is_draining: false,
        }
    }

    fn held(&self, number: usize) -> Held {
        let mut held = Held::resident(self.blocks.of(Place::Gpu(number)));
        let sources = [
            (Tier::Host, Origin::Worker, Place::Host(number)),
            (Tier::Nvme, Origin::Node(NodeId(0)), Place::Store),
        ];
        for (tier, origin, place) in sources {
            let prefix_blocks = self.blocks.of(place);
            let speed: LinkSpeed = self.links.speed(link_id(number, tier)).expect("it was added");
            held.add(Source { tier, origin, prefix_blocks, speed }).expect("two places are not too many");
        }
        held
    }

    /// The best worker. When all are full or busy a request waits in some engine's line all the same, so that the best
    /// of those is taken.
    fn place(
        &mut self,
        request: &Request,
        workers: &mut [Worker],
        held: Vec<Held>,
        settings: Settings,
    ) -> Placement {
        let placed = {
            let candidates = candidates(workers, held.clone());
            place(request, &candidates, &settings)
        };
        match placed {
            Ok(placement) => placement,
            Err(PlaceError::AllExcluded { .. }) => {
                self.crowded += 1;
                workers.iter_mut().for_each(|worker| worker.blocks_max = u64::MAX);
                let settings = Settings { queue_max: Seconds::MAX, ..settings };
                place(request, &candidates(workers, held), &settings).expect("nobody is excluded")
            }
            Err(error) => unreachable!("{error}"),
        }
    }
}

impl Router for Ours {
    fn choose(&mut self, ask: &Ask<'_>, arrivals: &Arrivals) -> usize {
        let now_ms = ask.now_ns / 1_000_000;
        self.blocks.find(&arrivals.hashes(ask.chain));
        let request = self.request(ask, arrivals);
        let mut workers: Vec<Worker> = (0..self.workers).map(|number| self.worker(number)).collect();
        let held: Vec<Held> = (0..self.workers).map(|number| self.held(number)).collect();
        let settings = Settings { affinity: self.affinity(&request, &held), ..self.settings };
        let placement = self.place(&request, &mut workers, held, settings);
        let id = RequestId(u128::from(ask.number));
        let reservation = Reservation::of(&request, &placement, id, now_ms + RESERVED_MS);
        self.reservations
            .reserve(reservation, now_ms)
            .expect("requests of a trace are few, and each has a number");
        self.last.insert(ask.job.session, placement.worker);
        placement.worker.0 as usize
    }

    fn hear(&mut self, said: &Said, arrivals: &Arrivals, now_ns: u64) {
        let now_ms = now_ns / 1_000_000;
        self.blocks.hear(said, arrivals);
        match said {
            Said::Began { worker, tier, bytes } => {
                if let Some(link) = self.links.model_mut(link_id(*worker, *tier)) {
                    link.begin(*bytes);
                }
            }
            Said::Moved { worker, tier, transfer } => {
                let id = link_id(*worker, *tier);
                if let Some(link) = self.links.model_mut(id) {
                    link.end(transfer.bytes);
                }
                self.links.report(id, *transfer).expect("what is simulated is possible");
            }
            Said::Prefilled { job, report, .. } => {
                self.prefill.report(*report).expect("what is simulated is possible");
                self.reservations.prefill_done(RequestId(u128::from(*job)), now_ms);
            }
            Said::Ended { job } => {
                self.reservations.complete(RequestId(u128::from(*job)), now_ms);
            }
            Said::Stored { .. } | Said::Removed { .. } => {}
        }
    }

    fn told(&self) -> serde_json::Value {
        serde_json::json!({
            "affinity_s": self.settings.affinity.value(),
            "affinity_times_what_moving_takes": if self.is_tuned { MOVE_TIMES } else { 0.0 },
            "blocks_max": self.blocks_max,
            "requests_when_all_were_full_or_busy": self.crowded,
            "learned_prefill_s": self.prefill.curve().coefficients(),
        })
    }
}

fn link_id(worker: usize, tier: Tier) -> LinkId {
    LinkId { tier, path: PathId(worker as u64) }
}

fn candidates(workers: &[Worker], held: Vec<Held>) -> Vec<Candidate<'_>> {
    workers.iter().zip(held).map(|(worker, held)| Candidate { worker, held }).collect()
}
