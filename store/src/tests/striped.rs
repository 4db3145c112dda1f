//! How blocks spread over the slabs of a store.

use tempfile::{TempDir, tempdir};

use super::{BLOCKS_PER_EXTENT, EXTENT_BYTES, config, id, put, soon};
use crate::index::NvmeReplica;
use crate::{SlabConfig, Store, StoreConfig};

/// Blocks that go to one slab before the next one's turn: a quarter of these small extents.
const TURN_BLOCKS: u64 = BLOCKS_PER_EXTENT / 4;

fn striped(dir: &TempDir, extents: &[u64]) -> StoreConfig {
    let mut config = config(dir, 2, 1);
    let slab = |(n, extents): (usize, &u64)| SlabConfig {
        path: dir.path().join(format!("{n}.slab")),
        capacity_bytes: extents * EXTENT_BYTES,
    };
    if let Some(nvme) = &mut config.nvme {
        nvme.slabs = extents.iter().enumerate().map(slab).collect();
    }
    config
}

/// The slab on which a durable block lies, and where there.
fn place(store: &Store, n: u64) -> (usize, u64) {
    let core = store.core();
    let shard = core.index.shard(&id(n));
    let Some(NvmeReplica::Stored(sector)) = shard.get(&id(n)).map(|node| node.nvme()) else {
        panic!("block {n} is not durable");
    };
    core.nvme.as_ref().unwrap().volume.locate(sector)
}

async fn put_all(store: &Store, blocks: std::ops::Range<u64>) -> Vec<(usize, u64)> {
    let mut places = Vec::new();
    for n in blocks {
        put(store, n, hearth_proto::AckLevel::Durable, soon()).await.unwrap();
        places.push(place(store, n));
    }
    places
}

/// That no slab is more than a turn ahead of another, however far the filling is.
fn assert_even(places: &[(usize, u64)], slabs: usize) {
    let mut counts = vec![0; slabs];
    for (slab, _) in places {
        counts[*slab] += 1;
        let (least, most) = (counts.iter().min().unwrap(), counts.iter().max().unwrap());
        assert!(most - least <= TURN_BLOCKS, "{counts:?}");
    }
}

#[tokio::test]
async fn slabs_fill_evenly_and_blocks_that_were_put_together_lie_together() {
    let dir = tempdir().unwrap();
    let config = striped(&dir, &[4, 4, 4]);
    let (store, _) = Store::open(config.clone()).unwrap();
    let places = put_all(&store, 0..BLOCKS_PER_EXTENT * 9).await;
    assert_even(&places, 3);
    for turn in places.chunks(TURN_BLOCKS as usize) {
        assert!(turn.windows(2).all(|pair| pair[0].0 == pair[1].0 && pair[1].1 - pair[0].1 == 16_384));
    }
    store.close().await;
    drop(store);
    let (store, _) = Store::open(config).unwrap();
    let places = put_all(&store, 1_000..1_000 + BLOCKS_PER_EXTENT * 2).await;
    assert_even(&places, 3);
}

#[tokio::test]
async fn a_slab_that_is_full_leaves_its_turns_to_the_others() {
    let dir = tempdir().unwrap();
    let (store, _) = Store::open(striped(&dir, &[1, 4])).unwrap();
    let places = put_all(&store, 0..BLOCKS_PER_EXTENT * 5).await;
    assert_even(&places[..BLOCKS_PER_EXTENT as usize * 2], 2);
    assert_eq!(places.iter().filter(|(slab, _)| *slab == 0).count() as u64, BLOCKS_PER_EXTENT);
    assert_eq!(store.stats().evicted_nvme, 0);
}
