//! Streams of one publisher, case by case.

use hearth_proto::limits::{
    EVENT_HELD_BATCHES_MAX, EVENT_HELD_BYTES_MAX, EVENT_REPLAY_STALL_MS, EVENT_SILENCE_MS,
};

use super::*;

type Payload = Vec<u8>;

/// A payload that tells which life of the publisher it is of.
pub(super) fn payload(life: u64, seq: u64) -> Payload {
    [life.to_be_bytes(), seq.to_be_bytes()].concat()
}

/// A caller that does what it is told, and checks the order.
#[derive(Default)]
pub(super) struct Caller {
    pub(super) steps: Vec<Step<Payload>>,
    /// What was applied since the last clear.
    pub(super) applied: Vec<(u64, Payload)>,
    pub(super) clears: Vec<ClearReason>,
    pub(super) asked: Option<u64>,
}

impl Caller {
    pub(super) fn obey(&mut self) {
        for step in self.steps.drain(..) {
            match step {
                Step::Apply { seq, payload } => {
                    if let Some((last, _)) = self.applied.last() {
                        assert_eq!(seq, last + 1, "no holes between clears");
                    }
                    assert_eq!(payload[8..], seq.to_be_bytes());
                    self.applied.push((seq, payload));
                }
                Step::AskReplay { from } => self.asked = Some(from),
                Step::Clear { reason } => {
                    self.applied.clear();
                    self.clears.push(reason);
                }
            }
        }
    }

    pub(super) fn seqs(&self) -> Vec<u64> {
        self.applied.iter().map(|(seq, _)| *seq).collect()
    }
}

/// A stream and its caller, at a time.
pub(super) struct Case {
    pub(super) stream: Stream<Payload>,
    pub(super) caller: Caller,
    pub(super) now_ms: u64,
}

impl Case {
    pub(super) fn new(has_replay: bool) -> Self {
        Self { stream: Stream::new(0, has_replay), caller: Caller::default(), now_ms: 0 }
    }

    pub(super) fn live(&mut self, seq: u64) -> Taken {
        self.live_of(0, seq)
    }

    pub(super) fn live_of(&mut self, life: u64, seq: u64) -> Taken {
        let taken = self.stream.live(self.now_ms, seq, payload(life, seq), &mut self.caller.steps);
        self.caller.obey();
        taken
    }

    pub(super) fn replayed(&mut self, seq: u64) -> Taken {
        let taken = self.stream.replayed(self.now_ms, seq, payload(0, seq), &mut self.caller.steps);
        self.caller.obey();
        taken
    }

    pub(super) fn ended(&mut self) {
        self.stream.replay_ended(self.now_ms, &mut self.caller.steps);
        self.caller.obey();
    }

    pub(super) fn pass(&mut self, ms: u64) {
        self.now_ms += ms;
        self.stream.tick(self.now_ms, &mut self.caller.steps);
        self.caller.obey();
    }
}

#[test]
fn what_comes_in_order_is_applied_and_copies_are_not() {
    let mut case = Case::new(true);
    assert_eq!([0, 1, 2].map(|seq| case.live(seq)), [Taken::Applied; 3]);
    assert_eq!([2, 1].map(|seq| case.live(seq)), [Taken::Ignored; 2]);
    assert_eq!(case.live(3), Taken::Applied);
    assert_eq!(case.caller.seqs(), [0, 1, 2, 3]);
    assert_eq!((case.caller.asked, case.caller.clears.len()), (None, 0));
    assert_eq!((case.stream.stats().applied, case.stream.stats().ignored), (4, 2));
}

#[test]
fn a_hole_is_asked_for_and_filled() {
    let mut case = Case::new(true);
    case.live(0);
    assert_eq!(case.live(3), Taken::Held);
    assert_eq!(case.caller.asked, Some(1));
    assert_eq!(case.live(4), Taken::Held);
    assert!(case.stream.is_replaying() && case.stream.is_behind());
    assert_eq!([1, 2].map(|seq| case.replayed(seq)), [Taken::Applied; 2]);
    assert_eq!(case.caller.seqs(), [0, 1, 2, 3, 4]);
    assert_eq!([3, 4].map(|seq| case.replayed(seq)), [Taken::Ignored; 2]);
    // The replay may be ahead of what is live.
    assert_eq!([case.replayed(5), case.live(5)], [Taken::Applied, Taken::Ignored]);
    case.ended();
    assert!(!case.stream.is_replaying() && !case.stream.is_behind());
    assert_eq!((case.live(6), case.replayed(7)), (Taken::Applied, Taken::Ignored));
    assert!(case.caller.clears.is_empty());
}

