//! What hearthd is told: flags over environment over TOML file over defaults.
//!
//! Owns reading and checking the settings; opens nothing but the file it is given.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use clap::Parser;
use hearth_proto::{ClusterId, DirectoryGroups, limits};
use serde::Deserialize;

use crate::block_settings::{BlockConfig, BlockSettings};

/// The KV-cache store of one node. With no arguments: a whole single-node cluster on loopback.
#[derive(Debug, Default, Parser)]
#[command(
    name = "hearthd",
    version,
    about,
    after_help = "Settings are taken from flags, then HEARTH_* variables, then the file, then defaults.\n\n\
    Examples:\n  hearthd                                       a single-node cluster on 127.0.0.1:7400\n  \
    hearthd --data-dir /data/b --listen 127.0.0.1:7410 --data-listen 127.0.0.1:7411 \\\n          \
    --http-listen 127.0.0.1:7412 --join 127.0.0.1:7400   a second node on the same host"
)]
pub struct Flags {
    /// TOML file with the same names as the flags, written with underscores.
    #[arg(long, env = "HEARTH_CONFIG", value_name = "FILE")]
    pub config: Option<PathBuf>,
    #[command(flatten)]
    settings: Settings,
    /// Prints the settings that result and exits.
    #[arg(long)]
    pub print_config: bool,
}

