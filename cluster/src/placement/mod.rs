//! Where the replicas of a block belong, and who sees to it. Pure: the state of the cluster is an argument.
//!
//! Owns two questions: which nodes shall hold a block ([`Sites::choose`]), and what is short of that, with
//! the one node that acts on it ([`Sites::judge`]). It knows no directory, moves nothing and remembers
//! nothing: what was chosen shows in the directory once it is done.

#[cfg(test)]
mod tests;

use hearth_proto::limits::{RAMP_MS_DEFAULT, RAMP_WEIGHT_MIN};
use hearth_proto::{Fingerprint, NodeId};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

/// Steps in which the free part of a node counts, so that its weight does not change with every block.
const FREE_STEPS: u64 = 16;
/// What a full node weighs beside one that is a step less full: it evicts for what comes.
const FULL_STEP: f64 = 0.25;

/// A node that serves, as placement sees it.
#[derive(Clone, Debug)]
pub struct Site {
    /// The node.
    pub node: NodeId,
    /// Where it fails together with others.
    pub zone: String,
    /// False while it is drained: it gives blocks away and takes none.
    pub takes: bool,
    /// True if it has a durable tier.
    pub durable: bool,
    /// What its durable tier holds, or its memory if it has no other.
    pub capacity_bytes: u64,
    /// What it holds of that.
    pub used_bytes: u64,
    /// How long it has been up, in milliseconds.
    pub up_ms: u64,
}

/// One node's copy of a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct HeldCopy {
    /// Who has it.
    pub node: NodeId,
    /// Whether it lies in memory there.
    pub host: bool,
    /// Whether it lies on NVMe there.
    pub nvme: bool,
}

/// Nodes in the order in which they shall hold a block.
pub type Chosen = SmallVec<[NodeId; 4]>;

/// What a block lacks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Shortage {
    /// The node that acts on it.
    pub responsible: NodeId,
    /// Who holds it for good and is up.
    pub settled: Chosen,
    /// Replicas that are missing, as far as there are nodes for them.
    pub missing: usize,
    /// Whether copies must be durable, as the block is where it lies.
    pub durable: bool,
}

/// The nodes that serve, with what placement depends on.
#[derive(Clone, Debug, Default)]
pub struct Sites {
    nodes: Vec<Weighed>,
    by_id: FxHashMap<NodeId, usize>,
    /// Nodes that take durable copies, or any if none is durable.
    takers: usize,
}

#[derive(Clone, Debug)]
struct Weighed {
    node: NodeId,
    zone: usize,
    /// What it holds stays there: it is not being drained.
    stays: bool,
    takes: bool,
    /// A copy in its memory lasts as well as any other, for lack of nodes with NVMe.
    memory_lasts: bool,
    weight: f64,
}

impl Weighed {
    fn is_durable(&self, copy: &HeldCopy) -> bool {
        copy.nvme || (self.memory_lasts && copy.host)
    }
}

impl Sites {
    /// Weighs the nodes that serve. A node that came a moment ago is given little at first, and its share
    /// after `ramp_ms`; zero is the default.
    pub fn new(sites: &[Site], ramp_ms: u64) -> Self {
        let mut zones: Vec<&str> = sites.iter().map(|site| site.zone.as_str()).collect();
        zones.sort_unstable();
        zones.dedup();
        // Beside nodes with NVMe, one that has only memory is no place for what is to last.
        let any_durable = sites.iter().any(|site| site.takes && site.durable);
        let weigh = |site: &Site| Weighed {
            node: site.node,
            zone: zones.binary_search(&site.zone.as_str()).expect("every zone is in the list"),
            stays: site.takes,
            memory_lasts: !any_durable,
            takes: site.takes && site.capacity_bytes > 0 && (site.durable || !any_durable),
            weight: weight(site, ramp_ms),
        };
        let mut nodes: Vec<Weighed> = sites.iter().map(weigh).collect();
        nodes.sort_unstable_by_key(|site| site.node);
        nodes.dedup_by_key(|site| site.node);
        let by_id = nodes.iter().enumerate().map(|(index, site)| (site.node, index)).collect();
        let takers = nodes.iter().filter(|site| site.takes).count();
        Self { nodes, by_id, takers }
    }

