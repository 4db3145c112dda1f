use hearth_proto::{BlockId, BlockKey, NamespaceId};
use proptest::prelude::*;

use super::*;

const GIB: u64 = 1 << 30;
const LONG_MS: u64 = 1 << 40;

fn site(node: u64, zone: &str) -> Site {
    Site {
        node: NodeId(node),
        zone: zone.into(),
        takes: true,
        durable: true,
        capacity_bytes: 100 * GIB,
        used_bytes: 0,
        up_ms: LONG_MS,
    }
}

fn block(number: u64) -> Fingerprint {
    let mut key = [0; 32];
    key[..8].copy_from_slice(&number.to_le_bytes());
    Fingerprint::of(&BlockId { namespace: NamespaceId::DEFAULT, key: BlockKey(key) })
}

fn ids(nodes: &[u64]) -> Vec<NodeId> {
    nodes.iter().copied().map(NodeId).collect()
}

fn on(node: u64, host: bool, nvme: bool) -> HeldCopy {
    HeldCopy { node: NodeId(node), host, nvme }
}

/// How often each node is the first choice for many blocks, by node.
fn shares(sites: &Sites) -> FxHashMap<NodeId, u32> {
    let mut shares = FxHashMap::default();
    (0..40_000).for_each(|n| *shares.entry(sites.choose(&block(n), &[], 1, &[])[0]).or_default() += 1);
    shares
}

fn any_sites() -> impl Strategy<Value = Vec<Site>> {
    let one = (0..4_usize, 1..50_u64, 0..60_u64, 0..200_000_u64, prop::bool::weighted(0.85));
    proptest::collection::vec(one, 1..12).prop_map(|sites| {
        let one =
            |(index, (zone, capacity, used, up_ms, takes)): (usize, (usize, u64, u64, u64, bool))| Site {
                zone: ["", "a", "b", "c"][zone].into(),
                capacity_bytes: capacity * GIB,
                used_bytes: used * GIB,
                up_ms,
                takes,
                ..site(index as u64 + 1, "")
            };
        sites.into_iter().enumerate().map(one).collect()
    })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn the_chosen_are_distinct_fit_and_as_many_as_can_be(
        sites in any_sites(), number: u64, replicas in 1..6_usize, writer in 0..14_u64,
    ) {
        let placed = Sites::new(&sites, 0);
        let chosen = placed.choose(&block(number), &[NodeId(writer)], replicas, &[]);
        let takes = |node: &NodeId| sites.iter().any(|site| site.node == *node && site.takes);
        let mut distinct = chosen.to_vec();
        distinct.sort_unstable();
        distinct.dedup();
        prop_assert_eq!(distinct.len(), chosen.len());
        prop_assert!(chosen.iter().all(takes));
        prop_assert_eq!(chosen.len(), replicas.min(sites.iter().filter(|site| site.takes).count()));
        if takes(&NodeId(writer)) {
            prop_assert_eq!(chosen[0], NodeId(writer), "the writer's own node is first");
        }
    }

    #[test]
    fn no_zone_has_two_while_another_has_none(
        sites in any_sites(), number: u64, replicas in 1..6_usize, writer in 0..14_u64,
    ) {
        let chosen = Sites::new(&sites, 0).choose(&block(number), &[NodeId(writer)], replicas, &[]);
        let zone = |node: &NodeId| sites.iter().find(|site| site.node == *node).map(|site| &site.zone);
        let used: std::collections::BTreeSet<_> = chosen.iter().map(zone).collect();
        let all: std::collections::BTreeSet<_> =
            sites.iter().filter(|site| site.takes).map(|site| Some(&site.zone)).collect();
        prop_assert_eq!(used.len(), all.len().min(chosen.len()));
    }

    #[test]
    fn a_node_that_comes_or_goes_moves_only_what_it_takes_or_leaves(
        sites in any_sites(), number: u64, replicas in 1..6_usize, gone: prop::sample::Index,
    ) {
        let mut fewer = sites.clone();
        let gone = fewer.remove(gone.index(sites.len())).node;
        let choose = |sites: &[Site]| Sites::new(sites, 0).choose(&block(number), &[], replicas, &[]);
        let (with, without) = (choose(&sites), choose(&fewer));
        let stayed: Vec<_> = with.iter().filter(|node| **node != gone).collect();
        prop_assert!(stayed.iter().all(|node| without.contains(node)), "{with:?} {without:?}");
        if !with.contains(&gone) {
            prop_assert_eq!(with, without, "a node that was not chosen matters to nobody");
        }
    }

    #[test]
    fn exactly_one_holder_acts_and_it_is_a_holder(
        sites in any_sites(), number: u64, replicas in 0..4_usize,
        held in proptest::collection::vec((1..14_u64, any::<bool>(), any::<bool>()), 0..5),
    ) {
        let placed = Sites::new(&sites, 0);
        let copies: Vec<_> = held.iter().map(|(node, host, nvme)| on(*node, *host, *nvme)).collect();
        let mut reversed = copies.clone();
        reversed.reverse();
        let shortage = placed.judge(&block(number), &copies, replicas);
        prop_assert_eq!(&shortage, &placed.judge(&block(number), &reversed, replicas));
        if let Some(shortage) = shortage {
            prop_assert!(copies.iter().any(|copy| copy.node == shortage.responsible));
            let all = shortage.settled.len() + shortage.missing;
            let chosen = placed.choose(&block(number), &shortage.settled, all, &[]);
            prop_assert_eq!(chosen.len(), all, "there is a node for everything that is missing");
        }
    }
}

