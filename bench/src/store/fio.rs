//! fio as the limit: the same file system, the same sizes, the same number of transfers in flight.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, bail, ensure};
use serde::Deserialize;
use tokio::process::Command;

use super::cost::Turn;

/// What fio does in one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job<'a> {
    pub(crate) file: &'a Path,
    /// Bytes of the file that may be touched, from its start.
    pub(crate) file_bytes: u64,
    pub(crate) block_bytes: u64,
    pub(crate) depth: usize,
    pub(crate) work: Work,
}

/// What is transferred, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Random reads for so long.
    Read(Duration),
    /// The same, and the checksum of each block is compared: what whoever gives out right bytes or none
    /// cannot do without. Of a file that was laid out for it.
    ReadVerified(Duration),
    /// Sequential writes for so long in groups of as many as are in flight, each made durable by an
    /// fdatasync before the next begins.
    ///
    /// fio's libaio does that. With `--fdatasync` its io_uring sends the sync along with the writes and
    /// nearly all of them come to nothing: the disk counts a flush for thousands of writes.
    WriteGroups(Duration),
    /// Sequential writes for so long, and one sync at the end.
    Write(Duration),
    /// Writes the whole file once, so that nothing of it is a hole.
    LayOut,
    /// The same, with a checksum in each block.
    LayOutVerified,
}

/// fio, as far as it is installed.
pub(crate) struct Fio {
    /// As it names itself.
    pub(crate) version: String,
}

impl Fio {
    /// Asks fio for its version; the error says why there is none.
    pub(crate) async fn find() -> Result<Self, String> {
        match Command::new("fio").arg("--version").stdin(Stdio::null()).output().await {
            Ok(output) if output.status.success() => {
                Ok(Self { version: String::from_utf8_lossy(&output.stdout).trim().to_owned() })
            }
            Ok(output) => Err(format!("fio --version ended with {}", output.status)),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
                Err("fio is not installed; on Debian: apt-get install fio".to_owned())
            }
            Err(error) => Err(format!("fio does not start: {error}")),
        }
    }

    /// Runs one job to its end.
    pub(crate) async fn run(&self, job: Job<'_>) -> anyhow::Result<Turn> {
        let output = Command::new("fio")
            .args(arguments(&job))
            .stdin(Stdio::null())
            .kill_on_drop(true)
            .output()
            .await
            .context("fio does not start")?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "fio ended with {}: {}", output.status, errors.trim());
        let turn = parse(&String::from_utf8_lossy(&output.stdout), job.work)?;
        ensure!(turn.bytes > 0 && !turn.elapsed.is_zero(), "fio moved nothing: {}", errors.trim());
        Ok(turn)
    }
}

/// Direct transfers; through io_uring from registered buffers and files, as the store's own ring makes them.
fn arguments(job: &Job<'_>) -> Vec<String> {
    let mut arguments = vec![
        "--name=limit".to_owned(),
        // A colon separates file names.
        format!("--filename={}", job.file.display().to_string().replace(':', "\\:")),
        format!("--size={}", job.file_bytes),
        format!("--bs={}", job.block_bytes),
        format!("--iodepth={}", job.depth),
        "--output-format=json".to_owned(),
    ];
    let mut add = |more: &[&str]| arguments.extend(more.iter().map(|&text| text.to_owned()));
    add(&["--direct=1"]);
    match job.work {
        Work::Read(_) | Work::ReadVerified(_) => {
            add(&["--readonly", "--rw=randread", "--norandommap", "--randrepeat=0"]);
        }
        Work::WriteGroups(_) => add(&["--rw=write", "--ioengine=libaio"]),
        Work::Write(_) | Work::LayOut | Work::LayOutVerified => add(&["--rw=write", "--end_fsync=1"]),
    }
    match job.work {
        Work::ReadVerified(_) => add(&["--verify=crc32c", "--verify_fatal=1", "--verify_state_save=0"]),
        Work::LayOutVerified => add(&["--verify=crc32c", "--do_verify=0", "--verify_state_save=0"]),
        _ => {}
    }
    match job.work {
        Work::WriteGroups(_) => arguments.push(format!("--fdatasync={}", job.depth)),
        _ => add(&["--ioengine=io_uring", "--fixedbufs=1", "--registerfiles=1"]),
    }
    if let Work::Read(time) | Work::ReadVerified(time) | Work::WriteGroups(time) | Work::Write(time) =
        job.work
    {
        arguments.push("--time_based".to_owned());
        arguments.push(format!("--runtime={}ms", time.as_millis()));
    }
    arguments
}

