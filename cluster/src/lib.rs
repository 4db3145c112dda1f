//! The metadata plane of Hearth: which nodes there are, and which of them holds which block.
//!
//! `state` is the replicated state and the pure function that changes it; `raft` keeps it the same
//! on all members; [`Cluster`] is what a server runs: it joins, registers, sends heartbeats and
//! block reports, answers lookups from its own copy, and does the leader's duties when it leads.

mod cluster;
mod config;
mod duties;
mod error;
mod join;
mod liveness;
mod lookup;
mod member;
pub mod mutant;
mod offload;
mod pipe;
mod propose;
mod raft;
mod reports;
mod service;
#[cfg(feature = "sim")]
pub mod sim;
mod source;
mod state;
#[cfg(test)]
mod tests;

pub use cluster::{Cluster, grpc_server};
pub use config::{ClusterConfig, NodeAddresses};
pub use error::{FoundError, JoinError, MemberError, ProposeError, StartError};
pub use join::{JoinGrant, JoinRequest, request_join};
pub use lookup::{LookupAnswer, ReplicaView, ReplicaViews};
pub use source::{BlockSource, DeltaStatus};
