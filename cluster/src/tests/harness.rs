//! Members that tests start, stop and break.

use std::collections::{BTreeSet, VecDeque};
use std::future::Future;
use std::ops::ControlFlow;
use std::path::Path;
use std::pin::Pin;
use std::sync::atomic::{AtomicU16, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use hearth_proto::{
    BlockDelta, BlockId, BlockKey, ClusterId, DirectoryGroups, GroupId, NamespaceId, NodeId, Tier,
};
use tempfile::TempDir;
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use tokio::task::JoinHandle;
use tokio_stream::wrappers::TcpListenerStream;
use tokio_util::sync::CancellationToken;

use crate::cluster::Cluster;
use crate::config::{ClusterConfig, NodeAddresses, Tuning};
use crate::error::{JoinError, MemberError, StartError};
use crate::join::{JoinRequest, request_join};
use crate::raft::{Database, Identity};
use crate::source::{BlockSource, DeltaStatus};

pub(super) const CLUSTER: ClusterId = ClusterId([0xc1; 16]);
/// The machine that runs the tests may be slow; what is waited for is not.
pub(super) const LIMIT: Duration = Duration::from_secs(40);

/// Polls until `done`, and fails after [`LIMIT`].
#[track_caller]
pub(super) fn eventually(what: &str, done: impl Fn() -> bool) {
    let until = Instant::now() + LIMIT;
    while !done() {
        assert!(Instant::now() < until, "waited in vain for: {what}");
        std::thread::park_timeout(Duration::from_millis(2));
    }
}

pub(super) fn key(number: u8) -> BlockKey {
    BlockKey([number; 32])
}

pub(super) fn block(number: u8) -> BlockId {
    BlockId { namespace: NamespaceId::DEFAULT, key: key(number) }
}

/// Whether exactly these replicas of a block are found on `member`.
pub(super) fn sees(member: &Member, number: u8, expected: &[(u64, Tier)]) -> bool {
    let answer = member.cluster().lookup(NamespaceId::DEFAULT, &[key(number)]);
    answer.replicas[0].iter().map(|view| (view.node.0, view.tier)).eq(expected.iter().copied())
}

/// A store that holds nothing but names.
#[derive(Default)]
pub(super) struct Source {
    held: Mutex<Held>,
    changed: Notify,
}

#[derive(Default)]
struct Held {
    blocks: BTreeSet<(BlockId, Tier)>,
    queue: VecDeque<BlockDelta>,
    overflowed: bool,
}

fn delta((id, tier): (BlockId, Tier), added: bool) -> BlockDelta {
    BlockDelta { id, tier, added, payload_len: 4_096 }
}

impl Source {
    pub(super) fn add(&self, id: BlockId, tier: Tier) {
        let mut held = self.held.lock().unwrap();
        held.blocks.insert((id, tier));
        held.queue.push_back(delta((id, tier), true));
        self.changed.notify_one();
    }

    pub(super) fn remove(&self, id: BlockId, tier: Tier) {
        let mut held = self.held.lock().unwrap();
        held.blocks.remove(&(id, tier));
        held.queue.push_back(delta((id, tier), false));
        self.changed.notify_one();
    }

    /// Replaces one block by another, and has no room to say so.
    pub(super) fn lose(&self, old: BlockId, tier: Tier, new: BlockId) {
        let mut held = self.held.lock().unwrap();
        held.blocks.remove(&(old, tier));
        held.blocks.insert((new, tier));
        held.queue.clear();
        held.overflowed = true;
        self.changed.notify_one();
    }
}

impl BlockSource for Source {
    fn for_each_held(&self, visit: &mut dyn FnMut(BlockDelta) -> ControlFlow<()>) -> ControlFlow<()> {
        let held: Vec<_> = self.held.lock().unwrap().blocks.iter().copied().collect();
        held.into_iter().try_for_each(|entry| visit(delta(entry, true)))
    }

    fn take_deltas(&self, max: usize, out: &mut Vec<BlockDelta>) -> DeltaStatus {
        let mut held = self.held.lock().unwrap();
        if std::mem::take(&mut held.overflowed) {
            held.queue.clear();
            return DeltaStatus::Overflowed;
        }
        let taken = max.min(held.queue.len());
        out.extend(held.queue.drain(..taken));
        if held.queue.is_empty() { DeltaStatus::Complete } else { DeltaStatus::More }
    }

    fn ready<'a>(&'a self) -> Pin<Box<dyn Future<Output = ()> + Send + 'a>> {
        Box::pin(async {
            loop {
                {
                    let held = self.held.lock().unwrap();
                    if held.overflowed || !held.queue.is_empty() {
                        return;
                    }
                }
                self.changed.notified().await;
            }
        })
    }
}

