//! One engine: it loads what of a prompt is stored, computes the rest in chunks, and decodes beside that.
//!
//! A request waits until its blocks and its answer fit into memory. What is stored is then loaded, and the rest is
//! computed, a chunk a step; in each step every sequence that is past its prompt gets a token. Urgent requests go ahead
//! of those that came up to some time before them, and no further: nobody waits forever.

use std::collections::{BTreeMap, BTreeSet};

use hearth_proto::{NodeId, Tier, Urgency};
use hearth_router::placement::{
    DecodeSpeed, Held, LinkSpeed, LoadPlan, Origin, PrefillCurve, PrefillReport, Prompt, Source, Transfer,
};
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;

use super::arrivals::{Block, ns, seconds};
use super::cache::{Cache, Keep};
use super::hardware::Hardware;
use super::store::{Link, put};
use super::world::{Happens, Place, Said, World};

/// A request that a worker has.
#[derive(Debug)]
struct Sequence {
    /// When it would have come if it were as urgent as the others: the line is in this order.
    order: u64,
    keep: Keep,
    chain: Vec<Block>,
    prompt: Prompt,
    /// Tokens for which somebody waits in the line.
    queued_tokens: u32,
    /// Blocks that are not full at the end of the prompt, and those of the answer.
    answer_blocks: usize,
    cached_blocks: usize,
    resident_tokens: u32,
    transfers: Vec<(Tier, Transfer)>,
    done_tokens: u32,
    prefill_s: f64,
    output_left: u32,
}

/// What is being done.
#[derive(Debug)]
struct Step {
    number: u64,
    started_ns: u64,
    /// Tokens that each sequence gets, of those that are past their prompts.
    decodes: u32,
    token_ns: u64,
    /// What is computed of which prompts, and how long that takes.
    parts: Vec<(u32, u32, f64)>,
}

/// See the module.
pub(super) struct Worker {
    number: usize,
    gpu: Cache,
    host: Cache,
    host_link: Link,
    store_link: Link,
    prefill: PrefillCurve,
    decode: DecodeSpeed,
    rng: ChaCha12Rng,
    sequences: BTreeMap<u32, Sequence>,
    /// Requests without memory, in order, and the first of them if it did not fit when that was tried last.
    waiting: BTreeSet<(u64, u32)>,
    stuck: Option<u32>,
    /// Requests with all that they load.
    ready: BTreeSet<(u64, u32)>,
    decoding: Vec<u32>,
    decoding_blocks: u64,
    step: Option<Step>,
    steps: u64,
    queued_tokens: u64,
    busy_ns: u64,
}

impl Worker {
    pub(super) fn new(number: usize, world: &World<'_>, seed: u64) -> anyhow::Result<Self> {
        let (hardware, arrivals) = (world.hardware, world.arrivals);
        let blocks = arrivals.blocks_end();
        let count = |tokens: u64| (tokens / u64::from(arrivals.block_tokens)) as usize;
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        rng.set_stream(number as u64 + 1);
        Ok(Self {
            number,
            gpu: Cache::new(count(hardware.gpu_tokens), blocks),
            host: Cache::new(count(hardware.host_tokens), blocks),
            host_link: Link::new(hardware.host_link),
            store_link: Link::new(hardware.store_link),
            prefill: hardware.prefill()?,
            decode: Hardware::decode(hardware.decode_s, arrivals.block_tokens)?,
            rng,
            sequences: BTreeMap::new(),
            waiting: BTreeSet::new(),
            stuck: None,
            ready: BTreeSet::new(),
            decoding: Vec::new(),
            decoding_blocks: 0,
            step: None,
            steps: 0,
            queued_tokens: 0,
            busy_ns: 0,
        })
    }

    /// Tokens that are to be computed before somebody who comes now is, but for what he can load.
    pub(super) fn queued_tokens(&self) -> u64 {
        self.queued_tokens
    }

    /// How long it has computed.
    pub(super) fn busy_ns(&self) -> u64 {
        self.busy_ns
    }

    /// Requests that it has.
    pub(super) fn len(&self) -> usize {
        self.sequences.len()
    }

    /// Whether more is in one of its memories than there is room for.
    pub(super) fn is_overfull(&self) -> bool {
        [&self.gpu, &self.host].into_iter().any(|cache| cache.taken() > cache.capacity())
    }

