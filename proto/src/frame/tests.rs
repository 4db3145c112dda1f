use proptest::prelude::*;

use super::*;
use crate::hex;
use crate::limits::{BLOCK_BYTES_MAX, CHAIN_BLOCKS_MAX, FRAME_HEADER_BYTES, GOODBYE_TEXT_BYTES_MAX};
use crate::{
    AckLevel, BlockKey, Classified, ClusterId, ErrorKind, Generation, Incarnation, NamespaceId, NodeId,
    Priority, Retention, Tier, Urgency,
};

fn key(byte: u8) -> BlockKey {
    BlockKey([byte; 32])
}

/// One frame of every kind and the payload length it announces, every field distinct and not zero.
fn samples() -> Vec<(Body, u32)> {
    let block = GetBlock {
        index: 0x0102_0304,
        status: BlockStatus::Ok,
        tier: Some(Tier::Nvme),
        codec: BlockCodec::Raw,
        generation: Generation(0x1112_1314_1516_1718),
        incarnation: Incarnation(0x4142_4344_4546_4748),
        key: key(0xaa),
        crc32: 0x2122_2324,
        block_len: 0x10_0000,
    };
    let put = PutBlock {
        index: 7,
        ack: AckLevel::Durable,
        retention: Retention { priority: Priority::MAX, duration_ms: Some(60_000) },
        depth: 0x0a0b,
        deadline_ms: 2_000,
        key: key(0xbb),
        crc32: 0x3132_3334,
    };
    let entry = |index, status, existed, generation| PutEntry { index, status, existed, generation };
    vec![
        (Body::Hello(Hello { version_min: 1, version_max: 2, cluster_id: ClusterId([0xc1; 16]) }), 0),
        (
            Body::HelloAck(HelloAck {
                version: 1,
                block_bytes_max: 0x0400_0000,
                node_id: NodeId(3),
                incarnation: Incarnation(9),
                cluster_id: ClusterId([0xc2; 16]),
            }),
            0,
        ),
        (
            Body::Get(Get {
                deadline_ms: 1_500,
                urgency: Urgency::Normal,
                incarnation: Incarnation(9),
                entries: vec![
                    GetEntry { key: key(1), capacity: 0x10_0000 },
                    GetEntry { key: key(2), capacity: u32::MAX },
                ],
            }),
            0,
        ),
        (Body::GetBlock(block), 0x10_0000),
        (Body::PutBlock(put), 1),
        (
            Body::PutDone(PutDone {
                entries: vec![
                    entry(0, BlockStatus::Ok, true, Generation(5)),
                    entry(1, BlockStatus::Full, false, Generation(0)),
                ],
            }),
            0,
        ),
        (Body::Contains(Keys { deadline_ms: 10, keys: vec![key(3)] }), 0),
        (Body::ContainsReply(vec![TierBits::NONE.with(Tier::Host).with(Tier::Nvme), TierBits::NONE]), 0),
        (Body::Remove(Keys { deadline_ms: 11, keys: vec![key(4)] }), 0),
        (Body::RemoveReply(RemoveReply { statuses: vec![BlockStatus::Ok, BlockStatus::Miss] }), 0),
        (Body::Cancel, 0),
        (Body::Goodbye(Goodbye::new(GoodbyeReason::ShuttingDown, "bye")), 0),
        (Body::CopyBlock(CopyBlock { namespace: NamespaceId(0x5152_5354), block: put }), 1),
    ]
}

fn encode(request_id: u64, body: &Body, payload_len: u32) -> Vec<u8> {
    let mut bytes = Vec::new();
    body.encode(request_id, payload_len, &mut bytes);
    bytes
}

/// Decodes a frame that fills `bytes`, as a reader of a socket would.
fn decode(bytes: &[u8]) -> Result<(Header, Body), FrameError> {
    let (head, rest) = bytes.split_first_chunk::<FRAME_HEADER_BYTES>().expect("at least a header");
    let header = Header::decode(head)?;
    Ok((header, Body::decode(&header, rest)?))
}

