//! The pure state machines: tables of transitions.

use std::ops::Range;

use hearth_proto::{
    BlockDelta, BlockId, BlockKey, Fingerprint, GroupId, Incarnation, NamespaceId, NodeId, Tier, v1,
};
use v1::command::Body;
use v1::outcome::Kind;
use v1::{NodeState, RefusalReason};

use super::deltas::{pack_deltas, pack_runs};
use super::directory::tier_bit;
use super::held::HOLDERS_MAX;
use super::property_tests::restored;
use super::{Control, Digests, Directory, RecordKey, State, command};

pub(super) const CLUSTER: [u8; 16] = [9; 16];

pub(super) fn control() -> State {
    let mut state = State::new(GroupId::CONTROL);
    assert_eq!(found(&mut state, CLUSTER), Kind::Admitted(v1::NodeAdmitted { node_id: 1 }));
    state
}

pub(super) fn apply(state: &mut State, stamp_ms: u64, body: Body) -> Kind {
    let command = v1::Command { stamp_ms, ..command::new(body) };
    state.apply(&command).kind.expect("every outcome has a kind")
}

pub(super) fn found(state: &mut State, cluster: [u8; 16]) -> Kind {
    let first_node = Some(admission(1));
    apply(
        state,
        5,
        Body::FoundCluster(v1::FoundCluster {
            cluster_id: cluster.to_vec().into(),
            first_node,
            directory_groups: 0,
        }),
    )
}

fn admission(uuid: u8) -> v1::AdmitNode {
    v1::AdmitNode {
        node_uuid: vec![uuid; 16].into(),
        name: format!("n{uuid}"),
        control_address: format!("h{uuid}:1"),
        data_address: format!("h{uuid}:2"),
        zone: String::new(),
    }
}

pub(super) fn admit(state: &mut State, uuid: u8) -> Kind {
    apply(state, 6, Body::AdmitNode(admission(uuid)))
}

pub(super) fn register(state: &mut State, node: u64, boot: u8) -> Kind {
    let register = v1::RegisterNode {
        node_id: node,
        boot_id: vec![boot; 16].into(),
        control_address: format!("boot{boot}:1"),
        ..Default::default()
    };
    apply(state, 7, Body::RegisterNode(register))
}

pub(super) fn down(state: &mut State, node: u64, incarnation: u64) -> Kind {
    apply(state, 8, Body::NodeDown(v1::NodeDown { node_id: node, incarnation }))
}

pub(super) fn as_control(state: &State) -> &Control {
    let State::Control(control) = state else { panic!("not a control state") };
    control
}

pub(super) fn as_directory(state: &State) -> &Directory {
    let State::Directory(directory) = state else { panic!("not a directory state") };
    directory
}

fn registered(incarnation: u64) -> Kind {
    Kind::Registered(v1::NodeRegistered { incarnation })
}

fn superseded(incarnation: u64) -> Kind {
    Kind::Superseded(v1::NodeSuperseded { incarnation })
}

pub(super) fn refusal(kind: &Kind) -> RefusalReason {
    let Kind::Refused(refused) = kind else { panic!("not refused: {kind:?}") };
    refused.reason()
}

#[test]
fn founding_fixes_the_cluster_once() {
    let mut state = State::new(GroupId::CONTROL);
    assert_eq!(refusal(&admit(&mut state, 1)), RefusalReason::NotFounded);
    assert_eq!(refusal(&register(&mut state, 1, 1)), RefusalReason::NotFounded);
    for _ in 0..2 {
        assert_eq!(found(&mut state, CLUSTER), Kind::Admitted(v1::NodeAdmitted { node_id: 1 }));
    }
    assert_eq!(refusal(&found(&mut state, [8; 16])), RefusalReason::OtherCluster);
    assert_eq!(as_control(&state).cluster_id().unwrap().0, CLUSTER);
}

#[test]
fn a_uuid_always_gets_the_same_node_id_and_ids_are_not_reused() {
    let mut state = control();
    for (uuid, id) in [(2, 2), (3, 3), (2, 2), (1, 1), (4, 4)] {
        assert_eq!(admit(&mut state, uuid), Kind::Admitted(v1::NodeAdmitted { node_id: id }), "uuid {uuid}");
    }
    let short = v1::AdmitNode { node_uuid: vec![1; 15].into(), ..admission(5) };
    assert_eq!(refusal(&apply(&mut state, 1, Body::AdmitNode(short))), RefusalReason::Malformed);
}

