//! What goes wrong, and how little else goes wrong with it.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hearth_fabric::{BlockStatus, Mover};
use hearth_proto::limits::{CONNECTION_BLOCKS_IN_WORK_MAX, DEADLINE_GRACE_MS};
use hearth_proto::{Classified, ErrorKind, Incarnation, Urgency};
use tokio::sync::Semaphore;

use crate::support::*;
use crate::{Bench, Transport, best_of};

const GRACE: Duration = Duration::from_millis(DEADLINE_GRACE_MS);

pub(crate) async fn every_block_has_its_own_status<T: Transport>() {
    let bench = Bench::<T>::start().await;
    let statuses: Vec<_> = BlockStatus::ALL.into_iter().filter(|status| *status != BlockStatus::Ok).collect();
    for (number, status) in (0..).zip(&statuses) {
        bench.service.fault(key(number), Fault::Fails(*status));
    }
    // A store that fails with `Ok` must not make a frame that says both.
    bench.service.fault(key(100), Fault::Fails(BlockStatus::Ok));
    bench.service.store(key(101), payload(101, 500));
    let numbers = || (0..statuses.len() as u32).chain([100, 101, 102]);
    let mut expected: Vec<_> = statuses.iter().copied().map(Some).collect();
    expected.extend([Some(BlockStatus::IoError), None, Some(BlockStatus::Miss)]);
    assert_eq!(failures(&get_all(&bench.mover, get_items(numbers(), 500), soon()).await), expected);
    expected.pop();
    let puts = put_all(&bench.mover, put_items(numbers(), 500), soon()).await;
    let failed: Vec<_> = puts.iter().map(|put| put.result.err()).take(expected.len()).collect();
    assert_eq!(failed, expected);
    bench.finish().await;
}

pub(crate) async fn bytes_that_fail_verification_are_withheld<T: Transport>() {
    let bench = Bench::<T>::start().await;
    for number in 0..3 {
        bench.service.store(key(number), payload(number, 70_000));
    }
    bench.service.fault(key(0), Fault::WrongCrc);
    bench.service.fault(key(1), Fault::ZeroGeneration);
    let corrupt = Some(BlockStatus::Corrupt);
    for _ in 0..2 {
        let completions = get_all(&bench.mover, get_items(0..3, 70_000), soon()).await;
        assert_eq!(
            failures(&completions),
            [corrupt, corrupt, None],
            "the good block and the connection live"
        );
        assert!(completions[..2].iter().all(|completion| completion.buffer.is_empty()));
        assert!(completions[..2].iter().all(|completion| completion.buffer.capacity() == 70_000));
    }
    assert!(!bench.mover.is_closed());
    bench.finish().await;
}

pub(crate) async fn a_put_whose_bytes_do_not_match_is_refused<T: Transport>() {
    let bench = Bench::<T>::start().await;
    let mut items = put_items(0..3, 50_000);
    items[1].crc32 ^= 1;
    let puts = put_all(&bench.mover, items, soon()).await;
    let failed: Vec<_> = puts.iter().map(|put| put.result.err()).collect();
    assert_eq!(failed, [None, Some(BlockStatus::Corrupt), None]);
    assert!(!bench.service.holds(key(1)));
    // The bytes are judged once at this end, and by the one who stores them.
    assert_eq!(bench.service.corrupt_puts.load(Ordering::SeqCst), 1);
    bench.finish().await;
}

pub(crate) async fn a_small_buffer_is_told_what_it_needs<T: Transport>() {
    let bench = Bench::<T>::start().await;
    bench.service.store(key(1), payload(1, 5_000));
    let mut completions = get_all(&bench.mover, get_items([1], 4_999), soon()).await;
    let completion = completions.remove(0);
    assert_eq!(completion.result, Err(BlockStatus::BufferTooSmall));
    assert_eq!(completion.result.map_err(|status| status.kind()), Err(ErrorKind::FixRequest));
    let needed = completion.block_len as usize;
    let completions = get_all(&bench.mover, get_items([1], needed), soon()).await;
    assert_eq!(completions[0].buffer.as_slice(), payload(1, 5_000));
    bench.finish().await;
}

