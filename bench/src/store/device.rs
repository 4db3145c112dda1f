//! Part `device`: gets from NVMe and durable puts, beside fio on the same file system.
//!
//! Gets and fio's reads share one file, the store's slab: the store lies idle while fio reads. For
//! writes fio has a file of the same size beside it, preallocated and written once, as the slab is; both
//! overwrite, as a cache that is full does. A second fio reads that file and compares checksums, as we do of
//! every block: on machines where the disk's bytes are expensive to touch it says what reading right bytes
//! can come to. fio transfers whole records, since that is what the device
//! moves for us, and all its bytes count; of ours only payload does, so the footer is our cost: of 64 KiB
//! blocks it takes one sector in seventeen.
//!
//! *Puts*: each is acknowledged when it is durable. With `depth` on their way at a time the limit is fio
//! with groups of as many writes and an fdatasync that it waits for, since nobody can acknowledge those
//! earlier. Without that bound, hundreds on their way as a prefill has them, the limit is fio's plain
//! write: no sync but one at the end.
//! *Processor time*: ours is that of the whole process, fio's that of its one thread as it reports it.

use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hearth_proto::limits::SECTOR_BYTES;
use hearth_proto::{AckLevel, Tier};
use hearth_store::{DriverOptions, GetOutcome, SlotMut, Store};
use tokio::task::JoinSet;

use super::blocks::{self, Block, Deck};
use super::cost::{Clock, Turn};
use super::fio::{Fio, Job, Work};

/// Small beside the slab, so that what was got once has left before its turn comes again.
const GET_ARENA_BYTES: u64 = 256 << 20;
/// Durable puts in flight while a slab is filled, where speed is not measured.
const FILL_IN_FLIGHT: usize = 32;
/// Durable puts on their way at a time when their number is not what is measured.
const STREAM_IN_FLIGHT: usize = 512;
/// Writes that fio has in flight then.
const STREAM_FIO_DEPTH: usize = 32;

/// What is to be measured.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) dir: PathBuf,
    /// Size of the slab, and of fio's file.
    pub(crate) file_bytes: u64,
    pub(crate) block_bytes: Vec<usize>,
    pub(crate) depths: Vec<usize>,
    /// Turns of each side in each cell.
    pub(crate) rounds: usize,
    /// Length of a turn of either side.
    pub(crate) turn: Duration,
    /// Payload that lies ready in the arena when the clock of a put turn starts: the most that it moves.
    pub(crate) put_bytes: u64,
    pub(crate) driver: DriverOptions,
}

/// What a cell is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Get,
    /// Durable puts, a bounded number on their way.
    Put,
    /// Durable puts, as many on their way as there are.
    Stream,
}

/// The turns of one block size at one depth.
#[derive(Clone, Debug)]
pub(crate) struct Cell {
    pub(crate) direction: Direction,
    pub(crate) block_bytes: usize,
    pub(crate) record_bytes: u64,
    pub(crate) depth: usize,
    pub(crate) ours: Vec<Turn>,
    /// As many as ours, or none without fio.
    pub(crate) fio: Vec<Turn>,
    /// Of gets: fio that compares checksums.
    pub(crate) fio_verified: Vec<Turn>,
}

/// All cells, and what the checks found.
#[derive(Debug, Default)]
pub(crate) struct Measured {
    pub(crate) cells: Vec<Cell>,
    /// Blocks of which every byte was compared, outside the clock.
    pub(crate) compared: u64,
    pub(crate) wrong: u64,
}

/// Measures all cells of a plan.
pub(crate) async fn measure(plan: &Plan, fio: Option<&Fio>) -> anyhow::Result<Measured> {
    let mut measured = Measured::default();
    let fio_file = plan.dir.join("fio.data");
    for (index, &len) in plan.block_bytes.iter().enumerate() {
        let dir = plan.dir.join(format!("blocks-{index}"));
        std::fs::create_dir(&dir)?;
        if let Some(fio) = fio.filter(|_| index == 0) {
            eprintln!("device: laying out fio's file");
            fio.run(Job { block_bytes: 1 << 20, ..job(plan, &fio_file, 8, Work::LayOut) }).await?;
        }
        let mut bench = Bench { plan, fio, fio_file: &fio_file, dir: &dir, len, record_bytes: 0, next: 0 };
        let held = bench.fill(&mut measured).await?;
        bench.measure_gets(held, &mut measured).await?;
        bench.measure_puts(&mut measured).await?;
        std::fs::remove_dir_all(&dir)?;
    }
    if fio.is_some() {
        std::fs::remove_file(&fio_file)?;
    }
    Ok(measured)
}

