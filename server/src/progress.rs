//! How far drains and repairs are, from this node's copy of the directory.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_cluster::{Cluster, ReadError};
use hearth_proto::limits::{PROGRESS_FRESH_MS, PROGRESS_RATE_MS};
use hearth_proto::{NodeId, v1};
use rustc_hash::FxHashMap;

use crate::repair::CopyCounters;

const FRESH: Duration = Duration::from_millis(PROGRESS_FRESH_MS);
const RATE_TIME: Duration = Duration::from_millis(PROGRESS_RATE_MS);
/// Measurements of one drain that are remembered.
const MEASURED_MAX: usize = (PROGRESS_RATE_MS / PROGRESS_FRESH_MS) as usize + 1;

/// Answers how far drains and repairs are. The whole directory is looked at for an answer, so it is given
/// again for a moment, and only one is worked out at a time.
#[derive(Clone)]
pub(crate) struct Progress(Arc<Inner>);

struct Inner {
    cluster: Cluster,
    counters: Arc<CopyCounters>,
    state: tokio::sync::Mutex<State>,
}

#[derive(Default)]
struct State {
    /// With the nodes that were being drained.
    latest: Option<(Instant, Vec<u64>, Sums)>,
    rates: Rates,
}

/// What the directory lacks at one moment.
#[derive(Clone, Debug, Default)]
struct Sums {
    missing: Sum,
    /// By node that is drained: what only such nodes hold.
    leaving: FxHashMap<NodeId, Sum>,
}

