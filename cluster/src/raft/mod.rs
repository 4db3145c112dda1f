//! Everything that knows openraft or RocksDB: the log and state stores of all groups, the transport
//! between members, and [`Group`], the handle that the rest of the crate works with.

mod arrival;
#[cfg(test)]
mod damage_tests;
mod database;
mod group;
mod leader_time;
mod log_family;
mod log_store;
mod machine;
mod members;
mod network;
mod pace;
mod peers;
mod reads;
mod service;
mod snapshot;
#[cfg(test)]
mod tests;
mod types;
mod wal_check;
mod wal_sync;

pub(crate) use database::{Database, Identity, OpenError};
pub(crate) use group::{Group, GroupError, LocalProposal, Pending};
#[cfg(feature = "sim")]
pub(crate) use log_store::{log_entries, stored_vote};
pub(crate) use members::Members;
pub(crate) use peers::{Peers, endpoint};
pub(crate) use reads::{Applied, LocalRead};
#[cfg(test)]
pub(crate) use service::pre_vote_request;
pub(crate) use service::{RaftService, check_cluster};
#[cfg(feature = "sim")]
pub(crate) use types::{Entry, LogId};
