//! What hearthd is told of its block store: where blocks lie on disk, what moves them, what is compressed.
//!
//! Owns reading and checking those settings; [`crate::config`] merges them from their sources.

use std::path::PathBuf;

use hearth_proto::size;
use hearth_store::{Compression, Driver, DriverOptions, NvmeConfig, SlabConfig};

use crate::config::ConfigError;

/// The settings as they may stand in a file, in the environment or on the command line; their meaning is
/// told where they are read.
#[derive(Debug, Default)]
pub(crate) struct BlockSettings {
    pub(crate) nvme_slab: Option<Vec<String>>,
    pub(crate) disk_driver: Option<String>,
    pub(crate) disk_sqpoll: Option<bool>,
    pub(crate) disk_iopoll: Option<bool>,
    pub(crate) nvme_lift_fences: Option<bool>,
    pub(crate) compression: Option<String>,
}

/// The settings in force, checked.
#[derive(Debug, Clone)]
pub struct BlockConfig {
    /// Files and devices that hold blocks; empty is one file in the data folder.
    pub slabs: Vec<SlabConfig>,
    /// What moves blocks between memory and disk.
    pub driver: DriverOptions,
    /// Work spent on storing blocks shorter.
    pub compression: Compression,
    /// Whether extents come back into service that I/O errors took out of it.
    pub lift_fences: bool,
}

impl BlockSettings {
    pub(crate) fn check(self) -> Result<BlockConfig, ConfigError> {
        let slabs = self.nvme_slab.unwrap_or_default();
        let driver = match self.disk_driver.as_deref().unwrap_or("auto") {
            "auto" => Driver::Auto,
            "io-uring" => Driver::IoUring,
            "threads" => Driver::Threads,
            other => {
                let problem = format!("{other:?} is not a driver: write auto, io-uring or threads");
                return Err(ConfigError::Value { setting: "--disk-driver", problem });
            }
        };
        let compression = match self.compression.as_deref().unwrap_or("fast") {
            "off" => Compression::Off,
            "fast" => Compression::Fast,
            "dense" => Compression::Dense,
            other => {
                let problem = format!("{other:?} is no such mode: write off, fast or dense");
                return Err(ConfigError::Value { setting: "--compression", problem });
            }
        };
        Ok(BlockConfig {
            slabs: slabs.iter().map(|text| slab(text)).collect::<Result<_, _>>()?,
            driver: DriverOptions {
                driver,
                sqpoll: self.disk_sqpoll.unwrap_or(false),
                iopoll: self.disk_iopoll.unwrap_or(false),
            },
            compression,
            lift_fences: self.nvme_lift_fences.unwrap_or(false),
        })
    }
}

fn slab(text: &str) -> Result<SlabConfig, ConfigError> {
    let refuse = |problem| ConfigError::Value { setting: "--nvme-slab", problem };
    let (path, bytes) = text
        .rsplit_once(':')
        .filter(|(path, _)| !path.is_empty())
        .ok_or_else(|| refuse(format!("{text:?} is not PATH:SIZE, such as /dev/nvme1n1:3.8TiB")))?;
    let capacity_bytes = size::parse(bytes).map_err(|error| refuse(error.to_string()))?;
    Ok(SlabConfig { path: path.into(), capacity_bytes })
}

impl BlockConfig {
    /// Bytes of the slabs that were named; `None` if none was.
    pub fn slab_bytes(&self) -> Option<u64> {
        let sum = self.slabs.iter().map(|slab| slab.capacity_bytes).fold(0, u64::saturating_add);
        (!self.slabs.is_empty()).then_some(sum)
    }

    /// The NVMe tier in `dir`, of one file of `capacity_bytes` unless slabs were named.
    pub(crate) fn nvme(&self, dir: PathBuf, capacity_bytes: u64) -> NvmeConfig {
        let one = NvmeConfig::one_file(dir, capacity_bytes);
        let slabs = if self.slabs.is_empty() { one.slabs } else { self.slabs.clone() };
        let (driver, compression, lift_fences) = (self.driver, self.compression, self.lift_fences);
        NvmeConfig { slabs, driver, compression, lift_fences, ..one }
    }

    /// The settings as entries of a TOML file.
    pub(crate) fn write_toml(&self, table: &mut toml::Table) {
        if !self.slabs.is_empty() {
            let slab = |slab: &SlabConfig| format!("{}:{}", slab.path.display(), slab.capacity_bytes);
            let slabs: Vec<_> = self.slabs.iter().map(|s| toml::Value::from(slab(s))).collect();
            table.insert("nvme_slab".into(), slabs.into());
        }
        let driver = match self.driver.driver {
            Driver::Auto => "auto",
            Driver::IoUring => "io-uring",
            Driver::Threads => "threads",
        };
        let compression = match self.compression {
            Compression::Off => "off",
            Compression::Fast => "fast",
            Compression::Dense => "dense",
        };
        table.insert("disk_driver".into(), driver.into());
        table.insert("disk_sqpoll".into(), self.driver.sqpoll.into());
        table.insert("disk_iopoll".into(), self.driver.iopoll.into());
        table.insert("compression".into(), compression.into());
        table.insert("nvme_lift_fences".into(), self.lift_fences.into());
    }
}