#[test]
fn texts_without_end_are_refused() {
    let mut state = control();
    let long = "x".repeat(hearth_proto::limits::NODE_TEXT_BYTES_MAX + 1);
    for admit in [
        v1::AdmitNode { name: long.clone(), ..admission(2) },
        v1::AdmitNode { control_address: long.clone(), ..admission(2) },
        v1::AdmitNode { data_address: long.clone(), ..admission(2) },
    ] {
        assert_eq!(refusal(&apply(&mut state, 1, Body::AdmitNode(admit))), RefusalReason::Malformed);
    }
    let register =
        v1::RegisterNode { node_id: 1, boot_id: vec![1; 16].into(), name: long, ..Default::default() };
    assert_eq!(refusal(&apply(&mut state, 1, Body::RegisterNode(register))), RefusalReason::Malformed);
}

#[test]
fn a_full_cluster_refuses_strangers_and_knows_its_own() {
    let mut state = control();
    let wide = |number: u16| v1::AdmitNode {
        node_uuid: [&number.to_le_bytes()[..], &[0xff; 14]].concat().into(),
        ..admission(0)
    };
    let nodes = u16::try_from(hearth_proto::limits::NODES_MAX).unwrap();
    for number in 1..nodes {
        assert!(matches!(apply(&mut state, 1, Body::AdmitNode(wide(number))), Kind::Admitted(_)));
    }
    let refused = apply(&mut state, 1, Body::AdmitNode(wide(nodes)));
    assert_eq!(refusal(&refused), RefusalReason::ClusterFull);
    assert!(matches!(apply(&mut state, 1, Body::AdmitNode(wide(7))), Kind::Admitted(_)));
}

#[test]
fn registering_is_idempotent_by_boot_id_and_fences_by_incarnation() {
    let mut state = control();
    let node = NodeId(1);
    assert_eq!(as_control(&state).serving_incarnation(node), None);
    assert_eq!(register(&mut state, 1, 0xa), registered(1));
    assert_eq!(register(&mut state, 1, 0xa), registered(1));
    assert_eq!(as_control(&state).serving_incarnation(node), Some(Incarnation(1)));
    // A restart takes over; the process before it stays out for good, however late it asks (INV-FENCE).
    assert_eq!(register(&mut state, 1, 0xb), registered(2));
    assert_eq!(register(&mut state, 1, 0xa), superseded(2));
    assert_eq!(as_control(&state).serving_incarnation(node), Some(Incarnation(2)));
    assert_eq!(as_control(&state).node(node).unwrap().control_address, "boot11:1");
    assert_eq!(refusal(&register(&mut state, 7, 1)), RefusalReason::UnknownNode);
}

#[test]
fn a_node_declared_down_comes_back_with_a_new_incarnation() {
    let mut state = control();
    let node = NodeId(1);
    register(&mut state, 1, 0xa);
    let changed = |changed| Kind::Marked(v1::NodeMarked { changed });
    assert_eq!(down(&mut state, 1, 2), changed(false), "an incarnation that is not there yet");
    assert_eq!(down(&mut state, 1, 1), changed(true));
    assert_eq!(down(&mut state, 1, 1), changed(false));
    assert_eq!(as_control(&state).serving_incarnation(node), None);
    assert_eq!(as_control(&state).node(node).unwrap().state(), NodeState::Down);
    assert_eq!(register(&mut state, 1, 0xa), registered(2));
    assert_eq!(down(&mut state, 1, 1), changed(false), "a late verdict on the old incarnation");
    assert_eq!(as_control(&state).serving_incarnation(node), Some(Incarnation(2)));
}

#[test]
fn remembered_boots_are_bounded() {
    let mut state = control();
    for boot in 0..100 {
        register(&mut state, 1, boot);
    }
    assert_eq!(as_control(&state).node(NodeId(1)).unwrap().retired_boot_ids.len(), 16);
    assert_eq!(register(&mut state, 1, 98), superseded(100));
}

