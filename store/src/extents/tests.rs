use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

fn map(extents: u32) -> ExtentMap {
    let mut map = ExtentMap::new(100);
    for _ in 0..extents {
        map.grow();
    }
    map
}

#[test]
fn a_class_fills_its_extent_before_it_takes_another() {
    let mut map = map(2);
    let sectors: Vec<_> = (0..20).map(|_| map.allocate(10).unwrap().sector).collect();
    assert_eq!(sectors, (0..20).map(|n| n * 10).collect::<Vec<_>>());
    assert_eq!(map.allocate(10), None);
}

/// A map of extents on stripes; of a hundred sectors, so that a turn is 25 slots of one.
fn striped(stripes: &[u16], count: usize, extents_max: u32) -> ExtentMap {
    let mut map = ExtentMap::new(100).striped(count, extents_max);
    for stripe in stripes {
        map.grow_on(*stripe);
    }
    map
}

/// Slots that a map gave on each of its stripes.
fn on_stripes(map: &ExtentMap, given: &[Given]) -> Vec<u32> {
    let mut counts = vec![0; usize::from(map.stripes)];
    for given in given {
        counts[usize::from(map.extents[map.extent_of(given.sector) as usize].stripe)] += 1;
    }
    counts
}

#[test]
fn a_class_fills_all_stripes_in_turns_of_neighbouring_slots() {
    let mut map = striped(&[0, 1, 2].repeat(4), 3, 12);
    let mut given = Vec::new();
    while let Some(next) = map.allocate(1) {
        given.push(next);
        let counts = on_stripes(&map, &given);
        let (least, most) = (counts.iter().min(), counts.iter().max());
        assert!(most.zip(least).is_some_and(|(most, least)| most - least <= 25), "{counts:?}");
    }
    assert_eq!(given.len(), 1_200);
    for turn in given.chunks(25) {
        let first = turn[0].sector;
        assert!(turn.iter().zip(first..).all(|(given, sector)| given.sector == sector), "{turn:?}");
    }
}

#[test]
fn a_reserved_extent_empties_and_serves_whom_it_is_reserved_for() {
    let mut map = map(2);
    let held: Vec<_> = std::iter::from_fn(|| map.allocate(10)).collect();
    map.release(held[13].sector);
    assert!(map.reservable(10).is_empty(), "it has extents");
    assert_eq!(map.reservable(30), [1, 0]);
    assert!(map.reserve(1, 30));
    assert_eq!((map.reservable(20).len(), map.reserve(0, 20)), (0, false), "one at a time");
    assert_eq!(map.extents_of(10).collect::<Vec<_>>(), [0]);
    for given in held[10..].iter().filter(|given| **given != held[13]) {
        assert_eq!((map.allocate(10), map.allocate(30)), (None, None));
        map.release(given.sector);
    }
    assert_eq!((map.allocate(10), map.allocate(20)), (None, None), "it is empty and not for them");
    assert_eq!(map.allocate(30), Some(Given { sector: 100, assigned: Some(1) }));
    assert!(!map.anything_is_reserved());
}

#[test]
fn a_reservation_that_ends_gives_back_what_is_free() {
    let mut map = map(1);
    let held: Vec<_> = std::iter::from_fn(|| map.allocate(10)).collect();
    assert!(map.reserve(0, 30));
    map.release(held[0].sector);
    assert_eq!(map.allocate(10), None);
    assert!(!map.end_reservation(20) && map.end_reservation(30) && !map.end_reservation(30));
    assert_eq!(map.allocate(10).map(|given| given.sector), Some(0));
    assert!(map.reserve(0, 30));
    held.iter().for_each(|given| map.release(given.sector));
    assert!(map.end_reservation(30));
    assert!(map.allocate(20).is_some(), "it was empty");
}

#[test]
fn a_stripe_that_is_full_is_left_out() {
    let mut map = striped(&[0, 1, 1, 1], 2, 8);
    let given: Vec<_> = std::iter::from_fn(|| map.allocate(1)).collect();
    assert_eq!(on_stripes(&map, &given), [100, 300]);
}

#[test]
fn a_class_asks_for_an_extent_on_the_stripe_whose_turn_it_is() {
    let mut map = striped(&[], 3, 12);
    assert!(map.lacking(1).is_empty(), "a new class takes what there is");
    map.grow_on(0);
    for left in (0..25).rev() {
        assert!(map.allocate(1).is_some());
        assert_eq!(map.lacking(1), if left == 0 { vec![1, 2] } else { vec![] });
    }
    map.grow_on(2);
    assert_eq!(map.lacking(1), [1]);
    assert_eq!(map.allocate(1).and_then(|given| given.assigned), Some(1), "on the third stripe");
    assert!(map.lacking(1).is_empty(), "its turn has begun");
}

#[test]
fn many_classes_do_not_take_all_extents_for_the_sake_of_stripes() {
    let mut map = striped(&[0, 1].repeat(20), 2, 40);
    for class in 1..=20 {
        for _ in 0..50 / class {
            assert!(map.allocate(class).is_some());
        }
    }
    let serving = 40 - map.free.count();
    assert!((20..=26).contains(&serving), "{serving} extents serve 20 classes, each half of one");
}

#[test]
fn a_turn_is_a_stripe_unit_and_some_blocks_at_the_least() {
    let map = ExtentMap::new(32_768);
    // Records of 16 KiB, 1 MiB, 2.5 MiB and 16 MiB.
    assert_eq!([5, 257, 641, 4_097].map(|class| map.turn_slots(class)), [204, 8, 8, 1]);
}

