//! One hearthd process: started, signalled, waited for, and never left behind.

use std::fs::File;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use rustix::process::{Pid, Signal, kill_process};

use crate::clock::{FakeClock, write_offset};
use crate::http::http_get_from;
use crate::ports::free_port;

/// How long asking a node whether it is ready may take.
const READY_CALL: Duration = Duration::from_secs(1);

/// How a node is started.
#[derive(Debug, Clone)]
pub struct NodeOptions {
    /// Size of the arena, as a flag says it.
    pub host_capacity: String,
    /// Size of the slabs, as a flag says it.
    pub nvme_capacity: String,
    /// Any further flags.
    pub extra: Vec<String>,
    /// Where it runs, if not on loopback beside this process.
    pub network: Option<NodeNetwork>,
    /// Lets its clock be set by [`NodeProcess::set_clock`]; without it the node has the system's.
    pub clock: Option<FakeClock>,
}

/// A network namespace, which only root can make, and the address of a node in it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NodeNetwork {
    /// Name of the namespace, as `ip netns` knows it.
    pub namespace: String,
    /// What the node listens on.
    pub address: Ipv4Addr,
}

impl Default for NodeOptions {
    fn default() -> Self {
        Self {
            host_capacity: "256MiB".into(),
            nvme_capacity: "1GiB".into(),
            extra: Vec::new(),
            network: None,
            clock: None,
        }
    }
}

/// A hearthd process with its ports and its folder. Killed when dropped.
#[derive(Debug)]
pub struct NodeProcess {
    /// Port of the gRPC services.
    pub control_port: u16,
    /// Port of the block service.
    pub data_port: u16,
    /// Port of health and metrics.
    pub http_port: u16,
    folder: PathBuf,
    join: Option<String>,
    options: NodeOptions,
    child: Option<Child>,
}

impl NodeProcess {
    /// Starts a node that keeps everything under `folder`; does not wait until it is ready.
    ///
    /// # Errors
    /// If the binary or the folder cannot be used.
    pub fn start(folder: PathBuf, join: Option<String>, options: NodeOptions) -> anyhow::Result<Self> {
        std::fs::create_dir_all(&folder)?;
        if options.clock.is_some() {
            write_offset(&clock_file(&folder), 0)?;
        }
        let mut node = Self {
            control_port: free_port(),
            data_port: free_port(),
            http_port: free_port(),
            folder,
            join,
            options,
            child: None,
        };
        node.launch()?;
        Ok(node)
    }

