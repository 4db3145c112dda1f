//! A server before clients that break the protocol.

use std::sync::Arc;
use std::time::Duration;

use hearth_fabric::{BlockStatus, ConnectError, Mover, TcpMover, TcpOptions, TcpTimeouts, serve_tcp_with};
use hearth_proto::frame::{Body, Get, GetEntry, Goodbye, GoodbyeReason, Hello, Keys, PutBlock, VERSION};
use hearth_proto::limits::{CONNECTION_REQUESTS_MAX, CONNECTIONS_MAX};
use hearth_proto::{AckLevel, ClusterId, Incarnation, Retention, Urgency};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::raw::{Raw, TRICKLE, frame, frame_of_version, hello};
use crate::support::*;

/// Short, so that a test need not wait long for the server to lose patience.
fn impatient() -> TcpTimeouts {
    TcpTimeouts {
        handshake: Duration::from_millis(400),
        stall: Duration::from_millis(700),
        idle: Duration::from_millis(1_500),
        slot_wait: Duration::from_millis(50),
        drain: Duration::from_millis(500),
        linger: Duration::from_millis(300),
    }
}

struct Server {
    addr: String,
    service: Arc<MemoryService>,
    shutdown: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Server {
    async fn start(timeouts: TcpTimeouts) -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("loopback can be bound");
        let addr = listener.local_addr().expect("a bound listener has an address").to_string();
        let service = Arc::new(MemoryService::default());
        let shutdown = CancellationToken::new();
        let task = tokio::spawn(serve_tcp_with(listener, Arc::clone(&service), shutdown.clone(), timeouts));
        Self { addr, service, shutdown, task }
    }

    async fn connect(&self) -> Result<TcpMover, ConnectError> {
        TcpMover::connect(&self.addr, TcpOptions { cluster: Some(CLUSTER), ..TcpOptions::default() }, soon())
            .await
    }

    /// Checks that an honest client is served, then ends everything and checks that nothing is left.
    async fn finish(self) {
        let mover = self.connect().await.expect("the server goes on");
        for put in put_all(&mover, put_items(900_000..900_003, 1_000), soon()).await {
            put.result.expect("the server goes on");
        }
        drop(mover);
        self.service.lent.reaches(0).await;
        self.shutdown.cancel();
        in_time(self.task).await.expect("the server does not panic");
        no_task_is_left().await;
    }
}

fn get(numbers: std::ops::Range<u32>, capacity: u32) -> Body {
    let entries = numbers.map(|number| GetEntry { key: key(number), capacity }).collect();
    Body::Get(Get { deadline_ms: 60_000, urgency: Urgency::Normal, incarnation: Incarnation(0), entries })
}

fn put(number: u32, bytes: &[u8]) -> Body {
    Body::PutBlock(PutBlock {
        index: 0,
        ack: AckLevel::Host,
        retention: Retention::default(),
        depth: 0,
        deadline_ms: 60_000,
        key: key(number),
        crc32: crc32fast::hash(bytes),
    })
}

async fn goodbye(raw: &mut Raw) -> GoodbyeReason {
    let (_, body) = raw.hear().await.expect("a goodbye");
    let Body::Goodbye(goodbye) = body else { panic!("{body:?}") };
    assert!(!goodbye.text().is_empty());
    goodbye.reason
}

#[tokio::test]
async fn a_bad_greeting_is_refused_by_name() {
    let server = Server::start(impatient()).await;
    let future =
        Body::Hello(Hello { version_min: VERSION + 1, version_max: VERSION + 5, cluster_id: CLUSTER });
    for (greeting, reason) in [
        (vec![0xaa; 100], GoodbyeReason::ProtocolError),
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n".to_vec(), GoodbyeReason::ProtocolError),
        (frame(1, &get(0..1, 10), &[]), GoodbyeReason::ProtocolError),
        (frame(0, &hello(ClusterId([9; 16])), &[]), GoodbyeReason::WrongCluster),
        (frame(0, &future, &[]), GoodbyeReason::WrongVersion),
        (frame_of_version(VERSION + 1, &hello(CLUSTER)), GoodbyeReason::WrongVersion),
        (vec![], GoodbyeReason::Idle),
        (frame(0, &hello(CLUSTER), &[])[..20].to_vec(), GoodbyeReason::Idle),
    ] {
        let mut raw = Raw::connect(&server.addr).await;
        raw.say(&greeting).await;
        assert_eq!(goodbye(&mut raw).await, reason, "{greeting:02x?}");
        assert!(raw.hear().await.is_none(), "nothing after goodbye");
    }
    let mut any = Raw::connect(&server.addr).await;
    any.say(&frame(0, &hello(ClusterId::default()), &[])).await;
    assert!(matches!(any.hear().await, Some((_, Body::HelloAck(_)))), "zeros take any cluster");
    let other = TcpOptions { cluster: Some(ClusterId([9; 16])), ..TcpOptions::default() };
    let refused = TcpMover::connect(&server.addr, other, soon()).await.err();
    assert!(matches!(refused, Some(ConnectError::Refused { reason: GoodbyeReason::WrongCluster, .. })));
    drop(any);
    server.finish().await;
}

