use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;
use std::time::{Duration, Instant};

use hearth_proto::frame::{BlockCodec, PutEntry};
use proptest::prelude::*;

use super::*;

#[derive(Clone, Default)]
struct Collected(Rc<RefCell<Vec<Outcome>>>);

impl Route for Collected {
    fn deliver(&self, outcome: Outcome) {
        self.0.borrow_mut().push(outcome);
    }
}

const PAYLOAD: &[u8] = b"the bytes of a block";

fn key(request: u64, index: u32) -> BlockKey {
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&request.to_le_bytes());
    bytes[8..12].copy_from_slice(&index.to_le_bytes());
    BlockKey(bytes)
}

fn items(request: u64, count: u32) -> Vec<GetItem> {
    let item = |index| GetItem { key: key(request, index), buffer: BlockBuf::with_capacity(64) };
    (0..count).map(item).collect()
}

fn put_items(count: u32) -> Vec<PutItem> {
    (0..count).map(|index| PutItem::new(key(0, index), bytes::Bytes::from_static(PAYLOAD))).collect()
}

fn answer(request: u64, index: u32) -> GetBlock {
    GetBlock {
        index,
        status: BlockStatus::Ok,
        tier: Some(Tier::Host),
        codec: BlockCodec::Raw,
        generation: Generation(1),
        incarnation: Incarnation(3),
        key: key(request, index),
        crc32: crc32fast::hash(PAYLOAD),
        block_len: PAYLOAD.len() as u32,
    }
}

struct Harness {
    session: Session<Collected>,
    now: Instant,
    deadline: Instant,
}

impl Harness {
    fn new() -> Self {
        let now = Instant::now();
        Self { session: Session::default(), now, deadline: now + Duration::from_secs(1) }
    }

    fn get(&mut self, count: u32) -> (u64, Collected) {
        let route = Collected::default();
        let items = items(self.session.next_id, count);
        let opened = self.session.open_get(
            items,
            Incarnation(0),
            Urgency::Normal,
            self.now,
            self.deadline,
            route.clone(),
        );
        (opened.expect("a get is opened").0, route)
    }

    fn put(&mut self, count: u32) -> (u64, Collected) {
        let route = Collected::default();
        let opened =
            self.session.open_put(&put_items(count), 1 << 20, self.now, self.deadline, route.clone());
        (opened.expect("a put is opened"), route)
    }

    /// Lets a block arrive as a transport would.
    fn arrive(&mut self, request: u64, block: &GetBlock) -> Result<(), Violation> {
        let len = if block.status == BlockStatus::Ok { PAYLOAD.len() as u32 } else { 0 };
        if let Step::Land(mut landing) = self.session.got_block(request, block, len)? {
            landing.room().copy_from_slice(PAYLOAD);
            self.session.landed(landing, crc32fast::hash(PAYLOAD));
        }
        Ok(())
    }
}

fn only_get(route: &Collected) -> GetCompletion {
    match route.0.borrow_mut().pop() {
        Some(Outcome::Got(completion)) => completion,
        other => panic!("no completion of a get: {other:?}"),
    }
}

#[test]
fn a_verified_block_is_delivered_with_its_bytes() {
    let mut harness = Harness::new();
    let (request, route) = harness.get(1);
    harness.arrive(request, &answer(request, 0)).expect("an honest answer");
    let completion = only_get(&route);
    let got = Got { tier: Tier::Host, generation: Generation(1), len: PAYLOAD.len() };
    assert_eq!(completion.result, Ok(got));
    assert_eq!(completion.buffer.as_slice(), PAYLOAD);
    assert_eq!(harness.session.open_requests(), 0);
}

#[test]
fn bytes_that_fail_verification_are_withheld() {
    let wrong = [
        GetBlock { key: key(999, 0), ..answer(1, 0) },
        GetBlock { generation: Generation(0), ..answer(1, 0) },
        GetBlock { crc32: 1, ..answer(1, 0) },
    ];
    for block in wrong {
        let mut harness = Harness::new();
        let (request, route) = harness.get(1);
        harness.arrive(request, &block).expect("the connection lives on");
        let completion = only_get(&route);
        assert_eq!(completion.result, Err(BlockStatus::Corrupt), "{block:?}");
        assert!(completion.buffer.is_empty(), "no bytes with {block:?}");
        assert_eq!(completion.buffer.capacity(), 64, "the caller has its memory back");
    }
}

