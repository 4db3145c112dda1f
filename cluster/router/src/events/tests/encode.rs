//! Encodes batches as engines do, in every layout.

use hearth_proto::Tier;
use rmp::encode::*;

use super::super::fields::Tag;
use super::*;

/// How a batch is laid out.
#[derive(Clone, Copy, Debug)]
pub(super) struct Layout {
    pub(super) is_map_of_events: bool,
    pub(super) is_map_batch: bool,
    /// Hashes are binary, with these bytes before the last eight.
    pub(super) prefix: Option<usize>,
    /// Members and keys follow that nobody knows.
    pub(super) has_more: bool,
}

impl Layout {
    pub(super) const ARRAYS: Self =
        Self { is_map_of_events: false, is_map_batch: false, prefix: None, has_more: false };
    pub(super) const MAPS: Self = Self { is_map_of_events: true, ..Self::ARRAYS };
}

/// One value of an event, by its name.
type Member = (&'static str, Vec<u8>);

pub(super) fn batch(batch: &Batch, layout: Layout) -> Vec<u8> {
    let events: Vec<Vec<u8>> = batch.events.iter().map(|event| self::event(event, layout)).collect();
    let mut events_value = written(|to| write_array_len(to, batch.events.len() as u32));
    events_value.extend(events.concat());
    let rank = batch.dp_rank.map_or(nil(), |rank| uint(u64::from(rank)));
    let members = [
        ("ts", written(|to| write_f64(to, batch.ts_s))),
        ("events", events_value),
        ("data_parallel_rank", rank),
    ];
    laid_out(members.to_vec(), layout.is_map_batch, layout)
}

pub(super) fn event(event: &Event, layout: Layout) -> Vec<u8> {
    let (tag, members) = match event {
        Event::Stored(stored) => (Tag::Stored, self::stored(stored, layout)),
        Event::Removed(removed) => (Tag::Removed, self::removed(removed, layout)),
        Event::Cleared => (Tag::Cleared, Vec::new()),
    };
    let name = match tag {
        Tag::Stored => "BlockStored",
        Tag::Removed => "BlockRemoved",
        _ => "AllBlocksCleared",
    };
    let members = [vec![("type", text(name))], members].concat();
    // Behind a tag that has no more positions, more would be an owner.
    let has_more = layout.has_more && (layout.is_map_of_events || tag != Tag::Cleared);
    laid_out(members, layout.is_map_of_events, Layout { has_more, ..layout })
}

fn laid_out(members: Vec<Member>, is_map: bool, layout: Layout) -> Vec<u8> {
    let more = ("of_the_future", written(|to| write_ext_meta(to, 0, 5)));
    let members: Vec<Member> = members.into_iter().chain(layout.has_more.then_some(more)).collect();
    let len = members.len() as u32;
    let mut out = written(|to| if is_map { write_map_len(to, len) } else { write_array_len(to, len) });
    for (name, value) in members {
        if is_map {
            out.extend(text(name));
        }
        out.extend(value);
    }
    out
}

fn stored(stored: &Stored, layout: Layout) -> Vec<Member> {
    let ids = stored.tokens.as_ref().expect("it is encoded with its tokens");
    let mut tokens = written(|to| write_array_len(to, stored.token_count));
    if ids.is_bigram {
        for pair in ids.ids.windows(2) {
            tokens.extend(written(|to| write_array_len(to, 2)));
            pair.iter().for_each(|id| tokens.extend(uint(u64::from(*id))));
        }
    } else {
        ids.ids.iter().for_each(|id| tokens.extend(uint(u64::from(*id))));
    }
    let kind = stored.spec_kind.map(|kind| match kind {
        SpecKind::Full => "mla_attention",
        SpecKind::Windowed => "sliding_window",
        SpecKind::Recurrent => "mamba",
        SpecKind::Other => "cross_attention",
    });
    let optional = |value: Option<u32>| value.map_or(nil(), |value| uint(u64::from(value)));
    vec![
        ("block_hashes", hashes(&stored.hashes, layout)),
        ("parent_block_hash", stored.parent.map_or(nil(), |hash| self::hash(hash, layout))),
        ("token_ids", tokens),
        ("block_size", uint(u64::from(stored.block_tokens))),
        ("lora_id", text("a name of one process")),
        ("medium", medium(stored.tier)),
        ("lora_name", stored.lora_name.as_deref().map_or(nil(), text)),
        ("extra_keys", written(|to| write_array_len(to, 0))),
        ("group_idx", optional(stored.group)),
        ("kv_cache_spec_kind", kind.map_or(nil(), text)),
        ("kv_cache_spec_sliding_window", optional(stored.window_tokens)),
        ("locality", text("LOCAL")),
        ("ownership", nil()),
        ("session_id", stored.session.as_deref().map_or(nil(), text)),
    ]
}

fn removed(removed: &Removed, layout: Layout) -> Vec<Member> {
    let group = removed.group.map_or(nil(), |group| uint(u64::from(group)));
    let mut members = vec![
        ("block_hashes", hashes(&removed.hashes, layout)),
        ("medium", medium(removed.tier)),
        ("group_idx", group),
        ("locality", nil()),
        ("ownership", nil()),
    ];
    if layout.is_map_of_events {
        members.reverse();
    }
    members
}

fn hashes(hashes: &[u64], layout: Layout) -> Vec<u8> {
    let mut value = written(|to| write_array_len(to, hashes.len() as u32));
    hashes.iter().for_each(|hash| value.extend(self::hash(*hash, layout)));
    value
}

fn hash(hash: u64, layout: Layout) -> Vec<u8> {
    match layout.prefix {
        Some(len) => binary(&[&vec![0xab; len][..], &hash.to_be_bytes()].concat()),
        None if hash.is_multiple_of(2) => uint(hash),
        None => written(|to| write_sint(to, hash.cast_signed()).map(|_| ())),
    }
}

fn medium(tier: Tier) -> Vec<u8> {
    match tier {
        Tier::Gpu => nil(),
        Tier::Host => text("CPU_PINNED"),
        _ => text("STORAGE"),
    }
}

pub(super) fn written<Answer, Error: std::fmt::Debug>(
    write: impl FnOnce(&mut Vec<u8>) -> Result<Answer, Error>,
) -> Vec<u8> {
    let mut out = Vec::new();
    write(&mut out).expect("memory takes all");
    out
}

pub(super) fn nil() -> Vec<u8> {
    written(write_nil)
}

pub(super) fn text(text: &str) -> Vec<u8> {
    written(|to| write_str(to, text))
}

pub(super) fn uint(value: u64) -> Vec<u8> {
    written(|to| write_uint(to, value))
}

pub(super) fn binary(bytes: &[u8]) -> Vec<u8> {
    written(|to| write_bin(to, bytes))
}

/// An array of values that are encoded already.
pub(super) fn array(members: &[Vec<u8>]) -> Vec<u8> {
    [written(|to| write_array_len(to, members.len() as u32)), members.concat()].concat()
}

/// A map whose values are encoded already.
pub(super) fn map(members: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let pairs: Vec<u8> =
        members.iter().flat_map(|(key, value)| [text(key), value.clone()].concat()).collect();
    [written(|to| write_map_len(to, members.len() as u32)), pairs].concat()
}

/// A batch of events that are encoded already.
pub(super) fn batch_of(events: &[Vec<u8>]) -> Vec<u8> {
    array(&[written(|to| write_f64(to, 1.5)), array(events)])
}
