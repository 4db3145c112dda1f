//! The fields of one event, wherever they lie in it.
//!
//! Owns the names and the positions of fields in every layout. An event is a map whose `type` is its tag, or an array
//! that begins with the tag; what is in either but unknown is stepped over.

use super::reader::{Fault, Head, Reader};

/// What an event is, by its tag.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tag {
    Stored,
    Removed,
    Cleared,
    /// There is a tag, but not one of those.
    Unknown,
    /// There is no tag.
    Missing,
}

/// What is read of events.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(super) enum Field {
    Hashes,
    Parent,
    TokenIds,
    BlockTokens,
    Medium,
    LoraName,
    ExtraKeys,
    Group,
    SpecKind,
    Window,
    Locality,
    Ownership,
    Session,
    CopiesLeft,
}

/// The last one.
const FIELDS: usize = Field::CopiesLeft as usize + 1;

/// Positions behind the tag. `lora_id`, which vLLM has given up and which is a name of one process in SGLang, is stepped
/// over. Older layouts end sooner.
///
/// *Source*: `BlockStored` of vLLM and SGLang, with `array_like`.
const STORED: &[Option<Field>] = &[
    Some(Field::Hashes),
    Some(Field::Parent),
    Some(Field::TokenIds),
    Some(Field::BlockTokens),
    None,
    Some(Field::Medium),
    Some(Field::LoraName),
    Some(Field::ExtraKeys),
    Some(Field::Group),
    Some(Field::SpecKind),
    Some(Field::Window),
    Some(Field::Locality),
    Some(Field::Ownership),
    Some(Field::Session),
];

/// The same for `BlockRemoved`.
const REMOVED: &[Option<Field>] = &[
    Some(Field::Hashes),
    Some(Field::Medium),
    Some(Field::Group),
    Some(Field::Locality),
    Some(Field::Ownership),
];

/// The same for `AllBlocksCleared`, as Dynamo has it.
const CLEARED: &[Option<Field>] = &[Some(Field::Ownership)];

/// See the module.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    pub(super) tag: Tag,
    values: [Option<Reader<'a>>; FIELDS],
}

impl<'a> Fields<'a> {
    /// Steps over an event and notes where its fields are.
    pub(super) fn read(reader: &mut Reader<'a>) -> Result<Self, Fault> {
        let mut fields = Self { tag: Tag::Missing, values: [None; FIELDS] };
        let mut event = *reader;
        match event.head()? {
            Head::Array(len) => fields.read_array(&mut event, len)?,
            Head::Map(len) => fields.read_map(&mut event, len)?,
            _ => {
                reader.value()?;
                return Ok(fields);
            }
        }
        *reader = event;
        Ok(fields)
    }

    /// A field; none if it is not there or nil.
    pub(super) fn of(&self, field: Field) -> Option<Reader<'a>> {
        self.values[field as usize].filter(|value| !value.is_nil())
    }

    fn read_array(&mut self, event: &mut Reader<'a>, len: usize) -> Result<(), Fault> {
        let Some(rest) = len.checked_sub(1) else { return Ok(()) };
        self.tag = Tag::from_value(event.value()?);
        let positions = match self.tag {
            Tag::Stored => STORED,
            Tag::Removed => REMOVED,
            Tag::Cleared => CLEARED,
            Tag::Unknown | Tag::Missing => &[],
        };
        for position in 0..rest {
            let value = event.value()?;
            if let Some(field) = positions.get(position).copied().flatten() {
                self.values[field as usize] = Some(value);
            }
        }
        Ok(())
    }

    fn read_map(&mut self, event: &mut Reader<'a>, len: usize) -> Result<(), Fault> {
        for _ in 0..len {
            let (mut key, value) = (event.value()?, event.value()?);
            match key.text() {
                Ok(b"type") => self.tag = Tag::from_value(value),
                Ok(name) => {
                    if let Some(field) = Field::from_name(name) {
                        self.values[field as usize] = Some(value);
                    }
                }
                Err(_) => {}
            }
        }
        Ok(())
    }
}

impl Tag {
    fn from_value(mut value: Reader<'_>) -> Self {
        match value.text() {
            Ok(b"BlockStored") => Self::Stored,
            Ok(b"BlockRemoved") => Self::Removed,
            Ok(b"AllBlocksCleared") => Self::Cleared,
            Ok(_) => Self::Unknown,
            Err(_) => Self::Missing,
        }
    }
}

impl Field {
    fn from_name(name: &[u8]) -> Option<Self> {
        Some(match name {
            b"block_hashes" => Self::Hashes,
            b"parent_block_hash" => Self::Parent,
            b"token_ids" => Self::TokenIds,
            b"block_size" => Self::BlockTokens,
            b"medium" => Self::Medium,
            b"lora_name" => Self::LoraName,
            b"extra_keys" => Self::ExtraKeys,
            b"group_idx" => Self::Group,
            b"kv_cache_spec_kind" => Self::SpecKind,
            b"kv_cache_spec_sliding_window" => Self::Window,
            b"locality" => Self::Locality,
            b"ownership" => Self::Ownership,
            b"session_id" => Self::Session,
            b"remaining_copy_counts" => Self::CopiesLeft,
            _ => return None,
        })
    }
}
