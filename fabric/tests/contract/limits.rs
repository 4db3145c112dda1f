//! Bounds: what is beyond them is refused with a name, and what is within them goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_fabric::{BlockStatus, Mover, PutItem};
use hearth_proto::limits::{
    BLOCK_BYTES_MAX, CHAIN_BLOCKS_MAX, CONNECTION_BLOCKS_IN_WORK_MAX, CONNECTION_BYTES_IN_WORK_MAX,
    CONNECTION_REQUESTS_MAX,
};
use hearth_proto::{Incarnation, Urgency};
use tokio::sync::Semaphore;

use crate::support::*;
use crate::{Bench, SLOT_WAIT, Transport};

pub(crate) async fn what_is_too_large_is_refused_and_the_rest_goes_on<T: Transport>() {
    let service = MemoryService::default();
    service.info(|info| info.block_bytes_max = 10_000);
    let bench = Bench::<T>::start_with(service).await;
    let mut items = put_items(0..4, 10_000);
    items[1] = PutItem::new(key(1), payload(1, 10_001));
    items[2] = PutItem::new(key(2), bytes::Bytes::new());
    let puts = put_all(&bench.mover, items, soon()).await;
    let failed: Vec<_> = puts.iter().map(|put| put.result.err()).collect();
    assert_eq!(failed, [None, Some(BlockStatus::TooLarge), Some(BlockStatus::BadRequest), None]);
    // The server judges by itself, should it take less than it said when it was asked.
    bench.service.info(|info| info.block_bytes_max = 5_000);
    let puts = put_all(&bench.mover, put_items([5], 10_000), soon()).await;
    assert_eq!(puts[0].result, Err(BlockStatus::TooLarge));
    assert!(put_all(&bench.mover, put_items([6], 5_000), soon()).await[0].result.is_ok());
    bench.finish().await;
}

pub(crate) async fn too_many_blocks_or_requests_are_refused<T: Transport>() {
    let bench = Bench::<T>::start().await;
    let count = CHAIN_BLOCKS_MAX as u32 + 1;
    let completions = get_all(&bench.mover, get_items(0..count, 1), soon()).await;
    assert!(failures(&completions).iter().all(|failure| *failure == Some(BlockStatus::BadRequest)));
    let puts = put_all(&bench.mover, put_items(0..count, 1), soon()).await;
    assert!(puts.iter().all(|put| put.result == Err(BlockStatus::BadRequest)));
    let keys: Vec<_> = (0..count).map(key).collect();
    assert_eq!(bench.mover.contains(keys, soon()).await, Err(BlockStatus::BadRequest));

    let gate = Arc::new(Semaphore::new(0));
    bench.service.store(key(1), payload(1, 10));
    bench.service.fault(key(1), Fault::Waits(Arc::clone(&gate)));
    let get = || bench.mover.get(get_items([1], 10), Incarnation(0), Urgency::Normal, soon());
    let open: Vec<_> = (0..CONNECTION_REQUESTS_MAX).map(|_| get()).collect();
    let refused = get().next().await.expect("one block was asked for");
    assert_eq!(refused.result, Err(BlockStatus::Overloaded));
    gate.add_permits(CONNECTION_REQUESTS_MAX);
    for mut stream in open {
        let got = stream.next().await.expect("one block was asked for");
        assert!(got.result.is_ok(), "{:?}", got.result);
    }
    bench.finish().await;
}

pub(crate) async fn a_put_without_a_slot_is_discarded_in_time<T: Transport>() {
    let service = MemoryService::with_slots(0);
    let bench = Bench::<T>::start_with(service).await;
    let puts = put_all(&bench.mover, put_items([1], 3_000_000), soon()).await;
    assert_eq!(puts[0].result, Err(BlockStatus::Full));
    let deadline = Instant::now() + SLOT_WAIT / 2;
    let other = bench.transport.connect().await;
    let puts = put_all(&other, put_items([2], 3_000_000), deadline).await;
    assert_eq!(puts[0].result, Err(BlockStatus::DeadlineExceeded));
    drop(other);
    bench.service.slots.add_permits(10);
    let puts = put_all(&bench.mover, put_items([3], 3_000_000), soon()).await;
    assert!(puts[0].result.is_ok(), "the connection goes on: {puts:?}");
    bench.finish().await;
}

