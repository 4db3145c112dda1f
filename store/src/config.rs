//! What a store is opened with.

use std::path::PathBuf;

use hearth_proto::limits::{
    BLOCK_BYTES_MAX, EXTENT_BYTES, FIXED_BUFFER_BYTES_MAX, READY_BYTES_MAX, SECTOR_BYTES, SLABS_MAX,
};

use crate::codec::Compression;
use crate::error::OpenError;
use crate::slab::FOOTER_BYTES;

/// What blocks of the usual models and sizes take.
const USUAL_BLOCK_BYTES: u64 = 256 << 10;

/// The sizes and places of one store.
#[derive(Clone, Debug)]
pub struct StoreConfig {
    /// Memory of the arena, rounded down to whole extents; at least one.
    pub arena_bytes: u64,
    /// Where the NVMe tier lies; `None` keeps blocks in memory alone.
    pub nvme: Option<NvmeConfig>,
    /// Unit in which memory and disk are given to a record size; a multiple of 4 KiB. It is fixed when
    /// the NVMe tier is founded. A payload must fit into one extent together with its footer.
    pub extent_bytes: usize,
}

/// Where the NVMe tier of a store lies.
#[derive(Clone, Debug)]
pub struct NvmeConfig {
    /// Folder of the index; made if it is missing.
    pub dir: PathBuf,
    /// The files and raw devices that hold blocks; at least one. Blocks are striped over them, some MiB of one
    /// record size at a time.
    pub slabs: Vec<SlabConfig>,
    /// How the slabs are read and written.
    pub driver: DriverOptions,
    /// How much work is spent on storing blocks shorter.
    pub compression: Compression,
    /// The most bytes of slots for each size of block that are kept free ahead of puts, so that a durable
    /// put waits for its own bytes alone and not for the index. Zero keeps none.
    pub ready_bytes: u64,
    /// Puts extents back into service, empty, that I/O errors took out of it: for one opening after the cause
    /// is gone, as a cable or a controller was.
    pub lift_fences: bool,
}

/// One file or raw block device that holds blocks.
#[derive(Clone, Debug)]
pub struct SlabConfig {
    /// A file, which is made if it is missing, or a block device, which the store takes over whole.
    pub path: PathBuf,
    /// How far it may grow, rounded down to whole extents. A file that is already longer is used as it
    /// is; of a device no more is used than it has.
    pub capacity_bytes: u64,
}

impl NvmeConfig {
    /// Name of the slab file in the folder of the index.
    const SLAB_FILE: &str = "blocks.slab";

    /// One slab file of up to `capacity_bytes`, in the folder of the index.
    pub fn one_file(dir: impl Into<PathBuf>, capacity_bytes: u64) -> Self {
        let dir = dir.into();
        let slabs = vec![SlabConfig { path: dir.join(Self::SLAB_FILE), capacity_bytes }];
        Self {
            dir,
            slabs,
            driver: DriverOptions::default(),
            compression: Compression::default(),
            ready_bytes: READY_BYTES_MAX,
            lift_fences: false,
        }
    }
}

/// How a device is read and written. The default suits every machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DriverOptions {
    /// Which driver.
    pub driver: Driver,
    /// Lets a thread of the kernel take submissions off the ring, which spares system calls and costs a
    /// core while there is traffic. For io_uring alone.
    pub sqpoll: bool,
    /// Asks the device for completions instead of waiting for its interrupts: shorter latencies for a busy
    /// thread, on NVMe devices with poll queues. For io_uring alone.
    pub iopoll: bool,
}

/// What moves bytes between arena and device.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Driver {
    /// io_uring, or threads where the system forbids it.
    #[default]
    Auto,
    /// io_uring; opening fails where the system forbids it.
    IoUring,
    /// Threads that make blocking calls.
    Threads,
}

impl StoreConfig {
    /// An arena of `arena_bytes` without an NVMe tier, with extents of the default size.
    pub fn in_memory(arena_bytes: u64) -> Self {
        Self { arena_bytes, nvme: None, extent_bytes: EXTENT_BYTES }
    }

    /// The largest payload that this store takes.
    pub(crate) fn payload_bytes_max(&self) -> usize {
        BLOCK_BYTES_MAX.min(self.extent_bytes.saturating_sub(FOOTER_BYTES))
    }

    /// About how many blocks the store will hold, for what learns from a sample of them.
    pub(crate) fn capacity_blocks(&self) -> usize {
        let nvme_bytes = self.nvme.iter().flat_map(|nvme| &nvme.slabs).map(|slab| slab.capacity_bytes);
        let bytes = nvme_bytes.fold(self.arena_bytes, u64::saturating_add);
        usize::try_from(bytes / USUAL_BLOCK_BYTES).unwrap_or(usize::MAX)
    }

    pub(crate) fn check(&self) -> Result<(), OpenError> {
        let refuse = |detail: String| Err(OpenError::Config { detail });
        if self.extent_bytes == 0
            || !self.extent_bytes.is_multiple_of(SECTOR_BYTES)
            || self.extent_bytes > FIXED_BUFFER_BYTES_MAX
        {
            return refuse(format!(
                "extent_bytes must be a multiple of {SECTOR_BYTES} up to {FIXED_BUFFER_BYTES_MAX}, got {}",
                self.extent_bytes
            ));
        }
        let extent_bytes = self.extent_bytes as u64;
        if self.arena_bytes < extent_bytes {
            return refuse(format!(
                "arena_bytes must hold at least one extent of {extent_bytes} bytes, got {}",
                self.arena_bytes
            ));
        }
        let addressable = u64::from(u32::MAX) * SECTOR_BYTES as u64;
        if self.arena_bytes > addressable {
            return refuse(format!("a tier may have at most {addressable} bytes"));
        }
        self.nvme.as_ref().map_or(Ok(()), |nvme| nvme.check(extent_bytes))
    }
}

impl NvmeConfig {
    fn check(&self, extent_bytes: u64) -> Result<(), OpenError> {
        let refuse = |detail: String| Err(OpenError::Config { detail });
        if self.slabs.is_empty() || self.slabs.len() > SLABS_MAX {
            return refuse(format!("nvme.slabs must name 1 to {SLABS_MAX} slabs, got {}", self.slabs.len()));
        }
        for (n, slab) in self.slabs.iter().enumerate() {
            if slab.capacity_bytes < extent_bytes {
                return refuse(format!(
                    "the capacity of {} must hold at least one extent of {extent_bytes} bytes, got {}",
                    slab.path.display(),
                    slab.capacity_bytes
                ));
            }
            if self.slabs[..n].iter().any(|other| other.path == slab.path) {
                return refuse(format!("{} is named twice among the slabs", slab.path.display()));
            }
        }
        Ok(())
    }
}
