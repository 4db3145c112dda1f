//! What lies on the disk: records in the slab file, and the index in RocksDB that says where.

mod catalog;
mod entry;
mod footer;
#[cfg_attr(not(test), expect(dead_code, reason = "slabs have no superblock yet"))]
mod superblock;

pub(crate) use catalog::{Catalog, Changes, Opened};
pub(crate) use entry::{BlockEntry, ExtentEntry};
pub(crate) use footer::{FOOTER_BYTES, Footer};