/// One node: its folder, and its process while that runs.
pub(super) struct Member {
    pub(super) id: NodeId,
    pub(super) addresses: NodeAddresses,
    pub(super) source: Arc<Source>,
    dir: TempDir,
    pub(super) tuning: Tuning,
    pub(super) zone: String,
    pub(super) never_votes: bool,
    directory_groups: DirectoryGroups,
    process: Option<Process>,
}

struct Process {
    runtime: Runtime,
    cluster: Cluster,
    shutdown: CancellationToken,
    work: Option<JoinHandle<Result<(), MemberError>>>,
}

impl Member {
    fn new(id: NodeId, tuning: Tuning, directory_groups: DirectoryGroups) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let (addresses, source) = (free_addresses(), Arc::default());
        let (zone, never_votes) = (String::new(), false);
        Self { id, addresses, source, dir, tuning, zone, never_votes, directory_groups, process: None }
    }

    pub(super) fn cluster(&self) -> &Cluster {
        &self.process.as_ref().expect("the member runs").cluster
    }

    pub(super) fn block_on<T>(&self, run: impl AsyncFnOnce(&Cluster) -> T) -> T {
        let process = self.process.as_ref().expect("the member runs");
        process.runtime.block_on(run(&process.cluster))
    }

    fn config(&self, boot: u8) -> ClusterConfig {
        ClusterConfig {
            dir: self.dir.path().to_owned(),
            node_id: self.id,
            cluster_id: CLUSTER,
            directory_groups: self.directory_groups,
            name: format!("n{}", self.id),
            zone: self.zone.clone(),
            never_votes: self.never_votes,
            voter_lost_after_ms: self.tuning.voter_lost_after_ms,
            boot_id: [boot; 16],
            addresses: self.addresses.clone(),
            host_capacity_bytes: 1 << 30,
            nvme_capacity_bytes: 1 << 40,
        }
    }

    /// Starts the process; `works` says whether it registers, reports and leads.
    pub(super) fn start(&mut self, boot: u8, works: bool) {
        let runtime = runtime();
        let config = self.config(boot);
        // At once: what ran before has let go of the folder when its runtime has ended (INV-LEAK).
        let cluster = runtime.block_on(Cluster::start_tuned(config, self.tuning.clone())).unwrap();
        let until = Instant::now() + LIMIT;
        let listener = loop {
            match runtime.block_on(tokio::net::TcpListener::bind(&self.addresses.control)) {
                Ok(listener) => break listener,
                Err(error) => assert!(Instant::now() < until, "{error}"),
            }
        };
        let server = crate::grpc_server().add_routes(cluster.services());
        runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
        self.process = Some(Process { runtime, cluster, shutdown: CancellationToken::new(), work: None });
        if works {
            self.resume();
        }
    }

    /// Starts with a changed configuration, which is expected to fail.
    pub(super) fn try_start(&self, change: impl Fn(&mut ClusterConfig)) -> Result<(), StartError> {
        let mut config = self.config(9);
        change(&mut config);
        runtime().block_on(Cluster::start(config)).map(drop)
    }

    /// Ends the process as a kill does: nothing is said to anybody, every connection breaks.
    pub(super) fn kill(&mut self) {
        if let Some(process) = self.process.take() {
            let Process { runtime, cluster, shutdown, work } = process;
            drop((shutdown, work, cluster));
            runtime.shutdown_timeout(Duration::from_secs(5));
        }
    }

    /// Ends the process as a power cut does: what its folder holds is what was written to files, without
    /// what a database writes when it is closed.
    pub(super) fn crash(&mut self) {
        let image = tempfile::tempdir().unwrap();
        copy_dir(self.dir.path(), image.path());
        self.kill();
        self.dir = image;
    }

    pub(super) fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Changes the folder of the stopped member.
    pub(super) fn damage(&self, change: impl Fn(&Database)) {
        let identity = Identity { node: self.id, cluster: CLUSTER, directory_groups: 1 };
        change(&Database::open(self.dir.path(), identity).unwrap());
    }

    /// Stops the member's work while the rest of its process goes on.
    pub(super) fn pause(&mut self) {
        let process = self.process.as_mut().expect("the member runs");
        process.shutdown.cancel();
        if let Some(work) = process.work.take() {
            process.runtime.block_on(work).unwrap().unwrap();
        }
    }

    /// Takes up the member's work.
    pub(super) fn resume(&mut self) {
        let process = self.process.as_mut().expect("the member runs");
        process.shutdown = CancellationToken::new();
        let (cluster, source, shutdown) =
            (process.cluster.clone(), self.source.clone(), process.shutdown.clone());
        process.work = Some(process.runtime.spawn(async move { cluster.run_member(source, shutdown).await }));
    }

    /// Waits for the work to end by itself.
    pub(super) fn member_result(&mut self) -> Result<(), MemberError> {
        let process = self.process.as_mut().expect("the member runs");
        let work = process.work.take().expect("the member works");
        let ended = process.runtime.block_on(async { tokio::time::timeout(LIMIT, work).await });
        ended.expect("the work ends by itself").unwrap()
    }

    /// Gives the stopped member another address.
    pub(super) fn move_away(&mut self) {
        self.addresses = free_addresses();
    }

    /// A copy of the stopped member's folder at another address.
    pub(super) fn copy(&self) -> Self {
        let copy = Self::new(self.id, self.tuning.clone(), self.directory_groups);
        copy_dir(self.dir.path(), copy.dir.path());
        copy
    }
}