#[test]
fn an_answer_of_another_incarnation_than_expected_is_stale() {
    let fenced = Err(BlockStatus::Stale);
    let got = Ok(Got { tier: Tier::Host, generation: Generation(1), len: PAYLOAD.len() });
    for (expected, answers, result) in [(3, 3, got), (0, 3, got), (0, 0, got), (3, 4, fenced), (3, 0, fenced)]
    {
        let mut harness = Harness::new();
        let route = Collected::default();
        let (now, deadline) = (harness.now, harness.deadline);
        let opened = harness.session.open_get(
            items(1, 1),
            Incarnation(expected),
            Urgency::Normal,
            now,
            deadline,
            route.clone(),
        );
        let (request, _) = opened.expect("a get is opened");
        let block = GetBlock { incarnation: Incarnation(answers), ..answer(request, 0) };
        harness.arrive(request, &block).expect("the connection lives on");
        let completion = only_get(&route);
        assert_eq!(completion.result, result, "expected {expected}, answered {answers}");
        assert_eq!(completion.buffer.is_empty(), result.is_err());
        assert_eq!(completion.buffer.capacity(), 64, "the caller has its memory back");
    }
}

#[test]
fn a_block_dropped_half_way_completes_when_its_request_is_given_up() {
    let mut harness = Harness::new();
    let (request, route) = harness.get(1);
    let step = harness.session.got_block(request, &answer(request, 0), PAYLOAD.len() as u32);
    let Ok(Step::Land(landing)) = step else { panic!("{step:?}") };
    assert_eq!(landing.deadline(), harness.deadline);
    drop(landing);
    assert!(route.0.borrow().is_empty());
    let given_up = harness.session.abandon(request, BlockStatus::DeadlineExceeded);
    assert_eq!(given_up.map(|outcomes| outcomes.len()), Some(1));
}

#[test]
fn a_reused_buffer_never_shows_the_bytes_of_an_earlier_block() {
    let mut harness = Harness::new();
    let buffer = BlockBuf::from(b"the bytes of an earlier block".to_vec());
    let item = GetItem { key: key(1, 0), buffer };
    let route = Collected::default();
    let opened = harness.session.open_get(
        vec![item],
        Incarnation(0),
        Urgency::Normal,
        harness.now,
        harness.deadline,
        route.clone(),
    );
    let (request, _) = opened.expect("a get is opened");
    harness.arrive(request, &GetBlock::refusal(0, key(1, 0), BlockStatus::Miss)).expect("an honest answer");
    assert!(only_get(&route).buffer.is_empty());
}

#[test]
fn answers_that_nobody_awaits_are_violations() {
    let mut harness = Harness::new();
    let (get, _route) = harness.get(2);
    let (put, _route) = harness.put(1);
    let never = Violation::NeverAsked(99);
    assert_eq!(harness.arrive(99, &answer(99, 0)), Err(never));
    assert_eq!(harness.arrive(0, &answer(0, 0)), Err(Violation::NeverAsked(0)));
    assert_eq!(
        harness.arrive(get, &answer(get, 2)),
        Err(Violation::NotAwaited { request_id: get, index: 2 })
    );
    assert_eq!(harness.arrive(put, &answer(put, 0)), Err(Violation::WrongKind(put)));
    assert_eq!(harness.session.tiers(get, vec![]), Err(Violation::WrongKind(get)));
    harness.arrive(get, &answer(get, 0)).expect("the first answer");
    assert_eq!(
        harness.arrive(get, &answer(get, 0)),
        Err(Violation::NotAwaited { request_id: get, index: 0 })
    );
    let oversize = harness.session.got_block(get, &answer(get, 1), 65);
    assert!(matches!(oversize, Err(Violation::Oversize { .. })), "{oversize:?}");
    let twice =
        vec![PutEntry { index: 0, status: BlockStatus::Ok, existed: false, generation: Generation(1) }; 2];
    let twice = harness.session.put_done(put, &PutDone { entries: twice });
    assert_eq!(twice, Err(Violation::NotAwaited { request_id: put, index: 0 }));
    harness.session.end(BlockStatus::Disconnected);
}

