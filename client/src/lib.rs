//! The Rust client of Hearth: looks up, gets and puts blocks, always within a deadline.
//!
//! A slow, full or dead store looks like a miss (INV-HARMLESS): the only error that a lookup, get or
//! put returns is a request that can never succeed. Why something was a miss is in the answer.

mod breaker;
mod chain;
mod client;
mod error;
mod get;
mod lookup;
mod operate;
mod peer;
mod put;
mod topology;

pub use chain::Chain;
pub use client::{Client, ClientConfig};
pub use error::{DiscoverError, LookupError, OperateError, RequestError, StatusError};
pub use get::{BlockResult, GetOptions, Hit, MissReason};
pub use hearth_fabric::BlockBuf;
pub use hearth_proto::Urgency;
pub use lookup::{Freshness, Lookup, LookupSource, Replica};
pub use put::{NotStoredReason, PutBlock, PutOptions, PutResult};