impl Drop for Member {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A founded cluster of three members, all registered, with three voters of every group.
pub(super) fn found_three(tuning: Tuning) -> Vec<Member> {
    found_three_split(tuning, DirectoryGroups::ONE)
}

/// The same, with a directory in several groups.
pub(super) fn found_three_split(tuning: Tuning, groups: DirectoryGroups) -> Vec<Member> {
    let mut first = Member::new(NodeId(1), tuning.clone(), groups);
    first.start(1, false);
    first.block_on(async |cluster| cluster.found([1; 16]).await.unwrap());
    first.block_on(async |cluster| cluster.found([1; 16]).await.expect("founding again is harmless"));
    first.resume();
    let mut members = vec![first];
    for uuid in 2..=3u8 {
        let member = join(&members[0], uuid, |_| ());
        members.push(member);
    }
    for member in &members {
        eventually("the registration", || member.cluster().incarnation().is_some());
    }
    for group in std::iter::once(GroupId::CONTROL).chain(groups.ids()) {
        eventually("three voters", || {
            // Of a change under way both sides have to agree: without one of two the third would never vote.
            members.iter().all(|member| {
                let members = member.cluster().group(group).unwrap().membership();
                members.voters.len() == 3 && !members.joint
            })
        });
    }
    members
}

/// A member that has joined through `seed` and runs; `prepare` may change its settings before it asks.
pub(super) fn join(seed: &Member, uuid: u8, prepare: impl FnOnce(&mut Member)) -> Member {
    let mut member = try_join(seed, uuid, prepare).unwrap();
    member.start(1, true);
    member
}

/// The same, without starting it.
pub(super) fn try_join(
    seed: &Member,
    uuid: u8,
    prepare: impl FnOnce(&mut Member),
) -> Result<Member, JoinError> {
    let mut member = Member::new(NodeId(0), seed.tuning.clone(), seed.directory_groups);
    prepare(&mut member);
    let request = JoinRequest {
        node_uuid: [uuid; 16],
        name: format!("n{uuid}"),
        zone: member.zone.clone(),
        addresses: member.addresses.clone(),
        expected_cluster: None,
        expected_directory_groups: None,
    };
    let address = seed.addresses.control.clone();
    let grant = seed.block_on(async |_| request_join(&address, request, Instant::now() + LIMIT).await)?;
    assert_eq!((grant.cluster_id, grant.directory_groups), (CLUSTER, seed.directory_groups));
    member.id = grant.node_id;
    Ok(member)
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap()
}

/// Ports below the range that outgoing connections take theirs from, so that a member that comes back
/// finds its own still free.
fn free_addresses() -> NodeAddresses {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    let start = 12_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    loop {
        let port = start + NEXT.fetch_add(2, Ordering::Relaxed);
        if std::net::TcpListener::bind(("127.0.0.1", port)).is_ok() {
            let address = |port| format!("127.0.0.1:{port}");
            return NodeAddresses { control: address(port), data: address(port + 1) };
        }
    }
}

pub(crate) fn copy_dir(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_dir(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}
