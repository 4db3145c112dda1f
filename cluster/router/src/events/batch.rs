//! What one batch says, once it is read.

use hearth_proto::Tier;

use super::Dropped;

/// What an engine published at once: its changes in order.
#[derive(Clone, Debug, PartialEq)]
pub struct Batch {
    /// When the engine made it, by its own clock.
    ///
    /// *Units*: seconds since 1970.
    pub ts_s: f64,
    /// Which data-parallel rank made it, if it says so.
    pub dp_rank: Option<u32>,
    /// The changes that were understood, in order.
    pub events: Vec<Event>,
    /// The others, counted.
    pub dropped: Dropped,
}

/// One change of what an engine holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// It holds these blocks now.
    Stored(Stored),
    /// It no longer holds these.
    Removed(Removed),
    /// It holds nothing any more in the memory of its accelerator. vLLM says so of that tier alone: blocks that it
    /// has offloaded are removed one by one.
    Cleared,
}

/// Blocks that an engine holds from now on, one after the other in a chain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The hashes, in the order of the chain; each stands for all before it. See [`decode`](super::decode) about
    /// hashes that are longer.
    pub hashes: Vec<u64>,
    /// The block before the first of them; none if that begins the chain, or if the engine does not say.
    pub parent: Option<u64>,
    /// Tokens of one block; 0 where vLLM names an offloaded block by its hash alone.
    pub block_tokens: u32,
    /// How many tokens, or pairs of them, the event lists. Not always that of the blocks: a sliding window names its
    /// last blocks and lists all tokens.
    pub token_count: u32,
    /// The tokens, if the caller wanted them.
    pub tokens: Option<Tokens>,
    /// Where the blocks are.
    pub tier: Tier,
    /// The adapter that they were computed with.
    pub lora_name: Option<Box<str>>,
    /// Whether more than tokens and adapter went into the hashes, such as images or a salt: then the tokens alone do
    /// not say which blocks these are.
    pub has_extra_keys: bool,
    /// Which of the engine's groups of layers they belong to.
    pub group: Option<u32>,
    /// What kind of layers those are.
    pub spec_kind: Option<SpecKind>,
    /// How many tokens back those look.
    pub window_tokens: Option<u32>,
    /// The session that the engine computed them for.
    pub session: Option<Box<str>>,
}

/// Blocks that an engine no longer holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Removed {
    /// Their hashes, without those of which the engine says that it has other copies in that tier.
    pub hashes: Vec<u64>,
    /// Where they were.
    pub tier: Tier,
    /// Which of the engine's groups of layers they belong to.
    pub group: Option<u32>,
}

/// The tokens of stored blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tokens {
    /// The tokens in order.
    pub ids: Vec<u32>,
    /// Whether the engine hashes pairs of neighbours, as SGLang does for EAGLE: then there is one token more than it
    /// listed pairs.
    pub is_bigram: bool,
}

/// What the layers of a group keep of the tokens before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum SpecKind {
    /// All of them: only of such groups does a block stand for a prefix that can be used.
    Full,
    /// The last ones: a window, or a chunk.
    Windowed,
    /// A state that stands for all.
    Recurrent,
    /// Something else, perhaps of the future.
    Other,
}

impl SpecKind {
    /// Reads the engine's name of it.
    ///
    /// *Source*: `KVCacheSpecKind` of vLLM.
    pub(super) fn from_wire(name: &[u8]) -> Self {
        match name {
            b"full_attention" | b"mla_attention" | b"sink_full_attention" => Self::Full,
            b"sliding_window" | b"sliding_window_mla" | b"chunked_local_attention" => Self::Windowed,
            b"mamba" => Self::Recurrent,
            _ => Self::Other,
        }
    }
}
