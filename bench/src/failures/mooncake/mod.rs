//! Mooncake Store in the place of the system that fails: its master, storage nodes that own a segment each,
//! clients that keep nothing, and etcd where it is to be highly available.

mod deployment;
mod environment;
mod worker;

use std::time::{Duration, Instant};

use anyhow::ensure;

use self::deployment::Deployment;
pub(crate) use self::deployment::{Backend, Flavour};
pub(crate) use self::environment::Environment;
use self::environment::VERSION;
use self::worker::Worker;
use super::payload;
use super::probes::{Probed, watch};
use super::timeline::{Existence, Got, Key, Outcome};
use super::{Case, Failure, Found, Plan};

/// Puts of one order.
const BATCH: usize = 100;
/// So much later a master serves that finds the lease of the former one in etcd.
const LEASE_ENDS: Duration = Duration::from_secs(12);
/// How long reading every key may take in the end, many at once.
const READ_TIME: Duration = Duration::from_secs(15);
/// The disk is given so long without a new object before all is killed.
const DISK_SETTLES: Duration = Duration::from_secs(3);

impl Flavour {
    /// As reports name it.
    pub(crate) fn name(self) -> String {
        let etcd = if self.etcd { ", etcd and operation log" } else { "" };
        let disk = match self.disk {
            None => "",
            Some(Backend::Buckets) => ", buckets on SSD",
            Some(Backend::OneFile) => ", one strict file on SSD",
        };
        format!("Mooncake {VERSION}{etcd}{disk}")
    }

    /// What was set that is not so by default.
    pub(crate) fn settings(self) -> String {
        let variables = self.node_variables().into_iter().map(|(name, value)| format!("{name}={value}"));
        let flags = self.master_flags().into_iter().map(str::to_owned);
        flags.chain(variables).collect::<Vec<_>>().join(" ")
    }
}

/// Runs one case and says what it came to.
pub(crate) async fn run(
    environment: &Environment,
    flavour: Flavour,
    plan: &Plan,
    case: Case,
) -> anyhow::Result<Vec<(Failure, Found)>> {
    let replicas = case.replicas();
    // So much that nothing is evicted.
    let segment_bytes = (plan.bytes() * u64::from(replicas)).max(128 << 20);
    let mut deployment = Deployment::start(environment, flavour, plan.block_bytes, segment_bytes).await?;
    let clients = Clients::start(&deployment, replicas).await?;
    let all: Vec<Key> = (0..plan.keys).collect();
    for keys in all.chunks(BATCH) {
        let stored = clients.put.put(keys, replicas).await?;
        ensure!(stored == keys.len(), "{stored} of {} keys were stored", keys.len());
    }
    match case {
        Case::NodeKilled { .. } => {
            deployment.kill_node().await?;
            let found = clients.watch(plan, plan.node_watch(replicas), async { Ok(()) }).await?;
            Ok(vec![(case.failures()[0], found)])
        }
        Case::LeaderKilled => {
            if flavour.etcd {
                tokio::time::sleep(DISK_SETTLES).await;
            }
            deployment.kill_master().await?;
            let restart = async {
                // Where there is another, it takes over.
                if flavour.etcd { Ok(()) } else { deployment.start_masters().await }
            };
            let found = clients.watch(plan, plan.leader_watch, restart).await?;
            // The master takes a put before it is acknowledged.
            let committed_s = found.outcome.writable_s;
            Ok(vec![(case.failures()[0], Found { committed_s, ..found })])
        }
        Case::AllRestarted => {
            let mut found = Vec::new();
            let time = plan.restart_watch + if flavour.etcd { LEASE_ENDS } else { Duration::ZERO };
            let mut on_disk = clients.on_disk(&all).await?;
            for failure in case.failures() {
                deployment.kill_all().await?;
                let mut damaged = None;
                if failure.flips() {
                    let folder = deployment.disk();
                    damaged = Some(payload::flip_every_second(&folder, plan.keys, plan.block_bytes)?.len());
                }
                let seen = clients.watch(plan, time, deployment.launch()).await?;
                found.push((*failure, Found { on_disk: Some(on_disk), damaged, ..seen.clone() }));
                // What was in memory alone is gone by now.
                on_disk = seen.outcome.right;
            }
            Ok(found)
        }
    }
}

/// A client for each probe.
struct Clients {
    exists: Worker,
    get: Worker,
    put: Worker,
    find: Worker,
    copies: Worker,
    replicas: u32,
}

impl Clients {
    async fn start(deployment: &Deployment, replicas: u32) -> anyhow::Result<Self> {
        let client = |number| deployment.client(number);
        let (exists, get, put, find, copies) =
            tokio::try_join!(client(0), client(1), client(2), client(3), client(4))?;
        Ok(Self { exists, get, put, find, copies, replicas })
    }

    async fn watch(
        &self,
        plan: &Plan,
        time: Duration,
        recovery: impl Future<Output = anyhow::Result<()>>,
    ) -> anyhow::Result<Found> {
        let seen = watch(self, plan.keys, time, recovery).await?;
        Ok(Found::of(Outcome::of(&seen, u64::from(self.replicas) * u64::from(plan.keys))))
    }

    /// Waits until no more keys come to disk; says how many are there.
    async fn on_disk(&self, keys: &[Key]) -> anyhow::Result<usize> {
        let (mut count, mut since) = (0, Instant::now());
        while since.elapsed() < DISK_SETTLES {
            let copies = self.copies.copies(keys).await?;
            let now = copies.iter().filter(|copies| copies.disk > 0).count();
            if now != count {
                (count, since) = (now, Instant::now());
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
        Ok(count)
    }
}

impl Probed for Clients {
    async fn exists(&self, keys: &[Key]) -> anyhow::Result<Vec<Existence>> {
        self.exists.exists(keys).await
    }

    async fn get(&self, key: Key) -> anyhow::Result<Got> {
        self.get.get(key).await
    }

    async fn get_all(&self, keys: &[Key]) -> anyhow::Result<Vec<Got>> {
        self.get.get_all(keys, READ_TIME).await
    }

    async fn put(&self, key: Key) -> anyhow::Result<bool> {
        Ok(self.put.put(&[key], self.replicas).await? == 1)
    }

    async fn is_found(&self, key: Key) -> anyhow::Result<bool> {
        Ok(self.find.exists(&[key]).await? == [Existence::Yes])
    }

    async fn copies(&self, keys: &[Key]) -> anyhow::Result<Vec<u32>> {
        Ok(self.copies.copies(keys).await?.into_iter().map(|copies| copies.memory).collect())
    }
}
