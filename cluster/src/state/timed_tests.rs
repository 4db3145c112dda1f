//! What ends by replicated time, and who pays for it: tables of transitions.

use hearth_proto::{BlockId, BlockKey, GroupId, NamespaceId, Priority, Retention, Tier, limits, v1};
use v1::RefusalReason;
use v1::command::Body;
use v1::outcome::Kind;

use super::command::{self, pack_keys};
use super::record::PinId;
use super::tests::{apply, as_control, as_directory, control, refusal, report};
use super::{Digests, State};

pub(super) fn key(number: u8) -> BlockKey {
    BlockKey([number; 32])
}

fn block(namespace: u32, number: u8) -> BlockId {
    BlockId { namespace: NamespaceId(namespace), key: key(number) }
}

pub(super) fn pin(namespace: u32, id: u8, keys: &[u8], size_bytes: u64, ttl_ms: u64) -> Body {
    let keys: Vec<BlockKey> = keys.iter().map(|number| key(*number)).collect();
    Body::PinBlocks(v1::PinBlocks {
        pin_id: vec![id; 16].into(),
        namespace_id: namespace,
        keys: pack_keys(&keys),
        size_bytes,
        ttl_ms,
    })
}

pub(super) fn unpin(namespace: u32, id: u8) -> Body {
    Body::UnpinBlocks(v1::UnpinBlocks { pin_id: vec![id; 16].into(), namespace_id: namespace })
}

pub(super) fn namespace(id: u32, name: &str, pin_quota_bytes: u64) -> Body {
    let spec = v1::NamespaceSpec {
        namespace_id: id,
        name: name.into(),
        pin_quota_bytes,
        default_priority: 35,
        ..Default::default()
    };
    Body::PutNamespace(v1::PutNamespace { spec: Some(spec) })
}

pub(super) fn delete(namespace_id: u32) -> Body {
    Body::DeleteNamespace(v1::DeleteNamespace { namespace_id })
}

pub(super) fn time() -> Body {
    Body::AdvanceTime(v1::AdvanceTime {})
}

pub(super) fn claim(number: u8, claimant: &'static [u8], ttl_ms: u64) -> Body {
    claim_with(number, claimant, ttl_ms, &[])
}

pub(super) fn claim_with(number: u8, claimant: &'static [u8], ttl_ms: u64, gone: &[(u64, u64)]) -> Body {
    let gone = gone
        .iter()
        .map(|(node_id, incarnation)| v1::HolderIncarnation { node_id: *node_id, incarnation: *incarnation });
    Body::ClaimPrefill(v1::ClaimPrefill {
        namespace_id: 0,
        key: key(number).0.to_vec().into(),
        claimant: claimant.into(),
        ttl_ms,
        gone: gone.collect(),
    })
}

pub(super) fn renew(number: u8, token: u64, ttl_ms: u64) -> Body {
    Body::RenewClaim(v1::RenewClaim { namespace_id: 0, key: key(number).0.to_vec().into(), token, ttl_ms })
}

pub(super) fn release(number: u8, token: u64) -> Body {
    Body::ReleaseClaim(v1::ReleaseClaim { namespace_id: 0, key: key(number).0.to_vec().into(), token })
}

pub(super) fn retention(keys: &[u8], priority: u32, duration_ms: u64) -> Body {
    let keys: Vec<BlockKey> = keys.iter().map(|number| key(*number)).collect();
    Body::SetRetention(v1::SetRetention { namespace_id: 0, keys: pack_keys(&keys), priority, duration_ms })
}

fn done(changed: bool) -> Kind {
    Kind::Done(v1::Done { changed })
}

fn pinned(expires_at_ms: u64, pinned_bytes: u64) -> Kind {
    Kind::Pinned(v1::Pinned { expires_at_ms, pinned_bytes })
}

fn granted(token: u64, expires_at_ms: u64) -> Kind {
    Kind::ClaimGranted(v1::ClaimGranted { token, expires_at_ms })
}

fn held(claimant: &'static [u8], expires_at_ms: u64) -> Kind {
    Kind::ClaimHeld(v1::ClaimHeld { claimant: claimant.into(), expires_at_ms })
}

fn gone() -> Kind {
    Kind::ClaimGone(v1::ClaimGone {})
}

fn present() -> Kind {
    Kind::BlockPresent(v1::BlockPresent {})
}