#[derive(Deserialize)]
struct Output {
    jobs: Vec<JobOutput>,
}

#[derive(Deserialize)]
struct JobOutput {
    error: i32,
    read: Direction,
    write: Direction,
    /// Milliseconds.
    job_runtime: u64,
    /// Percent of the run time.
    usr_cpu: f64,
    /// Percent of the run time.
    sys_cpu: f64,
}

#[derive(Deserialize)]
struct Direction {
    io_bytes: u64,
    /// Milliseconds.
    runtime: u64,
}

fn parse(json: &str, work: Work) -> anyhow::Result<Turn> {
    // What fio has to say besides comes before the report, on the same stream.
    let report = json.find('{').map_or("", |start| &json[start..]);
    let output: Output = serde_json::from_str(report).context("fio's report cannot be read")?;
    let [job] = output.jobs.as_slice() else { bail!("fio ran {} jobs instead of one", output.jobs.len()) };
    ensure!(job.error == 0, "fio met error {}", job.error);
    let direction = match work {
        Work::Read(_) | Work::ReadVerified(_) => &job.read,
        Work::WriteGroups(_) | Work::Write(_) | Work::LayOut | Work::LayOutVerified => &job.write,
    };
    let busy = (job.usr_cpu + job.sys_cpu) / 100.0;
    Ok(Turn {
        bytes: direction.io_bytes,
        elapsed: Duration::from_millis(direction.runtime),
        cpu: Duration::from_millis(job.job_runtime).mul_f64(busy.max(0.0)),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// From fio 3.33, with the latency histograms cut out.
    const SAMPLE: &str = include_str!("fio_sample.json");

    #[test]
    fn a_report_is_read_as_fio_writes_it() {
        let turn = parse(SAMPLE, Work::Read(Duration::ZERO)).unwrap();
        assert_eq!((turn.bytes, turn.elapsed), (1_335_193_600, Duration::from_millis(702)));
        assert!((turn.cpu.as_secs_f64() - 0.701 * 0.048_502_14).abs() < 1e-9);
        assert!((turn.gb_per_s() - 1.901_985).abs() < 1e-4);
        assert_eq!(parse(SAMPLE, Work::LayOut).unwrap().bytes, 0);
        let noted = format!("note: both iodepth >= 1 and synchronous I/O engine\n{SAMPLE}");
        assert_eq!(parse(&noted, Work::Read(Duration::ZERO)).unwrap(), turn);
    }

    #[test]
    fn a_report_of_a_failure_is_one() {
        let failed = SAMPLE.replace("\"error\": 0", "\"error\": 2");
        assert!(parse(&failed, Work::LayOut).unwrap_err().to_string().contains("error 2"));
        for bad in ["", "fio: no such option", "{}", "{\"jobs\": []}"] {
            assert!(parse(bad, Work::LayOut).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn reads_cannot_write_and_writes_are_synced() {
        let job = |work| Job {
            file: Path::new("/data/a:b"),
            file_bytes: 4_096_000,
            block_bytes: 69_632,
            depth: 8,
            work,
        };
        let time = Duration::from_millis(1_500);
        let read = arguments(&job(Work::Read(time)));
        for wanted in [
            "--filename=/data/a\\:b",
            "--readonly",
            "--rw=randread",
            "--bs=69632",
            "--iodepth=8",
            "--size=4096000",
            "--direct=1",
            "--runtime=1500ms",
        ] {
            assert!(read.iter().any(|argument| argument == wanted), "{wanted} is not in {read:?}");
        }
        let verified = arguments(&job(Work::ReadVerified(time)));
        assert!(
            verified.contains(&"--verify=crc32c".to_owned()) && !read.contains(&"--verify=crc32c".to_owned())
        );
        assert!(read.iter().all(|argument| verified.contains(argument)), "and otherwise they are the same");
        let groups = arguments(&job(Work::WriteGroups(time)));
        assert!(groups.contains(&"--fdatasync=8".to_owned()) && !groups.contains(&"--readonly".to_owned()));
        assert!(groups.contains(&"--ioengine=libaio".to_owned()), "its io_uring does not wait for a sync");
        let write = arguments(&job(Work::Write(time)));
        assert!(write.contains(&"--end_fsync=1".to_owned()) && write.contains(&"--fixedbufs=1".to_owned()));
        let lay_out = arguments(&job(Work::LayOut));
        assert!(!lay_out.contains(&"--time_based".to_owned()), "the file is written once, to its end");
    }
}
