//! What is to be placed.

use hearth_proto::Urgency;
use hearth_proto::limits::{PLACEMENT_BLOCK_BYTES_MAX, PLACEMENT_TOKENS_MAX};

use super::range::{RangeError, check_count};
use super::worker::WorkerId;

/// The size of a prompt, in its worker's blocks.
///
/// *Invariants*: at least one token, and one in each block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Prompt {
    tokens: u32,
    block_tokens: u32,
    block_bytes: u64,
}

/// A prompt and what its caller wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Request {
    /// The prompt.
    pub prompt: Prompt,
    /// Work that is less urgent does not delay it.
    pub urgency: Urgency,
    /// Tokens that are expected to be generated; `None` when nobody says.
    pub output_tokens: Option<u32>,
    /// The worker that had the session last.
    pub preferred: Option<WorkerId>,
    /// What stands for the session, or without one the hash of the chain's first block. Among workers that are as good
    /// it decides: equal numbers lead to equal workers, different ones spread.
    pub spread: u64,
    /// What chance is drawn from, if the settings leave anything to it.
    pub seed: u64,
}

impl Prompt {
    /// Checks the sizes.
    ///
    /// *Units*: tokens, tokens in a block, bytes of a block in all ranks of a worker together.
    ///
    /// # Errors
    /// [`RangeError`] if one is zero, or beyond [`PLACEMENT_TOKENS_MAX`] or [`PLACEMENT_BLOCK_BYTES_MAX`]; the caller
    /// mends it.
    pub fn new(tokens: u32, block_tokens: u32, block_bytes: u64) -> Result<Self, RangeError> {
        let max = u64::from(PLACEMENT_TOKENS_MAX);
        check_count("tokens of a prompt", u64::from(tokens), 1, max)?;
        check_count("tokens in a block", u64::from(block_tokens), 1, max)?;
        check_count("bytes of a block", block_bytes, 1, PLACEMENT_BLOCK_BYTES_MAX)?;
        Ok(Self { tokens, block_tokens, block_bytes })
    }

    /// Tokens.
    pub const fn tokens(self) -> u32 {
        self.tokens
    }

    /// Tokens in one block.
    pub const fn block_tokens(self) -> u32 {
        self.block_tokens
    }

    /// Bytes of one block.
    pub const fn block_bytes(self) -> u64 {
        self.block_bytes
    }

    /// Blocks that help if they are held. The last token is always computed, since its result is what the first new one
    /// is drawn from, and engines compute the whole block that it is in.
    pub const fn useful_blocks(self) -> u32 {
        (self.tokens - 1) / self.block_tokens
    }

    /// Tokens of so many blocks, of which there are no more than the useful ones.
    pub(super) fn tokens_of(self, blocks: u32) -> u32 {
        debug_assert!(blocks <= self.useful_blocks());
        blocks * self.block_tokens
    }

    /// Blocks that prompt and output take up.
    pub fn blocks_with(self, output_tokens: u32) -> u32 {
        let tokens = u64::from(self.tokens) + u64::from(output_tokens);
        // Both fit into 32 bits with one bit to spare, once the output is no longer than a prompt may be.
        tokens.div_ceil(u64::from(self.block_tokens)).min(u64::from(u32::MAX)) as u32
    }
}

impl Request {
    /// A request like any other, of which nothing is known but its prompt.
    pub const fn new(prompt: Prompt) -> Self {
        Self { prompt, urgency: Urgency::Normal, output_tokens: None, preferred: None, spread: 0, seed: 0 }
    }
}
