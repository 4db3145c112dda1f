//! Makes the copies that blocks lack: of new blocks as they come, of those whose holders are gone, and of
//! those on a node that is drained.
//!
//! Every node looks after the blocks for which it is the responsible holder, as
//! [`hearth_cluster::placement`] says, and pushes them to the nodes that shall have them. The directory is
//! the list of what is to be done, so nothing is lost when a node stops: it is searched when the nodes or
//! the policy change, now and then in between, and not at all while one copy of each block is enough. What a
//! node evicts for want of room is not made again until then, or full nodes would copy for ever.
//!
//! Engines come first: copies are bounded in number and bytes, repairs and drains also in bytes a second,
//! reads of the disk wait behind all others, and no copy is a use of its block.

mod calm;
mod copy;
mod counters;
mod links;
mod news;
mod queue;
mod search;
mod throttle;

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use hearth_cluster::Cluster;
use hearth_proto::limits::{
    COPIES_IN_FLIGHT_MAX, COPIES_OF_NEW_IN_FLIGHT_MAX, COPY_ATTEMPTS_MAX, COPY_BYTES_IN_FLIGHT_MAX,
    COPY_QUEUE_MAX, REPAIR_BYTES_PER_SECOND_DEFAULT, REPAIR_RESCAN_MS, REPAIR_RESCAN_MS_MAX,
    REPAIR_SEARCH_EVERY_MS, REPAIR_SEARCHES_MIN, REPAIR_SITES_MS, REPAIR_TICK_MS,
};
use hearth_proto::v1::NodeState;
use hearth_proto::{BlockId, NodeId, v1};
use hearth_store::Store;
use tokio_util::sync::CancellationToken;

use calm::Calm;
use copy::{Copied, Copying};
use links::Links;
use queue::{CopyQueue, Settling, Task};
use search::{Found, Plan, Scope, Search, Step};
use throttle::Throttle;

pub(crate) use counters::CopyCounters;
pub(crate) use news::NewBlocks;

const RESCAN: Duration = Duration::from_millis(REPAIR_RESCAN_MS);
const RESCAN_MAX: Duration = Duration::from_millis(REPAIR_RESCAN_MS_MAX);
/// Replicas that are lost without a change among the nodes, as by damage, are made again by then.
const SEARCH_EVERY: Duration = Duration::from_millis(REPAIR_SEARCH_EVERY_MS);
const SITES_AGE_MAX: Duration = Duration::from_millis(REPAIR_SITES_MS);

/// What makes copies needs of the node.
pub(crate) struct RepairParts {
    pub(crate) cluster: Cluster,
    pub(crate) store: Store,
    pub(crate) news: Arc<NewBlocks>,
    pub(crate) counters: Arc<CopyCounters>,
    /// How long nodes that are gone may take to come back.
    pub(crate) grace: Duration,
}

/// Makes copies until it is stopped.
pub(crate) struct Repair {
    parts: RepairParts,
    plan: Arc<Plan>,
    addresses: Arc<Vec<(NodeId, String)>>,
    calm: Calm,
    queue: CopyQueue,
    settling: Settling,
    throttle: Throttle,
    links: Arc<Links>,
    copies: FuturesUnordered<BoxFuture<'static, Copied>>,
    copies_of_new: usize,
    bytes_in_flight: usize,
    search: Option<Search>,
    /// When the directory is to be searched, if it is.
    search_at: Option<Instant>,
    /// How long the next search waits, and what the last one found: those that change nothing become rare.
    pause: Duration,
    found_last: u64,
    /// Searches still to be made whatever they find: what nodes said just before a change may come into the
    /// directory after the first one.
    owed: u32,
    searched_at: Instant,
    sites_from: Instant,
    /// Something was found, or came, that is not in the queue.
    left_out: bool,
    /// There may be something to do: the policy asks for copies, or this node is drained.
    active: bool,
    drains: bool,
}

impl Repair {
    pub(crate) fn new(parts: RepairParts) -> Self {
        Self {
            plan: Arc::default(),
            addresses: Arc::default(),
            calm: Calm::new(parts.grace),
            queue: CopyQueue::default(),
            settling: Settling::default(),
            throttle: Throttle::new(REPAIR_BYTES_PER_SECOND_DEFAULT, Instant::now()),
            links: Arc::default(),
            copies: FuturesUnordered::new(),
            copies_of_new: 0,
            bytes_in_flight: 0,
            search: None,
            search_at: None,
            pause: RESCAN,
            found_last: u64::MAX,
            owed: 0,
            searched_at: Instant::now(),
            sites_from: Instant::now(),
            left_out: false,
            active: false,
            drains: false,
            parts,
        }
    }

