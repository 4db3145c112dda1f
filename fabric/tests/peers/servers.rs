//! A client before servers that break the protocol.

use std::time::{Duration, Instant};

use hearth_fabric::{BlockStatus, ConnectError, Mover, TcpMover, TcpOptions, TcpTimeouts};
use hearth_proto::frame::{
    BlockCodec, Body, CopyBlock, GetBlock, Goodbye, GoodbyeReason, PutDone, PutEntry, VERSION,
};
use hearth_proto::limits::DEADLINE_GRACE_MS;
use hearth_proto::{Classified, ClusterId, ErrorKind, Generation, Incarnation, NamespaceId, Tier, Urgency};
use tokio::net::TcpListener;

use crate::raw::{Raw, frame, frame_of_version, hello_ack, hello_ack_of};
use crate::support::*;

const LEN: usize = 300_000;

async fn listener() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback can be bound");
    let addr = listener.local_addr().expect("a bound listener has an address").to_string();
    (listener, addr)
}

/// A client and the script's end of its connection.
async fn pair(timeouts: TcpTimeouts) -> (TcpMover, Raw) {
    let (listener, addr) = listener().await;
    let options = TcpOptions { cluster: Some(CLUSTER), timeouts };
    let (mover, raw) = tokio::join!(TcpMover::connect(&addr, options, soon()), Raw::accept(&listener));
    (mover.expect("the greeting succeeds"), raw)
}

/// The answer to block 0 of a get, for [`LEN`] bytes.
fn block(index: u32) -> GetBlock {
    GetBlock {
        index,
        status: BlockStatus::Ok,
        tier: Some(Tier::Nvme),
        codec: BlockCodec::Raw,
        generation: Generation(1),
        incarnation: INCARNATION,
        key: key(index),
        crc32: crc32fast::hash(&payload(index, LEN)),
        block_len: LEN as u32,
    }
}

/// Asks for two blocks, lets the script act, and gives what became of them.
async fn two_blocks(
    mover: &TcpMover,
    raw: &mut Raw,
    deadline: Instant,
    script: impl AsyncFnOnce(&mut Raw, u64),
) -> Vec<hearth_fabric::GetCompletion> {
    let asked = get_all(mover, get_items(0..2, LEN), deadline);
    let acted = async {
        let (header, body) = raw.hear().await.expect("a request");
        assert!(matches!(body, Body::Get(_)), "{body:?}");
        script(raw, header.request_id).await;
    };
    tokio::join!(asked, acted).0
}

async fn no_greeting(answer: &[u8]) -> ConnectError {
    let (listener, addr) = listener().await;
    let script = async {
        let mut raw = Raw(listener.accept().await.expect("a client comes").0);
        raw.hear().await.expect("a hello");
        raw.say(answer).await;
        raw.closed().await;
    };
    let options = TcpOptions { cluster: Some(CLUSTER), ..TcpOptions::default() };
    let deadline = Instant::now() + Duration::from_millis(300);
    let connect = async {
        let result = TcpMover::connect(&addr, options, deadline).await;
        result.err().expect("this is no greeting")
    };
    tokio::join!(connect, script).0
}

#[tokio::test]
async fn a_server_of_an_older_version_is_asked_in_that_version() {
    for (version, urgency) in [(1, Urgency::Normal), (VERSION, Urgency::Urgent)] {
        let (listener, addr) = listener().await;
        let script = async {
            let mut raw = Raw(listener.accept().await.expect("a client comes").0);
            let (header, body) = raw.hear().await.expect("a hello");
            assert_eq!(header.version, 1, "a hello that every version knows");
            assert!(matches!(body, Body::Hello(hello) if hello.version_max == VERSION));
            raw.say(&frame(0, &hello_ack_of(version, CLUSTER), &[])).await;
            raw.hear().await.expect("a get")
        };
        let asked = async {
            let mover = TcpMover::connect(&addr, TcpOptions::default(), soon()).await;
            let mover = mover.expect("the greeting succeeds");
            let stream = mover.get(get_items([1], 10), Incarnation(0), Urgency::Urgent, soon());
            (mover, stream)
        };
        let (_asked, (header, body)) = tokio::join!(asked, script);
        assert!(header.version <= version);
        assert!(matches!(body, Body::Get(get) if get.urgency == urgency), "version {version}");
    }
}

