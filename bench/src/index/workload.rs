//! What engines report and what routers ask, made from a seed: the same bytes for every index.

use rand::Rng;
use rand::seq::SliceRandom;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;
use xxhash_rust::xxh3::xxh3_64_with_seed;

/// A block as engines report it and as routers ask for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Block {
    /// Hash of its tokens alone.
    pub(super) local: u64,
    /// The engine's hash of these and all before them.
    pub(super) chained: u64,
}

/// What one worker reports.
#[derive(Clone, Debug)]
pub(super) enum Event {
    Stored { worker: u16, before: Option<u64>, position: usize, blocks: Vec<Block> },
    Removed { worker: u16, blocks: Vec<u64> },
}

/// See the module.
#[derive(Debug)]
pub(super) struct Workload {
    pub(super) name: String,
    pub(super) workers: u16,
    /// How the indexes come to be.
    pub(super) events: Vec<Event>,
    pub(super) queries: Vec<Vec<Block>>,
    /// What comes and goes afterwards, and leaves as many blocks as there were.
    pub(super) churn: Vec<Event>,
}

const CHAIN_SEED: u64 = 1_337;
/// Blocks of the prompts that all sessions of a kind share.
const PROMPT_BLOCKS: std::ops::Range<usize> = 16..64;
const PROMPTS: usize = 4;
/// Blocks that a turn adds.
const TURN_BLOCKS: std::ops::Range<usize> = 8..48;
/// Blocks of a session at its end.
const SESSION_BLOCKS: std::ops::Range<usize> = 64..2_049;

/// As Dynamo's router chains the hashes of blocks: one of its indexes works them out itself.
fn chained(before: u64, local: u64) -> u64 {
    let mut both = [0; 16];
    both[..8].copy_from_slice(&before.to_le_bytes());
    both[8..].copy_from_slice(&local.to_le_bytes());
    xxh3_64_with_seed(&both, CHAIN_SEED)
}

struct Session {
    chain: Vec<Block>,
    worker: u16,
    end: usize,
}

struct Maker {
    rng: ChaCha8Rng,
    prompts: Vec<Vec<Block>>,
}

impl Maker {
    fn new(seed: u64) -> Self {
        let mut maker = Self { rng: ChaCha8Rng::seed_from_u64(seed), prompts: Vec::new() };
        for _ in 0..PROMPTS {
            let len = maker.rng.random_range(PROMPT_BLOCKS);
            let mut prompt = Vec::new();
            maker.extend(&mut prompt, len);
            maker.prompts.push(prompt);
        }
        maker
    }

    fn extend(&mut self, chain: &mut Vec<Block>, count: usize) {
        for _ in 0..count {
            let local: u64 = self.rng.random();
            let chained = chain.last().map_or(local, |before: &Block| chained(before.chained, local));
            chain.push(Block { local, chained });
        }
    }

    fn session(&mut self, worker: u16) -> Session {
        let prompt = self.rng.random_range(0..PROMPTS);
        let end = self.rng.random_range(SESSION_BLOCKS).max(self.prompts[prompt].len() + 1);
        Session { chain: self.prompts[prompt].clone(), worker, end }
    }
}

/// What a worker reports of a chain of which it held this many blocks.
fn stored(session: &Session, held: usize) -> Event {
    Event::Stored {
        worker: session.worker,
        before: held.checked_sub(1).map(|before| session.chain[before].chained),
        position: held,
        blocks: session.chain[held..].to_vec(),
    }
}

/// Agents whose sessions grow turn by turn, each on one worker, all at once; and ask for what they have, with a tenth of
/// it new.
pub(super) fn agentic(workers: u16, sessions_each: usize, queries: usize) -> Workload {
    let mut maker = Maker::new(1);
    let mut sessions: Vec<Session> = (0..usize::from(workers) * sessions_each)
        .map(|number| maker.session((number % usize::from(workers)) as u16))
        .collect();
    let mut events: Vec<Event> = sessions.iter().map(|session| stored(session, 0)).collect();
    let mut growing: Vec<usize> = (0..sessions.len()).collect();
    while !growing.is_empty() {
        growing.shuffle(&mut maker.rng);
        growing.retain(|number| {
            let session = &mut sessions[*number];
            let held = session.chain.len();
            let count = maker.rng.random_range(TURN_BLOCKS).min(session.end - held);
            maker.extend(&mut session.chain, count);
            events.push(stored(session, held));
            session.chain.len() < session.end
        });
    }
    let queries = (0..queries).map(|_| {
        let session = &sessions[maker.rng.random_range(0..sessions.len())];
        let new = maker.rng.random_range(3..=13);
        let held = maker.rng.random_range(session.chain.len() / 2..=session.chain.len());
        let mut chain = session.chain[..held].to_vec();
        maker.extend(&mut chain, (held * new / (100 - new)).max(1));
        chain
    });
    let queries = queries.collect();
    // Sessions end, tails first as engines evict, and others take their places.
    let mut churn = Vec::new();
    let shared = maker.prompts.iter().map(Vec::len).max().unwrap_or(0);
    for session in sessions {
        let gone: Vec<u64> = session.chain.iter().skip(shared).rev().map(|block| block.chained).collect();
        let mut next = maker.session(session.worker);
        maker.extend(&mut next.chain, gone.len());
        churn.extend(
            gone.chunks(32).map(|blocks| Event::Removed { worker: next.worker, blocks: blocks.to_vec() }),
        );
        churn.push(stored(&next, 0));
    }
    Workload { name: format!("agentic, {workers} workers"), workers, events, queries, churn }
}

/// The same index, asked for what nobody has.
pub(super) fn all_miss(workers: u16, sessions_each: usize, queries: usize) -> Workload {
    let mut workload = agentic(workers, sessions_each, 0);
    let mut maker = Maker::new(2);
    workload.queries = (0..queries)
        .map(|_| {
            let (mut chain, len) = (Vec::new(), maker.rng.random_range(SESSION_BLOCKS));
            maker.extend(&mut chain, len);
            chain
        })
        .collect();
    workload.name = format!("all miss, {workers} workers");
    workload.churn.clear();
    workload
}

/// The same, after each worker has let go of half of what it stored among the first blocks of its sessions, oldest first.
pub(super) fn head_first(workers: u16, sessions_each: usize, queries: usize) -> Workload {
    let mut workload = agentic(workers, sessions_each, queries);
    let mut removed = Vec::new();
    for event in &workload.events {
        if let Event::Stored { worker, position, blocks, .. } = event
            && blocks[0].chained % 2 == 0
            && *position < 400
        {
            let blocks = blocks.iter().map(|block| block.chained).collect();
            removed.push(Event::Removed { worker: *worker, blocks });
        }
    }
    workload.events.append(&mut removed);
    workload.name = format!("heads evicted, {workers} workers");
    workload.churn.clear();
    workload
}
