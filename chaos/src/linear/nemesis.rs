//! What happens to the cluster of a history: one fault after the other, and clocks that jump at any time.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use hearth_tests::TestCluster;
use rand::Rng;
use rand_chacha::ChaCha8Rng;
use tokio::time::Instant;

use super::network::Network;

/// How long the cluster may take to heal.
const HEALING: Duration = Duration::from_secs(120);
/// Pause before a fault, and how long it lasts.
const PAUSE_MS: std::ops::Range<u64> = 100..700;
const LASTS_MS: std::ops::Range<u64> = 200..2_200;
/// What happens to processes: killed, ended as an operator ends them, or stopped for a while.
const KINDS: [&str; 5] = ["kill", "end", "stop", "kill a majority", "stop a majority"];
/// How far a clock jumps: any order of magnitude between these is as likely as any other.
const JUMP_MS: (f64, f64) = (200.0, 200_000.0);
/// How far off a clock may be in the end.
const OFFSET_MS_MAX: i64 = 1_800_000;

/// Faults on purpose.
pub(super) struct Nemesis {
    pub(super) cluster: TestCluster,
    pub(super) network: Option<Network>,
    /// How far each node's clock is off, if clocks jump.
    pub(super) clocks: Option<Vec<i64>>,
    pub(super) rng: ChaCha8Rng,
    /// Faults so far, by kind.
    pub(super) faults: BTreeMap<&'static str, u64>,
}

impl Nemesis {
    /// Faults until then; afterwards all nodes are well.
    ///
    /// # Errors
    /// If a node ended by itself, or one that was started again does not get ready.
    pub(super) async fn strike_until(&mut self, until: Instant) -> anyhow::Result<()> {
        while Instant::now() < until {
            self.strike().await?;
        }
        Ok(())
    }

    /// One fault, from its beginning to its end.
    async fn strike(&mut self) -> anyhow::Result<()> {
        self.wait(PAUSE_MS).await;
        for (index, node) in self.cluster.nodes.iter_mut().enumerate() {
            ensure!(node.is_running(), "node {index} ended by itself:\n{}", node.log_tail());
        }
        let struck = self.choose().await;
        let count = self.cluster.nodes.len();
        let other = (struck + self.rng.random_range(1..count)) % count;
        if self.clocks.is_some() && self.rng.random_bool(0.7) {
            self.jump(struck)?;
            if self.rng.random_bool(0.3) {
                self.wait(PAUSE_MS).await;
                return Ok(());
            }
        }
        if let Some(network) = &self.network
            && self.rng.random_bool(0.5)
        {
            let kind = network.strike(struck, &mut self.rng)?;
            self.note(kind);
            self.endure(other).await?;
            return self.network.as_ref().map_or(Ok(()), Network::heal);
        }
        let kind = KINDS[self.rng.random_range(0..KINDS.len())];
        self.note(kind);
        let nodes = if kind.ends_with("majority") { vec![struck, other] } else { vec![struck] };
        for node in &nodes {
            let node = &mut self.cluster.nodes[*node];
            match kind {
                "end" => {
                    node.stop(HEALING).await?;
                }
                "stop" | "stop a majority" => node.pause()?,
                _ => node.kill()?,
            }
        }
        self.endure(other).await?;
        for node in nodes {
            let node = &mut self.cluster.nodes[node];
            if node.is_running() { node.resume()? } else { node.launch()? }
        }
        for node in &mut self.cluster.nodes {
            node.wait_ready(HEALING).await?;
        }
        Ok(())
    }

    /// Lets a fault last; clocks may jump meanwhile.
    async fn endure(&mut self, other: usize) -> anyhow::Result<()> {
        self.wait(LASTS_MS).await;
        if self.clocks.is_some() && self.rng.random_bool(0.3) {
            self.jump(other)?;
            self.wait(PAUSE_MS).await;
        }
        Ok(())
    }

    /// Rather one that leads a group that the objects lie in, whose faults are felt.
    async fn choose(&mut self) -> usize {
        let group = self.rng.random_range(0..2);
        let leader = if self.rng.random_bool(0.7) { self.cluster.leader(group).await } else { None };
        leader.unwrap_or_else(|| self.rng.random_range(0..self.cluster.nodes.len()))
    }

    fn jump(&mut self, node: usize) -> anyhow::Result<()> {
        let Some(clocks) = &mut self.clocks else { return Ok(()) };
        let (least, most) = JUMP_MS;
        let by = (least * (most / least).powf(self.rng.random_range(0.0..1.0))) as i64;
        let ahead = self.rng.random_bool(0.6);
        let offset = clocks[node] + if ahead { by } else { -by };
        clocks[node] = offset.clamp(-OFFSET_MS_MAX, OFFSET_MS_MAX);
        self.cluster.nodes[node].set_clock(clocks[node])?;
        self.note(if ahead { "clock jumps ahead" } else { "clock jumps back" });
        Ok(())
    }

    fn note(&mut self, kind: &'static str) {
        *self.faults.entry(kind).or_default() += 1;
    }

    async fn wait(&mut self, ms: std::ops::Range<u64>) {
        tokio::time::sleep(Duration::from_millis(self.rng.random_range(ms))).await;
    }
}
