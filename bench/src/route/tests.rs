//! The laws that a simulated fleet keeps.

use hearth_proto::Urgency;
use hearth_replay::workload::agents::{AgentParams, generate};

use super::arrivals::{Arrivals, Sent, ns, seconds};
use super::fleet::{Fleet, Outcome};
use super::hardware::Hardware;
use super::measured::floor_s;
use super::routers::Kind;
use super::store::Store;
use super::worker::Worker;
use super::world::{Happens, Said, World};

/// Short of everything, so that requests wait and blocks go.
fn small() -> Hardware {
    Hardware::default().with_memory(200_000, 150_000, 100_000)
}

fn arrivals(sessions: usize, hardware: &Hardware) -> Arrivals {
    let workload = generate(&AgentParams::default(), sessions, 3).unwrap();
    let sent = Sent {
        speed: 1.0,
        sessions: 12,
        think_max_s: 60.0,
        tagged: 0.3,
        tokens_max: hardware.gpu_tokens / 64 * 64,
        seed: 5,
    };
    Arrivals::new(&workload, sent).unwrap()
}

fn run(router: Kind, workers: usize, priorities: bool, hardware: &Hardware) -> Outcome {
    let fleet = Fleet { workers, router, priorities, seed: 7 };
    fleet.run(&arrivals(12, hardware), hardware).unwrap()
}

#[test]
fn every_request_ends_once_and_not_too_soon_and_no_memory_overflows() {
    for router in Kind::ALL {
        for priorities in [false, true] {
            let outcome = run(router, 3, priorities, &small());
            assert_eq!(outcome.wrong, 0, "{router:?}");
            assert!(
                outcome.served.iter().all(|served| served.ttft_ns > 0 && served.whole_ns >= served.ttft_ns)
            );
            let found = |served: &super::fleet::Served| served.resident_tokens + served.loaded_tokens;
            assert!(outcome.served.iter().all(|served| found(served) < served.prompt_tokens));
            assert!(outcome.served.iter().any(|served| served.loaded_tokens > 0), "{router:?}");
            assert!(outcome.busy_ns.iter().all(|busy_ns| *busy_ns <= outcome.elapsed_ns));
        }
    }
}

#[test]
fn a_seed_gives_the_same_outcome_again_and_another_seed_another_one() {
    let outcome = || run(Kind::Hearth, 3, true, &small());
    assert_eq!(outcome(), outcome());
    let arrivals = arrivals(12, &small());
    let fleet = Fleet { workers: 3, router: Kind::Hearth, priorities: true, seed: 8 };
    assert_ne!(outcome(), fleet.run(&arrivals, &small()).unwrap());
}

#[test]
fn with_one_worker_all_routers_are_equal() {
    let of = |router| run(router, 1, false, &small()).served;
    let first = of(Kind::RoundRobin);
    for router in Kind::ALL {
        assert_eq!(of(router), first, "{router:?}");
    }
}

#[test]
fn with_room_for_all_a_session_that_stays_computes_nothing_twice() {
    let hardware = Hardware::default().with_memory(50_000_000, 0, 0);
    let arrivals = arrivals(4, &hardware);
    let fleet = Fleet { workers: 1, router: Kind::Sticky, priorities: false, seed: 7 };
    let outcome = fleet.run(&arrivals, &hardware).unwrap();
    let computed: u64 =
        outcome.served.iter().map(|served| u64::from(served.prompt_tokens - served.resident_tokens)).sum();
    let mut seen = std::collections::HashSet::new();
    let new: usize = arrivals
        .jobs
        .iter()
        .map(|job| arrivals.chain(job).iter().filter(|block| seen.insert(**block)).count())
        .sum();
    let least = new as u64 * 64;
    // Beyond the new blocks: the last ones, which are not full, the block with the last token, and set-ups that begin
    // side by side.
    let most = least + arrivals.jobs.len() as u64 * 2 * 64 + 4 * 20_000;
    assert!((least..=most).contains(&computed), "{least} {computed} {most}");
}

#[test]
fn no_router_beats_an_idle_fleet_that_has_everything() {
    let hardware = Hardware::default();
    let floor_s = floor_s(&arrivals(12, &hardware), &hardware).unwrap();
    for router in Kind::ALL {
        let outcome = run(router, 3, false, &hardware);
        let mut times_ns: Vec<u64> = outcome.served.iter().map(|served| served.ttft_ns).collect();
        times_ns.sort_unstable();
        let p50_s = seconds(times_ns[(times_ns.len() - 1) / 2]);
        // Steps may have luck.
        assert!(p50_s > 0.8 * floor_s.p50, "{router:?}: {p50_s} {floor_s:?}");
    }
}

/// A worker alone with requests that come one by one.
struct Alone<'a> {
    worker: Worker,
    world: World<'a>,
    next: std::collections::BTreeSet<(u64, Happens)>,
    prefilled: Vec<u32>,
}

impl<'a> Alone<'a> {
    fn new(arrivals: &'a Arrivals, hardware: &'a Hardware) -> Self {
        let store = Store::new(hardware, 1, arrivals.block_tokens, arrivals.blocks_end());
        let world = World { arrivals, hardware, store, later: Vec::new(), said: Vec::new() };
        let worker = Worker::new(0, &world, 1).unwrap();
        Self { worker, world, next: Default::default(), prefilled: Vec::new() }
    }

    fn until(&mut self, until_ns: u64) {
        loop {
            self.next.extend(self.world.later.drain(..));
            for said in self.world.said.drain(..) {
                if let Said::Prefilled { job, .. } = said {
                    self.prefilled.push(job);
                }
            }
            match self.next.first().copied().filter(|(at_ns, _)| *at_ns <= until_ns) {
                Some((at_ns, Happens::Loaded { job, .. })) => self.worker.loaded(job, at_ns, &mut self.world),
                Some((at_ns, Happens::Stepped { step, .. })) => {
                    self.worker.stepped(step, at_ns, &mut self.world);
                }
                _ => return,
            }
            self.next.pop_first();
        }
    }
}

#[test]
fn urgent_requests_overtake_and_nobody_waits_forever() {
    let hardware = Hardware { sequences_max: 1, ..Hardware::default() };
    let arrivals = arrivals(12, &hardware);
    let mut alone = Alone::new(&arrivals, &hardware);
    alone.worker.arrive(0, Urgency::Normal, 0, &mut alone.world);
    alone.worker.arrive(1, Urgency::Normal, 1, &mut alone.world);
    // More urgent ones than can be served, for much longer than the advantage that they have.
    let count = 120.min(arrivals.jobs.len() as u32);
    for job in 2..count {
        let now_ns = ns(f64::from(job));
        alone.until(now_ns);
        alone.worker.arrive(job, Urgency::Urgent, now_ns, &mut alone.world);
    }
    alone.until(u64::MAX);
    assert_eq!(alone.prefilled.len(), count as usize);
    let place = |job: u32| alone.prefilled.iter().position(|other| *other == job).unwrap();
    assert!(place(2) < place(1), "an urgent one goes first");
    let ahead_of = place(1) as u32;
    assert!(ahead_of < count / 2, "{ahead_of} of {count} went ahead of one that is not urgent");
}