    /// Takes a request.
    pub(super) fn arrive(&mut self, job: u32, urgency: Urgency, now_ns: u64, world: &mut World<'_>) {
        let (arrivals, hardware) = (world.arrivals, world.hardware);
        let asked = &arrivals.jobs[job as usize];
        let chain = arrivals.chain(asked);
        let block_tokens = arrivals.block_tokens;
        let prompt =
            Prompt::new(asked.input_tokens, block_tokens, hardware.token_bytes * u64::from(block_tokens))
                .expect("arrivals leave out what is too large, and add a token where there is none");
        let is_urgent = urgency == Urgency::Urgent;
        let resident = self.gpu.prefix(&chain).min(prompt.useful_blocks() as usize);
        let queued_tokens = asked.input_tokens - resident as u32 * block_tokens;
        let ahead_ns = if is_urgent { ns(hardware.urgent_ahead_s) } else { 0 };
        let sequence = Sequence {
            // Ahead of time zero there is room for the first ones.
            order: now_ns + ns(hardware.urgent_ahead_s) - ahead_ns,
            keep: if is_urgent { Keep::Until(now_ns + ns(hardware.retained_s)) } else { Keep::Usual },
            answer_blocks: prompt.blocks_with(asked.output_tokens) as usize - chain.len(),
            chain,
            prompt,
            queued_tokens,
            cached_blocks: 0,
            resident_tokens: 0,
            transfers: Vec::new(),
            done_tokens: 0,
            prefill_s: 0.0,
            output_left: asked.output_tokens - 1,
        };
        self.queued_tokens += u64::from(queued_tokens);
        self.waiting.insert((sequence.order, job));
        self.sequences.insert(job, sequence);
        self.admit(now_ns, world);
    }

    /// What a request loads is there.
    pub(super) fn loaded(&mut self, job: u32, now_ns: u64, world: &mut World<'_>) {
        let sequence = self.sequences.get_mut(&job).expect("a request is not over before it is loaded");
        let cached = &sequence.chain[..sequence.cached_blocks];
        let blocks: Vec<Block> = cached.iter().copied().filter(|block| self.gpu.ready(*block)).collect();
        world.said.push(Said::Stored { place: Place::Gpu(self.number), blocks });
        for (tier, transfer) in sequence.transfers.drain(..) {
            world.said.push(Said::Moved { worker: self.number, tier, transfer });
        }
        let changed = put(&mut self.host, cached, 0, sequence.keep, now_ns);
        world.say(Place::Host(self.number), changed);
        let [_, gone] = world.store.put(cached, cached.len(), sequence.keep, now_ns);
        debug_assert!(gone.is_empty(), "nothing was put");
        self.ready.insert((sequence.order, job));
        self.interrupt(now_ns, world);
        self.begin(now_ns, world);
    }

    /// The step with this number is over, if it is not another one by now.
    pub(super) fn stepped(&mut self, number: u64, now_ns: u64, world: &mut World<'_>) {
        let Some(step) = self.step.take_if(|step| step.number == number) else { return };
        self.busy_ns += now_ns - step.started_ns;
        let mut ended = Vec::new();
        for job in &self.decoding {
            let sequence = self.sequences.get_mut(job).expect("what is decoded is not over");
            sequence.output_left -= step.decodes;
            if sequence.output_left == 0 {
                ended.push(*job);
            }
        }
        for (job, tokens, part_s) in step.parts {
            let sequence = self.sequences.get_mut(&job).expect("what is computed is not over");
            sequence.done_tokens += tokens;
            sequence.prefill_s += part_s;
            self.queued_tokens -= u64::from(tokens);
            if sequence.done_tokens == sequence.prompt.tokens() {
                if sequence.output_left == 0 {
                    ended.push(job);
                }
                self.prefilled(job, now_ns, world);
            }
        }
        for job in ended {
            self.end(job, world);
        }
        self.admit(now_ns, world);
        self.begin(now_ns, world);
    }

    /// Gives memory to those that wait, as long as the first of them fits.
    fn admit(&mut self, now_ns: u64, world: &mut World<'_>) {
        while let Some(&(order, job)) = self.waiting.first() {
            let active = self.sequences.len() - self.waiting.len();
            if self.stuck == Some(job) || active >= world.hardware.sequences_max {
                return;
            }
            let sequence = &self.sequences[&job];
            let unused = sequence.chain.iter().filter(|block| !self.gpu.is_used(**block)).count();
            if unused + sequence.answer_blocks > self.gpu.room() {
                self.stuck = Some(job);
                return;
            }
            self.waiting.remove(&(order, job));
            self.load(job, now_ns, world);
        }
    }

