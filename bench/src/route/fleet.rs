//! The simulation: requests come, a router chooses, workers do what they have to do, in virtual time.

use std::cmp::Reverse;
use std::collections::BinaryHeap;

use hearth_proto::Urgency;
use hearth_router::placement::PrefillWork;

use super::arrivals::{Arrivals, Pace, ns, seconds};
use super::hardware::Hardware;
use super::routers::{Ask, Kind, Router};
use super::store::Store;
use super::worker::Worker;
use super::world::{Happens, Said, World};

/// Seconds from one session's beginning to the next while the first ones are let in.
const APART_S: f64 = 2.0;

/// A fleet, and who sends requests to it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Fleet {
    pub(super) workers: usize,
    pub(super) router: Kind,
    /// Whether anybody heeds that a session is tagged.
    pub(super) priorities: bool,
    pub(super) seed: u64,
}

/// What became of one request.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Served {
    pub(super) is_tagged: bool,
    pub(super) worker: usize,
    pub(super) ttft_ns: u64,
    /// Until the last token.
    pub(super) whole_ns: u64,
    pub(super) prompt_tokens: u32,
    pub(super) resident_tokens: u32,
    pub(super) loaded_tokens: u32,
    /// How often it ended: once.
    ends: u32,
}

/// What became of all of them.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Outcome {
    pub(super) served: Vec<Served>,
    pub(super) busy_ns: Vec<u64>,
    pub(super) elapsed_ns: u64,
    /// Laws that were broken: a request ended never or twice, or sooner than can be, or found more than there was, or a
    /// memory held more than it may.
    pub(super) wrong: u64,
    pub(super) told: serde_json::Value,
}

/// A run in progress.
struct Run<'a> {
    fleet: &'a Fleet,
    world: World<'a>,
    workers: Vec<Worker>,
    router: Box<dyn Router>,
    served: Vec<Served>,
    arrived_ns: Vec<u64>,
    /// What happens next; of things at one time what was planned first.
    next: BinaryHeap<Reverse<(u64, u64, Happens)>>,
    planned: u64,
    sessions_let_in: usize,
    wrong: u64,
}

impl Fleet {
    /// Sends all requests and waits for the last answer. Equal arguments give equal outcomes.
    pub(super) fn run(&self, arrivals: &Arrivals, hardware: &Hardware) -> anyhow::Result<Outcome> {
        let store = Store::new(hardware, self.workers, arrivals.block_tokens, arrivals.blocks_end());
        let world = World { arrivals, hardware, store, later: Vec::new(), said: Vec::new() };
        let workers: anyhow::Result<Vec<Worker>> =
            (0..self.workers).map(|number| Worker::new(number, &world, self.seed)).collect();
        let mut run = Run {
            fleet: self,
            workers: workers?,
            router: self.router.start(self, hardware, arrivals.block_tokens)?,
            served: vec![Served::default(); arrivals.jobs.len()],
            arrived_ns: vec![0; arrivals.jobs.len()],
            next: BinaryHeap::new(),
            planned: 0,
            sessions_let_in: 0,
            wrong: 0,
            world,
        };
        run.open();
        let mut now_ns = 0;
        while let Some(Reverse((at_ns, _, what))) = run.next.pop() {
            now_ns = at_ns;
            run.happens(what, now_ns);
        }
        Ok(run.outcome(now_ns))
    }
}

