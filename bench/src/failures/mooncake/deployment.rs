//! The processes of one Mooncake cluster: etcd if it has one, masters, storage nodes.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hearth_tests::free_port;
use tempfile::TempDir;
use tokio::net::TcpStream;
use tokio::process::{Child, Command};

use super::environment::Environment;
use super::worker::{Setup, Worker};

const NODES: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);
/// A standby follows the operation log once a second.
const STANDBY_SETTLES: Duration = Duration::from_secs(3);
const CLUSTER: &str = "hearth-bench";

/// How a cluster is set up. What is not said here is as Mooncake has it by default.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Flavour {
    /// A second master stands by and follows the operation log in etcd; otherwise there is one master.
    pub(crate) etcd: bool,
    pub(crate) disk: Option<Backend>,
}

/// What keeps objects on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Backend {
    /// The one that its documentation recommends.
    Buckets,
    /// The one with a checksum for each record, persisted at each write.
    OneFile,
}

impl Flavour {
    /// The flags of a master beyond its addresses.
    pub(crate) fn master_flags(self) -> Vec<&'static str> {
        let mut flags = Vec::new();
        if self.etcd {
            flags.extend(["--enable_ha=true", "--ha_backend_type=etcd", "--enable_oplog=true"]);
        }
        if self.disk.is_some() {
            flags.push("--enable_offload=true");
        }
        flags
    }

    /// The variables of a storage node.
    pub(crate) fn node_variables(self) -> Vec<(&'static str, &'static str)> {
        let mut variables = Vec::new();
        if let Some(backend) = self.disk {
            variables.extend([
                ("MOONCAKE_OFFLOAD_LOCAL_BUFFER_SIZE_BYTES", "67108864"),
                ("MOONCAKE_OFFLOAD_TOTAL_SIZE_LIMIT_BYTES", "536870912"),
                // Ten seconds by default: so the disk is reached sooner.
                ("MOONCAKE_OFFLOAD_HEARTBEAT_INTERVAL_SECONDS", "1"),
            ]);
            variables.extend(match backend {
                // By default a bucket is written when it holds 500 keys or 256 MiB, which no node here does.
                Backend::Buckets => [
                    ("MOONCAKE_OFFLOAD_STORAGE_BACKEND_DESCRIPTOR", "bucket_storage_backend"),
                    ("MOONCAKE_OFFLOAD_BUCKET_KEYS_LIMIT", "16"),
                ],
                // By default nothing of it is found again after a restart.
                Backend::OneFile => [
                    ("MOONCAKE_OFFLOAD_STORAGE_BACKEND_DESCRIPTOR", "offset_allocator_storage_backend"),
                    ("MOONCAKE_OFFSET_PERSIST_MODE", "strict"),
                ],
            });
        }
        variables
    }
}

/// The processes; killed when dropped.
pub(crate) struct Deployment {
    environment: Environment,
    flavour: Flavour,
    block_bytes: usize,
    segment_bytes: u64,
    variables: Vec<(String, String)>,
    /// RPC and metrics.
    master_ports: Vec<(u16, u16)>,
    etcd_port: u16,
    etcd_peer_port: u16,
    etcd: Option<Child>,
    masters: Vec<Child>,
    nodes: Vec<Worker>,
    folder: TempDir,
}

impl Deployment {
    /// Starts everything.
    pub(crate) async fn start(
        environment: &Environment,
        flavour: Flavour,
        block_bytes: usize,
        segment_bytes: u64,
    ) -> anyhow::Result<Self> {
        let mut variables: Vec<(String, String)> = flavour
            .node_variables()
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        if flavour.etcd {
            variables.push(("MC_STORE_CLUSTER_ID".to_owned(), CLUSTER.to_owned()));
        }
        let masters = if flavour.etcd { 2 } else { 1 };
        let mut deployment = Self {
            environment: environment.clone(),
            flavour,
            block_bytes,
            segment_bytes,
            variables,
            master_ports: (0..masters).map(|_| (free_port(), free_port())).collect(),
            etcd_port: free_port(),
            etcd_peer_port: free_port(),
            etcd: None,
            masters: Vec::new(),
            nodes: Vec::new(),
            folder: tempfile::tempdir().context("cannot make a temporary folder")?,
        };
        deployment.launch().await?;
        Ok(deployment)
    }

    /// Starts every process, with what a former start left on disk.
    pub(crate) async fn launch(&mut self) -> anyhow::Result<()> {
        if self.flavour.etcd {
            self.etcd = Some(self.start_etcd()?);
            listens(self.etcd_port).await.context("etcd")?;
        }
        self.start_masters().await?;
        for number in 0..NODES {
            let node = self.start_node(number).await?;
            self.nodes.push(node);
        }
        if self.flavour.etcd {
            tokio::time::sleep(STANDBY_SETTLES).await;
        }
        Ok(())
    }

