//! A disk that is smaller than the capacity says, and one that somebody else fills to the last block:
//! nothing hangs, no byte is wrong, what was acknowledged as durable is there afterwards.
//!
//! Each test makes an ext4 file system in a file and mounts it. Where that is not allowed it says so and
//! ends: there is no other way to have a disk that is really full.

#![allow(clippy::print_stdout)] // What was seen, and why nothing could be seen, is for the reader of the run.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hearth_client::{Chain, Client, ClientConfig, PutOptions, PutResult};
use hearth_proto::AckLevel;
use hearth_proto::limits::DEADLINE_GRACE_MS;
use hearth_tests::blocks::{Got, blocks, chain, get_all, put_all};
use hearth_tests::{NodeOptions, NodeProcess, TestCluster, http_get};
use tempfile::TempDir;

const BLOCK: usize = 1 << 20;
const SMALL: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(20);
/// Deadline of a call while the disk is full.
const CALL: Duration = Duration::from_secs(2);
/// What a shared machine may take to schedule the end of a call, on top of the deadline's grace.
const SCHEDULING: Duration = Duration::from_millis(950);
const MIB: u64 = 1 << 20;

/// An ext4 file system in a file, with a node on it. The node's log lies beside, so that it can tell what
/// happened.
struct SmallDisk {
    folder: TempDir,
    mounted: bool,
}

impl SmallDisk {
    /// Makes and mounts the file system; `None`, and a line that says why, where that is not possible.
    fn mount(mib: u64) -> anyhow::Result<Option<Self>> {
        let mut disk = Self { folder: tempfile::tempdir()?, mounted: false };
        File::create(disk.image())?.set_len(mib * MIB)?;
        std::fs::create_dir(disk.root())?;
        let (image, root) = (disk.image(), disk.root());
        let made = run("mkfs.ext4", &["-q".as_ref(), "-F".as_ref(), "-m".as_ref(), "0".as_ref(), &image])
            .and_then(|()| run("mount", &["-o".as_ref(), "loop".as_ref(), &image, &root]));
        if let Err(why) = made {
            println!("CANNOT RUN: a small file system could not be mounted (needs root): {why:#}");
            return Ok(None);
        }
        disk.mounted = true;
        let node = disk.node_folder();
        std::fs::create_dir(&node)?;
        std::fs::create_dir(disk.root().join("data"))?;
        std::os::unix::fs::symlink(disk.root().join("data"), node.join("data"))?;
        Ok(Some(disk))
    }

    fn image(&self) -> PathBuf {
        self.folder.path().join("disk.img")
    }

    fn root(&self) -> PathBuf {
        self.folder.path().join("disk")
    }

    fn node_folder(&self) -> PathBuf {
        self.folder.path().join("node")
    }

    fn start_node(&self) -> anyhow::Result<NodeProcess> {
        let options = NodeOptions {
            host_capacity: "256MiB".into(),
            nvme_capacity: "64GiB".into(),
            ..NodeOptions::default()
        };
        NodeProcess::start(self.node_folder(), None, options)
    }

    /// Bytes that are free, as df tells them.
    fn free_bytes(&self) -> anyhow::Result<u64> {
        let df = Command::new("df").args(["-B1", "--output=avail"]).arg(self.root()).output()?;
        let text = String::from_utf8(df.stdout)?;
        Ok(text.lines().last().context("df prints a line")?.trim().parse()?)
    }

