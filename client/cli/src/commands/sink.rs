//! Where the bytes of a get go. A file appears with all of them or not at all.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use anyhow::Context;
use tempfile::NamedTempFile;

/// What the bytes are written to.
pub(super) enum Sink {
    /// A file beside the one that was named, which takes its name in the end.
    Beside {
        /// The file being written; removed when dropped.
        file: NamedTempFile,
        /// The file that was named.
        path: PathBuf,
    },
    /// A pipe, a terminal or a device: what is written is gone.
    Stream {
        /// Where to.
        stream: Box<dyn Write>,
        /// Its name.
        name: String,
    },
}

impl Sink {
    /// Opens what `path` names; `-` is standard output.
    pub(super) fn open(path: &Path) -> anyhow::Result<Self> {
        if path == Path::new("-") {
            return Ok(Self::Stream { stream: Box::new(std::io::stdout()), name: "standard output".into() });
        }
        let name = path.display().to_string();
        let cannot = || format!("cannot write {name}");
        // A link stays one: it is the file it leads to that is replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        if fs::metadata(&path).is_ok_and(|found| !found.is_file()) {
            let file = File::options().write(true).open(&path).with_context(cannot)?;
            return Ok(Self::Stream { stream: Box::new(file), name });
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let permissions = fs::Permissions::from_mode(0o666);
        let mut named = tempfile::Builder::new();
        let named = named.prefix(".hearth-get-").suffix(".part").permissions(permissions);
        Ok(Self::Beside { file: named.tempfile_in(folder).with_context(cannot)?, path })
    }

    /// Writes the next bytes.
    pub(super) fn write(&mut self, bytes: &[u8]) -> anyhow::Result<()> {
        let written = match self {
            Self::Beside { file, .. } => file.write_all(bytes),
            Self::Stream { stream, .. } => stream.write_all(bytes),
        };
        written.context("cannot write the bytes")
    }

    /// All bytes were written: the file takes its name.
    pub(super) fn finish(self) -> anyhow::Result<()> {
        match self {
            Self::Beside { file, path } => {
                file.persist(&path).with_context(|| format!("cannot write {}", path.display()))?;
            }
            Self::Stream { mut stream, .. } => stream.flush().context("cannot write the bytes")?,
        }
        Ok(())
    }

    /// Not all bytes came: leaves the file that was named as it was. Says what became of it.
    pub(super) fn give_up(self) -> String {
        match self {
            Self::Beside { path, .. } if path.exists() => format!("{} was left as it was", path.display()),
            Self::Beside { path, .. } => format!("{} was not written", path.display()),
            Self::Stream { name, .. } => format!("{name} got only those before the first gap"),
        }
    }
}
