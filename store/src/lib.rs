//! One node's block store: the DRAM arena, the slabs on NVMe and the local index over both.
//!
//! A block is put once into a slot of the arena, is readable from there at once, and flows to NVMe
//! without being asked. A get finds it in the arena or reads it back into the arena. Bytes are judged
//! where they are read: each record carries its name, length, generation and checksums, and whatever
//! does not match is a miss (INV-BYTES). The store knows nothing of the cluster; it queues a
//! [`hearth_proto::BlockDelta`] for every change of what it holds, and its caller reports them.
//!
//! Three kinds of threads meet here. Callers run on tokio and never touch the disk. One thread owns the
//! io_uring rings and whatever memory is lent to the kernel; where io_uring is forbidden, some threads make
//! blocking calls instead. One thread, the durability thread, keeps slots ready for blocks and tells the index what
//! lies in them; another owns the index in RocksDB.

mod ahead;
mod arena;
mod clock;
mod codec;
mod config;
mod copy;
mod core;
mod delta;
mod device;
mod drain;
mod error;
mod extents;
mod growth;
mod index;
mod keeping;
#[doc(hidden)]
pub mod model;
#[doc(hidden)]
pub mod mutant;
mod nvme;
mod open;
mod pins;
pub mod policy;
mod put;
mod read;
mod ready;
mod recovery;
#[doc(hidden)]
pub mod sim;
mod slab;
mod slabs;
mod space;
mod stats;
mod store;
mod stripes;
mod sync;
#[cfg(test)]
mod tests;
mod tiers;
mod volume;
mod writer;

pub use arena::{ArenaView, Lease, Loan, LoanExpired, SlotMut};
pub use codec::{Codec, Compression, LayoutCompression};
pub use config::{Driver, DriverOptions, NvmeConfig, SlabConfig, StoreConfig};
pub use copy::{BlockCopy, Standing};
pub use delta::DeltaStatus;
pub use device::DeviceError;
pub use error::{GetError, LendError, OpenError, PinError, PutError, ReserveError};
pub use recovery::RecoveryReport;
pub use stats::StoreStats;
pub use store::{Copies, GetOutcome, MissReason, PutMeta, PutOutcome, Store, Tiers};