#[test]
fn an_emptied_extent_serves_another_class() {
    let mut map = map(1);
    let first = map.allocate(30).unwrap();
    assert_eq!(map.allocate(7), None, "the only extent serves slots of 30 sectors");
    map.release(first.sector);
    assert_eq!(map.allocate(7), Some(Given { sector: 0, assigned: Some(0) }));
}

#[test]
fn what_does_not_fit_an_extent_gets_nothing() {
    assert_eq!(map(1).allocate(101), None);
}

#[test]
fn a_fenced_extent_gives_nothing_and_takes_back_what_was_given() {
    let mut map = map(1);
    let given = map.allocate(10).unwrap();
    map.fence(0);
    assert_eq!(map.allocate(10), None);
    map.release(given.sector);
    assert_eq!(map.allocate(10), None);
    assert_eq!((map.used_bytes(), map.fenced_count()), (0, 1));
}

#[test]
fn an_extent_whose_fence_is_lifted_is_as_good_as_an_empty_one() {
    let mut map = map(2);
    map.fence(0);
    map.miss(1);
    map.fence(1);
    (0..2).for_each(|extent| map.lift_fence(extent));
    assert_eq!(map.fenced_count(), 0);
    assert_eq!(map.begin_discard(), Some(0), "what it held is not needed");
    map.end_discard(0);
    assert_eq!(map.allocate(70), Some(Given { sector: 0, assigned: Some(0) }));
    assert_eq!(map.allocate(70), None, "the other one lies nowhere");
    map.find(1, 0);
    assert_eq!(map.allocate(70).map(|given| given.sector), Some(100));
}

#[test]
fn contradicting_claims_are_refused() {
    let mut map = map(2);
    assert_eq!(map.claim(10, 10), Ok(()));
    assert_eq!(map.claim(10, 10), Err(ClaimError::Taken));
    assert_eq!(map.claim(20, 5), Err(ClaimError::OtherClass));
    assert_eq!(map.claim(15, 10), Err(ClaimError::OutOfRange));
    assert_eq!(map.claim(200, 10), Err(ClaimError::OutOfRange));
    assert_eq!(map.claim(130, 40), Err(ClaimError::OutOfRange));
    map.fence(1);
    assert_eq!(map.claim(100, 10), Err(ClaimError::Fenced));
}

#[test]
fn slots_remember_whose_they_are_until_they_are_released() {
    let mut map = map(1);
    let first = map.allocate(10).unwrap().sector;
    let second = map.allocate(10).unwrap().sector;
    map.set_owner(second, Some(7));
    assert_eq!(map.owners(0).collect::<Vec<_>>(), [7]);
    assert_eq!((map.some_owner(0, |_| 1), map.some_owner(0, |_| 2)), (Some(7), Some(7)));
    map.set_owner(first, Some(8));
    map.release(second);
    assert_eq!(map.owners(0).collect::<Vec<_>>(), [8]);
    assert_eq!(map.extents_of(10).collect::<Vec<_>>(), [0]);
    assert_eq!(map.extents_of(11).count(), 0);
}

#[test]
fn an_extent_is_discarded_once_after_each_use_and_meanwhile_given_to_nobody() {
    let mut map = map(1);
    assert_eq!(map.begin_discard(), None, "it never held anything");
    let given = map.allocate(10).unwrap();
    assert_eq!(map.begin_discard(), None, "it is in use");
    map.release(given.sector);
    assert_eq!(map.begin_discard(), Some(0));
    assert_eq!(map.allocate(10), None);
    map.end_discard(0);
    assert_eq!(map.begin_discard(), None);
    assert!(map.allocate(10).is_some());
}

proptest! {
    #[test]
    fn slots_never_overlap_and_all_come_back(steps in prop::collection::vec((0..5_u32, any::<u16>()), 1..400)) {
        let mut map = striped(&[0, 1, 0, 1, 0], 2, 8);
        let mut held: BTreeMap<u32, u32> = BTreeMap::new();
        for (step, choice) in steps {
            if step == 4 {
                let class = [3, 10, 64, 100][usize::from(choice) % 4];
                if !map.end_reservation(class) && let Some(extent) = map.reservable(class).first() {
                    prop_assert!(map.reserve(*extent, class));
                }
            } else if step < 3 {
                let class = [3, 10, 64][step as usize];
                if let Some(given) = map.allocate(class) {
                    let before = held.range(..given.sector + class).next_back();
                    prop_assert!(before.is_none_or(|(sector, class)| sector + class <= given.sector));
                    prop_assert_eq!(given.sector / 100, (given.sector + class - 1) / 100);
                    held.insert(given.sector, class);
                }
            } else if !held.is_empty() {
                let sector = *held.keys().nth(usize::from(choice) % held.len()).unwrap();
                held.remove(&sector);
                map.release(sector);
            }
            let used: u64 = held.values().map(|class| u64::from(*class)).sum();
            prop_assert_eq!(map.used_bytes(), used * SECTOR_BYTES as u64);
        }
        held.keys().for_each(|sector| map.release(*sector));
        for class in [3, 10, 64, 100] {
            map.end_reservation(class);
        }
        prop_assert_eq!(map.used_bytes(), 0);
        prop_assert_eq!(map.free.count(), 5);
    }
}
