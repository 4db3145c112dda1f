//! The choice of a worker: what each costs, which is taken, and why.

use std::cmp::Ordering;

use hearth_proto::limits::{PLACEMENT_CANDIDATES_MAX, PLACEMENT_TOKENS_MAX};
use hearth_proto::{Classified, ErrorKind};

use super::chance::{gumbel, spread};
use super::held::Held;
use super::plan::{Cut, LoadPlan};
use super::request::Request;
use super::settings::Settings;
use super::worker::{Worker, WorkerId};

/// A worker that could serve a request.
#[derive(Clone, Debug, PartialEq)]
pub struct Candidate<'a> {
    /// The worker.
    pub worker: &'a Worker,
    /// What it has, and can load, of the request's chain.
    pub held: Held,
}

/// Why a worker costs what it does.
///
/// *Units*: seconds. *Invariants*: each is finite, and none is negative but perhaps the total.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Terms {
    /// Loading what is stored and worth it.
    pub load_s: f64,
    /// Computing the rest of the prompt.
    pub compute_s: f64,
    /// Waiting for prefills that are ahead.
    pub queue_s: f64,
    /// Generating the expected output beside what else is decoded there.
    pub decode_s: f64,
    /// What staying with the session's worker is worth; it is taken off.
    pub affinity_s: f64,
    /// What it costs all in all.
    pub total_s: f64,
}

/// Where a request goes.
#[derive(Clone, Debug, PartialEq)]
pub struct Placement {
    /// The worker.
    pub worker: WorkerId,
    /// Where that is among the candidates.
    pub candidate: usize,
    /// What it costs there.
    pub terms: Terms,
    /// What is loaded, from where, and what is computed.
    pub plan: LoadPlan,
    /// Blocks that prompt and expected output take up.
    pub blocks: u32,
}

/// Why a worker is not taken, whatever it costs.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum Excluded {
    /// It takes no new requests.
    #[error("it is draining")]
    Draining,
    /// The request does not fit even if nothing else is there.
    #[error("the request takes {blocks} blocks, and all of its memory is {blocks_max}")]
    TooLarge {
        /// Blocks that prompt and expected output take up.
        blocks: u64,
        /// Blocks that fit into the worker's memory.
        blocks_max: u64,
    },
    /// The request does not fit beside what is there.
    #[error("the request takes {blocks} blocks, and {blocks_free} are free")]
    Memory {
        /// Blocks that prompt and expected output take up.
        blocks: u64,
        /// Blocks of the worker's memory that no sequence takes up.
        blocks_free: u64,
    },
    /// The request would wait too long.
    #[error("the line is {queue_s} s long, and {queue_max_s} s is the most")]
    Queue {
        /// How long it would wait.
        queue_s: f64,
        /// The most that the settings allow.
        queue_max_s: f64,
    },
}

/// A request that cannot be placed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlaceError {
    /// There is no worker; there may be one later.
    #[error("there is no worker to place the request on")]
    NoCandidates,
    /// There are more workers than are looked at; the caller names those of one pool.
    #[error("{0} candidates are too many; at most {PLACEMENT_CANDIDATES_MAX} are looked at")]
    TooManyCandidates(usize),
    /// No worker can take it now.
    #[error(
        "no worker can take the request: {draining} are draining, {too_large} too small, {memory} full, and at \
         {queue} the line is too long"
    )]
    AllExcluded {
        /// Workers that are draining.
        draining: usize,
        /// Workers in which it never fits.
        too_large: usize,
        /// Workers in which it does not fit now.
        memory: usize,
        /// Workers where it would wait too long.
        queue: usize,
    },
}

impl Classified for PlaceError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoCandidates => ErrorKind::Retry,
            Self::TooManyCandidates(_) => ErrorKind::FixRequest,
            // Where no worker is ever large enough, waiting does not help.
            Self::AllExcluded { draining: 0, memory: 0, queue: 0, .. } => ErrorKind::FixRequest,
            Self::AllExcluded { .. } => ErrorKind::Retry,
        }
    }
}