#[tokio::test]
async fn a_server_of_before_there_were_copies_is_given_none() {
    let (listener, addr) = listener().await;
    let script = async {
        let mut raw = Raw(listener.accept().await.expect("a client comes").0);
        raw.hear().await.expect("a hello");
        raw.say(&frame(0, &hello_ack_of(CopyBlock::SINCE - 1, CLUSTER), &[])).await;
        let (_, body) = raw.hear().await.expect("a put");
        assert!(matches!(body, Body::PutBlock(block) if block.key == key(2)), "{body:?}");
    };
    let asked = async {
        let mover = TcpMover::connect(&addr, TcpOptions::default(), soon()).await;
        let mover = mover.expect("the greeting succeeds");
        let mut copy = put_items([1], 10);
        copy[0].copy_of = Some(NamespaceId::DEFAULT);
        let refused = put_all(&mover, copy, soon()).await;
        assert_eq!(refused[0].result, Err(BlockStatus::BadRequest));
        let put = mover.put(put_items([2], 10), soon());
        (mover, put)
    };
    let (_asked, ()) = tokio::join!(asked, script);
}

#[tokio::test]
async fn a_greeting_that_fails_says_how() {
    let silent = no_greeting(&[]).await;
    assert!(matches!(silent, ConnectError::DeadlineExceeded), "{silent:?}");
    let garbage = no_greeting(&[0x42; 64]).await;
    assert!(matches!(garbage, ConnectError::Greeting(_)), "{garbage:?}");
    assert_eq!(garbage.kind(), ErrorKind::Stop, "this is no Hearth node");
    let future = no_greeting(&frame_of_version(VERSION + 1, &hello_ack(CLUSTER))).await;
    assert!(matches!(future, ConnectError::Greeting(_)), "{future:?}");
    assert_eq!(future.kind(), ErrorKind::Stop);
    let other = no_greeting(&frame(0, &hello_ack(ClusterId([8; 16])), &[])).await;
    assert!(matches!(other, ConnectError::WrongCluster), "{other:?}");
    let full = Body::Goodbye(Goodbye::new(GoodbyeReason::Overloaded, "come back later"));
    let full = no_greeting(&frame(0, &full, &[])).await;
    assert!(full.to_string().contains("come back later"), "{full}");
    assert_eq!(full.kind(), ErrorKind::Reroute);
    let (listener, addr) = listener().await;
    drop(listener);
    let nobody = TcpMover::connect(&addr, TcpOptions::default(), soon()).await;
    assert!(matches!(nobody, Err(ConnectError::Unreachable(_))));
    no_task_is_left().await;
}

#[tokio::test]
async fn a_server_that_never_answers_costs_no_more_than_the_deadline() {
    let (mover, mut raw) = pair(TcpTimeouts::default()).await;
    let patience = Duration::from_millis(100);
    let mut best = Duration::MAX;
    for _ in 0..5 {
        let begun = Instant::now();
        let completions = two_blocks(&mover, &mut raw, begun + patience, async |raw, request_id| {
            let (header, body) = raw.hear().await.expect("the request is cancelled");
            assert_eq!((header.request_id, body), (request_id, Body::Cancel));
        })
        .await;
        assert_eq!(failures(&completions), [Some(BlockStatus::DeadlineExceeded); 2]);
        best = best.min(begun.elapsed());
    }
    assert!(best <= patience + Duration::from_millis(DEADLINE_GRACE_MS), "took {best:?} at best");
    let failed = mover.contains(vec![key(1)], Instant::now() + patience).await;
    assert_eq!(failed, Err(BlockStatus::DeadlineExceeded));
    assert!(!mover.is_closed(), "silence alone does not end a connection");
    drop(mover);
    raw.closed().await;
    no_task_is_left().await;
}

