//! Reads traces: finds out compression and format from the content, then goes line by line.
//!
//! Memory holds one line and the tree of what was read so far, never the file.

mod claude_code;
mod mooncake;

use std::fs::File;
use std::io::{self, BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hearth_proto::limits::TRACE_LINE_BYTES_MAX;
use hearth_proto::{Classified, ErrorKind};
use serde::Deserialize;
use serde::de::IgnoredAny;
use xz2::bufread::XzDecoder;

use super::{Slice, TreeFull, Workload};

const XZ_MAGIC: [u8; 6] = [0xfd, b'7', b'z', b'X', b'Z', 0];

/// The kinds of trace that can be read. One JSON object a line, plain or xz.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TraceFormat {
    /// A session a line, with its requests and their block ids.
    ///
    /// *Source*: github callanjfox/kv-cache-tester.
    ClaudeCode,
    /// A request a line, with global ids of 512-token blocks.
    ///
    /// *Source*: github kvcache-ai/Mooncake, FAST25-release.
    Mooncake,
}

/// A trace could not be read.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// The file could not be opened or read. The caller names another, or mends its permissions.
    #[error("cannot read {}", file.display())]
    File {
        /// The trace.
        file: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The first line belongs to no known format. The caller converts the trace.
    #[error(
        "{}: the first line is of no known format ({found}); expected one JSON object a line, with `requests` \
         (sessions of kv-cache-tester) or `timestamp` and `hash_ids` (requests of Mooncake), plain or xz",
        file.display()
    )]
    Format {
        /// The trace.
        file: PathBuf,
        /// What the line was instead.
        found: String,
    },
    /// A line is malformed. The caller mends it or takes it out.
    #[error("{}, line {line}: {wrong}; {mend}", file.display())]
    Line {
        /// The trace.
        file: PathBuf,
        /// Number of the line, from 1.
        line: u64,
        /// What is wrong with it.
        wrong: String,
        /// What to do about it.
        mend: &'static str,
    },
    /// The trace names too many blocks. The caller replays a part of it.
    #[error(transparent)]
    TreeFull(#[from] TreeFull),
}

impl Classified for ReadError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::FixRequest
    }
}

