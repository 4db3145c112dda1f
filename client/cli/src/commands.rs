//! One module per command; each prints its answer and says how it went.

mod blocks;
mod cluster;
mod node;
mod replay;
mod sink;
mod tenancy;

pub(crate) use blocks::{get, locate, put};
pub(crate) use cluster::{nodes, status};
pub(crate) use node::{node, upgrade};
pub(crate) use replay::replay;
pub(crate) use tenancy::{namespace, pin, pins, policy, retain, unpin};