/// The settings as they may stand in a file, in the environment or on the command line.
#[derive(Debug, Default, Clone, Deserialize, clap::Args)]
#[serde(deny_unknown_fields, default)]
struct Settings {
    /// Name of this node; fixed by the first start. Default: node-<port of --listen>.
    #[arg(long, env = "HEARTH_NAME")]
    name: Option<String>,
    /// Folder of everything this node keeps. Default: $XDG_DATA_HOME/hearth or ~/.local/share/hearth.
    #[arg(long, env = "HEARTH_DATA_DIR", value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Address of the gRPC services (directory, admin, Raft). Default: 127.0.0.1:7400.
    #[arg(long, env = "HEARTH_LISTEN", value_name = "IP:PORT")]
    listen: Option<String>,
    /// Address of the block service. Default: 127.0.0.1:7401.
    #[arg(long, env = "HEARTH_DATA_LISTEN", value_name = "IP:PORT")]
    data_listen: Option<String>,
    /// Address of /livez, /readyz, /metrics and /version, and of the router (/register, /query and so on). Default:
    /// 127.0.0.1:7402.
    #[arg(long, env = "HEARTH_HTTP_LISTEN", value_name = "IP:PORT")]
    http_listen: Option<String>,
    /// Host name or address that others use to reach this node. Default: the one it listens on.
    #[arg(long, env = "HEARTH_ADVERTISE_HOST", value_name = "HOST")]
    advertise_host: Option<String>,
    /// Any member of the cluster to join (its --listen address); used at the first start only.
    #[arg(long, env = "HEARTH_JOIN", value_name = "HOST:PORT")]
    join: Option<String>,
    /// The cluster that this node must belong to; refuses to join or start in any other.
    #[arg(long, env = "HEARTH_CLUSTER_ID", value_name = "HEX")]
    cluster_id: Option<String>,
    /// Raft groups that share the directory, 1 to 64, fixed by the node that founds the cluster; elsewhere
    /// what the cluster must have. Default: 1.
    #[arg(long, env = "HEARTH_DIRECTORY_GROUPS", value_name = "N")]
    directory_groups: Option<u32>,
    /// What this node fails together with, such as a rack or a room: voters and copies are spread over
    /// zones. Default: one zone without a name.
    #[arg(long, env = "HEARTH_ZONE", value_name = "NAME")]
    zone: Option<String>,
    /// Makes this node an observer: it holds the metadata and answers from it, and never votes.
    #[arg(long, env = "HEARTH_OBSERVER", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    observer: Option<bool>,
    /// Seconds that a voter may be down before another node votes in its place. Default: 60.
    #[arg(long, env = "HEARTH_VOTER_LOST_AFTER", value_name = "SECONDS")]
    voter_lost_after: Option<u64>,
    /// Memory for blocks. Default: 1GiB.
    #[arg(long, env = "HEARTH_HOST_CAPACITY", value_name = "SIZE")]
    host_capacity: Option<String>,
    /// Memory for what the engines of one model are known to hold, by which routers choose. Default: 256MiB.
    #[arg(long, env = "HEARTH_ROUTER_MEMORY", value_name = "SIZE")]
    router_memory: Option<String>,
    /// Disk space for blocks; 0 keeps none on disk. Default: 8GiB.
    #[arg(long, env = "HEARTH_NVME_CAPACITY", value_name = "SIZE")]
    nvme_capacity: Option<String>,
    /// A file or raw block device that holds blocks, and how much of it; may be given several times, and
    /// blocks are striped over them. Takes the place of --nvme-capacity.
    #[arg(long, env = "HEARTH_NVME_SLAB", value_name = "PATH:SIZE", value_delimiter = ',')]
    nvme_slab: Option<Vec<String>>,
    /// Puts the parts of slabs back into service, empty, that I/O errors took out of it: for one start after
    /// the cause is gone.
    #[arg(long, env = "HEARTH_NVME_LIFT_FENCES", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    nvme_lift_fences: Option<bool>,
    /// What moves blocks between memory and disk: auto, io-uring or threads. Default: auto.
    #[arg(long, env = "HEARTH_DISK_DRIVER", value_name = "DRIVER")]
    disk_driver: Option<String>,
    /// Lets a thread of the kernel take submissions, which costs a core while there is traffic.
    #[arg(long, env = "HEARTH_DISK_SQPOLL", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    disk_sqpoll: Option<bool>,
    /// Polls NVMe devices that have poll queues instead of waiting for their interrupts.
    #[arg(long, env = "HEARTH_DISK_IOPOLL", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    disk_iopoll: Option<bool>,
    /// Work spent on storing blocks shorter on disk: off, fast (lz4 where a layout compresses) or dense
    /// (byte planes too: a seventh of bf16 data for much more CPU time). Default: fast.
    #[arg(long, env = "HEARTH_COMPRESSION", value_name = "MODE")]
    compression: Option<String>,
    /// How long a node that is gone may take to come back before its replicas are made again, in
    /// milliseconds. Default: 10000.
    #[arg(long, env = "HEARTH_REPAIR_GRACE_MS", value_name = "MS", hide = true)]
    repair_grace_ms: Option<u64>,
    /// Serves beyond loopback without TLS: anyone who reaches the port can read and write every block.
    #[arg(long, env = "HEARTH_INSECURE", num_args = 0..=1, default_missing_value = "true", value_name = "BOOL")]
    insecure: Option<bool>,
}

/// The settings in force, checked.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name asked for, if one was given.
    pub name: Option<String>,
    /// Folder of everything this node keeps.
    pub data_dir: PathBuf,
    /// Address of the gRPC services.
    pub listen: SocketAddr,
    /// Address of the block service.
    pub data_listen: SocketAddr,
    /// Address of health and metrics.
    pub http_listen: SocketAddr,
    /// What others reach this node by, when not the address it listens on.
    pub advertise_host: Option<String>,
    /// Member to join at the first start.
    pub join: Option<String>,
    /// The cluster that this node must belong to.
    pub cluster_id: Option<ClusterId>,
    /// Raft groups that share the directory of a cluster that this node founds, or must be in.
    pub directory_groups: Option<DirectoryGroups>,
    /// What this node fails together with; empty when nobody said.
    pub zone: String,
    /// Whether this node never votes.
    pub observer: bool,
    /// How long a voter may be down before another node votes in its place.
    pub voter_lost_after_ms: u64,
    /// Size of the arena in bytes.
    pub host_capacity_bytes: u64,
    /// Bytes that the router's index of one pool keeps to.
    pub router_memory_bytes: usize,
    /// Size of the slabs in bytes; 0 is none.
    pub nvme_capacity_bytes: u64,
    /// Where blocks lie on disk, what moves them, what is compressed.
    pub blocks: BlockConfig,
    /// How long a node that is gone may take to come back, in milliseconds.
    pub repair_grace_ms: u64,
    /// Whether serving beyond loopback without TLS was allowed.
    pub insecure: bool,
}