    /// Takes memory for a request and begins to load what is stored and worth it.
    fn load(&mut self, job: u32, now_ns: u64, world: &mut World<'_>) {
        let sequence = self.sequences.get_mut(&job).expect("who waits is there");
        let chain = &sequence.chain;
        let useful = sequence.prompt.useful_blocks() as usize;
        let resident = self.gpu.prefix(chain).min(useful);
        let mut held = Held::resident(resident as u32);
        let wait = |link: &Link, more_s: f64| {
            let start_s = (link.latency_s() + link.wait_s(now_ns).max(more_s)).min(3_600.0);
            LinkSpeed::new(start_s, link.bytes_per_second()).expect("links of a fleet have a speed")
        };
        let host = self.host.prefix(chain);
        let all_s = world.store.all().wait_s(now_ns);
        let sources = [
            (Tier::Host, Origin::Worker, host, wait(&self.host_link, 0.0)),
            (
                Tier::Nvme,
                Origin::Node(NodeId(0)),
                world.store.cache().prefix(chain),
                wait(&self.store_link, all_s),
            ),
        ];
        for (tier, origin, prefix, speed) in sources {
            let source = Source { tier, origin, prefix_blocks: prefix as u32, speed };
            held.add(source).expect("two places are not too many");
        }
        let plan = LoadPlan::fastest(sequence.prompt, &held, &self.prefill);
        // First what is there, so that it does not go to make room.
        let (there, missing): (Vec<Block>, Vec<Block>) =
            chain.iter().partition(|block| self.gpu.has(**block));
        there.iter().for_each(|block| self.gpu.use_block(*block));
        let new = missing.iter().filter(|block| !self.gpu.is_used(**block)).count();
        self.gpu.make_room(new + sequence.answer_blocks, now_ns);
        missing.iter().for_each(|block| self.gpu.use_block(*block));
        self.gpu.reserve(sequence.answer_blocks);
        let mut there_ns = now_ns;
        for step in &plan.loads {
            let bytes = u64::from(step.blocks) * sequence.prompt.block_bytes();
            let link = if step.tier == Tier::Host { &mut self.host_link } else { &mut self.store_link };
            let ahead_bytes = link.in_flight_bytes(now_ns);
            let mut over_ns = link.take(bytes, now_ns);
            if step.tier != Tier::Host {
                over_ns = over_ns.max(world.store.all().take(bytes, now_ns));
            }
            there_ns = there_ns.max(over_ns);
            let transfer = Transfer { bytes, ahead_bytes, seconds: seconds(over_ns - now_ns) };
            sequence.transfers.push((step.tier, transfer));
            world.said.push(Said::Began { worker: self.number, tier: step.tier, bytes });
        }
        sequence.cached_blocks = plan.compute_from_block as usize;
        sequence.resident_tokens = plan.resident_blocks * sequence.prompt.block_tokens();
        sequence.done_tokens = plan.cached_tokens;
        self.queued_tokens += u64::from(plan.new_tokens);
        self.queued_tokens -= u64::from(sequence.queued_tokens);
        let gone = self.gpu.take_gone();
        world.say(Place::Gpu(self.number), [Vec::new(), gone]);
        world.later.push((there_ns, Happens::Loaded { worker: self.number, job }));
    }

    /// Begins the next step, if none is being done and there is something to do.
    fn begin(&mut self, now_ns: u64, world: &mut World<'_>) {
        if self.step.is_some() {
            return;
        }
        let decode_s = match self.decoding.len() {
            0 => 0.0,
            count => self.decode.token_s(count as u64, self.decoding_blocks),
        };
        let parts = self.chunk(world.hardware, decode_s);
        let (decodes, token_ns) = if !parts.is_empty() {
            (1, ns(parts.iter().map(|part| part.2).sum()))
        } else if let Some(least) = self.decoding.iter().map(|job| self.sequences[job].output_left).min() {
            (least, ns(decode_s * self.luck(world.hardware)))
        } else {
            return;
        };
        self.steps += 1;
        let step = Step { number: self.steps, started_ns: now_ns, decodes, token_ns, parts };
        let over_ns = now_ns + token_ns * u64::from(decodes);
        world.later.push((over_ns, Happens::Stepped { worker: self.number, step: step.number }));
        self.step = Some(step);
    }