fn detail(kind: &Kind) -> String {
    let Kind::Refused(refused) = kind else { panic!("not refused: {kind:?}") };
    refused.detail.clone()
}

fn directory() -> State {
    State::new(GroupId::DIRECTORY)
}

/// A report that block `number` of namespace 0 came to a node.
fn came(node: u64, incarnation: u64, sequence: u64, number: u8) -> Body {
    let delta =
        hearth_proto::BlockDelta { id: block(0, number), tier: Tier::Host, added: true, payload_len: 1_000 };
    report(node, incarnation, sequence, sequence == 1, &[delta])
}

#[test]
fn the_first_namespace_is_there_from_the_start_and_names_are_unique() {
    let mut state = control();
    let default = as_control(&state).tenancy().namespaces().find(NamespaceId::DEFAULT).unwrap().clone();
    assert_eq!((default.name.as_str(), default.pin_quota_bytes > 0), ("default", true));
    assert_eq!(apply(&mut state, 1, namespace(0, "a", 10)), done(true));
    assert_eq!(apply(&mut state, 1, namespace(0, "b", 10)), done(true));
    assert_eq!(apply(&mut state, 1, namespace(0, "a", 10)), done(false), "INV-IDEMPOTENT");
    assert_eq!(apply(&mut state, 1, namespace(0, "default", 77)), done(true));
    assert_eq!(refusal(&apply(&mut state, 1, namespace(2, "a", 10))), RefusalReason::InUse);
    assert_eq!(apply(&mut state, 1, namespace(2, "c", 11)), done(true), "one is renamed by its id");
    assert_eq!(refusal(&apply(&mut state, 1, namespace(9, "d", 1))), RefusalReason::UnknownNamespace);
    assert_eq!(refusal(&apply(&mut state, 1, namespace(1, "default", 1))), RefusalReason::Malformed);
    let listed: Vec<_> = as_control(&state)
        .tenancy()
        .namespaces()
        .all()
        .map(|spec| (spec.namespace_id, spec.name.clone(), spec.pin_quota_bytes))
        .collect();
    assert_eq!(listed, [(0, "default".into(), 77), (1, "a".into(), 10), (2, "c".into(), 11)]);
}

#[test]
fn the_id_of_a_deleted_namespace_is_never_given_again() {
    let mut state = control();
    apply(&mut state, 1, namespace(0, "a", 10));
    assert_eq!(apply(&mut state, 1, delete(1)), done(true));
    assert_eq!(apply(&mut state, 1, delete(1)), done(false));
    apply(&mut state, 1, namespace(0, "a", 10));
    let namespaces = as_control(&state).tenancy().namespaces();
    assert_eq!(namespaces.find_by_name("a").unwrap().namespace_id, 2, "INV-TENANT: 1 had blocks");
    assert_eq!(refusal(&apply(&mut state, 1, delete(0))), RefusalReason::InUse);
}

#[test]
fn namespaces_that_nobody_could_use_are_refused() {
    let mut state = control();
    let spec = v1::NamespaceSpec { name: "good".into(), ..Default::default() };
    let long = "x".repeat(limits::NAMESPACE_NAME_BYTES_MAX + 1);
    for (bad, named) in [
        (v1::NamespaceSpec { name: String::new(), ..spec.clone() }, "letters"),
        (v1::NamespaceSpec { name: "a b".into(), ..spec.clone() }, "letters"),
        (v1::NamespaceSpec { name: long.clone(), ..spec.clone() }, "1 to 64"),
        (v1::NamespaceSpec { sharing_group: long, ..spec.clone() }, "sharing group"),
        (v1::NamespaceSpec { default_priority: 101, ..spec.clone() }, "0 to 100"),
        (v1::NamespaceSpec { replicas: limits::REPLICAS_MAX + 1, ..spec.clone() }, "copies"),
        (v1::NamespaceSpec { quota_bytes: 5, pin_quota_bytes: 6, ..spec.clone() }, "pin quota"),
        (v1::NamespaceSpec { quota_bytes: 5, floor_bytes: 6, ..spec.clone() }, "floor"),
        (v1::NamespaceSpec { default_duration_ms: u64::MAX, ..spec.clone() }, "without end"),
    ] {
        let refused = apply(&mut state, 1, Body::PutNamespace(v1::PutNamespace { spec: Some(bad) }));
        assert_eq!(refusal(&refused), RefusalReason::Malformed);
        assert!(detail(&refused).contains(named), "{refused:?}");
    }
    let none = Body::PutNamespace(v1::PutNamespace { spec: None });
    assert_eq!(refusal(&apply(&mut state, 1, none)), RefusalReason::Malformed);
    for number in 1..limits::NAMESPACES_MAX {
        assert_eq!(apply(&mut state, 1, namespace(0, &format!("n{number}"), 1)), done(true));
    }
    assert_eq!(refusal(&apply(&mut state, 1, namespace(0, "more", 1))), RefusalReason::Limit);
    assert_eq!(apply(&mut state, 1, namespace(0, "n7", 2)), done(true), "one that is there still changes");
}

