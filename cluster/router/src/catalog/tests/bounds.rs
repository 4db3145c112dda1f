//! Everything has a limit, and what is beyond it is refused or forgotten and counted.

use hearth_proto::Tier;
use hearth_proto::limits::{
    BLOCK_TOKENS_MAX, EVENT_BLOCKS_MAX, POOL_NAME_BYTES_MAX, POOL_WORKERS_MAX, POOLS_MAX, QUERY_BLOCKS_MAX,
};

use super::*;

#[test]
fn names_and_sizes_are_checked() {
    let long = "x".repeat(POOL_NAME_BYTES_MAX + 1);
    let refused =
        |model: &str, tenant: &str, lora: &str, size| PoolKey::new(model, tenant, Some(lora), size).is_err();
    assert!(refused(&long, "", "", 16) && refused("m", &long, "", 16) && refused("m", "", &long, 16));
    assert!(refused("", "", "", 16) && refused("m", "", "", 0) && refused("m", "", "", BLOCK_TOKENS_MAX + 1));
    assert_eq!(PoolKey::new("m", "", Some(""), 16), PoolKey::new("m", "", None, 16));
    assert!(WorkerKey::new("", 0).is_err() && WorkerKey::new(&long, 0).is_err());
    assert_eq!(PoolKey::new("", "", None, 16), Err(KeyError::Empty { what: "model" }));
}

#[test]
fn a_query_has_so_many_blocks_at_the_most() {
    let (_catalog, pool) = pool(1);
    let mut answer = Answer::new();
    let many = vec![7_u64; 100_000];
    for query in [Query::SequenceHashes(&many), Query::LocalHashes(&many)] {
        assert_eq!(pool.query(query, &mut answer), Err(QueryError::TooManyBlocks { blocks: 100_000 }));
        assert_eq!(answer.workers().count(), 0);
    }
    let many = vec![7_u32; (QUERY_BLOCKS_MAX + 1) * BLOCK_SIZE as usize];
    assert!(pool.query(Query::Tokens { tokens: &many, salt: None }, &mut answer).is_err());
    assert!(
        pool.query(Query::Tokens { tokens: &many[BLOCK_SIZE as usize..], salt: None }, &mut answer).is_ok()
    );
    assert_eq!((answer.workers().count(), answer.blocks()), (1, QUERY_BLOCKS_MAX));
    pool.query(Query::SequenceHashes(&[]), &mut answer).unwrap();
    assert_eq!(answer.workers().map(|found| found.prefix).collect::<Vec<_>>(), [TierPrefix::default()]);
}

#[test]
fn a_report_has_so_many_blocks_at_the_most() {
    let (_catalog, pool) = pool(1);
    let hashes: Vec<u64> = (0..=EVENT_BLOCKS_MAX as u64).collect();
    let stored = StoredBlocks { hashes: &hashes, ..StoredBlocks::default() };
    assert_eq!(pool.stored(&worker(0), Tier::Gpu, &stored, 0), Err(ChangeError::TooManyBlocks));
    assert_eq!(pool.removed(&worker(0), Tier::Gpu, &hashes, 0), Err(ChangeError::TooManyBlocks));
    assert_eq!(pool.stored(&worker(0), Tier::Gpu, &StoredBlocks::default(), 0), Ok(Applied::default()));
}

#[test]
fn pools_and_workers_are_numbered() {
    let catalog = catalog();
    let key = |size: usize| PoolKey::new("model", "tenant", None, size as u32).unwrap();
    for size in 1..=POOLS_MAX {
        catalog.register(&key(size), &worker(0), 0).unwrap();
    }
    assert_eq!(
        catalog.register(&key(POOLS_MAX + 1), &worker(0), 0).unwrap_err(),
        RegisterError::TooManyPools
    );
    assert!(catalog.register(&key(1), &worker(0), 0).is_ok());
    // A pool goes with its last worker.
    assert_eq!(catalog.unregister(&key(1), &worker(0)), Some(0));
    assert_eq!(catalog.unregister(&key(1), &worker(0)), None);
    assert!(catalog.pool(&key(1)).is_none());
    let key = key(POOLS_MAX + 1);
    for number in 0..POOL_WORKERS_MAX {
        catalog.register(&key, &worker(number as u32), 0).unwrap();
    }
    let last = worker(POOL_WORKERS_MAX as u32);
    assert_eq!(catalog.register(&key, &last, 0).unwrap_err(), RegisterError::TooManyWorkers);
    assert!(catalog.register(&key, &worker(0), 0).is_ok());
    assert_eq!(catalog.pool(&key).unwrap().workers().len(), POOL_WORKERS_MAX);
}

