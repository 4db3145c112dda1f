//! The index beside an oracle: a set of blocks for each member.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};

use proptest::prelude::*;

use super::*;

const MEMBERS: u16 = 5;
const SEED: [u64; 2] = [0x1234_5678_9abc_def1, 0xfedc_ba98_7654_3217];

/// The hashes of a chain: each stands for all blocks before it.
fn hashes(blocks: &[u8]) -> Vec<u64> {
    let mut hash = 0_u64;
    let next = |block: &u8| {
        hash = (hash.rotate_left(5) ^ (u64::from(*block) + 1)).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        hash
    };
    blocks.iter().map(next).collect()
}

#[derive(Default)]
struct Oracle(BTreeMap<u16, BTreeSet<u64>>);

impl Oracle {
    fn of(&mut self, member: u16) -> &mut BTreeSet<u64> {
        self.0.entry(member).or_default()
    }

    fn find(&self, chain: &[u64]) -> Vec<(Member, u32)> {
        let prefix =
            |held: &BTreeSet<u64>| chain.iter().take_while(|hash| held.contains(hash)).count() as u32;
        let all = self.0.iter().map(|(member, held)| (Member(*member), prefix(held)));
        all.filter(|(_, len)| *len > 0).collect()
    }

    fn blocks(&self) -> usize {
        self.0.values().flatten().collect::<BTreeSet<_>>().len()
    }
}

fn found(index: &Index, chain: &[u64]) -> Vec<(Member, u32)> {
    let mut matches = Matches::new(usize::from(MEMBERS));
    index.find(chain, &mut matches);
    matches.iter().collect()
}

