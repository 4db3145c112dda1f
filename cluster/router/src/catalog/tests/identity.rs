//! A block is what its tokens are, and a worker's names are its own.

use hearth_proto::Tier;
use proptest::prelude::*;

use super::*;

fn store(
    pool: &Pool,
    number: u32,
    parent: Option<u64>,
    hashes: &[u64],
    tokens: &[u32],
) -> Result<Applied, ChangeError> {
    let stored = StoredBlocks { parent, hashes, tokens, salt: None };
    pool.stored(&worker(number), Tier::Gpu, &stored, 0)
}

#[test]
fn one_hash_for_different_tokens_is_what_each_worker_says_it_is() {
    let (_catalog, pool) = pool(2);
    let (one, other) = (tokens(&[1, 2, 3]), tokens(&[4, 5, 6]));
    let hashes = [10, 20, 30];
    store(&pool, 0, None, &hashes, &one).unwrap();
    store(&pool, 1, None, &hashes, &other).unwrap();
    let asked = |number, tokens: &[u32]| ask_tokens(&pool, tokens)[&worker(number)][0];
    assert_eq!([asked(0, &one), asked(0, &other), asked(1, &one), asked(1, &other)], [3, 0, 0, 3]);
    // Each goes on behind its own block, and drops its own.
    let (one_on, other_on) = (tokens(&[1, 2, 3, 7]), tokens(&[4, 5, 6, 7]));
    store(&pool, 0, Some(30), &[40], &tokens(&[7])).unwrap();
    store(&pool, 1, Some(30), &[40], &tokens(&[7])).unwrap();
    assert_eq!(
        [asked(0, &one_on), asked(0, &other_on), asked(1, &one_on), asked(1, &other_on)],
        [4, 0, 0, 4]
    );
    pool.removed(&worker(1), Tier::Gpu, &[20], 0).unwrap();
    assert_eq!([asked(0, &one_on), asked(1, &other_on)], [4, 1]);
    assert_eq!(pool.stats().changes.contradicted, 0);
}

#[test]
fn a_worker_that_contradicts_itself_is_taken_at_its_last_word() {
    let (_catalog, pool) = pool(1);
    let (one, other) = (tokens(&[1]), tokens(&[2]));
    store(&pool, 0, None, &[10], &one).unwrap();
    store(&pool, 0, None, &[10], &other).unwrap();
    let asked = |tokens: &[u32]| ask_tokens(&pool, tokens)[&worker(0)][0];
    assert_eq!([asked(&one), asked(&other)], [0, 1]);
    // Within one report as well.
    store(&pool, 0, None, &[10, 10], &tokens(&[3, 4])).unwrap();
    assert_eq!([asked(&other), asked(&tokens(&[3]))], [0, 0]);
    assert_eq!(pool.stats().changes.contradicted, 3 - 1 + 1);
    pool.removed(&worker(0), Tier::Gpu, &[10], 0).unwrap();
    let stats = pool.stats();
    assert_eq!((stats.held, stats.index.blocks), (0, 0));
}

#[test]
fn what_cannot_be_known_is_not_guessed() {
    let (_catalog, pool) = pool(1);
    let chain = tokens(&[1, 2, 3]);
    store(&pool, 0, None, &[10, 20, 30], &chain).unwrap();
    assert_eq!(store(&pool, 0, Some(99), &[40], &tokens(&[4])), Err(ChangeError::UnknownParent));
    assert_eq!(store(&pool, 0, None, &[40], &tokens(&[4, 5])), Err(ChangeError::TokensMismatch));
    // A block that is known by name alone does not say what comes before.
    store(&pool, 0, Some(30), &[50], &[]).unwrap();
    assert_eq!(store(&pool, 0, Some(50), &[60], &tokens(&[6])), Err(ChangeError::UnknownParent));
    // One that was dropped does not either.
    pool.removed(&worker(0), Tier::Gpu, &[30, 31], 0).unwrap();
    assert_eq!(store(&pool, 0, Some(30), &[40], &tokens(&[4])), Err(ChangeError::UnknownParent));
    let unknown = WorkerKey::new("engine-0", 9).unwrap();
    let stored = StoredBlocks { hashes: &[1], ..StoredBlocks::default() };
    assert_eq!(pool.stored(&unknown, Tier::Gpu, &stored, 0), Err(ChangeError::UnknownWorker));
    assert_eq!(pool.removed(&unknown, Tier::Gpu, &[1], 0), Err(ChangeError::UnknownWorker));
    assert_eq!(pool.heard(&unknown, 0), Err(ChangeError::UnknownWorker));
    let changes = pool.stats().changes;
    let dropped = ChangeError::ALL.map(|reason| changes.dropped_for(reason));
    assert_eq!((dropped, changes.applied, changes.unknown_removed), ([2, 3, 1, 0, 0], 3, 1));
}