#[test]
fn a_policy_is_replaced_as_a_whole_and_checked() {
    let mut state = control();
    let put = |replicas, ramp_ms| {
        let policy = v1::ClusterPolicy { replicas, repair_bytes_per_second: 5, ramp_ms };
        Body::PutPolicy(v1::PutPolicy { policy: Some(policy) })
    };
    assert_eq!(apply(&mut state, 1, put(2, 10)), done(true));
    assert_eq!(apply(&mut state, 1, put(2, 10)), done(false));
    assert_eq!(as_control(&state).cluster_record().unwrap().policy.unwrap().replicas, 2);
    assert_eq!(refusal(&apply(&mut state, 1, put(limits::REPLICAS_MAX + 1, 0))), RefusalReason::Malformed);
    assert_eq!(refusal(&apply(&mut state, 1, put(1, u64::MAX))), RefusalReason::Malformed);
}

/// A control state in which namespace 1 may pin 1,000 bytes.
fn with_quota() -> State {
    let mut state = control();
    assert_eq!(apply(&mut state, 1, namespace(0, "a", 1_000)), done(true));
    state
}

#[test]
fn a_pin_is_charged_renewed_and_ends_by_replicated_time() {
    let mut state = with_quota();
    let until = |state: &State, number| as_control(state).tenancy().pins().pinned_until(&block(1, number));
    assert_eq!(apply(&mut state, 100, pin(1, 1, &[1, 2, 2], 600, 5_000)), pinned(5_100, 600));
    assert_eq!(apply(&mut state, 200, pin(1, 1, &[2, 1], 600, 5_000)), pinned(5_200, 600), "renewed");
    assert_eq!(apply(&mut state, 300, pin(1, 2, &[2, 3], 400, 9_000)), pinned(9_300, 1_000));
    let full = apply(&mut state, 300, pin(1, 3, &[9], 1, 1_000));
    assert_eq!(refusal(&full), RefusalReason::Quota);
    assert!(detail(&full).contains("may pin 1000 bytes, pins 1000") && detail(&full).contains("raise"));
    assert_eq!(
        [1, 2, 3, 9].map(|number| until(&state, number)),
        [Some(5_200), Some(9_300), Some(9_300), None]
    );
    // Other keys under the same id take the place of the first, and are charged instead of them.
    assert_eq!(apply(&mut state, 400, pin(1, 2, &[4], 300, 2_000)), pinned(2_400, 900));
    assert_eq!(
        [1, 2, 3, 4].map(|number| until(&state, number)),
        [Some(5_200), Some(5_200), None, Some(2_400)]
    );
    assert_eq!(state.first_end_ms(), Some(2_400));
    apply(&mut state, 2_399, time());
    assert!(until(&state, 4).is_some());
    apply(&mut state, 2_400, time());
    assert_eq!((until(&state, 4), state.first_end_ms()), (None, Some(5_200)));
    // A stamp from before does not bring it back: the time only moves on.
    assert_eq!(apply(&mut state, 1, pin(1, 5, &[5], 400, 1_000)), pinned(3_400, 1_000));
    assert_eq!(apply(&mut state, 5_000, unpin(1, 1)), done(true));
    assert_eq!(apply(&mut state, 5_000, unpin(1, 1)), done(false), "INV-IDEMPOTENT");
    assert_eq!(as_control(&state).tenancy().pins().used(NamespaceId(1)).bytes, 0);
    assert_eq!(apply(&mut state, 6_000, delete(1)), done(true));
}