#[test]
fn a_reply_must_have_as_many_entries_as_keys_were_asked() {
    let mut harness = Harness::new();
    let route = Collected::default();
    let keys = vec![key(0, 0), key(0, 1)];
    let opened = harness.session.open_contains(keys.clone(), harness.now, harness.deadline, route.clone());
    let (contains, _) = opened.expect("a question is opened");
    assert_eq!(harness.session.tiers(contains, vec![TierBits::NONE]), Err(Violation::WrongCount(contains)));
    let opened = harness.session.open_remove(keys, harness.now, harness.deadline, route);
    let (remove, _) = opened.expect("a question is opened");
    assert_eq!(harness.session.removed(remove, vec![]), Err(Violation::WrongCount(remove)));
}

#[test]
fn what_cannot_be_asked_completes_at_once() {
    let mut harness = Harness::new();
    let late = harness.session.open_get(
        items(1, 2),
        Incarnation(0),
        Urgency::Normal,
        harness.now,
        harness.now,
        Collected::default(),
    );
    assert_eq!(late.expect_err("the deadline has passed").len(), 2);
    let count = CHAIN_BLOCKS_MAX as u32 + 1;
    let deadline = harness.deadline;
    let many = harness.session.open_get(
        items(1, count),
        Incarnation(0),
        Urgency::Normal,
        harness.now,
        deadline,
        Collected::default(),
    );
    for outcome in many.expect_err("too many blocks") {
        assert!(matches!(outcome, Outcome::Got(GetCompletion { result: Err(BlockStatus::BadRequest), .. })));
    }
    for _ in 0..CONNECTION_REQUESTS_MAX {
        harness.get(1);
    }
    let refused = harness.session.open_contains(vec![key(0, 0)], harness.now, deadline, Collected::default());
    assert_eq!(refused.expect_err("too many requests"), BlockStatus::Overloaded);
    harness.session.end(BlockStatus::ShuttingDown);
    let refused = harness.session.open_contains(vec![key(0, 0)], harness.now, deadline, Collected::default());
    assert_eq!(refused.expect_err("the connection has ended"), BlockStatus::ShuttingDown);
}

#[test]
fn a_put_sends_only_what_the_peer_takes() {
    let mut harness = Harness::new();
    let mut items = put_items(3);
    items[0].payload = bytes::Bytes::new();
    items[2].payload = bytes::Bytes::from_static(&[0; 33]);
    let route = Collected::default();
    let opened = harness.session.open_put(&items, 32, harness.now, harness.deadline, route.clone());
    let request = opened.expect("a put is opened");
    let sent: Vec<bool> = (0..4).map(|index| harness.session.awaits_put(request, index)).collect();
    assert_eq!(sent, [false, true, false, false]);
    let refused: Vec<_> = route.0.borrow_mut().drain(..).collect();
    assert!(matches!(
        refused[..],
        [
            Outcome::Put(PutCompletion { index: 0, result: Err(BlockStatus::BadRequest) }),
            Outcome::Put(PutCompletion { index: 2, result: Err(BlockStatus::TooLarge) }),
        ]
    ));
}

#[test]
fn deadlines_travel_as_a_bounded_number_of_milliseconds() {
    let now = Instant::now();
    assert_eq!(relative_ms(now, now + Duration::from_millis(1_500)), 1_500);
    assert_eq!(relative_ms(now, now + Duration::from_micros(10)), 1, "never zero");
    assert_eq!(relative_ms(now, now + Duration::from_secs(86_400)), CALL_DEADLINE_MS_MAX as u32);
}

#[derive(Clone, Copy, Debug)]
enum Op {
    Get(u32),
    Put(u32),
    /// An answer to a request for a block, of some honesty, its payload landing at once or later.
    Answer {
        request: u64,
        index: u32,
        lie: u8,
        later: bool,
    },
    PutDone {
        request: u64,
        index: u32,
    },
    Land(usize),
    Abandon(u64),
    End,
}

fn any_op() -> impl Strategy<Value = Op> {
    let request = 0..12_u64;
    let index = 0..5_u32;
    prop_oneof![
        3 => (1..5_u32).prop_map(Op::Get),
        2 => (1..5_u32).prop_map(Op::Put),
        12 => (request.clone(), index.clone(), 0..6_u8, any::<bool>())
            .prop_map(|(request, index, lie, later)| Op::Answer { request, index, lie, later }),
        6 => (request.clone(), index).prop_map(|(request, index)| Op::PutDone { request, index }),
        6 => (0..8_usize).prop_map(Op::Land),
        2 => request.prop_map(Op::Abandon),
        1 => Just(Op::End),
    ]
}

