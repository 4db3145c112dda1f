//! The lines against a list that is searched from end to end.

use std::cell::RefCell;
use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const SIZE: u32 = 4;

#[derive(Clone, Copy)]
struct Block {
    standing: Standing,
    place: u32,
    reuse: Reuse,
    depth: u16,
    in_use: bool,
    copied: bool,
}

/// Blocks by number, ranked by age alone.
#[derive(Default)]
struct Blocks {
    all: RefCell<BTreeMap<u32, Block>>,
    now: Tick,
}

impl Candidates<u32> for Blocks {
    fn look(&self, block: u32) -> Look {
        let Block { reuse, depth, in_use, .. } = self.all.borrow()[&block];
        Look { reuse, depth, generation: Generation(block.into()), is_free: !in_use }
    }

    fn uses(&self, reuse: Reuse) -> f32 {
        1.0 / (1.0 + self.now.since(reuse.used_at()) as f32)
    }

    fn now(&self) -> Tick {
        self.now
    }

    fn is_copied(&self, block: u32) -> bool {
        self.all.borrow()[&block].copied
    }

    fn place(&self, block: u32, place: u32) {
        self.change(block, |block| block.place = place);
    }

    fn expire(&self, block: u32) -> u32 {
        let by_default = Standing { level: Level::of(Priority::DEFAULT), until_us: None };
        self.change(block, |block| block.standing = by_default);
        self.all.borrow()[&block].place
    }
}

impl Blocks {
    fn change(&self, block: u32, change: impl FnOnce(&mut Block)) {
        change(self.all.borrow_mut().get_mut(&block).expect("a block that is there"));
    }

    fn at(&mut self, tick: u64) {
        self.now = Tick::from_us(tick << 14);
    }

    fn insert(&self, bags: &mut Bags<u32>, block: u32, level: u8, depth: u16) {
        let level = Level(level);
        let standing = Standing { level, until_us: None };
        let reuse = Reuse::first(None, self.now);
        let place = bags.insert(SIZE, block, standing, reuse);
        let new = Block { standing, place, reuse, depth, in_use: false, copied: false };
        self.all.borrow_mut().insert(block, new);
    }

    fn remove(&self, bags: &mut Bags<u32>, block: u32) {
        let was = self.all.borrow_mut().remove(&block).expect("a block that is there");
        if let Some(moved) = bags.remove(block, was.standing, was.place) {
            self.place(moved, was.place);
        }
    }

    fn use_now(&self, block: u32) {
        let now = self.now;
        self.change(block, |block| block.reuse = block.reuse.again(now).0);
    }

    fn evict(&self, bags: &mut Bags<u32>) -> Option<u32> {
        let next = bags.next(SIZE, self)?;
        self.remove(bags, next);
        Some(next)
    }

    /// Who goes next by looking at everybody.
    fn expected(&self) -> Option<u32> {
        let all = self.all.borrow();
        let free = all.iter().filter(|(_, block)| !block.in_use && block.standing.level != Level::PINNED);
        let rank = |(number, block): &(&u32, &Block)| {
            let age = self.now.since(block.reuse.used_at());
            (block.standing.level, u32::MAX - age, u16::MAX - block.depth, **number)
        };
        free.min_by_key(rank).map(|(number, _)| *number)
    }
}

#[test]
fn the_least_recently_used_goes_first_and_of_one_moment_the_deepest() {
    let (mut blocks, mut bags) = (Blocks::default(), Bags::new(1));
    for block in 0..3_000 {
        blocks.at(u64::from(block / 10) * 20);
        blocks.insert(&mut bags, block, 35, (block % 10) as u16);
    }
    for block in 0..1_500 {
        blocks.at(10_000 + u64::from(block));
        blocks.use_now(block);
    }
    let order: Vec<u32> = std::iter::from_fn(|| blocks.evict(&mut bags)).collect();
    let unused = (1_500..3_000).map(|at| at / 10 * 10 + 9 - at % 10);
    assert!(order.iter().copied().eq(unused.chain(0..1_500)), "{order:?}");
}

#[test]
fn of_a_moment_that_fills_several_bags_the_deepest_goes_first() {
    let (blocks, mut bags) = (Blocks::default(), Bags::new(1));
    for block in 0..3 * BAG_MAX as u32 {
        blocks.insert(&mut bags, block, 35, block as u16);
    }
    let order = std::iter::from_fn(|| blocks.evict(&mut bags));
    assert!(order.eq((0..3 * BAG_MAX as u32).rev()));
}