#[test]
fn a_pin_is_renewed_without_its_keys_while_it_is_there() {
    let mut state = with_quota();
    assert_eq!(refusal(&apply(&mut state, 1, pin(1, 1, &[], 0, 2_000))), RefusalReason::UnknownPin);
    apply(&mut state, 1, pin(1, 1, &[1, 2], 600, 2_000));
    assert_eq!(apply(&mut state, 1_000, pin(1, 1, &[], 0, 2_000)), pinned(3_000, 600));
    let pins = as_control(&state).tenancy().pins();
    assert_eq!(pins.pinned_until(&block(1, 2)), Some(3_000));
    assert_eq!(refusal(&apply(&mut state, 3_000, pin(1, 1, &[], 0, 2_000))), RefusalReason::UnknownPin);
}

#[test]
fn tenants_do_not_meet_in_pins() {
    let mut state = with_quota();
    apply(&mut state, 1, namespace(0, "b", 1_000));
    apply(&mut state, 1, pin(1, 1, &[1], 900, 2_000));
    assert_eq!(apply(&mut state, 1, unpin(2, 1)), done(false), "INV-TENANT: the same id elsewhere");
    assert_eq!(apply(&mut state, 1, pin(2, 1, &[1], 800, 2_000)), pinned(2_001, 800));
    let pins = as_control(&state).tenancy().pins();
    assert_eq!([1, 2].map(|id| pins.used(NamespaceId(id)).bytes), [900, 800]);
    assert_eq!(pins.of(NamespaceId(1)).map(|(id, _)| *id).collect::<Vec<PinId>>(), [[1; 16]]);
    assert_eq!(refusal(&apply(&mut state, 1, delete(1))), RefusalReason::InUse);
}

#[test]
fn pins_without_bounds_are_refused_and_change_nothing() {
    let mut state = with_quota();
    let good = v1::PinBlocks {
        pin_id: vec![1; 16].into(),
        namespace_id: 1,
        keys: pack_keys(&[key(1)]),
        size_bytes: 1,
        ttl_ms: 2_000,
    };
    let too_many = pack_keys(&vec![key(1); limits::CHAIN_BLOCKS_MAX + 1]);
    for (bad, reason) in [
        (v1::PinBlocks { pin_id: vec![1; 15].into(), ..good.clone() }, RefusalReason::Malformed),
        (v1::PinBlocks { keys: vec![1; 33].into(), ..good.clone() }, RefusalReason::Malformed),
        (v1::PinBlocks { keys: too_many, ..good.clone() }, RefusalReason::Malformed),
        (v1::PinBlocks { ttl_ms: 0, ..good.clone() }, RefusalReason::Malformed),
        (v1::PinBlocks { ttl_ms: limits::PIN_TTL_MS_MAX + 1, ..good.clone() }, RefusalReason::Malformed),
        (v1::PinBlocks { size_bytes: 0, ..good.clone() }, RefusalReason::Malformed),
        (v1::PinBlocks { size_bytes: u64::MAX, ..good.clone() }, RefusalReason::Quota),
        (v1::PinBlocks { namespace_id: 8, ..good.clone() }, RefusalReason::UnknownNamespace),
    ] {
        assert_eq!(refusal(&apply(&mut state, 1, Body::PinBlocks(bad))), reason);
    }
    assert_eq!(as_control(&state).tenancy().pins().used(NamespaceId(1)).pins, 0);
    for number in 0..limits::PINS_MAX {
        let pin_id = [&(number as u64).to_le_bytes()[..], &[7; 8]].concat().into();
        let small = v1::PinBlocks { pin_id, size_bytes: 1, namespace_id: 0, ..good.clone() };
        assert!(matches!(apply(&mut state, 1, Body::PinBlocks(small)), Kind::Pinned(_)));
    }
    let more = v1::PinBlocks { namespace_id: 0, ..good };
    assert_eq!(refusal(&apply(&mut state, 1, Body::PinBlocks(more))), RefusalReason::Limit);
}