/// Why it is not known how far a drain is.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Unknown {
    /// The directory is not known well enough.
    #[error(transparent)]
    Read(#[from] ReadError),
    /// Adding it up failed.
    #[error("what is left to move could not be added up: {0}")]
    Failed(#[from] tokio::task::JoinError),
}

#[derive(Clone, Copy, Debug, Default)]
struct Sum {
    blocks: u64,
    bytes: u64,
}

/// What remained of each drain, over the last minute.
#[derive(Debug, Default)]
struct Rates(FxHashMap<NodeId, VecDeque<(Instant, u64)>>);

impl Progress {
    pub(crate) fn new(cluster: Cluster, counters: Arc<CopyCounters>) -> Self {
        Self(Arc::new(Inner { cluster, counters, state: tokio::sync::Mutex::default() }))
    }

    /// Blocks that no node holds but drained ones, this one among them: no older than this question.
    ///
    /// # Errors
    /// [`Unknown`] if the directory cannot be made new enough in time; nothing is known then.
    pub(crate) async fn remaining_blocks(&self, node: NodeId, deadline: Instant) -> Result<u64, Unknown> {
        // One at a time, as for the answers below.
        let _state = self.0.state.lock().await;
        self.0.cluster.refresh(deadline).await?;
        let cluster = self.0.cluster.clone();
        let sums = tokio::task::spawn_blocking(move || sums(&cluster)).await?;
        Ok(sums.leaving.get(&node).map_or(0, |left| left.blocks))
    }

    /// The answer to [`v1::ProgressRequest`], of a directory that was made as new as can be by the deadline.
    ///
    /// # Errors
    /// [`Unknown::Failed`]: nothing is known then, least of all that nothing is left.
    pub(crate) async fn answer(&self, refresh_deadline: Instant) -> Result<v1::ProgressResponse, Unknown> {
        // Without a leader nothing moves, and what this node has is answered.
        self.0.cluster.refresh(refresh_deadline).await.ok();
        let mut state = self.0.state.lock().await;
        let nodes = self.0.cluster.nodes();
        let drained = || nodes.iter().filter(|node| node.state() == v1::NodeState::Draining);
        let leaving: Vec<u64> = drained().map(|node| node.node_id).collect();
        // What was found before a drain began says nothing of it.
        let is_fresh = |(at, of, _): &(Instant, Vec<u64>, Sums)| at.elapsed() < FRESH && *of == leaving;
        if !state.latest.as_ref().is_some_and(is_fresh) {
            let cluster = self.0.cluster.clone();
            // Millions of blocks may be looked at.
            let sums = tokio::task::spawn_blocking(move || sums(&cluster)).await?;
            let now = Instant::now();
            state.rates.keep(|node| drained().any(|drained| drained.node_id == node.0));
            for node in drained() {
                let left = sums.leaving.get(&NodeId(node.node_id)).copied().unwrap_or_default();
                state.rates.measure(NodeId(node.node_id), left.bytes, now);
            }
            state.latest = Some((now, leaving, sums));
        }
        let sums = state.latest.as_ref().map(|(_, _, sums)| sums.clone()).unwrap_or_default();
        let drains = drained().map(|node| {
            let left = sums.leaving.get(&NodeId(node.node_id)).copied().unwrap_or_default();
            v1::DrainProgress {
                remaining_blocks: left.blocks,
                remaining_bytes: left.bytes,
                eta_seconds: state.rates.eta_seconds(NodeId(node.node_id)),
                node: Some(node.clone()),
            }
        });
        Ok(v1::ProgressResponse {
            drains: drains.collect(),
            missing_blocks: sums.missing.blocks,
            missing_bytes: sums.missing.bytes,
            copied_blocks: self.0.counters.copied_blocks.value(),
            copied_bytes: self.0.counters.copied_bytes.value(),
        })
    }
}

/// Adds up what every block lacks.
fn sums(cluster: &Cluster) -> Sums {
    let (sites, policy) = (cluster.sites(), cluster.copy_policy());
    let mut sums = Sums::default();
    for position in 0..cluster.directory_groups().count() as usize {
        for range in 0..=u8::MAX {
            cluster.for_each_in_range(position, range, |name, payload_len, copies| {
                let replicas = policy.replicas_of(name.namespace);
                if let Some(shortage) = sites.judge(name, copies, replicas) {
                    sums.missing.add(payload_len, shortage.missing as u64);
                }
                // Also where there is no node that could take it.
                if sites.leaves(copies) {
                    for copy in copies.iter().filter(|copy| !sites.stays(copy.node)) {
                        sums.leaving.entry(copy.node).or_default().add(payload_len, 1);
                    }
                }
            });
        }
    }
    sums
}

impl Sum {
    fn add(&mut self, payload_len: u32, copies: u64) {
        self.blocks += 1;
        self.bytes += u64::from(payload_len) * copies;
    }
}

impl Rates {
    fn keep(&mut self, is_drained: impl Fn(NodeId) -> bool) {
        self.0.retain(|node, _| is_drained(*node));
    }

    fn measure(&mut self, node: NodeId, remaining_bytes: u64, now: Instant) {
        let measured = self.0.entry(node).or_default();
        let is_past = |at: Instant| now.saturating_duration_since(at) > RATE_TIME;
        while measured.len() >= MEASURED_MAX || measured.front().is_some_and(|(at, _)| is_past(*at)) {
            measured.pop_front();
        }
        measured.push_back((now, remaining_bytes));
    }

    /// When a drain ends at the rate of the last minute; zero while there is none.
    fn eta_seconds(&self, node: NodeId) -> u64 {
        let Some(measured) = self.0.get(&node) else { return 0 };
        let (Some((from, before)), Some((to, left))) = (measured.front(), measured.back()) else { return 0 };
        let (elapsed, moved) = (to.saturating_duration_since(*from), before.saturating_sub(*left));
        if moved == 0 {
            return 0;
        }
        let millis = u128::from(*left) * elapsed.as_millis() / u128::from(moved);
        u64::try_from(millis.div_ceil(1_000)).unwrap_or(u64::MAX)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: NodeId = NodeId(2);

    #[test]
    fn the_time_left_follows_from_the_rate_of_the_last_minute() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        assert_eq!(rates.eta_seconds(NODE), 0, "nothing was measured");
        let at = |seconds| start + Duration::from_secs(seconds);
        rates.measure(NODE, 10_000, at(0));
        assert_eq!(rates.eta_seconds(NODE), 0, "no rate is known yet");
        rates.measure(NODE, 9_000, at(10));
        assert_eq!(rates.eta_seconds(NODE), 90);
        // The first measurements are forgotten: the rate is 10 a second from here on.
        rates.measure(NODE, 8_900, at(65));
        rates.measure(NODE, 8_400, at(115));
        assert_eq!(rates.eta_seconds(NODE), 840);
        rates.measure(NODE, 0, at(116));
        assert_eq!(rates.eta_seconds(NODE), 0);
        rates.measure(NODE, 500, at(117));
        rates.keep(|node| node != NODE);
        assert!(rates.0.is_empty());
    }

    #[test]
    fn however_often_it_is_measured_little_is_remembered() {
        let (mut rates, start) = (Rates::default(), Instant::now());
        for n in 0..1_000 {
            rates.measure(NODE, 1_000 - n, start + Duration::from_millis(n));
        }
        assert!(rates.0[&NODE].len() <= MEASURED_MAX);
    }
}
