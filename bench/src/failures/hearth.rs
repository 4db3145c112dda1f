//! Hearth in the place of the system that fails: three hearthd processes, durable puts, real clients.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use hearth_client::{BlockBuf, BlockResult, Chain, Client, GetOptions, PutBlock, PutOptions, PutResult};
use hearth_proto::v1::operate_client::OperateClient;
use hearth_proto::{AckLevel, BlockKey, LayoutId, PrefixHash, v1};
use hearth_replay::content;
use hearth_tests::{ClusterOptions, NodeOptions, TestCluster};

use super::payload;
use super::probes::{Probed, watch};
use super::timeline::{Existence, Got, Key, Outcome};
use super::{Case, Found, Plan, Ran};

const NODES: usize = 3;
const PATIENCE: Duration = Duration::from_secs(60);
/// Blocks of one put.
const BATCH: usize = 200;
/// The group that leads when there is but one for the directory, and the one of control.
const GROUPS: [u32; 2] = [1, 0];

/// Runs one case and says what it came to.
pub(crate) async fn run(plan: &Plan, case: Case) -> anyhow::Result<Ran> {
    let node = NodeOptions {
        host_capacity: "128MiB".into(),
        nvme_capacity: (plan.bytes() * 2 + (512 << 20)).to_string(),
        extra: Vec::new(),
        ..NodeOptions::default()
    };
    let options = ClusterOptions { nodes: NODES, node, ..ClusterOptions::default() };
    let mut cluster = TestCluster::start(options).await?;
    let mut leaders = Vec::new();
    for group in GROUPS {
        leaders.push(cluster.wait_leader(group).await?);
    }
    match case {
        Case::NodeKilled { replicas } => {
            if replicas > 1
                && let Err(why) = set_replicas(&cluster, replicas).await?
            {
                return Ok(Err(why));
            }
            let victim = (0..NODES).rev().find(|node| !leaders.contains(node)).context("two lead at most")?;
            let reader = Reader::new(&cluster, plan, victim).await?;
            store(&cluster, plan, &[0, 1, 2]).await?;
            reader.wait_copies(plan, replicas).await?;
            cluster.nodes[victim].kill()?;
            let found = reader.watch(plan, plan.node_watch(replicas), replicas, async { Ok(()) }).await?;
            Ok(Ok(vec![(case.failures()[0], found)]))
        }
        Case::LeaderKilled => {
            let leader = leaders[0];
            let reader = Reader::new(&cluster, plan, leader).await?;
            let others: Vec<usize> = (0..NODES).filter(|node| *node != leader).collect();
            store(&cluster, plan, &others).await?;
            reader.wait_copies(plan, 1).await?;
            let mut committed_s = None;
            cluster.nodes[leader].kill()?;
            let committed = async || cluster.committed_blocks(others[0]).await.unwrap_or(0);
            let (killed, before) = (Instant::now(), committed().await);
            let recovery = async {
                // The probe of puts sees to it that there is something to commit.
                TestCluster::wait_until("the directory commits again", PATIENCE, async || {
                    committed().await > before
                })
                .await?;
                committed_s = Some(killed.elapsed().as_secs_f64());
                Ok(())
            };
            let found = reader.watch(plan, plan.leader_watch, 1, recovery).await?;
            Ok(Ok(vec![(case.failures()[0], Found { committed_s, ..found })]))
        }
        Case::AllRestarted => {
            let reader = Reader::new(&cluster, plan, 2).await?;
            store(&cluster, plan, &[0, 1, 2]).await?;
            reader.wait_copies(plan, 1).await?;
            let mut found = Vec::new();
            // What was acknowledged is on disk.
            let mut on_disk = plan.keys as usize;
            for failure in case.failures() {
                for node in &mut cluster.nodes {
                    node.kill()?;
                }
                let mut damaged = None;
                if failure.flips() {
                    let folder = cluster.folder();
                    damaged = Some(payload::flip_every_second(folder, plan.keys, plan.block_bytes)?.len());
                }
                let restart = async {
                    for node in &mut cluster.nodes {
                        node.launch()?;
                    }
                    for node in &mut cluster.nodes {
                        node.wait_ready(PATIENCE).await?;
                    }
                    Ok(())
                };
                let seen = reader.watch(plan, plan.restart_watch, 1, restart).await?;
                found.push((*failure, Found { on_disk: Some(on_disk), damaged, ..seen.clone() }));
                on_disk = seen.outcome.right;
            }
            Ok(Ok(found))
        }
    }
}