#[test]
fn the_pinned_blocks_of_a_cluster_are_bounded() {
    let mut state = control();
    let numbered = |chain: u8, number: usize| {
        let mut key = [chain; 32];
        key[..8].copy_from_slice(&(number as u64).to_le_bytes());
        BlockKey(key)
    };
    let chain = |id: u8| {
        let keys: Vec<BlockKey> = (0..limits::CHAIN_BLOCKS_MAX).map(|number| numbered(id, number)).collect();
        Body::PinBlocks(v1::PinBlocks {
            pin_id: vec![id; 16].into(),
            namespace_id: 0,
            keys: pack_keys(&keys),
            size_bytes: 1,
            ttl_ms: 5_000,
        })
    };
    let fit = u8::try_from(limits::PINNED_BLOCKS_MAX / limits::CHAIN_BLOCKS_MAX).unwrap();
    for id in 0..fit {
        assert!(matches!(apply(&mut state, 1, chain(id)), Kind::Pinned(_)));
    }
    assert_eq!(refusal(&apply(&mut state, 1, chain(fit))), RefusalReason::Limit);
    assert!(matches!(apply(&mut state, 1, chain(0)), Kind::Pinned(_)), "a renewal takes no more room");
    apply(&mut state, 5_001, time());
    assert!(matches!(apply(&mut state, 5_001, chain(fit)), Kind::Pinned(_)), "what ended makes room");
}

#[test]
fn one_claimant_gets_a_block_and_the_next_one_when_the_claim_has_ended() {
    let mut state = directory();
    assert_eq!(apply(&mut state, 100, claim(1, b"a", 1_000)), granted(1, 1_100));
    assert_eq!(apply(&mut state, 150, claim(1, b"b", 1_000)), held(b"a", 1_100));
    assert_eq!(apply(&mut state, 200, claim(1, b"a", 1_000)), granted(1, 1_200), "INV-IDEMPOTENT");
    assert_eq!(apply(&mut state, 300, renew(1, 1, 2_000)), granted(1, 2_300));
    assert_eq!(apply(&mut state, 300, renew(1, 1, 100)), granted(1, 2_300), "a late renewal takes nothing");
    assert_eq!(apply(&mut state, 300, renew(1, 2, 2_000)), gone());
    assert_eq!(apply(&mut state, 300, release(1, 2)), done(false));
    // It has expired although nothing swept it: the time of this very command counts.
    assert_eq!(apply(&mut state, 2_300, claim(1, b"b", 1_000)), granted(2, 3_300), "a new token");
    assert_eq!(apply(&mut state, 2_300, renew(1, 1, 2_000)), gone(), "INV-FENCE: the old token is void");
    assert_eq!(apply(&mut state, 2_300, release(1, 1)), done(false));
    assert_eq!(apply(&mut state, 2_300, release(1, 2)), done(true));
    assert_eq!(apply(&mut state, 2_300, release(1, 2)), done(false));
    assert_eq!(apply(&mut state, 50, claim(1, b"a", 1_000)), granted(3, 3_300), "the time only moves on");
    assert_eq!(apply(&mut state, 60, renew(1, 3, 1_500)), granted(3, 3_800));
}

#[test]
fn a_block_that_came_ends_the_claim_and_refuses_the_next() {
    let mut state = directory();
    apply(&mut state, 100, claim(1, b"a", 60_000));
    apply(&mut state, 100, claim(2, b"b", 60_000));
    assert_eq!(state.take_news().unclaimed, []);
    apply(&mut state, 101, came(7, 3, 1, 1));
    assert_eq!(state.take_news().unclaimed, [block(0, 1)]);
    assert_eq!(apply(&mut state, 102, claim(1, b"b", 60_000)), present());
    assert_eq!(apply(&mut state, 102, renew(1, 1, 60_000)), gone());
    assert_eq!(apply(&mut state, 102, claim(2, b"c", 60_000)), held(b"b", 60_100));
    apply(&mut state, 60_100, time());
    assert_eq!(state.take_news().unclaimed, [block(0, 2)]);
}

#[test]
fn a_block_whose_holders_are_all_gone_can_be_claimed() {
    let mut state = directory();
    apply(&mut state, 1, came(7, 3, 1, 1));
    apply(&mut state, 1, came(8, 1, 1, 1));
    for not_all in [&[][..], &[(7, 3)], &[(7, 2), (8, 1)], &[(7, 3), (8, 2)]] {
        assert_eq!(apply(&mut state, 1, claim_with(1, b"a", 500, not_all)), present(), "{not_all:?}");
    }
    let all = [(8, 1), (7, 3)];
    assert_eq!(apply(&mut state, 1, claim_with(1, b"a", 500, &all)), granted(1, 501));
    assert_eq!(apply(&mut state, 1, claim_with(1, b"b", 500, &all)), held(b"a", 501));
    // It came to a node that had been gone, under a registration that the next claimant knows nothing of.
    apply(&mut state, 1, came(7, 4, 1, 1));
    assert_eq!(apply(&mut state, 1, claim_with(1, b"b", 500, &all)), present());
}