/// Puts right both checksums, so that a mutation is judged by what it says.
fn reseal(bytes: &mut [u8]) {
    let crc = crc32fast::hash(&bytes[FRAME_HEADER_BYTES..]);
    bytes[24..28].copy_from_slice(&crc.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
}

#[test]
fn every_frame_has_the_bytes_that_were_agreed() {
    let golden = include_str!("golden.txt");
    let samples = samples();
    assert_eq!(samples.len(), FrameKind::ALL.len(), "every kind has a sample");
    assert_eq!(golden.lines().count(), samples.len(), "every sample has its bytes");
    for (line, (body, payload_len)) in golden.lines().zip(&samples) {
        let (name, expected) = line.split_once(' ').expect("a name and its bytes");
        assert_eq!(name, format!("{:?}", body.kind()));
        let bytes = encode(0x0102_0304_0506_0708, body, *payload_len);
        assert_eq!(hex::encode(&bytes), expected, "{name}");
        let (header, decoded) = decode(&bytes).expect("golden bytes are a frame");
        assert_eq!(
            (&decoded, header.payload_len, header.request_id),
            (body, *payload_len, 0x0102_0304_0506_0708)
        );
    }
}

/// The golden get, made as urgent as can be.
fn urgent() -> Vec<u8> {
    let (mut body, _) = samples().remove(2);
    if let Body::Get(get) = &mut body {
        get.urgency = Urgency::Urgent;
    }
    encode(1, &body, 0)
}

#[test]
fn urgency_is_one_byte_and_one_version_more_than_a_usual_get() {
    let (usual, urgent) = (encode(1, &samples()[2].0, 0), urgent());
    assert_eq!((usual[4], urgent[4]), (1, 2), "the oldest version that can say it");
    let body = |frame: &[u8]| frame[FRAME_HEADER_BYTES..].to_vec();
    let differ: Vec<_> =
        (0..).zip(body(&usual).into_iter().zip(body(&urgent))).filter(|(_, (a, b))| a != b).collect();
    assert_eq!(differ, [(6, (0, 1))]);
    assert!(matches!(decode(&urgent), Ok((_, Body::Get(Get { urgency: Urgency::Urgent, .. })))));
}

#[test]
fn what_a_version_cannot_say_is_refused_in_it() {
    let field = |field| Err(FrameError::Field { kind: FrameKind::Get, field });
    for (at, value, refusal) in [
        (4, 1, field("version")),
        (FRAME_HEADER_BYTES + 6, 0, field("version")),
        (FRAME_HEADER_BYTES + 6, 3, field("urgency")),
        (FRAME_HEADER_BYTES + 7, 1, field("padding")),
    ] {
        let mut bytes = urgent();
        bytes[at] = value;
        reseal(&mut bytes);
        assert_eq!(decode(&bytes), refusal, "byte {at} is {value}");
    }
    let mut bytes = encode(1, &Body::Cancel, 0);
    bytes[4] = 2;
    reseal(&mut bytes);
    assert_eq!(decode(&bytes), Err(FrameError::Field { kind: FrameKind::Cancel, field: "version" }));
}

#[test]
fn a_frame_from_the_future_is_refused() {
    for (body, payload_len) in samples() {
        let mut bytes = encode(1, &body, payload_len);
        bytes[4..6].copy_from_slice(&(VERSION + 1).to_le_bytes());
        reseal(&mut bytes);
        let error = decode(&bytes).expect_err("a version that nobody agreed on");
        assert_eq!(error, FrameError::Version { given: VERSION + 1 });
        assert_eq!(error.kind(), ErrorKind::Stop);
    }
}

#[test]
fn unknown_kinds_flags_and_padding_are_refused() {
    let mut bytes = encode(1, &Body::Cancel, 0);
    for kind in [0, FrameKind::ALL.len() as u8 + 1, 255] {
        bytes[6] = kind;
        reseal(&mut bytes);
        assert_eq!(decode(&bytes), Err(FrameError::UnknownKind(kind)));
    }
    bytes[6] = FrameKind::Cancel as u8;
    bytes[7] = 1;
    reseal(&mut bytes);
    assert_eq!(decode(&bytes), Err(FrameError::UnknownFlags(1)));
    let (body, payload_len) = &samples()[3];
    let mut bytes = encode(1, body, *payload_len);
    bytes[FRAME_HEADER_BYTES + 7] = 1;
    reseal(&mut bytes);
    assert_eq!(decode(&bytes), Err(FrameError::Field { kind: FrameKind::GetBlock, field: "padding" }));
}

#[test]
fn lengths_beyond_the_bounds_of_a_kind_are_refused_by_the_header_alone() {
    for kind in FrameKind::ALL {
        let (body_min, body_max) = kind.body_bytes();
        let header = |body_len, payload_len| Header {
            version: VERSION,
            kind,
            request_id: 1,
            body_len,
            payload_len,
            body_crc: 0,
        };
        let too_long = header(body_max as u32 + 1, 0);
        assert!(matches!(Header::decode(&too_long.encode()), Err(FrameError::BodyLength { .. })), "{kind:?}");
        if let Some(shorter) = body_min.checked_sub(1) {
            let too_short = header(shorter as u32, 0);
            assert!(
                matches!(Header::decode(&too_short.encode()), Err(FrameError::BodyLength { .. })),
                "{kind:?}"
            );
        }
        let heavy = header(body_min as u32, kind.payload_bytes_max() as u32 + 1);
        assert!(matches!(Header::decode(&heavy.encode()), Err(FrameError::PayloadLength { .. })), "{kind:?}");
        assert!(kind.payload_bytes_max() <= BLOCK_BYTES_MAX);
    }
}

#[test]
fn a_block_has_a_payload_if_and_only_if_it_is_ok() {
    let refusal = Body::GetBlock(GetBlock::refusal(0, key(1), BlockStatus::Miss));
    assert!(decode(&encode(1, &refusal, 0)).is_ok());
    assert!(decode(&encode(1, &refusal, 1)).is_err(), "a miss with bytes");
    let (ok, payload_len) = &samples()[3];
    assert!(decode(&encode(1, ok, 0)).is_err(), "a hit without bytes");
    assert!(decode(&encode(1, ok, payload_len - 1)).is_err(), "two lengths that differ");
    assert!(decode(&encode(1, &samples()[4].0, 0)).is_err(), "a put without bytes");
}

#[test]
fn a_count_that_its_body_does_not_hold_is_refused_before_memory_is_taken() {
    for (at, index) in [(4, 2), (0, 5), (4, 6), (4, 8)] {
        let (body, payload_len) = &samples()[index];
        for claimed in [0, 3, u32::MAX] {
            let mut bytes = encode(1, body, *payload_len);
            bytes[FRAME_HEADER_BYTES + at..][..4].copy_from_slice(&claimed.to_le_bytes());
            reseal(&mut bytes);
            assert_eq!(decode(&bytes), Err(FrameError::Field { kind: body.kind(), field: "count" }));
        }
    }
}

#[test]
fn the_largest_batch_fits_and_a_larger_one_cannot_be_made() {
    let get = |count| {
        let entries = vec![GetEntry { key: key(1), capacity: 1 }; count];
        let urgency = Urgency::Normal;
        Body::Get(Get { deadline_ms: 1, urgency, incarnation: Incarnation(0), entries })
    };
    let largest = get(CHAIN_BLOCKS_MAX);
    assert_eq!(decode(&encode(1, &largest, 0)).map(|(_, body)| body), Ok(largest));
    assert!(std::panic::catch_unwind(|| encode(1, &get(CHAIN_BLOCKS_MAX + 1), 0)).is_err());
}

#[test]
fn a_goodbye_is_cut_between_characters() {
    let long = "é".repeat(GOODBYE_TEXT_BYTES_MAX);
    let goodbye = Goodbye::new(GoodbyeReason::Idle, &format!("x{long}"));
    assert_eq!(goodbye.text().len(), GOODBYE_TEXT_BYTES_MAX - 1);
    let body = Body::Goodbye(goodbye);
    assert_eq!(decode(&encode(0, &body, 0)).map(|(_, body)| body), Ok(body));
}

#[test]
fn two_ends_use_the_newest_version_that_both_know() {
    assert_eq!(negotiate(VERSION_MIN, VERSION), Some(VERSION));
    assert_eq!(negotiate(VERSION, VERSION + 1), Some(VERSION), "N talks to N+1");
    assert_eq!(negotiate(VERSION + 1, VERSION + 2), None);
    assert_eq!(negotiate(0, VERSION_MIN - 1), None);
}

fn any_key() -> impl Strategy<Value = BlockKey> {
    any::<[u8; 32]>().prop_map(BlockKey)
}

fn any_status() -> impl Strategy<Value = BlockStatus> {
    (0..BlockStatus::ALL.len()).prop_map(|index| BlockStatus::ALL[index])
}

fn any_get_block() -> impl Strategy<Value = (Body, u32)> {
    let tier = (0..Tier::ALL.len()).prop_map(|index| Tier::ALL[index]);
    let len = 1..=BLOCK_BYTES_MAX as u32;
    (any::<u32>(), any_status(), tier, any::<[u64; 2]>(), any_key(), any::<u32>(), len).prop_map(
        |(index, status, tier, [generation, incarnation], key, crc32, block_len)| {
            let ok = status == BlockStatus::Ok;
            let block = GetBlock {
                index,
                status,
                tier: ok.then_some(tier),
                codec: BlockCodec::Raw,
                generation: Generation(generation),
                incarnation: Incarnation(incarnation),
                key,
                crc32,
                block_len,
            };
            (Body::GetBlock(block), if ok { block_len } else { 0 })
        },
    )
}

fn any_put_block() -> impl Strategy<Value = (Body, u32)> {
    let retention = (0..=100_u8, proptest::option::of(0..u64::MAX)).prop_map(|(priority, duration_ms)| {
        Retention { priority: Priority::new(priority).expect("within range"), duration_ms }
    });
    let ack = prop_oneof![Just(AckLevel::Host), Just(AckLevel::Durable)];
    let numbers = any::<[u32; 4]>();
    (numbers, ack, retention, any_key(), 1..=BLOCK_BYTES_MAX as u32).prop_map(
        |([index, depth, deadline_ms, crc32], ack, retention, key, payload_len)| {
            (Body::PutBlock(PutBlock { index, ack, retention, depth, deadline_ms, key, crc32 }), payload_len)
        },
    )
}

fn any_copy_block() -> impl Strategy<Value = (Body, u32)> {
    (any::<u32>(), any_put_block()).prop_map(|(namespace, (put, payload_len))| {
        let Body::PutBlock(block) = put else { unreachable!("it makes puts") };
        (Body::CopyBlock(CopyBlock { namespace: NamespaceId(namespace), block }), payload_len)
    })
}

fn any_small() -> impl Strategy<Value = Body> {
    let cluster_id = any::<[u8; 16]>().prop_map(ClusterId);
    let keys = || {
        (any::<u32>(), proptest::collection::vec(any_key(), 0..20))
            .prop_map(|(deadline_ms, keys)| Keys { deadline_ms, keys })
    };
    let entry = (any_key(), any::<u32>()).prop_map(|(key, capacity)| GetEntry { key, capacity });
    let put_entry = (any::<u32>(), any_status(), any::<bool>(), any::<u64>()).prop_map(
        |(index, status, existed, generation)| PutEntry {
            index,
            status,
            existed,
            generation: Generation(generation),
        },
    );
    prop_oneof![
        (any::<u16>(), any::<u16>(), cluster_id.clone()).prop_map(
            |(version_min, version_max, cluster_id)| {
                Body::Hello(Hello { version_min, version_max, cluster_id })
            }
        ),
        (any::<u16>(), 0..=BLOCK_BYTES_MAX as u32, any::<u64>(), any::<u64>(), cluster_id).prop_map(
            |(version, block_bytes_max, node, incarnation, cluster_id)| {
                let (node_id, incarnation) = (NodeId(node), Incarnation(incarnation));
                Body::HelloAck(HelloAck { version, block_bytes_max, node_id, incarnation, cluster_id })
            }
        ),
        (any::<u32>(), 0..Urgency::ALL.len(), any::<u64>(), proptest::collection::vec(entry, 0..20))
            .prop_map(|(deadline_ms, urgency, incarnation, entries)| {
                let (urgency, incarnation) = (Urgency::ALL[urgency], Incarnation(incarnation));
                Body::Get(Get { deadline_ms, urgency, incarnation, entries })
            }),
        proptest::collection::vec(put_entry, 0..20).prop_map(|entries| Body::PutDone(PutDone { entries })),
        keys().prop_map(Body::Contains),
        keys().prop_map(Body::Remove),
        proptest::collection::vec(any::<u8>().prop_map(TierBits), 0..20).prop_map(Body::ContainsReply),
        proptest::collection::vec(any_status(), 0..20)
            .prop_map(|statuses| Body::RemoveReply(RemoveReply { statuses })),
        Just(Body::Cancel),
        ((0..GoodbyeReason::ALL.len()), ".{0,80}")
            .prop_map(|(index, text)| Body::Goodbye(Goodbye::new(GoodbyeReason::ALL[index], &text))),
    ]
}

fn any_frame() -> impl Strategy<Value = (Body, u32)> {
    let small = any_small().prop_map(|body| (body, 0));
    prop_oneof![any_get_block(), any_put_block(), any_copy_block(), small]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn what_is_encoded_is_decoded((body, payload_len) in any_frame(), request_id: u64) {
        let bytes = encode(request_id, &body, payload_len);
        let (header, decoded) = decode(&bytes).expect("an encoded frame decodes");
        prop_assert_eq!((header.request_id, header.payload_len), (request_id, payload_len));
        prop_assert_eq!(decoded, body);
    }

    #[test]
    fn a_mutated_frame_is_refused_by_its_checksums((body, payload_len) in any_frame(), at: prop::sample::Index, flip in 1..=255_u8) {
        let mut bytes = encode(1, &body, payload_len);
        let at = at.index(bytes.len());
        bytes[at] ^= flip;
        prop_assert!(decode(&bytes).is_err());
    }

    /// What passes the checksums is either refused by name, or a frame that encodes to the same bytes:
    /// there is one way only to say a thing.
    #[test]
    fn a_mutated_and_resealed_frame_is_refused_or_canonical(
        (body, payload_len) in any_frame(),
        edits in proptest::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..8),
        cut: prop::sample::Index,
        cuts: bool,
    ) {
        let mut bytes = encode(1, &body, payload_len);
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if cuts {
            bytes.truncate(FRAME_HEADER_BYTES + cut.index(bytes.len() - FRAME_HEADER_BYTES + 1));
        }
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        let body_len = (bytes.len() - FRAME_HEADER_BYTES) as u32;
        bytes[16..20].copy_from_slice(&body_len.to_le_bytes());
        reseal(&mut bytes);
        if let Ok((header, decoded)) = decode(&bytes) {
            prop_assert_eq!(encode(header.request_id, &decoded, header.payload_len), bytes);
        }
    }

    #[test]
    fn any_bytes_are_a_frame_or_a_typed_refusal(bytes in proptest::collection::vec(any::<u8>(), FRAME_HEADER_BYTES..512)) {
        let _judged = decode(&bytes);
        let mut bytes = bytes;
        bytes[0..4].copy_from_slice(&MAGIC.to_le_bytes());
        bytes[4..6].copy_from_slice(&VERSION.to_le_bytes());
        bytes[6] = 1 + bytes[6] % FrameKind::ALL.len() as u8;
        bytes[7] = 0;
        let body_len = (bytes.len() - FRAME_HEADER_BYTES) as u32;
        bytes[16..20].copy_from_slice(&body_len.to_le_bytes());
        reseal(&mut bytes);
        if let Ok((header, decoded)) = decode(&bytes) {
            prop_assert_eq!(encode(header.request_id, &decoded, header.payload_len), bytes);
        }
    }
}