#[derive(Clone, Debug)]
enum Step {
    /// A member stores a part of the chain with this number.
    Add {
        member: u16,
        chain: usize,
        from: usize,
        len: usize,
        knows_before: bool,
    },
    /// It drops a part, in one order or another.
    Remove {
        member: u16,
        chain: usize,
        from: usize,
        len: usize,
        stride: usize,
        is_reversed: bool,
    },
    Clear {
        member: u16,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let part = || (0..MEMBERS, 0..12_usize, 0..60_usize, 1..60_usize);
    prop_oneof![
        6 => (part(), prop::bool::weighted(0.9)).prop_map(|((member, chain, from, len), knows_before)| {
            Step::Add { member, chain, from, len, knows_before }
        }),
        5 => (part(), 1..4_usize, any::<bool>()).prop_map(|((member, chain, from, len), stride, is_reversed)| {
            Step::Remove { member, chain, from, len, stride, is_reversed }
        }),
        1 => (0..MEMBERS).prop_map(|member| Step::Clear { member }),
    ]
}

/// Chains that share their beginnings.
fn chains() -> impl Strategy<Value = Vec<Vec<u64>>> {
    let branch = (0..60_usize, prop::collection::vec(0..3_u8, 1..80));
    prop::collection::vec(branch, 12).prop_map(|branches| {
        let trunk: Vec<u8> = (0..80).map(|number| number % 3).collect();
        branches.into_iter().map(|(cut, rest)| hashes(&[&trunk[..cut], &rest].concat())).collect()
    })
}

fn part(chain: &[u64], from: usize, len: usize) -> (Option<u64>, &[u64]) {
    let from = from.min(chain.len());
    let until = (from + len).min(chain.len());
    (from.checked_sub(1).map(|before| chain[before]), &chain[from..until])
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 512 }, ..ProptestConfig::default() })]

    #[test]
    fn every_member_is_found_with_what_it_holds(
        chains in chains(),
        steps in prop::collection::vec(step(), 0..if cfg!(miri) { 30 } else { 120 }),
    ) {
        let (index, mut oracle) = (Index::new(usize::MAX, SEED), Oracle::default());
        for step in steps {
            match step {
                Step::Add { member, chain, from, len, knows_before } => {
                    let (before, blocks) = part(&chains[chain], from, len);
                    let before = before.filter(|_| knows_before);
                    let (known, unknown) = (oracle.of(member).len(), oracle.blocks());
                    oracle.of(member).extend(blocks);
                    let added = index.add(Member(member), before, blocks).unwrap();
                    prop_assert_eq!(added.held, oracle.of(member).len() - known);
                    // A block that nobody holds may be kept for a while.
                    prop_assert!(added.new <= oracle.blocks() - unknown);
                }
                Step::Remove { member, chain, from, len, stride, is_reversed } => {
                    let (_, blocks) = part(&chains[chain], from, len);
                    let mut blocks: Vec<u64> = blocks.iter().step_by(stride).copied().collect();
                    if is_reversed {
                        blocks.reverse();
                    }
                    let held = blocks.iter().filter(|hash| oracle.of(member).remove(hash)).count();
                    let removed = index.remove(Member(member), &blocks);
                    prop_assert_eq!(removed, Removed { held, unknown: blocks.len() - held });
                }
                Step::Clear { member } => {
                    prop_assert_eq!(index.clear(Member(member)), oracle.of(member).len());
                    oracle.of(member).clear();
                }
            }
        }
        for chain in &chains {
            prop_assert_eq!(found(&index, chain), oracle.find(chain));
            prop_assert_eq!(found(&index, &chain[..chain.len() / 2]), oracle.find(&chain[..chain.len() / 2]));
        }
        prop_assert!(index.stats().blocks >= oracle.blocks());
        for member in 0..MEMBERS {
            index.clear(Member(member));
        }
        prop_assert_eq!((index.stats().blocks, index.stats().runs), (0, 0));
    }

    #[test]
    fn first_blocks_are_forgotten_when_nobody_holds_them(
        chains in chains(),
        steps in prop::collection::vec(step(), 0..60),
    ) {
        let index = Index::new(usize::MAX, SEED);
        for step in steps {
            match step {
                Step::Add { member, chain, from, len, .. } => {
                    let (before, blocks) = part(&chains[chain], from, len);
                    index.add(Member(member), before, blocks).unwrap();
                }
                Step::Remove { member, chain, from, len, .. } => {
                    index.remove(Member(member), part(&chains[chain], from, len).1);
                }
                Step::Clear { member } => {
                    index.clear(Member(member));
                }
            }
        }
        (0..MEMBERS).for_each(|member| {
            index.clear(Member(member));
        });
        prop_assert!(index.roots.is_empty());
    }

    #[test]
    fn a_liar_spoils_nothing_for_others(
        lies in prop::collection::vec((prop::collection::vec(0..40_usize, 1..12), any::<bool>()), 1..6),
        cuts in prop::collection::vec(1..40_usize, 1..6),
    ) {
        // Hashes of one chain in any order, as if they came one after the other.
        let chain = hashes(&[1; 40]);
        let (index, mut oracle) = (Index::new(usize::MAX, SEED), Oracle::default());
        for (lie, is_first) in &lies {
            let lie: Vec<u64> = lie.iter().map(|at| if at % 5 == 4 { !chain[*at] } else { chain[*at] }).collect();
            if *is_first {
                index.add(Member(0), None, &lie).unwrap();
            }
        }
        for (member, cut) in (1..).zip(&cuts) {
            if member < MEMBERS {
                index.add(Member(member), None, &chain[..*cut]).unwrap();
                oracle.of(member).extend(&chain[..*cut]);
            }
        }
        for (lie, _) in lies.iter().filter(|(_, is_first)| !is_first) {
            let lie: Vec<u64> = lie.iter().map(|at| chain[*at]).collect();
            index.add(Member(0), Some(chain[7]), &lie).unwrap();
        }
        let honest: Vec<_> = found(&index, &chain).into_iter().filter(|(member, _)| member.0 > 0).collect();
        prop_assert_eq!(honest, oracle.find(&chain));
    }
}

/// Hashes of a long chain.
fn long(seed: u64, len: usize) -> Vec<u64> {
    let next =
        |hash: &u64| Some(hash.wrapping_mul(0x5851_f42d_4c95_7f2d).wrapping_add(0x1405_7b7e_f767_814f));
    std::iter::successors(Some(seed), next).skip(1).take(len).collect()
}

#[test]
fn chains_longer_than_a_run_and_nothing() {
    let index = Index::new(usize::MAX, SEED);
    let chain = long(3, 10_000);
    assert!(found(&index, &chain).is_empty() && found(&index, &[]).is_empty());
    assert_eq!(index.add(Member(2), None, &chain), Ok(Added { new: 10_000, held: 10_000 }));
    assert_eq!(index.add(Member(1), None, &chain[..9_000]), Ok(Added { new: 0, held: 9_000 }));
    assert_eq!(index.add(Member(1), None, &[]), Ok(Added::default()));
    assert_eq!(found(&index, &chain), [(Member(1), 9_000), (Member(2), 10_000)]);
    assert_eq!(index.stats().runs, 3);
    // A member whose number is beyond what is asked for is left out.
    let mut matches = Matches::new(2);
    index.find(&chain, &mut matches);
    assert_eq!(matches.iter().collect::<Vec<_>>(), [(Member(1), 9_000)]);
    assert_eq!((matches.of(Member(1)), matches.of(Member(7))), (9_000, 0));
}

