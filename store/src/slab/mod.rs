//! What lies on the disk: records in slabs, and the index in RocksDB that says where.

mod catalog;
mod entry;
mod footer;
mod found;
mod rocks;
mod superblock;

pub(crate) use catalog::{Catalog, Change, Changes, Remembered};
pub(crate) use entry::{BlockEntry, ExtentEntry, Place, ReadySlot};
pub(crate) use footer::{FOOTER_BYTES, Footer, GENERATION_AT};
pub(crate) use found::{Found, begin, look, set_aside};
pub(crate) use rocks::{Founding, RocksCatalog};
pub(crate) use superblock::{CreatedWith, StoreId, Superblock};
