//! Bytes that the encoders of the engines made: msgspec 0.22 with the structs of vLLM and SGLang, and msgpack 1.2.

use hearth_proto::Tier;

use super::*;

/// vLLM since its events are maps; hashes as numbers.
const VLLM_MAPS: &str = "\
     93cb41d954fc401000009488a474797065ab426c6f636b53746f726564ac626c6f636b5f68617368657392cf8511a306\
     17afa01dcfd7cce23c7785459ab1706172656e745f626c6f636b5f68617368c0a9746f6b656e5f696473940102cd012c\
     ce00011170aa626c6f636b5f73697a6502a76c6f72615f6964c0a66d656469756da3475055a96c6f72615f6e616d65c0\
     8da474797065ab426c6f636b53746f726564ac626c6f636b5f68617368657391cf4b76ea986457d986b1706172656e74\
     5f626c6f636b5f68617368cfd7cce23c7785459aa9746f6b656e5f696473920506aa626c6f636b5f73697a6502a76c6f\
     72615f696407a66d656469756da3435055a96c6f72615f6e616d65a761646170746572aa65787472615f6b6579739193\
     a76164617074657292a26d6d00c40101a967726f75705f69647801b26b765f63616368655f737065635f6b696e64ae73\
     6c6964696e675f77696e646f77bc6b765f63616368655f737065635f736c6964696e675f77696e646f77cc80aa736573\
     73696f6e5f6964a2733184a474797065ac426c6f636b52656d6f766564ac626c6f636b5f68617368657391cf8511a306\
     17afa01da66d656469756da3475055a967726f75705f6964780081a474797065b0416c6c426c6f636b73436c65617265\
     6403";

/// The same with hashes as binary.
const VLLM_MAPS_SHA256: &str = "\
     93cb41d954fc401000009488a474797065ab426c6f636b53746f726564ac626c6f636b5f68617368657392c4206e340b\
     9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01dc4204bf5122f344554c53bde2ebb8cd2b7e3d1\
     600ad631c385a5d7cce23c7785459ab1706172656e745f626c6f636b5f68617368c0a9746f6b656e5f696473940102cd\
     012cce00011170aa626c6f636b5f73697a6502a76c6f72615f6964c0a66d656469756da3475055a96c6f72615f6e616d\
     65c08da474797065ab426c6f636b53746f726564ac626c6f636b5f68617368657391c420dbc1b4c900ffe48d575b5da5\
     c638040125f65db0fe3e24494b76ea986457d986b1706172656e745f626c6f636b5f68617368c4204bf5122f344554c5\
     3bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459aa9746f6b656e5f696473920506aa626c6f636b5f73697a65\
     02a76c6f72615f696407a66d656469756da3435055a96c6f72615f6e616d65a761646170746572aa65787472615f6b65\
     79739193a76164617074657292a26d6d00c40101a967726f75705f69647801b26b765f63616368655f737065635f6b69\
     6e64ae736c6964696e675f77696e646f77bc6b765f63616368655f737065635f736c6964696e675f77696e646f77cc80\
     aa73657373696f6e5f6964a2733184a474797065ac426c6f636b52656d6f766564ac626c6f636b5f68617368657391c4\
     206e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01da66d656469756da3475055a967726f\
     75705f6964780081a474797065b0416c6c426c6f636b73436c656172656403";

/// vLLM before, with all fields that it has had since.
const VLLM_ARRAYS: &str = "\
     93cb41d954fc40100000949fab426c6f636b53746f72656492cf8511a30617afa01dcfd7cce23c7785459ac0940102cd\
     012cce0001117002c0a3475055c0c0c0c0c0c0c0c09fab426c6f636b53746f72656491cf4b76ea986457d986cfd7cce2\
     3c7785459a9205060207a3435055a7616461707465729193a76164617074657292a26d6d00c4010101ae736c6964696e\
     675f77696e646f77cc80c0c0a2733196ac426c6f636b52656d6f76656491cf8511a30617afa01da347505500c0c091b0\
     416c6c426c6f636b73436c656172656403";

/// The same with hashes as binary.
const VLLM_ARRAYS_SHA256: &str = "\
     93cb41d954fc40100000949fab426c6f636b53746f72656492c4206e340b9cffb37a989ca544e6bb780a2c78901d3fb3\
     3738768511a30617afa01dc4204bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385a5d7cce23c7785459ac09401\
     02cd012cce0001117002c0a3475055c0c0c0c0c0c0c0c09fab426c6f636b53746f72656491c420dbc1b4c900ffe48d57\
     5b5da5c638040125f65db0fe3e24494b76ea986457d986c4204bf5122f344554c53bde2ebb8cd2b7e3d1600ad631c385\
     a5d7cce23c7785459a9205060207a3435055a7616461707465729193a76164617074657292a26d6d00c4010101ae736c\
     6964696e675f77696e646f77cc80c0c0a2733196ac426c6f636b52656d6f76656491c4206e340b9cffb37a989ca544e6\
     bb780a2c78901d3fb33738768511a30617afa01da347505500c0c091b0416c6c426c6f636b73436c656172656403";

