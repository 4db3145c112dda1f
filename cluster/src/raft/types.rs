//! The types that openraft is instantiated with.
// The macro names openraft's own runtime through a path that is marked as moving.
#![allow(deprecated)]

use std::cell::RefCell;
use std::fmt;

use bytes::Bytes;
use hearth_proto::v1;
use prost::Message;
use serde::de::{DeserializeOwned, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Commands from this size on share the memory of the message that they came in.
const SHARED_BYTES_MIN: usize = 16 << 10;

openraft::declare_raft_types!(
    /// One configuration serves every group: what differs is the state machine.
    pub(crate) TypeConfig:
        D = Proposal,
        R = Reply,
        NodeId = u64,
        Node = openraft::impls::BasicNode,
);

pub(crate) type LogId = openraft::alias::LogIdOf<TypeConfig>;
pub(crate) type Vote = openraft::alias::VoteOf<TypeConfig>;
pub(crate) type Entry = openraft::alias::EntryOf<TypeConfig>;
pub(crate) type StoredMembership = openraft::alias::StoredMembershipOf<TypeConfig>;
pub(crate) type SnapshotMeta = openraft::alias::SnapshotMetaOf<TypeConfig>;

/// A command as the log carries it, decoded when it is applied.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proposal {
    /// The leader's time, which stands for that in the command.
    pub(crate) stamp_ms: u64,
    pub(crate) command: CommandBytes,
}

/// The bytes of a [`v1::Command`], as they came.
#[derive(Clone, PartialEq, Eq)]
pub(crate) struct CommandBytes(pub(crate) Bytes);

/// What a command did, for whoever waits for it.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Reply(pub(crate) v1::Outcome);

impl fmt::Debug for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Proposal({} bytes)", self.command.0.len())
    }
}

impl fmt::Display for Proposal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

impl Serialize for CommandBytes {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for CommandBytes {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_bytes(BytesVisitor).map(Self)
    }
}

impl Serialize for Reply {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.0.encode_to_vec())
    }
}

impl<'de> Deserialize<'de> for Reply {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let bytes = deserializer.deserialize_bytes(BytesVisitor)?;
        v1::Outcome::decode(bytes).map(Self).map_err(serde::de::Error::custom)
    }
}

thread_local! {
    /// The message that is being decoded on this thread, if its memory may be kept.
    static SOURCE: RefCell<Option<Bytes>> = const { RefCell::new(None) };
}

/// Decodes a message whose large commands go on sharing its memory instead of being copied out of it.
pub(super) fn decode_shared<T: DeserializeOwned>(message: &Bytes) -> postcard::Result<T> {
    SOURCE.set(Some(message.clone()));
    let decoded = postcard::from_bytes(message);
    SOURCE.set(None);
    decoded
}

/// The same bytes as a part of the message that is being decoded.
fn shared(bytes: &[u8]) -> Option<Bytes> {
    // A small one must not keep a large message.
    if bytes.len() < SHARED_BYTES_MIN {
        return None;
    }
    SOURCE.with_borrow(|source| {
        let source = source.as_ref()?;
        let (whole, part) = (source.as_ptr_range(), bytes.as_ptr_range());
        (whole.start <= part.start && part.end <= whole.end).then(|| source.slice_ref(bytes))
    })
}

struct BytesVisitor;

impl Visitor<'_> for BytesVisitor {
    type Value = Bytes;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("bytes")
    }

    fn visit_borrowed_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
        Ok(shared(bytes).unwrap_or_else(|| Bytes::copy_from_slice(bytes)))
    }

    fn visit_bytes<E>(self, bytes: &[u8]) -> Result<Bytes, E> {
        Ok(Bytes::copy_from_slice(bytes))
    }

    fn visit_byte_buf<E>(self, bytes: Vec<u8>) -> Result<Bytes, E> {
        Ok(bytes.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_large_command_shares_the_memory_of_its_message_and_a_small_one_does_not() {
        for (size, shares) in [(SHARED_BYTES_MIN, true), (SHARED_BYTES_MIN - 1, false)] {
            let proposal = Proposal { stamp_ms: 7, command: CommandBytes(vec![3; size].into()) };
            let message: Bytes = postcard::to_stdvec(&proposal).unwrap().into();
            let decoded: Proposal = decode_shared(&message).unwrap();
            assert!(decoded == proposal);
            assert_eq!(message.as_ptr_range().contains(&decoded.command.0.as_ptr()), shares);
            let copied: Proposal = postcard::from_bytes(&message).unwrap();
            assert!(!message.as_ptr_range().contains(&copied.command.0.as_ptr()));
        }
    }
}
