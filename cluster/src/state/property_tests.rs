//! Properties of the state machines under loss, repetition and disorder.

use std::collections::{BTreeMap, BTreeSet};

use hearth_proto::{BlockDelta, GroupId, NodeId, Tier, v1};
use proptest::prelude::*;
use v1::command::Body;
use v1::outcome::Kind;

use super::directory::tier_bit;
use super::tests::{
    CLUSTER, admit, apply, as_control, control, delta, differing, down, found, held, parts_of, register,
    report, resync,
};
use super::{RecordKey, State};

/// Block numbers and tiers that a node holds.
type Held = BTreeSet<(u8, u8)>;

/// What one simulated node does next.
#[derive(Clone, Debug)]
enum Act {
    Change(u8, Tier, bool),
    Report,
    /// The delivery of the message at this position, again or late.
    Replay(usize),
    Restart,
    Purge(u64),
}

fn act() -> impl Strategy<Value = Act> {
    let tier = prop_oneof![Just(Tier::Host), Just(Tier::Nvme)];
    prop_oneof![
        6 => (0..24u8, tier, any::<bool>()).prop_map(|(number, tier, added)| Act::Change(number, tier, added)),
        4 => Just(Act::Report),
        4 => any::<usize>().prop_map(Act::Replay),
        1 => Just(Act::Restart),
        1 => (0..4u64).prop_map(Act::Purge),
    ]
}

/// A node as the reporter of this crate behaves, over a network that repeats and delays.
struct Reporter {
    node: u64,
    incarnation: u64,
    sequence: u64,
    synced: bool,
    holds: Held,
    queue: Vec<BlockDelta>,
}

impl Reporter {
    fn change(&mut self, number: u8, tier: Tier, added: bool) {
        let entry = (number, tier as u8);
        if added {
            self.holds.insert(entry)
        } else {
            self.holds.remove(&entry)
        };
        self.queue.push(delta(number, tier, added));
    }

    fn inventory(&self) -> Vec<BlockDelta> {
        let holds = self.holds.iter();
        holds.map(|(number, tier)| delta(*number, Tier::from_wire(*tier).unwrap(), true)).collect()
    }

    fn report(&mut self, state: &mut State, sent: &mut Vec<Body>) {
        for _ in 0..3 {
            if !self.synced && self.node > 1 {
                if !self.resync(state, sent) {
                    continue;
                }
                self.synced = true;
            }
            self.sequence += 1;
            let reset = !self.synced;
            if reset {
                self.queue = self.inventory();
            }
            let body = report(self.node, self.incarnation, self.sequence, reset, &self.queue);
            sent.push(body.clone());
            match apply(state, 1, body) {
                Kind::ReportApplied(_) => {
                    self.queue.clear();
                    self.synced = true;
                    return;
                }
                other => self.refused(other),
            }
        }
        panic!("nothing is taken");
    }

    /// Leaves in the queue what is to be told. False if it is to be tried again.
    fn resync(&mut self, state: &mut State, sent: &mut Vec<Body>) -> bool {
        let inventory = self.inventory();
        let mut told = Vec::new();
        for first in [0, 64, 192] {
            self.sequence += 1;
            let ranges = first..(first * 3).clamp(64, 256);
            let body = resync(self.node, self.incarnation, self.sequence, ranges, &inventory);
            sent.push(body.clone());
            match apply(state, 1, body) {
                kind @ Kind::HolderResynced(_) => told.extend(differing(kind)),
                other => {
                    self.refused(other);
                    return false;
                }
            }
        }
        let parts = parts_of(self.node);
        let is_told =
            |delta: &BlockDelta| told.contains(&(delta.tier as i32, super::Digests::place(&delta.id, parts)));
        self.queue = inventory.into_iter().filter(is_told).collect();
        true
    }

    fn refused(&mut self, kind: Kind) {
        self.synced = false;
        match kind {
            Kind::ReportGap(_) => {}
            Kind::Superseded(newer) => {
                // It was purged: it registers again, above whatever fenced it.
                self.incarnation = newer.incarnation.max(self.incarnation + 1);
                self.sequence = 0;
            }
            other => panic!("{other:?}"),
        }
    }
}

/// The final state, the commands that led to it, and what each node holds in truth.
fn simulate(acts: &[(u8, Act)]) -> (State, Vec<Body>, BTreeMap<u64, Held>) {
    let mut state = State::new(GroupId::DIRECTORY);
    let mut sent = Vec::new();
    let mut log = Vec::new();
    let mut nodes: Vec<Reporter> = (1..=3)
        .map(|node| Reporter {
            node,
            incarnation: 1,
            sequence: 0,
            synced: false,
            holds: BTreeSet::new(),
            queue: Vec::new(),
        })
        .collect();
    for (node, act) in acts {
        let reporter = &mut nodes[usize::from(*node) % 3];
        let before = sent.len();
        match act {
            Act::Change(number, tier, added) => reporter.change(*number, *tier, *added),
            Act::Report => reporter.report(&mut state, &mut sent),
            Act::Replay(position) if !sent.is_empty() => {
                let late: Body = sent[position % sent.len()].clone();
                apply(&mut state, 1, late.clone());
                log.push(late);
            }
            Act::Replay(_) => {}
            Act::Restart => {
                reporter.incarnation += 1;
                reporter.sequence = 0;
                reporter.synced = false;
                reporter.queue.clear();
            }
            Act::Purge(incarnation) => {
                let (node_id, incarnation) = (reporter.node, *incarnation);
                let purge = Body::PurgeClaims(v1::PurgeClaims { node_id, incarnation, forget: false });
                apply(&mut state, 1, purge.clone());
                log.push(purge);
            }
        }
        log.extend_from_slice(&sent[before..]);
    }
    for reporter in &mut nodes {
        let before = sent.len();
        reporter.report(&mut state, &mut sent);
        log.extend_from_slice(&sent[before..]);
    }
    let truth = nodes.into_iter().map(|reporter| (reporter.node, reporter.holds)).collect();
    (state, log, truth)
}

