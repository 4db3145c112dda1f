//! What of a chain one worker has, and what it can load.

use hearth_proto::limits::LOAD_SOURCES_MAX;
use hearth_proto::{Classified, ErrorKind, NodeId, Tier};
use smallvec::SmallVec;

use super::link::LinkSpeed;

/// Where blocks lie that a worker can load.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Origin {
    /// The worker's own machine, by the engine's own means.
    Worker,
    /// A node of the cluster.
    Node(NodeId),
}

/// One place from which a worker can load blocks of a chain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Source {
    /// The tier in which they lie there.
    pub tier: Tier,
    /// Where that is.
    pub origin: Origin,
    /// Blocks of the chain that are there, from its start without a hole, the resident ones included.
    pub prefix_blocks: u32,
    /// How fast they come.
    pub speed: LinkSpeed,
}

/// What of a chain one worker has in its accelerator's memory, and where it can load more, in the order in which it
/// would: each place serves the blocks behind those of the places before it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Held {
    resident_blocks: u32,
    sources: SmallVec<[Source; LOAD_SOURCES_MAX]>,
}

/// A worker that could load from more places than [`LOAD_SOURCES_MAX`]; the caller leaves the slowest out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a worker loads from {LOAD_SOURCES_MAX} places at the most; leave the slowest out")]
pub struct TooManySources;

impl Classified for TooManySources {
    fn kind(&self) -> ErrorKind {
        ErrorKind::FixRequest
    }
}

impl Held {
    /// So many blocks from the start of the chain are resident, and there is nothing to load.
    pub fn resident(blocks: u32) -> Self {
        Self { resident_blocks: blocks, sources: SmallVec::new() }
    }

    /// Adds a place from which to load behind those that were added before: the fastest come first.
    ///
    /// # Errors
    /// [`TooManySources`]; the caller leaves the slowest out.
    pub fn add(&mut self, source: Source) -> Result<(), TooManySources> {
        if self.sources.len() >= LOAD_SOURCES_MAX {
            return Err(TooManySources);
        }
        self.sources.push(source);
        Ok(())
    }

    /// Blocks from the start of the chain that need not be loaded.
    pub const fn resident_blocks(&self) -> u32 {
        self.resident_blocks
    }

    /// The places, in the order in which they are used.
    pub fn sources(&self) -> &[Source] {
        &self.sources
    }
}
