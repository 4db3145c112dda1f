//! Any bytes, and anything encoded in any layout.

use hearth_proto::Tier;
use proptest::prelude::*;

use super::encode::{Layout, batch_of};
use super::*;

/// Bytes of memory that a batch keeps for each byte of its payload, at the most: an event takes at least 15 bytes, a
/// hash one, a token one, and a list of events may be half empty.
const KEPT_MAX: usize = 2 * size_of::<Event>() / 15 + 8 + 4;

/// Bytes of memory that a batch keeps.
fn kept(batch: &Batch) -> usize {
    let of_event = |event: &Event| match event {
        Event::Stored(stored) => {
            let tokens = stored.tokens.as_ref().map_or(0, |tokens| 4 * tokens.ids.capacity());
            let texts = [&stored.lora_name, &stored.session].into_iter().flatten();
            8 * stored.hashes.capacity() + tokens + texts.map(|text| text.len()).sum::<usize>()
        }
        Event::Removed(removed) => 8 * removed.hashes.capacity(),
        Event::Cleared => 0,
    };
    size_of::<Event>() * batch.events.capacity() + batch.events.iter().map(of_event).sum::<usize>()
}

fn event() -> impl Strategy<Value = Event> {
    let tier = prop_oneof![Just(Tier::Gpu), Just(Tier::Host), Just(Tier::Nvme)];
    let kind = prop_oneof![
        Just(SpecKind::Full),
        Just(SpecKind::Windowed),
        Just(SpecKind::Recurrent),
        Just(SpecKind::Other)
    ];
    let hashes = prop::collection::vec(any::<u64>(), 0..20);
    let words = (prop::option::of(".{0,9}"), prop::option::of("[a-z]{0,40}"));
    let numbers = (any::<Option<u64>>(), any::<u32>(), any::<Option<u32>>(), any::<Option<u32>>());
    let tokens = (prop::collection::vec(any::<u32>(), 0..40), any::<bool>());
    let parts = (hashes, tier, words, numbers, tokens, prop::option::of(kind), 0..8_u8);
    parts.prop_map(
        |(hashes, tier, words, (parent, block_tokens, group, window_tokens), tokens, spec_kind, which)| {
            let (ids, is_bigram) = tokens;
            // As few as one token are no pair.
            let is_bigram = is_bigram && ids.len() > 1;
            match which {
                0 => Event::Cleared,
                1..=3 => Event::Removed(Removed { hashes, tier, group }),
                _ => Event::Stored(Stored {
                    hashes,
                    parent,
                    block_tokens,
                    token_count: (ids.len() - usize::from(is_bigram)) as u32,
                    tokens: Some(Tokens { ids, is_bigram }),
                    tier,
                    lora_name: words.0.map(Into::into),
                    has_extra_keys: false,
                    group,
                    spec_kind,
                    window_tokens,
                    session: words.1.map(Into::into),
                }),
            }
        },
    )
}

fn batch() -> impl Strategy<Value = Batch> {
    let parts = (-1e12..1e12_f64, any::<Option<u32>>(), prop::collection::vec(event(), 0..20));
    parts.prop_map(|(ts_s, dp_rank, events)| Batch { ts_s, dp_rank, events, dropped: Dropped::default() })
}

fn layout() -> impl Strategy<Value = Layout> {
    let parts = (any::<bool>(), any::<bool>(), prop::option::of(0..57_usize), any::<bool>());
    parts.prop_map(|(is_map_of_events, is_map_batch, prefix, has_more)| Layout {
        is_map_of_events,
        is_map_batch,
        prefix,
        has_more,
    })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: if cfg!(miri) { 4 } else { 256 }, ..ProptestConfig::default() })]

    #[test]
    fn what_is_encoded_is_read(batch in batch(), layout in layout()) {
        let payload = encode::batch(&batch, layout);
        prop_assert_eq!(decode(&payload, Options { keep_tokens: true }), Ok(batch.clone()));
        let skipped = decode(&payload, Options::default()).expect("it was read before");
        let mut expected = batch;
        for event in &mut expected.events {
            if let Event::Stored(stored) = event {
                stored.tokens = None;
            }
        }
        prop_assert_eq!(skipped, expected);
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes in prop::collection::vec(any::<u8>(), 0..400), keep_tokens: bool) {
        // As they are, and where events are expected.
        for payload in [bytes.clone(), batch_of(std::slice::from_ref(&bytes))] {
            match decode(&payload, Options { keep_tokens }) {
                Ok(batch) => prop_assert!(kept(&batch) <= KEPT_MAX * payload.len() + 4 * size_of::<Event>()),
                Err(
                    DecodeError::Truncated { at }
                    | DecodeError::Reserved { at }
                    | DecodeError::Unexpected { at, .. }
                    | DecodeError::Trailing { at },
                ) => prop_assert!(at <= payload.len()),
                Err(error) => prop_assert!(false, "{}", error),
            }
        }
    }

    #[test]
    fn a_damaged_batch_is_read_or_refused(
        batch in batch(),
        layout in layout(),
        damage in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut payload = encode::batch(&batch, layout);
        for (at, byte) in damage {
            let at = at.index(payload.len());
            payload[at] = byte;
        }
        if let Some(cut) = cut {
            payload.truncate(cut.index(payload.len()));
        }
        if let Ok(batch) = decode(&payload, Options { keep_tokens: true }) {
            prop_assert!(kept(&batch) <= KEPT_MAX * payload.len() + 4 * size_of::<Event>());
        }
    }

    #[test]
    fn what_is_cut_off_is_noticed(batch in batch(), layout in layout(), cut in any::<prop::sample::Index>()) {
        let payload = encode::batch(&batch, layout);
        let cut = &payload[..cut.index(payload.len())];
        let is_truncated = matches!(decode(cut, Options::default()), Err(DecodeError::Truncated { .. }));
        prop_assert!(is_truncated);
    }
}

#[test]
fn depth_costs_nothing() {
    // Arrays in arrays, and maps in maps: recursion would have no stack for so many.
    for nest in [&[0x91_u8][..], &[0x81, 0xc0]] {
        let levels = if cfg!(miri) { 10_000 } else { 1 << 22 };
        let deep = [nest.repeat(levels), vec![0xc0]].concat();
        let batch = decode(&batch_of(&[deep]), Options::default()).expect("it is whole");
        assert_eq!((batch.events.len(), batch.dropped.of(DropReason::Malformed)), (0, 1));
    }
}

#[test]
fn lists_take_what_they_hold() {
    let layout = Layout::ARRAYS;
    let stored = Event::Removed(Removed { hashes: vec![0; 100_000], tier: Tier::Gpu, group: None });
    let payload = batch_of(&[encode::event(&stored, layout), encode::event(&stored, Layout::MAPS)]);
    let batch = decode(&payload, Options::default()).expect("it is whole");
    assert!(kept(&batch) <= 8 * payload.len() + 4 * size_of::<Event>());
}
