//! Properties of what ends by replicated time, under any sequence of commands.

use std::collections::BTreeMap;

use hearth_proto::{BlockDelta, BlockId, GroupId, NamespaceId, Tier};
use proptest::prelude::*;
use v1::command::Body;
use v1::outcome::Kind;

use super::State;
use super::property_tests::restored;
use super::tests::{apply, as_control, as_directory, control, report};
use super::timed_tests::{claim_with, delete, key, namespace, pin, release, renew, retention, time, unpin};
use hearth_proto::v1;

const CLAIMANTS: [&[u8]; 3] = [b"a", b"b", b"c"];

fn directory_command() -> impl Strategy<Value = Body> {
    let (block, claimant) = (0..4u8, 0..3usize);
    prop_oneof![
        4 => (block.clone(), claimant, 100..900u64, 0..3u64).prop_map(|(block, claimant, ttl, gone)| {
            claim_with(block, CLAIMANTS[claimant], ttl, &[(1, gone), (2, gone)])
        }),
        2 => (block.clone(), 0..8u64, 100..900u64).prop_map(|(block, token, ttl)| renew(block, token, ttl)),
        1 => (block.clone(), 0..8u64).prop_map(|(block, token)| release(block, token)),
        1 => (block.clone(), 0..99u32, 0..500u64).prop_map(|(block, priority, ms)| {
            retention(&[block, block + 1], priority, ms)
        }),
        1 => Just(time()),
        1 => (block, 1..3u64, 1..3u64, any::<bool>()).prop_map(|(block, node, incarnation, added)| {
            let id = BlockId { namespace: NamespaceId::DEFAULT, key: key(block) };
            let delta = BlockDelta { id, tier: Tier::Host, added, payload_len: 9 };
            report(node, incarnation, 1, true, &[delta])
        }),
    ]
}

fn control_command() -> impl Strategy<Value = Body> {
    let names = ["a", "b", "c", "default"];
    prop_oneof![
        2 => (0..4u32, 0..4usize, 0..300u64).prop_map(move |(id, name, quota)| namespace(id, names[name], quota)),
        1 => (0..5u32).prop_map(delete),
        6 => (0..4u32, 0..3u8, prop::collection::vec(0..5u8, 0..4), 0..200u64, 1_000..3_000u64)
            .prop_map(|(namespace, id, keys, size, ttl)| pin(namespace, id, &keys, size, ttl)),
        2 => (0..4u32, 0..3u8).prop_map(|(namespace, id)| unpin(namespace, id)),
        2 => Just(time()),
    ]
}

/// Applies the commands up to a cut, goes on with what is restored from there beside the original, and
/// compares both.
fn check_restored(group: GroupId, mut state: State, log: &[(u64, Body)], cut: usize) {
    let cut = cut.min(log.len());
    for (stamp_ms, body) in &log[..cut] {
        apply(&mut state, *stamp_ms, body.clone());
    }
    let stored = state.encode();
    let mut copy = restored(group, &stored);
    assert_eq!(copy.encode(), stored);
    for (stamp_ms, body) in &log[cut..] {
        let outcome = apply(&mut copy, *stamp_ms, body.clone());
        assert_eq!(outcome, apply(&mut state, *stamp_ms, body.clone()), "{body:?}");
        assert_eq!((copy.first_end_ms(), copy.time_ms()), (state.first_end_ms(), state.time_ms()));
    }
    assert_eq!(copy.encode(), state.encode());
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    #[test]
    fn directory_states_with_claims_are_restored_whole(
        log in prop::collection::vec((0..2_000u64, directory_command()), 0..80),
        cut in 0..80usize,
    ) {
        check_restored(GroupId::DIRECTORY, State::new(GroupId::DIRECTORY), &log, cut);
    }

    #[test]
    fn control_states_with_pins_are_restored_whole(
        log in prop::collection::vec((0..6_000u64, control_command()), 0..80),
        cut in 0..80usize,
    ) {
        check_restored(GroupId::CONTROL, control(), &log, cut);
    }

    /// Whatever the clocks of the leaders do: at any time at most one claimant may believe that it has the
    /// block, no token is given to two, and none is valid again once it was not (INV-LINEAR).
    #[test]
    fn a_token_names_one_grant_for_ever(
        log in prop::collection::vec((0..2_000u64, directory_command()), 0..80),
    ) {
        let mut state = State::new(GroupId::DIRECTORY);
        let mut given: BTreeMap<u64, (Vec<u8>, Vec<u8>)> = BTreeMap::new();
        let mut last = 0;
        for (stamp_ms, body) in log {
            let before = state.time_ms();
            let outcome = apply(&mut state, stamp_ms, body.clone());
            prop_assert!(state.time_ms() >= before, "the replicated time went back");
            if let (Body::ClaimPrefill(ask), Kind::ClaimGranted(granted)) = (&body, &outcome) {
                let grant = (ask.key.to_vec(), ask.claimant.to_vec());
                prop_assert!(granted.expires_at_ms > state.time_ms());
                match given.get(&granted.token) {
                    Some(known) => prop_assert_eq!(known, &grant),
                    None => {
                        prop_assert!(granted.token > last, "tokens only grow");
                        last = granted.token;
                        given.insert(granted.token, grant);
                    }
                }
            }
            if let (Body::RenewClaim(renew), Kind::ClaimGranted(granted)) = (&body, &outcome) {
                let id = BlockId { namespace: NamespaceId::DEFAULT, key: key(renew.key[0]) };
                let held = as_directory(&state).timed().claims().find(&id);
                prop_assert_eq!(held.map(|claim| claim.token), Some(granted.token));
            }
            for number in 0..4u8 {
                let id = BlockId { namespace: NamespaceId::DEFAULT, key: key(number) };
                let held = as_directory(&state).timed().claims().find(&id);
                prop_assert!(held.is_none_or(|claim| claim.expires_at_ms > state.time_ms()));
            }
        }
    }

    /// INV-PIN: what is charged is the sum of what is pinned, within the quota that was in force.
    #[test]
    fn pins_are_charged_exactly_and_never_outlive_their_end(
        log in prop::collection::vec((0..6_000u64, control_command()), 0..80),
    ) {
        let mut state = control();
        for (stamp_ms, body) in log {
            let outcome = apply(&mut state, stamp_ms, body.clone());
            let tenancy = as_control(&state).tenancy();
            for id in (0..6).map(NamespaceId) {
                let pins: Vec<_> = tenancy.pins().of(id).map(|(_, pin)| pin.clone()).collect();
                let used = tenancy.pins().used(id);
                prop_assert_eq!(used.bytes, pins.iter().map(|pin| pin.size_bytes).sum::<u64>());
                prop_assert_eq!(used.pins, pins.len());
                prop_assert!(pins.iter().all(|pin| pin.expires_at_ms > state.time_ms()));
                prop_assert!(used.pins == 0 || tenancy.namespaces().find(id).is_some());
                for number in 0..5u8 {
                    let block = BlockId { namespace: id, key: key(number) };
                    let covering = pins.iter().filter(|pin| pin.keys.contains(&key(number)));
                    let until = covering.map(|pin| pin.expires_at_ms).max();
                    prop_assert_eq!(tenancy.pins().pinned_until(&block), until);
                }
            }
            if let (Body::PinBlocks(pin), Kind::Pinned(pinned)) = (&body, &outcome) {
                let spec = tenancy.namespaces().find(NamespaceId(pin.namespace_id)).unwrap();
                prop_assert!(pinned.pinned_bytes <= spec.pin_quota_bytes);
            }
        }
    }
}
