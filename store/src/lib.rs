//! One node's block store: the DRAM arena, the slab file on NVMe and the local index over both.
//!
//! A block is put once into a slot of the arena, is readable from there at once, and flows to NVMe
//! without being asked. A get finds it in the arena or reads it back into the arena. Bytes are judged
//! where they are read: each record carries its name, length, generation and checksums, and whatever
//! does not match is a miss (INV-BYTES). The store knows nothing of the cluster; it queues a
//! [`hearth_proto::BlockDelta`] for every change of what it holds, and its caller reports them.
//!
//! Three kinds of threads meet here. Callers run on tokio and never touch the disk. One thread owns the
//! io_uring ring and whatever memory is lent to the kernel. One thread owns RocksDB and makes groups of
//! writes durable.

mod arena;
mod config;
mod core;
mod delta;
mod device;
mod error;
mod extents;
mod growth;
mod index;
mod nvme;
pub mod policy;
mod put;
mod read;
mod recovery;
mod slab;
mod space;
mod stats;
mod store;
mod sync;
#[cfg(test)]
mod tests;
mod writer;

pub use arena::{Lease, SlotMut};
pub use config::{NvmeConfig, StoreConfig};
pub use delta::DeltaStatus;
pub use error::{GetError, OpenError, PutError, ReserveError};
pub use recovery::RecoveryReport;
pub use stats::StoreStats;
pub use store::{GetOutcome, MissReason, PutMeta, PutOutcome, Store, Tiers};