#[test]
fn memory_comes_back() {
    let index = Index::new(usize::MAX, SEED);
    let empty = index.stats().bytes;
    let chains: Vec<_> = (0..200).map(|seed| long(seed, 500)).collect();
    let fill = || chains.iter().all(|chain| index.add(Member(0), None, chain).is_ok());
    assert!(fill());
    let full = index.stats().bytes;
    assert!(full < 36 * 100_000, "{full} bytes");
    for round in 0..20 {
        // Heads, tails and everything, in turn.
        for chain in &chains {
            let blocks = match round % 3 {
                0 => &chain[..300],
                1 => &chain[200..],
                _ => &chain[..],
            };
            assert_eq!(index.remove(Member(0), blocks).held, blocks.len());
        }
        assert!(fill());
        assert!(index.stats().bytes < full * 5 / 4, "{} bytes after {round} rounds", index.stats().bytes);
        assert_eq!(index.stats().blocks, 100_000);
    }
    assert_eq!(index.clear(Member(0)), 100_000);
    let stats = index.stats();
    assert_eq!((stats.blocks, stats.runs), (0, 0));
    assert!(stats.bytes < empty + full / 10, "{} bytes of {full}", stats.bytes);
}

#[test]
fn a_budget_is_kept_to_and_what_is_asked_for_stays() {
    let bytes_max = 1 << 20;
    let index = Index::new(bytes_max, SEED);
    let wanted = long(1_000_000, 200);
    index.add(Member(0), None, &wanted).unwrap();
    for seed in 0..2_000 {
        index.set_now(seed as u32);
        assert_eq!(found(&index, &wanted), [(Member(0), 200)]);
        index.add(Member(1), None, &long(seed, 100)).unwrap();
        assert!(index.stats().bytes < bytes_max + 65_536, "{:?}", index.stats());
    }
    let stats = index.stats();
    assert!(stats.shed_held > 100_000 && stats.shed_runs > 1_000, "{stats:?}");
    assert_eq!(found(&index, &long(1_999, 100)), [(Member(1), 100)], "the newest is there");
    assert!(found(&index, &long(0, 100)).is_empty(), "the oldest is gone");
    // What is gone is unknown when it is removed.
    assert_eq!(index.remove(Member(1), &long(0, 100)), Removed { held: 0, unknown: 100 });
}

#[test]
fn readers_see_what_stands_still_while_all_else_changes() {
    let rounds = if cfg!(miri) { 3 } else { 300 };
    let index = Index::new(usize::MAX, SEED);
    // Member 0 holds all chains for good; the others come and go on the same runs.
    let trunk = long(5, 120);
    let chains: Vec<Vec<u64>> =
        (0..8_u64).map(|seed| [&trunk[..], &long(100 + seed, 200)].concat()).collect();
    assert!(chains.iter().all(|chain| index.add(Member(0), None, chain).is_ok()));
    let is_over = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let writers: Vec<_> = (1..4)
            .map(|member| {
                let (index, chains) = (&index, &chains);
                scope.spawn(move || {
                    for round in 0..rounds {
                        let chain = &chains[(round + usize::from(member)) % chains.len()];
                        let own = long(1_000 * u64::from(member) + round as u64, 60);
                        index.add(Member(member), None, chain).unwrap();
                        index.add(Member(member), Some(chain[150]), &own).unwrap();
                        index.remove(Member(member), &chain[20..250]);
                        index.remove(Member(member), &own);
                        index.remove(Member(member), chain);
                    }
                })
            })
            .collect();
        let readers: Vec<_> = (0..2)
            .map(|_| {
                scope.spawn(|| {
                    let mut matches = Matches::new(4);
                    while !is_over.load(Ordering::Relaxed) {
                        for chain in &chains {
                            index.find(chain, &mut matches);
                            assert_eq!(matches.of(Member(0)), 320);
                        }
                    }
                })
            })
            .collect();
        for writer in writers {
            writer.join().unwrap();
        }
        is_over.store(true, Ordering::Relaxed);
        readers.into_iter().for_each(|reader| reader.join().unwrap());
    });
    for chain in &chains {
        assert_eq!(found(&index, chain), [(Member(0), 320)]);
    }
    assert_eq!(index.clear(Member(0)), 120 + 8 * 200);
    assert_eq!((index.stats().blocks, index.stats().runs), (0, 0));
}
