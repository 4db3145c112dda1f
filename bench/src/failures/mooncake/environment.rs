//! The Python environment that Mooncake lies in, made when it is first needed.

use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, ensure};
use tokio::process::Command;

/// What is installed, from PyPI: Mooncake without CUDA, its master and its client.
const PACKAGE: &str = "mooncake-transfer-engine-non-cuda";
pub(crate) const VERSION: &str = "0.3.13.post1";
const WORKER: &str = include_str!("../../../peers/mooncake.py");
const SAYS_VERSION: &str =
    "import mooncake.store, importlib.metadata as m, sys; print(m.version(sys.argv[1]))";

/// An environment in which Mooncake can be imported.
#[derive(Clone, Debug)]
pub(crate) struct Environment {
    python: PathBuf,
}

impl Environment {
    /// Finds it in the user's cache folder, or makes it there; the error says why it cannot be had.
    pub(crate) async fn open() -> Result<Self, String> {
        let folder = cache_folder()?.join(format!("mooncake-{VERSION}"));
        let python = folder.join("bin/python");
        if says_version(&python).await.is_err() {
            eprintln!("failures: installing {PACKAGE} {VERSION} from PyPI into {}", folder.display());
            let why = |error| {
                format!("{error:#}; on Debian: apt-get install python3-venv libcurl4 libibverbs1 libnuma1")
            };
            install(&folder, &python).await.map_err(why)?;
        }
        Ok(Self { python })
    }

    /// The process of `bench/peers/mooncake.py`.
    pub(crate) fn worker(&self) -> Command {
        let mut command = Command::new(&self.python);
        command.args(["-c", WORKER]).kill_on_drop(true);
        command
    }

    /// The master, which takes the place of its starter, so that killing one kills the other.
    pub(crate) fn master(&self) -> Command {
        let mut command = Command::new(&self.python);
        command.args(["-m", "mooncake.cli"]).kill_on_drop(true);
        command
    }
}

async fn install(folder: &Path, python: &Path) -> anyhow::Result<()> {
    let mut venv = Command::new("python3");
    succeed(venv.args(["-m", "venv"]).arg(folder)).await?;
    let mut pip = Command::new(python);
    succeed(pip.args(["-m", "pip", "install", "--quiet"]).arg(format!("{PACKAGE}=={VERSION}"))).await?;
    says_version(python).await
}

async fn says_version(python: &Path) -> anyhow::Result<()> {
    let said = succeed(Command::new(python).args(["-c", SAYS_VERSION, PACKAGE])).await?;
    ensure!(said.trim() == VERSION, "it is version {}", said.trim());
    Ok(())
}

/// Runs to the end; returns what was said.
async fn succeed(command: &mut Command) -> anyhow::Result<String> {
    let program = command.as_std().get_program().to_owned();
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.with_context(|| format!("{} does not start", program.display()))?;
    let errors = String::from_utf8_lossy(&output.stderr);
    let last = errors.trim().lines().last().unwrap_or("");
    ensure!(output.status.success(), "{} ended with {}: {last}", program.display(), output.status);
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

fn cache_folder() -> Result<PathBuf, String> {
    let named = |name| std::env::var_os(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    let cache = named("XDG_CACHE_HOME").or_else(|| named("HOME").map(|home| home.join(".cache")));
    Ok(cache.ok_or("neither XDG_CACHE_HOME nor HOME says where to install it")?.join("hearth"))
}