#[test]
fn blocks_go_by_the_room_that_is_free() {
    let sites = [
        site(1, ""),
        Site { capacity_bytes: 200 * GIB, ..site(2, "") },
        Site { used_bytes: 50 * GIB, ..site(3, "") },
        Site { used_bytes: 100 * GIB, ..site(4, "") },
    ];
    let shares = shares(&Sites::new(&sites, 0));
    let unit = 40_000.0 / (1.0 + 2.0 + 0.5 + FULL_STEP / FREE_STEPS as f64);
    for (node, expected) in [(1, 1.0), (2, 2.0), (3, 0.5), (4, FULL_STEP / FREE_STEPS as f64)] {
        let share = f64::from(shares.get(&NodeId(node)).copied().unwrap_or(0));
        assert!((share - expected * unit).abs() < 0.1 * expected * unit + 60.0, "node {node}: {share}");
    }
}

#[test]
fn a_block_more_or_less_changes_no_weight() {
    let used = |used_bytes| weight(&Site { used_bytes, ..site(1, "") }, 0);
    assert_eq!(used(30 * GIB), used(30 * GIB + (1 << 20)));
    assert!(used(30 * GIB) > used(60 * GIB));
}

#[test]
fn a_node_that_came_back_is_ramped_in() {
    let share = |up_ms| {
        let sites = Sites::new(&[site(1, ""), site(2, ""), Site { up_ms, ..site(3, "") }], 1_000);
        shares(&sites).get(&NodeId(3)).copied().unwrap_or(0)
    };
    let (new, half, full) = (share(0), share(500), share(1_000));
    assert!(new > 0, "it is used from the first moment on");
    assert!(new * 3 < half && half * 5 < full * 4, "{new} {half} {full}");
    assert!(full.abs_diff(40_000 / 3) < 600 && share(LONG_MS) == full);
}

#[test]
fn drained_nodes_are_sources_only() {
    let sites = [Site { takes: false, ..site(1, "") }, site(2, ""), site(3, "")];
    let sites = Sites::new(&sites, 0);
    let only_there = sites.judge(&block(1), &[on(1, true, true)], 1).expect("its last copy leaves");
    assert_eq!((only_there.responsible, only_there.missing, only_there.durable), (NodeId(1), 1, true));
    assert_eq!(sites.judge(&block(1), &[on(1, true, true), on(2, false, true)], 1), None);
    let second = sites.judge(&block(1), &[on(1, true, true), on(2, false, true)], 2).expect("one is short");
    assert_eq!((second.responsible, second.missing), (NodeId(2), 1), "who stays acts");
    assert_eq!(sites.choose(&block(1), &second.settled, 2, &[])[..], ids(&[2, 3])[..]);
}