#[test]
fn a_query_names_the_size_of_blocks_if_there_are_several() {
    let catalog = catalog();
    let register = |model, lora, size| {
        catalog.register(&PoolKey::new(model, "tenant", lora, size).unwrap(), &worker(0), 0).unwrap();
    };
    let select = |model, lora, block_size| {
        let selected = catalog.select(&PoolSelector { model, tenant: "tenant", lora, block_size });
        selected.map(|pool| pool.key().clone())
    };
    let key = |model, lora, size| Ok(PoolKey::new(model, "tenant", lora, size).unwrap());
    register("model", None, 64);
    register("model", Some("adapter"), 16);
    register("another", None, 16);
    assert_eq!(select("model", None, None), key("model", None, 64));
    assert_eq!(select("model", Some(""), Some(64)), key("model", None, 64));
    assert_eq!(select("model", None, Some(16)), Err(SelectError::UnknownPool));
    assert_eq!(select("none", None, None), Err(SelectError::UnknownPool));
    register("model", None, 16);
    register("model", None, 128);
    assert_eq!(select("model", None, None), Err(SelectError::Ambiguous { block_sizes: vec![16, 64, 128] }));
    assert_eq!(select("model", None, Some(16)), key("model", None, 16));
    assert_eq!(select("model", Some("adapter"), None), key("model", Some("adapter"), 16));
}

#[test]
fn the_oldest_blocks_of_a_worker_are_forgotten_when_it_has_too_many() {
    let settings = Settings { worker_blocks_max: 64, ..Settings::new(usize::MAX, SEED) };
    let catalog = Catalog::new(settings);
    let pool = catalog.register(&pool_key(), &worker(0), 0).unwrap();
    catalog.register(&pool_key(), &worker(1), 0).unwrap();
    let report = |number: u32, chain: u32, tier| {
        let tokens = tokens(&[chain, chain, chain, chain]);
        let stored =
            StoredBlocks { hashes: &engine_hashes(1, &tokens), tokens: &tokens, ..StoredBlocks::default() };
        pool.stored(&worker(number), tier, &stored, 0).unwrap();
    };
    let asked = |number, chain: u32| ask_tokens(&pool, &tokens(&[chain; 4]))[&worker(number)];
    report(1, 0, Tier::Gpu);
    for chain in 0..1_000 {
        report(0, chain, Tier::Gpu);
        report(0, chain, Tier::Host);
        assert!(pool.stats().held <= 64 + 4);
        assert_eq!(asked(0, chain), [4; 3], "the newest is there");
    }
    let stats = pool.stats();
    assert_eq!(stats.held as u64 + stats.changes.forgotten, 4_004);
    assert_eq!(asked(0, 0), [0; 3], "what has no name is not said to be held");
    assert_eq!(asked(1, 0), [4; 3], "others keep what they have");
    assert_eq!(stats.index.blocks, stats.held);
}

#[test]
fn who_says_nothing_is_forgotten_until_it_is_heard_of() {
    let (catalog, pool) = pool(2);
    let tokens = tokens(&[1, 2]);
    let report = |number, now_ms| {
        let stored = StoredBlocks { hashes: &[10, 20], tokens: &tokens, ..StoredBlocks::default() };
        pool.stored(&worker(number), Tier::Gpu, &stored, now_ms).unwrap();
    };
    report(0, 1_000);
    report(1, 1_500);
    assert_eq!(catalog.expire(2_000, 1_000), []);
    assert_eq!(catalog.expire(2_001, 1_000), [(pool_key(), worker(0))]);
    let asked = |number| ask_tokens(&pool, &tokens)[&worker(number)][0];
    assert_eq!([asked(0), asked(1)], [0, 2]);
    pool.heard(&worker(1), 2_600).unwrap();
    assert_eq!(catalog.expire(3_000, 1_000), [], "it is said once");
    report(0, 4_000);
    assert_eq!(catalog.expire(4_000, 1_000), [(pool_key(), worker(1))]);
    assert_eq!([asked(0), asked(1)], [2, 0]);
    // It was heard of meanwhile, and then not again.
    catalog.register(&pool_key(), &worker(1), 5_000).unwrap();
    assert_eq!(catalog.expire(9_000, 1_000), [(pool_key(), worker(0)), (pool_key(), worker(1))]);
    assert_eq!(pool.workers(), [worker(0), worker(1)]);
}
