//! Queries are right while reports are taken in and workers come and go.

use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering};

use hearth_proto::Tier;
use hearth_proto::limits::QUERY_ATTEMPTS_MAX;

use super::super::levels::Levels;
use super::*;

const ROUNDS: u32 = if cfg!(miri) { 2 } else { 150 };

fn stored<'a>(hashes: &'a [u64], tokens: &'a [u32]) -> StoredBlocks<'a> {
    StoredBlocks { hashes, tokens, ..StoredBlocks::default() }
}

#[test]
fn what_stands_still_is_seen_while_all_else_changes() {
    let (catalog, pool) = pool(1);
    let trunk: Vec<u32> = (0..200).collect();
    let all = tokens(&trunk);
    let hashes = engine_hashes(0, &all);
    pool.stored(&worker(0), Tier::Host, &stored(&hashes, &all), 0).unwrap();
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (1..4)
            .map(|number| {
                let (catalog, pool, all) = (&catalog, &pool, &all);
                scope.spawn(move || {
                    let (key, hashes) = (worker(number), engine_hashes(u64::from(number), all));
                    for round in 0..ROUNDS {
                        catalog.register(&pool_key(), &key, 0).unwrap();
                        pool.stored(&key, Tier::Gpu, &stored(&hashes, all), 0).unwrap();
                        // Runs fall apart and are put together.
                        pool.removed(&key, Tier::Gpu, &hashes[20..180], 0).unwrap();
                        pool.stored(&key, Tier::Host, &stored(&hashes[..100], &all[..400]), 0).unwrap();
                        pool.stored(&key, Tier::Nvme, &stored(&hashes[..50], &all[..200]), 0).unwrap();
                        assert_eq!(ask_tokens(pool, all)[&key], [20, 100, 100]);
                        match round % 2 {
                            0 => assert_eq!(catalog.unregister(&pool_key(), &key), Some(120)),
                            _ => assert_eq!(pool.cleared(&key, 0).unwrap().changed, 120),
                        }
                        assert_eq!(ask_tokens(pool, all).get(&key).copied().unwrap_or_default(), [0; 3]);
                    }
                })
            })
            .collect();
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut answer = Answer::new();
                    while !is_over.load(Ordering::Relaxed) {
                        pool.query(Query::Tokens { tokens: &all, salt: None }, &mut answer).unwrap();
                        let first = answer.workers().next().unwrap();
                        let expected = TierPrefix { gpu_blocks: 0, host_blocks: 200, disk_blocks: 200 };
                        assert_eq!((first.worker, first.prefix), (&worker(0), expected));
                    }
                })
            })
            .collect();
        let outcomes: Vec<_> = writers.into_iter().map(|writer| writer.join()).collect();
        is_over.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
        assert!(outcomes.iter().all(Result::is_ok));
    });
    (1..4).for_each(|number| {
        catalog.unregister(&pool_key(), &worker(number));
    });
    assert_eq!(ask_tokens(&pool, &all), BTreeMap::from([(worker(0), [0, 200, 200])]));
    pool.cleared(&worker(0), 0).unwrap();
    let stats = pool.stats();
    assert_eq!((stats.held, stats.index.blocks, stats.index.runs), (0, 0, 0));
}

/// While a query is under way its worker leaves, and another one with another chain gets the number.
#[test]
fn a_number_that_goes_to_another_worker_mixes_nobody_up() {
    let (catalog, pool) = pool(1);
    let chains = [tokens(&[1; 5]), tokens(&[2; 5])];
    let report = |number: u32| {
        let all = &chains[number as usize % 2];
        pool.stored(&worker(number), Tier::Gpu, &stored(&engine_hashes(0, all), all), 0).unwrap();
    };
    for changes in 1..=QUERY_ATTEMPTS_MAX as u32 {
        catalog.unregister(&pool_key(), &worker(1));
        catalog.register(&pool_key(), &worker(1), 0).unwrap();
        report(1);
        let (mut answer, mut last) = (Answer::new(), 1);
        let chain = sequence(&chains[0]);
        pool.search(&mut answer, |matches| {
            // The numbers go from the odd, which do not hold the chain, to the even, which do, and back.
            if last <= changes {
                catalog.register(&pool_key(), &worker(9), 0).unwrap();
                catalog.unregister(&pool_key(), &worker(last));
                last += 1;
                catalog.register(&pool_key(), &worker(last), 0).unwrap();
                report(last);
                assert_eq!(pool.board.read().members_end(), 1);
            }
            pool.index.find(&chain, matches);
        });
        let held: Vec<_> = answer.workers().filter(|found| found.prefix.gpu_blocks > 0).collect();
        let is_held = last.is_multiple_of(2);
        assert_eq!(held.len(), usize::from(is_held), "{changes} changes");
        assert!(held.iter().all(|found| *found.worker == worker(last)));
        catalog.unregister(&pool_key(), &worker(last));
    }
}

/// Runs are taken apart and moved while all of them are looked at.
#[test]
fn nothing_is_left_out_that_is_moved_meanwhile() {
    let (catalog, pool) = pool(2);
    let chain = |number: u32| tokens(&[&[number], &[1_000; 63][..]].concat());
    let chains: Vec<Vec<u32>> = (0..if cfg!(miri) { 2 } else { 60 }).map(chain).collect();
    let store = |number: u32| {
        for all in &chains {
            pool.stored(&worker(number), Tier::Gpu, &stored(&engine_hashes(0, all), all), 0).unwrap();
        }
    };
    let remove = |number: u32, range: std::ops::Range<usize>| {
        for all in &chains {
            pool.removed(&worker(number), Tier::Gpu, &engine_hashes(0, all)[range.clone()], 0).unwrap();
        }
    };
    let ends: Vec<u64> =
        chains.iter().map(|all| sequence(all)).flat_map(|all| [&all[..8], &all[48..]].concat()).collect();
    let meet = Barrier::new(2);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            for _ in 0..ROUNDS {
                store(1);
                meet.wait();
                meet.wait();
                // Nobody holds the middle any more: the ends are moved to runs of their own.
                remove(1, 8..48);
                meet.wait();
                remove(1, 0..64);
                meet.wait();
            }
        });
        let mut is_right = true;
        for round in 0..ROUNDS {
            meet.wait();
            store(0);
            remove(0, 8..48);
            let levels = || pool.worker(&worker(0)).unwrap().lock().levels;
            let all_hold = |levels: Levels, is_held: bool| {
                let all =
                    levels.distinct().flat_map(|(_, member)| ends.iter().map(move |block| (member, *block)));
                all.into_iter().all(|(member, block)| pool.index.holds(member, block) == is_held)
            };
            let before = levels();
            meet.wait();
            if round % 2 == 0 {
                pool.stored(&worker(0), Tier::Host, &stored(&[7], &tokens(&[2_000])), 0).unwrap();
                is_right &= levels().distinct().count() == 2 && all_hold(levels(), true);
                meet.wait();
            } else {
                catalog.unregister(&pool_key(), &worker(0)).unwrap();
                is_right &= all_hold(before, false);
                meet.wait();
            }
            catalog.unregister(&pool_key(), &worker(0));
            catalog.register(&pool_key(), &worker(0), 0).unwrap();
            meet.wait();
        }
        assert!(is_right);
    });
}
