//! The slabs of a store when it opens: which are there, which are new, which cannot be used.

use std::collections::BTreeSet;
use std::path::PathBuf;

use hearth_proto::limits::SLAB_DATA_OFFSET_BYTES;

use crate::config::{NvmeConfig, SlabConfig, StoreConfig};
use crate::device::Member;
use crate::error::OpenError;
use crate::slab::{CreatedWith, Found, Remembered, StoreId, Superblock, begin, look, set_aside};

/// What lies at the paths of the slabs, in their order.
pub(crate) struct Looked {
    found: Vec<Found>,
}

/// The slabs of a store, open.
pub(crate) struct Begun {
    /// In the order of the configuration.
    pub(crate) slabs: Vec<(Member, Superblock)>,
    /// Where damaged files lie now.
    pub(crate) set_aside: Vec<PathBuf>,
}

impl Looked {
    /// Looks at every slab; changes nothing.
    pub(crate) fn at(nvme: &NvmeConfig) -> Result<Self, OpenError> {
        let found = nvme.slabs.iter().map(|slab| look(&slab.path)).collect::<Result<_, _>>()?;
        Ok(Self { found })
    }

    /// The store that the slabs belong to, if any says so.
    pub(crate) fn store_id(&self) -> Option<StoreId> {
        self.superblocks().map(|superblock| superblock.store_id).next()
    }

    /// Opens the slabs, and begins those that are new. Damaged files are set aside.
    pub(crate) fn begin(
        self,
        config: &StoreConfig,
        nvme: &NvmeConfig,
        remembered: &Remembered,
        unix_ms: u64,
    ) -> Result<Begun, OpenError> {
        self.check(config, nvme, remembered)?;
        let used = self.superblocks().map(|superblock| superblock.member);
        let known = remembered.extents.iter().map(|extent| extent.place.member);
        let mut next = used.chain(known).max().map_or(0, |number| number + 1);
        let mut aside = Vec::new();
        let mut slabs = Vec::new();
        let mut identities = BTreeSet::new();
        for (slab, found) in nvme.slabs.iter().zip(self.found) {
            if found == Found::Damaged {
                tracing::error!(path = %slab.path.display(), "a slab is damaged: its blocks are lost");
                aside.extend(set_aside(&slab.path, unix_ms)?);
            }
            let member = Member::open(&slab.path)?;
            let refuse = OpenError::io(format!("look up {}", slab.path.display()));
            if !identities.insert(member.identity().map_err(refuse)?) {
                return Err(OpenError::SameSlab { path: slab.path.clone() });
            }
            let superblock = match found {
                Found::Slab(superblock) => superblock,
                Found::Absent | Found::Blank | Found::Damaged => {
                    let superblock = new_superblock(config, remembered.store, next);
                    next += 1;
                    begin(&slab.path, &superblock)?;
                    superblock
                }
            };
            tracing::info!(path = %slab.path.display(), member = superblock.member, "a slab is open");
            slabs.push((member, superblock));
        }
        Ok(Begun { slabs, set_aside: aside })
    }

    fn superblocks(&self) -> impl Iterator<Item = &Superblock> {
        self.found.iter().filter_map(|found| match found {
            Found::Slab(superblock) => Some(superblock),
            _ => None,
        })
    }

    fn check(
        &self,
        config: &StoreConfig,
        nvme: &NvmeConfig,
        remembered: &Remembered,
    ) -> Result<(), OpenError> {
        let mut numbers = BTreeSet::new();
        for (slab, found) in nvme.slabs.iter().zip(&self.found) {
            let Found::Slab(superblock) = found else { continue };
            check_slab(config, nvme, slab, superblock, remembered)?;
            if !numbers.insert(superblock.member) {
                return Err(OpenError::SameSlab { path: slab.path.clone() });
            }
        }
        let misses_one = remembered.extents.iter().any(|extent| !numbers.contains(&extent.place.member));
        let absent = nvme.slabs.iter().zip(&self.found).find(|(_, found)| **found == Found::Absent);
        match absent {
            Some((slab, _)) if misses_one => {
                Err(OpenError::SlabMissing { path: slab.path.clone(), dir: nvme.dir.clone() })
            }
            _ => Ok(()),
        }
    }
}

fn check_slab(
    config: &StoreConfig,
    nvme: &NvmeConfig,
    slab: &SlabConfig,
    superblock: &Superblock,
    remembered: &Remembered,
) -> Result<(), OpenError> {
    if superblock.store_id != remembered.store {
        return Err(OpenError::ForeignSlab { path: slab.path.clone() });
    }
    let asked = config.extent_bytes as u64;
    if superblock.extent_bytes != asked {
        return Err(OpenError::ExtentBytesChanged {
            dir: nvme.dir.clone(),
            found: superblock.extent_bytes,
            asked,
        });
    }
    Ok(())
}

fn new_superblock(config: &StoreConfig, store_id: StoreId, member: u16) -> Superblock {
    Superblock {
        store_id,
        member,
        extent_bytes: config.extent_bytes as u64,
        data_offset: SLAB_DATA_OFFSET_BYTES,
        created_with: CreatedWith::new(concat!("hearth ", env!("CARGO_PKG_VERSION"))),
    }
}