#[tokio::test]
async fn an_answer_after_the_deadline_is_discarded() {
    let (mover, mut raw) = pair(TcpTimeouts::default()).await;
    let soon_over = Instant::now() + Duration::from_millis(50);
    let mut first = 0;
    two_blocks(&mover, &mut raw, soon_over, async |raw, request_id| {
        raw.hear().await.expect("the request is cancelled");
        first = request_id;
    })
    .await;
    raw.say(&frame(first, &Body::GetBlock(block(0)), &payload(0, LEN))).await;
    let completions = two_blocks(&mover, &mut raw, soon(), async |raw, request_id| {
        raw.say(&frame(first, &Body::GetBlock(block(1)), &payload(1, LEN))).await;
        for index in [1, 0] {
            raw.say(&frame(request_id, &Body::GetBlock(block(index)), &payload(index, LEN))).await;
        }
    })
    .await;
    assert_eq!(failures(&completions), [None, None]);
    assert_eq!(completions[1].buffer.as_slice(), payload(1, LEN));
}

#[tokio::test]
async fn garbage_ends_the_connection_and_all_that_is_outstanding() {
    let never_asked = frame(77, &Body::GetBlock(block(0)), &payload(0, LEN));
    let out_of_place = frame(1, &Body::Cancel, &[]);
    let future = frame_of_version(VERSION + 1, &Body::Cancel);
    let mut torn = frame(1, &Body::GetBlock(block(0)), &payload(0, LEN));
    torn[40] ^= 1;
    for garbage in [vec![0xee; 4_096], never_asked, out_of_place, future, torn] {
        let (mover, mut raw) = pair(TcpTimeouts::default()).await;
        let waiting = mover.contains(vec![key(9)], soon());
        let asked = two_blocks(&mover, &mut raw, soon(), async |raw, request_id| {
            raw.say(&frame(request_id, &Body::GetBlock(block(0)), &payload(0, LEN))).await;
            raw.hear().await.expect("the question");
            raw.say(&garbage).await;
            raw.closed().await;
        });
        let (completions, waiting) = tokio::join!(asked, waiting);
        assert_eq!(failures(&completions), [None, Some(BlockStatus::Disconnected)]);
        assert_eq!(waiting, Err(BlockStatus::Disconnected));
        assert!(mover.is_closed());
        no_task_is_left().await;
    }
}

#[tokio::test]
async fn a_block_answered_twice_ends_the_connection() {
    let (mover, mut raw) = pair(TcpTimeouts::default()).await;
    let completions = two_blocks(&mover, &mut raw, soon(), async |raw, request_id| {
        for _ in 0..2 {
            raw.say(&frame(request_id, &Body::GetBlock(block(0)), &payload(0, LEN))).await;
        }
        raw.closed().await;
    })
    .await;
    assert_eq!(failures(&completions), [None, Some(BlockStatus::Disconnected)]);
}

#[tokio::test]
async fn more_bytes_than_the_buffer_holds_are_never_written() {
    let (mover, mut raw) = pair(TcpTimeouts::default()).await;
    let longer = LEN + 1;
    let completions = two_blocks(&mover, &mut raw, soon(), async |raw, request_id| {
        let block = GetBlock { block_len: longer as u32, ..block(0) };
        let head = frame(request_id, &Body::GetBlock(block), &payload(0, longer));
        // The client may close before it has read all of it.
        let _cut_off = tokio::io::AsyncWriteExt::write_all(&mut raw.0, &head).await;
        raw.closed().await;
    })
    .await;
    assert_eq!(failures(&completions), [Some(BlockStatus::Disconnected); 2]);
    assert!(mover.is_closed());
}

