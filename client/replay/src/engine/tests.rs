use super::*;
use crate::report::{CheckError, Report};
use crate::workload::agents::{AgentParams, generate};
use crate::workload::{BlockTree, Scope, Slice, Tip};
use bytes::Bytes;
use hearth_proto::Tier;
use std::collections::{HashMap, HashSet};

/// The blocks that all nodes of one test hold.
#[derive(Default)]
struct Memory {
    blocks: Mutex<HashMap<BlockKey, Bytes>>,
    gets: AtomicU64,
}

/// What is wrong with a node.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    None,
    /// Flips one bit of every 50th block.
    Flips,
    /// Delivers every 50th block one byte short.
    Shortens,
    /// Forgets every 50th block between lookup and get.
    Loses,
    /// The same, and says that the bytes had gone bad.
    Explains,
    /// Fails every call.
    Fails,
    /// Never answers a get.
    Hangs,
    /// Names a block that was not asked for, and one of them twice.
    Babbles,
    /// Claims to hold more than it was asked about.
    Boasts,
    /// Has no room.
    Refuses,
}

struct Node {
    held: Arc<Memory>,
    fault: Fault,
}

impl BlockStore for Node {
    /// The chain that was looked up, to see that it comes back with the get.
    type Found = Vec<BlockKey>;

    async fn lookup(
        &self,
        chain: &[BlockKey],
        _deadline: Duration,
    ) -> Result<Held<Vec<BlockKey>>, StoreError> {
        assert!(chain.len() <= CHAIN_BLOCKS_MAX);
        if self.fault == Fault::Fails {
            return Err(StoreError::new(StoreErrorKind::Unreachable, "no route"));
        }
        if self.fault == Fault::Boasts {
            return Ok(Held { blocks: chain.len() + 1, found: chain.to_vec() });
        }
        let blocks = lock(&self.held.blocks);
        let held = chain.iter().take_while(|key| blocks.contains_key(*key)).count();
        Ok(Held { blocks: held, found: chain.to_vec() })
    }

