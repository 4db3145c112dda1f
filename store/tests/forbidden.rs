//! A store where the system forbids io_uring, as container runtimes do.
#![allow(clippy::unwrap_used)] // A test ends where it cannot go on.
#![allow(unsafe_code)] // A seccomp filter is installed in a child process, for which there is no safe call.

mod common;

use std::process::Command;

use common::*;
use hearth_proto::AckLevel;
use hearth_store::{Driver, DriverOptions, OpenError, Store};
use tempfile::tempdir;

/// Set in the child.
const CHILD: &str = "HEARTH_TEST_FORBIDDEN";

/// Makes io_uring_setup fail with EPERM in this thread and in those it starts.
fn forbid_io_uring() {
    let statement = |code, k| libc::sock_filter { code, jt: 0, jf: 0, k };
    let syscall = libc::SYS_io_uring_setup as u32;
    let mut filter = [
        // The number of the system call is the first word of what a filter sees.
        statement((libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, 0),
        libc::sock_filter {
            code: (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16,
            jt: 0,
            jf: 1,
            k: syscall,
        },
        statement((libc::BPF_RET | libc::BPF_K) as u16, libc::SECCOMP_RET_ERRNO | libc::EPERM as u32),
        statement((libc::BPF_RET | libc::BPF_K) as u16, libc::SECCOMP_RET_ALLOW),
    ];
    let program = libc::sock_fprog { len: filter.len() as u16, filter: filter.as_mut_ptr() };
    // SAFETY: takes plain numbers.
    let rc = unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) };
    assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
    // SAFETY: `program` describes `filter`, which the kernel copies.
    let rc = unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) };
    assert_eq!(rc, 0, "{}", std::io::Error::last_os_error());
}

/// Names of this process's threads.
fn threads() -> Vec<String> {
    let tasks = std::fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.map(|task| std::fs::read_to_string(task.unwrap().path().join("comm")).unwrap());
    names.map(|name| name.trim().to_owned()).collect()
}

/// Runs `body` in a process of its own that has no io_uring: the named test, started anew.
fn without_io_uring(test: &str, body: impl Future<Output = ()>) {
    if std::env::var_os(CHILD).is_some() {
        forbid_io_uring();
        tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap().block_on(body);
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test, "--nocapture"])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let text =
        String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && text.contains("1 passed"), "{text}");
}

#[test]
fn threads_serve_the_store_where_io_uring_is_forbidden() {
    without_io_uring("threads_serve_the_store_where_io_uring_is_forbidden", async {
        let dir = tempdir().unwrap();
        let (store, _) = open(Some(dir.path()), 4, 16);
        assert!(threads().contains(&"hearth-disk-0".into()), "{:?}", threads());
        assert!(!threads().contains(&"hearth-disk".into()), "{:?}", threads());
        for n in 0..500 {
            let ack = if n % 10 == 0 { AckLevel::Durable } else { AckLevel::Host };
            put(&store, n, ack).await;
        }
        store.flush().await;
        store.close().await;
        drop(store);
        let (store, report) = open(Some(dir.path()), 4, 16);
        assert_eq!(report.blocks, 500);
        for n in 0..500 {
            assert_bytes(&hit(&store, n).await, n);
        }
        assert_eq!(store.stats().io_errors, 0);
        store.close().await;
    });
}

#[test]
fn a_store_that_insists_on_io_uring_says_that_it_is_forbidden() {
    without_io_uring("a_store_that_insists_on_io_uring_says_that_it_is_forbidden", async {
        let dir = tempdir().unwrap();
        let mut config = config(Some(dir.path()), 4, 16);
        let nvme = config.nvme.as_mut().unwrap();
        nvme.driver = DriverOptions { driver: Driver::IoUring, ..DriverOptions::default() };
        let Err(OpenError::Io { source, .. }) = Store::open(config) else { panic!("the store opened") };
        assert_eq!(source.kind(), std::io::ErrorKind::PermissionDenied);
    });
}

#[tokio::test]
async fn a_store_opens_with_the_driver_that_it_is_told() {
    for driver in [Driver::Threads, Driver::IoUring, Driver::Auto] {
        let dir = tempdir().unwrap();
        let mut config = config(Some(dir.path()), 4, 16);
        config.nvme.as_mut().unwrap().driver = DriverOptions { driver, ..DriverOptions::default() };
        let (store, _) = Store::open(config.clone()).unwrap();
        put(&store, 1, AckLevel::Durable).await;
        store.close().await;
        drop(store);
        // Whoever wrote it, any driver reads it.
        config.nvme.as_mut().unwrap().driver = DriverOptions::default();
        let (store, _) = Store::open(config).unwrap();
        assert_bytes(&hit(&store, 1).await, 1);
        store.close().await;
    }
}