#[test]
fn a_node_that_brings_a_block_back_ends_the_claim_on_it_and_no_other() {
    let mut state = directory();
    apply(&mut state, 1, came(7, 3, 1, 1));
    apply(&mut state, 1, came(8, 1, 1, 2));
    let gone = [(7, 3), (8, 1)];
    for number in [1, 2] {
        let claimed = apply(&mut state, 1, claim_with(number, b"a", 60_000, &gone));
        assert!(matches!(claimed, Kind::ClaimGranted(_)));
    }
    // Its inventory is found to be what it was: nothing is reported anew.
    let brought =
        hearth_proto::BlockDelta { id: block(0, 1), tier: Tier::Host, added: true, payload_len: 1_000 };
    let resync = v1::ResyncHolder {
        node_id: 7,
        incarnation: 4,
        sequence: 2,
        tiers: [brought].into_iter().collect::<Digests>().tiers(0..Digests::RANGES),
        first_range: 0,
        ranges: Digests::RANGES as u32,
        ..Default::default()
    };
    assert!(matches!(apply(&mut state, 2, Body::ResyncHolder(resync)), Kind::HolderResynced(_)));
    assert_eq!(state.take_news().unclaimed, [block(0, 1)]);
    assert_eq!(apply(&mut state, 2, claim_with(1, b"b", 500, &gone)), present());
    assert_eq!(apply(&mut state, 2, claim_with(2, b"b", 500, &gone)), held(b"a", 60_001));
}

#[test]
fn absurd_claims_are_refused_and_claims_are_bounded() {
    let mut state = directory();
    let good = v1::ClaimPrefill {
        namespace_id: 0,
        key: key(1).0.to_vec().into(),
        claimant: b"a"[..].into(),
        ttl_ms: 1_000,
        gone: Vec::new(),
    };
    for bad in [
        v1::ClaimPrefill { key: vec![1; 31].into(), ..good.clone() },
        v1::ClaimPrefill { claimant: vec![].into(), ..good.clone() },
        v1::ClaimPrefill { claimant: vec![1; limits::CLAIMANT_BYTES_MAX + 1].into(), ..good.clone() },
        v1::ClaimPrefill { ttl_ms: limits::CLAIM_TTL_MS_MIN - 1, ..good.clone() },
        v1::ClaimPrefill { ttl_ms: u64::MAX, ..good.clone() },
        v1::ClaimPrefill { gone: vec![Default::default(); limits::NODES_MAX + 1], ..good.clone() },
    ] {
        assert_eq!(refusal(&apply(&mut state, 1, Body::ClaimPrefill(bad))), RefusalReason::Malformed);
    }
    let refused = apply(&mut state, 1, renew(1, 1, u64::MAX));
    assert!(detail(&refused).contains("100 to 600000 ms"), "{refused:?}");
    for number in 0..limits::CLAIMS_MAX {
        let mut key = [3; 32];
        key[..8].copy_from_slice(&(number as u64).to_le_bytes());
        let ask = v1::ClaimPrefill { key: key.to_vec().into(), ..good.clone() };
        assert!(matches!(apply(&mut state, 1, Body::ClaimPrefill(ask)), Kind::ClaimGranted(_)));
    }
    let full = apply(&mut state, 1, Body::ClaimPrefill(good.clone()));
    assert_eq!(refusal(&full), RefusalReason::Limit);
    assert!(matches!(apply(&mut state, 1_001, Body::ClaimPrefill(good)), Kind::ClaimGranted(_)));
    assert_eq!(state.take_news().unclaimed.len(), limits::CLAIMS_MAX);
}

#[test]
fn what_is_said_of_a_block_holds_until_it_ends_or_is_said_anew() {
    let mut state = directory();
    let find = |state: &State, number, now_ms| {
        let said = as_directory(state).timed().retentions().find(&block(0, number), now_ms);
        said.map(|said: Retention| (said.priority.value(), said.duration_ms))
    };
    assert_eq!(apply(&mut state, 100, retention(&[1, 2], 80, 1_000)), done(true));
    assert_eq!(state.take_news().kept, [block(0, 1), block(0, 2)]);
    assert_eq!(find(&state, 1, 400), Some((80, Some(700))));
    assert_eq!(find(&state, 1, 1_100), None, "it has ended before it is swept");
    apply(&mut state, 200, retention(&[2], u32::from(Priority::MAX.value()), 0));
    apply(&mut state, 1_100, time());
    assert_eq!((find(&state, 1, 400), find(&state, 2, u64::MAX)), (None, Some((100, None))));
    for bad in
        [retention(&[], 5, 0), retention(&[1], 101, 0), retention(&[1], 256, 0), retention(&[1], 5, u64::MAX)]
    {
        assert_eq!(refusal(&apply(&mut state, 1, bad)), RefusalReason::Malformed);
    }
}

