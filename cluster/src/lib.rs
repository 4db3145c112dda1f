//! The metadata plane of Hearth: which nodes there are, and which of them holds which block.
//!
//! `state` is the replicated state and the pure function that changes it; `raft` keeps it the same
//! on all members; [`Cluster`] is what a server runs: it joins, registers, sends heartbeats and
//! block reports, answers lookups from its own copy, and does the leader's duties when it leads.

mod claims;
mod cluster;
mod config;
mod duties;
mod error;
mod expiry;
mod fresh;
mod holdings;
mod join;
mod keeping;
mod liveness;
mod lookup;
mod member;
pub mod mutant;
mod news;
mod offload;
mod operations;
mod pipe;
pub mod placement;
mod propose;
mod raft;
mod refusal;
mod reports;
mod service;
#[cfg(feature = "sim")]
pub mod sim;
mod source;
mod state;
mod tenancy;
#[cfg(test)]
mod tests;
mod upgrade;
mod waiters;

pub use claims::{ClaimAnswer, ClaimState, Grant, WatchEnd};
pub use cluster::{Cluster, grpc_server};
pub use config::{ClusterConfig, NodeAddresses};
pub use error::{FoundError, JoinError, MemberError, OperateError, ProposeError, Silent, StartError};
pub use fresh::{Freshness, ReadError};
pub use holdings::CopyPolicy;
pub use join::{JoinGrant, JoinRequest, request_join};
pub use keeping::BlockKeeper;
pub use lookup::{ChainReplicas, LookupAnswer, ReplicaView};
pub use refusal::CommandError;
pub use source::{BlockSource, DeltaStatus};
pub use tenancy::PinAnswer;
