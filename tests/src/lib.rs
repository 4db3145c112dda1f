//! Real hearthd processes on loopback, for the end-to-end tests, the chaos runs and the benchmarks.

pub mod blocks;
mod clock;
mod cluster;
mod http;
mod node;
mod operator;
mod ports;

pub use clock::FakeClock;
pub use cluster::{ClusterOptions, TestCluster};
pub use http::{http_get, http_get_from, http_post};
pub use node::{NodeNetwork, NodeOptions, NodeProcess, hearthd_binary, sibling_binary};
pub use ports::free_port;
