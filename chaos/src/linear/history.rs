//! What clients did and were told, as lines of JSON.

use std::io::{BufRead, Write};
use std::path::Path;
use std::sync::{Mutex, PoisonError};
use std::time::Instant;

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

/// Collects records from all clients.
#[derive(Debug)]
pub(super) struct History {
    began: Instant,
    records: Mutex<Vec<Record>>,
}

impl Default for History {
    fn default() -> Self {
        Self { began: Instant::now(), records: Mutex::default() }
    }
}

impl History {
    /// Nanoseconds since the history began. One clock for all clients, which are in one process.
    pub(super) fn now_ns(&self) -> u64 {
        u64::try_from(self.began.elapsed().as_nanos()).unwrap_or(u64::MAX)
    }

    /// Notes an operation that has ended, or whose end nobody knows.
    pub(super) fn note(&self, record: Record) {
        self.records.lock().unwrap_or_else(PoisonError::into_inner).push(record);
    }

    /// All records, by when they began.
    pub(super) fn into_records(self) -> Vec<Record> {
        let mut records = self.records.into_inner().unwrap_or_else(PoisonError::into_inner);
        records.sort_by_key(|record| record.began_ns);
        records
    }
}

/// Writes a history, one line for each record.
///
/// # Errors
/// If the file cannot be written.
pub(super) fn write(path: &Path, records: &[Record]) -> anyhow::Result<()> {
    let file = std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?;
    let mut file = std::io::BufWriter::new(file);
    for record in records {
        serde_json::to_writer(&mut file, record)?;
        file.write_all(b"\n")?;
    }
    Ok(file.flush()?)
}

/// Reads a history that a run has kept.
///
/// # Errors
/// If it cannot be read.
pub fn read(path: &Path) -> anyhow::Result<Vec<Record>> {
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {}", path.display()))?;
    let lines = std::io::BufReader::new(file).lines();
    lines.map(|line| Ok(serde_json::from_str(&line?)?)).collect()
}
