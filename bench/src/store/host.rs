//! Part `host`: what it costs to lease a block that lies in the arena, read a word of it and let go,
//! beside a bare concurrent map that hands out shared pointers to the same bytes.

use std::sync::Arc;
use std::sync::Barrier;
use std::time::Instant;

use anyhow::ensure;
use dashmap::DashMap;
use hearth_proto::{AckLevel, BlockId};
use hearth_replay::{Figure, Goal};
use hearth_store::Store;
use rand::SeedableRng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;

use super::blocks::{self, first_word};

/// The payload of a record of one sector.
const PAYLOAD_BYTES: usize = 3_968;
const RECORD_BYTES: u64 = 4_096;
const GOAL_NS: f64 = 1_000.0;
/// A key, and the first word of its block.
type Probe = (BlockId, u64);

/// How the threads of a turn share the keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sharing {
    /// All go over the same keys in the same order at the same time.
    Same,
    /// Each has keys of its own.
    Disjoint,
}

/// Measures with `count` blocks resident. Returns the figures and how many answers were wrong.
pub(crate) async fn measure(count: u64, rounds: usize) -> anyhow::Result<(Vec<Figure>, u64)> {
    eprintln!("host: {count} blocks resident");
    let store = blocks::in_memory(count * RECORD_BYTES + (128 << 20))?;
    let map: DashMap<BlockId, Arc<[u8]>> = DashMap::new();
    let mut probes = Vec::new();
    for number in 0..count {
        let (block, slot) = blocks::prepare(&store, number, PAYLOAD_BYTES).await?;
        map.insert(block.id, Arc::from(&*slot));
        store.put(block.id, slot, block.meta(), AckLevel::Host, blocks::deadline()).await?;
        probes.push((block.id, block.first));
    }
    ensure!(store.stats().host_blocks == count, "the blocks must stay in the arena");
    probes.shuffle(&mut ChaCha8Rng::seed_from_u64(2));
    // The threads measured are plain ones, and must not starve those of the runtime.
    let measured = tokio::task::spawn_blocking(move || turns(&store, &map, &probes, rounds));
    measured.await?
}

fn turns(
    store: &Store,
    map: &DashMap<BlockId, Arc<[u8]>>,
    probes: &[Probe],
    rounds: usize,
) -> anyhow::Result<(Vec<Figure>, u64)> {
    let ours = |id: &BlockId| store.get_host(id).map(|lease| first_word(&lease));
    let theirs = |id: &BlockId| {
        let shared = map.get(id).map(|found| Arc::clone(found.value()));
        shared.map(|bytes| first_word(&bytes))
    };
    let (mut figures, mut wrong) = (Vec::new(), 0);
    let scenes = [(1, Sharing::Same), (2, Sharing::Disjoint), (2, Sharing::Same)];
    for (threads, sharing) in scenes {
        let mut pairs = Vec::new();
        for _ in 0..rounds {
            let (our_ns, our_wrong) = turn(probes, threads, sharing, &ours);
            let (their_ns, their_wrong) = turn(probes, threads, sharing, &theirs);
            ensure!(their_wrong == 0, "the map gave {their_wrong} wrong answers");
            wrong += our_wrong;
            pairs.push((our_ns, their_ns));
        }
        // Whatever else runs on the machine only adds: the shortest turn of each is what the work costs.
        let our_ns = pairs.iter().map(|pair| pair.0).fold(f64::INFINITY, f64::min);
        let their_ns = pairs.iter().map(|pair| pair.1).fold(f64::INFINITY, f64::min);
        let name = match (threads, sharing) {
            (1, _) => "lease, read a word, drop: 1 thread".to_owned(),
            (_, Sharing::Disjoint) => format!("the same: {threads} threads, keys of their own"),
            (_, Sharing::Same) => format!("the same: {threads} threads, the same keys at once"),
        };
        eprintln!("host: {name}: {our_ns:.0} ns, map {their_ns:.0} ns");
        figures.push(
            Figure::new(name, "ns per block", our_ns)
                .with_peer("bare DashMap of Arcs", their_ns)
                .with_goal(Goal::AtMost(GOAL_NS)),
        );
    }
    Ok((figures, wrong))
}

/// Nanoseconds of a thread for one get, and how many gave anything but the word of their block.
fn turn(
    probes: &[Probe],
    threads: usize,
    sharing: Sharing,
    get: &(impl Fn(&BlockId) -> Option<u64> + Sync),
) -> (f64, u64) {
    let part = probes.len() / threads;
    let start = Barrier::new(threads);
    let lap = |thread: usize| {
        let keys = match sharing {
            Sharing::Same => probes,
            Sharing::Disjoint => &probes[thread * part..(thread + 1) * part],
        };
        start.wait();
        let began = Instant::now();
        let mut wrong = 0;
        for (id, word) in keys {
            wrong += u64::from(get(id) != Some(*word));
        }
        let ns = began.elapsed().as_nanos() as f64 / keys.len() as f64;
        (ns, wrong)
    };
    let results: Vec<(f64, u64)> = std::thread::scope(|scope| {
        let lap = &lap;
        let running: Vec<_> = (0..threads).map(|thread| scope.spawn(move || lap(thread))).collect();
        running
            .into_iter()
            .map(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    let ns = results.iter().map(|result| result.0).sum::<f64>() / threads as f64;
    (ns, results.iter().map(|result| result.1).sum())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn gets_are_timed_and_checked() {
        let (figures, wrong) = measure(500, 1).await.unwrap();
        assert_eq!((figures.len(), wrong), (3, 0));
        assert!(figures.iter().all(|figure| figure.ours > Some(0.0) && figure.peer > Some(0.0)));
    }

    #[test]
    fn an_answer_that_is_not_the_blocks_is_wrong() {
        let probes: Vec<Probe> = (0..10).map(|number| (blocks::id(number), number)).collect();
        let get = |id: &BlockId| (*id != probes[3].0).then_some(5);
        let (_, wrong) = turn(&probes, 2, Sharing::Same, &get);
        assert_eq!(wrong, 9 * 2, "only the fifth block has that word");
        let (_, wrong) = turn(&probes, 2, Sharing::Disjoint, &get);
        assert_eq!(wrong, 9);
    }
}
