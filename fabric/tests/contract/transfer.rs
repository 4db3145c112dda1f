//! Bytes that go right.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use hearth_fabric::{BlockStatus, Mover, PutItem, TierBits};
use hearth_proto::limits::{BLOCK_BYTES_MAX, CHAIN_BLOCKS_MAX};
use hearth_proto::{Incarnation, NamespaceId, NodeId, Tier, Urgency};
use tokio::sync::Semaphore;

use crate::support::*;
use crate::{Bench, Transport};

pub(crate) async fn batches_of_every_size_come_back_as_they_were_put<T: Transport>() {
    let bench = Bench::<T>::start().await;
    for (count, len) in [(1, 1), (2, 65_537), (33, 100_000), (257, 4_096), (CHAIN_BLOCKS_MAX as u32, 700)] {
        let numbers = || (0..count).map(|number| number + count * 10_000);
        for put in put_all(&bench.mover, put_items(numbers(), len), soon()).await {
            let ack = put.result.expect("the store has room");
            assert!(!ack.existed && ack.generation.0 > 0);
        }
        let completions = get_all(&bench.mover, get_items(numbers(), len), soon()).await;
        for (number, completion) in numbers().zip(&completions) {
            let got = completion.result.expect("the block was put");
            assert_eq!((got.len, got.tier), (len, Tier::Host));
            assert_eq!(completion.buffer.as_slice(), payload(number, len), "block {number} of {len} bytes");
        }
    }
    bench.finish().await;
}

pub(crate) async fn a_block_of_the_largest_size_is_moved<T: Transport>() {
    let bench = Bench::<T>::start().await;
    let put = put_all(&bench.mover, put_items([1], BLOCK_BYTES_MAX), soon()).await;
    assert!(put[0].result.is_ok(), "{put:?}");
    let got = get_all(&bench.mover, get_items([1], BLOCK_BYTES_MAX), soon()).await;
    assert!(got[0].buffer.as_slice() == payload(1, BLOCK_BYTES_MAX), "{:?}", got[0].result);
    bench.finish().await;
}

pub(crate) async fn blocks_complete_in_the_order_they_are_found<T: Transport>() {
    let bench = Bench::<T>::start().await;
    let gates: Vec<_> = (0..4).map(|_| Arc::new(Semaphore::new(0))).collect();
    for number in 0..4 {
        bench.service.store(key(number), payload(number, 10_000));
        bench.service.fault(key(number), Fault::Waits(Arc::clone(&gates[number as usize])));
    }
    let mut stream = bench.mover.get(get_items(0..4, 10_000), Incarnation(0), Urgency::Normal, soon());
    for index in [2, 0, 3, 1] {
        gates[index as usize].add_permits(1);
        let completion = stream.next().await.expect("one block is found");
        assert_eq!(completion.index, index);
        assert_eq!(completion.buffer.as_slice(), payload(index, 10_000));
    }
    assert!(stream.next().await.is_none());
    assert!(stream.next().await.is_none(), "the end stays the end");
    drop(stream);
    bench.finish().await;
}

pub(crate) async fn many_requests_share_a_connection<T: Transport>() {
    let bench = Bench::<T>::start().await;
    let mut callers = tokio::task::JoinSet::new();
    for caller in 0..48_u32 {
        let mover = bench.mover.clone();
        callers.spawn(async move {
            for round in 0..4 {
                let numbers = || (0..16).map(move |index| caller * 1_000 + round * 100 + index);
                let len = 1_000 + (caller as usize * 997) % 50_000;
                for put in put_all(&mover, put_items(numbers(), len), soon()).await {
                    put.result.expect("the store has room");
                }
                for (number, got) in numbers().zip(get_all(&mover, get_items(numbers(), len), soon()).await) {
                    assert_eq!(got.buffer.as_slice(), payload(number, len), "{:?}", got.result);
                }
            }
        });
    }
    while let Some(ended) = callers.join_next().await {
        ended.expect("no caller fails");
    }
    bench.finish().await;
}