/// Asks for so many copies of each block; the inner error says why that is not to be had.
async fn set_replicas(cluster: &TestCluster, replicas: u32) -> anyhow::Result<Result<(), String>> {
    let address = format!("http://{}", cluster.nodes[0].control_address());
    let mut operate = OperateClient::connect(address).await?;
    let policy = v1::ClusterPolicy { replicas, ..v1::ClusterPolicy::default() };
    let request = v1::PutPolicyRequest { policy: Some(policy) };
    match tokio::time::timeout(PATIENCE, operate.put_policy(request)).await? {
        Ok(_) => Ok(Ok(())),
        Err(status) if status.code() == tonic::Code::Unimplemented => {
            Ok(Err("not offered: this build of hearthd takes no policy".to_owned()))
        }
        Err(status) => Err(status.into()),
    }
}

/// Puts all keys durably, in equal parts through the nodes `homes`.
async fn store(cluster: &TestCluster, plan: &Plan, homes: &[usize]) -> anyhow::Result<()> {
    for (position, home) in homes.iter().enumerate() {
        let client = cluster.client(*home).await?;
        let keys: Vec<Key> = (0..plan.keys).filter(|key| *key as usize % homes.len() == position).collect();
        for keys in keys.chunks(BATCH) {
            let stored = put(&client, keys, plan.block_bytes, PATIENCE).await?;
            ensure!(stored == keys.len(), "{stored} of {} blocks were stored durably", keys.len());
        }
    }
    Ok(())
}

/// Clients of nodes that survive.
struct Reader {
    reader: Client,
    /// Its own node is another one, so that what it finds has come round.
    other: Client,
    block_bytes: usize,
}

impl Reader {
    async fn new(cluster: &TestCluster, plan: &Plan, victim: usize) -> anyhow::Result<Self> {
        let client = async |steps: usize| cluster.client((victim + steps) % NODES).await;
        Ok(Self { reader: client(1).await?, other: client(2).await?, block_bytes: plan.block_bytes })
    }

    /// Waits until both know of so many copies of every key.
    async fn wait_copies(&self, plan: &Plan, replicas: u32) -> anyhow::Result<()> {
        let all: Vec<Key> = (0..plan.keys).collect();
        for client in [&self.reader, &self.other] {
            TestCluster::wait_until("every key has its copies", PATIENCE, async || {
                copies(client, &all).await.is_ok_and(|found| found.iter().all(|count| *count >= replicas))
            })
            .await?;
        }
        Ok(())
    }

    async fn watch(
        &self,
        plan: &Plan,
        time: Duration,
        replicas: u32,
        recovery: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<Found> {
        let seen = watch(self, plan.keys, time, recovery).await?;
        Ok(Found::of(Outcome::of(&seen, u64::from(replicas) * u64::from(plan.keys))))
    }
}

impl Probed for Reader {
    async fn exists(&self, keys: &[Key]) -> anyhow::Result<Vec<Existence>> {
        let lookup = self.reader.lookup(&chain(keys)?, None).await;
        let said = |held: bool| match (lookup.source(), held) {
            (None, _) => Existence::Unknown,
            (Some(_), true) => Existence::Yes,
            (Some(_), false) => Existence::No,
        };
        Ok(lookup.replicas().iter().map(|replicas| said(!replicas.is_empty())).collect())
    }