/// Blocks of one size in a store of their own.
struct Bench<'a> {
    plan: &'a Plan,
    fio: Option<&'a Fio>,
    fio_file: &'a Path,
    dir: &'a Path,
    len: usize,
    /// What the device moves for a block: payload and footer in whole sectors.
    record_bytes: u64,
    /// The number of the next new block.
    next: u64,
}

impl Bench<'_> {
    /// Fills the slab, reads everything back from the device, and returns what is there.
    async fn fill(&mut self, measured: &mut Measured) -> anyhow::Result<Vec<Block>> {
        eprintln!("device: filling {} MiB with blocks of {} KiB", self.plan.file_bytes >> 20, self.len >> 10);
        let store = self.open(GET_ARENA_BYTES).await?;
        let chunk = (self.plan.put_bytes / self.len as u64).max(1);
        // Full is what evicts. Twice the capacity is the limit for a store that refuses instead.
        while store.stats().evicted_nvme == 0 && self.next * (self.len as u64) < 2 * self.plan.file_bytes {
            blocks::put_all(&store, self.next..self.next + chunk, self.len, FILL_IN_FLIGHT).await?;
            self.next += chunk;
        }
        let stats = store.stats();
        ensure!(stats.nvme_blocks > 0, "nothing was stored on NVMe");
        self.record_bytes = stats.nvme_used_bytes / stats.nvme_blocks;
        store.close().await;
        drop(store);
        let mut payload = vec![0; self.len];
        let store = self.open(GET_ARENA_BYTES).await?;
        let on_nvme = |number: &u64| store.contains(&blocks::id(*number)).nvme;
        let held = (0..self.next).filter(on_nvme).map(|number| Block::make(number, &mut payload)).collect();
        self.compare_all(&store, measured).await?;
        store.close().await;
        Ok(held)
    }

    async fn open(&self, arena_bytes: u64) -> anyhow::Result<Store> {
        blocks::open_with(self.dir, arena_bytes, self.plan.file_bytes, self.plan.driver).await
    }

    /// Compares every byte of every block that the store says it has on NVMe.
    async fn compare_all(&self, store: &Store, measured: &mut Measured) -> anyhow::Result<()> {
        let ids: Vec<_> = (0..self.next).map(blocks::id).filter(|id| store.contains(id).nvme).collect();
        let (count, room) = (ids.len() as u64, self.plan.file_bytes / self.record_bytes.max(1));
        ensure!(count * 10 >= room * 8, "the store holds {count} blocks where {room} have room");
        let found = blocks::read_back(store, ids, self.len).await?;
        ensure!(found.missing == 0, "{} of {count} blocks of the index could not be read", found.missing);
        measured.compared += found.right;
        measured.wrong += found.wrong;
        Ok(())
    }

    async fn measure_gets(&self, held: Vec<Block>, measured: &mut Measured) -> anyhow::Result<()> {
        let store = self.open(GET_ARENA_BYTES).await?;
        let (slab, slab_bytes) = blocks::slab_of(self.dir)?;
        let deck = Arc::new(Deck::shuffled(held));
        if let Some(fio) = self.fio {
            fio.run(self.job(self.fio_file, 8, Work::LayOutVerified)).await?;
        }
        let warm_up = self.plan.turn.min(Duration::from_millis(200));
        self.get_turn(&store, &deck, 8, warm_up, &mut measured.wrong).await?;
        for &depth in &self.plan.depths {
            let mut cell = self.cell(Direction::Get, depth);
            for round in 0..self.plan.rounds {
                // The sides change who goes first, so that a drift of the disk helps neither; fio that verifies
                // goes last.
                for ours in [round % 2 == 0, round % 2 != 0] {
                    if ours {
                        let turn =
                            self.get_turn(&store, &deck, depth, self.plan.turn, &mut measured.wrong).await?;
                        cell.ours.push(turn);
                    } else if let Some(fio) = self.fio {
                        let work = Work::Read(self.plan.turn);
                        let file_bytes = slab_bytes.min(self.plan.file_bytes);
                        let job = Job { file_bytes, ..self.job(&slab, depth, work) };
                        cell.fio.push(fio.run(job).await?);
                    }
                }
                if let Some(fio) = self.fio {
                    let work = Work::ReadVerified(self.plan.turn);
                    cell.fio_verified.push(fio.run(self.job(self.fio_file, depth, work)).await?);
                }
            }
            cell.tell();
            measured.cells.push(cell);
        }
        store.close().await;
        Ok(())
    }

    /// Random gets, `depth` in flight; each lease is dropped at once. Fails if one did not read NVMe.
    async fn get_turn(
        &self,
        store: &Store,
        deck: &Arc<Deck>,
        depth: usize,
        time: Duration,
        wrong: &mut u64,
    ) -> anyhow::Result<Turn> {
        let before = store.stats().gets_nvme;
        let (clock, len) = (Clock::start(), self.len);
        let ends = Instant::now() + time;
        let mut tasks = JoinSet::new();
        for _ in 0..depth {
            let (store, deck) = (store.clone(), Arc::clone(deck));
            tasks.spawn(async move {
                let (mut gets, mut wrong) = (0, 0);
                while Instant::now() < ends {
                    let block = deck.deal_from_nvme(&store);
                    let GetOutcome::Hit(lease) = store.get(&block.id, blocks::deadline()).await? else {
                        anyhow::bail!("a block that was there is missing");
                    };
                    ensure!(lease.tier() == Tier::Nvme, "a get was answered from memory");
                    wrong += u64::from(!block.looks_right(len, &lease));
                    gets += 1;
                }
                Ok((gets, wrong))
            });
        }
        let mut gets = 0;
        while let Some(done) = tasks.join_next().await {
            let done: (u64, u64) = done??;
            gets += done.0;
            *wrong += done.1;
        }
        let turn = clock.stop(gets * len as u64);
        let read = store.stats().gets_nvme - before;
        ensure!(read == gets, "{gets} gets made {read} reads of NVMe");
        Ok(turn)
    }

    async fn measure_puts(&mut self, measured: &mut Measured) -> anyhow::Result<()> {
        // What lies ready takes half of the arena: the store may keep the other half readable.
        let arena_bytes = self.plan.put_bytes * 2 + GET_ARENA_BYTES;
        let store = self.open(arena_bytes).await?;
        let time = self.plan.turn;
        let groups = |depth| (Direction::Put, depth, depth, Work::WriteGroups(time));
        let mut kinds: Vec<_> = self.plan.depths.iter().copied().map(groups).collect();
        kinds.push((Direction::Stream, STREAM_IN_FLIGHT, STREAM_FIO_DEPTH, Work::Write(time)));
        for (direction, depth, fio_depth, work) in kinds {
            let mut cell = self.cell(direction, depth);
            for round in 0..self.plan.rounds {
                for ours in [round % 2 == 0, round % 2 != 0] {
                    if ours {
                        cell.ours.push(self.put_turn(&store, depth).await?);
                    } else if let Some(fio) = self.fio {
                        cell.fio.push(fio.run(self.job(self.fio_file, fio_depth, work)).await?);
                    }
                }
            }
            cell.tell();
            measured.cells.push(cell);
        }
        store.close().await;
        drop(store);
        let store = self.open(GET_ARENA_BYTES).await?;
        self.compare_all(&store, measured).await?;
        store.close().await;
        Ok(())
    }

    /// Durable puts of new blocks, `depth` in flight, until the time is up or nothing is left. Their slots
    /// are filled before the clock starts, as fio's buffers are; it stops when the last block is durable.
    async fn put_turn(&mut self, store: &Store, depth: usize) -> anyhow::Result<Turn> {
        let count = (self.plan.put_bytes / self.len as u64).max(1);
        let mut ready = Vec::new();
        for number in self.next..self.next + count {
            ready.push(blocks::prepare(store, number, self.len).await?);
        }
        self.next += count;
        let ready: Arc<Mutex<Vec<(Block, SlotMut)>>> = Arc::new(Mutex::new(ready));
        let stored = Arc::new(AtomicU64::new(0));
        let clock = Clock::start();
        let ends = Instant::now() + self.plan.turn;
        let mut tasks = JoinSet::new();
        for _ in 0..depth {
            let (store, ready, stored) = (store.clone(), Arc::clone(&ready), Arc::clone(&stored));
            tasks.spawn(async move {
                while Instant::now() < ends {
                    let next = ready.lock().unwrap_or_else(PoisonError::into_inner).pop();
                    let Some((block, slot)) = next else { break };
                    let put = store.put(block.id, slot, block.meta(), AckLevel::Durable, blocks::deadline());
                    let outcome = put.await.context("a durable put failed")?;
                    ensure!(!outcome.existed, "a new block was there already");
                    stored.fetch_add(1, Ordering::Relaxed);
                }
                anyhow::Ok(())
            });
        }
        while let Some(done) = tasks.join_next().await {
            done??;
        }
        Ok(clock.stop(stored.load(Ordering::Relaxed) * self.len as u64))
    }

    fn job<'a>(&self, file: &'a Path, depth: usize, work: Work) -> Job<'a> {
        Job { block_bytes: self.record_bytes, ..job(self.plan, file, depth, work) }
    }

    fn cell(&self, direction: Direction, depth: usize) -> Cell {
        let (block_bytes, record_bytes) = (self.len, self.record_bytes);
        let [ours, fio, fio_verified] = [Vec::new(), Vec::new(), Vec::new()];
        Cell { direction, block_bytes, record_bytes, depth, ours, fio, fio_verified }
    }
}