pub(crate) async fn refused_puts_do_not_add_up<T: Transport>() {
    let bench = Bench::<T>::start_with(MemoryService::with_slots(0)).await;
    bench.service.store(key(1_000), payload(1_000, 500));
    let count = 100;
    let begun = Instant::now();
    let mut puts = bench.mover.put(put_items(0..count, 1_000), soon());
    // The first refusal comes when all the blocks are on their way: the get is behind them.
    let first = puts.next().await.expect("a block is refused");
    assert_eq!(first.result, Err(BlockStatus::Full));
    let got = get_all(&bench.mover, get_items([1_000], 500), soon()).await;
    assert_eq!(failures(&got), [None]);
    assert!(begun.elapsed() < SLOT_WAIT * count / 5, "the get waited for {:?}", begun.elapsed());
    while let Some(put) = puts.next().await {
        assert_eq!(put.result, Err(BlockStatus::Full));
    }
    drop(puts);
    bench.service.slots.add_permits(count as usize);
    for put in put_all(&bench.mover, put_items(0..count, 1_000), soon()).await {
        put.result.expect("puts are taken as soon as there is room");
    }
    bench.finish().await;
}

pub(crate) async fn a_remove_without_a_place_holds_up_nobody_for_long<T: Transport>() {
    let bench = Bench::<T>::start().await;
    bench.service.store(key(1_000), payload(1_000, 500));
    let gate = Arc::new(Semaphore::new(0));
    let count = CONNECTION_BLOCKS_IN_WORK_MAX as u32;
    for number in 0..count {
        bench.service.fault(key(number), Fault::Waits(Arc::clone(&gate)));
    }
    let mover = bench.mover.clone();
    let caller = tokio::spawn(async move { put_all(&mover, put_items(0..count, 100), soon()).await });
    bench.service.waiting.reaches(CONNECTION_BLOCKS_IN_WORK_MAX).await;
    let begun = Instant::now();
    let (removed, held) = tokio::join!(
        bench.mover.remove(vec![key(1_000), key(1_001)], soon()),
        bench.mover.contains(vec![key(1_000)], soon()),
    );
    assert_eq!(removed, Ok(vec![BlockStatus::Overloaded; 2]));
    assert_eq!(held.map(|tiers| tiers.len()), Ok(1));
    assert!(begun.elapsed() < PATIENCE / 4, "the question waited for {:?}", begun.elapsed());
    gate.add_permits(count as usize);
    assert!(caller.await.expect("the caller does not panic").iter().all(|put| put.result.is_ok()));
    let removed = bench.mover.remove(vec![key(1_000), key(1_001)], soon()).await;
    assert_eq!(removed, Ok(vec![BlockStatus::Ok, BlockStatus::Miss]));
    bench.finish().await;
}

pub(crate) async fn no_more_blocks_are_in_work_than_allowed<T: Transport>() {
    let bench = Bench::<T>::start().await;
    let gate = Arc::new(Semaphore::new(0));
    for number in 0..1_000 {
        bench.service.store(key(number), payload(number, 100));
        bench.service.fault(key(number), Fault::Waits(Arc::clone(&gate)));
    }
    let mover = bench.mover.clone();
    let caller =
        tokio::spawn(async move { failures(&get_all(&mover, get_items(0..1_000, 100), soon()).await) });
    bench.service.waiting.reaches(CONNECTION_BLOCKS_IN_WORK_MAX).await;
    gate.add_permits(1_000);
    let failed = caller.await.expect("the caller does not panic");
    assert!(failed.iter().all(Option::is_none));
    assert_eq!(bench.service.lent.peak(), CONNECTION_BLOCKS_IN_WORK_MAX);
    bench.finish().await;
}

