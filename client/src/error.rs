//! The errors a caller can see: all of them about the request or about finding the cluster.

use hearth_proto::limits::{BLOCK_BYTES_MAX, CHAIN_BLOCKS_MAX};
use hearth_proto::{Classified, ClusterId, ErrorKind, IdError};

/// A request that can never succeed as it is. Mend the request; retrying is useless.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RequestError {
    /// No block was named.
    #[error("the chain is empty: name at least one block")]
    EmptyChain,
    /// Too many blocks were named.
    #[error("the chain names {count} blocks and the limit is {CHAIN_BLOCKS_MAX}; split it")]
    ChainTooLong {
        /// Blocks named.
        count: usize,
    },
    /// A block is larger than a store keeps.
    #[error("block {index} has {len} bytes and the limit is {BLOCK_BYTES_MAX}; use fewer tokens per block")]
    BlockTooLarge {
        /// Its position in the request.
        index: usize,
        /// Its length in bytes.
        len: usize,
    },
    /// A block has no bytes.
    #[error("block {index} is empty: a block has at least one byte")]
    BlockEmpty {
        /// Its position in the request.
        index: usize,
    },
    /// A position outside the chain.
    #[error("block {index} is not in the chain, which has {count} blocks")]
    OutsideChain {
        /// The position asked for.
        index: usize,
        /// Blocks in the chain.
        count: usize,
    },
    /// A malformed identifier.
    #[error(transparent)]
    Id(#[from] IdError),
}

impl Classified for RequestError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::FixRequest
    }
}

/// No member of the cluster could be found.
#[derive(Debug, thiserror::Error)]
pub enum DiscoverError {
    /// No address was given.
    #[error("no address of a member was given")]
    NoSeed,
    /// An address is not one.
    #[error("{seed:?} is not an address: write HOST:PORT of a member's --listen")]
    BadSeed {
        /// The text given.
        seed: String,
    },
    /// Nobody answered in time.
    #[error(
        "cannot reach {seed}: {problem}; check that hearthd runs there and that the address is its --listen"
    )]
    Unreachable {
        /// The address tried last.
        seed: String,
        /// Why.
        problem: String,
    },
    /// The members belong to another cluster than the one asked for.
    #[error("{seed} belongs to cluster {found}, not {wanted}; correct the address or the cluster id")]
    OtherCluster {
        /// The address.
        seed: String,
        /// Its cluster.
        found: ClusterId,
        /// The cluster asked for.
        wanted: ClusterId,
    },
}

impl Classified for DiscoverError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::NoSeed | Self::BadSeed { .. } | Self::OtherCluster { .. } => ErrorKind::FixRequest,
            Self::Unreachable { .. } => ErrorKind::Retry,
        }
    }
}

/// A lookup that asked for an answer of a certain age got none.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum LookupError {
    /// A router answered that it cannot make its copy new enough in time, and why. Ask again, or for an
    /// answer of any age.
    #[error("{address} gave no answer that is new enough: {problem}")]
    NotFresh {
        /// The router that was asked last.
        address: String,
        /// What it said.
        problem: String,
    },
    /// No router answered in time.
    #[error("no node of the cluster answered the lookup in time; see `hearth status`")]
    Unanswered,
}

impl Classified for LookupError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Retry
    }
}

/// A node did not tell its status.
#[derive(Debug, thiserror::Error)]
#[error("{address} did not answer: {problem}")]
pub struct StatusError {
    /// The node asked.
    pub address: String,
    /// Why there is no answer.
    pub problem: String,
}

impl Classified for StatusError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::Retry
    }
}
