//! Every level of every worker is answered exactly, whatever happened in which tier.

use std::collections::{BTreeMap, BTreeSet};

use hearth_proto::Tier;
use proptest::prelude::*;

use super::*;

const WORKERS: u32 = 4;
const LEVELS: [&[Tier]; 3] = [&[Tier::Gpu], &[Tier::Gpu, Tier::Host], &Tier::ALL];

/// What a worker said: for each of its hashes the block, the tiers, and whether it told of tokens.
#[derive(Clone, Debug)]
struct Said {
    block: u64,
    tiers: BTreeSet<Tier>,
    is_rolled: bool,
}

#[derive(Debug, Default)]
struct Oracle(BTreeMap<u32, BTreeMap<u64, Said>>);

impl Oracle {
    fn of(&mut self, worker: u32) -> &mut BTreeMap<u64, Said> {
        self.0.entry(worker).or_default()
    }

    fn store(&mut self, worker: u32, tier: Tier, stored: &StoredBlocks<'_>, blocks: &[u64]) -> bool {
        let said = self.of(worker);
        let is_rolled = !stored.tokens.is_empty();
        let parent = stored.parent.map(|parent| said.get(&parent).is_some_and(|said| said.is_rolled));
        if is_rolled && parent == Some(false) {
            return false;
        }
        for (hash, block) in stored.hashes.iter().zip(blocks) {
            let block = if is_rolled { *block } else { *hash };
            let said = said.entry(*hash).or_insert(Said { block, tiers: BTreeSet::new(), is_rolled: false });
            if is_rolled {
                (said.block, said.is_rolled) = (block, true);
            }
            said.tiers.insert(tier);
        }
        true
    }

    fn remove(&mut self, worker: u32, tier: Tier, hashes: &[u64]) -> usize {
        let said = self.of(worker);
        let drop = |hash: &&u64| said.get_mut(hash).is_some_and(|said| said.tiers.remove(&tier));
        let dropped = hashes.iter().filter(drop).count();
        said.retain(|_, said| !said.tiers.is_empty());
        dropped
    }

    fn prefix(&self, worker: u32, chain: &[u64]) -> [u32; 3] {
        let held = |level: &[Tier]| -> BTreeSet<u64> {
            let said = self.0.get(&worker).into_iter().flat_map(BTreeMap::values);
            let held = said.filter(|said| said.tiers.iter().any(|tier| level.contains(tier)));
            held.map(|said| said.block).collect()
        };
        LEVELS.map(|level| {
            let held = held(level);
            chain.iter().take_while(|block| held.contains(block)).count() as u32
        })
    }
}