#[test]
fn foreign_future_and_empty_commands_are_refused_and_change_nothing() {
    for group in [GroupId::CONTROL, GroupId::DIRECTORY] {
        let mut state = State::new(group);
        let future = v1::Command { version: command::VERSION + 1, ..Default::default() };
        assert_eq!(refusal(&state.apply(&future).kind.unwrap()), RefusalReason::FutureVersion);
        let empty = v1::Command { version: command::VERSION, ..Default::default() };
        assert_eq!(refusal(&state.apply(&empty).kind.unwrap()), RefusalReason::Malformed);
        assert!(state.encode().is_empty());
    }
    let purge = v1::PurgeClaims { node_id: 1, incarnation: 1, forget: false };
    assert_eq!(refusal(&apply(&mut control(), 1, Body::PurgeClaims(purge))), RefusalReason::WrongGroup);
    let mut directory = State::new(GroupId::DIRECTORY);
    assert_eq!(refusal(&admit(&mut directory, 1)), RefusalReason::WrongGroup);
}

fn block(number: u8) -> BlockId {
    BlockId { namespace: NamespaceId(u32::from(number % 3)), key: BlockKey([number; 32]) }
}

pub(super) fn delta(number: u8, tier: Tier, added: bool) -> BlockDelta {
    BlockDelta { id: block(number), tier, added, payload_len: 1_000 + u32::from(number) }
}

pub(super) fn report(node: u64, incarnation: u64, sequence: u64, reset: bool, deltas: &[BlockDelta]) -> Body {
    let mut report = v1::BlockReport { node_id: node, incarnation, sequence, reset, ..Default::default() };
    // Both forms mean the same.
    if sequence.is_multiple_of(2) {
        report.runs = pack_runs(deltas.iter().copied());
    } else {
        report.deltas = pack_deltas(deltas.iter().copied());
    }
    Body::BlockReport(report)
}

fn next(next_sequence: u64) -> Kind {
    Kind::ReportApplied(v1::ReportApplied { next_sequence })
}

fn gap(next_sequence: u64) -> Kind {
    Kind::ReportGap(v1::ReportGap { next_sequence })
}

/// (node, tiers) of each replica of a block, in the order of the nodes.
pub(super) fn held(state: &State, number: u8) -> Vec<(u64, u8)> {
    let name = Fingerprint::of(&block(number));
    let mut held = Vec::new();
    as_directory(state).find(&[name], |_, replica| held.push((replica.node.0, replica.tiers)));
    held.sort_unstable();
    held
}

#[test]
fn reports_are_applied_once_and_in_order() {
    let mut state = State::new(GroupId::DIRECTORY);
    let host = tier_bit(Tier::Host);
    let add = [delta(1, Tier::Host, true)];
    let take = [delta(1, Tier::Host, false)];
    // Without an inventory there is nothing that a change could change.
    assert_eq!(apply(&mut state, 1, report(2, 1, 1, false, &add)), gap(0));
    assert_eq!(apply(&mut state, 1, report(2, 1, 1, true, &add)), next(2));
    assert_eq!(held(&state, 1), [(2, host)]);
    assert_eq!(apply(&mut state, 1, report(2, 1, 2, false, &take)), next(3));
    // Repeated and late reports change nothing, and tell how far the directory is.
    assert_eq!(apply(&mut state, 1, report(2, 1, 1, true, &add)), next(3));
    assert_eq!(apply(&mut state, 1, report(2, 1, 2, false, &add)), next(3));
    assert_eq!(held(&state, 1), []);
    assert_eq!(apply(&mut state, 1, report(2, 1, 4, false, &add)), gap(3));
    assert_eq!(held(&state, 1), []);
    assert_eq!(apply(&mut state, 1, report(2, 1, 9, true, &add)), next(10));
    assert_eq!(held(&state, 1), [(2, host)]);
}