pub(crate) async fn an_earlier_incarnation_is_fenced<T: Transport>() {
    let bench = Bench::<T>::start().await;
    bench.service.store(key(1), payload(1, 100));
    let ask = async |expected| {
        let mut stream = bench.mover.get(get_items([1], 100), expected, Urgency::Normal, soon());
        stream.next().await.expect("one block was asked for").result.err()
    };
    let next = Incarnation(INCARNATION.0 + 1);
    assert_eq!(ask(Incarnation(0)).await, None);
    assert_eq!(ask(INCARNATION).await, None);
    assert_eq!(ask(next).await, Some(BlockStatus::Stale));
    bench.service.info(|info| info.incarnation = next);
    assert_eq!(ask(INCARNATION).await, Some(BlockStatus::Stale), "fenced without a new connection");
    assert_eq!(ask(next).await, None);
    bench.finish().await;
}

pub(crate) async fn a_node_that_registers_anew_fences_what_it_was_looking_up<T: Transport>() {
    let bench = Bench::<T>::start().await;
    let gate = Arc::new(Semaphore::new(0));
    for number in 0..2 {
        bench.service.store(key(number), payload(number, 100));
        bench.service.fault(key(number), Fault::Waits(Arc::clone(&gate)));
    }
    let mut fenced = bench.mover.get(get_items([0], 100), INCARNATION, Urgency::Normal, soon());
    let mut any = bench.mover.get(get_items([1], 100), Incarnation(0), Urgency::Normal, soon());
    bench.service.waiting.reaches(2).await;
    bench.service.info(|info| info.incarnation = Incarnation(INCARNATION.0 + 1));
    gate.add_permits(2);
    let completion = fenced.next().await.expect("one block was asked for");
    assert_eq!(completion.result, Err(BlockStatus::Stale));
    assert!(completion.buffer.is_empty() && completion.buffer.capacity() == 100);
    any.next().await.expect("one block was asked for").result.expect("no incarnation was asked for");
    assert!(!bench.mover.is_closed());
    drop((fenced, any));
    bench.finish().await;
}

pub(crate) async fn a_stalled_block_ends_at_the_deadline_and_alone<T: Transport>() {
    let bench = Bench::<T>::start().await;
    for number in 0..3 {
        bench.service.store(key(number), payload(number, 1_000));
    }
    bench.service.fault(key(1), Fault::Waits(Arc::new(Semaphore::new(0))));
    let patience = Duration::from_millis(150);
    best_of(5, patience + GRACE, || async {
        let begun = Instant::now();
        let completions = get_all(&bench.mover, get_items(0..3, 1_000), begun + patience).await;
        assert_eq!(failures(&completions), [None, Some(BlockStatus::DeadlineExceeded), None]);
        assert_eq!(completions[1].buffer.capacity(), 1_000, "memory that nothing was landing in comes back");
        // Deadlines travel in whole milliseconds, rounded down.
        assert!(begun.elapsed() + Duration::from_millis(2) >= patience, "not before the deadline");
    })
    .await;
    let late = get_all(&bench.mover, get_items(0..2, 1_000), Instant::now()).await;
    assert_eq!(failures(&late), [Some(BlockStatus::DeadlineExceeded); 2]);
    bench.finish().await;
}

pub(crate) async fn a_stalled_put_ends_at_the_deadline<T: Transport>() {
    let bench = Bench::<T>::start().await;
    bench.service.fault(key(1), Fault::Waits(Arc::new(Semaphore::new(0))));
    let patience = Duration::from_millis(150);
    best_of(5, patience + GRACE, || async {
        let puts = put_all(&bench.mover, put_items(0..2, 1_000), Instant::now() + patience).await;
        assert!(puts[0].result.is_ok());
        assert_eq!(puts[1].result, Err(BlockStatus::DeadlineExceeded));
    })
    .await;
    bench.finish().await;
}