/// Settings that cannot be used, with the setting and the mend named.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The file cannot be read.
    #[error("cannot read the settings file {}: {source}; check --config", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// The file is not TOML of this form.
    #[error("the settings file {} is not valid: {source}", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why, with the names that exist.
        source: toml::de::Error,
    },
    /// One value is wrong.
    #[error("{setting}: {problem}")]
    Value {
        /// The flag.
        setting: &'static str,
        /// What is wrong and how to mend it.
        problem: String,
    },
    /// Binding beyond loopback without TLS.
    #[error(
        "{setting} {address} is reachable from other machines, and this build serves without TLS: \
         anyone who reaches it could read and write every block. Bind to 127.0.0.1, or accept that with --insecure"
    )]
    Exposed {
        /// The flag.
        setting: &'static str,
        /// The address.
        address: SocketAddr,
    },
}

impl Config {
    /// Merges flags (with their environment) over the file over the defaults, and checks the result.
    ///
    /// # Errors
    /// [`ConfigError`], each naming the setting and the mend.
    pub fn resolve(flags: Flags) -> Result<Self, ConfigError> {
        let file = match &flags.config {
            Some(path) => read_file(path)?,
            None => Settings::default(),
        };
        Self::check(flags.settings.over(file))
    }

    fn check(s: Settings) -> Result<Self, ConfigError> {
        let capacity_is_given = s.nvme_capacity.is_some();
        let blocks = BlockSettings {
            nvme_slab: s.nvme_slab,
            disk_driver: s.disk_driver,
            disk_sqpoll: s.disk_sqpoll,
            disk_iopoll: s.disk_iopoll,
            nvme_lift_fences: s.nvme_lift_fences,
            compression: s.compression,
        };
        let mut config = Self {
            name: s.name.map(|name| checked_text("--name", name)).transpose()?,
            data_dir: s.data_dir.map_or_else(default_data_dir, Ok)?,
            listen: address("--listen", s.listen, "127.0.0.1:7400")?,
            data_listen: address("--data-listen", s.data_listen, "127.0.0.1:7401")?,
            http_listen: address("--http-listen", s.http_listen, "127.0.0.1:7402")?,
            advertise_host: s.advertise_host.map(checked_host).transpose()?,
            join: s.join.map(checked_join).transpose()?,
            cluster_id: s
                .cluster_id
                .map(|text| text.parse().map_err(|e| value("--cluster-id", &e)))
                .transpose()?,
            directory_groups: s
                .directory_groups
                .map(|count| DirectoryGroups::new(count).map_err(|e| value("--directory-groups", &e)))
                .transpose()?,
            zone: s.zone.map(|zone| checked_text("--zone", zone)).transpose()?.unwrap_or_default(),
            observer: s.observer.unwrap_or(false),
            voter_lost_after_ms: voter_patience(s.voter_lost_after)?,
            host_capacity_bytes: size("--host-capacity", s.host_capacity, 1 << 30)?,
            router_memory_bytes: usize::try_from(size("--router-memory", s.router_memory, 256 << 20)?)
                .unwrap_or(usize::MAX),
            nvme_capacity_bytes: size("--nvme-capacity", s.nvme_capacity, 8 << 30)?,
            blocks: blocks.check()?,
            repair_grace_ms: s.repair_grace_ms.unwrap_or(limits::REPAIR_GRACE_MS),
            insecure: s.insecure.unwrap_or(false),
        };
        if let Some(slab_bytes) = config.blocks.slab_bytes() {
            if capacity_is_given {
                let problem = "give the size of each --nvme-slab instead".into();
                return Err(ConfigError::Value { setting: "--nvme-capacity", problem });
            }
            config.nvme_capacity_bytes = slab_bytes;
        }
        config.refuse_small_capacities()?;
        config.refuse_exposure()?;
        Ok(config)
    }

