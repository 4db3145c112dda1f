//! Which of the gets that wait for NVMe is served first.

use std::time::Duration;

use hearth_proto::Urgency;
use tempfile::tempdir;
use tokio::task::JoinHandle;

use super::queued::Queued;
use super::{BLOCK_BYTES, BLOCKS_PER_EXTENT, bytes, id, soon};
use crate::{GetError, GetOutcome, Store};

fn get(store: &Store, n: u64, urgency: Urgency) -> JoinHandle<Result<GetOutcome, GetError>> {
    let store = store.clone();
    tokio::spawn(async move { store.get_with(&id(n), urgency, soon()).await })
}

async fn assert_hit(got: JoinHandle<Result<GetOutcome, GetError>>, n: u64) {
    let outcome = tokio::time::timeout(Duration::from_secs(20), got).await.unwrap().unwrap().unwrap();
    assert!(matches!(outcome, GetOutcome::Hit(lease) if *lease == *bytes(n)), "block {n}");
}

#[tokio::test]
async fn an_urgent_get_overtakes_the_others_and_a_prefetch_lets_them_pass() {
    let dir = tempdir().unwrap();
    let (store, device) = Queued::open(&dir, 7).await;
    let prefetch = get(&store, 0, Urgency::Background);
    device.urgencies(1).await;
    let normal: Vec<_> = (1..6).map(|n| get(&store, n, Urgency::Normal)).collect();
    device.urgencies(6).await;
    let urgent = get(&store, 6, Urgency::Urgent);
    device.urgencies(7).await;
    device.perform_next();
    assert_hit(urgent, 6).await;
    assert!(!prefetch.is_finished() && normal.iter().all(|got| !got.is_finished()));
    (0..5).for_each(|_| device.perform_next());
    for (n, got) in (1..).zip(normal) {
        assert_hit(got, n).await;
    }
    assert!(!prefetch.is_finished());
    device.perform_next();
    assert_hit(prefetch, 0).await;
}

#[tokio::test]
async fn a_read_that_several_wait_for_is_as_urgent_as_the_most_urgent() {
    let dir = tempdir().unwrap();
    let (store, device) = Queued::open(&dir, 1).await;
    let mut slots = Vec::new();
    for _ in 0..BLOCKS_PER_EXTENT {
        slots.push(store.reserve(BLOCK_BYTES, soon()).await.unwrap());
    }
    // The first one waits for a slot, so that nothing is asked of the device yet.
    let gets = [Urgency::Background, Urgency::Urgent, Urgency::Normal].map(|urgency| get(&store, 0, urgency));
    for _ in 0..10 {
        tokio::task::yield_now().await;
    }
    drop(slots);
    assert_eq!(device.urgencies(1).await, [Urgency::Urgent]);
    device.perform_next();
    for got in gets {
        assert_hit(got, 0).await;
    }
}
