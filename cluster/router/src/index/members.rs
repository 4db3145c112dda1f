//! Members that hold what others do: one that stands for several tiers begins as a copy of another.

use crossbeam_epoch::Guard;

use super::body::Held;
use super::{Index, Member};

impl Index {
    /// Notes that a member holds whatever another one does. Gives the blocks that it did not hold before.
    ///
    /// Takes as long as it takes to look at all runs. A block may be left out that is moved to another run meanwhile,
    /// as happens when somebody lets go of others of its run: [`copy_blocks`](Self::copy_blocks) makes up for it.
    pub fn copy(&self, from: Member, to: Member) -> usize {
        let mut copied = 0;
        for number in 1..self.runs.end() {
            let guard = &crossbeam_epoch::pin();
            let body = self.runs.get(number).and_then(|run| run.body(guard));
            if !body.is_some_and(|body| body.held().any(|held| held.member == from)) {
                continue;
            }
            let held = self.change(number, guard, |locked| {
                let held: Vec<Held> = locked.body()?.held().filter(|held| held.member == from).collect();
                let copy = |held: &Held| locked.hold(to, held.from, held.until - held.from);
                held.iter().map(copy).sum::<Option<u32>>()
            });
            copied += held.unwrap_or(0) as usize;
        }
        self.keep_to_budget(&crossbeam_epoch::pin());
        copied
    }

    /// Notes that a member holds those of some blocks that another one does, in any order. Gives the blocks that it
    /// did not hold before.
    pub fn copy_blocks(&self, from: Member, to: Member, blocks: &[u64]) -> usize {
        let guard = &crossbeam_epoch::pin();
        blocks.iter().filter(|hash| self.copy_block(from, to, **hash, guard)).count()
    }

    /// Whether a member holds a block.
    pub fn holds(&self, member: Member, hash: u64) -> bool {
        let guard = &crossbeam_epoch::pin();
        self.locate(hash, guard).is_some_and(|(place, _, body)| {
            body.held().any(|held| held.member == member && held.range().contains(&place.offset))
        })
    }

    fn copy_block(&self, from: Member, to: Member, hash: u64, guard: &Guard) -> bool {
        while let Some((place, _, body)) = self.locate(hash, guard) {
            let mut is_held = [false; 2];
            for held in body.held().filter(|held| held.range().contains(&place.offset)) {
                is_held[0] |= held.member == from;
                is_held[1] |= held.member == to;
            }
            if is_held != [true, false] {
                return false;
            }
            let copied = self.change(place.run, guard, |locked| {
                locked.body().filter(|body| body.hash(place.offset) == Some(hash))?;
                locked.hold(to, place.offset, 1)
            });
            // Otherwise it has been moved meanwhile, and is looked for again.
            if let Some(copied) = copied {
                return copied > 0;
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::super::Matches;
    use super::*;

    const SEED: [u64; 2] = [11, 13];

    proptest! {
        #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, ..ProptestConfig::default() })]

        #[test]
        fn a_copy_holds_what_both_held(
            added in prop::collection::vec((0..3_u16, 0..120_u64, 1..60_u64), 0..20),
            removed in prop::collection::vec((0..3_u16, 0..200_u64), 0..120),
            only in prop::option::of(prop::collection::vec(0..220_u64, 0..60)),
        ) {
            let index = Index::new(usize::MAX, SEED);
            let mut held = [const { BTreeSet::<u64>::new() }; 3];
            for (member, from, len) in added {
                let blocks: Vec<u64> = (from + 1..=from + len).collect();
                index.add(Member(member), (from > 0).then_some(from), &blocks).unwrap();
                held[usize::from(member)].extend(blocks);
            }
            for (member, block) in removed {
                index.remove(Member(member), &[block]);
                held[usize::from(member)].remove(&block);
            }
            let [from, to, _] = held.clone();
            let wanted: Vec<u64> = match &only {
                Some(only) => only.iter().copied().filter(|block| from.contains(block)).collect(),
                None => from.iter().copied().collect(),
            };
            held[1].extend(wanted);
            let copied = match &only {
                Some(only) => index.copy_blocks(Member(0), Member(1), only),
                None => index.copy(Member(0), Member(1)),
            };
            prop_assert_eq!(copied, held[1].len() - to.len());
            let chain: Vec<u64> = (1..=200).collect();
            let mut matches = Matches::new(3);
            index.find(&chain, &mut matches);
            for (member, held) in (0..).map(Member).zip(&held) {
                for block in 0..220 {
                    prop_assert_eq!(index.holds(member, block), held.contains(&block));
                }
                let prefix = chain.iter().take_while(|block| held.contains(block)).count();
                prop_assert_eq!(matches.of(member) as usize, prefix);
                prop_assert_eq!(index.clear(member), held.len());
            }
            prop_assert_eq!(index.stats().runs, 0);
        }
    }
}