#[test]
fn a_new_incarnation_needs_an_inventory_and_drops_what_was_said_before() {
    let mut state = State::new(GroupId::DIRECTORY);
    let nvme = tier_bit(Tier::Nvme);
    let both = [delta(1, Tier::Host, true), delta(1, Tier::Nvme, true), delta(2, Tier::Nvme, true)];
    apply(&mut state, 1, report(2, 1, 1, true, &both));
    apply(&mut state, 1, report(3, 4, 1, true, &both[1..]));
    assert_eq!(held(&state, 1), [(2, tier_bit(Tier::Host) | nvme), (3, nvme)]);
    assert_eq!(apply(&mut state, 1, report(2, 2, 2, false, &both)), gap(0));
    assert_eq!(apply(&mut state, 1, report(2, 2, 1, true, &both[2..])), next(2));
    assert_eq!(held(&state, 1), [(3, nvme)]);
    assert_eq!(held(&state, 2), [(2, nvme), (3, nvme)]);
    assert_eq!(apply(&mut state, 1, report(2, 1, 2, false, &both)), superseded(2));
}

#[test]
fn a_purge_drops_and_fences_up_to_its_incarnation_only() {
    let mut state = State::new(GroupId::DIRECTORY);
    let add = [delta(1, Tier::Host, true), delta(2, Tier::Nvme, true)];
    let purge = |incarnation| Body::PurgeClaims(v1::PurgeClaims { node_id: 2, incarnation, forget: false });
    let purged = |claims| Kind::ClaimsPurged(v1::ClaimsPurged { claims, more: false });
    assert_eq!(apply(&mut state, 1, purge(1)), purged(0));
    apply(&mut state, 1, report(2, 2, 1, true, &add));
    assert_eq!(apply(&mut state, 1, purge(1)), purged(0));
    assert_eq!(as_directory(&state).block_count(), 2);
    assert_eq!(apply(&mut state, 1, purge(2)), purged(2));
    assert_eq!(apply(&mut state, 1, purge(2)), purged(0));
    assert_eq!(as_directory(&state).block_count(), 0);
    assert!(matches!(apply(&mut state, 1, report(2, 2, 2, true, &add)), Kind::Superseded(_)));
    assert_eq!(apply(&mut state, 1, report(2, 3, 1, true, &add)), next(2));
    assert_eq!(as_directory(&state).block_count(), 2);
}

#[test]
fn a_removed_node_is_forgotten_and_its_number_given_to_the_next() {
    let mut state = State::new(GroupId::DIRECTORY);
    let add = [delta(1, Tier::Host, true), delta(2, Tier::Nvme, true)];
    let forget = |node_id| Body::PurgeClaims(v1::PurgeClaims { node_id, incarnation: 1, forget: true });
    let purged = |claims| Kind::ClaimsPurged(v1::ClaimsPurged { claims, more: false });
    // Many more nodes than there are numbers, of which few are there at a time.
    for node in 1..=2 * u64::from(HOLDERS_MAX) {
        assert_eq!(apply(&mut state, 1, report(node, 1, 1, true, &add)), next(2));
        if node > 3 {
            assert_eq!(apply(&mut state, 1, forget(node - 3)), purged(2));
            assert_eq!(apply(&mut state, 1, forget(node - 3)), purged(0));
        }
    }
    let last = 2 * u64::from(HOLDERS_MAX);
    let tier = tier_bit(Tier::Host);
    assert_eq!(held(&state, 1), [last - 2, last - 1, last].map(|node| (node, tier)));
    assert_eq!(as_directory(&state).holders().count(), 3);
    // One more is forgotten, and the number is free in a copy too.
    assert_eq!(apply(&mut state, 1, forget(last)), purged(2));
    let mut copy = restored(GroupId::DIRECTORY, &state.encode());
    for state in [&mut state, &mut copy] {
        assert_eq!(held(state, 1), [(last - 2, tier), (last - 1, tier)]);
        // What was on its way is taken, since nothing is known of it, and purged again.
        assert_eq!(apply(state, 1, report(last, 1, 2, true, &add)), next(3));
        assert_eq!(apply(state, 1, forget(last)), purged(2));
        assert_eq!(apply(state, 1, report(last + 1, 1, 1, true, &add)), next(2));
    }
    assert_eq!(state.encode(), copy.encode());
}