pub(crate) async fn a_caller_that_does_not_read_holds_up_nobody<T: Transport>() {
    let bench = Bench::<T>::start().await;
    let len = 100_000;
    for number in 0..300 {
        bench.service.store(key(number), payload(number, len));
    }
    let mut slow = bench.mover.get(get_items(0..300, len), Incarnation(0), Urgency::Normal, soon());
    for got in get_all(&bench.mover, get_items(0..10, len), soon()).await {
        got.result.expect("the block is there");
    }
    let mut count = 0;
    while let Some(got) = slow.next().await {
        assert_eq!(got.buffer.as_slice(), payload(got.index, len));
        count += 1;
    }
    assert_eq!(count, 300);
    drop(slow);
    bench.finish().await;
}

pub(crate) async fn contains_and_remove_answer_in_order<T: Transport>() {
    let bench = Bench::<T>::start().await;
    bench.service.store(key(1), payload(1, 10));
    bench.service.store(key(3), payload(3, 10));
    let held = TierBits::NONE.with(Tier::Host);
    let keys = || (0..5).map(key).collect::<Vec<_>>();
    let tiers = bench.mover.contains(keys(), soon()).await;
    assert_eq!(tiers, Ok(vec![TierBits::NONE, held, TierBits::NONE, held, TierBits::NONE]));
    let (ok, miss) = (BlockStatus::Ok, BlockStatus::Miss);
    assert_eq!(bench.mover.remove(keys(), soon()).await, Ok(vec![miss, ok, miss, ok, miss]));
    assert_eq!(bench.mover.remove(keys(), soon()).await, Ok(vec![miss; 5]), "repeating is harmless");
    assert_eq!(bench.mover.contains(keys(), soon()).await, Ok(vec![TierBits::NONE; 5]));
    let many: Vec<_> = (0..CHAIN_BLOCKS_MAX as u32).map(key).collect();
    assert_eq!(
        bench.mover.contains(many.clone(), soon()).await.map(|tiers| tiers.len()),
        Ok(CHAIN_BLOCKS_MAX)
    );
    assert_eq!(bench.mover.remove(many, soon()).await, Ok(vec![miss; CHAIN_BLOCKS_MAX]));
    assert_eq!(bench.mover.contains(vec![], soon()).await, Ok(vec![]));
    assert_eq!(bench.mover.remove(vec![], soon()).await, Ok(vec![]));
    assert!(get_all(&bench.mover, vec![], soon()).await.is_empty());
    assert!(put_all(&bench.mover, vec![], soon()).await.is_empty());
    bench.finish().await;
}

pub(crate) async fn a_block_put_again_is_kept_as_it_was<T: Transport>() {
    let bench = Bench::<T>::start().await;
    let first = put_all(&bench.mover, put_items([1], 1_000), soon()).await[0].result.expect("there is room");
    let again = put_all(&bench.mover, put_items([1], 1_000), soon()).await[0].result.expect("there is room");
    assert!(again.existed && !first.existed);
    assert_eq!(first.generation, again.generation);
    bench.finish().await;
}

pub(crate) async fn the_peer_says_who_it_is<T: Transport>() {
    let bench = Bench::<T>::start().await;
    let peer = bench.mover.peer();
    assert_eq!((peer.node_id, peer.incarnation, peer.cluster_id), (NodeId(5), INCARNATION, CLUSTER));
    assert_eq!(peer.block_bytes_max, BLOCK_BYTES_MAX);
    assert!(!bench.mover.is_closed());
    bench.finish().await;
}

pub(crate) async fn a_copy_goes_to_the_namespace_that_it_names<T: Transport>() {
    let bench = Bench::<T>::start().await;
    let copy = |number| PutItem {
        copy_of: Some(NamespaceId(9)),
        ..PutItem::new(key(number), payload(number, 10_000))
    };
    let mut items = put_items([1], 10_000);
    items.extend([copy(2), copy(3)]);
    for put in put_all(&bench.mover, items, soon()).await {
        assert!(!put.result.expect("the store has room").existed);
    }
    let held = |number| {
        [NamespaceId::DEFAULT, NamespaceId(9)].map(|namespace| bench.service.holds_of(namespace, key(number)))
    };
    assert_eq!([held(1), held(2), held(3)], [[true, false], [false, true], [false, true]]);
    assert_eq!(bench.service.copies.load(Ordering::SeqCst), 2, "a put of a client is no copy");
    bench.finish().await;
}
