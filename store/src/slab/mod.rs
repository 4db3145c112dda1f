//! What lies on the disk: records in the slab file, and the index in RocksDB that says where.

mod catalog;
mod entry;
mod footer;
mod rocks;
mod superblock;

pub(crate) use catalog::{Catalog, Change, Changes, Remembered, StoreUuid};
pub(crate) use entry::{BlockEntry, ExtentEntry};
pub(crate) use footer::{FOOTER_BYTES, Footer};
pub(crate) use rocks::{Founding, RocksCatalog};