#[derive(Clone, Debug)]
enum Step {
    Store {
        worker: u32,
        tier: Tier,
        chain: usize,
        from: usize,
        len: usize,
        has_tokens: bool,
    },
    Remove {
        worker: u32,
        tier: Tier,
        chain: usize,
        from: usize,
        len: usize,
        stride: usize,
        is_reversed: bool,
    },
    Clear {
        worker: u32,
    },
    /// It leaves, and comes back with nothing.
    Restart {
        worker: u32,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let tier = || prop::sample::select(&Tier::ALL[..]);
    let part = || (0..WORKERS, tier(), 0..6_usize, 0..30_usize, 1..40_usize);
    let from_start = prop::bool::weighted(0.5);
    prop_oneof![
        8 => (part(), from_start, prop::bool::weighted(0.7)).prop_map(
            |((worker, tier, chain, from, len), is_whole, has_tokens)| {
                Step::Store { worker, tier, chain, from: if is_whole { 0 } else { from }, len, has_tokens }
            }
        ),
        8 => (part(), 1..4_usize, any::<bool>()).prop_map(
            |((worker, tier, chain, from, len), stride, is_reversed)| {
                Step::Remove { worker, tier, chain, from, len, stride, is_reversed }
            }
        ),
        1 => (0..WORKERS).prop_map(|worker| Step::Clear { worker }),
        1 => (0..WORKERS).prop_map(|worker| Step::Restart { worker }),
    ]
}

/// Chains that share their beginnings.
fn chains() -> impl Strategy<Value = Vec<Vec<u32>>> {
    let branch = (0..30_usize, prop::collection::vec(0..3_u32, 1..30));
    prop::collection::vec(branch, 6).prop_map(|branches| {
        let trunk: Vec<u32> = (0..30).map(|number| number % 3).collect();
        branches.into_iter().map(|(cut, rest)| [&trunk[..cut], &rest].concat()).collect()
    })
}

/// The engine's hashes, the tokens and the true hashes of one chain, for the worker that reports it. Two of the workers
/// have one seed, and one calls blocks what they are.
fn named(worker: u32, chain: &[u32]) -> (Vec<u64>, Vec<u32>, Vec<u64>) {
    let tokens = tokens(chain);
    let blocks = sequence(&tokens);
    let hashes = if worker == 3 { blocks.clone() } else { engine_hashes(u64::from(worker / 2), &tokens) };
    (hashes, tokens, blocks)
}

fn part(len: usize, from: usize, wanted: usize) -> std::ops::Range<usize> {
    let from = from.min(len);
    from..(from + wanted).min(len)
}

fn take(
    catalog: &Catalog,
    pool: &Pool,
    oracle: &mut Oracle,
    chains: &[Vec<u32>],
    step: Step,
) -> Result<(), TestCaseError> {
    match step {
        Step::Store { worker: number, tier, chain, from, len, has_tokens } => {
            let (hashes, tokens, blocks) = named(number, &chains[chain]);
            let range = part(hashes.len(), from, len);
            let size = BLOCK_SIZE as usize;
            let stored = StoredBlocks {
                parent: range.start.checked_sub(1).map(|before| hashes[before]),
                hashes: &hashes[range.clone()],
                tokens: if has_tokens { &tokens[range.start * size..range.end * size] } else { &[] },
                salt: None,
            };
            let known = oracle.store(number, tier, &stored, &blocks[range]);
            let applied = pool.stored(&worker(number), tier, &stored, 0);
            match known || stored.hashes.is_empty() {
                true => prop_assert!(applied.is_ok()),
                false => prop_assert_eq!(applied, Err(ChangeError::UnknownParent)),
            }
        }
        Step::Remove { worker: number, tier, chain, from, len, stride, is_reversed } => {
            let (hashes, ..) = named(number, &chains[chain]);
            let mut hashes: Vec<u64> =
                hashes[part(hashes.len(), from, len)].iter().step_by(stride).copied().collect();
            if is_reversed {
                hashes.reverse();
            }
            let changed = oracle.remove(number, tier, &hashes);
            let applied = pool.removed(&worker(number), tier, &hashes, 0);
            prop_assert_eq!(applied, Ok(Applied { changed, unchanged: hashes.len() - changed }));
        }
        Step::Clear { worker: number } => {
            let held = std::mem::take(oracle.of(number)).len();
            prop_assert_eq!(pool.cleared(&worker(number), 0), Ok(Applied { changed: held, unchanged: 0 }));
        }
        Step::Restart { worker: number } => {
            let held = std::mem::take(oracle.of(number)).len();
            prop_assert_eq!(catalog.unregister(pool.key(), &worker(number)), Some(held));
            prop_assert!(catalog.register(pool.key(), &worker(number), 0).is_ok());
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 2 } else { 256 }, ..ProptestConfig::default() })]

    #[test]
    fn each_level_has_what_any_of_its_tiers_has(
        chains in chains(),
        steps in prop::collection::vec(step(), 0..if cfg!(miri) { 20 } else { 120 }),
    ) {
        let (catalog, pool) = pool(WORKERS);
        let mut oracle = Oracle::default();
        for step in steps {
            take(&catalog, &pool, &mut oracle, &chains, step)?;
        }
        let mut answer = Answer::new();
        for chain in &chains {
            let (_, tokens, blocks) = named(0, chain);
            let locals = hashes::local_hashes(&tokens, BLOCK_SIZE, None, None);
            let expected: BTreeMap<_, _> =
                (0..WORKERS).map(|number| (worker(number), oracle.prefix(number, &blocks))).collect();
            prop_assert_eq!(&ask_tokens(&pool, &tokens), &expected);
            prop_assert_eq!(&ask(&pool, Query::SequenceHashes(&blocks)), &expected);
            prop_assert_eq!(&ask(&pool, Query::LocalHashes(&locals)), &expected);
            // Blocks that nobody told the tokens of go by the engine's hashes.
            for number in 0..WORKERS {
                let (hashes, ..) = named(number, chain);
                pool.query(Query::SequenceHashes(&hashes), &mut answer).unwrap();
                let found = answer.workers().find(|found| *found.worker == worker(number)).unwrap();
                let [gpu_blocks, host_blocks, disk_blocks] = oracle.prefix(number, &hashes);
                prop_assert_eq!(found.prefix, TierPrefix { gpu_blocks, host_blocks, disk_blocks });
            }
        }
        let held: usize = oracle.0.values().map(BTreeMap::len).sum();
        prop_assert_eq!(pool.stats().held, held);
        // Nothing is left behind.
        for number in 0..WORKERS {
            let said = std::mem::take(oracle.of(number));
            for (hash, said) in said {
                for tier in said.tiers {
                    pool.removed(&worker(number), tier, &[hash], 0).unwrap();
                }
            }
        }
        let stats = pool.stats();
        prop_assert_eq!((stats.held, stats.index.blocks, stats.index.runs), (0, 0, 0));
    }
}