#[test]
fn a_hole_that_the_publisher_forgot_costs_what_was_known() {
    let mut case = Case::new(true);
    case.live(0);
    case.live(30);
    assert_eq!(case.replayed(20), Taken::Applied);
    assert_eq!(
        (case.caller.clears.as_slice(), case.caller.seqs()),
        (&[ClearReason::Forgotten][..], vec![20])
    );
    (21..=31).for_each(|seq| {
        case.replayed(seq);
    });
    case.ended();
    assert_eq!(case.caller.seqs(), (20..=31).collect::<Vec<_>>());
    // One that ends with nothing is asked for once more.
    case.live(40);
    case.ended();
    assert_eq!((case.caller.asked, case.caller.clears.len()), (Some(32), 1));
    case.live(41);
    case.ended();
    assert_eq!(case.caller.clears, [ClearReason::Forgotten; 2]);
    assert_eq!(case.caller.seqs(), [40, 41]);
}

#[test]
fn what_was_held_before_a_loss_is_let_go_of() {
    let mut case = Case::new(true);
    assert_eq!([0, 3, 6].map(|seq| case.live(seq)), [Taken::Applied, Taken::Held, Taken::Held]);
    assert_eq!([1, 5].map(|seq| case.replayed(seq)), [Taken::Applied; 2]);
    assert_eq!((case.caller.seqs(), case.caller.clears.len()), (vec![5, 6], 1));
    case.ended();
    assert_eq!((case.live(7), case.caller.seqs()), (Taken::Applied, vec![5, 6, 7]));
}

#[test]
fn bytes_are_held_up_to_a_bound() {
    let mut stream: Stream<Vec<u8>> = Stream::new(0, true);
    let (mut steps, large) = (Vec::new(), || vec![0; EVENT_HELD_BYTES_MAX / 2 + 1]);
    for seq in [2, 7] {
        assert_eq!(stream.live(0, seq, large(), &mut steps), Taken::Held);
        assert_eq!(stream.live(0, seq + 1, large(), &mut steps), Taken::Full);
        assert_eq!(stream.live(0, seq + 2, Vec::new(), &mut steps), Taken::Held);
        (seq - 2..seq + 2).for_each(|seq| {
            stream.replayed(0, seq, Vec::new(), &mut steps);
        });
        stream.replay_ended(0, &mut steps);
        stream.live(0, seq + 3, Vec::new(), &mut steps);
    }
    let applied = steps.iter().filter(|step| matches!(step, Step::Apply { .. })).count();
    assert_eq!((applied, stream.is_behind()), (11, false));
}

#[test]
fn a_replay_that_stands_still_is_asked_for_again_and_then_given_up() {
    let mut case = Case::new(true);
    case.live(0);
    case.live(3);
    assert_eq!(case.stream.deadline_ms(), Some(EVENT_REPLAY_STALL_MS));
    case.pass(EVENT_REPLAY_STALL_MS - 1);
    assert_eq!(case.stream.stats().replays, 1);
    case.replayed(1);
    case.pass(EVENT_REPLAY_STALL_MS - 1);
    assert_eq!(case.stream.stats().replays, 1, "it moves");
    case.pass(1);
    assert_eq!((case.caller.asked, case.stream.stats().replays), (Some(2), 2));
    case.pass(EVENT_REPLAY_STALL_MS);
    assert_eq!((case.stream.stats().replays, case.caller.clears.len()), (3, 0));
    case.pass(EVENT_REPLAY_STALL_MS);
    assert_eq!(case.caller.clears, [ClearReason::ReplayLost]);
    assert_eq!((case.caller.seqs(), case.stream.deadline_ms()), (vec![3], None));
    assert_eq!((case.live(4), case.replayed(2)), (Taken::Applied, Taken::Ignored));
}

#[test]
fn without_a_replay_a_hole_costs_what_was_known() {
    let mut case = Case::new(false);
    // Nothing was known yet.
    assert_eq!(case.live(7), Taken::Applied);
    assert_eq!((case.caller.seqs(), case.caller.clears.len()), (vec![7], 0));
    case.live(9);
    assert_eq!((case.caller.seqs(), case.caller.clears.as_slice()), (vec![9], &[ClearReason::NoReplay][..]));
    case.stream.begin(0, &mut case.caller.steps);
    assert!(case.caller.steps.is_empty());
}