    async fn get(&self, key: Key) -> anyhow::Result<Got> {
        let lookup = self.reader.lookup(&chain(&[key])?, None).await;
        let buffers = vec![(0, BlockBuf::with_capacity(self.block_bytes))];
        let expected = bytes_of(key, self.block_bytes)?;
        let mut got = Got::Missing;
        self.reader
            .get(&lookup, buffers, GetOptions::default(), |_, result| {
                if let BlockResult::Hit(hit) = result {
                    let right = hit.buffer.as_slice() == expected;
                    got = if right { Got::Right } else { Got::Wrong };
                }
            })
            .await?;
        Ok(got)
    }

    async fn get_all(&self, keys: &[Key]) -> anyhow::Result<Vec<Got>> {
        let mut got = Vec::new();
        for key in keys {
            got.push(self.get(*key).await?);
        }
        Ok(got)
    }

    async fn put(&self, key: Key) -> anyhow::Result<bool> {
        Ok(put(&self.reader, &[key], self.block_bytes, Duration::from_secs(5)).await? == 1)
    }

    async fn is_found(&self, key: Key) -> anyhow::Result<bool> {
        Ok(self.other.lookup(&chain(&[key])?, None).await.held_prefix() == 1)
    }

    async fn copies(&self, keys: &[Key]) -> anyhow::Result<Vec<u32>> {
        copies(&self.reader, keys).await
    }
}

/// Nodes that hold each key, whatever the tiers.
async fn copies(client: &Client, keys: &[Key]) -> anyhow::Result<Vec<u32>> {
    let lookup = client.lookup(&chain(keys)?, None).await;
    let nodes = |replicas: &Vec<hearth_client::Replica>| {
        let mut nodes: Vec<_> = replicas.iter().map(|replica| replica.node).collect();
        nodes.sort_unstable();
        nodes.dedup();
        nodes.len() as u32
    };
    Ok(lookup.replicas().iter().map(nodes).collect())
}

async fn put(client: &Client, keys: &[Key], block_bytes: usize, patience: Duration) -> anyhow::Result<usize> {
    let block = |(index, key): (usize, &Key)| anyhow::Ok(PutBlock::new(index, bytes_of(*key, block_bytes)?));
    let blocks: Vec<PutBlock> = keys.iter().enumerate().map(block).collect::<anyhow::Result<_>>()?;
    let options = PutOptions { ack: AckLevel::Durable, patience: Some(patience) };
    let results = client.put(&chain(keys)?, &blocks, options).await?;
    Ok(results.iter().filter(|result| matches!(result, PutResult::Stored { .. })).count())
}

fn chain(keys: &[Key]) -> anyhow::Result<Chain> {
    let keys = keys.iter().map(|key| block_key(*key)).collect::<anyhow::Result<_>>()?;
    Ok(Chain::from_keys(keys)?)
}

fn block_key(key: Key) -> anyhow::Result<BlockKey> {
    Ok(BlockKey::derive(LayoutId([0x6b; 32]), &PrefixHash::new(&payload::head(key))?))
}

fn bytes_of(key: Key, block_bytes: usize) -> anyhow::Result<Vec<u8>> {
    let mut bytes = vec![0; block_bytes];
    let head = payload::head(key);
    bytes[..head.len()].copy_from_slice(&head);
    content::fill(&block_key(key)?, &mut bytes[head.len()..]);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_bytes_and_names_of_their_own() {
        let (first, second) = (bytes_of(1, 4_096).unwrap(), bytes_of(2, 4_096).unwrap());
        assert_eq!((first.len(), &first[..payload::head(1).len()]), (4_096, &payload::head(1)[..]));
        let same = first.iter().zip(&second).filter(|(a, b)| a == b).count();
        assert!(same < 1_024, "{same} bytes are the same");
        assert_ne!(block_key(1).unwrap(), block_key(2).unwrap());
    }
}
