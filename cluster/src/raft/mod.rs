//! Everything that knows openraft or RocksDB: the log and state stores of all groups, the transport
//! between members, and [`Group`], the handle that the rest of the crate works with.

mod arrival;
mod database;
mod group;
mod log_family;
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
#[cfg(feature = "sim")]
pub(crate) use log_store::{log_entries, stored_vote};
pub(crate) use peers::{Peers, endpoint};
pub(crate) use service::{RaftService, check_cluster};
#[cfg(feature = "sim")]
pub(crate) use types::{Entry, LogId};