#[test]
fn many_that_move_to_where_few_were_put_still_go_in_order() {
    let (mut blocks, mut bags) = (Blocks::default(), Bags::new(1));
    let count = 3 * BAG_MAX as u32;
    for block in 0..count {
        blocks.at(u64::from(block));
        blocks.insert(&mut bags, block, 35, 0);
    }
    // All are used once more in another order, and few come in meanwhile.
    let of = |step: u32| (step * 7_919) % count;
    for step in 0..count {
        blocks.at(1_000_000 + u64::from(step) * 20);
        blocks.use_now(of(step));
        if step % 100 == 0 {
            blocks.insert(&mut bags, count + step, 35, 0);
        }
    }
    let order = std::iter::from_fn(|| blocks.evict(&mut bags)).filter(|block| *block < count);
    let wrong = order.enumerate().filter(|(step, block)| of(*step as u32) != *block).count();
    assert_eq!(wrong, 0);
}

#[test]
fn a_full_bag_whose_candidates_were_all_used_at_one_moment_stays_whole() {
    let (mut blocks, mut bags) = (Blocks::default(), Bags::new(1));
    let count = 3 * BAG_MAX as u32;
    for block in 0..count {
        blocks.at(u64::from(block));
        blocks.insert(&mut bags, block, 35, 0);
    }
    blocks.at(1_000_000);
    blocks.insert(&mut bags, count, 35, 0);
    blocks.at(1_000_007);
    (0..count).for_each(|block| blocks.use_now(block));
    blocks.at(2_000_000);
    blocks.insert(&mut bags, count + 1, 35, 0);
    let order: Vec<u32> = std::iter::from_fn(|| blocks.evict(&mut bags)).collect();
    assert_eq!((order[0], order.len(), order[order.len() - 1]), (count, count as usize + 2, count + 1));
}

#[test]
fn of_the_oldest_few_one_goes_that_is_elsewhere() {
    let (mut blocks, mut bags) = (Blocks::default(), Bags::new(1));
    for block in 0..10 {
        blocks.at(u64::from(block) * 20);
        blocks.insert(&mut bags, block, 35, 0);
    }
    blocks.change(2, |block| block.copied = true);
    blocks.change(9, |block| block.copied = true);
    assert_eq!(blocks.evict(&mut bags), Some(2));
    assert_ne!(blocks.evict(&mut bags), Some(9), "it is none of the oldest few");
}

#[test]
fn a_lower_level_goes_first_also_in_the_middle_of_a_run() {
    let (blocks, mut bags) = (Blocks::default(), Bags::new(1));
    for block in 0..10 {
        blocks.insert(&mut bags, block, 35, block as u16);
    }
    assert_eq!(blocks.evict(&mut bags), Some(9));
    blocks.insert(&mut bags, 20, 3, 0);
    blocks.insert(&mut bags, 21, Level::PINNED.0, 0);
    assert_eq!(blocks.evict(&mut bags), Some(20));
    assert_eq!(blocks.evict(&mut bags), Some(8));
}

#[test]
fn those_in_use_are_looked_at_once_while_others_can_go() {
    struct Counted(Blocks, std::cell::Cell<usize>);
    impl Candidates<u32> for Counted {
        fn look(&self, block: u32) -> Look {
            self.1.set(self.1.get() + 1);
            self.0.look(block)
        }
        fn uses(&self, reuse: Reuse) -> f32 {
            self.0.uses(reuse)
        }
        fn now(&self) -> Tick {
            self.0.now
        }
        fn is_copied(&self, _: u32) -> bool {
            false
        }
        fn place(&self, block: u32, place: u32) {
            self.0.place(block, place);
        }
        fn expire(&self, block: u32) -> u32 {
            self.0.expire(block)
        }
    }
    let mut bags = Bags::new(1);
    let mut blocks = Counted(Blocks::default(), std::cell::Cell::new(0));
    for block in 0..2_000 {
        blocks.0.insert(&mut bags, block, if block < 1_000 { 1 } else { 35 }, 0);
        blocks.0.change(block, |block_| block_.in_use = block < 1_900);
    }
    blocks.0.at(100);
    for _ in 0..100 {
        let next = bags.next(SIZE, &blocks).expect("a hundred can go");
        assert!(next >= 1_900);
        blocks.0.remove(&mut bags, next);
    }
    assert!(blocks.1.get() < 5_000, "{} looks for 100 victims", blocks.1.get());
    assert_eq!(bags.next(SIZE, &blocks), None);
    blocks.0.change(7, |block| block.in_use = false);
    assert_eq!(bags.next(SIZE, &blocks), Some(7), "also at the same moment");
}