pub(crate) async fn a_dropped_request_is_forgotten<T: Transport>() {
    let bench = Bench::<T>::start().await;
    let gate = Arc::new(Semaphore::new(0));
    for number in 0..1_000 {
        bench.service.store(key(number), payload(number, 1_000));
        bench.service.fault(key(number), Fault::Waits(Arc::clone(&gate)));
    }
    bench.service.store(key(2_000), payload(2_000, 1_000));
    let mut stream = bench.mover.get(get_items(0..1_000, 1_000), Incarnation(0), Urgency::Normal, soon());
    gate.add_permits(1);
    stream.next().await.expect("one block passes").result.expect("the block is there");
    drop(stream);
    // The order to cancel goes ahead of this request on the same connection.
    let contains = bench.mover.contains(vec![key(2_000)], soon()).await;
    assert!(contains.is_ok(), "{contains:?}");
    gate.add_permits(1_000);
    bench.service.lent.reaches(0).await;
    for got in get_all(&bench.mover, get_items([2_000], 1_000), soon()).await {
        got.result.expect("the connection goes on");
    }
    bench.finish().await;
    // The server finished all it had in work: the blocks that were waiting, and none of the rest.
    let looked_up = 1_001 - gate.available_permits();
    assert!(looked_up <= CONNECTION_BLOCKS_IN_WORK_MAX + 1, "{looked_up} blocks were looked up");
}

pub(crate) async fn shutting_down_finishes_what_is_in_work<T: Transport>() {
    let bench = Bench::<T>::start().await;
    let gate = Arc::new(Semaphore::new(0));
    for number in 0..300 {
        bench.service.store(key(number), payload(number, 50_000));
        bench.service.fault(key(number), Fault::Waits(Arc::clone(&gate)));
    }
    let mut stream = bench.mover.get(get_items(0..300, 50_000), Incarnation(0), Urgency::Normal, soon());
    gate.add_permits(1);
    stream.next().await.expect("one block passes").result.expect("the block is there");
    bench.transport.shut_down();
    gate.add_permits(299);
    let mut count = 1;
    while let Some(got) = stream.next().await {
        got.result.expect("what is in work is finished");
        assert_eq!(got.buffer.as_slice(), payload(got.index, 50_000));
        count += 1;
    }
    assert_eq!(count, 300);
    drop(stream);
    let after = get_all(&bench.mover, get_items([1], 50_000), soon()).await;
    let status = after[0].result.expect_err("the server is gone");
    assert!(matches!(status, BlockStatus::ShuttingDown | BlockStatus::Disconnected), "{status}");
    assert!(bench.mover.is_closed());
    bench.finish().await;
}

pub(crate) async fn calls_on_an_ended_connection_fail_at_once<T: Transport>() {
    let bench = Bench::<T>::start().await;
    bench.service.fault(key(1), Fault::Waits(Arc::new(Semaphore::new(0))));
    let hanging = bench.mover.clone();
    let hanging = tokio::spawn(async move { failures(&get_all(&hanging, get_items([1], 10), soon()).await) });
    bench.service.waiting.reaches(1).await;
    // The request that hangs outlives the drain; it is shorter than this test's patience.
    bench.transport.shut_down();
    let failed = hanging.await.expect("the caller does not panic");
    assert!(
        matches!(failed[..], [Some(BlockStatus::ShuttingDown | BlockStatus::Disconnected)]),
        "{failed:?}"
    );
    let begun = Instant::now();
    assert!(put_all(&bench.mover, put_items([2], 10), soon()).await[0].result.is_err());
    assert!(bench.mover.contains(vec![key(1)], soon()).await.is_err());
    assert!(bench.mover.remove(vec![key(1)], soon()).await.is_err());
    assert!(begun.elapsed() < PATIENCE / 4, "a call on an ended connection waits for nothing");
    bench.finish().await;
}