    /// The nodes that shall hold a block: those of `held` that may, in their order, which begins with the
    /// writer's own, then the best of the others up to `replicas`, in zones of their own as far as there are
    /// any. `avoid` names nodes that shall not be chosen now.
    ///
    /// *Source*: rendezvous hashing (Thaler, Ravishankar 1996), weighted by exponential races; a node that
    /// comes or goes moves only what it takes over or leaves.
    pub fn choose(&self, name: &Fingerprint, held: &[NodeId], replicas: usize, avoid: &[NodeId]) -> Chosen {
        let mut uses: SmallVec<[(usize, usize); 4]> = SmallVec::new();
        let mut chosen = Chosen::new();
        for node in held {
            if let Some(site) = self.of(*node).filter(|site| site.stays && !chosen.contains(node)) {
                chosen.push(*node);
                count_use(&mut uses, site.zone);
            }
        }
        if chosen.len() >= replicas {
            return chosen;
        }
        let is_open =
            |site: &&Weighed| site.takes && !chosen.contains(&site.node) && !avoid.contains(&site.node);
        let mut open: Vec<(f64, &Weighed)> =
            self.nodes.iter().filter(is_open).map(|site| (race(name, site), site)).collect();
        // The earliest finish wins; equal ones are told apart by the id.
        open.sort_unstable_by(|(a, x), (b, y)| a.total_cmp(b).then(x.node.cmp(&y.node)));
        while chosen.len() < replicas && !open.is_empty() {
            let used =
                |site: &Weighed| uses.iter().find(|(zone, _)| *zone == site.zone).map_or(0, |(_, n)| *n);
            let best = (0..open.len()).min_by_key(|at| used(open[*at].1)).expect("it is not empty");
            let (_, site) = open.remove(best);
            chosen.push(site.node);
            count_use(&mut uses, site.zone);
        }
        chosen
    }

    /// What a block lacks of `replicas` copies; `None` if nothing that could be done about it.
    ///
    /// Copies on nodes that are drained are sources and do not count. A block that is durable nowhere is not
    /// worth a second copy; if only drained nodes have it, it is worth one elsewhere.
    pub fn judge(&self, name: &Fingerprint, copies: &[HeldCopy], replicas: usize) -> Option<Shortage> {
        let (mut settled, durable) = self.settled(copies);
        settled.sort_unstable();
        let wanted = if durable { replicas.max(1) } else { 1 };
        let missing = wanted.min(self.takers).saturating_sub(settled.len());
        if missing == 0 {
            return None;
        }
        let responsible = self
            .live(copies)
            .map(|(copy, site)| (!site.is_durable(copy), !site.stays, mix(name, copy.node), copy.node))
            .min()
            .map(|(.., node)| node)?;
        Some(Shortage { responsible, settled, missing, durable })
    }

    /// Whether a block goes with the nodes that are drained: none that stays has it as durably as one of them,
    /// whether there is any that could.
    pub fn leaves(&self, copies: &[HeldCopy]) -> bool {
        self.settled(copies).0.is_empty()
    }

    /// Who holds a block for good and is up, and whether it is durable anywhere.
    fn settled(&self, copies: &[HeldCopy]) -> (Chosen, bool) {
        let durable = self.live(copies).any(|(copy, site)| site.is_durable(copy));
        let settled =
            self.live(copies).filter(|(copy, site)| site.stays && (!durable || site.is_durable(copy)));
        (settled.map(|(copy, _)| copy.node).collect(), durable)
    }

    fn live<'a>(&'a self, copies: &'a [HeldCopy]) -> impl Iterator<Item = (&'a HeldCopy, &'a Weighed)> {
        copies.iter().filter_map(|copy| self.of(copy.node).map(|site| (copy, site)))
    }

    /// Whether copies can be durable: there are nodes with NVMe that take some.
    pub fn has_durable(&self) -> bool {
        self.nodes.iter().any(|site| site.takes && !site.memory_lasts)
    }

    /// Whether what this node holds stays there.
    pub fn stays(&self, node: NodeId) -> bool {
        self.of(node).is_some_and(|site| site.stays)
    }

    fn of(&self, node: NodeId) -> Option<&Weighed> {
        self.by_id.get(&node).map(|index| &self.nodes[*index])
    }
}

fn count_use(uses: &mut SmallVec<[(usize, usize); 4]>, zone: usize) {
    match uses.iter_mut().find(|(of, _)| *of == zone) {
        Some((_, count)) => *count += 1,
        None => uses.push((zone, 1)),
    }
}

/// What a node weighs: its free room, in steps, and how far it is ramped in.
fn weight(site: &Site, ramp_ms: u64) -> f64 {
    let free_bytes = site.capacity_bytes.saturating_sub(site.used_bytes);
    let steps = u128::from(free_bytes) * u128::from(FREE_STEPS) / u128::from(site.capacity_bytes.max(1));
    let free = (steps as f64).max(FULL_STEP) / FREE_STEPS as f64;
    let ramp_ms = if ramp_ms == 0 { RAMP_MS_DEFAULT } else { ramp_ms };
    let ramp = (site.up_ms as f64 / ramp_ms as f64).clamp(RAMP_WEIGHT_MIN, 1.0);
    site.capacity_bytes as f64 * free * ramp
}

/// When a node finishes in the race for a block; a node of twice the weight runs twice as fast.
fn race(name: &Fingerprint, site: &Weighed) -> f64 {
    // Strictly between zero and one.
    let uniform = ((mix(name, site.node) >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
    -uniform.ln() / site.weight.max(f64::MIN_POSITIVE)
}

/// Mixes a block and a node.
fn mix(name: &Fingerprint, node: NodeId) -> u64 {
    let block = name.words[0] ^ u64::from(name.namespace.0).rotate_left(32);
    let mut mixed = block ^ node.0.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    // The end of SplitMix64, twice, so that neighbouring ids differ everywhere.
    for _ in 0..2 {
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^= mixed >> 31;
    }
    mixed
}