    /// A client that keeps nothing.
    pub(crate) async fn client(&self, number: usize) -> anyhow::Result<Worker> {
        let log = self.folder.path().join(format!("client-{number}.log"));
        let entry = self.entry();
        Worker::start(&self.environment, &Setup { segment_bytes: 0, ..self.setup(&entry, None) }, &log).await
    }

    pub(crate) async fn kill_node(&mut self) -> anyhow::Result<()> {
        self.nodes.pop().context("there are nodes")?.kill().await
    }

    /// Kills the master that serves.
    pub(crate) async fn kill_master(&mut self) -> anyhow::Result<()> {
        let mut serving = None;
        for (position, (rpc_port, _)) in self.master_ports.iter().enumerate() {
            if TcpStream::connect(("127.0.0.1", *rpc_port)).await.is_ok() {
                ensure!(serving.is_none(), "two masters serve");
                serving = Some(position);
            }
        }
        let serving = serving.context("no master serves")?;
        self.masters.remove(serving).kill().await?;
        Ok(())
    }

    /// Starts the only master again.
    pub(crate) async fn start_masters(&mut self) -> anyhow::Result<()> {
        for (position, (rpc_port, metrics_port)) in self.master_ports.clone().into_iter().enumerate() {
            let master = self.start_master(position)?;
            self.masters.push(master);
            // Only the master that serves listens for calls.
            listens(if position == 0 { rpc_port } else { metrics_port }).await.context("a master")?;
        }
        Ok(())
    }

    pub(crate) async fn kill_all(&mut self) -> anyhow::Result<()> {
        for mut node in self.nodes.drain(..) {
            node.kill().await?;
        }
        for mut process in self.masters.drain(..).chain(self.etcd.take()) {
            process.kill().await?;
        }
        Ok(())
    }

    /// What the nodes keep on disk.
    pub(crate) fn disk(&self) -> PathBuf {
        self.folder.path().join("ssd")
    }

    fn start_etcd(&self) -> anyhow::Result<Child> {
        let (client, peer) = (
            format!("http://127.0.0.1:{}", self.etcd_port),
            format!("http://127.0.0.1:{}", self.etcd_peer_port),
        );
        let mut command = Command::new("etcd");
        command.arg("--data-dir").arg(self.folder.path().join("etcd"));
        command
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"));
        command
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"));
        command.arg(format!("--initial-cluster=default={peer}")).arg("--log-level=error");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
        command.spawn().context("etcd does not start; on Debian: apt-get install etcd-server")
    }

    fn start_master(&self, position: usize) -> anyhow::Result<Child> {
        let (rpc_port, metrics_port) = self.master_ports[position];
        let mut command = self.environment.master();
        command.arg(format!("--rpc_port={rpc_port}")).arg(format!("--metrics_port={metrics_port}"));
        command.args(["--rpc_address=127.0.0.1", "--metrics_host=127.0.0.1", "--logtostderr"]);
        command.args(self.flavour.master_flags());
        if self.flavour.etcd {
            command.arg(format!("--ha_backend_connstring=127.0.0.1:{}", self.etcd_port));
            command.arg(format!("--cluster_id={CLUSTER}"));
        }
        let log = self.folder.path().join(format!("master-{position}.log"));
        let log = File::options().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
        command.spawn().context("a master does not start")
    }

    async fn start_node(&self, number: usize) -> anyhow::Result<Worker> {
        let log = self.folder.path().join(format!("node-{number}.log"));
        let entry = self.entry();
        let ssd = self.disk().join(number.to_string());
        if self.flavour.disk.is_some() {
            std::fs::create_dir_all(&ssd)?;
        }
        let setup = self.setup(&entry, self.flavour.disk.map(|_| ssd.as_path()));
        Worker::start(&self.environment, &setup, &log).await
    }

    fn setup<'a>(&'a self, master: &'a str, ssd: Option<&'a Path>) -> Setup<'a> {
        Setup {
            block_bytes: self.block_bytes,
            segment_bytes: self.segment_bytes,
            master,
            ssd,
            variables: &self.variables,
        }
    }

    /// How clients find the master.
    fn entry(&self) -> String {
        match self.flavour.etcd {
            true => format!("etcd://127.0.0.1:{}", self.etcd_port),
            false => format!("127.0.0.1:{}", self.master_ports[0].0),
        }
    }
}

/// Waits until something listens on a loopback port.
async fn listens(port: u16) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    while TcpStream::connect(("127.0.0.1", port)).await.is_err() {
        ensure!(Instant::now() < until, "it does not listen within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    Ok(())
}
