use hearth_proto::Retention;
use proptest::prelude::*;

use super::*;

const SECOND: u64 = 1_000_000;

fn keep(priority: u8, duration_ms: Option<u64>, depth: u32) -> Keep {
    Keep::new(Retention { priority: Priority::new(priority).unwrap(), duration_ms }, depth, 0)
}

/// Evicts everything that may go, in order.
fn drain(queue: &mut EvictionQueue<()>, now_us: u64) -> Vec<u32> {
    let mut gone = Vec::new();
    while queue.evict_one(now_us, |sector, (), _| {
        gone.push(sector);
        Verdict::Evicted
    }) {}
    gone
}

fn queue(candidates: &[(Keep, u64)]) -> EvictionQueue<()> {
    let mut queue = EvictionQueue::default();
    for (sector, (keep, used_at_us)) in (0..).zip(candidates) {
        queue.insert(sector, (), *keep, *used_at_us, 0);
    }
    queue
}

#[test]
fn candidates_leave_in_the_order_of_the_table() {
    // Name, candidates with the time of their last use, the time now, the order in which they leave.
    type Row<'a> = (&'a str, &'a [(Keep, u64)], u64, &'a [u32]);
    let table: &[Row<'_>] = &[
        ("least recently used", &[(keep(35, None, 0), 3 * SECOND), (keep(35, None, 0), SECOND)], 0, &[1, 0]),
        ("priority before age", &[(keep(80, None, 0), 0), (keep(10, None, 0), 9 * SECOND)], 0, &[1, 0]),
        ("deepest of the simultaneous", &[(keep(35, None, 1), 0), (keep(35, None, 9), 50_000)], 0, &[1, 0]),
        ("age before depth", &[(keep(35, None, 1), 0), (keep(35, None, 9), SECOND)], 0, &[0, 1]),
        ("a high priority expires", &[(keep(90, Some(10), 0), 0), (keep(40, None, 0), 0)], 10_000, &[0, 1]),
        ("and not before", &[(keep(90, Some(10), 0), 0), (keep(40, None, 0), 0)], 9_999, &[1, 0]),
        (
            "a low priority expires",
            &[(keep(5, Some(10), 0), SECOND), (keep(30, None, 0), 0)],
            10_000,
            &[1, 0],
        ),
    ];
    for (name, candidates, now_us, expected) in table {
        assert_eq!(drain(&mut queue(candidates), *now_us), *expected, "{name}");
    }
}

#[test]
fn what_is_in_use_stays_and_the_next_goes() {
    let mut queue = queue(&[(keep(1, None, 0), 0), (keep(50, None, 0), 0)]);
    let judge = |sector, &(): &(), _| if sector == 0 { Verdict::InUse } else { Verdict::Evicted };
    assert!(queue.evict_one(SECOND, judge));
    assert!(!queue.evict_one(SECOND, judge));
    assert_eq!(drain(&mut queue, SECOND), [0]);
}

#[test]
fn what_was_used_since_goes_back_in_line() {
    let mut queue = queue(&[(keep(35, None, 0), 0), (keep(35, None, 0), SECOND)]);
    let mut asked = Vec::new();
    assert!(queue.evict_one(9 * SECOND, |sector, (), known| {
        asked.push(sector);
        if sector == 0 && known == 0 { Verdict::UsedAt(5 * SECOND) } else { Verdict::Evicted }
    }));
    assert_eq!(asked, [0, 1]);
    assert_eq!(drain(&mut queue, 9 * SECOND), [0]);
}

#[test]
fn a_use_that_is_not_later_cannot_turn_for_ever() {
    let mut queue = queue(&[(keep(35, None, 0), SECOND)]);
    assert!(!queue.evict_one(2 * SECOND, |_, (), known| Verdict::UsedAt(known)));
    assert_eq!(queue.len(), 1);
}

#[test]
fn a_changed_contract_changes_the_place() {
    let mut queue = queue(&[(keep(10, None, 0), 0), (keep(20, None, 0), 0)]);
    queue.keep_if(0, keep(30, None, 0), 0, |()| true);
    queue.keep_if(1, keep(99, None, 0), 0, |()| false);
    assert_eq!(drain(&mut queue, 0), [1, 0]);
}

proptest! {
    /// The line gives the same victims as sorting everything by the rule at every step.
    #[test]
    fn the_victim_is_always_the_least_by_the_rule(
        candidates in prop::collection::vec((0..=100_u8, prop::option::of(0..5_000_u64), 0..6_u32, 0..5 * SECOND), 1..60),
        uses in prop::collection::vec((any::<prop::sample::Index>(), 0..5 * SECOND), 0..60),
        now_us in 0..6 * SECOND,
    ) {
        let mut queue = EvictionQueue::default();
        let mut used: Vec<u64> = Vec::new();
        let mut keeps = Vec::new();
        for (sector, (priority, duration_ms, depth, used_at_us)) in (0..).zip(&candidates) {
            let keep = keep(*priority, *duration_ms, *depth);
            queue.insert(sector, (), keep, *used_at_us, 0);
            keeps.push(keep);
            used.push(*used_at_us);
        }
        for (index, later_us) in uses {
            let at = index.index(used.len());
            used[at] += later_us;
        }
        let mut expected: Vec<u32> = (0..candidates.len() as u32).collect();
        expected.sort_by_key(|sector| {
            let (keep, used_at_us) = (keeps[*sector as usize], used[*sector as usize]);
            let depth_first = std::cmp::Reverse(keep.depth);
            (keep.priority_at(now_us), used_at_us >> 17, depth_first, used_at_us, *sector)
        });
        let mut gone = Vec::new();
        while queue.evict_one(now_us, |sector, (), known| match used[sector as usize] {
            latest if latest > known => Verdict::UsedAt(latest),
            _ => { gone.push(sector); Verdict::Evicted }
        }) {}
        prop_assert_eq!(gone, expected);
        prop_assert_eq!((queue.len(), queue.order.len(), queue.expiries.len()), (0, 0, 0));
    }
}