    fn refuse_small_capacities(&self) -> Result<(), ConfigError> {
        let min = limits::ARENA_BYTES_MIN;
        for (setting, bytes, zero_is_none) in [
            ("--host-capacity", self.host_capacity_bytes, false),
            ("--nvme-capacity", self.nvme_capacity_bytes, true),
        ] {
            if bytes < min && !(zero_is_none && bytes == 0) {
                let problem = format!("{bytes} bytes are too few; give at least {} MiB", min >> 20);
                return Err(ConfigError::Value { setting, problem });
            }
        }
        Ok(())
    }

    fn refuse_exposure(&self) -> Result<(), ConfigError> {
        let listeners = [
            ("--listen", self.listen),
            ("--data-listen", self.data_listen),
            ("--http-listen", self.http_listen),
        ];
        match listeners.into_iter().find(|(_, address)| !address.ip().is_loopback()) {
            Some((setting, address)) if !self.insecure => Err(ConfigError::Exposed { setting, address }),
            _ => Ok(()),
        }
    }

    /// Whether any listener is reachable from other machines.
    pub fn exposed(&self) -> bool {
        [self.listen, self.data_listen, self.http_listen].iter().any(|a| !a.ip().is_loopback())
    }

    /// The settings as a TOML file would say them.
    pub fn to_toml(&self) -> String {
        let mut table = toml::Table::new();
        let mut text = |name: &str, value: String| table.insert(name.into(), value.into());
        text("data_dir", self.data_dir.display().to_string());
        text("listen", self.listen.to_string());
        text("data_listen", self.data_listen.to_string());
        text("http_listen", self.http_listen.to_string());
        text("host_capacity", self.host_capacity_bytes.to_string());
        text("router_memory", self.router_memory_bytes.to_string());
        if self.blocks.slabs.is_empty() {
            text("nvme_capacity", self.nvme_capacity_bytes.to_string());
        }
        for (name, value) in
            [("name", &self.name), ("join", &self.join), ("advertise_host", &self.advertise_host)]
        {
            if let Some(value) = value {
                text(name, value.clone());
            }
        }
        if let Some(id) = self.cluster_id {
            text("cluster_id", id.to_string());
        }
        if let Some(groups) = self.directory_groups {
            table.insert("directory_groups".into(), groups.count().into());
        }
        if !self.zone.is_empty() {
            table.insert("zone".into(), self.zone.clone().into());
        }
        table.insert("voter_lost_after".into(), (self.voter_lost_after_ms as i64 / 1_000).into());
        if self.observer {
            table.insert("observer".into(), true.into());
        }
        self.blocks.write_toml(&mut table);
        let grace_ms = i64::try_from(self.repair_grace_ms).unwrap_or(i64::MAX);
        table.insert("repair_grace_ms".into(), grace_ms.into());
        table.insert("insecure".into(), self.insecure.into());
        table.to_string()
    }
}

