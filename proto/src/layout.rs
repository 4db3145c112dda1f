//! What makes the bytes of two blocks interchangeable.

use std::fmt;
use std::str::FromStr;

use crate::hex;
use crate::ids::IdError;

/// Digest of a [`Layout`] in canonical form: equal digests mean interchangeable bytes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LayoutId(pub [u8; 32]);

impl fmt::Display for LayoutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0))
    }
}

impl fmt::Debug for LayoutId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..8]))
    }
}

impl FromStr for LayoutId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        hex::decode_array(text)
            .map(Self)
            .ok_or_else(|| IdError::new("a layout id", "64 hexadecimal digits", text))
    }
}

/// All that must agree before the bytes of one engine may be given to another.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Layout {
    /// Name of the model, as the engine was told.
    pub model: String,
    /// Revision of the weights; empty if the engine has none.
    pub revision: String,
    /// Element type of the cache, such as `bf16` or `fp8_e4m3`.
    pub dtype: String,
    /// Tokens in one block.
    pub block_tokens: u32,
    /// This worker's rank and the number of ranks, tensor-parallel.
    pub tensor_parallel: (u32, u32),
    /// This worker's rank and the number of ranks, pipeline-parallel.
    pub pipeline_parallel: (u32, u32),
    /// Shape of a block's bytes, outermost first, such as layers, K and V, tokens, heads, head size.
    pub shape: Vec<u64>,
    /// Order of the page, such as `page_first` or `layer_first`.
    pub page_order: String,
}

impl Layout {
    /// The digest of the canonical form: every field in order, each text and list preceded by its
    /// length as 64-bit little-endian.
    pub fn id(&self) -> LayoutId {
        let mut hasher = blake3::Hasher::new_derive_key("hearth.v1 layout");
        for text in [&self.model, &self.revision, &self.dtype, &self.page_order] {
            hasher.update(&(text.len() as u64).to_le_bytes());
            hasher.update(text.as_bytes());
        }
        for number in [
            self.block_tokens,
            self.tensor_parallel.0,
            self.tensor_parallel.1,
            self.pipeline_parallel.0,
            self.pipeline_parallel.1,
        ] {
            hasher.update(&number.to_le_bytes());
        }
        hasher.update(&(self.shape.len() as u64).to_le_bytes());
        for extent in &self.shape {
            hasher.update(&extent.to_le_bytes());
        }
        LayoutId(*hasher.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn layout() -> Layout {
        Layout {
            model: "m".into(),
            revision: String::new(),
            dtype: "bf16".into(),
            block_tokens: 64,
            tensor_parallel: (0, 1),
            pipeline_parallel: (0, 1),
            shape: vec![32, 2, 64, 8, 128],
            page_order: "page_first".into(),
        }
    }

    #[test]
    fn every_field_changes_the_id() {
        let base = layout();
        let changed: Vec<Layout> = vec![
            Layout { model: "n".into(), ..base.clone() },
            Layout { revision: "1".into(), ..base.clone() },
            Layout { dtype: "fp8".into(), ..base.clone() },
            Layout { block_tokens: 32, ..base.clone() },
            Layout { tensor_parallel: (1, 2), ..base.clone() },
            Layout { pipeline_parallel: (1, 2), ..base.clone() },
            Layout { shape: vec![32, 2, 64, 8, 64], ..base.clone() },
            Layout { page_order: "layer_first".into(), ..base.clone() },
            Layout { model: String::new(), revision: "m".into(), ..base.clone() },
        ];
        for other in changed {
            assert_ne!(other.id(), base.id(), "{other:?}");
        }
    }
}
