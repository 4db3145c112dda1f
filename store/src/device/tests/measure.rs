//! When the options of the drivers pay: random reads of one file by each of them, in turns.
//!
//! `cargo test --release -p hearth-store --lib -- --ignored --nocapture what_each_driver_costs`; the file
//! of 1 GiB is made in the folder that `HEARTH_MEASURE_DIR` names.

use std::sync::atomic::{AtomicU64, Ordering};

use hearth_proto::limits::SQPOLL_IDLE_MS;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rustix::time::{ClockId, clock_gettime};

use super::*;
use crate::slab::FOOTER_BYTES;

const FILE_BYTES: u64 = 1 << 30;
const ROUNDS: usize = 9;
const ROUND_TIME: Duration = Duration::from_millis(300);

/// What one driver did in one round.
#[derive(Clone, Copy)]
struct Figures {
    bytes_per_second: f64,
    cpu_seconds_per_gb: f64,
}

fn cpu_time() -> Duration {
    let time = clock_gettime(ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

/// Writes every byte of the file: blocks that were only set aside would be read without the disk.
fn fill(bench: &Bench) {
    bench.device.allocate(FILE_BYTES).unwrap();
    let block = bench.block((1 << 20) - FOOTER_BYTES, 0xa5);
    let writes: Vec<_> = (0..FILE_BYTES >> 20).map(|n| bench.write(n << 20, Arc::clone(&block))).collect();
    for write in writes {
        write.wait().unwrap();
    }
}

/// Keeps `depth` random reads of `size` bytes in flight for one round.
async fn run(bench: &Arc<Bench>, size: usize, depth: u64, seed: u64) -> Figures {
    let bytes = Arc::new(AtomicU64::new(0));
    let (began, cpu_began) = (Instant::now(), cpu_time());
    let mut tasks = tokio::task::JoinSet::new();
    for task in 0..depth {
        let (bench, bytes) = (Arc::clone(bench), Arc::clone(&bytes));
        let mut rng = ChaCha8Rng::seed_from_u64(seed << 8 | task);
        tasks.spawn(async move {
            while began.elapsed() < ROUND_TIME {
                let offset = rng.random_range(0..FILE_BYTES / size as u64) * size as u64;
                bench.read(offset, size - FOOTER_BYTES, soon()).await.unwrap();
                bytes.fetch_add(size as u64, Ordering::Relaxed);
            }
        });
    }
    tasks.join_all().await;
    let bytes = bytes.load(Ordering::Relaxed) as f64;
    Figures {
        bytes_per_second: bytes / began.elapsed().as_secs_f64(),
        cpu_seconds_per_gb: (cpu_time() - cpu_began).as_secs_f64() / (bytes / 1e9),
    }
}

/// The rounds of one cell of the table, by driver.
type Cell = [Vec<Figures>; DRIVERS.len()];

fn measure(benches: &[(&str, Arc<Bench>)], size: usize, depth: u64, rng: &mut ChaCha8Rng) -> Cell {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut order = std::array::from_fn::<_, { DRIVERS.len() }, _>(|n| n);
    let mut cell = Cell::default();
    for _ in 0..ROUNDS {
        // In random order, and each elsewhere: neither a cache nor a quota of the host beneath is to favour
        // one of them.
        order.shuffle(rng);
        for n in order {
            cell[n].push(runtime.block_on(run(&benches[n].1, size, depth, rng.random())));
            // A submission thread of the kernel that still looks for work is not to be paid for by the next.
            std::thread::sleep(2 * Duration::from_millis(u64::from(SQPOLL_IDLE_MS)));
        }
    }
    cell
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_unstable_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Medians over the rounds; the ratios are medians too, of each round against the ring in that round.
fn print(size: usize, depth: u64, cell: &Cell) {
    for ((name, _), rounds) in DRIVERS.iter().zip(cell) {
        let ratio = |of: fn(&Figures) -> f64| median(rounds.iter().zip(&cell[0]).map(|(a, b)| of(a) / of(b)));
        println!(
            "{:>6} {depth:>5}  {name:<22} {:>8.0} {:>6.2} {:>10.3} {:>6.2}",
            size >> 10,
            median(rounds.iter().map(|round| round.bytes_per_second / 1e6)),
            ratio(|round| round.bytes_per_second),
            median(rounds.iter().map(|round| round.cpu_seconds_per_gb)),
            ratio(|round| round.cpu_seconds_per_gb),
        );
    }
}

#[test]
#[ignore = "takes two minutes and a disk to itself"]
fn what_each_driver_costs() {
    let dir = std::env::var_os("HEARTH_MEASURE_DIR").map_or_else(tempdir, tempfile::tempdir_in).unwrap();
    // The same memory for all: how its pages happen to lie decides into how many pieces a transfer falls.
    let arena = Arena::new(64 << 20, 8 << 20).unwrap();
    let benches = DRIVERS
        .map(|(name, options)| (name, Arc::new(Bench::with(&slab(&dir), options, Arc::clone(&arena)))));
    fill(&benches[0].1);
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    println!(
        "{:>6} {:>5}  {:<22} {:>8} {:>6} {:>10} {:>6}",
        "KiB", "depth", "driver", "MB/s", "", "CPU s/GB", ""
    );
    for size in [64 << 10, 1 << 20] {
        for depth in [1, 4, 16] {
            print(size, depth, &measure(&benches, size, depth, &mut rng));
        }
    }
    for (_, bench) in benches {
        bench.device.stop();
    }
}