#[test]
fn of_too_many_retentions_the_oldest_make_place() {
    let mut state = directory();
    let numbered = |number: usize| {
        let mut key = [3; 32];
        key[..8].copy_from_slice(&(number as u64).to_le_bytes());
        BlockKey(key)
    };
    let chains = limits::RETENTIONS_MAX / limits::CHAIN_BLOCKS_MAX;
    for chain in 0..=chains {
        let from = chain * limits::CHAIN_BLOCKS_MAX;
        let keys: Vec<BlockKey> = (from..from + limits::CHAIN_BLOCKS_MAX).map(numbered).collect();
        let set = v1::SetRetention { namespace_id: 0, keys: pack_keys(&keys), priority: 9, duration_ms: 50 };
        assert_eq!(apply(&mut state, 1, Body::SetRetention(set)), done(true));
    }
    let retentions = |state: &State| as_directory(state).timed().retentions().blocks().count();
    assert_eq!(retentions(&state), limits::RETENTIONS_MAX);
    let find = |number| {
        let id = BlockId { namespace: NamespaceId::DEFAULT, key: numbered(number) };
        as_directory(&state).timed().retentions().find(&id, 1)
    };
    assert!(find(0).is_none() && find(limits::CHAIN_BLOCKS_MAX).is_some());
    // They end together, and are swept a part at a time.
    apply(&mut state, 51, time());
    assert_eq!(retentions(&state), limits::RETENTIONS_MAX - limits::RETENTION_SWEEP_MAX);
    assert_eq!(state.first_end_ms(), Some(51));
}

#[test]
fn commands_of_older_formats_do_not_move_the_time() {
    let mut state = directory();
    apply(&mut state, 100, claim(1, b"a", 1_000));
    apply(&mut state, 5_000, came(7, 3, 1, 2));
    assert_eq!(state.time_ms(), 100, "builds of before would have ignored this stamp");
    assert_eq!(apply(&mut state, 101, claim(1, b"b", 1_000)), held(b"a", 1_100));
    for body in [claim(1, b"a", 1_000), time(), retention(&[1], 1, 1), pin(0, 1, &[1], 1, 1), delete(1)] {
        assert_eq!(command::new(body).version, command::TIME_SINCE);
    }
}

#[test]
fn damaged_records_of_what_ends_are_refused() {
    use super::RecordKey;
    let id = block(0, 1);
    let mut number_twice = directory();
    let record = [1u64.to_le_bytes(), 0u64.to_le_bytes()].concat();
    let kept = [&record[..], &[50]].concat();
    number_twice.restore(&RecordKey::Retention(id).encode(), &kept).unwrap();
    assert!(number_twice.restore(&RecordKey::Retention(block(0, 2)).encode(), &kept).is_err());
    for (key, value) in [
        (RecordKey::Clock, vec![0; 15]),
        (RecordKey::Claim(id), record.clone()),
        (RecordKey::Claim(id), vec![0; 15]),
        (RecordKey::Claim(id), [&record[..], &[7; limits::CLAIMANT_BYTES_MAX + 1]].concat()),
        (RecordKey::Retention(id), record.clone()),
        (RecordKey::Retention(id), [&record[..], &[101]].concat()),
        (RecordKey::Pin(NamespaceId(0), [1; 16]), vec![]),
    ] {
        assert!(directory().restore(&key.encode(), &value).is_err(), "{key:?} {value:?}");
    }
    for (key, value) in [
        (RecordKey::Namespace(NamespaceId(1)), vec![]),
        (RecordKey::Pin(NamespaceId(0), [1; 16]), vec![]),
        (RecordKey::Pin(NamespaceId(0), [1; 16]), vec![0xff; 9]),
        (RecordKey::Clock, vec![0; 16]),
        (RecordKey::Claim(id), [&record[..], b"a"].concat()),
    ] {
        assert!(control().restore(&key.encode(), &value).is_err(), "{key:?} {value:?}");
    }
}