    /// Fills the file system, and keeps it full, until the junk is dropped.
    fn fill(&self) -> anyhow::Result<Junk> {
        let path = self.root().join("junk");
        let mut file = File::create(&path)?;
        fill_once(&mut file, 1 << 20)?;
        fill_once(&mut file, 4_096)?;
        file.sync_all()?;
        let stop = Arc::new(AtomicBool::new(false));
        let stopped = Arc::clone(&stop);
        let filler = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                // Whatever the node gives back is taken too.
                fill_once(&mut file, 4_096).expect("a full disk refuses with ENOSPC and nothing else");
                std::thread::sleep(Duration::from_millis(2));
            }
        });
        Ok(Junk { path, stop, filler: Some(filler) })
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if !self.mounted {
            return;
        }
        // The kernel may take a moment to end what a killed process had in flight.
        let until = Instant::now() + Duration::from_secs(5);
        while let Err(why) = run("umount", &[&self.root()]) {
            if Instant::now() > until {
                println!("the small disk is still in use: {why:#}");
                let _ = run("umount", &["-l".as_ref(), &self.root()]);
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
}

/// A file that takes all room that there is.
struct Junk {
    path: PathBuf,
    stop: Arc<AtomicBool>,
    filler: Option<std::thread::JoinHandle<()>>,
}

impl Drop for Junk {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::SeqCst);
        if let Some(filler) = self.filler.take() {
            let _ = filler.join();
        }
        let _ = std::fs::remove_file(&self.path);
    }
}

fn fill_once(file: &mut File, piece: usize) -> std::io::Result<()> {
    let piece = vec![0x5a; piece];
    loop {
        match file.write_all(&piece) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::StorageFull => return Ok(()),
            Err(error) => return Err(error),
        }
    }
}

fn run(program: &str, arguments: &[&Path]) -> anyhow::Result<()> {
    let output = Command::new(program).args(arguments).output().with_context(|| program.to_owned())?;
    ensure!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr).trim());
    Ok(())
}

/// Takes back the blocks that RocksDB has set aside behind the ends of its logs, so that its next write
/// needs a new one. The node must be paused.
fn drop_preallocation(folder: &Path) -> anyhow::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        if name.ends_with(".log") || name.starts_with("MANIFEST") {
            let file = File::options().write(true).open(&path)?;
            file.set_len(file.metadata()?.len())?;
        }
    }
    Ok(())
}

/// What became of the blocks of one put.
struct Put {
    stored: usize,
    refused: usize,
}

/// Puts a chain and sees to it that the call ends in time, whatever comes of it.
async fn put_in_time(client: &Client, chain: &Chain, len: usize, ack: AckLevel) -> anyhow::Result<Put> {
    let options = PutOptions { ack, patience: Some(CALL) };
    let payload = blocks(chain, len);
    let started = Instant::now();
    let results = client.put(chain, &payload, options).await?;
    let elapsed = started.elapsed();
    ensure!(in_time(elapsed), "INV-DEADLINE: a put with a deadline of {CALL:?} took {elapsed:?}");
    let stored = results.iter().filter(|result| matches!(result, PutResult::Stored { .. })).count();
    Ok(Put { stored, refused: results.len() - stored })
}

async fn get_in_time(client: &Client, chain: &Chain, len: usize) -> anyhow::Result<Got> {
    let got = get_all(client, chain, len, CALL).await?;
    ensure!(in_time(got.elapsed), "INV-DEADLINE: a get with a deadline of {CALL:?} took {:?}", got.elapsed);
    Ok(got)
}

fn in_time(elapsed: Duration) -> bool {
    elapsed <= CALL + Duration::from_millis(DEADLINE_GRACE_MS) + SCHEDULING
}

fn client(node: &NodeProcess) -> anyhow::Result<Client> {
    Ok(Client::new(ClientConfig::new(vec![node.control_address()]))?)
}

async fn wait_visible(client: &Client, chain: &Chain) -> anyhow::Result<()> {
    TestCluster::wait_until("the blocks are in the directory", PATIENCE, async || {
        client.lookup(chain, None).await.held_prefix() == chain.len()
    })
    .await
}

