//! What clients did and were told, as lines of JSON.

use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::model::{Operation, Said};

/// How an operation ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// The answer, and when it came.
    Said {
        /// Nanoseconds since the history began.
        at_ns: u64,
        /// The answer.
        said: Said,
    },
    /// Nobody knows: it may have happened at any time after it began, or may yet happen, or never.
    Unknown,
}

/// One operation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Record {
    /// Who did it; a client does one thing at a time.
    pub client: u32,
    /// What it is done to; operations on different keys do not meet.
    pub key: u64,
    /// What was done.
    pub operation: Operation,
    /// When it began, in nanoseconds since the history began.
    pub began_ns: u64,
    /// How it ended.
    pub outcome: Outcome,
}

/// What holds for a whole history: the first line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Header {
    /// The seed of clients and faults.
    pub seed: u64,
    /// When the history began, in milliseconds since 1970, by a clock that no fault touches.
    pub began_ms: u64,
    /// Whether clocks of nodes jumped. Where none did, every node has the clock that the history has.
    pub clocks_jump: bool,
}

/// A whole history.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct History {
    /// What holds for all of it.
    pub header: Header,
    /// By when they began.
    pub records: Vec<Record>,
}

impl History {
    /// Writes the history, one line for each record.
    ///
    /// # Errors
    /// If the file cannot be written.
    pub fn write(&self, path: &Path) -> anyhow::Result<()> {
        let file = std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
        let mut file = std::io::BufWriter::new(file);
        serde_json::to_writer(&mut file, &self.header)?;
        file.write_all(b"\n")?;
        for record in &self.records {
            serde_json::to_writer(&mut file, record)?;
            file.write_all(b"\n")?;
        }
        Ok(file.flush()?)
    }

    /// Reads a history that a run has kept.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(path: &Path) -> anyhow::Result<Self> {
        let file = std::fs::File::open(path).with_context(|| format!("cannot open {}", path.display()))?;
        let mut lines = std::io::BufReader::new(file).lines();
        let header = lines.next().context("the file is empty")??;
        let header = serde_json::from_str(&header).context("the first line is not that of a history")?;
        let records = lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect::<anyhow::Result<_>>()?;
        Ok(Self { header, records })
    }
}

/// Collects records from all clients.
#[derive(Debug)]
pub(super) struct Recorder {
    began: Instant,
    began_ms: u64,
    records: Mutex<Vec<Record>>,
}

impl Default for Recorder {
    fn default() -> Self {
        let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let began_ms = u64::try_from(since.as_millis()).unwrap_or(u64::MAX);
        Self { began: Instant::now(), began_ms, records: Mutex::default() }
    }
}

impl Recorder {
    /// Nanoseconds since the history began. One clock for all clients, which are in one process.
    pub(super) fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Notes an operation that has ended, or whose end nobody knows.
    pub(super) fn note(&self, record: Record) {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    }

    /// The history, once all clients have ended.
    pub(super) fn into_history(self, seed: u64, clocks_jump: bool) -> History {
        let mut records = self.records.into_inner().unwrap_or_else(PoisonError::into_inner);
        records.sort_by_key(|record| record.began_ns);
        History { header: Header { seed, began_ms: self.began_ms, clocks_jump }, records }
    }
}