    async fn get(
        &self,
        found: &Vec<BlockKey>,
        range: std::ops::Range<usize>,
        blocks: &[BlockKey],
        _deadline: Duration,
        sink: &mut (dyn FnMut(ReadBlock<'_>) + Send),
    ) -> Result<(), StoreError> {
        assert!(blocks.len() <= CHAIN_BLOCKS_MAX);
        assert_eq!(&found[range], blocks);
        // Last first: a store may deliver in any order.
        for (index, key) in blocks.iter().enumerate().rev() {
            let number = self.held.gets.fetch_add(1, Ordering::Relaxed);
            let struck = number % 50 == 49;
            let found = lock(&self.held.blocks).get(key).cloned();
            let mut bytes = found.map(|bytes| bytes.to_vec());
            match (self.fault, &mut bytes) {
                (Fault::Flips, Some(bytes)) if struck => {
                    let at = (number as usize * 31) % bytes.len();
                    bytes[at] ^= 1;
                }
                (Fault::Shortens, Some(bytes)) if struck => drop(bytes.pop()),
                (Fault::Loses | Fault::Explains, bytes) if struck => *bytes = None,
                (Fault::Hangs, _) => std::future::pending().await,
                _ => {}
            }
            let block = |index| ReadBlock {
                index,
                bytes: bytes.as_deref(),
                failure: (self.fault == Fault::Explains && bytes.is_none())
                    .then_some(StoreErrorKind::Corrupt),
                tier: Some(if index % 2 == 0 { Tier::Host } else { Tier::Nvme }),
                latency: Duration::from_micros(5),
            };
            sink(block(index));
            if self.fault == Fault::Babbles {
                sink(block(index));
                sink(block(blocks.len()));
            }
        }
        Ok(())
    }

    async fn put(
        &self,
        blocks: &[PutBlock],
        _deadline: Duration,
        sink: &mut (dyn FnMut(WrittenBlock) + Send),
    ) -> Result<(), StoreError> {
        assert!(blocks.len() <= CHAIN_BLOCKS_MAX);
        assert!(blocks.windows(2).all(|pair| pair[1].parent == Some(pair[0].key)));
        if self.fault == Fault::Fails {
            return Err(StoreError::new(StoreErrorKind::Overloaded, "queue full"));
        }
        for (index, block) in blocks.iter().enumerate() {
            assert_eq!(block.parent.is_none(), block.depth == 0);
            let outcome = if self.fault == Fault::Refuses {
                PutOutcome::Refused
            } else {
                match lock(&self.held.blocks).insert(block.key, block.bytes.clone()) {
                    Some(_) => PutOutcome::Exists,
                    None => PutOutcome::Stored,
                }
            };
            sink(WrittenBlock { index, outcome, latency: Duration::from_micros(9) });
        }
        Ok(())
    }
}

fn settings(concurrency: usize) -> Settings {
    Settings {
        block_bytes: 100,
        layout: LayoutId([3; 32]),
        concurrency,
        speed: None,
        deadline: Duration::from_secs(30),
        time_limit: None,
    }
}

async fn replay_on(workload: Workload, fault: Fault, nodes: usize, settings: Settings) -> Report {
    let held = Arc::new(Memory::default());
    let nodes = (0..nodes).map(|_| Arc::new(Node { held: held.clone(), fault })).collect();
    let workload = Arc::new(workload);
    let outcome = replay(workload.clone(), nodes, settings, &mut Progress::silent()).await;
    Report::new(&workload, &settings, &outcome)
}

/// Sessions that share no block; turn `t` of each appends `growth` blocks to the turn before it.
fn disjoint(sessions: u64, turns: usize, growth: u64) -> Workload {
    let mut tree = BlockTree::new();
    let session = |number: u64, tree: &mut BlockTree| {
        let scope = Scope::new(&[&number.to_le_bytes()]);
        let mut tip = Tip::ROOT;
        let requests = (0..turns)
            .map(|turn| {
                for id in 0..growth {
                    tip = tree.push(tip, &scope, turn as u64 * growth + id).unwrap();
                }
                Request {
                    at: Duration::from_secs(turn as u64),
                    think: None,
                    prompt: tip,
                    output: tip,
                    input_tokens: tree.depth(tip) as u64 * 64,
                    output_tokens: 0,
                    ranges: Box::new([]),
                }
            })
            .collect();
        Session { start: None, requests }
    };
    let sessions = (0..sessions).map(|number| session(number, &mut tree)).collect();
    Workload { name: "disjoint".into(), block_tokens: 64, tree, sessions }
}

fn agents(requests: usize) -> Workload {
    let slice = Slice { requests: Some(requests), ..Slice::default() };
    generate(&AgentParams::default(), 4, 11).unwrap().slice(slice)
}

fn errors(report: &Report) -> HashMap<&'static str, u64> {
    report.total.errors.iter().map(|error| (error.kind, error.count)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_loses_nothing_reaches_the_bound_on_many_nodes() {
    // Only strict order within each session, and reuse across nodes, can give the bound exactly.
    let report = replay_on(disjoint(9, 12, 7), Fault::None, 3, settings(4)).await;
    assert_eq!((report.total.hit_blocks, report.total.bound_blocks), (9 * 7 * 66, 9 * 7 * 66));
    assert_eq!(report.total.requests, 9 * 12);
    assert_eq!(report.workers.iter().map(|worker| worker.counts.requests).collect::<Vec<_>>(), [36, 36, 36]);
    assert_eq!(report.total.blocks_written, 9 * 12 * 7);
    assert_eq!(report.total.bytes_read, report.total.hit_blocks * 100);
    assert_eq!((report.total.wrong_blocks, report.total.errors.len(), report.total.lost_blocks), (0, 0, 0));
    assert_eq!(report.check(), Ok(()));
}

#[tokio::test]
async fn generated_sessions_one_at_a_time_reach_the_bound() {
    let workload = agents(80);
    let output_blocks: HashSet<Tip> = workload
        .sessions
        .iter()
        .flat_map(|session| &session.requests)
        .flat_map(|request| {
            let mut chain = vec![];
            workload.tree.chain_into(request.output, &mut chain);
            chain
        })
        .collect();
    let different = output_blocks.len() as u64;
    let report = replay_on(workload, Fault::None, 2, settings(1)).await;
    assert_eq!(report.total.hit_blocks, report.total.bound_blocks);
    assert_eq!(report.total.raced_blocks, 0, "one at a time cannot race");
    assert_eq!(report.total.blocks_written, different, "each block is written once");
    assert!(report.hit_rate_percent > 80.0, "{}", report.hit_rate_percent);
    assert!(report.total.hit_tokens <= report.total.input_tokens);
    let tiers: Vec<_> = report.total.bytes_by_tier.iter().map(|tier| tier.tier).collect();
    assert_eq!(tiers, ["host", "nvme"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_missed_for_a_race_is_told_from_what_is_lost() {
    // Sessions of one set-up that all begin at once: whatever the interleaving, a store that loses
    // nothing misses of the bound only what was being made.
    let params = AgentParams { versions: 1, ..AgentParams::default() };
    let workload = generate(&params, 6, 2).unwrap().slice(Slice { requests: Some(40), ..Slice::default() });
    let total = replay_on(workload, Fault::None, 2, settings(6)).await.total;
    assert_eq!(total.bound_blocks - total.hit_blocks, total.raced_blocks);
    let lossy = replay_on(disjoint(2, 20, 10), Fault::Loses, 1, settings(2)).await.total;
    assert_eq!(lossy.raced_blocks, 0, "sessions that share nothing cannot race");
}

#[tokio::test]
async fn chains_longer_than_one_call_are_split() {
    let report = replay_on(disjoint(1, 3, 5_000), Fault::None, 2, settings(1)).await;
    assert_eq!(report.total.hit_blocks, 15_000);
    assert_eq!(report.total.blocks, 30_000);
}

#[tokio::test]
async fn wrong_bytes_are_counted_and_told_with_block_and_place() {
    for fault in [Fault::Flips, Fault::Shortens] {
        let report = replay_on(disjoint(2, 20, 10), fault, 1, settings(1)).await;
        assert!(report.total.wrong_blocks > 10, "{}", report.total.wrong_blocks);
        assert_eq!(report.check(), Err(CheckError::WrongBytes { blocks: report.total.wrong_blocks }));
        assert_eq!(report.to_bench("replay").wrong, report.total.wrong_blocks);
        let told = &report.wrong_examples[0];
        assert!(told.starts_with("block ") && told.contains("should be"), "{told}");
        assert!(report.table().contains("WRONG BYTES"));
        assert_eq!(report.total.requests, 40, "the replay goes on");
        assert!(report.total.hit_blocks < report.total.bound_blocks, "a wrong block is no hit");
    }
}

#[tokio::test]
async fn lost_blocks_are_misses_that_are_put_again() {
    let report = replay_on(disjoint(2, 20, 10), Fault::Loses, 1, settings(1)).await;
    assert!(report.total.lost_blocks > 10);
    assert_eq!((report.total.wrong_blocks, report.total.errors.len()), (0, 0));
    assert!(report.total.hit_blocks < report.total.bound_blocks);
    assert!(report.total.blocks_existing > 0);
    match report.check() {
        Err(CheckError::HitRate { found, .. }) => {
            let lost = format!("{} promised and not delivered", report.total.lost_blocks);
            assert!(found.contains(&lost) && found.contains("no failure"), "{found}");
        }
        other => panic!("blocks were lost: {other:?}"),
    }
    assert_eq!(report.check_faultless(), Ok(()), "a lost block alone is a miss, not a failure");
}

#[tokio::test]
async fn what_a_store_says_of_a_lost_block_is_counted() {
    let report = replay_on(disjoint(2, 20, 10), Fault::Explains, 1, settings(1)).await;
    assert_eq!(errors(&report), HashMap::from([("corrupt", report.total.lost_blocks)]));
    assert_eq!(report.total.wrong_blocks, 0, "the store saw it first: no wrong byte reached the engine");
    assert_eq!(report.check_served(), Ok(()));
    let found = format!("{} corrupt", report.total.lost_blocks);
    assert_eq!(report.check_faultless(), Err(CheckError::Failures { found }));
}

#[tokio::test]
async fn failures_are_misses_and_the_replay_goes_on() {
    let report = replay_on(disjoint(3, 4, 10), Fault::Fails, 2, settings(2)).await;
    assert_eq!((report.total.requests, report.total.hit_blocks), (12, 0));
    assert_eq!(errors(&report), HashMap::from([("unreachable", 12), ("overloaded", 12)]));
    match report.check_faultless() {
        Err(CheckError::NothingRead { bound_blocks, found }) => {
            assert_eq!(bound_blocks, report.total.bound_blocks);
            assert!(found.contains("12 unreachable") && found.contains("12 overloaded"), "{found}");
        }
        other => panic!("nothing was read: {other:?}"),
    }
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_given_up_at_its_deadline() {
    let settings = Settings { deadline: Duration::from_millis(10), ..settings(2) };
    let report = replay_on(disjoint(2, 2, 4), Fault::Hangs, 1, settings).await;
    assert_eq!((report.total.requests, report.total.hit_blocks), (4, 0));
    assert_eq!(errors(&report), HashMap::from([("overdue", 2)]));
    assert_eq!(report.total.lost_blocks, 8);
}

#[tokio::test]
async fn a_store_that_breaks_the_contract_is_told_so() {
    let report = replay_on(disjoint(1, 2, 4), Fault::Babbles, 1, settings(1)).await;
    assert_eq!(errors(&report), HashMap::from([("contract", 8)]));
    assert_eq!((report.total.hit_blocks, report.total.blocks_read), (4, 4), "nothing is counted twice");
    let report = replay_on(disjoint(1, 2, 4), Fault::Boasts, 1, settings(1)).await;
    assert_eq!(errors(&report), HashMap::from([("contract", 2)]));
}

#[tokio::test]
async fn refused_blocks_are_no_writes() {
    let report = replay_on(disjoint(1, 2, 4), Fault::Refuses, 1, settings(1)).await;
    assert_eq!((report.total.blocks_refused, report.total.blocks_written), (12, 0));
    assert_eq!(report.read_write_bytes, None);
}

#[tokio::test]
async fn with_a_speed_requests_keep_their_pauses() {
    // Turns a second apart, 20 times as fast: the last is due after 150 ms.
    let settings = Settings { speed: Some(20.0), ..settings(2) };
    let report = replay_on(disjoint(2, 4, 3), Fault::None, 1, settings).await;
    assert!(report.elapsed_s >= 0.15, "{}", report.elapsed_s);
    assert_eq!(report.total.hit_blocks, report.total.bound_blocks);
}

#[tokio::test]
async fn a_time_limit_ends_the_replay_and_says_so() {
    let limited = Settings { speed: Some(1.0), time_limit: Some(Duration::from_millis(500)), ..settings(2) };
    let report = replay_on(disjoint(2, 4, 3), Fault::None, 1, limited).await;
    assert!(report.truncated);
    assert_eq!(report.total.requests, 2, "the first of each session is due at once");
    assert!(report.table().contains("time limit"));
}

#[tokio::test]
async fn the_report_adds_up_and_can_be_drawn() {
    let report = replay_on(agents(40), Fault::None, 2, settings(2)).await;
    let counts = |of: fn(&crate::report::Counts) -> u64| -> u64 {
        report.workers.iter().map(|worker| of(&worker.counts)).sum()
    };
    assert_eq!(counts(|counts| counts.bytes_read), report.total.bytes_read);
    assert_eq!(counts(|counts| counts.bound_blocks), report.total.bound_blocks);
    assert_eq!(report.series.iter().map(|point| point.requests).sum::<u64>(), 40);
    assert_eq!(report.latency.get_block.count, report.total.blocks_read);
    assert_eq!(report.latency.lookup.count, 40);
    assert!((report.latency.get_block.p50_ms.unwrap() - 0.005).abs() < 1e-4);
    let svg = crate::plot::render(&report);
    for wanted in ["infinite cache", "GB/s", "hit rate, %", "milliseconds", "get, block", "</svg>"] {
        assert!(svg.contains(wanted), "the plot lacks {wanted:?}");
    }
    assert!(!svg.contains("NaN") && !svg.contains("inf "), "a coordinate is no number");
    let json = serde_json::to_value(report.to_bench("replay")).unwrap();
    assert_eq!(json["wrong"], 0);
    assert_eq!(json["figures"][0]["peer_name"], "infinite cache");
    assert_eq!(json["detail"]["total"]["requests"], 40);
}

#[tokio::test]
async fn run_writes_the_files_that_were_asked_for() {
    #[derive(clap::Parser)]
    struct Cli {
        #[command(flatten)]
        replay: crate::ReplayArgs,
    }
    let folder = tempfile::tempdir().unwrap();
    let [json, plot] = ["r.json", "r.svg"].map(|name| folder.path().join(name));
    let arguments = ["replay", "--agents", "1", "--requests", "5", "--block-bytes", "64", "--json"];
    let cli: Cli = clap::Parser::parse_from(arguments.map(Into::into).into_iter().chain([
        json.clone(),
        "--plot".into(),
        plot.clone(),
    ]));
    let node = || Arc::new(Node { held: Arc::default(), fault: Fault::None });
    let report = crate::run(&cli.replay, vec![node()], Progress::silent()).await.unwrap();
    assert_eq!(report.total.requests, 5);
    let written: serde_json::Value = serde_json::from_slice(&std::fs::read(json).unwrap()).unwrap();
    assert_eq!(written["detail"]["total"]["requests"], 5);
    assert!(std::fs::read_to_string(plot).unwrap().starts_with("<svg"));

    assert!(matches!(
        crate::run(&cli.replay, Vec::<Arc<Node>>::new(), Progress::silent()).await,
        Err(crate::RunError::NoStore)
    ));
    let nothing = crate::ReplayArgs { skip: 1_000, ..cli.replay };
    assert!(matches!(
        crate::run(&nothing, vec![node()], Progress::silent()).await,
        Err(crate::RunError::Empty)
    ));
}