/// What is wrong with one line, before the file and the number are known.
#[derive(Debug)]
enum LineFault {
    Wrong { wrong: String, mend: &'static str },
    TreeFull(TreeFull),
}

impl From<TreeFull> for LineFault {
    fn from(full: TreeFull) -> Self {
        Self::TreeFull(full)
    }
}

impl From<serde_json::Error> for LineFault {
    fn from(error: serde_json::Error) -> Self {
        let mend = if error.is_eof() {
            "the line ends too early: fetch the file again, or remove the line"
        } else {
            "correct the field, or remove the line"
        };
        Self::Wrong { wrong: error.to_string(), mend }
    }
}

/// Tokens of one prompt that are believed; more is a slip of the pen, or an attack on the sums.
const PROMPT_TOKENS_MAX: u64 = u32::MAX as u64;
/// The longest trace that is believed: ten years.
const TRACE_SECONDS_MAX: f64 = 10.0 * 366.0 * 86_400.0;

/// A time of a trace, in seconds since its beginning.
fn trace_time(seconds: f64) -> Result<Duration, LineFault> {
    let believed = (0.0..=TRACE_SECONDS_MAX).contains(&seconds);
    Duration::try_from_secs_f64(seconds).ok().filter(|_| believed).ok_or_else(|| LineFault::Wrong {
        wrong: format!("a time of {seconds} s"),
        mend: "give the time since the trace began, at most ten years",
    })
}

/// Checks that a prompt has a believable length and not more blocks than tokens need.
fn check_prompt(blocks: usize, block_tokens: u64, tokens: u64) -> Result<(), LineFault> {
    if tokens > PROMPT_TOKENS_MAX || blocks as u64 > tokens.div_ceil(block_tokens) {
        let wrong = format!("{blocks} blocks of {block_tokens} tokens for {tokens} tokens");
        return Err(LineFault::Wrong { wrong, mend: "correct the number of tokens or `hash_ids`" });
    }
    Ok(())
}

/// Turns the lines of one format into sessions.
trait LineReader {
    /// Takes one line.
    fn take(&mut self, line: &[u8], number: u64) -> Result<(), LineFault>;
    /// Sessions that later lines cannot change any more.
    fn finished_sessions(&self) -> usize;
    /// What was read.
    fn finish(self: Box<Self>, name: String) -> Workload;
}

/// Reads the part of the trace `file` that `slice` names, and tells its format.
///
/// # Errors
/// [`ReadError`]; each names the file, the line, what is wrong and how to mend it.
pub fn read_trace(file: &Path, slice: Slice) -> Result<(TraceFormat, Workload), ReadError> {
    let mut lines = Lines::open(file)?;
    if !lines.advance()? {
        return Err(ReadError::Format { file: file.to_owned(), found: "the file is empty".into() });
    }
    let format = detect(file, &lines.line)?;
    let mut reader: Box<dyn LineReader> = match format {
        TraceFormat::ClaudeCode => Box::new(claude_code::Reader::new()),
        TraceFormat::Mooncake => Box::new(mooncake::Reader::new()),
    };
    let enough = slice.sessions.map(|sessions| sessions.saturating_add(slice.skip));
    loop {
        reader.take(&lines.line, lines.number).map_err(|fault| lines.fault(fault))?;
        let done = enough.is_some_and(|enough| reader.finished_sessions() >= enough);
        if done || !lines.advance()? {
            break;
        }
    }
    let name = file.file_name().map_or_else(|| "trace".into(), |name| name.to_string_lossy().into_owned());
    Ok((format, reader.finish(name).slice(slice)))
}

fn detect(file: &Path, line: &[u8]) -> Result<TraceFormat, ReadError> {
    #[derive(Deserialize)]
    struct Probe {
        requests: Option<IgnoredAny>,
        timestamp: Option<IgnoredAny>,
        hash_ids: Option<IgnoredAny>,
    }
    let unknown = |found: String| ReadError::Format { file: file.to_owned(), found };
    let probe: Probe = serde_json::from_slice(line).map_err(|error| unknown(error.to_string()))?;
    match probe {
        Probe { requests: Some(_), .. } => Ok(TraceFormat::ClaudeCode),
        Probe { timestamp: Some(_), hash_ids: Some(_), .. } => Ok(TraceFormat::Mooncake),
        Probe { .. } => Err(unknown("an object without the fields of either".into())),
    }
}

/// The lines of a plain or compressed file, one at a time, each of bounded length.
struct Lines {
    file: PathBuf,
    input: Box<dyn BufRead>,
    line: Vec<u8>,
    number: u64,
}

impl Lines {
    fn open(file: &Path) -> Result<Self, ReadError> {
        let failed = |source| ReadError::File { file: file.to_owned(), source };
        let mut raw = BufReader::with_capacity(1 << 18, File::open(file).map_err(failed)?);
        let compressed = raw.fill_buf().map_err(failed)?.starts_with(&XZ_MAGIC);
        let input: Box<dyn BufRead> = if compressed {
            Box::new(BufReader::with_capacity(1 << 18, XzDecoder::new_multi_decoder(raw)))
        } else {
            Box::new(raw)
        };
        Ok(Self { file: file.to_owned(), input, line: Vec::new(), number: 0 })
    }

    /// Goes to the next line that is not blank; false at the end of the file.
    fn advance(&mut self) -> Result<bool, ReadError> {
        loop {
            self.line.clear();
            self.number += 1;
            let mut bounded = (&mut self.input).take(TRACE_LINE_BYTES_MAX as u64 + 1);
            let read = bounded.read_until(b'\n', &mut self.line);
            let read = read.map_err(|source| ReadError::File { file: self.file.clone(), source })?;
            if read == 0 {
                return Ok(false);
            }
            if self.line.len() > TRACE_LINE_BYTES_MAX {
                let wrong = format!("longer than {TRACE_LINE_BYTES_MAX} bytes");
                return Err(
                    self.fault(LineFault::Wrong { wrong, mend: "split the session, or remove the line" })
                );
            }
            if !self.line.iter().all(u8::is_ascii_whitespace) {
                return Ok(true);
            }
        }
    }

    fn fault(&self, fault: LineFault) -> ReadError {
        match fault {
            LineFault::Wrong { wrong, mend } => {
                ReadError::Line { file: self.file.clone(), line: self.number, wrong, mend }
            }
            LineFault::TreeFull(full) => ReadError::TreeFull(full),
        }
    }
}

#[cfg(test)]
mod tests;