#[test]
fn what_is_durable_nowhere_is_saved_from_a_drained_node_and_not_multiplied() {
    let sites = [Site { takes: false, ..site(1, "") }, site(2, ""), site(3, "")];
    let sites = Sites::new(&sites, 0);
    let saved = sites.judge(&block(1), &[on(1, true, false)], 3).expect("nobody else has it");
    assert_eq!((saved.missing, saved.durable), (1, false));
    assert_eq!(sites.judge(&block(1), &[on(1, true, false), on(2, true, false)], 3), None);
    assert_eq!(sites.judge(&block(1), &[on(2, true, false)], 3), None);
    // In memory elsewhere is no replacement for what is on NVMe here.
    assert!(sites.judge(&block(1), &[on(1, false, true), on(2, true, false)], 1).is_some());
}

#[test]
fn memory_counts_where_there_is_nothing_else() {
    let memory = |node| Site { durable: false, ..site(node, "") };
    let alone = Sites::new(&[memory(1), memory(2)], 0);
    let short = alone.judge(&block(1), &[on(1, true, false)], 2).expect("one is short");
    assert_eq!((short.missing, short.durable), (1, true));
    assert_eq!(alone.judge(&block(1), &[on(1, true, false), on(2, true, false)], 2), None);
    let mixed = Sites::new(&[memory(1), site(2, ""), site(3, "")], 0);
    assert!((0..100).all(|n| !mixed.choose(&block(n), &[], 2, &[]).contains(&NodeId(1))));
    assert_eq!(mixed.judge(&block(1), &[on(1, true, false)], 2), None, "beside NVMe, memory does not last");
}

#[test]
fn what_no_node_can_take_is_not_missing() {
    let sites = Sites::new(&[site(1, "")], 0);
    assert_eq!(sites.judge(&block(1), &[on(1, true, true)], 3), None);
    assert_eq!(sites.judge(&block(1), &[], 3), None, "what nobody holds cannot be copied");
    let drained =
        Sites::new(&[Site { takes: false, ..site(1, "") }, Site { takes: false, ..site(2, "") }], 1);
    let copies = [on(1, true, true), on(2, true, true)];
    assert_eq!(drained.judge(&block(1), &copies, 1), None, "there is nobody to give it to");
    assert!(drained.leaves(&copies), "and it goes with them all the same");
    assert!(!sites.leaves(&[on(1, true, true)]) && sites.leaves(&[on(7, true, true)]));
    assert_eq!(sites.judge(&block(1), &[on(7, true, true)], 3), None, "a node that is down holds nothing");
    let avoided = Sites::new(&[site(1, ""), site(2, "")], 0);
    assert_eq!(avoided.choose(&block(1), &ids(&[1]), 2, &ids(&[2]))[..], ids(&[1])[..]);
}

/// `cargo test --release -p hearth-cluster --lib -- --ignored --nocapture what_judging_and_choosing_cost`
#[test]
#[ignore = "a measurement"]
fn what_judging_and_choosing_cost() {
    const BLOCKS: u64 = 1_000_000;
    for nodes in [3, 100] {
        let sites: Vec<_> = (1..=nodes).map(|n| site(n, ["a", "b", "c"][n as usize % 3])).collect();
        let sites = Sites::new(&sites, 0);
        let begun = std::time::Instant::now();
        let held = |n: u64| [on(n % nodes + 1, true, true), on((n + 1) % nodes + 1, false, true)];
        let short = (0..BLOCKS).filter(|n| sites.judge(&block(*n), &held(*n), 2).is_some()).count();
        assert_eq!(short, 0);
        let judging = begun.elapsed();
        let begun = std::time::Instant::now();
        let chosen: usize =
            (0..BLOCKS / 10).map(|n| sites.choose(&block(n), &[NodeId(n % nodes + 1)], 2, &[]).len()).sum();
        assert_eq!(chosen as u64, BLOCKS / 5);
        let per = |elapsed: std::time::Duration, count| elapsed.as_nanos() / u128::from(count);
        let (judge, choose) = (per(judging, BLOCKS), per(begun.elapsed(), BLOCKS / 10));
        println!("{nodes} nodes: {judge} ns to judge a block, {choose} ns to choose its nodes");
    }
}