pub(crate) async fn an_urgent_get_is_looked_up_before_what_others_still_want<T: Transport>() {
    let bench = Bench::<T>::start().await;
    let gate = Arc::new(Semaphore::new(0));
    for number in 0..300 {
        bench.service.store(key(number), payload(number, 100));
        bench.service.fault(key(number), Fault::Waits(Arc::clone(&gate)));
    }
    bench.service.store(key(1_000), payload(1_000, 100));
    let mover = bench.mover.clone();
    let caller =
        tokio::spawn(async move { failures(&get_all(&mover, get_items(0..300, 100), soon()).await) });
    bench.service.waiting.reaches(CONNECTION_BLOCKS_IN_WORK_MAX).await;
    let mut urgent = bench.mover.get(get_items([1_000], 100), Incarnation(0), Urgency::Urgent, soon());
    // Requests are taken in the order in which they come, so the server knows the urgent one by now.
    assert_eq!(bench.mover.contains(vec![key(1_000)], soon()).await.map(|tiers| tiers.len()), Ok(1));
    gate.add_permits(1);
    let got = in_time(urgent.next()).await.expect("one block was asked for");
    assert!(got.result.is_ok(), "{:?}", got.result);
    assert_eq!(bench.service.urgency_of(key(1_000)), Some(Urgency::Urgent));
    assert_eq!(bench.service.urgency_of(key(1)), Some(Urgency::Normal));
    gate.add_permits(300);
    assert!(caller.await.expect("the caller does not panic").iter().all(Option::is_none));
    bench.finish().await;
}

pub(crate) async fn no_more_bytes_are_in_work_than_allowed<T: Transport>() {
    let bench = Bench::<T>::start().await;
    let gate = Arc::new(Semaphore::new(0));
    for number in 0..6 {
        bench.service.store(key(number), payload(number, 100));
        bench.service.fault(key(number), Fault::Waits(Arc::clone(&gate)));
    }
    let mover = bench.mover.clone();
    let items = get_items(0..6, BLOCK_BYTES_MAX);
    let caller = tokio::spawn(async move { failures(&get_all(&mover, items, soon()).await) });
    bench.service.waiting.reaches(CONNECTION_BYTES_IN_WORK_MAX / BLOCK_BYTES_MAX).await;
    gate.add_permits(6);
    assert_eq!(caller.await.expect("the caller does not panic"), [None; 6]);
    assert_eq!(bench.service.waiting.peak(), CONNECTION_BYTES_IN_WORK_MAX / BLOCK_BYTES_MAX);
    bench.finish().await;
}

pub(crate) async fn no_more_puts_are_in_work_than_allowed<T: Transport>() {
    let bench = Bench::<T>::start().await;
    let gate = Arc::new(Semaphore::new(0));
    let count = CONNECTION_BLOCKS_IN_WORK_MAX as u32 + 2;
    for number in 0..count {
        bench.service.fault(key(number), Fault::Waits(Arc::clone(&gate)));
    }
    let begun = Instant::now();
    let mover = bench.mover.clone();
    let caller = tokio::spawn(async move { put_all(&mover, put_items(0..count, 100), soon()).await });
    bench.service.waiting.reaches(CONNECTION_BLOCKS_IN_WORK_MAX).await;
    // A question behind the two blocks that wait for a place is answered when they were given up.
    let asked = bench.mover.contains(vec![key(0)], soon()).await;
    assert!(asked.is_ok());
    assert!(begun.elapsed() >= SLOT_WAIT, "blocks waited for a place");
    gate.add_permits(count as usize);
    let puts = caller.await.expect("the caller does not panic");
    let full = puts.iter().filter(|put| put.result == Err(BlockStatus::Full)).count();
    let done = puts.iter().filter(|put| put.result.is_ok()).count();
    assert_eq!((full, done), (2, CONNECTION_BLOCKS_IN_WORK_MAX));
    assert!(begun.elapsed() < Duration::from_secs(15));
    bench.finish().await;
}
