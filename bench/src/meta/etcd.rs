//! etcd as the peer: three members on loopback, keys and values of the same size, 128 puts a transaction.

use std::net::TcpListener;
use std::path::Path;
use std::process::Stdio;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use hearth_proto::BlockKey;
use tokio::process::{Child, Command};
use tokio::task::JoinSet;
use tonic::client::Grpc;
use tonic::codegen::http::uri::PathAndQuery;
use tonic::transport::{Channel, Endpoint};
use tonic_prost::ProstCodec;

use super::source::key;

/// Puts of one transaction: what etcd allows by default.
const BATCH: u64 = 128;
/// Transactions in flight, on all members together.
const IN_FLIGHT: usize = 48;
/// Bytes of a value: tier, length and incarnation, as a directory in etcd would keep them.
const VALUE_BYTES: usize = 13;
const PATIENCE: Duration = Duration::from_secs(30);
/// The node number that its keys are made with.
const NODE: u64 = 200;

/// etcd's messages, as far as they are needed (api/etcdserverpb/rpc.proto).
mod wire {
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Put {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) key: Vec<u8>,
        #[prost(bytes = "vec", tag = "2")]
        pub(super) value: Vec<u8>,
    }

    /// One of several requests; we only put.
    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Operation {
        #[prost(message, optional, tag = "2")]
        pub(super) put: Option<Put>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Transaction {
        #[prost(message, repeated, tag = "2")]
        pub(super) success: Vec<Operation>,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Header {
        /// Counts the changes of the whole store.
        #[prost(int64, tag = "3")]
        pub(super) revision: i64,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct TransactionAnswer {
        #[prost(message, optional, tag = "1")]
        pub(super) header: Option<Header>,
        #[prost(bool, tag = "2")]
        pub(super) succeeded: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct Range {
        #[prost(bytes = "vec", tag = "1")]
        pub(super) key: Vec<u8>,
        #[prost(bool, tag = "7")]
        pub(super) serializable: bool,
    }

    #[derive(Clone, PartialEq, prost::Message)]
    pub(super) struct RangeAnswer {
        #[prost(message, optional, tag = "1")]
        pub(super) header: Option<Header>,
    }
}

/// Three members; ended when dropped.
pub(crate) struct Etcd {
    /// As it names itself.
    pub(crate) version: String,
    members: Vec<Child>,
    clients: Vec<Channel>,
    next: Arc<AtomicU64>,
}

/// What a run came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Run {
    pub(crate) keys: u64,
    pub(crate) elapsed_s: f64,
    /// Of the three members.
    pub(crate) cpu_s: f64,
}

impl Etcd {
    /// Starts it; the error says why there is none.
    pub(crate) async fn start(dir: &Path) -> Result<Self, String> {
        let version = match Command::new("etcd").arg("--version").stdin(Stdio::null()).output().await {
            Ok(output) => String::from_utf8_lossy(&output.stdout).lines().next().unwrap_or("").to_owned(),
            Err(_) => return Err("etcd is not installed; on Debian: apt-get install etcd-server".to_owned()),
        };
        Self::start_members(dir, version).await.map_err(|error| format!("etcd does not start: {error:#}"))
    }

    async fn start_members(dir: &Path, version: String) -> anyhow::Result<Self> {
        let mut addresses = Vec::new();
        for _ in 0..3 {
            addresses.push((free_address()?, free_address()?));
        }
        let cluster: Vec<String> =
            addresses.iter().enumerate().map(|(n, (peers, _))| format!("n{n}=http://{peers}")).collect();
        let mut members = Vec::new();
        for (n, (peers, clients)) in addresses.iter().enumerate() {
            let mut command = Command::new("etcd");
            command.arg(format!("--name=n{n}")).arg("--data-dir").arg(dir.join(format!("etcd-{n}")));
            command.arg(format!("--initial-cluster={}", cluster.join(",")));
            for (what, address) in [("peer", peers), ("client", clients)] {
                let advertise = if what == "peer" { "initial-advertise-peer" } else { "advertise-client" };
                command.arg(format!("--listen-{what}-urls=http://{address}"));
                command.arg(format!("--{advertise}-urls=http://{address}"));
            }
            command.args(["--quota-backend-bytes=8589934592", "--log-level=error"]);
            command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
            members.push(command.spawn()?);
        }
        let mut clients = Vec::new();
        for (_, address) in &addresses {
            clients
                .push(Endpoint::from_shared(format!("http://{address}"))?.tcp_nodelay(true).connect_lazy());
        }
        let etcd = Self { version, members, clients, next: Arc::default() };
        let until = Instant::now() + PATIENCE;
        // Leaderless members refuse.
        while let Err(error) = etcd.put_one().await {
            ensure!(Instant::now() < until, "it takes no write: {error}");
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        Ok(etcd)
    }

    /// Puts new keys for so long, and waits until every member has applied them.
    pub(crate) async fn run(&self, time: Duration) -> anyhow::Result<Run> {
        let cpu_before = self.cpu_s()?;
        let first = self.next.load(Ordering::Relaxed);
        let began = Instant::now();
        let ends = began + time;
        let mut tasks = JoinSet::new();
        for position in 0..IN_FLIGHT {
            let channel = self.clients[position % self.clients.len()].clone();
            let next = Arc::clone(&self.next);
            tasks.spawn(async move {
                let mut last = 0;
                while Instant::now() < ends {
                    let from = next.fetch_add(BATCH, Ordering::Relaxed);
                    last = put(&channel, from..from + BATCH).await?;
                }
                anyhow::Ok(last)
            });
        }
        let mut last = 0;
        while let Some(done) = tasks.join_next().await {
            last = last.max(done??);
        }
        let keys = self.next.load(Ordering::Relaxed);
        let applied = futures::future::try_join_all(self.clients.iter().map(|client| applied(client, last)));
        tokio::time::timeout(PATIENCE, applied).await.context("a member of etcd does not catch up")??;
        let elapsed_s = began.elapsed().as_secs_f64();
        Ok(Run { keys: keys - first, elapsed_s, cpu_s: self.cpu_s()? - cpu_before })
    }

    /// Times single puts, one after the other, each from when it should have been sent.
    pub(crate) async fn latencies_us(&self, count: u32, pause: Duration) -> anyhow::Result<Vec<f64>> {
        let began = Instant::now();
        let mut latencies_us = Vec::new();
        for number in 0..count {
            let at = began + pause * number;
            tokio::time::sleep_until(at.into()).await;
            self.put_one().await?;
            latencies_us.push(at.elapsed().as_secs_f64() * 1e6);
        }
        Ok(latencies_us)
    }

    async fn put_one(&self) -> anyhow::Result<()> {
        let number = self.next.fetch_add(1, Ordering::Relaxed);
        match put(&self.clients[0], number..number + 1).await {
            Ok(_) => Ok(()),
            Err(error) => {
                // Whether it was stored is unknown; its number is used again until it is.
                self.next.store(number, Ordering::Relaxed);
                Err(error)
            }
        }
    }

    /// Processor time of all members so far.
    fn cpu_s(&self) -> anyhow::Result<f64> {
        let ids = self.members.iter().map(|member| member.id().context("a member of etcd has ended"));
        ids.map(|id| cpu_s_of(id?)).sum()
    }
}

/// Puts keys and says the revision of the store that has them.
async fn put(channel: &Channel, numbers: std::ops::Range<u64>) -> anyhow::Result<i64> {
    let operation = |number| wire::Operation {
        put: Some(wire::Put { key: name(&key(NODE, number)), value: vec![7; VALUE_BYTES] }),
    };
    let transaction = wire::Transaction { success: numbers.map(operation).collect() };
    let answer: wire::TransactionAnswer = call(channel, "/etcdserverpb.KV/Txn", transaction).await?;
    ensure!(answer.succeeded, "etcd did not do a transaction");
    Ok(answer.header.context("etcd says no revision")?.revision)
}

/// As many bytes as the name of a block: namespace and key.
fn name(key: &BlockKey) -> Vec<u8> {
    [&[0; 4][..], &key.0].concat()
}

/// Waits until a member has applied a revision. Asked of one key, which costs it next to nothing.
async fn applied(channel: &Channel, revision: i64) -> anyhow::Result<()> {
    loop {
        let range = wire::Range { key: name(&key(NODE, 0)), serializable: true };
        let answer: wire::RangeAnswer = call(channel, "/etcdserverpb.KV/Range", range).await?;
        if answer.header.context("etcd says no revision")?.revision >= revision {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

async fn call<Q, A>(channel: &Channel, path: &'static str, request: Q) -> anyhow::Result<A>
where
    Q: prost::Message + 'static,
    A: prost::Message + Default + 'static,
{
    let mut client = Grpc::new(channel.clone());
    client.ready().await?;
    let codec: ProstCodec<Q, A> = ProstCodec::default();
    let answer = client.unary(tonic::Request::new(request), PathAndQuery::from_static(path), codec);
    let answer = tokio::time::timeout(PATIENCE, answer).await.context("etcd does not answer")??;
    Ok(answer.into_inner())
}

fn free_address() -> anyhow::Result<String> {
    Ok(TcpListener::bind("127.0.0.1:0")?.local_addr()?.to_string())
}

/// Processor time of a process, user and kernel.
fn cpu_s_of(id: u32) -> anyhow::Result<f64> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat"))?;
    parse_cpu_ticks(&stat).map(|ticks| ticks as f64 / rustix::param::clock_ticks_per_second() as f64)
}

fn parse_cpu_ticks(stat: &str) -> anyhow::Result<u64> {
    // The name of the program, in brackets, may hold anything.
    let Some((_, fields)) = stat.rsplit_once(") ") else { bail!("the kernel says {stat:?} of a process") };
    let mut fields = fields.split(' ').skip(11);
    let mut next = || anyhow::Ok(fields.next().context("a process has its times")?.parse::<u64>()?);
    Ok(next()? + next()?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processor_time_is_read_as_the_kernel_writes_it() {
        let stat = "7 (a) b) S 1 7 7 0 -1 4194560 1 0 0 0 25 17 0 0 20 0 1 0 100 0 0";
        assert_eq!(parse_cpu_ticks(stat).unwrap(), 42);
        assert!(parse_cpu_ticks("nonsense").is_err());
        assert!(cpu_s_of(std::process::id()).unwrap() >= 0.0);
    }

    #[test]
    fn a_put_is_encoded_as_etcd_reads_it() {
        let put = wire::Put { key: vec![b'k'], value: vec![b'v'] };
        let transaction = wire::Transaction { success: vec![wire::Operation { put: Some(put) }] };
        let bytes = prost::Message::encode_to_vec(&transaction);
        assert_eq!(bytes, [0x12, 8, 0x12, 6, 0x0a, 1, b'k', 0x12, 1, b'v']);
    }
}
