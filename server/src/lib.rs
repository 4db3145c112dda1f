//! hearthd: one node of Hearth. Wires the metadata plane, the block store and the fabric together
//! and serves them by gRPC, the block service and HTTP. Holds no logic of the planes themselves.

mod announce;
mod block_service;
pub mod block_settings;
mod block_source;
mod calls;
mod claims;
pub mod config;
mod copies;
mod data_plane;
mod early_claims;
mod freshness;
mod grpc;
mod http;
pub mod identity;
mod metrics;
mod node;
mod operate;
mod operate_nodes;
mod progress;
mod repair;
mod retention;
mod routing;
mod vitals;

pub use node::{Endpoints, Node, NodeError};
