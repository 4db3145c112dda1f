//! The client's end of a TCP connection.

use std::sync::Arc;
use std::time::Instant;

use hearth_proto::frame::{BlockStatus, Body, CopyBlock, Get, Hello, TierBits, VERSION, VERSION_MIN};
use hearth_proto::limits::CONNECTION_COMMANDS_MAX;
use hearth_proto::{BlockKey, ClusterId, Incarnation, Urgency};
use tokio::net::TcpStream;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::batch::Batch;
use super::client::{Command, PutJob, Shared, read_task, write_task};
use super::error::{ConnectError, EndError};
use super::reader::FrameReader;
use super::timeouts::TcpTimeouts;
use crate::call::{Call, GetStream, Ledger, PutStream};
use crate::mover::{GetItem, Mover, PeerInfo, PutItem};
use crate::session::{Outcome, refused_put};

/// What a connection expects of its peer.
#[derive(Clone, Copy, Debug, Default)]
pub struct TcpOptions {
    /// The cluster that the peer must belong to; `None` takes any.
    pub cluster: Option<ClusterId>,
    /// How long to wait for the peer, apart from deadlines.
    pub timeouts: TcpTimeouts,
}

/// The client's end of a TCP connection. Clones share it; it closes when the last clone and the last
/// stream are gone.
#[derive(Clone)]
pub struct TcpMover {
    link: Arc<Link>,
}

/// Closes the connection when nobody uses it any more.
struct Link {
    shared: Arc<Shared>,
    peer: PeerInfo,
    /// The version of the frames that both ends know.
    version: u16,
    tasks: TaskTracker,
}

impl Drop for Link {
    fn drop(&mut self) {
        self.shared.end(BlockStatus::Disconnected);
    }
}

impl Ledger for Link {
    fn abandon(&self, request_id: u64, why: BlockStatus) -> Vec<Outcome> {
        self.shared.abandon(request_id, why)
    }
}

impl TcpMover {
    /// Connects to `addr` (`host:port`) and greets the node there.
    ///
    /// # Errors
    /// [`ConnectError`]; its kind says whether to try again, elsewhere, or not at all.
    ///
    /// *Cancel safety*: dropping the future closes the connection.
    pub async fn connect(addr: &str, options: TcpOptions, deadline: Instant) -> Result<Self, ConnectError> {
        let greeted = tokio::time::timeout_at(deadline.into(), greet(addr, &options));
        let (socket, reader, peer, version) = greeted.await.map_err(|_| ConnectError::DeadlineExceeded)??;
        let (commands, orders) = mpsc::channel(CONNECTION_COMMANDS_MAX);
        let shared = Arc::new(Shared::new(commands));
        let tasks = TaskTracker::new();
        tasks.spawn(read_task(Arc::clone(&shared), reader));
        tasks.spawn(write_task(Arc::clone(&shared), socket, orders, options.timeouts.stall));
        tasks.close();
        Ok(Self { link: Arc::new(Link { shared, peer, version, tasks }) })
    }

    /// Ends the connection for all its users and returns when its tasks have ended. Everything
    /// outstanding completes with `Disconnected`.
    pub async fn close(&self) {
        self.link.shared.end(BlockStatus::Disconnected);
        self.link.tasks.wait().await;
    }

    /// Opens a request, sends it, and gives the caller's side of it.
    fn call(
        &self,
        outcomes: usize,
        deadline: Instant,
        open: impl FnOnce(&Shared, mpsc::Sender<Outcome>) -> Result<(u64, Command), Vec<Outcome>>,
    ) -> Call {
        let (route, answers) = mpsc::channel(outcomes.max(1));
        match open(&self.link.shared, route) {
            Ok((request_id, command)) => {
                self.link.shared.send(command);
                Call::open(request_id, Arc::clone(&self.link) as Arc<dyn Ledger>, answers, deadline)
            }
            Err(outcomes) => Call::ended(outcomes),
        }
    }
}

type Greeted = (tokio::net::tcp::OwnedWriteHalf, FrameReader, PeerInfo, u16);