impl Run<'_> {
    fn plan(&mut self, at_ns: u64, what: Happens) {
        self.planned += 1;
        self.next.push(Reverse((at_ns, self.planned, what)));
    }

    /// Plans the first requests.
    fn open(&mut self) {
        match self.world.arrivals.pace {
            Pace::Open { .. } => {
                for (job, asked) in (0..).zip(&self.world.arrivals.jobs) {
                    self.plan(asked.after_ns, Happens::Arrives(job));
                }
            }
            Pace::Closed { sessions } => {
                for number in 0..sessions {
                    self.let_in(ns(number as f64 * APART_S));
                }
            }
        }
    }

    /// Plans the first request of the next session, if there is one.
    fn let_in(&mut self, now_ns: u64) {
        if let Some(jobs) = self.world.arrivals.sessions.get(self.sessions_let_in) {
            self.sessions_let_in += 1;
            self.plan(now_ns, Happens::Arrives(jobs.start));
        }
    }

    fn happens(&mut self, what: Happens, now_ns: u64) {
        match what {
            Happens::Arrives(job) => self.arrives(job, now_ns),
            Happens::Loaded { worker, job } => self.workers[worker].loaded(job, now_ns, &mut self.world),
            Happens::Stepped { worker, step } => self.workers[worker].stepped(step, now_ns, &mut self.world),
        }
        self.wrong += self.workers.iter().filter(|worker| worker.is_overfull()).count() as u64;
        for (at_ns, what) in std::mem::take(&mut self.world.later) {
            self.plan(at_ns, what);
        }
        for said in std::mem::take(&mut self.world.said) {
            self.router.hear(&said, self.world.arrivals, now_ns);
            self.note(&said, now_ns);
        }
    }

    fn arrives(&mut self, number: u32, now_ns: u64) {
        let arrivals = self.world.arrivals;
        let job = &arrivals.jobs[number as usize];
        let is_urgent = job.is_tagged && self.fleet.priorities;
        let urgency = if is_urgent { Urgency::Urgent } else { Urgency::Normal };
        let queued_tokens: Vec<u64> = self.workers.iter().map(Worker::queued_tokens).collect();
        let chain = arrivals.chain(job);
        let ask = Ask { number, job, chain: &chain, urgency, queued_tokens: &queued_tokens, now_ns };
        let worker = self.router.choose(&ask, arrivals);
        self.arrived_ns[number as usize] = now_ns;
        self.served[number as usize] =
            Served { is_tagged: job.is_tagged, worker, prompt_tokens: job.input_tokens, ..Served::default() };
        self.workers[worker].arrive(number, urgency, now_ns, &mut self.world);
    }

    /// Notes what matters for the outcome.
    fn note(&mut self, said: &Said, now_ns: u64) {
        match said {
            Said::Prefilled { job, report, resident_tokens, loaded_tokens } => {
                let ttft_ns = now_ns - self.arrived_ns[*job as usize];
                let served = &mut self.served[*job as usize];
                served.ttft_ns = ttft_ns;
                served.resident_tokens = *resident_tokens;
                served.loaded_tokens = *loaded_tokens;
                let work = PrefillWork::new(report.new_tokens, report.cached_tokens);
                let least_s = work.map_or(f64::INFINITY, |work| self.world.hardware.least_prefill_s(work));
                let found = resident_tokens + loaded_tokens;
                let is_right =
                    found + report.new_tokens == served.prompt_tokens && seconds(ttft_ns) >= least_s - 1e-6;
                self.wrong += u64::from(!is_right);
            }
            Said::Ended { job } => {
                let served = &mut self.served[*job as usize];
                served.ends += 1;
                served.whole_ns = now_ns - self.arrived_ns[*job as usize];
                self.go_on(*job, now_ns);
            }
            _ => {}
        }
    }

    /// Plans what a session that waits for its answers does next.
    fn go_on(&mut self, ended: u32, now_ns: u64) {
        let arrivals = self.world.arrivals;
        if matches!(arrivals.pace, Pace::Open { .. }) {
            return;
        }
        let session = arrivals.jobs[ended as usize].session;
        let next = ended + 1;
        if arrivals.sessions[session as usize].contains(&next) {
            let at_ns = now_ns + arrivals.jobs[next as usize].after_ns;
            self.plan(at_ns, Happens::Arrives(next));
        } else {
            self.let_in(now_ns);
        }
    }

    fn outcome(self, elapsed_ns: u64) -> Outcome {
        let unlawful = self.served.iter().filter(|served| served.ends != 1).count() as u64;
        let left: usize = self.workers.iter().map(Worker::len).sum();
        Outcome {
            busy_ns: self.workers.iter().map(Worker::busy_ns).collect(),
            elapsed_ns,
            wrong: self.wrong + unlawful + left as u64,
            told: self.router.told(),
            served: self.served,
        }
    }
}