    /// Starts the process again, with the same ports and folder.
    ///
    /// # Errors
    /// If it still runs, or cannot be started.
    pub fn launch(&mut self) -> anyhow::Result<()> {
        if self.is_running() {
            bail!("the node runs already");
        }
        let log = File::options().create(true).append(true).open(self.log_path())?;
        let mut command = match &self.options.network {
            None => Command::new(hearthd_binary()?),
            Some(network) => {
                // It becomes hearthd, so signals reach that.
                let mut command = Command::new("ip");
                command.args(["netns", "exec", &network.namespace]).arg(hearthd_binary()?).arg("--insecure");
                command
            }
        };
        command
            .args(["--data-dir".as_ref(), self.data_dir().as_os_str()])
            .args(["--listen", &self.control_address()])
            .args(["--data-listen", &format!("{}:{}", self.host(), self.data_port)])
            .args(["--http-listen", &format!("{}:{}", self.host(), self.http_port)])
            .args(["--host-capacity", &self.options.host_capacity])
            .args(["--nvme-capacity", &self.options.nvme_capacity])
            .args(&self.options.extra)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log);
        if let Some(seed) = &self.join {
            command.args(["--join", seed]);
        }
        if let Some(clock) = &self.options.clock {
            clock.apply(&mut command, &clock_file(&self.folder));
        }
        self.child = Some(command.spawn().context("cannot start hearthd")?);
        Ok(())
    }

    /// `host:port` of the gRPC services.
    pub fn control_address(&self) -> String {
        format!("{}:{}", self.host(), self.control_port)
    }

    /// What the node listens on.
    fn host(&self) -> Ipv4Addr {
        self.options.network.as_ref().map_or(Ipv4Addr::LOCALHOST, |network| network.address)
    }

    /// The node's data folder.
    pub fn data_dir(&self) -> PathBuf {
        self.folder.join("data")
    }

    /// Where the node's log goes.
    pub fn log_path(&self) -> PathBuf {
        self.folder.join("hearthd.log")
    }

    /// Whether the process has not ended.
    pub fn is_running(&mut self) -> bool {
        self.child.as_mut().is_some_and(|child| matches!(child.try_wait(), Ok(None)))
    }

    /// Waits until /readyz says 200.
    ///
    /// # Errors
    /// If the process ends or `patience` runs out; the message holds the end of its log.
    pub async fn wait_ready(&mut self, patience: Duration) -> anyhow::Result<()> {
        let until = Instant::now() + patience;
        loop {
            if matches!(http_get_from(self.host(), self.http_port, "/readyz", READY_CALL).await, Ok((200, _)))
            {
                return Ok(());
            }
            if !self.is_running() {
                bail!("hearthd ended before it was ready:\n{}", self.log_tail());
            }
            if Instant::now() > until {
                bail!("hearthd was not ready within {patience:?}:\n{}", self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Ends the process at once, as a crash would (SIGKILL), and reaps it.
    ///
    /// # Errors
    /// If there is no process.
    pub fn kill(&mut self) -> anyhow::Result<()> {
        let mut child = self.child.take().context("the node is not running")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// Stops the process from running without ending it (SIGSTOP).
    ///
    /// # Errors
    /// If there is no process.
    pub fn pause(&self) -> anyhow::Result<()> {
        self.signal(Signal::STOP)
    }

    /// Lets a paused process go on (SIGCONT).
    ///
    /// # Errors
    /// If there is no process.
    pub fn resume(&self) -> anyhow::Result<()> {
        self.signal(Signal::CONT)
    }

    /// Sets the node's clock so far off the system's, at once and for later starts too.
    ///
    /// # Errors
    /// If the node was started with the system's clock.
    pub fn set_clock(&self, offset_ms: i64) -> anyhow::Result<()> {
        ensure!(self.options.clock.is_some(), "the node has the system's clock");
        Ok(write_offset(&clock_file(&self.folder), offset_ms)?)
    }

    /// Asks the process to end (SIGTERM) and waits for it.
    ///
    /// # Errors
    /// If it does not end within `patience`.
    pub async fn stop(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        self.signal(Signal::TERM)?;
        self.wait_end(patience).await
    }

    /// Waits for the process to end by itself.
    ///
    /// # Errors
    /// If it does not within `patience`.
    pub async fn wait_end(&mut self, patience: Duration) -> anyhow::Result<ExitStatus> {
        let until = Instant::now() + patience;
        loop {
            let child = self.child.as_mut().context("the node is not running")?;
            if let Some(status) = child.try_wait()? {
                self.child = None;
                return Ok(status);
            }
            if Instant::now() > until {
                bail!("hearthd did not end within {patience:?}:\n{}", self.log_tail());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// The last lines of the node's log.
    pub fn log_tail(&self) -> String {
        let log = std::fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(30)..].join("\n")
    }

    fn signal(&self, signal: Signal) -> anyhow::Result<()> {
        let child = self.child.as_ref().context("the node is not running")?;
        let pid = Pid::from_raw(i32::try_from(child.id())?).context("a child has a pid")?;
        kill_process(pid, signal)?;
        Ok(())
    }
}

impl Drop for NodeProcess {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended already; there is nobody to tell.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// Says how far the clock of the node is off that keeps its data here.
fn clock_file(folder: &Path) -> PathBuf {
    folder.join("clock")
}

/// The hearthd of this build.
///
/// # Errors
/// If it has not been built; the message says how to.
pub fn hearthd_binary() -> anyhow::Result<PathBuf> {
    sibling_binary("hearthd")
}

/// A binary of this build, found beside the running one.
///
/// # Errors
/// If it has not been built; the message says how to.
pub fn sibling_binary(name: &str) -> anyhow::Result<PathBuf> {
    let own = std::env::current_exe()?;
    own.ancestors()
        .skip(1)
        .take(2)
        .map(|folder: &Path| folder.join(name))
        .find(|path| path.is_file())
        .with_context(|| format!("{name} is not built beside this program: run `make build` first"))
}