/// The first layout of both: no medium, no rank, signed hashes.
const OLDEST: &str = "\
     92cb3ff80000000000009396ab426c6f636b53746f72656492ffcf7fffffffffffffffd380000000000000009010c092\
     ac426c6f636b52656d6f766564910591b0416c6c426c6f636b73436c6561726564";

/// A batch that is a map itself.
const MAP_BATCH: &str = "\
     82a27473cb4004000000000000a66576656e74739281a474797065b0416c6c426c6f636b73436c656172656483a47479\
     7065ac426c6f636b52656d6f766564ac626c6f636b5f68617368657391cfffffffffffffffffa66d656469756dc0";

/// msgpack: counts of other copies, and a batch with more members than are known.
const WITH_COPIES: &str = "\
     94039185a474797065ac426c6f636b52656d6f766564ac626c6f636b5f68617368657391c4206e340b9cffb37a989ca5\
     44e6bb780a2c78901d3fb33738768511a30617afa01da66d656469756da753544f52414745b572656d61696e696e675f\
     636f70795f636f756e74739100a86c6f63616c697479a54c4f43414cc0a46d6f7265";

/// SGLang: pairs of tokens, and the high half of a digest as a signed hash.
const SGLANG_EAGLE: &str = "\
     93cb3ff00000000000009197ab426c6f636b53746f72656491cf6e340b9cffb37a98c09292010292020302c0aa435055\
     5f50494e4e454400";

fn bytes(hex: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&hex[at..at + 2], 16).expect("it is hex");
    (0..hex.len()).step_by(2).map(digit).collect()
}

fn read(hex: &str) -> Batch {
    decode(&bytes(hex), Options { keep_tokens: true }).expect("an engine made it")
}

fn removed(hash: u64, tier: Tier, group: Option<u32>) -> Event {
    Event::Removed(Removed { hashes: vec![hash], tier, group })
}

/// The low 64 bits of the SHA-256 of the bytes 0, 1 and 2.
const HASHES: [u64; 3] = [0x8511_a306_17af_a01d, 0xd7cc_e23c_7785_459a, 0x4b76_ea98_6457_d986];

#[test]
fn vllm_says_the_same_in_every_layout() {
    let plain = Stored {
        hashes: vec![HASHES[0], HASHES[1]],
        parent: None,
        block_tokens: 2,
        token_count: 4,
        tokens: Some(Tokens { ids: vec![1, 2, 300, 70_000], is_bigram: false }),
        tier: Tier::Gpu,
        lora_name: None,
        has_extra_keys: false,
        group: None,
        spec_kind: None,
        window_tokens: None,
        session: None,
    };
    let full = Stored {
        hashes: vec![HASHES[2]],
        parent: Some(HASHES[1]),
        token_count: 2,
        tokens: Some(Tokens { ids: vec![5, 6], is_bigram: false }),
        tier: Tier::Host,
        lora_name: Some("adapter".into()),
        has_extra_keys: true,
        group: Some(1),
        spec_kind: Some(SpecKind::Windowed),
        window_tokens: Some(128),
        session: Some("s1".into()),
        ..plain.clone()
    };
    let events = vec![
        Event::Stored(plain),
        Event::Stored(full),
        removed(HASHES[0], Tier::Gpu, Some(0)),
        Event::Cleared,
    ];
    let expected = Batch { ts_s: 1_700_000_000.25, dp_rank: Some(3), events, dropped: Dropped::default() };
    for hex in [VLLM_MAPS, VLLM_MAPS_SHA256, VLLM_ARRAYS, VLLM_ARRAYS_SHA256] {
        assert_eq!(read(hex), expected);
    }
}

#[test]
fn the_oldest_layout_is_read() {
    let batch = read(OLDEST);
    assert_eq!((batch.ts_s, batch.dp_rank, batch.dropped.total()), (1.5, None, 0));
    let Event::Stored(stored) = &batch.events[0] else { panic!("{batch:?}") };
    assert_eq!(stored.hashes, [u64::MAX, i64::MAX as u64]);
    assert_eq!((stored.parent, stored.block_tokens, stored.tier), (Some(1 << 63), 16, Tier::Gpu));
    assert_eq!(batch.events[1..], [removed(5, Tier::Gpu, None), Event::Cleared]);
}

#[test]
fn a_batch_that_is_a_map_is_read() {
    let batch = read(MAP_BATCH);
    assert_eq!((batch.ts_s, batch.dp_rank), (2.5, None));
    assert_eq!(batch.events, [Event::Cleared, removed(u64::MAX, Tier::Gpu, None)]);
}

#[test]
fn what_follows_a_batch_is_stepped_over() {
    let batch = read(WITH_COPIES);
    assert_eq!((batch.ts_s, batch.dp_rank), (3.0, None));
    assert_eq!(batch.events, [removed(HASHES[0], Tier::Nvme, None)]);
}

#[test]
fn pairs_of_tokens_are_one_token_more() {
    let batch = read(SGLANG_EAGLE);
    let Event::Stored(stored) = &batch.events[0] else { panic!("{batch:?}") };
    assert_eq!(stored.hashes, [0x6e34_0b9c_ffb3_7a98]);
    assert_eq!(stored.tokens, Some(Tokens { ids: vec![1, 2, 3], is_bigram: true }));
    assert_eq!((stored.token_count, stored.block_tokens, stored.tier), (2, 2, Tier::Host));
}
