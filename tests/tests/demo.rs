//! `hearth-bench demo`: passes only when blocks came back, and leaves nothing behind however it ends.

use std::path::Path;
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::time::{Duration, Instant};

use hearth_tests::{TestCluster, sibling_binary};
use rustix::process::{Pid, Signal, kill_process};

/// A small demo with its data in `folder`.
fn demo(folder: &Path, flags: &[&str]) -> Command {
    let mut command = Command::new(sibling_binary("hearth-bench").expect("hearth-bench is built"));
    command
        .args(["demo", "--host-capacity", "256MiB", "--nvme-capacity", "512MiB", "--agents", "1"])
        .args(["--out".as_ref(), folder.join("report").as_os_str()])
        .args(flags)
        .env("TMPDIR", folder);
    command
}

fn run(folder: &Path, flags: &[&str]) -> (Output, String) {
    let output = demo(folder, flags).output().expect("the demo runs");
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    (output, error)
}

/// Processes whose command line names `folder`.
fn processes_of(folder: &Path) -> usize {
    let folder = folder.to_str().expect("a printable path");
    let names_it = |entry: &std::fs::DirEntry| {
        // A process may end while it is looked at.
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        String::from_utf8_lossy(&line).contains(&format!("--data-dir\0{folder}"))
    };
    std::fs::read_dir("/proc").expect("Linux").flatten().filter(names_it).count()
}

/// What lies in `folder` beside the report.
fn left_in(folder: &Path) -> Vec<std::ffi::OsString> {
    let entries = std::fs::read_dir(folder).expect("the folder is there").flatten();
    entries.map(|entry| entry.file_name()).filter(|name| name != "report").collect()
}

async fn ended(child: &mut Child) -> ExitStatus {
    let until = Instant::now() + Duration::from_secs(30);
    loop {
        if let Some(status) = child.try_wait().expect("a child can be waited for") {
            return status;
        }
        assert!(Instant::now() < until, "the demo did not end");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[test]
fn a_demo_that_served_passes_and_leaves_only_its_report() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (output, error) = run(folder.path(), &["--requests", "12"]);
    assert_eq!(output.status.code(), Some(0), "{error}");
    assert!(
        folder.path().join("report/replay.svg").is_file()
            && folder.path().join("report/replay.json").is_file()
    );
    assert_eq!((left_in(folder.path()), processes_of(folder.path())), (Vec::new(), 0));
}

#[test]
fn a_demo_that_got_nothing_back_fails_and_says_why() {
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (output, error) = run(folder.path(), &["--requests", "12", "--nodes", "1", "--deadline-ms", "1"]);
    assert_eq!(output.status.code(), Some(5), "{error}");
    assert!(error.contains("hearth-bench: "), "{error}");
    assert_eq!((left_in(folder.path()), processes_of(folder.path())), (Vec::new(), 0));
}

#[tokio::test]
async fn a_demo_that_is_ended_early_or_late_stops_its_nodes_and_removes_their_data() {
    for (nodes, signal) in [(1, Signal::TERM), (3, Signal::INT)] {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let mut child = demo(folder.path(), &["--requests", "100000"])
            .stderr(Stdio::null())
            .spawn()
            .expect("the demo starts");
        TestCluster::wait_until("the demo has started its nodes", Duration::from_secs(60), async || {
            processes_of(folder.path()) >= nodes
        })
        .await
        .expect("nodes start");
        kill_process(Pid::from_raw(child.id() as i32).expect("a pid"), signal).expect("it runs");
        let status = ended(&mut child).await;
        assert_eq!(status.code(), Some(1), "{signal:?}");
        assert_eq!((left_in(folder.path()), processes_of(folder.path())), (Vec::new(), 0), "{signal:?}");
    }
}