/// The digests of an inventory, as one resync of these ranges carries them.
pub(super) fn resync(
    node: u64,
    incarnation: u64,
    sequence: u64,
    ranges: Range<usize>,
    held: &[BlockDelta],
) -> Body {
    let mut digests = Digests::new(parts_of(node));
    held.iter().for_each(|delta| digests.add(&delta.id, delta.tier));
    Body::ResyncHolder(v1::ResyncHolder {
        node_id: node,
        incarnation,
        sequence,
        first_range: ranges.start as u32,
        ranges: ranges.len() as u32,
        tiers: digests.tiers(ranges),
        parts: digests.parts() as u32,
    })
}

/// Parts in which a node has its ranges compared.
pub(super) fn parts_of(node: u64) -> usize {
    [1, 4, 256][node as usize % 3]
}

/// The tiers and parts of ranges that are to be reported anew.
pub(super) fn differing(kind: Kind) -> Vec<(i32, u32)> {
    let Kind::HolderResynced(resynced) = kind else { panic!("not resynced: {kind:?}") };
    let tiers = resynced.differing.into_iter();
    tiers.flat_map(|tier| tier.ranges.into_iter().map(move |range| (tier.tier, range))).collect()
}

#[test]
fn a_returning_node_is_told_what_differs_and_keeps_the_rest() {
    let (host, nvme) = (tier_bit(Tier::Host), tier_bit(Tier::Nvme));
    let mut state = State::new(GroupId::DIRECTORY);
    let blocks = 0..40_u8;
    let before: Vec<_> =
        blocks.clone().flat_map(|n| [delta(n, Tier::Host, true), delta(n, Tier::Nvme, true)]).collect();
    apply(&mut state, 1, report(2, 1, 1, true, &before));
    // The memory is lost, one block went from the disk and another one came.
    let came = delta(99, Tier::Nvme, true);
    let holds: Vec<_> = (1..40).map(|n| delta(n, Tier::Nvme, true)).chain([came]).collect();
    let half = Digests::RANGES / 2;
    let place = |number| Digests::place(&block(number), parts_of(2));
    let lower = resync(2, 2, 1, 0..half, &holds);
    let mut told = differing(apply(&mut state, 1, lower.clone()));
    for number in blocks.clone().skip(1) {
        let is_compared = Digests::place(&block(number), 1) < half as u32;
        let lost = place(number) == place(0);
        let expected: &[_] = if is_compared && !lost { &[(2, nvme)] } else { &[] };
        assert_eq!(held(&state, number), expected, "block {number}: what is not compared yet does not count");
    }
    assert_eq!(differing(apply(&mut state, 1, lower)), told, "repeated");
    assert_eq!(apply(&mut state, 1, report(2, 2, 2, false, &[came])), gap(0), "half is not all");
    assert_eq!(apply(&mut state, 1, resync(2, 2, 3, half..half * 2, &holds)), gap(0), "one was lost");
    told.extend(differing(apply(&mut state, 1, resync(2, 2, 2, half..half * 2, &holds))));
    let part = |number| (Tier::Nvme as i32, place(number));
    assert!(told.contains(&part(99)) && told.len() <= 2, "{told:?}");
    let news: Vec<_> = holds
        .iter()
        .filter(|delta| told.contains(&(delta.tier as i32, Digests::place(&delta.id, parts_of(2)))))
        .copied()
        .collect();
    assert_eq!(apply(&mut state, 1, report(2, 2, 3, false, &news)), next(4));
    for number in blocks.chain([99]) {
        let expected: &[_] = if number == 0 { &[] } else { &[(2, nvme)] };
        assert_eq!(held(&state, number), expected, "block {number}");
    }
    assert_eq!(host & nvme, 0);
    assert!(matches!(apply(&mut state, 1, resync(2, 1, 9, 0..256, &holds)), Kind::Superseded(_)));
}