fn job<'a>(plan: &Plan, file: &'a Path, depth: usize, work: Work) -> Job<'a> {
    Job { file, file_bytes: plan.file_bytes, block_bytes: SECTOR_BYTES as u64, depth, work }
}

impl Cell {
    /// The turns of both sides, side by side.
    pub(crate) fn pairs(&self) -> Vec<(Turn, Turn)> {
        self.ours.iter().copied().zip(self.fio.iter().copied()).collect()
    }

    /// Ours beside those of fio that compares checksums.
    pub(crate) fn pairs_verified(&self) -> Vec<(Turn, Turn)> {
        self.ours.iter().copied().zip(self.fio_verified.iter().copied()).collect()
    }

    /// `get, 64 KiB`.
    pub(crate) fn kind(&self) -> String {
        let direction = match self.direction {
            Direction::Get => "get",
            Direction::Put => "durable put",
            Direction::Stream => "durable put unbounded",
        };
        format!("{direction}, {}", size(self.block_bytes))
    }

    /// `get, 64 KiB, depth 8`.
    pub(crate) fn name(&self) -> String {
        match self.direction {
            Direction::Get | Direction::Put => format!("{}, depth {}", self.kind(), self.depth),
            Direction::Stream => self.kind(),
        }
    }

    fn tell(&self) {
        let rates = |turns: &[Turn]| {
            turns.iter().map(|turn| format!("{:.2}", turn.gb_per_s())).collect::<Vec<_>>().join(" ")
        };
        let theirs = |name: &str, turns: &[Turn]| match turns {
            [] => String::new(),
            turns => format!(", {name} {}", rates(turns)),
        };
        let (fio, verified) = (theirs("fio", &self.fio), theirs("verifying", &self.fio_verified));
        eprintln!("device: {}: {} GB/s{fio}{verified}", self.name(), rates(&self.ours));
    }
}