fn log_of(node: &NodeProcess) -> String {
    std::fs::read_to_string(node.log_path()).unwrap_or_default()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_smaller_than_the_capacity_is_used_as_far_as_metadata_allows() {
    let Some(disk) = SmallDisk::mount(700).expect("a folder and a file can be made") else { return };
    let mut node = disk.start_node().expect("hearthd starts");
    let outcome = put_more_than_fits(&disk, &mut node).await;
    outcome.unwrap_or_else(|error| panic!("{error:#}\n{}", node.log_tail()));
}

async fn put_more_than_fits(disk: &SmallDisk, node: &mut NodeProcess) -> anyhow::Result<()> {
    node.wait_ready(PATIENCE).await?;
    let client = client(node)?;
    let chains: Vec<Chain> = (0..24).map(|seed| chain(seed, 32)).collect();
    for (n, chain) in chains.iter().enumerate() {
        let ack = if n % 2 == 0 { AckLevel::Durable } else { AckLevel::Host };
        put_all(&client, chain, BLOCK, ack).await?;
        ensure!(http_get(node.http_port, "/readyz", CALL).await?.0 == 200, "the node is not ready");
    }
    let mut hits = 0;
    for chain in &chains {
        hits += get_in_time(&client, chain, BLOCK).await?.hits.len();
    }
    // Three extents of 128 MiB fit beside the reserve, and a block takes a little more than its megabyte.
    ensure!(hits >= 3 * 100, "only {hits} of 768 blocks are held");
    let last = &chains[chains.len() - 2..];
    for chain in last {
        wait_visible(&client, chain).await?;
        let got = get_in_time(&client, chain, BLOCK).await?;
        ensure!(got.hits.len() == chain.len(), "what was put last is missing: {:?}", got.misses);
    }
    let free_mib = disk.free_bytes()? / MIB;
    ensure!(free_mib >= 64, "the slab left only {free_mib} MiB for metadata");
    let log = log_of(node);
    let told = log.matches("the slab cannot grow").count();
    ensure!(told == 1, "the operator is told once, not {told} times");
    ensure!(!log.contains("refuses changes"), "metadata has its room");
    println!("{hits} of 768 blocks of 1 MiB are held by a disk of 700 MiB, {free_mib} MiB are free");

    let status = node.stop(PATIENCE).await?;
    ensure!(status.success(), "the node stops cleanly");
    node.launch()?;
    node.wait_ready(PATIENCE).await?;
    for chain in last {
        wait_visible(&client, chain).await?;
        let got = get_in_time(&client, chain, BLOCK).await?;
        ensure!(got.hits.len() == chain.len(), "INV-ACK: {:?}", got.misses);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_filled_from_outside_costs_no_durable_block() {
    let Some(disk) = SmallDisk::mount(700).expect("a folder and a file can be made") else { return };
    let mut node = disk.start_node().expect("hearthd starts");
    let outcome = fill_and_free(&disk, &mut node).await;
    outcome.unwrap_or_else(|error| panic!("{error:#}\n{}", node.log_tail()));
}

async fn fill_and_free(disk: &SmallDisk, node: &mut NodeProcess) -> anyhow::Result<()> {
    node.wait_ready(PATIENCE).await?;
    let client = client(node)?;
    // All that is put, now and later, fits into three extents: two for large blocks and one, which exists
    // before the disk is full, for small ones. So nothing has to be evicted.
    let small = chain(0, 32);
    put_all(&client, &small, SMALL, AckLevel::Durable).await?;
    let before: Vec<Chain> = (1..=5).map(|seed| chain(seed, 32)).collect();
    for chain in &before {
        put_all(&client, chain, BLOCK, AckLevel::Durable).await?;
        wait_visible(&client, chain).await?;
    }

    node.pause()?;
    drop_preallocation(&node.data_dir().join("blocks/index"))?;
    drop_preallocation(&node.data_dir().join("meta/rocksdb"))?;
    let junk = disk.fill()?;
    node.resume()?;
    let mut acked = put_on_full_disk(node, &client, &before).await?;
    drop(junk);
    acked.push(small);

    if let Err(problem) = works(node, &client, 1_000).await {
        println!("the node wants to be started again: {problem:#}");
        if node.is_running() {
            node.kill()?;
        }
        node.launch()?;
        node.wait_ready(PATIENCE).await?;
        works(node, &client, 2_000).await?;
    }
    for restarted in [false, true] {
        if restarted {
            node.kill()?;
            node.launch()?;
            node.wait_ready(PATIENCE).await?;
        }
        let chains =
            before.iter().map(|chain| (chain, BLOCK)).chain(acked.iter().map(|chain| (chain, SMALL)));
        for (chain, len) in chains {
            wait_visible(&client, chain).await?;
            let got = get_all(&client, chain, len, PATIENCE).await?;
            ensure!(got.hits.len() == chain.len(), "INV-ACK: {:?}", got.misses);
        }
    }
    start_on_full_disk(disk, node).await?;
    for chain in &before {
        wait_visible(&client, chain).await?;
        let got = get_all(&client, chain, BLOCK, PATIENCE).await?;
        ensure!(got.hits.len() == chain.len(), "INV-ACK: {:?}", got.misses);
    }
    Ok(())
}

/// A node that is started on a full disk serves, or ends and says why; once there is room it starts.
async fn start_on_full_disk(disk: &SmallDisk, node: &mut NodeProcess) -> anyhow::Result<()> {
    node.kill()?;
    let log_before = log_of(node).len();
    let junk = disk.fill()?;
    node.launch()?;
    let started = node.wait_ready(PATIENCE).await;
    let log = log_of(node).split_off(log_before);
    let last = log.lines().last().unwrap_or_default();
    println!("started on a full disk, the node is ready: {}; it says: {last}", started.is_ok());
    ensure!(started.is_ok() || log.contains("No space left on device"), "it does not say why:\n{log}");
    drop(junk);
    if node.is_running() {
        node.kill()?;
    }
    node.launch()?;
    node.wait_ready(PATIENCE).await
}

/// Puts and gets on a full disk until metadata was refused. Returns the chains that were acknowledged as
/// durable all the same.
async fn put_on_full_disk(
    node: &mut NodeProcess,
    client: &Client,
    before: &[Chain],
) -> anyhow::Result<Vec<Chain>> {
    let mut acked = Vec::new();
    let (mut stored, mut refused, mut hits) = (0, 0, 0);
    for seed in 100..130 {
        let chain = chain(seed, 8);
        let ack = if seed % 2 == 0 { AckLevel::Durable } else { AckLevel::Host };
        let put = put_in_time(client, &chain, SMALL, ack).await?;
        stored += put.stored;
        refused += put.refused;
        match ack {
            AckLevel::Durable if put.refused == 0 => acked.push(chain.clone()),
            AckLevel::Durable => {}
            AckLevel::Host => {
                ensure!(put.refused == 0, "the arena needs no disk, and refused {}", put.refused);
            }
        }
        let got = get_in_time(client, &chain, SMALL).await?;
        ensure!(got.hits.len() >= put.stored, "of {} stored blocks came {}", put.stored, got.hits.len());
        hits += get_in_time(client, &before[seed as usize % before.len()], BLOCK).await?.hits.len();
        if !node.is_running() {
            break;
        }
        // A node that says it is not ready says why; one that answers nothing hangs.
        let (status, body) =
            http_get(node.http_port, "/readyz", CALL).await.context("/readyz must answer")?;
        ensure!(status == 200 || body.contains("not ready: "), "{status}: {body}");
    }
    println!(
        "on a full disk: {stored} blocks were stored and {refused} refused, {hits} gets of blocks put before \
         were served, {} chains were acknowledged as durable",
        acked.len()
    );
    ensure!(hits > 0, "a full disk can still be read (INV-HARMLESS)");
    let log = log_of(node);
    let told = log.contains("No space left on device");
    ensure!(told, "metadata could not be written and the log does not say why");
    let lines = log.lines().filter(|line| line.contains("No space left on device")).count();
    ensure!(lines <= 100, "the log is flooded with {lines} lines of one cause");
    Ok(acked)
}

/// Whether the node takes durable blocks again and the directory learns of them.
async fn works(node: &mut NodeProcess, client: &Client, seed: u64) -> anyhow::Result<()> {
    let until = Instant::now() + PATIENCE;
    let mut attempt = seed;
    loop {
        if !node.is_running() {
            bail!("it ended");
        }
        attempt += 1;
        let chain = chain(attempt, 4);
        let put = put_in_time(client, &chain, SMALL, AckLevel::Durable).await?;
        if put.refused == 0 {
            wait_visible(client, &chain).await?;
            let (status, body) = http_get(node.http_port, "/readyz", CALL).await?;
            ensure!(status == 200, "/readyz says {}", body.trim());
            return Ok(());
        }
        ensure!(Instant::now() < until, "durable puts are still refused");
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
}