impl Settings {
    fn over(self, lower: Self) -> Self {
        Self {
            name: self.name.or(lower.name),
            data_dir: self.data_dir.or(lower.data_dir),
            listen: self.listen.or(lower.listen),
            data_listen: self.data_listen.or(lower.data_listen),
            http_listen: self.http_listen.or(lower.http_listen),
            advertise_host: self.advertise_host.or(lower.advertise_host),
            join: self.join.or(lower.join),
            cluster_id: self.cluster_id.or(lower.cluster_id),
            directory_groups: self.directory_groups.or(lower.directory_groups),
            zone: self.zone.or(lower.zone),
            observer: self.observer.or(lower.observer),
            voter_lost_after: self.voter_lost_after.or(lower.voter_lost_after),
            host_capacity: self.host_capacity.or(lower.host_capacity),
            router_memory: self.router_memory.or(lower.router_memory),
            nvme_capacity: self.nvme_capacity.or(lower.nvme_capacity),
            nvme_slab: self.nvme_slab.or(lower.nvme_slab),
            nvme_lift_fences: self.nvme_lift_fences.or(lower.nvme_lift_fences),
            disk_driver: self.disk_driver.or(lower.disk_driver),
            disk_sqpoll: self.disk_sqpoll.or(lower.disk_sqpoll),
            disk_iopoll: self.disk_iopoll.or(lower.disk_iopoll),
            compression: self.compression.or(lower.compression),
            repair_grace_ms: self.repair_grace_ms.or(lower.repair_grace_ms),
            insecure: self.insecure.or(lower.insecure),
        }
    }
}

fn read_file(path: &Path) -> Result<Settings, ConfigError> {
    let text = std::fs::read_to_string(path)
        .map_err(|source| ConfigError::Unreadable { path: path.to_owned(), source })?;
    toml::from_str(&text).map_err(|source| ConfigError::Malformed { path: path.to_owned(), source })
}

fn value(setting: &'static str, problem: &dyn std::fmt::Display) -> ConfigError {
    ConfigError::Value { setting, problem: problem.to_string() }
}

fn address(setting: &'static str, given: Option<String>, default: &str) -> Result<SocketAddr, ConfigError> {
    let text = given.as_deref().unwrap_or(default);
    text.parse().map_err(|_| {
        value(setting, &format!("{text:?} is not an address: write IP:PORT, such as 127.0.0.1:7400"))
    })
}

fn size(setting: &'static str, given: Option<String>, default: u64) -> Result<u64, ConfigError> {
    given.map_or(Ok(default), |text| hearth_proto::size::parse(&text).map_err(|e| value(setting, &e)))
}

fn voter_patience(seconds: Option<u64>) -> Result<u64, ConfigError> {
    let ms = seconds.map_or(limits::VOTER_LOST_AFTER_MS, |seconds| seconds.saturating_mul(1_000));
    if ms < limits::NODE_DOWN_AFTER_MS {
        let least = limits::NODE_DOWN_AFTER_MS.div_ceil(1_000);
        let problem = format!("a silent node is only down after a while; give at least {least} seconds");
        return Err(ConfigError::Value { setting: "--voter-lost-after", problem });
    }
    // A year is for ever, and fits wherever it is written down.
    Ok(ms.min(365 * 24 * 3_600_000))
}

fn checked_text(setting: &'static str, name: String) -> Result<String, ConfigError> {
    let fits = (1..=64).contains(&name.len())
        && name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.'));
    if fits {
        Ok(name)
    } else {
        let problem = format!("{name:?} is not a name: use 1 to 64 letters, digits, '-', '_' or '.'");
        Err(ConfigError::Value { setting, problem })
    }
}

fn checked_host(host: String) -> Result<String, ConfigError> {
    let fits = (1..=253).contains(&host.len())
        && host.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | ':' | '[' | ']'));
    if fits {
        Ok(host)
    } else {
        let problem = format!("{host:?} is not a host: write a name or an address, without a port");
        Err(ConfigError::Value { setting: "--advertise-host", problem })
    }
}

fn checked_join(seed: String) -> Result<String, ConfigError> {
    let has_port = seed.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains("//") && port.parse::<u16>().is_ok_and(|p| p != 0)
    });
    if has_port {
        Ok(seed)
    } else {
        let problem = format!("{seed:?} is not an address: write HOST:PORT of a member's --listen");
        Err(ConfigError::Value { setting: "--join", problem })
    }
}