#[test]
fn a_worker_with_one_tier_is_one_member() {
    let (_catalog, pool) = pool(1);
    let tokens = tokens(&[1, 2, 3, 4]);
    let hashes = engine_hashes(5, &tokens);
    let store = |tier, from: usize| {
        let parent = from.checked_sub(1).map(|before| hashes[before]);
        let stored = StoredBlocks {
            parent,
            hashes: &hashes[from..],
            tokens: &tokens[from * BLOCK_SIZE as usize..],
            salt: None,
        };
        pool.stored(&worker(0), tier, &stored, 0).unwrap();
        pool.board.read().members_end()
    };
    assert_eq!(store(Tier::Host, 0), 1);
    assert_eq!(ask_tokens(&pool, &tokens)[&worker(0)], [0, 4, 4]);
    assert_eq!(store(Tier::Host, 2), 1);
    assert_eq!(store(Tier::Nvme, 1), 2);
    assert_eq!(store(Tier::Gpu, 3), 3);
    assert_eq!(store(Tier::Remote, 0), 3);
    pool.removed(&worker(0), Tier::Host, &hashes[1..2], 0).unwrap();
    assert_eq!(ask_tokens(&pool, &tokens)[&worker(0)], [0, 1, 4]);
    pool.removed(&worker(0), Tier::Nvme, &hashes[1..2], 0).unwrap();
    assert_eq!(ask_tokens(&pool, &tokens)[&worker(0)], [0, 1, 4], "another node has it still");
    pool.removed(&worker(0), Tier::Remote, &hashes[1..2], 0).unwrap();
    assert_eq!(ask_tokens(&pool, &tokens)[&worker(0)], [0, 1, 1]);
}

#[test]
fn an_instance_has_what_the_best_of_its_ranks_has() {
    let (_catalog, pool) = pool(3);
    let tokens = tokens(&[1, 2, 3, 4, 5]);
    let hashes = engine_hashes(5, &tokens);
    let store = |number, tier, blocks: usize| {
        let stored = StoredBlocks {
            hashes: &hashes[..blocks],
            tokens: &tokens[..blocks * BLOCK_SIZE as usize],
            ..StoredBlocks::default()
        };
        pool.stored(&worker(number), tier, &stored, 0).unwrap();
    };
    store(0, Tier::Gpu, 2);
    store(0, Tier::Host, 3);
    store(0, Tier::Nvme, 5);
    store(1, Tier::Gpu, 1);
    let mut answer = Answer::new();
    pool.query(Query::Tokens { tokens: &tokens, salt: None }, &mut answer).unwrap();
    assert_eq!((answer.blocks(), answer.block_size()), (5, BLOCK_SIZE));
    let all: Vec<_> = answer
        .instances()
        .map(|found| {
            let dp: Vec<_> = found.dp().collect();
            let levels = [found.longest_tokens, found.gpu_tokens, found.host_tokens, found.disk_tokens];
            (found.instance, levels, dp)
        })
        .collect();
    assert_eq!(
        all,
        [("engine-0", [20, 8, 12, 20], vec![(0, 8), (1, 4)]), ("engine-1", [0, 0, 0, 0], vec![(0, 0)])]
    );
}