    /// Works until `stop` fires; copies on their way are given up then.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let work = async {
            let mut ticks = tokio::time::interval(Duration::from_millis(REPAIR_TICK_MS));
            ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
            let news = Arc::clone(&self.parts.news);
            loop {
                let resume_at = self.start_copies(Instant::now());
                tokio::select! {
                    _ = ticks.tick() => self.look(Instant::now()),
                    (blocks, lost) = news.next() => self.take_news(blocks, lost, Instant::now()),
                    Some(copied) = self.copies.next() => self.ended(copied, Instant::now()),
                    step = step(&mut self.search, &self.parts, &self.plan) => {
                        self.take_step(step, Instant::now());
                    }
                    () = sleep_until(resume_at) => {}
                }
            }
        };
        tokio::select! {
            () = stop.cancelled() => {}
            () = work => {}
        }
    }

    /// Looks at the cluster, and begins or gives up searches.
    fn look(&mut self, now: Instant) {
        let cluster = &self.parts.cluster;
        let (nodes, policy) = (cluster.nodes(), cluster.copy_policy());
        let changed = self.calm.observe(&nodes, now);
        let own = cluster.node_id().0;
        let drains = nodes.iter().any(|node| node.node_id == own && node.state() == NodeState::Draining);
        let began = drains && !self.drains;
        self.drains = drains;
        let active = (drains || policy.replicas_max() > 1) && cluster.incarnation().is_some();
        if active != self.active {
            self.active = active;
            self.parts.news.want(active);
        }
        if !active {
            self.rest();
            return;
        }
        let asks_anew = policy != self.plan.policy;
        let is_time = now.saturating_duration_since(self.searched_at) >= SEARCH_EVERY;
        if changed || asks_anew || began {
            self.links.keep(&nodes);
            let address = |node: &v1::Node| (NodeId(node.node_id), node.data_address.clone());
            self.addresses = Arc::new(nodes.iter().map(address).collect());
        }
        if changed || asks_anew || began || is_time {
            self.search_at = Some(now);
            self.searched_at = now;
            (self.pause, self.found_last, self.owed) = (RESCAN, u64::MAX, REPAIR_SEARCHES_MIN);
        }
        let is_old = now.saturating_duration_since(self.sites_from) >= SITES_AGE_MAX;
        if is_old || changed || asks_anew || began {
            self.plan = Arc::new(Plan { sites: cluster.sites(), policy });
            self.sites_from = now;
            self.throttle.set_rate(self.share(&nodes), now);
        }
        self.begin_or_end_search(now);
    }

    /// This node's part of what all may move.
    fn share(&self, nodes: &[v1::Node]) -> u64 {
        let all = self.plan.policy.cluster.repair_bytes_per_second;
        let all = if all == 0 { REPAIR_BYTES_PER_SECOND_DEFAULT } else { all };
        let serving =
            nodes.iter().filter(|node| matches!(node.state(), NodeState::Up | NodeState::Draining)).count();
        (all / serving.max(1) as u64).max(1)
    }

    fn begin_or_end_search(&mut self, now: Instant) {
        // A drain is an order, and waits for no node that may come back.
        let scope = match self.calm.holds(now) {
            true => Some(Scope::All),
            false => self.drains.then_some(Scope::Leaving),
        };
        if self.search.as_ref().is_some_and(|search| search.scope() == Scope::All)
            && scope != Some(Scope::All)
        {
            self.search = None;
            self.search_at = Some(now);
        }
        // What is left out is found again when there is room for it.
        let has_room = self.queue.missing_len() < COPY_QUEUE_MAX / 2;
        let is_due = has_room && self.search_at.is_some_and(|at| at <= now);
        let Some(scope) = scope.filter(|_| is_due && self.search.is_none()) else { return };
        self.search_at = None;
        self.left_out = false;
        if scope == Scope::All {
            self.calm.answered();
        }
        self.search = Some(Search::new(scope, &self.parts.store));
    }

    /// Lets go of all that is to be done: nothing is.
    fn rest(&mut self) {
        self.queue.clear();
        self.search = None;
        self.search_at = None;
        self.left_out = false;
        self.plan = Arc::default();
        self.parts.counters.missing_blocks.set(0);
        self.parts.counters.missing_bytes.set(0);
    }

    fn take_news(&mut self, blocks: Vec<(BlockId, u32)>, lost: bool, now: Instant) {
        if !self.active {
            return;
        }
        let mut all = !lost;
        for (id, payload_len) in blocks {
            all &= self.queue.push_new(Task { id, payload_len, is_new: true, attempts: 0 }, now);
        }
        if !all {
            self.search_again(now);
        }
    }

    fn take_step(&mut self, step: Step, now: Instant) {
        let sum = match step {
            Step::Found(found) => return self.take_found(found),
            Step::Last(sum) => sum,
        };
        self.search = None;
        self.parts.counters.missing_blocks.set(sum.blocks);
        self.parts.counters.missing_bytes.set(sum.bytes);
        self.parts.counters.searches.add(1);
        // Where there is no room for all, copies push each other out: whoever gains nothing by it slows down.
        let gains = sum.blocks < self.found_last;
        self.found_last = sum.blocks;
        self.pause = if gains { RESCAN } else { (self.pause * 2).min(RESCAN_MAX) };
        self.owed = self.owed.saturating_sub(1);
        if self.drains || self.owed > 0 || self.left_out {
            self.search_again(now);
        }
    }

    fn take_found(&mut self, found: Vec<Found>) {
        for Found { id, payload_len, worth } in found {
            let Some(worth) = worth else { continue };
            let task = Task { id, payload_len, is_new: false, attempts: 0 };
            self.left_out |= !self.queue.push_missing(task, worth);
        }
    }

    fn search_again(&mut self, now: Instant) {
        let at = now + self.pause;
        self.search_at = Some(self.search_at.map_or(at, |before| before.min(at)));
    }

    /// Starts what may be started. Returns when there may be more, if time alone brings it.
    fn start_copies(&mut self, now: Instant) -> Option<Instant> {
        while self.active
            && self.copies.len() < COPIES_IN_FLIGHT_MAX
            && self.bytes_in_flight < COPY_BYTES_IN_FLIGHT_MAX
        {
            let may_be_new = self.copies_of_new < COPIES_OF_NEW_IN_FLIGHT_MAX;
            if let Some(task) = may_be_new.then(|| self.queue.pop_new(now)).flatten() {
                self.start(task, now);
                continue;
            }
            let new_ready_at = self.queue.new_ready_at().filter(|_| may_be_new);
            let Some(len) = self.queue.next_missing_len() else { return new_ready_at };
            if let Err(at) = self.throttle.take(u64::from(len), now) {
                return Some(new_ready_at.map_or(at, |ready_at| ready_at.min(at)));
            }
            if let Some(task) = self.queue.pop_missing() {
                self.start(task, now);
            }
        }
        None
    }

    fn start(&mut self, task: Task, now: Instant) {
        self.copies_of_new += usize::from(task.is_new);
        self.bytes_in_flight += task.payload_len as usize;
        let copying = Copying {
            cluster: self.parts.cluster.clone(),
            store: self.parts.store.clone(),
            links: Arc::clone(&self.links),
            plan: Arc::clone(&self.plan),
            addresses: Arc::clone(&self.addresses),
        };
        self.copies.push(Box::pin(copying.run(task, self.settling.of(&task.id, now))));
    }

    fn ended(&mut self, copied: Copied, now: Instant) {
        let Copied { mut task, made, failures, again } = copied;
        self.copies_of_new -= usize::from(task.is_new);
        self.bytes_in_flight -= task.payload_len as usize;
        self.queue.done(&task.id);
        let counters = &self.parts.counters;
        counters.copied_blocks.add(made.len() as u64);
        counters.copied_bytes.add(made.len() as u64 * u64::from(task.payload_len));
        counters.failures.add(u64::from(failures));
        if !task.is_new {
            // One was asked for before it began.
            let others = (made.len() as u64 + u64::from(failures)).saturating_sub(1);
            self.throttle.charge(others * u64::from(task.payload_len));
        }
        if !task.is_new && !again {
            counters.missing_blocks.subtract(1);
            counters.missing_bytes.subtract(u64::from(task.payload_len));
        }
        made.into_iter().for_each(|node| self.settling.insert(task.id, node, now));
        if !again || !self.active {
            return;
        }
        task.attempts += 1;
        let worth = self.parts.store.standing(&task.id);
        let waits = match worth {
            Some(_) if task.attempts >= COPY_ATTEMPTS_MAX => false,
            Some(_) if task.is_new => self.queue.push_new(task, now),
            Some(worth) => self.queue.push_missing(task, worth),
            None => true,
        };
        if !waits {
            self.search_again(now);
        }
    }
}

/// The next step of a search, if there is one.
async fn step(search: &mut Option<Search>, parts: &RepairParts, plan: &Arc<Plan>) -> Step {
    match search {
        Some(search) => search.step(&parts.cluster, &parts.store, plan).await,
        None => std::future::pending().await,
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at.into()).await,
        None => std::future::pending().await,
    }
}