/// The whole of a decision.
#[derive(Clone, Debug, PartialEq)]
pub struct Explanation {
    /// What [`place`] says.
    pub placement: Result<Placement, PlaceError>,
    /// Every candidate: those that could be taken, the best first, then the others as they were given.
    pub candidates: Vec<Explained>,
}

/// What one worker would have meant for the request.
#[derive(Clone, Debug, PartialEq)]
pub struct Explained {
    /// The worker.
    pub worker: WorkerId,
    /// Where that is among the candidates.
    pub candidate: usize,
    /// What it would have cost, or why it is not taken.
    pub verdict: Result<Considered, Excluded>,
}

/// A worker that could be taken.
#[derive(Clone, Debug, PartialEq)]
pub struct Considered {
    /// What it costs.
    pub terms: Terms,
    /// What it would load and compute.
    pub plan: LoadPlan,
    /// What it is ranked by, in seconds: the total, and what chance adds or takes off. Of equal ones that with the
    /// least load comes first, and then by how they spread.
    pub score_s: f64,
}

/// Chooses a worker.
///
/// Equal inputs give equal answers, in whatever order the candidates come. The one that costs least is taken, of equal
/// ones that with the least load (tokens to prefill, then blocks, then sequences), of those the one that the request's
/// [`spread`](Request::spread) leads to, and then the one with the lowest number. Nothing is allocated.
///
/// # Errors
/// [`PlaceError`]; its kind says whether the request may be tried again.
pub fn place(
    request: &Request,
    candidates: &[Candidate<'_>],
    settings: &Settings,
) -> Result<Placement, PlaceError> {
    check_number(candidates)?;
    let mut excluded = Count::default();
    let mut best: Option<Ranked> = None;
    for (at, candidate) in candidates.iter().enumerate() {
        match Ranked::of(request, candidate, at, settings) {
            Ok(ranked) if best.as_ref().is_none_or(|best| ranked.order(best).is_lt()) => best = Some(ranked),
            Ok(_) => {}
            Err(reason) => excluded.add(reason),
        }
    }
    match best {
        Some(best) => Ok(best.placement(request, candidates, settings)),
        None => Err(excluded.error()),
    }
}

/// Chooses as [`place`] does, and says of every candidate what it costs or why it is not taken.
pub fn explain(request: &Request, candidates: &[Candidate<'_>], settings: &Settings) -> Explanation {
    if let Err(error) = check_number(candidates) {
        return Explanation { placement: Err(error), candidates: Vec::new() };
    }
    let (mut ranked, mut others, mut excluded) = (Vec::new(), Vec::new(), Count::default());
    for (at, candidate) in candidates.iter().enumerate() {
        match Ranked::of(request, candidate, at, settings) {
            Ok(one) => ranked.push(one),
            Err(reason) => {
                excluded.add(reason);
                others.push(Explained { worker: candidate.worker.id, candidate: at, verdict: Err(reason) });
            }
        }
    }
    ranked.sort_by(Ranked::order);
    let placement = match ranked.first() {
        Some(best) => Ok(best.placement(request, candidates, settings)),
        None => Err(excluded.error()),
    };
    let considered = ranked.iter().map(|one| Explained {
        worker: one.worker,
        candidate: one.at,
        verdict: Ok(Considered {
            terms: one.terms,
            plan: LoadPlan::at(request.prompt, &candidates[one.at].held, one.cut),
            score_s: one.score_s,
        }),
    });
    Explanation { placement, candidates: considered.chain(others).collect() }
}

fn check_number(candidates: &[Candidate<'_>]) -> Result<(), PlaceError> {
    match candidates.len() {
        0 => Err(PlaceError::NoCandidates),
        len if len > PLACEMENT_CANDIDATES_MAX => Err(PlaceError::TooManyCandidates(len)),
        _ => Ok(()),
    }
}

/// A candidate that could be taken, with all that it is ranked by.
struct Ranked {
    worker: WorkerId,
    at: usize,
    terms: Terms,
    cut: Cut,
    score_s: f64,
    /// Tokens to prefill, blocks, sequences.
    load: [u64; 3],
    spread: u64,
}

impl Ranked {
    #[inline]
    fn of(
        request: &Request,
        candidate: &Candidate<'_>,
        at: usize,
        settings: &Settings,
    ) -> Result<Self, Excluded> {
        let worker = candidate.worker;
        let output_tokens = expected_output(request, settings);
        let blocks = u64::from(request.prompt.blocks_with(output_tokens));
        let queue_s = worker.prefill.seconds(worker.load.queue.ahead_of(request.urgency));
        check_room(worker, blocks, queue_s, settings)?;
        let cut = Cut::fastest(request.prompt, &candidate.held, &worker.prefill);
        let (sequences, held) =
            (worker.load.sequences.saturating_add(1), worker.load.blocks.saturating_add(blocks));
        let decode_s = f64::from(output_tokens) * worker.decode.token_s(sequences, held);
        let affinity_s = if request.preferred == Some(worker.id) { settings.affinity.value() } else { 0.0 };
        let total_s = cut.load_s + cut.compute_s + queue_s + decode_s - affinity_s;
        let terms =
            Terms { load_s: cut.load_s, compute_s: cut.compute_s, queue_s, decode_s, affinity_s, total_s };
        debug_assert!(total_s.is_finite());
        let temperature_s = settings.temperature.value();
        let luck_s = if temperature_s > 0.0 { temperature_s * gumbel(request.seed, worker.id) } else { 0.0 };
        Ok(Self {
            worker: worker.id,
            at,
            terms,
            cut,
            score_s: total_s - luck_s,
            load: [worker.load.queue.whole().tokens(), worker.load.blocks, worker.load.sequences],
            spread: spread(request.spread, worker.id),
        })
    }

    /// The better one is less.
    fn order(&self, other: &Self) -> Ordering {
        self.score_s
            .total_cmp(&other.score_s)
            .then_with(|| self.load.cmp(&other.load))
            .then_with(|| other.spread.cmp(&self.spread))
            .then_with(|| self.worker.cmp(&other.worker))
    }

    fn placement(&self, request: &Request, candidates: &[Candidate<'_>], settings: &Settings) -> Placement {
        Placement {
            worker: self.worker,
            candidate: self.at,
            terms: self.terms,
            plan: LoadPlan::at(request.prompt, &candidates[self.at].held, self.cut),
            blocks: request.prompt.blocks_with(expected_output(request, settings)),
        }
    }
}

fn expected_output(request: &Request, settings: &Settings) -> u32 {
    request.output_tokens.unwrap_or(settings.output_tokens).min(PLACEMENT_TOKENS_MAX)
}

fn check_room(worker: &Worker, blocks: u64, queue_s: f64, settings: &Settings) -> Result<(), Excluded> {
    let blocks_max = worker.blocks_max;
    let blocks_free = blocks_max.saturating_sub(worker.load.blocks);
    let queue_max_s = settings.queue_max.value();
    if worker.is_draining {
        Err(Excluded::Draining)
    } else if blocks > blocks_max {
        Err(Excluded::TooLarge { blocks, blocks_max })
    } else if blocks > blocks_free {
        Err(Excluded::Memory { blocks, blocks_free })
    } else if queue_s > queue_max_s {
        Err(Excluded::Queue { queue_s, queue_max_s })
    } else {
        Ok(())
    }
}

/// Workers that are not taken, by why.
#[derive(Default)]
struct Count {
    draining: usize,
    too_large: usize,
    memory: usize,
    queue: usize,
}

impl Count {
    fn add(&mut self, reason: Excluded) {
        let count = match reason {
            Excluded::Draining => &mut self.draining,
            Excluded::TooLarge { .. } => &mut self.too_large,
            Excluded::Memory { .. } => &mut self.memory,
            Excluded::Queue { .. } => &mut self.queue,
        };
        *count += 1;
    }

    fn error(self) -> PlaceError {
        let Self { draining, too_large, memory, queue } = self;
        PlaceError::AllExcluded { draining, too_large, memory, queue }
    }
}