/// A block size as people say it.
pub(crate) fn size(bytes: usize) -> String {
    let mib = bytes as f64 / f64::from(1 << 20);
    if mib >= 1.0 { format!("{} MiB", (mib * 10.0).round() / 10.0) } else { format!("{} KiB", bytes >> 10) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_written_as_people_say_them() {
        let sizes = [64 << 10, 256 << 10, 1 << 20, 2560 << 10].map(size);
        assert_eq!(sizes, ["64 KiB", "256 KiB", "1 MiB", "2.5 MiB"]);
    }

    /// The whole part on a small file: every byte is compared, and every cell is there.
    #[tokio::test(flavor = "multi_thread")]
    async fn every_cell_is_measured_and_every_block_compared() {
        let dir = tempfile::tempdir().unwrap();
        let plan = Plan {
            dir: dir.path().to_owned(),
            file_bytes: 384 << 20,
            block_bytes: vec![1 << 20],
            depths: vec![1, 4],
            rounds: 1,
            turn: Duration::from_millis(20),
            put_bytes: 16 << 20,
            driver: DriverOptions::default(),
        };
        let measured = measure(&plan, None).await.unwrap();
        let cells: Vec<String> = measured.cells.iter().map(Cell::name).collect();
        assert_eq!(
            cells,
            [
                "get, 1 MiB, depth 1",
                "get, 1 MiB, depth 4",
                "durable put, 1 MiB, depth 1",
                "durable put, 1 MiB, depth 4",
                "durable put unbounded, 1 MiB"
            ]
        );
        for cell in &measured.cells {
            assert_eq!((cell.ours.len(), cell.fio.len()), (1, 0));
            assert_eq!(cell.record_bytes, (1 << 20) + 4_096);
            assert!(cell.ours[0].bytes >= 1 << 20 && cell.ours[0].gb_per_s() > 0.0);
        }
        assert_eq!(measured.wrong, 0);
        assert!(measured.compared > 2 * 300, "{} blocks were compared", measured.compared);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0, "what was written is removed");
    }
}