fn claims(state: &State) -> BTreeMap<u64, Held> {
    let mut claims: BTreeMap<u64, Held> = (1..=3).map(|node| (node, BTreeSet::new())).collect();
    for number in 0..24 {
        for (node, tiers) in held(state, number) {
            let held = Tier::ALL.into_iter().filter(|tier| tiers & tier_bit(*tier) != 0);
            claims.entry(node).or_default().extend(held.map(|tier| (number, tier as u8)));
        }
    }
    claims
}

pub(super) fn restored(group: GroupId, records: &[(Vec<u8>, Vec<u8>)]) -> State {
    let mut state = State::new(group);
    for (key, value) in records {
        state.restore(key, value).unwrap();
    }
    state
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn repeated_late_and_lost_reports_end_in_the_truth(acts in prop::collection::vec((0..3u8, act()), 0..120)) {
        let (state, _, truth) = simulate(&acts);
        prop_assert_eq!(claims(&state), truth);
    }

    #[test]
    fn the_same_commands_give_the_same_bytes(acts in prop::collection::vec((0..3u8, act()), 0..120)) {
        let (state, log, _) = simulate(&acts);
        let mut again = State::new(GroupId::DIRECTORY);
        for body in &log {
            apply(&mut again, 1, body.clone());
        }
        prop_assert_eq!(again.encode(), state.encode());
    }

    /// A snapshot that is written while commands go on is of the moment at which it was begun, and what is
    /// restored from it goes on exactly like the original.
    #[test]
    fn snapshots_are_of_their_moment_and_restored_whole(
        acts in prop::collection::vec((0..3u8, act()), 0..120),
        cut in 0..200usize,
        slots in 1..3u32,
        pieces in 0..40usize,
    ) {
        let (_, log, _) = simulate(&acts);
        let cut = cut.min(log.len());
        let mut state = State::new(GroupId::DIRECTORY);
        for body in &log[..cut] {
            apply(&mut state, 1, body.clone());
        }
        let at_cut = state.encode();
        let (records, walk) = state.begin_snapshot(1);
        let walk = walk.unwrap();
        let mut stored: Vec<_> = records.into_iter().map(|(key, value)| (key.encode(), value)).collect();
        let mut write = |state: &State, pieces: usize| {
            let mut more = true;
            for _ in 0..pieces {
                let mut value = Vec::new();
                more = state.write_snapshot(&walk, slots, &mut value).unwrap();
                stored.push((RecordKey::Blocks.encode(), value));
                if !more {
                    break;
                }
            }
            more
        };
        let mut rest = Vec::new();
        for body in &log[cut..] {
            rest.push(apply(&mut state, 1, body.clone()));
            write(&state, pieces);
        }
        prop_assert!(!write(&state, usize::MAX));
        state.end_snapshot(&walk);
        let mut copy = restored(GroupId::DIRECTORY, &stored);
        prop_assert_eq!(copy.encode(), at_cut);
        let again: Vec<_> = log[cut..].iter().map(|body| apply(&mut copy, 1, body.clone())).collect();
        prop_assert_eq!(again, rest);
        prop_assert_eq!(copy.encode(), state.encode());
    }

    #[test]
    fn control_states_are_restored_whole(
        steps in prop::collection::vec((0..4u8, 1..6u8, 0..4u8), 0..60),
        cut in 0..60usize,
    ) {
        let run = |state: &mut State, (what, node, argument): (u8, u8, u8)| match what {
            0 => admit(state, node),
            1 => register(state, u64::from(node), argument),
            2 => down(state, u64::from(node), u64::from(argument)),
            _ => found(state, CLUSTER),
        };
        let mut state = control();
        let cut = cut.min(steps.len());
        for step in &steps[..cut] {
            run(&mut state, *step);
        }
        let mut copy = restored(GroupId::CONTROL, &state.encode());
        for step in &steps[cut..] {
            prop_assert_eq!(run(&mut copy, *step), run(&mut state, *step));
        }
        prop_assert_eq!(copy.encode(), state.encode());
        for node in 1..8 {
            let serving = |state: &State| as_control(state).serving_incarnation(NodeId(node));
            prop_assert_eq!(serving(&copy), serving(&state));
        }
    }
}
