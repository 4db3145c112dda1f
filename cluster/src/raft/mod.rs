//! Everything that knows openraft or RocksDB: the log and state stores of all groups, the transport
//! between members, and [`Group`], the handle that the rest of the crate works with.

mod applied;
mod arrival;
mod database;
mod group;
mod log_store;
mod machine;
mod network;
mod pace;
mod peers;
mod service;
mod snapshot;
#[cfg(test)]
mod tests;
mod types;
mod wal_sync;

pub(crate) use database::{Database, Identity, OpenError};
pub(crate) use group::{Group, GroupError, LocalProposal, Pending};
pub(crate) use peers::{Peers, endpoint};
pub(crate) use service::{RaftService, check_cluster};