#[tokio::test]
async fn a_block_under_another_key_is_withheld() {
    let (mover, mut raw) = pair(TcpTimeouts::default()).await;
    let completions = two_blocks(&mover, &mut raw, soon(), async |raw, request_id| {
        let mixed_up = GetBlock { index: 0, ..block(1) };
        raw.say(&frame(request_id, &Body::GetBlock(mixed_up), &payload(1, LEN))).await;
        raw.say(&frame(request_id, &Body::GetBlock(block(1)), &payload(1, LEN))).await;
    })
    .await;
    assert_eq!(failures(&completions), [Some(BlockStatus::Corrupt), None]);
    assert!(completions[0].buffer.is_empty());
    assert!(!mover.is_closed());
}

#[tokio::test]
async fn bytes_that_changed_on_the_way_are_withheld() {
    let (mover, mut raw) = pair(TcpTimeouts::default()).await;
    let completions = two_blocks(&mover, &mut raw, soon(), async |raw, request_id| {
        let mut bytes = payload(0, LEN).to_vec();
        bytes[LEN - 1] ^= 0x80;
        raw.say(&frame(request_id, &Body::GetBlock(block(0)), &bytes)).await;
        raw.say(&frame(request_id, &Body::GetBlock(block(1)), &payload(1, LEN))).await;
    })
    .await;
    assert_eq!(failures(&completions), [Some(BlockStatus::Corrupt), None]);
}

#[tokio::test]
async fn a_half_written_block_and_a_close_complete_everything() {
    for cut in [1, 31, 60, 100, LEN] {
        let (mover, raw) = pair(TcpTimeouts::default()).await;
        let mut ends = Some(raw);
        let asked = get_all(&mover, get_items(0..2, LEN), soon());
        let script = async {
            let mut raw = ends.take().expect("the script's end");
            let (header, _) = raw.hear().await.expect("a request");
            let bytes = frame(header.request_id, &Body::GetBlock(block(0)), &payload(0, LEN));
            raw.say(&bytes[..cut]).await;
        };
        let (completions, ()) = tokio::join!(asked, script);
        assert_eq!(failures(&completions), [Some(BlockStatus::Disconnected); 2], "cut at {cut}");
        assert_eq!(completions[1].buffer.capacity(), LEN);
        no_task_is_left().await;
    }
}

#[tokio::test]
async fn a_block_that_stalls_half_way_ends_at_the_deadline_and_the_connection_after_it() {
    let stall = Duration::from_millis(400);
    let (mover, mut raw) = pair(TcpTimeouts { stall, ..TcpTimeouts::default() }).await;
    let begun = Instant::now();
    let completions =
        two_blocks(&mover, &mut raw, begun + Duration::from_millis(100), async |raw, request_id| {
            let bytes = frame(request_id, &Body::GetBlock(block(0)), &payload(0, LEN));
            raw.say(&bytes[..LEN / 2]).await;
        })
        .await;
    assert_eq!(failures(&completions), [Some(BlockStatus::DeadlineExceeded); 2]);
    assert!(begun.elapsed() < stall, "the caller does not wait for the connection");
    assert_eq!(completions[0].buffer.capacity(), 0, "its memory was being written to");
    assert_eq!(completions[1].buffer.capacity(), LEN);
    raw.closed().await;
    assert!(mover.is_closed());
    no_task_is_left().await;
}

#[tokio::test]
async fn a_block_that_trickles_in_ends_at_the_deadline_and_the_connection_after_it() {
    let stall = Duration::from_millis(400);
    let (mover, mut raw) = pair(TcpTimeouts { stall, ..TcpTimeouts::default() }).await;
    let deadline = Instant::now() + Duration::from_millis(100);
    let completions = two_blocks(&mover, &mut raw, deadline, async |raw, request_id| {
        let bytes = frame(request_id, &Body::GetBlock(block(0)), &payload(0, LEN));
        raw.say(&bytes[..LEN / 2]).await;
        raw.trickle_until_closed(&bytes[LEN / 2..]).await;
    })
    .await;
    assert_eq!(failures(&completions), [Some(BlockStatus::DeadlineExceeded); 2]);
    assert!(mover.is_closed());
    no_task_is_left().await;
}