#[tokio::test]
async fn garbage_after_the_greeting_is_refused_and_frees_what_was_in_work() {
    let server = Server::start(impatient()).await;
    server.service.fault(key(1), Fault::Waits(Arc::new(Semaphore::new(0))));
    let mut torn = frame(3, &put(7, &[1; 100]), &[1; 100]);
    torn[50] ^= 1;
    for (garbage, reason) in [
        (vec![0xbb; 200], GoodbyeReason::ProtocolError),
        (torn, GoodbyeReason::ProtocolError),
        (frame(0, &hello(CLUSTER), &[]), GoodbyeReason::ProtocolError),
        (frame(1, &get(1..2, 10), &[]), GoodbyeReason::ProtocolError),
        (frame_of_version(VERSION + 1, &Body::Cancel), GoodbyeReason::WrongVersion),
    ] {
        let mut raw = Raw::greeted(&server.addr).await;
        raw.say(&frame(1, &get(1..2, 10), &[])).await;
        server.service.waiting.reaches(1).await;
        raw.say(&garbage).await;
        assert_eq!(goodbye(&mut raw).await, reason, "{garbage:02x?}");
        server.service.waiting.reaches(0).await;
    }
    server.finish().await;
}

#[tokio::test]
async fn too_many_requests_end_the_connection() {
    let server = Server::start(impatient()).await;
    server.service.fault(key(1), Fault::Waits(Arc::new(Semaphore::new(0))));
    let mut raw = Raw::greeted(&server.addr).await;
    let mut flood = Vec::new();
    for request_id in 1..=CONNECTION_REQUESTS_MAX as u64 + 1 {
        flood.extend(frame(request_id, &get(1..2, 10), &[]));
    }
    raw.say(&flood).await;
    assert_eq!(goodbye(&mut raw).await, GoodbyeReason::Overloaded);
    server.finish().await;
}

#[tokio::test]
async fn a_put_cut_off_half_way_gives_its_slot_back() {
    let server = Server::start(impatient()).await;
    let bytes = payload(1, 1 << 20);
    let whole = frame(1, &put(1, &bytes), &bytes);
    for cut in [10, 60, 100, whole.len() / 2, whole.len() - 1] {
        let mut raw = Raw::greeted(&server.addr).await;
        raw.say(&whole[..cut]).await;
        drop(raw);
    }
    let mut stalled = Raw::greeted(&server.addr).await;
    stalled.say(&whole[..whole.len() / 2]).await;
    server.service.lent.reaches(1).await;
    stalled.closed().await;
    server.service.lent.reaches(0).await;
    assert!(!server.service.holds(key(1)));
    server.finish().await;
}

#[tokio::test]
async fn a_put_that_trickles_in_gives_its_slot_back() {
    let server = Server::start(impatient()).await;
    let bytes = payload(1, 1 << 20);
    let whole = frame(1, &put(1, &bytes), &bytes);
    let mut raw = Raw::greeted(&server.addr).await;
    raw.say(&whole[..whole.len() / 2]).await;
    server.service.lent.reaches(1).await;
    raw.trickle_until_closed(&whole[whole.len() / 2..]).await;
    server.service.lent.reaches(0).await;
    assert!(!server.service.holds(key(1)));
    server.finish().await;
}

