//! kill -9 in the middle of everything: what was acknowledged as durable is there, and nothing that is
//! read is wrong (INV-ACK, INV-BYTES).

#![allow(clippy::unwrap_used)] // A test ends where it cannot go on.
#![allow(clippy::print_stdout)] // The process that is killed tells its acknowledgements on its output.

mod common;

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::*;
use hearth_proto::AckLevel;
use hearth_store::{GetOutcome, Store};
use rand::Rng;
use tempfile::tempdir;

const DIR: &str = "HEARTH_STORE_CRASH_DIR";
const FIRST: &str = "HEARTH_STORE_CRASH_FIRST";
const EXTENTS: &str = "HEARTH_STORE_CRASH_EXTENTS";
/// The test that a process started to be killed runs: it finds its orders and does nothing else.
const WRITING_TEST: &str = "durable_blocks_survive_kill_9";

/// What a process that is to be killed was started with.
struct Orders {
    dir: String,
    first: u64,
    extents: u64,
}

impl Orders {
    fn from_environment() -> Option<Self> {
        let dir = std::env::var(DIR).ok()?;
        let number = |name| std::env::var(name).unwrap().parse().unwrap();
        Some(Self { dir, first: number(FIRST), extents: number(EXTENTS) })
    }
}

/// Puts blocks until the process is killed and prints the number of each that was acknowledged as durable.
fn write_until_killed(orders: &Orders) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(async {
        let (store, _) = open(Some(Path::new(&orders.dir)), 4, orders.extents);
        let next = Arc::new(AtomicU64::new(orders.first));
        let mut tasks = tokio::task::JoinSet::new();
        for _ in 0..32 {
            tasks.spawn(put_without_end(store.clone(), Arc::clone(&next)));
        }
        tasks.join_next().await.unwrap().unwrap();
    });
}

async fn put_without_end(store: Store, next: Arc<AtomicU64>) {
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        put(&store, n, AckLevel::Durable).await;
        // One write for the whole line, so that a kill never leaves half a number.
        let line = format!("acked {n}\n");
        std::io::stdout().lock().write_all(line.as_bytes()).unwrap();
    }
}

/// Starts a child on `dir`, kills it at a random time after its first acknowledgements, and returns the
/// numbers it acknowledged.
fn run_and_kill(dir: &Path, first: u64, extents: u64) -> Vec<u64> {
    let mut child = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", WRITING_TEST, "--nocapture"])
        .env(DIR, dir)
        .env(FIRST, first.to_string())
        .env(EXTENTS, extents.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(child.stdout.take().unwrap()).lines();
    let mut killer = None;
    let mut acked = Vec::new();
    for line in lines {
        let Ok(line) = line else { break };
        let Some(n) = line.rsplit_once("acked ").and_then(|(_, n)| n.parse().ok()) else { continue };
        acked.push(n);
        killer.get_or_insert_with(|| {
            Instant::now() + Duration::from_micros(rand::rng().random_range(0..400_000))
        });
        if killer.is_some_and(|when| Instant::now() >= when) {
            // SIGKILL. What is still in the pipe is read until it ends.
            child.kill().unwrap();
        }
    }
    child.wait().unwrap();
    assert!(!acked.is_empty(), "the child acknowledged nothing");
    acked
}

#[test]
fn durable_blocks_survive_kill_9() {
    match Orders::from_environment() {
        Some(orders) => write_until_killed(&orders),
        None => tokio::runtime::Runtime::new().unwrap().block_on(kill_and_read_all()),
    }
}

async fn kill_and_read_all() {
    let dir = tempdir().unwrap();
    let mut acked = Vec::new();
    for round in 0..5 {
        // Larger than all rounds together can fill, so that nothing is evicted.
        acked.extend(run_and_kill(dir.path(), round * 1_000_000, 4_096));
        let (store, report) = open(Some(dir.path()), 4, 4_096);
        assert_eq!(report.dropped, 0, "round {round}");
        for n in &acked {
            assert_bytes(&hit(&store, *n).await, *n);
        }
        let stats = store.stats();
        assert_eq!((stats.corrupt_blocks, stats.stale_blocks, stats.io_errors), (0, 0, 0), "round {round}");
    }
    println!("{} acknowledged blocks survived five kills", acked.len());
}

/// A restart must not make a block that is put again less durable than it was.
#[tokio::test]
async fn durable_blocks_that_are_put_again_after_a_restart_survive_kill_9() {
    let dir = tempdir().unwrap();
    let mut acked = BTreeSet::new();
    for round in 0..5 {
        // The same blocks each time: most of those under way when the kill comes are there already.
        acked.extend(run_and_kill(dir.path(), 0, 4_096));
        let (store, report) = open(Some(dir.path()), 4, 4_096);
        assert_eq!(report.dropped, 0, "round {round}");
        for n in &acked {
            assert_bytes(&hit(&store, *n).await, *n);
        }
    }
}

#[tokio::test]
async fn with_slots_being_reused_nothing_reads_wrong_after_kill_9() {
    let dir = tempdir().unwrap();
    for round in 0..5 {
        // Sixteen extents hold 1,024 blocks, so most puts reuse a slot.
        let acked = run_and_kill(dir.path(), round * 1_000_000, 16);
        let (store, report) = open(Some(dir.path()), 8, 16);
        assert!((1..=1_024).contains(&report.blocks), "round {round}: {report:?}");
        // The victims are the least recently put, as long as not all of them were put in one moment.
        for n in acked.iter().rev().take(16) {
            assert_bytes(&hit(&store, *n).await, *n);
        }
        for delta in store.inventory() {
            let n = u64::from_le_bytes(delta.id.key.0[..8].try_into().unwrap());
            if let GetOutcome::Hit(lease) = store.get(&delta.id, soon()).await.unwrap() {
                assert_bytes(&lease, n);
            }
        }
        let stats = store.stats();
        assert!(stats.gets_nvme >= 16, "round {round}: {stats:?}");
        println!(
            "round {round}: {} acknowledged, {} readable, {} stale, {} torn",
            acked.len(),
            stats.nvme_blocks,
            stats.stale_blocks,
            stats.corrupt_blocks
        );
    }
}