#[test]
fn a_block_more_among_many_costs_a_few_others() {
    let block = |number: u32| {
        let mut key = [0; 32];
        key[..4].copy_from_slice(&number.to_le_bytes());
        BlockId { namespace: NamespaceId::DEFAULT, key: BlockKey(key) }
    };
    let delta = |number| BlockDelta { id: block(number), tier: Tier::Nvme, added: true, payload_len: 1 };
    let held: Vec<BlockDelta> = (0..100_000).map(delta).collect();
    for (parts_max, told_max) in [(1, 500), (256, 30)] {
        let mut digests = Digests::new(parts_max);
        held.iter().chain([&delta(100_000)]).for_each(|delta| digests.add(&delta.id, delta.tier));
        let digests = digests.coarsened();
        let resync = v1::ResyncHolder {
            node_id: 1,
            incarnation: 1,
            sequence: 2,
            first_range: 0,
            ranges: Digests::RANGES as u32,
            tiers: digests.tiers(0..Digests::RANGES),
            parts: digests.parts() as u32,
        };
        let mut copy = State::new(GroupId::DIRECTORY);
        apply(&mut copy, 1, report(1, 1, 1, true, &held));
        let told = differing(apply(&mut copy, 1, Body::ResyncHolder(resync)));
        assert_eq!(told, [(Tier::Nvme as i32, digests.place_of(&block(100_000)))]);
        let is_told = |delta: &&BlockDelta| digests.place_of(&delta.id) == told[0].1;
        let again = held.iter().filter(is_told).count();
        assert!(again <= told_max, "{again} blocks are told anew, in {} parts", digests.parts());
        let State::Directory(directory) = &copy else { panic!() };
        assert_eq!(directory.block_count(), held.len() - again);
    }
}

#[test]
fn malformed_resyncs_are_refused() {
    let mut state = State::new(GroupId::DIRECTORY);
    let good = v1::ResyncHolder { node_id: 1, incarnation: 1, sequence: 1, ranges: 2, ..Default::default() };
    let tier = |tier, bytes| vec![v1::TierDigests { tier, digests: vec![0; bytes].into() }];
    for bad in [
        v1::ResyncHolder { ranges: 0, ..good.clone() },
        v1::ResyncHolder { ranges: 257, ..good.clone() },
        v1::ResyncHolder { first_range: u32::MAX, ..good.clone() },
        v1::ResyncHolder { sequence: 0, ..good.clone() },
        v1::ResyncHolder { parts: 3, tiers: tier(2, 48), ..good.clone() },
        v1::ResyncHolder { parts: 512, tiers: tier(2, 8_192), ..good.clone() },
        v1::ResyncHolder { parts: 2, tiers: tier(2, 16), ..good.clone() },
        v1::ResyncHolder { tiers: tier(0, 16), ..good.clone() },
        v1::ResyncHolder { tiers: tier(5, 16), ..good.clone() },
        v1::ResyncHolder { tiers: tier(2, 15), ..good.clone() },
        v1::ResyncHolder { tiers: tier(2, 24), ..good.clone() },
    ] {
        assert_eq!(refusal(&apply(&mut state, 1, Body::ResyncHolder(bad))), RefusalReason::Malformed);
    }
    assert_eq!(as_directory(&state).holders().count(), 0);
}

/// A block that is everywhere takes room beside those that are in a few places, and gives it back.
#[test]
fn a_block_may_have_any_number_of_holders() {
    let mut state = State::new(GroupId::DIRECTORY);
    let host = tier_bit(Tier::Host);
    for node in 1..=40 {
        apply(
            &mut state,
            1,
            report(node, 1, 1, true, &[delta(1, Tier::Host, true), delta(2, Tier::Nvme, true)]),
        );
        assert_eq!(held(&state, 1), (1..=node).map(|node| (node, host)).collect::<Vec<_>>());
    }
    for node in (1..=40).rev() {
        assert_eq!(held(&state, 1).len(), node as usize);
        apply(&mut state, 1, report(node, 1, 2, false, &[delta(1, Tier::Host, false)]));
    }
    assert_eq!(held(&state, 1), []);
    assert_eq!(held(&state, 2).len(), 40);
}

#[test]
fn malformed_reports_are_refused() {
    let mut state = State::new(GroupId::DIRECTORY);
    let good = pack_deltas([delta(1, Tier::Host, true)].into_iter());
    let with = |deltas: Vec<u8>, sequence| {
        Body::BlockReport(v1::BlockReport {
            node_id: 1,
            incarnation: 1,
            sequence,
            reset: true,
            deltas: deltas.into(),
            ..Default::default()
        })
    };
    let flip = |at: usize, value: u8| {
        let mut bad = good.to_vec();
        bad[at] = value;
        bad
    };
    let bad = [good[1..].to_vec(), flip(36, 0), flip(36, 5), flip(37, 2), [&good[..], &[0]].concat()];
    for deltas in bad {
        assert_eq!(refusal(&apply(&mut state, 1, with(deltas, 1))), RefusalReason::Malformed);
    }
    for sequence in [0, u64::MAX] {
        assert_eq!(refusal(&apply(&mut state, 1, with(good.to_vec(), sequence))), RefusalReason::Malformed);
    }
    assert!(state.encode().is_empty());
}

