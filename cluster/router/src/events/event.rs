//! Makes events of their fields.
//!
//! Owns what the values mean: media, localities, hashes. What cannot be understood is left out for a reason.

use hearth_proto::Tier;
use hearth_proto::limits::{EVENT_BLOCKS_MAX, PREFIX_HASH_BYTES_MAX, PREFIX_HASH_BYTES_MIN};

use super::decode::Options;
use super::fields::{Field, Fields, Tag};
use super::reader::{Fault, Head, Reader};
use super::{DropReason, Event, Removed, SpecKind, Stored, Tokens};

/// Makes an event of its fields, or says why not.
pub(super) fn event(fields: &Fields<'_>, options: Options) -> Result<Event, DropReason> {
    match fields.tag {
        Tag::Stored => stored(fields, options).map(Event::Stored),
        Tag::Removed => removed(fields).map(Event::Removed),
        Tag::Cleared => is_own(fields).map(|()| Event::Cleared),
        Tag::Unknown => Err(DropReason::UnknownType),
        Tag::Missing => Err(DropReason::Malformed),
    }
}

fn stored(fields: &Fields<'_>, options: Options) -> Result<Stored, DropReason> {
    let tier = tier(fields)?;
    let mut token_ids = fields.of(Field::TokenIds).ok_or(DropReason::Malformed)?;
    let tokens = options.keep_tokens.then(|| tokens(token_ids)).transpose()?;
    // SGLang has had other things in this position.
    let lora_name = text(fields, Field::LoraName).unwrap_or(None);
    Ok(Stored {
        has_extra_keys: has_extra_keys(fields, lora_name.as_deref())?,
        hashes: hashes(fields)?,
        parent: fields.of(Field::Parent).map(|mut value| hash(&mut value)).transpose()?,
        block_tokens: number(fields, Field::BlockTokens)?.ok_or(DropReason::Malformed)?,
        token_count: u32::try_from(token_ids.array()?).map_err(|_| DropReason::Malformed)?,
        tokens,
        tier,
        lora_name,
        group: number(fields, Field::Group)?,
        spec_kind: fields
            .of(Field::SpecKind)
            .map(|mut value| value.text().map(SpecKind::from_wire))
            .transpose()?,
        window_tokens: number(fields, Field::Window)?,
        session: text(fields, Field::Session)?,
    })
}

/// Whether there are keys of a block besides the name of its adapter. What they are does not matter, nor whether they
/// are understood.
///
/// *Source*: `generate_block_hash_extra_keys` of vLLM: a list with nothing or a list of keys for each block. SGLang has
/// text in the place.
fn has_extra_keys(fields: &Fields<'_>, lora_name: Option<&str>) -> Result<bool, Fault> {
    let Some(mut value) = fields.of(Field::ExtraKeys) else { return Ok(false) };
    let Head::Array(blocks) = value.head()? else { return Ok(true) };
    for _ in 0..blocks {
        let mut keys = value.value()?;
        let count = match keys.head()? {
            Head::Nil => 0,
            Head::Array(count) => count,
            _ => return Ok(true),
        };
        for _ in 0..count {
            let is_lora =
                keys.value()?.text().is_ok_and(|key| lora_name.is_some_and(|name| key == name.as_bytes()));
            if !is_lora {
                return Ok(true);
            }
        }
    }
    Ok(false)
}

fn removed(fields: &Fields<'_>) -> Result<Removed, DropReason> {
    let tier = tier(fields)?;
    let mut hashes = hashes(fields)?;
    if let Some(mut copies) = fields.of(Field::CopiesLeft) {
        if copies.array()? != hashes.len() {
            return Err(DropReason::Malformed);
        }
        let mut kept = 0;
        for at in 0..hashes.len() {
            if copies.uint32()? == 0 {
                hashes[kept] = hashes[at];
                kept += 1;
            }
        }
        hashes.truncate(kept);
    }
    Ok(Removed { hashes, tier, group: number(fields, Field::Group)? })
}