#[test]
fn salts_and_adapters_keep_chains_apart() {
    let catalog = catalog();
    let key = |lora| PoolKey::new("model", "tenant", lora, BLOCK_SIZE).unwrap();
    let plain = catalog.register(&key(None), &worker(0), 0).unwrap();
    let adapted = catalog.register(&key(Some("adapter")), &worker(0), 0).unwrap();
    let tokens = tokens(&[1, 2]);
    let stored = StoredBlocks { hashes: &[10, 20], tokens: &tokens, ..StoredBlocks::default() };
    adapted.stored(&worker(0), Tier::Gpu, &stored, 0).unwrap();
    assert_eq!(ask_tokens(&adapted, &tokens)[&worker(0)], [2, 2, 2]);
    assert_eq!(ask_tokens(&plain, &tokens)[&worker(0)], [0, 0, 0]);
    let locals = hashes::local_hashes(&tokens, BLOCK_SIZE, Some("adapter"), None);
    assert_eq!(ask(&adapted, Query::LocalHashes(&locals))[&worker(0)], [2, 2, 2]);
    plain.stored(&worker(0), Tier::Gpu, &StoredBlocks { salt: Some("a"), ..stored }, 0).unwrap();
    assert_eq!(ask_tokens(&plain, &tokens)[&worker(0)], [0, 0, 0]);
    assert_eq!(ask(&plain, Query::Tokens { tokens: &tokens, salt: Some("a") })[&worker(0)], [2, 2, 2]);
}

#[test]
fn a_name_that_is_understood_late_keeps_its_tiers() {
    let (_catalog, pool) = pool(1);
    let chain = tokens(&[1, 2]);
    let by_name = StoredBlocks { hashes: &[10, 20], ..StoredBlocks::default() };
    pool.stored(&worker(0), Tier::Host, &by_name, 0).unwrap();
    assert_eq!(ask(&pool, Query::SequenceHashes(&[10, 20]))[&worker(0)], [0, 2, 2]);
    store(&pool, 0, None, &[10, 20], &chain).unwrap();
    pool.removed(&worker(0), Tier::Gpu, &[10, 20], 0).unwrap();
    assert_eq!(ask_tokens(&pool, &chain)[&worker(0)], [0, 2, 2]);
    assert_eq!(ask(&pool, Query::SequenceHashes(&[10, 20]))[&worker(0)], [0, 0, 0]);
    assert_eq!(pool.stats().index.blocks, 2);
}

#[derive(Clone, Debug)]
enum Lie {
    Stored { tier: Tier, parent: Option<u64>, hashes: Vec<u64>, blocks: Option<Vec<u32>> },
    Removed { tier: Tier, hashes: Vec<u64> },
}

fn lie() -> impl Strategy<Value = Lie> {
    let hash = || 0..24_u64;
    let tier = || prop::sample::select(&Tier::ALL[..]);
    let hashes = || prop::collection::vec(hash(), 1..8);
    prop_oneof![
        3 => (tier(), prop::option::of(hash()), hashes(), prop::option::of(prop::collection::vec(0..4_u32, 8)))
            .prop_map(|(tier, parent, hashes, blocks)| Lie::Stored { tier, parent, hashes, blocks }),
        1 => (tier(), hashes()).prop_map(|(tier, hashes)| Lie::Removed { tier, hashes }),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 256 }, ..ProptestConfig::default() })]

    #[test]
    fn a_liar_changes_nothing_about_others(
        lies in prop::collection::vec((lie(), any::<bool>()), 0..40),
        len in 1..12_usize,
        dropped in 0..12_u64,
    ) {
        // An honest worker whose hashes are the numbers from 0 on, which the other uses for what it likes. Now and then
        // that one calls by name what are the honest one's true hashes.
        let (_catalog, pool) = pool(2);
        let honest = tokens(&[0, 1, 2, 3, 0, 1, 2, 3, 0, 1, 2, 3]);
        let (hashes, blocks): (Vec<u64>, _) = ((0..12).collect(), sequence(&honest));
        let tell = |lie: &Lie| match lie {
            Lie::Stored { tier, parent, hashes, blocks: lied } => {
                let tokens = lied.as_ref().map(|lied| tokens(&lied[..hashes.len()])).unwrap_or_default();
                let truths: Vec<u64> = hashes.iter().map(|at| blocks.get(*at as usize).copied().unwrap_or(*at)).collect();
                let hashes = if lied.is_some() { hashes } else { &truths };
                let stored = StoredBlocks { parent: *parent, hashes, tokens: &tokens, salt: None };
                let _ = pool.stored(&worker(0), *tier, &stored, 0);
            }
            Lie::Removed { tier, hashes } => {
                pool.removed(&worker(0), *tier, hashes, 0).unwrap();
            }
        };
        lies.iter().filter(|(_, is_first)| *is_first).for_each(|(lie, _)| tell(lie));
        store(&pool, 1, None, &hashes[..len], &honest[..len * BLOCK_SIZE as usize]).unwrap();
        lies.iter().filter(|(_, is_first)| !is_first).for_each(|(lie, _)| tell(lie));
        prop_assert_eq!(ask_tokens(&pool, &honest)[&worker(1)], [len as u32; 3]);
        pool.removed(&worker(1), Tier::Gpu, &[dropped], 0).unwrap();
        prop_assert_eq!(ask_tokens(&pool, &honest)[&worker(1)], [len.min(dropped as usize) as u32; 3]);
        pool.cleared(&worker(0), 0).unwrap();
        pool.cleared(&worker(1), 0).unwrap();
        prop_assert_eq!(pool.stats().index.blocks, 0);
    }
}