#[tokio::test]
async fn a_block_half_way_at_the_deadline_does_not_end_the_connection() {
    let (mover, mut raw) = pair(TcpTimeouts::default()).await;
    let soon_over = Instant::now() + Duration::from_millis(100);
    let mut rest = Vec::new();
    let completions = two_blocks(&mover, &mut raw, soon_over, async |raw, request_id| {
        let bytes = frame(request_id, &Body::GetBlock(block(0)), &payload(0, LEN));
        raw.say(&bytes[..LEN / 2]).await;
        rest = bytes[LEN / 2..].to_vec();
        raw.hear().await.expect("the request is cancelled");
    })
    .await;
    assert_eq!(failures(&completions), [Some(BlockStatus::DeadlineExceeded); 2]);
    raw.say(&rest).await;
    let completions = two_blocks(&mover, &mut raw, soon(), async |raw, request_id| {
        for index in [0, 1] {
            raw.say(&frame(request_id, &Body::GetBlock(block(index)), &payload(index, LEN))).await;
        }
    })
    .await;
    assert_eq!(failures(&completions), [None, None]);
    assert_eq!(completions[0].buffer.as_slice(), payload(0, LEN));
}

#[tokio::test]
async fn a_server_that_reads_nothing_stops_no_put_from_ending() {
    let stall = Duration::from_millis(400);
    let (mover, raw) = pair(TcpTimeouts { stall, ..TcpTimeouts::default() }).await;
    let begun = Instant::now();
    let patience = Duration::from_millis(100);
    let puts = put_all(&mover, put_items(0..8, 4 << 20), begun + patience).await;
    assert!(puts.iter().all(|put| put.result == Err(BlockStatus::DeadlineExceeded)));
    assert!(begun.elapsed() < stall, "the caller does not wait for the connection");
    in_time(mover.close()).await;
    drop(raw);
    no_task_is_left().await;
}

#[tokio::test]
async fn puts_are_acknowledged_one_by_one_and_never_without_a_generation() {
    let (mover, mut raw) = pair(TcpTimeouts::default()).await;
    let asked = put_all(&mover, put_items(0..3, 1_000), soon());
    let script = async {
        let mut request_id = 0;
        for expected in 0..3 {
            let (header, body) = raw.hear().await.expect("a block");
            let Body::PutBlock(block) = body else { panic!("{body:?}") };
            assert_eq!((block.index, block.key), (expected, key(expected)));
            assert_eq!(raw.hear_payload(&header).await, payload(expected, 1_000));
            request_id = header.request_id;
        }
        let entry = |index, status, generation| PutEntry { index, status, existed: false, generation };
        for entries in [
            vec![entry(2, BlockStatus::Ok, Generation(4))],
            vec![entry(0, BlockStatus::Full, Generation(0)), entry(1, BlockStatus::Ok, Generation(0))],
        ] {
            raw.say(&frame(request_id, &Body::PutDone(PutDone { entries }), &[])).await;
        }
    };
    let (puts, ()) = tokio::join!(asked, script);
    let failed: Vec<_> = puts.iter().map(|put| put.result.err()).collect();
    assert_eq!(failed, [Some(BlockStatus::Full), Some(BlockStatus::Corrupt), None]);
}

#[tokio::test]
async fn a_goodbye_says_why_everything_failed() {
    for (reason, status) in [
        (GoodbyeReason::ShuttingDown, BlockStatus::ShuttingDown),
        (GoodbyeReason::Overloaded, BlockStatus::Overloaded),
        (GoodbyeReason::ProtocolError, BlockStatus::Disconnected),
    ] {
        let (mover, mut raw) = pair(TcpTimeouts::default()).await;
        let completions = two_blocks(&mover, &mut raw, soon(), async |raw, _| {
            raw.say(&frame(0, &Body::Goodbye(Goodbye::new(reason, "bye")), &[])).await;
            raw.closed().await;
        })
        .await;
        assert_eq!(failures(&completions), [Some(status); 2]);
        let mut later = mover.get(get_items([1], 10), Incarnation(0), Urgency::Normal, soon());
        assert_eq!(later.next().await.and_then(|got| got.result.err()), Some(status));
    }
}
