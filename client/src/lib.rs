//! The Rust client of Hearth: looks up, gets and puts blocks, always within a deadline.
//!
//! A slow, full or dead store looks like a miss (INV-HARMLESS): the only error that a lookup, get or
//! put returns is a request that can never succeed. Why something was a miss is in the answer. Calls that
//! change what the cluster keeps, or who computes what, say whether that was done ([`CallError`]).

mod ask;
mod breaker;
mod chain;
mod claims;
mod client;
mod error;
mod get;
mod lookup;
mod operate;
mod peer;
mod put;
mod retention;
mod topology;

pub use ask::CallError;
pub use chain::Chain;
pub use claims::{Claim, ClaimAnswer, Flight, Grant, Watch};
pub use client::{Client, ClientConfig};
pub use error::{DiscoverError, LookupError, RequestError, StatusError};
pub use get::{BlockResult, GetOptions, Hit, MissReason};
pub use hearth_fabric::BlockBuf;
pub use hearth_proto::Urgency;
pub use lookup::{Freshness, Lookup, LookupSource, Replica};
pub use put::{NotStoredReason, PutBlock, PutOptions, PutResult};