#[derive(Clone, Debug)]
enum Step {
    Insert { level: u8, depth: u16 },
    Use(u32),
    Lend(u32),
    Remove(u32),
    Restand(u32, u8),
    Evict,
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let level = prop::sample::select(vec![0_u8, 35, 35, 35, 80, u8::MAX]);
    prop_oneof![
        6 => (level.clone(), 0..5_u16).prop_map(|(level, depth)| Step::Insert { level, depth }),
        5 => any::<u32>().prop_map(Step::Use),
        1 => any::<u32>().prop_map(Step::Lend),
        1 => any::<u32>().prop_map(Step::Remove),
        1 => (any::<u32>(), level).prop_map(|(block, level)| Step::Restand(block, level)),
        3 => Just(Step::Evict),
        3 => (1..100_u64).prop_map(Step::Pass),
    ]
}

proptest! {
    /// Whoever goes is of the lowest level that has a free candidate; all come out once; and places are true
    /// throughout, as every removal checks.
    #[test]
    fn victims_are_of_the_lowest_level_and_nobody_is_lost(steps in prop::collection::vec(step(), 1..400)) {
        let (mut blocks, mut bags) = (Blocks::default(), Bags::new(1));
        let (mut tick, mut number) = (1, 0);
        for step in steps {
            let some = |n: u32| {
                let all = blocks.all.borrow();
                all.keys().copied().nth(n as usize % all.len().max(1))
            };
            match step {
                Step::Insert { level, depth } => {
                    blocks.insert(&mut bags, number, level, depth);
                    number += 1;
                }
                Step::Use(n) => if let Some(block) = some(n) { blocks.use_now(block) },
                Step::Lend(n) => if let Some(block) = some(n) {
                    blocks.change(block, |block| block.in_use = !block.in_use);
                    // A line that was busy at this moment may be passed over until the next.
                    tick += 1;
                    blocks.at(tick);
                },
                Step::Remove(n) => if let Some(block) = some(n) { blocks.remove(&mut bags, block) },
                Step::Restand(n, level) => if let Some(block) = some(n) {
                    let was = blocks.all.borrow()[&block];
                    blocks.remove(&mut bags, block);
                    let standing = Standing { level: Level(level), until_us: None };
                    let place = bags.insert(SIZE, block, standing, was.reuse);
                    blocks.all.borrow_mut().insert(block, Block { standing, place, ..was });
                },
                Step::Evict => {
                    let expected = blocks.expected();
                    let next = bags.next(SIZE, &blocks);
                    prop_assert_eq!(next.is_some(), expected.is_some());
                    if let (Some(next), Some(expected)) = (next, expected) {
                        let level = |block: u32| blocks.all.borrow()[&block].standing.level;
                        prop_assert_eq!(level(next), level(expected));
                        blocks.remove(&mut bags, next);
                    }
                }
                Step::Pass(ticks) => {
                    tick += ticks;
                    blocks.at(tick);
                }
            }
        }
        blocks.all.borrow_mut().values_mut().for_each(|block| block.in_use = false);
        while blocks.evict(&mut bags).is_some() {}
        prop_assert!(blocks.all.borrow().values().all(|block| block.standing.level == Level::PINNED));
    }

    /// With room made only after everything was used once more, the order is exactly that of last use.
    #[test]
    fn without_late_comers_the_order_is_that_of_last_use(uses in prop::collection::vec((0..200_u32, 1..40_u64), 1..600)) {
        let (mut blocks, mut bags) = (Blocks::default(), Bags::new(1));
        for block in 0..200 {
            blocks.at(u64::from(block) * 30);
            blocks.insert(&mut bags, block, 35, 0);
        }
        let mut tick = 200 * 30;
        for (block, later) in uses {
            tick += later;
            blocks.at(tick);
            blocks.use_now(block);
        }
        while let Some(expected) = blocks.expected() {
            prop_assert_eq!(blocks.evict(&mut bags), Some(expected));
        }
    }
}