#[test]
fn a_publisher_that_begins_anew_has_nothing() {
    let mut case = Case::new(true);
    (0..5).for_each(|seq| {
        case.live(seq);
    });
    assert_eq!(case.live_of(1, 0), Taken::Applied);
    assert_eq!((case.caller.seqs(), case.caller.clears.as_slice()), (vec![0], &[ClearReason::Restarted][..]));
    (1..5).for_each(|seq| {
        case.live_of(1, seq);
    });
    // Its first batches went by: two in a row tell, and the rest is asked for.
    assert_eq!((case.live_of(2, 2), case.live_of(2, 3)), (Taken::Ignored, Taken::Held));
    assert_eq!((case.caller.asked, case.caller.clears.len()), (Some(0), 2));
    (0..4).for_each(|seq| {
        case.replayed(seq);
    });
    assert_eq!(case.caller.seqs(), [0, 1, 2, 3]);
    // It may be told from elsewhere.
    case.stream.restarted(0, &mut case.caller.steps);
    case.caller.obey();
    assert_eq!((case.caller.seqs().len(), case.caller.asked, case.caller.clears.len()), (0, Some(0), 3));
}

#[test]
fn who_comes_late_gets_what_there_is() {
    let mut case = Case::new(true);
    case.stream.begin(0, &mut case.caller.steps);
    case.caller.obey();
    assert_eq!(case.caller.asked, Some(0));
    assert_eq!(case.live(12), Taken::Held);
    (10..14).for_each(|seq| {
        case.replayed(seq);
    });
    case.ended();
    assert_eq!((case.caller.seqs(), case.caller.clears.len()), (vec![10, 11, 12, 13], 0));
    // A copy of what the replay sent is late, until it would be too late.
    assert_eq!(case.live(13), Taken::Ignored);
    case.replayed(14);
    case.pass(EVENT_REPLAY_STALL_MS);
    assert_eq!(case.live_of(1, 0), Taken::Applied);
    assert_eq!(case.caller.clears, [ClearReason::Restarted]);
}

#[test]
fn an_idle_publisher_known_by_its_replay_alone_is_seen_to_begin_anew() {
    let mut case = Case::new(true);
    case.stream.begin(0, &mut case.caller.steps);
    case.caller.obey();
    (0..500).for_each(|seq| {
        case.replayed(seq);
    });
    case.ended();
    case.pass(EVENT_REPLAY_STALL_MS);
    assert_eq!(case.live_of(1, 0), Taken::Applied);
    assert_eq!((case.caller.seqs(), case.caller.clears.as_slice()), (vec![0], &[ClearReason::Restarted][..]));
}

#[test]
fn what_there_is_no_room_for_is_asked_for_later() {
    let mut case = Case::new(true);
    case.live(0);
    let last = EVENT_HELD_BATCHES_MAX as u64 + 20;
    let taken: Vec<Taken> = (2..=last).map(|seq| case.live(seq)).collect();
    assert!(taken[..EVENT_HELD_BATCHES_MAX].iter().all(|taken| *taken == Taken::Held));
    assert!(taken[EVENT_HELD_BATCHES_MAX..].iter().all(|taken| *taken == Taken::Full));
    assert_eq!(case.stream.stats().full as usize, taken.len() - EVENT_HELD_BATCHES_MAX);
    case.replayed(1);
    case.ended();
    assert_eq!(case.caller.asked, Some(EVENT_HELD_BATCHES_MAX as u64 + 2));
    (EVENT_HELD_BATCHES_MAX as u64 + 2..=last).for_each(|seq| {
        case.replayed(seq);
    });
    case.ended();
    assert_eq!(case.caller.seqs(), (0..=last).collect::<Vec<_>>());
    assert!(case.caller.clears.is_empty() && !case.stream.is_behind());
}

#[test]
fn silence_is_noticed() {
    let mut case = Case::new(true);
    assert!(!case.stream.is_silent(EVENT_SILENCE_MS - 1) && case.stream.is_silent(EVENT_SILENCE_MS));
    case.now_ms = 7;
    case.live(0);
    assert!(!case.stream.is_silent(EVENT_SILENCE_MS) && case.stream.is_silent(EVENT_SILENCE_MS + 7));
    assert!(!case.stream.is_silent(0), "a clock that goes back is no silence");
}
