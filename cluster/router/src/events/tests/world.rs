//! A publisher and what lies between it and its subscriber: any messages, and those of an honest one.

use std::collections::VecDeque;

use hearth_proto::limits::EVENT_REPLAY_STALL_MS;
use proptest::prelude::*;

use super::stream::{Case, payload};

#[derive(Clone, Copy, Debug)]
enum Chaos {
    Live(u64),
    Replayed(u64),
    Next,
    Ended,
    Failed,
    Restarted,
    Pass(u64),
}

fn chaos() -> impl Strategy<Value = Chaos> {
    prop_oneof![
        4 => (0..40_u64).prop_map(Chaos::Live),
        6 => Just(Chaos::Next),
        4 => (0..40_u64).prop_map(Chaos::Replayed),
        1 => Just(Chaos::Ended),
        1 => Just(Chaos::Failed),
        1 => Just(Chaos::Restarted),
        1 => (0..2 * EVENT_REPLAY_STALL_MS).prop_map(Chaos::Pass),
    ]
}

/// What may happen to a publisher that tells the truth, over sockets that keep the order.
#[derive(Clone, Copy, Debug)]
enum Fate {
    Publish { is_lost: bool },
    Serve,
    Deliver { live: usize, replay: usize },
    ReplayFails,
    Restart { is_told: bool },
}

fn fate(can_fail: bool) -> impl Strategy<Value = Fate> {
    let failures = u32::from(can_fail);
    prop_oneof![
        8 => prop::bool::weighted(0.2).prop_map(|is_lost| Fate::Publish { is_lost }),
        3 => Just(Fate::Serve),
        6 => (0..4_usize, 0..4_usize).prop_map(|(live, replay)| Fate::Deliver { live, replay }),
        failures => Just(Fate::ReplayFails),
        failures => any::<bool>().prop_map(|is_told| Fate::Restart { is_told }),
    ]
}

/// A publisher and what lies between it and its subscriber.
struct World {
    case: Case,
    life: u64,
    /// Batches that were published in this life.
    published: u64,
    /// How many of the last it can send again.
    kept: u64,
    live: VecDeque<(u64, u64)>,
    replay: VecDeque<Option<u64>>,
}

impl World {
    fn publish(&mut self, is_lost: bool) {
        if !is_lost {
            self.live.push_back((self.life, self.published));
        }
        self.published += 1;
    }

    fn serve(&mut self) {
        if let Some(from) = self.case.caller.asked.take() {
            let oldest = self.published.saturating_sub(self.kept);
            self.replay = (from.max(oldest)..self.published).map(Some).chain([None]).collect();
        }
    }

    fn deliver(&mut self, live: usize, replay: usize) {
        for _ in 0..live.max(replay) {
            if let Some((life, seq)) = self.live.pop_front() {
                self.case.live_of(life, seq);
                self.close();
            }
            match self.replay.pop_front() {
                Some(Some(seq)) => {
                    let (case, sent) = (&mut self.case, payload(self.life, seq));
                    case.stream.replayed(case.now_ms, seq, sent, &mut case.caller.steps);
                    case.caller.obey();
                }
                Some(None) => self.case.ended(),
                None => {}
            }
            self.close();
        }
    }

    /// A replay that is over, or asked for anew, has nothing more on its socket.
    fn close(&mut self) {
        if !self.case.stream.is_replaying() || self.case.caller.asked.is_some() {
            self.replay.clear();
        }
        if !self.case.stream.is_replaying() {
            self.case.caller.asked = None;
        }
    }

    fn restart(&mut self, is_told: bool) {
        self.deliver(self.live.len(), 0);
        (self.life, self.published) = (self.life + 1, 0);
        self.replay.clear();
        self.case.caller.asked = None;
        // An engine does not come back at once.
        for _ in 0..4 {
            self.case.pass(EVENT_REPLAY_STALL_MS);
        }
        if is_told {
            let case = &mut self.case;
            case.stream.restarted(case.now_ms, &mut case.caller.steps);
            case.caller.obey();
        } else {
            self.publish(false);
            self.deliver(1, 0);
        }
    }

    fn meet(&mut self, fate: Fate) {
        match fate {
            Fate::Publish { is_lost } => self.publish(is_lost),
            Fate::Serve => self.serve(),
            Fate::Deliver { live, replay } => self.deliver(live, replay),
            Fate::ReplayFails => {
                let case = &mut self.case;
                case.stream.replay_failed(case.now_ms, &mut case.caller.steps);
                case.caller.obey();
                self.close();
            }
            Fate::Restart { is_told } => self.restart(is_told),
        }
        let lives: Vec<&[u8]> = self.case.caller.applied.iter().map(|(_, payload)| &payload[..8]).collect();
        assert!(lives.windows(2).all(|pair| pair[0] == pair[1]), "lives are not mixed");
    }

    /// Lets all arrive.
    fn calm(&mut self) {
        self.publish(false);
        for _ in 0..8 {
            self.serve();
            self.deliver(1_000, 1_000);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, ..ProptestConfig::default() })]

    #[test]
    fn whatever_comes_is_applied_in_order(steps in prop::collection::vec(chaos(), 0..200), has_replay: bool) {
        let mut case = Case::new(has_replay);
        let mut next = 0;
        for step in steps {
            match step {
                Chaos::Live(seq) => { next = seq + 1; case.live(seq); }
                Chaos::Next => { case.live(next); next += 1; }
                Chaos::Replayed(seq) => { case.replayed(seq); }
                Chaos::Ended => case.ended(),
                Chaos::Failed => case.stream.replay_failed(case.now_ms, &mut case.caller.steps),
                Chaos::Restarted => case.stream.restarted(case.now_ms, &mut case.caller.steps),
                Chaos::Pass(ms) => case.pass(ms),
            }
            case.caller.obey();
            prop_assert!(has_replay || !case.stream.is_behind(), "nothing waits for what cannot come");
            prop_assert!(!case.stream.is_behind() || case.stream.is_replaying(), "what waits is asked for");
        }
    }

    #[test]
    fn an_honest_publisher_is_followed(
        kept in 0..30_u64,
        begins: bool,
        fates in prop::collection::vec(fate(true), 0..150),
    ) {
        let mut world = World {
            case: Case::new(true),
            life: 0,
            published: 0,
            kept,
            live: VecDeque::new(),
            replay: VecDeque::new(),
        };
        if begins {
            world.case.stream.begin(0, &mut world.case.caller.steps);
            world.case.caller.obey();
        }
        fates.into_iter().for_each(|fate| world.meet(fate));
        world.calm();
        let last = world.case.caller.applied.last().cloned();
        prop_assert_eq!(last, Some((world.published - 1, payload(world.life, world.published - 1))));
    }

    #[test]
    fn what_can_be_had_again_is_never_lost(fates in prop::collection::vec(fate(false), 0..150)) {
        let mut world = World {
            case: Case::new(true),
            life: 0,
            published: 0,
            kept: u64::MAX,
            live: VecDeque::new(),
            replay: VecDeque::new(),
        };
        fates.into_iter().for_each(|fate| world.meet(fate));
        world.calm();
        prop_assert_eq!(world.case.caller.seqs(), (0..world.published).collect::<Vec<_>>());
        prop_assert!(world.case.caller.clears.is_empty());
    }
}
