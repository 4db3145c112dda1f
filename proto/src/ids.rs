//! Identifiers and counters, each a type of its own so that none can stand in for another.

use std::fmt;
use std::str::FromStr;

use crate::hex;

/// A text that should have been an identifier and is not.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{what} must be {expected}, got {given:?}")]
pub struct IdError {
    /// The kind of identifier that was expected.
    pub what: &'static str,
    /// The form it must have.
    pub expected: &'static str,
    /// What was given, cut to a printable length.
    pub given: String,
}

impl IdError {
    pub(crate) fn new(what: &'static str, expected: &'static str, given: &str) -> Self {
        Self { what, expected, given: given.chars().take(96).collect() }
    }
}

macro_rules! counter {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash,
            serde::Serialize, serde::Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

counter! {
    /// A member of the cluster, given once by the control group and never reused. Zero is no node.
    NodeId(u64)
}
counter! {
    /// The number that the control group gives a node each time it registers; fences all it said before.
    Incarnation(u64)
}
counter! {
    /// One Raft group: 0 is control, 1.. hold the directory.
    GroupId(u32)
}
counter! {
    /// The number of one write of one slot, unique within a store for ever; fences a late read.
    Generation(u64)
}
counter! {
    /// A tenant. Derived from the caller's identity, never taken from a request.
    NamespaceId(u32)
}
counter! {
    /// A position in the log of one Raft group.
    LogIndex(u64)
}

impl GroupId {
    /// The control group: nodes, namespaces, policies.
    pub const CONTROL: Self = Self(0);
    /// The first directory group.
    pub const DIRECTORY: Self = Self(1);
}

impl NamespaceId {
    /// The namespace of callers without an identity of their own.
    pub const DEFAULT: Self = Self(0);
}

/// The identity of a cluster: 16 random bytes, fixed when the first node founds it.
///
/// Written as 32 hexadecimal digits.
#[derive(
    Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize,
)]
#[serde(try_from = "String", into = "String")]
pub struct ClusterId(pub [u8; 16]);

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for ClusterId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        hex::decode_array(text)
            .map(Self)
            .ok_or_else(|| IdError::new("a cluster id", "32 hexadecimal digits", text))
    }
}

impl TryFrom<String> for ClusterId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<ClusterId> for String {
    fn from(id: ClusterId) -> Self {
        id.to_string()
    }
}

impl TryFrom<&[u8]> for ClusterId {
    type Error = IdError;

    fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
        bytes.try_into().map(Self).map_err(|_| IdError::new("a cluster id", "16 bytes", &hex::encode(bytes)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cluster_id_survives_text_and_refuses_what_is_not_one() {
        let id = ClusterId([0xab; 16]);
        assert_eq!(id.to_string().parse::<ClusterId>(), Ok(id));
        for bad in ["", "ab", "zz", &"g".repeat(32), &"a".repeat(33)] {
            assert!(bad.parse::<ClusterId>().is_err(), "{bad} was accepted");
        }
    }
}