/// Lands a block; `honest` says whether the bytes are those that were announced.
fn land(session: &mut Session<Collected>, mut landing: Landing, honest: bool) {
    landing.room().copy_from_slice(PAYLOAD);
    let crc32 = crc32fast::hash(PAYLOAD);
    session.landed(landing, if honest { crc32 } else { !crc32 });
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn every_block_completes_exactly_once_and_only_the_truth_is_delivered(
        ops in proptest::collection::vec(any_op(), 1..80),
    ) {
        let mut harness = Harness::new();
        let mut routes: HashMap<u64, (u32, Collected)> = HashMap::new();
        let mut landings: Vec<(Landing, bool)> = Vec::new();
        let mut truths: HashSet<(u64, u32)> = HashSet::new();
        for op in ops {
            let outcome = match op {
                Op::Get(_) | Op::Put(_) if harness.session.ended.is_some() => Ok(()),
                Op::Get(count) => {
                    let (request, route) = harness.get(count);
                    routes.insert(request, (count, route));
                    Ok(())
                }
                Op::Put(count) => {
                    let (request, route) = harness.put(count);
                    routes.insert(request, (count, route));
                    Ok(())
                }
                Op::Answer { request, index, lie, later } => {
                    let mut block = answer(request, index);
                    match lie {
                        0 => block = GetBlock::refusal(index, block.key, BlockStatus::Miss),
                        1 => block.key = key(request, index + 1),
                        2 => block.generation = Generation(0),
                        _ => {}
                    }
                    let len = if lie == 0 { 0 } else { PAYLOAD.len() as u32 };
                    let honest = lie != 3;
                    match harness.session.got_block(request, &block, len) {
                        Ok(Step::Land(landing)) => {
                            prop_assert!(lie > 2, "{block:?} may not land");
                            if honest {
                                truths.insert((request, index));
                            }
                            if later {
                                landings.push((landing, honest));
                            } else {
                                land(&mut harness.session, landing, honest);
                            }
                            Ok(())
                        }
                        Ok(Step::Discard) => Ok(()),
                        Err(violation) => Err(violation),
                    }
                }
                Op::PutDone { request, index } => {
                    let entry = PutEntry { index, status: BlockStatus::Ok, existed: false, generation: Generation(1) };
                    harness.session.put_done(request, &PutDone { entries: vec![entry] })
                }
                Op::Land(at) => {
                    if at < landings.len() {
                        let (landing, honest) = landings.swap_remove(at);
                        land(&mut harness.session, landing, honest);
                    }
                    Ok(())
                }
                Op::Abandon(request) => {
                    if let Some(outcomes) = harness.session.abandon(request, BlockStatus::DeadlineExceeded) {
                        let (_, route) = &routes[&request];
                        route.0.borrow_mut().extend(outcomes);
                    }
                    Ok(())
                }
                Op::End => {
                    harness.session.end(BlockStatus::Disconnected);
                    Ok(())
                }
            };
            if outcome.is_err() {
                harness.session.end(BlockStatus::Disconnected);
            }
        }
        harness.session.end(BlockStatus::Disconnected);
        for (landing, honest) in landings {
            land(&mut harness.session, landing, honest);
        }
        prop_assert_eq!(harness.session.open_requests(), 0);
        for (request, (count, route)) in routes {
            let mut completed = HashSet::new();
            for outcome in route.0.take() {
                let index = match outcome {
                    Outcome::Got(got) => {
                        prop_assert_eq!(got.result.is_ok(), !got.buffer.is_empty());
                        if got.result.is_ok() {
                            prop_assert!(truths.contains(&(request, got.index)));
                            prop_assert_eq!(got.buffer.as_slice(), PAYLOAD);
                        }
                        got.index
                    }
                    Outcome::Put(put) => put.index,
                    other => panic!("a get or put ends with {other:?}"),
                };
                prop_assert!(completed.insert(index), "block {} completed twice", index);
            }
            prop_assert_eq!(completed.len() as u32, count);
        }
    }
}