fn default_data_dir() -> Result<PathBuf, ConfigError> {
    let from = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    from("XDG_DATA_HOME")
        .or_else(|| from("HOME").map(|home| home.join(".local/share")))
        .map(|base| base.join("hearth"))
        .ok_or_else(|| {
            value("--data-dir", &"neither XDG_DATA_HOME nor HOME is set; say where the data shall live")
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolve(arguments: &[&str]) -> Result<Config, ConfigError> {
        let arguments = ["hearthd", "--data-dir", "d"].iter().chain(arguments);
        Config::resolve(Flags::try_parse_from(arguments).expect("the flags exist"))
    }

    fn file(text: &str) -> tempfile::NamedTempFile {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        std::fs::write(file.path(), text).expect("the file is writable");
        file
    }

    #[test]
    fn a_flag_wins_over_the_file_and_the_file_over_the_default() {
        let file = file("listen = '127.0.0.1:9000'\nhost_capacity = '256MiB'\n");
        let path = file.path().to_str().expect("a printable path");
        let config = resolve(&["--config", path, "--listen", "127.0.0.1:9100"]).expect("valid settings");
        assert_eq!(config.listen.port(), 9100);
        assert_eq!(config.host_capacity_bytes, 256 << 20);
        assert_eq!(config.http_listen.port(), 7402);
    }

    #[test]
    fn an_unknown_key_in_the_file_is_named_with_those_that_exist() {
        let file = file("lisen = '127.0.0.1:9000'\n");
        let path = file.path().to_str().expect("a printable path");
        let error = resolve(&["--config", path]).expect_err("must be refused").to_string();
        assert!(error.contains("lisen") && error.contains("data_listen"), "{error}");
    }

    #[test]
    fn serving_beyond_loopback_needs_the_flag() {
        let error = resolve(&["--data-listen", "0.0.0.0:1"]).expect_err("must be refused");
        assert!(matches!(error, ConfigError::Exposed { setting: "--data-listen", .. }), "{error}");
        assert!(resolve(&["--data-listen", "0.0.0.0:1", "--insecure"]).expect("accepted").exposed());
    }

    #[test]
    fn each_bad_value_names_its_flag() {
        for (flag, bad) in [
            ("--listen", "localhost"),
            ("--cluster-id", "xyz"),
            ("--host-capacity", "lots"),
            ("--host-capacity", "1MiB"),
            ("--nvme-capacity", "1"),
            ("--nvme-slab", "/dev/nvme1n1"),
            ("--nvme-slab", "/dev/nvme1n1:many"),
            ("--disk-driver", "spdk"),
            ("--compression", "zip"),
            ("--join", "nowhere"),
            ("--name", "a b"),
            ("--zone", "rack 7"),
            ("--voter-lost-after", "1"),
            ("--advertise-host", "bad host!"),
        ] {
            let error = resolve(&[flag, bad]).expect_err(bad).to_string();
            assert!(error.starts_with(flag), "{error}");
        }
    }

    #[test]
    fn printed_settings_read_back_the_same() {
        let slabs = ["--nvme-slab", "/a:1GiB", "--nvme-slab", "/b:2GiB", "--compression", "dense"];
        let others = [
            "--name",
            "a",
            "--zone",
            "r1",
            "--observer",
            "--join",
            "h:1",
            "--insecure",
            "--disk-driver",
            "threads",
            "--nvme-lift-fences",
        ];
        let config = resolve(&[&slabs[..], &others].concat()).expect("valid settings");
        assert!(config.blocks.lift_fences);
        assert_eq!((config.blocks.slabs.len(), config.nvme_capacity_bytes), (2, 3 << 30));
        let file = file(&config.to_toml());
        let path = file.path().to_str().expect("a printable path");
        let again = resolve(&["--config", path]).expect("what was printed is valid");
        assert_eq!(format!("{config:?}"), format!("{again:?}"));
    }
}