#[tokio::test]
async fn a_put_past_its_deadline_gives_its_slot_back_and_the_connection_goes_on() {
    let server = Server::start(TcpTimeouts { stall: PATIENCE, idle: PATIENCE, ..impatient() }).await;
    let bytes = payload(1, 1 << 20);
    let Body::PutBlock(block) = put(1, &bytes) else { unreachable!() };
    let whole = frame(1, &Body::PutBlock(PutBlock { deadline_ms: 200, ..block }), &bytes);
    let mut raw = Raw::greeted(&server.addr).await;
    raw.say(&whole[..whole.len() / 2]).await;
    server.service.lent.reaches(1).await;
    server.service.lent.reaches(0).await;
    raw.say(&whole[whole.len() / 2..]).await;
    let (_, body) = raw.hear().await.expect("an answer");
    let Body::PutDone(done) = body else { panic!("{body:?}") };
    assert_eq!(done.entries[0].status, BlockStatus::DeadlineExceeded);
    assert!(!server.service.holds(key(1)));
    raw.say(&frame(2, &put(1, &bytes), &bytes)).await;
    let (_, body) = raw.hear().await.expect("an answer");
    let Body::PutDone(done) = body else { panic!("{body:?}") };
    assert_eq!(done.entries[0].status, BlockStatus::Ok);
    drop(raw);
    server.finish().await;
}

#[tokio::test]
async fn a_frame_that_trickles_in_ends_the_connection() {
    let server = Server::start(impatient()).await;
    let keys = (0..4_096).map(key).collect();
    let question = frame(1, &Body::Contains(Keys { deadline_ms: 60_000, keys }), &[]);
    let mut raw = Raw::greeted(&server.addr).await;
    raw.trickle_until_closed(&question).await;
    server.finish().await;
}

#[tokio::test]
async fn a_client_that_reads_a_trickle_gives_its_leases_back() {
    let timeouts = TcpTimeouts { stall: Duration::from_secs(2), idle: PATIENCE * 2, ..impatient() };
    let server = Server::start(timeouts).await;
    let len = 1 << 20;
    for number in 0..64 {
        server.service.store(key(number), payload(number, len));
    }
    let mut raw = Raw::greeted(&server.addr).await;
    raw.say(&frame(1, &get(0..64, len as u32), &[])).await;
    let mut pace = tokio::time::interval(TRICKLE);
    let mut sip = vec![0; 32 << 10];
    // A megabyte a second: never still, and a minute for all of it.
    let sipped = async {
        while matches!(tokio::io::AsyncReadExt::read(&mut raw.0, &mut sip).await, Ok(count) if count > 0) {
            pace.tick().await;
        }
    };
    in_time(sipped).await;
    server.service.lent.reaches(0).await;
    server.finish().await;
}

#[tokio::test]
async fn a_client_that_does_not_read_hurts_only_itself() {
    let server = Server::start(TcpTimeouts { stall: Duration::from_secs(1), ..impatient() }).await;
    let len = 1 << 20;
    for number in 0..64 {
        server.service.store(key(number), payload(number, len));
    }
    let mut raw = Raw::greeted(&server.addr).await;
    raw.say(&frame(1, &get(0..64, len as u32), &[])).await;
    let mover = server.connect().await.expect("the server goes on");
    for got in get_all(&mover, get_items(0..64, len), soon()).await {
        got.result.expect("another connection is served");
    }
    assert!(server.service.lent.now() > 0, "the slow client holds its leases");
    server.service.lent.reaches(0).await;
    raw.closed().await;
    drop(mover);
    server.finish().await;
}

#[tokio::test]
async fn answers_to_a_client_that_does_not_read_are_bounded() {
    let server = Server::start(TcpTimeouts { stall: Duration::from_secs(1), ..impatient() }).await;
    let mut raw = Raw::greeted(&server.addr).await;
    let keys = (0..4_096).map(key).collect();
    let question = Body::Contains(Keys { deadline_ms: 60_000, keys });
    // Far more than sockets and bounds can hold: the server stops reading, then loses patience.
    let mut request_id = 0;
    let flooded = async {
        loop {
            request_id += 1;
            let bytes = frame(request_id, &question, &[]);
            if tokio::io::AsyncWriteExt::write_all(&mut raw.0, &bytes).await.is_err() {
                return;
            }
        }
    };
    in_time(flooded).await;
    server.finish().await;
}

#[tokio::test]
async fn an_idle_connection_is_told_and_closed() {
    let server = Server::start(impatient()).await;
    let mut raw = Raw::greeted(&server.addr).await;
    assert_eq!(goodbye(&mut raw).await, GoodbyeReason::Idle);
    server.finish().await;
}