    /// What is computed in the next step: of each request so many tokens, and what that takes with its part of the
    /// decoding beside it.
    fn chunk(&mut self, hardware: &Hardware, decode_s: f64) -> Vec<(u32, u32, f64)> {
        let mut left = hardware.chunk_tokens;
        let mut parts = Vec::new();
        for (_, job) in &self.ready {
            let sequence = &self.sequences[job];
            let tokens = (sequence.prompt.tokens() - sequence.done_tokens).min(left);
            if tokens == 0 {
                break;
            }
            left -= tokens;
            let [base_s, token_s, pair_s] = self.prefill.coefficients();
            let is_first = sequence.prefill_s == 0.0;
            let (new, done) = (f64::from(tokens), f64::from(sequence.done_tokens));
            let base_s = if is_first { base_s } else { 0.0 };
            parts.push((*job, tokens, base_s + token_s * new + pair_s * new * (done + new / 2.0)));
        }
        if parts.is_empty() {
            return parts;
        }
        let luck = self.luck(hardware);
        let whole = f64::from(hardware.chunk_tokens - left);
        for (_, tokens, part_s) in &mut parts {
            *part_s = (*part_s + decode_s * f64::from(*tokens) / whole) * luck;
        }
        parts
    }

    /// What a step's time is to be multiplied by.
    fn luck(&mut self, hardware: &Hardware) -> f64 {
        // Twelve throws less six are as good as normal here.
        let throws: f64 = (0..12).map(|_| self.rng.random::<f64>()).sum();
        ((throws - 6.0).clamp(-2.0, 2.0) * hardware.noise).exp()
    }

    /// Ends a step that only decodes with the token that it is at: there is a prompt to compute.
    fn interrupt(&mut self, now_ns: u64, world: &mut World<'_>) {
        let Some(step) = self.step.as_mut().filter(|step| step.parts.is_empty()) else { return };
        let decodes = (now_ns - step.started_ns).div_ceil(step.token_ns.max(1)).max(1) as u32;
        if decodes < step.decodes {
            self.steps += 1;
            step.number = self.steps;
            step.decodes = decodes;
            let over_ns = step.started_ns + step.token_ns * u64::from(decodes);
            world.later.push((over_ns, Happens::Stepped { worker: self.number, step: step.number }));
        }
    }

    /// The first token of a request is there, and its prompt's blocks can be used by others.
    fn prefilled(&mut self, job: u32, now_ns: u64, world: &mut World<'_>) {
        let sequence = self.sequences.get_mut(&job).expect("what was computed is not over");
        self.ready.remove(&(sequence.order, job));
        let cached_tokens = sequence.cached_blocks as u32 * sequence.prompt.block_tokens();
        let report = PrefillReport {
            new_tokens: sequence.prompt.tokens() - cached_tokens,
            cached_tokens,
            seconds: sequence.prefill_s,
        };
        let (resident_tokens, loaded_tokens) =
            (sequence.resident_tokens, cached_tokens - sequence.resident_tokens);
        world.said.push(Said::Prefilled { job, report, resident_tokens, loaded_tokens });
        let (chain, from, keep) = (&sequence.chain, sequence.cached_blocks, sequence.keep);
        let blocks = chain[from..].iter().copied().filter(|block| self.gpu.ready(*block)).collect();
        world.said.push(Said::Stored { place: Place::Gpu(self.number), blocks });
        let in_host = put(&mut self.host, chain, from, keep, now_ns);
        let in_store = world.store.put(chain, from, keep, now_ns);
        if sequence.output_left > 0 {
            self.decoding.push(job);
            self.decoding_blocks += (chain.len() + sequence.answer_blocks) as u64;
        }
        world.say(Place::Host(self.number), in_host);
        world.say(Place::Store, in_store);
    }

    fn end(&mut self, job: u32, world: &mut World<'_>) {
        let sequence = self.sequences.remove(&job).expect("a request ends once");
        if let Some(at) = self.decoding.iter().position(|other| *other == job) {
            self.decoding.remove(at);
            self.decoding_blocks -= (sequence.chain.len() + sequence.answer_blocks) as u64;
        }
        // The deepest first: it is the first to go.
        for block in sequence.chain.iter().rev() {
            self.gpu.release(*block, sequence.keep);
        }
        self.gpu.unreserve(sequence.answer_blocks);
        self.stuck = None;
        world.said.push(Said::Ended { job });
    }
}