/// Whether an event is about blocks that the engine has for itself and by itself. What is not said is meant to be so.
fn is_own(fields: &Fields<'_>) -> Result<(), DropReason> {
    if let Some(mut locality) = fields.of(Field::Locality)
        && locality.text()? != b"LOCAL"
    {
        return Err(DropReason::Remote);
    }
    match fields.of(Field::Ownership) {
        Some(_) => Err(DropReason::Owned),
        None => Ok(()),
    }
}

/// The tier of an event's medium.
///
/// *Source*: the media of vLLM and SGLang, and `StorageTier::from_kv_medium` of Dynamo 1.6.1. That takes a medium it
/// does not know for the accelerator's memory; here such an event is left out.
fn tier(fields: &Fields<'_>) -> Result<Tier, DropReason> {
    is_own(fields)?;
    let Some(mut medium) = fields.of(Field::Medium) else { return Ok(Tier::Gpu) };
    let medium = medium.text()?;
    if medium.is_empty() {
        return Ok(Tier::Gpu);
    }
    let is_one_of = |names: &[&str]| names.iter().any(|name| medium.eq_ignore_ascii_case(name.as_bytes()));
    if is_one_of(&["GPU", "DEVICE"]) {
        Ok(Tier::Gpu)
    } else if is_one_of(&["CPU", "CPU_PINNED", "CPU_TIER1"]) {
        Ok(Tier::Host)
    } else if is_one_of(&["DISK", "NVME", "STORAGE", "FS", "CPU_TIER2"]) {
        Ok(Tier::Nvme)
    } else if is_one_of(&["EXTERNAL", "NETWORK", "REMOTE", "SHARED", "OBJ"]) {
        Err(DropReason::Remote)
    } else {
        Err(DropReason::UnknownMedium)
    }
}

fn hashes(fields: &Fields<'_>) -> Result<Vec<u64>, DropReason> {
    let mut value = fields.of(Field::Hashes).ok_or(DropReason::Malformed)?;
    let count = value.array()?;
    if count > EVENT_BLOCKS_MAX {
        return Err(DropReason::TooManyBlocks);
    }
    let mut hashes = Vec::with_capacity(count);
    for _ in 0..count {
        hashes.push(hash(&mut value)?);
    }
    Ok(hashes)
}

/// Reads one hash. See [`decode`](super::decode).
#[inline]
fn hash(value: &mut Reader<'_>) -> Result<u64, Fault> {
    let at = value.at();
    match value.head()? {
        Head::Uint(hash) => Ok(hash),
        Head::Negative(hash) => Ok(hash.cast_unsigned()),
        Head::Binary(len) if (PREFIX_HASH_BYTES_MIN..=PREFIX_HASH_BYTES_MAX).contains(&len) => {
            let low = value.take(len)?.last_chunk().ok_or(Fault::Unexpected { at })?;
            Ok(u64::from_be_bytes(*low))
        }
        _ => Err(Fault::Unexpected { at }),
    }
}

fn tokens(mut value: Reader<'_>) -> Result<Tokens, DropReason> {
    let count = value.array()?;
    let mut first = value;
    let is_bigram = count > 0 && matches!(first.head()?, Head::Array(_));
    let mut ids = Vec::with_capacity(count + usize::from(is_bigram));
    let mut last = None;
    for _ in 0..count {
        if is_bigram {
            if value.array()? != 2 {
                return Err(DropReason::Malformed);
            }
            ids.push(value.uint32()?);
            last = Some(value.uint32()?);
        } else {
            ids.push(value.uint32()?);
        }
    }
    ids.extend(last);
    Ok(Tokens { ids, is_bigram })
}

fn number(fields: &Fields<'_>, field: Field) -> Result<Option<u32>, Fault> {
    fields.of(field).map(|mut value| value.uint32()).transpose()
}

fn text(fields: &Fields<'_>, field: Field) -> Result<Option<Box<str>>, DropReason> {
    let Some(mut value) = fields.of(field) else { return Ok(None) };
    let text = str::from_utf8(value.text()?).map_err(|_| DropReason::Malformed)?;
    Ok(Some(text.into()))
}

impl From<Fault> for DropReason {
    /// Where in the event it is does not matter: the whole of it is left out.
    fn from(_: Fault) -> Self {
        Self::Malformed
    }
}