#[tokio::test]
async fn a_client_that_says_goodbye_is_let_go() {
    let server = Server::start(impatient()).await;
    server.service.fault(key(1), Fault::Waits(Arc::new(Semaphore::new(0))));
    let mut raw = Raw::greeted(&server.addr).await;
    raw.say(&frame(1, &get(1..2, 10), &[])).await;
    server.service.waiting.reaches(1).await;
    raw.say(&frame(0, &Body::Goodbye(Goodbye::new(GoodbyeReason::ShuttingDown, "bye")), &[])).await;
    server.service.waiting.reaches(0).await;
    raw.closed().await;
    server.finish().await;
}

#[tokio::test]
async fn connections_beyond_the_limit_are_told_so() {
    let server = Server::start(TcpTimeouts { idle: PATIENCE, ..impatient() }).await;
    let mut open = Vec::with_capacity(CONNECTIONS_MAX);
    for _ in 0..CONNECTIONS_MAX {
        open.push(Raw::greeted(&server.addr).await);
    }
    let refused = server.connect().await.err();
    let Some(ConnectError::Refused { reason, .. }) = refused else { panic!("{refused:?}") };
    assert_eq!(reason, GoodbyeReason::Overloaded);
    open.clear();
    let again = async {
        while server.connect().await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    in_time(again).await;
    server.finish().await;
}

#[tokio::test]
async fn a_request_past_its_deadline_is_answered_so_and_drops_its_work() {
    let server = Server::start(TcpTimeouts { idle: PATIENCE, ..impatient() }).await;
    server.service.store(key(0), payload(0, 100));
    server.service.fault(key(1), Fault::Waits(Arc::new(Semaphore::new(0))));
    let mut raw = Raw::greeted(&server.addr).await;
    let entries = (0..2).map(|number| GetEntry { key: key(number), capacity: 100 }).collect();
    let get =
        Body::Get(Get { deadline_ms: 50, urgency: Urgency::Normal, incarnation: Incarnation(0), entries });
    raw.say(&frame(1, &get, &[])).await;
    let mut answers = Vec::new();
    for _ in 0..2 {
        let (header, body) = raw.hear().await.expect("an answer");
        raw.hear_payload(&header).await;
        let Body::GetBlock(block) = body else { panic!("{body:?}") };
        answers.push((block.index, block.status));
    }
    assert_eq!(answers, [(0, BlockStatus::Ok), (1, BlockStatus::DeadlineExceeded)]);
    assert_eq!(server.service.waiting.now(), 0, "the lookup was dropped");
    let bytes = payload(1, 100);
    let Body::PutBlock(block) = put(1, &bytes) else { unreachable!() };
    let late = Body::PutBlock(PutBlock { deadline_ms: 50, ..block });
    raw.say(&frame(2, &late, &bytes)).await;
    let (_, body) = raw.hear().await.expect("an answer");
    let Body::PutDone(done) = body else { panic!("{body:?}") };
    assert_eq!(done.entries[0].status, BlockStatus::DeadlineExceeded);
    drop(raw);
    server.finish().await;
}

#[tokio::test]
async fn shutting_down_says_goodbye_and_waits_for_nobody_for_ever() {
    let server = Server::start(impatient()).await;
    server.service.fault(key(1), Fault::Waits(Arc::new(Semaphore::new(0))));
    let mut idle = Raw::greeted(&server.addr).await;
    let mut hanging = Raw::greeted(&server.addr).await;
    hanging.say(&frame(1, &get(1..2, 10), &[])).await;
    server.service.waiting.reaches(1).await;
    let silent = Raw::connect(&server.addr).await;
    server.shutdown.cancel();
    assert_eq!(goodbye(&mut idle).await, GoodbyeReason::ShuttingDown);
    in_time(server.task).await.expect("the server does not panic");
    assert_eq!(server.service.lent.now() + server.service.waiting.now(), 0);
    drop((hanging, silent));
    no_task_is_left().await;
}

#[tokio::test]
async fn dropping_the_server_ends_every_connection() {
    let server = Server::start(impatient()).await;
    let mover = server.connect().await.expect("the server is there");
    server.task.abort();
    let failed = mover.contains(vec![key(1)], soon()).await;
    assert_eq!(failed, Err(BlockStatus::Disconnected));
    drop(mover);
    no_task_is_left().await;
}