async fn greet(addr: &str, options: &TcpOptions) -> Result<Greeted, ConnectError> {
    let stream = TcpStream::connect(addr).await.map_err(ConnectError::Unreachable)?;
    stream.set_nodelay(true).map_err(ConnectError::Unreachable)?;
    let (input, output) = stream.into_split();
    let stall = options.timeouts.stall;
    let hello = Hello {
        version_min: VERSION_MIN,
        version_max: VERSION,
        cluster_id: options.cluster.unwrap_or_default(),
    };
    let mut batch = Batch::<&[u8]>::new();
    batch.push(0, &Body::Hello(hello), None);
    batch.write(&output, stall).await.map_err(ConnectError::Greeting)?;
    let mut reader = FrameReader::new(input, stall);
    let (_, body) = reader.frame(Some(stall)).await.map_err(ConnectError::Greeting)?;
    let ack = match body {
        Body::HelloAck(ack) => ack,
        Body::Goodbye(goodbye) => {
            let text = goodbye.text().to_owned();
            return Err(ConnectError::Refused { reason: goodbye.reason, text });
        }
        _ => return Err(ConnectError::Greeting(EndError::Unexpected)),
    };
    if !(VERSION_MIN..=VERSION).contains(&ack.version) {
        return Err(ConnectError::Greeting(EndError::Unexpected));
    }
    if options.cluster.is_some_and(|wanted| wanted != ack.cluster_id) {
        return Err(ConnectError::WrongCluster);
    }
    let peer = PeerInfo {
        node_id: ack.node_id,
        incarnation: ack.incarnation,
        cluster_id: ack.cluster_id,
        block_bytes_max: ack.block_bytes_max as usize,
    };
    Ok((output, reader, peer, ack.version))
}

fn encoded(request_id: u64, body: &Body) -> Command {
    let mut frame = Vec::new();
    body.encode(request_id, 0, &mut frame);
    Command::Frame(frame)
}

impl Mover for TcpMover {
    fn get(
        &self,
        items: Vec<GetItem>,
        expected: Incarnation,
        urgency: Urgency,
        deadline: Instant,
    ) -> GetStream {
        let urgency = if self.link.version < Get::URGENCY_SINCE { Urgency::Normal } else { urgency };
        GetStream(self.call(items.len(), deadline, |shared, route| {
            let opened = shared.session().open_get(items, expected, urgency, Instant::now(), deadline, route);
            opened.map(|(request_id, body)| (request_id, encoded(request_id, &body)))
        }))
    }

    fn put(&self, items: Vec<PutItem>, deadline: Instant) -> PutStream {
        PutStream(self.call(items.len(), deadline, |shared, route| {
            if self.link.version < CopyBlock::SINCE && items.iter().any(|item| item.copy_of.is_some()) {
                return Err(refused_put(items.len(), BlockStatus::BadRequest));
            }
            let longest = self.link.peer.block_bytes_max;
            let request_id = shared.session().open_put(&items, longest, Instant::now(), deadline, route)?;
            let items = items.into_iter().enumerate();
            Ok((request_id, Command::Put(PutJob { request_id, items, deadline })))
        }))
    }

    async fn contains(&self, keys: Vec<BlockKey>, deadline: Instant) -> Result<Vec<TierBits>, BlockStatus> {
        let mut call = self.call(1, deadline, |shared, route| {
            let opened = shared.session().open_contains(keys, Instant::now(), deadline, route);
            opened
                .map(|(request_id, body)| (request_id, encoded(request_id, &body)))
                .map_err(|why| vec![Outcome::Failed(why)])
        });
        match call.next().await {
            Some(Outcome::Tiers(tiers)) => Ok(tiers),
            Some(Outcome::Failed(why)) => Err(why),
            other => unreachable!("the session answers a contains with {other:?}"),
        }
    }

    async fn remove(&self, keys: Vec<BlockKey>, deadline: Instant) -> Result<Vec<BlockStatus>, BlockStatus> {
        let mut call = self.call(1, deadline, |shared, route| {
            let opened = shared.session().open_remove(keys, Instant::now(), deadline, route);
            opened
                .map(|(request_id, body)| (request_id, encoded(request_id, &body)))
                .map_err(|why| vec![Outcome::Failed(why)])
        });
        match call.next().await {
            Some(Outcome::Removed(statuses)) => Ok(statuses),
            Some(Outcome::Failed(why)) => Err(why),
            other => unreachable!("the session answers a remove with {other:?}"),
        }
    }

    fn peer(&self) -> PeerInfo {
        self.link.peer
    }

    fn is_closed(&self) -> bool {
        self.link.shared.session().has_ended()
    }
}
