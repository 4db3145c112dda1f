//! Tables of events that are left out, and of batches that are lost.

use hearth_proto::Tier;
use hearth_proto::limits::{EVENT_BATCH_BYTES_MAX, EVENT_BATCH_EVENTS_MAX, EVENT_BLOCKS_MAX};

use rmp::encode::{write_ext_meta, write_sint};

use super::encode::{array, batch_of, binary, map, nil, text, uint, written};
use super::*;

/// A good event, as a map.
fn good() -> Vec<(&'static str, Vec<u8>)> {
    vec![
        ("type", text("BlockStored")),
        ("block_hashes", array(&[uint(11), uint(12)])),
        ("parent_block_hash", uint(10)),
        ("token_ids", array(&[uint(1), uint(2), uint(3), uint(4)])),
        ("block_size", uint(2)),
        ("medium", text("GPU")),
    ]
}

/// The same with another value.
fn with(key: &'static str, value: Vec<u8>) -> Vec<u8> {
    let mut members = good();
    members.retain(|(name, _)| *name != key);
    members.push((key, value));
    map(&members)
}

fn without(key: &str) -> Vec<u8> {
    map(&good().into_iter().filter(|(name, _)| *name != key).collect::<Vec<_>>())
}

fn removed(more: &[(&'static str, Vec<u8>)]) -> Vec<u8> {
    let members = [("type", text("BlockRemoved")), ("block_hashes", array(&[uint(11), uint(12), uint(13)]))];
    map(&[&members[..], more].concat())
}

fn minus_one() -> Vec<u8> {
    vec![0xff]
}

#[test]
fn one_bad_event_costs_nothing_but_itself() {
    let long = vec![uint(1); EVENT_BLOCKS_MAX + 1];
    let table: Vec<(Vec<u8>, DropReason)> = vec![
        (with("type", text("BlockMigrated")), DropReason::UnknownType),
        (array(&[text("BlockMigrated"), map(&[])]), DropReason::UnknownType),
        (with("type", uint(1)), DropReason::Malformed),
        (without("type"), DropReason::Malformed),
        (array(&[]), DropReason::Malformed),
        (array(&[text("BlockStored")]), DropReason::Malformed),
        (nil(), DropReason::Malformed),
        (text("BlockStored"), DropReason::Malformed),
        (with("medium", text("MARS")), DropReason::UnknownMedium),
        (with("medium", uint(0)), DropReason::Malformed),
        (with("medium", text("EXTERNAL")), DropReason::Remote),
        (with("medium", text("OBJ")), DropReason::Remote),
        (with("locality", text("REMOTE")), DropReason::Remote),
        (with("locality", text("ELSEWHERE")), DropReason::Remote),
        (with("locality", uint(1)), DropReason::Malformed),
        (with("ownership", text("kvcr")), DropReason::Owned),
        (map(&[("type", text("AllBlocksCleared")), ("ownership", text("kvcr"))]), DropReason::Owned),
        (array(&[text("AllBlocksCleared"), text("kvcr")]), DropReason::Owned),
        (removed(&[("locality", text("REMOTE"))]), DropReason::Remote),
        (with("block_size", minus_one()), DropReason::Malformed),
        (with("block_size", uint(1 << 32)), DropReason::Malformed),
        (with("block_size", nil()), DropReason::Malformed),
        (without("block_size"), DropReason::Malformed),
        (without("token_ids"), DropReason::Malformed),
        (with("token_ids", text("many")), DropReason::Malformed),
        (without("block_hashes"), DropReason::Malformed),
        (with("block_hashes", text("nope")), DropReason::Malformed),
        (with("block_hashes", array(&[text("11")])), DropReason::Malformed),
        (with("block_hashes", array(&[vec![0xcb, 0, 0, 0, 0, 0, 0, 0, 0]])), DropReason::Malformed),
        (with("block_hashes", array(&[binary(&[1; 7])])), DropReason::Malformed),
        (with("block_hashes", array(&[binary(&[1; 65])])), DropReason::Malformed),
        (with("block_hashes", array(&long)), DropReason::TooManyBlocks),
        (with("parent_block_hash", text("10")), DropReason::Malformed),
        (with("group_idx", minus_one()), DropReason::Malformed),
        (with("kv_cache_spec_kind", uint(1)), DropReason::Malformed),
        (with("session_id", vec![0xa1, 0xff]), DropReason::Malformed),
        (removed(&[("remaining_copy_counts", array(&[uint(1)]))]), DropReason::Malformed),
        (removed(&[("remaining_copy_counts", array(&[nil(), nil(), nil()]))]), DropReason::Malformed),
    ];
    for (bad, reason) in table {
        let batch =
            decode(&batch_of(&[map(&good()), bad, array(&[text("AllBlocksCleared")])]), Options::default());
        let batch = batch.expect("the batch can be read");
        assert_eq!(batch.events.len(), 2, "{reason:?}");
        assert_eq!(batch.events[1], Event::Cleared);
        assert_eq!(batch.dropped.iter().collect::<Vec<_>>(), [(reason, 1)]);
        assert_eq!((batch.dropped.of(reason), batch.dropped.total()), (1, 1));
    }
}

#[test]
fn tokens_are_looked_at_only_if_they_are_wanted() {
    let bad = [
        array(&[uint(1), minus_one()]),
        array(&[uint(1), uint(1 << 32)]),
        array(&[uint(1), array(&[uint(1), uint(2)])]),
        array(&[array(&[uint(1)])]),
        array(&[array(&[uint(1), uint(2)]), uint(1)]),
    ];
    for tokens in bad {
        let payload = batch_of(&[with("token_ids", tokens)]);
        let kept = decode(&payload, Options { keep_tokens: true }).expect("the batch can be read");
        assert_eq!((kept.events.len(), kept.dropped.of(DropReason::Malformed)), (0, 1));
        let skipped = decode(&payload, Options::default()).expect("the batch can be read");
        assert_eq!(skipped.dropped.total(), 0);
        let Event::Stored(stored) = &skipped.events[0] else { panic!("{skipped:?}") };
        assert_eq!(stored.tokens, None);
    }
}

#[test]
fn what_may_be_otherwise_is_taken() {
    let tier_of = |medium: Vec<u8>| {
        let batch = decode(&batch_of(&[with("medium", medium)]), Options::default()).expect("it can be read");
        match batch.events.as_slice() {
            [Event::Stored(stored)] => Some(stored.tier),
            _ => None,
        }
    };
    for (medium, tier) in [
        ("GPU", Tier::Gpu),
        ("gpu", Tier::Gpu),
        ("DEVICE", Tier::Gpu),
        ("CPU", Tier::Host),
        ("CPU_PINNED", Tier::Host),
        ("CPU_TIER1", Tier::Host),
        ("CPU_TIER2", Tier::Nvme),
        ("DISK", Tier::Nvme),
        ("NVME", Tier::Nvme),
        ("STORAGE", Tier::Nvme),
        ("FS", Tier::Nvme),
    ] {
        assert_eq!(tier_of(text(medium)), Some(tier), "{medium}");
    }
    assert_eq!([nil(), text("")].map(tier_of), [Some(Tier::Gpu); 2]);
    // A chunk that vLLM has offloaded: no tokens, and no size.
    let events = [
        with("block_size", uint(0)),
        with("token_ids", array(&[])),
        with("lora_id", text("of a process")),
        with("lora_name", map(&[("cache_salt", text("salt"))])),
        with("extra_keys", array(&[nil(), array(&[text("mm"), array(&[binary(&[1]), uint(0)])])])),
        with("block_hashes", array(&[])),
        with("locality", text("LOCAL")),
        with("kv_cache_spec_kind", text("of_the_future")),
        map(&[good(), vec![("of_the_future", vec![0xd4, 1, 2])]].concat()),
    ];
    let batch = decode(&batch_of(&events), Options { keep_tokens: true }).expect("it can be read");
    assert_eq!((batch.events.len(), batch.dropped.total()), (events.len(), 0));
}

#[test]
fn keys_besides_the_adapter_are_told_of() {
    let has_extra = |extra_keys: Vec<u8>| {
        let members = [("lora_name", text("adapter")), ("extra_keys", extra_keys)];
        let event = map(&[good(), members.to_vec()].concat());
        let batch = decode(&batch_of(&[event]), Options::default()).expect("it can be read");
        let Event::Stored(stored) = &batch.events[0] else { panic!("{batch:?}") };
        stored.has_extra_keys
    };
    let lora = || array(&[text("adapter")]);
    for none in [nil(), array(&[]), array(&[nil(), nil()]), array(&[lora(), nil(), array(&[])])] {
        assert!(!has_extra(none));
    }
    let image = array(&[text("adapter"), array(&[text("image"), uint(7)])]);
    for some in [array(&[nil(), image]), array(&[array(&[text("salt")])]), array(&[uint(1)]), text("salt")] {
        assert!(has_extra(some));
    }
}

#[test]
fn a_block_with_other_copies_is_not_removed() {
    let payload = batch_of(&[removed(&[("remaining_copy_counts", array(&[uint(0), uint(2), uint(0)]))])]);
    let batch = decode(&payload, Options::default()).expect("it can be read");
    let expected = Removed { hashes: vec![11, 13], tier: Tier::Gpu, group: None };
    assert_eq!(batch.events, [Event::Removed(expected)]);
}

#[test]
fn binary_hashes_of_any_length_count_by_their_end() {
    for len in [8, 16, 32, 64] {
        let hash: Vec<u8> = (0..len).collect();
        let payload = batch_of(&[with("block_hashes", array(&[binary(&hash)]))]);
        let batch = decode(&payload, Options::default()).expect("it can be read");
        let Event::Stored(stored) = &batch.events[0] else { panic!("{batch:?}") };
        let end: Vec<u8> = (len - 8..len).collect();
        assert_eq!(stored.hashes, [u64::from_be_bytes(end.try_into().unwrap())]);
    }
}

#[test]
fn every_form_of_a_value_is_stepped_over() {
    let mut forms = vec![nil(), vec![0xc2], vec![0xc3], vec![0xca, 0, 0, 0, 0], vec![0xcb; 9]];
    forms.extend([1, 200, 60_000, 1 << 20, 1 << 40].map(uint));
    forms
        .extend([-1, -100, -30_000, -(1 << 20), -(1 << 40)].map(|value| written(|to| write_sint(to, value))));
    for len in [0, 1, 2, 3, 4, 8, 16, 31, 32, 255, 256, 70_000] {
        forms.push(text(&"x".repeat(len)));
        forms.push(binary(&vec![0xc1; len]));
        forms.push(array(&vec![nil(); len]));
        forms.push(map(&vec![("key", uint(1)); len]));
        forms.push([written(|to| write_ext_meta(to, len as u32, 7)), vec![0xc1; len]].concat());
    }
    let read = |payload: &[u8]| decode(payload, Options::default()).expect("it can be read");
    let future = read(&batch_of(&[with("of_the_future", array(&forms))]));
    assert_eq!((future.events.len(), future.dropped.total()), (1, 0));
    for form in forms {
        let batch = read(&batch_of(&[form.clone(), map(&good())]));
        assert_eq!((batch.events.len(), batch.dropped.total()), (1, 1), "{:02x?}", &form[..1]);
    }
}

#[test]
fn what_is_no_batch_is_refused_where_it_is_wrong() {
    let time = || vec![0xcb, 0, 0, 0, 0, 0, 0, 0, 0];
    let rank = |rank| array(&[time(), array(&[]), rank]);
    let unexpected = |at, expected| DecodeError::Unexpected { at, expected };
    let table: Vec<(Vec<u8>, DecodeError)> = vec![
        (vec![], DecodeError::Truncated { at: 0 }),
        (vec![0xc1], DecodeError::Reserved { at: 0 }),
        (nil(), unexpected(0, "a batch")),
        (array(&[]), unexpected(0, "a batch with events")),
        (array(&[time()]), unexpected(0, "a batch with events")),
        (map(&[("events", array(&[]))]), unexpected(0, "a batch with a time")),
        (
            map(&[("events", array(&[])), ("events", array(&[]))]),
            unexpected(9, "another key than `events` again"),
        ),
        (array(&[text("now"), array(&[])]), unexpected(1, "a time")),
        (array(&[time(), map(&[])]), unexpected(10, "an array of events")),
        (rank(minus_one()), unexpected(11, "a data-parallel rank")),
        (rank(text("0")), unexpected(11, "a data-parallel rank")),
        ([rank(nil()), nil()].concat(), DecodeError::Trailing { at: 12 }),
        // Lengths that nothing backs.
        (vec![0xdd, 0xff, 0xff, 0xff, 0xff], DecodeError::Truncated { at: 0 }),
        (vec![0xdf, 0xff, 0xff, 0xff, 0xff, 0xc0], DecodeError::Truncated { at: 0 }),
        (array(&[time(), vec![0xdd, 0, 0, 0, 9]]), DecodeError::Truncated { at: 10 }),
        (array(&[time(), array(&[vec![0xdb, 0xff, 0xff, 0xff, 0xff]])]), DecodeError::Truncated { at: 11 }),
        (
            array(&[time(), array(&[vec![0xc9, 0xff, 0xff, 0xff, 0xff, 1]])]),
            DecodeError::Truncated { at: 11 },
        ),
        (
            array(&[time(), array(&[array(&[text("BlockStored"), vec![0x91, 0xc1]])])]),
            DecodeError::Reserved { at: 25 },
        ),
        (array(&[time(), array(&[vec![0xce, 0, 0]])]), DecodeError::Truncated { at: 11 }),
    ];
    for (payload, error) in table {
        assert_eq!(decode(&payload, Options::default()), Err(error), "{payload:02x?}");
    }
    let long = vec![0; EVENT_BATCH_BYTES_MAX + 1];
    assert_eq!(decode(&long, Options::default()), Err(DecodeError::TooLong { len: long.len() }));
    let many = batch_of(&vec![nil(); EVENT_BATCH_EVENTS_MAX + 1]);
    let error = DecodeError::TooManyEvents { count: EVENT_BATCH_EVENTS_MAX + 1 };
    assert_eq!(decode(&many, Options::default()), Err(error));
}
