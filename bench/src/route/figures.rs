//! The figures of the report, and what is assumed.

use hearth_replay::{Figure, Goal};

use super::cases::{Beneath, Case};
use super::measured::Measured;
use super::routers::Kind;

/// How often round robin's median is to be ours.
const TTFT_GOAL: f64 = 4.0;
/// What is to be left of the median of tagged requests.
const TAGGED_GOAL: f64 = 0.37;
/// The fleet that goals are stated for.
const GOAL_WORKERS: usize = 8;

/// What the simulation assumes.
pub(super) const MODEL: [&str; 12] = [
    "a prefill takes a + b*n + d*n*(c + n/2) seconds for n new tokens behind c cached ones, in chunks, each off by noise",
    "in a step with a chunk every sequence past its prompt gets a token; the times of both add up",
    "a decoded token takes a time for the step, for each sequence, and for each cached token that is read",
    "a request waits until its blocks and its whole answer fit into memory; blocks in use stay, others go by last use, the deepest first",
    "blocks are written to the host's memory and to the store when the prompt is computed; writing takes no bandwidth",
    "engines load what is stored where the true models say that it is faster than computing, whoever routes",
    "links serve one transfer after the other; workers share the store's bandwidth",
    "routers hear of blocks, transfers and prefills at once; ours knows queues from its own reservations alone, least loaded and overlap only know the true ones",
    "ours begins with priors that are wrong (prefill, links, decode) and learns the first two from what is reported; nobody tells it the length of answers",
    "an answer leaves no blocks: traces do not say which blocks it fills",
    "a session sends its next request after the answer and the recorded think time, cut at the longest; a session that ends makes place for the next",
    "urgent requests go ahead of those that came up to 30 s before, and their blocks are kept 10 minutes before all others",
];

/// The figures of one workload's cases. Those of its first load are held to goals if it is agents on eight workers.
pub(super) fn of(cases: &[Case], workers: usize) -> Vec<Figure> {
    let mut figures = Vec::new();
    for case in &cases[..cases.len().min(3)] {
        let is_agents = case.load.ends_with("at a time");
        let has_goals = is_agents && workers == GOAL_WORKERS;
        match case.beneath {
            Beneath::Pressure => figures.extend(pressed(case, has_goals)),
            Beneath::Nothing | Beneath::Store => figures.extend(compared(case, has_goals)),
        }
    }
    figures
}

/// Ours beside each of the others.
fn compared(case: &Case, has_goals: bool) -> Vec<Figure> {
    let Some(ours) = case.of(Kind::Hearth, false) else { return Vec::new() };
    let mut figures = Vec::new();
    let mut tell = |what: &str, unit: &str, value: fn(&Measured) -> f64| {
        for kind in Kind::ALL.into_iter().filter(|kind| *kind != Kind::Hearth) {
            let Some(peer) = case.of(kind, false) else { continue };
            let figure = Figure::new(format!("{}: {what}", case.name()), unit, value(ours));
            figures.push(figure.with_peer(kind.name(), value(peer)));
        }
    };
    tell("TTFT p50", "s", |row| row.ttft_s.p50);
    tell("TTFT p99", "s", |row| row.ttft_s.p99);
    tell("whole answer p50", "s", |row| row.whole_s.p50);
    tell("tokens not computed", "%", |row| row.hit_percent);
    tell("busiest worker over the mean", "times", |row| row.imbalance);
    if let Some(first) = figures.first_mut().filter(|_| has_goals) {
        *first = first.clone().with_goal(Goal::RatioAtMost(1.0 / TTFT_GOAL));
    }
    let floor = Figure::new(format!("{}: TTFT p50", case.name()), "s", ours.ttft_s.p50);
    figures.push(floor.with_peer("all resident, nobody else there", case.floor_s.p50));
    figures
}

/// Tagged requests, with and without anybody heeding it.
fn pressed(case: &Case, has_goals: bool) -> Vec<Figure> {
    let Some(ours) = case.of(Kind::Hearth, true) else { return Vec::new() };
    let mut figures = Vec::new();
    let peers = [
        ("Hearth without priorities", Kind::Hearth),
        ("round robin", Kind::RoundRobin),
        ("overlap only", Kind::Overlap),
    ];
    let mut tell = |what: &str, value: fn(&Measured) -> f64| {
        for (name, kind) in peers {
            let Some(peer) = case.of(kind, false) else { continue };
            let figure = Figure::new(format!("{}: {what}", case.name()), "s", value(ours));
            figures.push(figure.with_peer(name, value(peer)));
        }
    };
    tell("tagged TTFT p50", |row| row.tagged_ttft_s.p50);
    tell("tagged TTFT p99", |row| row.tagged_ttft_s.p99);
    tell("TTFT p50 of all", |row| row.ttft_s.p50);
    if let Some(first) = figures.first_mut().filter(|_| has_goals) {
        *first = first.clone().with_goal(Goal::RatioAtMost(TAGGED_GOAL));
    }
    figures
}
