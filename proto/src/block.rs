//! What names a block: the engine's prefix hash, the block key, and the key within a namespace.

use std::fmt;
use std::str::FromStr;

use crate::hex;
use crate::ids::{IdError, NamespaceId};
use crate::layout::LayoutId;
use crate::limits::{PREFIX_HASH_BYTES_MAX, PREFIX_HASH_BYTES_MIN};
use crate::retention::Tier;

/// The engine's chained hash of all tokens up to the end of a block: opaque, 8 to 64 bytes.
#[derive(Clone, PartialEq, Eq, Hash)]
pub struct PrefixHash(Box<[u8]>);

impl PrefixHash {
    /// Takes the engine's bytes as they are.
    ///
    /// # Errors
    /// [`IdError`] if there are fewer than 8 or more than 64 bytes; the caller mends its hash setting.
    pub fn new(bytes: &[u8]) -> Result<Self, IdError> {
        if (PREFIX_HASH_BYTES_MIN..=PREFIX_HASH_BYTES_MAX).contains(&bytes.len()) {
            Ok(Self(bytes.into()))
        } else {
            Err(IdError::new("a prefix hash", "8 to 64 bytes", &hex::encode(bytes)))
        }
    }

    /// The engine's bytes.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Display for PrefixHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for PrefixHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for PrefixHash {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let expected = "16 to 128 hexadecimal digits (8 to 64 bytes)";
        let bytes = hex::decode(text).ok_or_else(|| IdError::new("a prefix hash", expected, text))?;
        Self::new(&bytes).map_err(|_| IdError::new("a prefix hash", expected, text))
    }
}

/// The digest that names a block: layout and prefix hash together. Used only inside a namespace.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockKey(pub [u8; 32]);

impl BlockKey {
    /// The key of the block that ends where `prefix` ends, stored in `layout`.
    pub fn derive(layout: LayoutId, prefix: &PrefixHash) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("hearth.v1 block key");
        hasher.update(&layout.0);
        hasher.update(prefix.as_bytes());
        Self(*hasher.finalize().as_bytes())
    }
}

impl fmt::Display for BlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for BlockKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..8]))
    }
}

impl FromStr for BlockKey {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        hex::decode_array(text)
            .map(Self)
            .ok_or_else(|| IdError::new("a block key", "64 hexadecimal digits", text))
    }
}

impl TryFrom<&[u8]> for BlockKey {
    type Error = IdError;

    fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
        bytes.try_into().map(Self).map_err(|_| IdError::new("a block key", "32 bytes", &hex::encode(bytes)))
    }
}

/// A block key within its namespace: the only name under which bytes are stored or found.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BlockId {
    /// The tenant that owns the block.
    pub namespace: NamespaceId,
    /// The block within the tenant.
    pub key: BlockKey,
}

/// One change of what a node holds: a replica came to a tier, or left it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockDelta {
    /// The block that came or went.
    pub id: BlockId,
    /// The tier of this node that it came to or left.
    pub tier: Tier,
    /// True when the replica is now readable there, false when it is about to be gone.
    pub added: bool,
    /// Length of the payload in bytes.
    pub payload_len: u32,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_key_depends_on_layout_and_prefix() {
        let hash = |byte| PrefixHash::new(&[byte; 32]).expect("32 bytes are a prefix hash");
        let key = BlockKey::derive(LayoutId([1; 32]), &hash(1));
        assert_eq!(key, BlockKey::derive(LayoutId([1; 32]), &hash(1)));
        assert_ne!(key, BlockKey::derive(LayoutId([2; 32]), &hash(1)));
        assert_ne!(key, BlockKey::derive(LayoutId([1; 32]), &hash(2)));
    }

    #[test]
    fn a_key_is_the_same_on_every_version() {
        let hash = PrefixHash::new(&[7; 8]).expect("8 bytes are a prefix hash");
        assert_eq!(
            BlockKey::derive(LayoutId([9; 32]), &hash).to_string(),
            "ed96c513f280de994fb306c5e9787ad5d062ddae04b380ceac9cd7519ae0e133"
        );
    }

    #[test]
    fn malformed_hashes_are_refused_with_the_mend() {
        for bad in ["", "00", "0011223344556g77", "001122334455667", &"00".repeat(65)] {
            let error = bad.parse::<PrefixHash>().expect_err("must be refused");
            assert!(error.to_string().contains("16 to 128 hexadecimal digits"), "{error}");
        }
    }
}