#[test]
fn records_of_another_group_or_shape_are_refused() {
    let mut directory = State::new(GroupId::DIRECTORY);
    let mut control = State::new(GroupId::CONTROL);
    let key = |key: RecordKey| key.encode();
    let id = NodeId(1);
    for (bad_key, value) in [
        (key(RecordKey::Node(id)), vec![]),
        (key(RecordKey::Cluster), vec![]),
        (key(RecordKey::Holder(0)), vec![0; 25]),
        // The second holder before the first, and more ranges than there are.
        (key(RecordKey::Holder(1)), vec![0; 26]),
        (key(RecordKey::Holder(0)), [&[0; 24][..], &[1, 1]].concat()),
        (key(RecordKey::Blocks), vec![0; 41]),
        (key(RecordKey::Blocks), vec![0; 42]),
        // A claim of a holder that is not there.
        (key(RecordKey::Blocks), [&[0; 40][..], &[1, 0, 1, 0]].concat()),
        (vec![], vec![]),
        (vec![77], vec![]),
        (vec![3, 0], vec![0; 16]),
        (vec![5, 0], vec![]),
    ] {
        assert!(directory.restore(&bad_key, &value).is_err(), "{bad_key:?} {value:?}");
    }
    for (bad_key, value) in [
        (key(RecordKey::Holder(0)), vec![0; 26]),
        (key(RecordKey::Node(id)), vec![]),
        (key(RecordKey::Cluster), vec![]),
        (key(RecordKey::Node(id)), vec![0xff; 4]),
    ] {
        assert!(control.restore(&bad_key, &value).is_err(), "{bad_key:?} {value:?}");
    }
}

#[test]
fn a_drain_begins_and_ends_and_repeating_it_changes_nothing() {
    let mut state = control();
    register(&mut state, 1, 0xa);
    let drain = |node_id, undo| Body::DrainNode(v1::DrainNode { node_id, undo });
    let done = |changed| Kind::Done(v1::Done { changed });
    assert_eq!(apply(&mut state, 9, drain(1, true)), done(false), "there is nothing to undo");
    for (undo, changed, expected) in [
        (false, true, NodeState::Draining),
        (false, false, NodeState::Draining),
        (true, true, NodeState::Up),
        (true, false, NodeState::Up),
    ] {
        assert_eq!(apply(&mut state, 9, drain(1, undo)), done(changed));
        assert_eq!(as_control(&state).node(NodeId(1)).unwrap().state(), expected);
        assert_eq!(
            as_control(&state).serving_incarnation(NodeId(1)),
            Some(Incarnation(1)),
            "it still serves"
        );
    }
    assert_eq!(refusal(&apply(&mut state, 9, drain(7, false))), RefusalReason::UnknownNode);
}

#[test]
fn a_policy_is_replaced_whole_and_bounded() {
    let mut state = State::new(GroupId::CONTROL);
    let policy = |replicas| v1::ClusterPolicy { replicas, ..Default::default() };
    let put = |policy| Body::PutPolicy(v1::PutPolicy { policy });
    assert_eq!(refusal(&apply(&mut state, 1, put(Some(policy(2))))), RefusalReason::NotFounded);
    let mut state = control();
    assert_eq!(as_control(&state).policy(), policy(0));
    for changed in [true, false] {
        assert_eq!(apply(&mut state, 9, put(Some(policy(2)))), Kind::Done(v1::Done { changed }));
        assert_eq!(as_control(&state).policy(), policy(2));
    }
    let beyond = hearth_proto::limits::REPLICAS_MAX + 1;
    assert_eq!(refusal(&apply(&mut state, 9, put(Some(policy(beyond))))), RefusalReason::Malformed);
    assert_eq!(refusal(&apply(&mut state, 9, put(None))), RefusalReason::Malformed);
    assert_eq!(as_control(&state).policy(), policy(2));
}
