//! One engine's events, followed over ZMQ: what it publishes, what it is asked to say again, and whether it lives.
//!
//! An engine that has nothing to do says nothing, so silence alone means nothing: then its port is tried. One that cannot
//! be reached for a while is taken for dead, and what it held is forgotten; it is followed again when it is back.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_proto::limits::{PUBLISHER_CONNECT_MS, PUBLISHER_GONE_MS, PUBLISHER_RETRY_MS};
use hearth_router::events::{ClearReason, Message, Step, Stream, replay_request};
use metrics::counter;
use tokio::net::TcpStream;
use tokio::time::{sleep, sleep_until, timeout};
use tokio_util::sync::CancellationToken;
use zeromq::{DealerSocket, Socket, SocketOptions, SocketRecv, SocketSend, SubSocket, ZmqError, ZmqMessage};

use super::feed::Feed;
use super::{Address, Clock, Status};

/// Follows one publisher until it is told to stop.
pub(super) struct Publisher {
    pub(super) endpoint: Address,
    pub(super) replay: Option<Address>,
    pub(super) feed: Feed,
    pub(super) clock: Clock,
    pub(super) status: std::sync::Arc<Status>,
}

/// Why a publisher is not followed any more.
#[derive(Debug, thiserror::Error)]
enum Lost {
    #[error("{0}")]
    Zmq(#[from] ZmqError),
    #[error("its port does not answer")]
    Silent,
}

/// The ends of a connection to a publisher.
struct Sockets {
    live: SubSocket,
    replay: Option<DealerSocket>,
}

impl Publisher {
    /// Returns when `stop` fires; the worker is gone from the catalog then.
    pub(super) async fn follow(mut self, stop: CancellationToken) {
        let mut stream = Stream::new(self.clock.now_ms(), self.replay.is_some());
        // When it was last there; nothing is known of one that never was.
        let mut seen = Instant::now();
        let _ = stop
            .run_until_cancelled(async {
                loop {
                    let lost = self.follow_connection(&mut stream, &mut seen).await;
                    if self.status.lost(&lost.to_string()) {
                        tracing::info!(endpoint = %self.endpoint, why = %lost, "a publisher of events is not there");
                    }
                    let gone = seen + Duration::from_millis(PUBLISHER_GONE_MS);
                    if !self.wait_for_port(Some(gone)).await {
                        // It has been away for so long that it has another life when it is back.
                        self.forget(ClearReason::Restarted);
                        stream = Stream::new(self.clock.now_ms(), self.replay.is_some());
                        self.wait_for_port(None).await;
                        seen = Instant::now();
                    }
                }
            })
            .await;
        self.feed.end();
    }

    /// Waits for a while, and until its port answers. False once it has not until then.
    async fn wait_for_port(&self, until: Option<Instant>) -> bool {
        loop {
            // Always: a port may answer in another language.
            sleep(Duration::from_millis(PUBLISHER_RETRY_MS)).await;
            if self.endpoint.answers().await {
                return true;
            }
            if until.is_some_and(|until| Instant::now() >= until) {
                return false;
            }
        }
    }

    async fn follow_connection(&mut self, stream: &mut Stream<Bytes>, seen: &mut Instant) -> Lost {
        let mut live = SubSocket::with_options(options());
        let connected = async {
            live.connect(self.endpoint.as_str()).await?;
            live.subscribe("").await
        };
        if let Err(error) = connected.await {
            return error.into();
        }
        self.status.connected();
        let mut sockets = Sockets { live, replay: None };
        let mut steps = Vec::new();
        stream.begin(self.clock.now_ms(), &mut steps);
        loop {
            *seen = Instant::now();
            // What cannot be done may mean that something else is to be.
            while !steps.is_empty() {
                self.take_steps(stream, &mut steps, &mut sockets).await;
            }
            if !stream.is_replaying() {
                sockets.replay = None;
            }
            self.status.follow(stream.stats(), stream.is_behind());
            if let Err(lost) = self.next(stream, &mut steps, &mut sockets).await {
                return lost;
            }
        }
    }

    /// Does what the stream says is to be done.
    async fn take_steps(
        &mut self,
        stream: &mut Stream<Bytes>,
        steps: &mut Vec<Step<Bytes>>,
        sockets: &mut Sockets,
    ) {
        for step in std::mem::take(steps) {
            match step {
                Step::Apply { seq, payload } => {
                    if let Err(error) = self.feed.apply(&payload, self.clock.now_ms()) {
                        tracing::warn!(endpoint = %self.endpoint, seq, %error, "a batch of events cannot be read");
                        counter!("hearth_router_batches_refused_total").increment(1);
                        self.forget(ClearReason::Forgotten);
                    }
                }
                Step::AskReplay { from } => {
                    sockets.replay = None;
                    match self.ask(from).await {
                        Ok(socket) => sockets.replay = Some(socket),
                        Err(error) => {
                            tracing::info!(endpoint = %self.endpoint, %error, "no replay of events");
                            stream.replay_failed(self.clock.now_ms(), steps);
                        }
                    }
                }
                Step::Clear { reason } => self.forget(reason),
            }
        }
    }

    /// Asks for batches that were missed: each replay on a socket of its own, so that no answer comes to another one.
    async fn ask(&self, from: u64) -> Result<DealerSocket, ZmqError> {
        let Some(address) = &self.replay else { return Err(ZmqError::NoMessage) };
        let mut socket = DealerSocket::with_options(options());
        socket.connect(address.as_str()).await?;
        // As a socket for requests would send it: engines take the empty part for granted.
        let mut message = ZmqMessage::from(Bytes::new());
        message.push_back(Bytes::copy_from_slice(&replay_request(from)));
        socket.send(message).await?;
        Ok(socket)
    }

    /// Takes what comes next: a batch, an answer, or a time at which something is to be done.
    async fn next(
        &mut self,
        stream: &mut Stream<Bytes>,
        steps: &mut Vec<Step<Bytes>>,
        sockets: &mut Sockets,
    ) -> Result<(), Lost> {
        let Sockets { live, replay } = sockets;
        let deadline = stream.deadline_ms().map(|at_ms| self.clock.instant(at_ms).into());
        let look = self.clock.instant(self.clock.now_ms() + PUBLISHER_GONE_MS);
        tokio::select! {
            message = live.recv() => {
                let parts = message?.into_vec();
                self.take_live(stream, &parts, steps);
            }
            message = answer(replay) => match message {
                Ok(message) => self.take_replayed(stream, &message.into_vec(), steps),
                Err(error) => {
                    tracing::debug!(endpoint = %self.endpoint, %error, "a replay of events broke");
                    stream.replay_failed(self.clock.now_ms(), steps);
                }
            },
            () = until(deadline) => stream.tick(self.clock.now_ms(), steps),
            () = sleep_until(look.into()) => {
                if !self.endpoint.answers().await {
                    return Err(Lost::Silent);
                }
                self.feed.heard(self.clock.now_ms());
            }
        }
        Ok(())
    }

    fn take_live(&self, stream: &mut Stream<Bytes>, parts: &[Bytes], steps: &mut Vec<Step<Bytes>>) {
        match Message::from_live(parts) {
            Ok(Message::Batch { seq, .. }) => {
                let payload = parts.last().cloned().unwrap_or_default();
                stream.live(self.clock.now_ms(), seq, payload, steps);
            }
            Ok(Message::ReplayEnd) => {}
            Err(error) => self.refuse(&error),
        }
    }

    fn take_replayed(&self, stream: &mut Stream<Bytes>, parts: &[Bytes], steps: &mut Vec<Step<Bytes>>) {
        match Message::from_replay(parts) {
            Ok(Message::Batch { seq, .. }) => {
                let payload = parts.last().cloned().unwrap_or_default();
                stream.replayed(self.clock.now_ms(), seq, payload, steps);
            }
            Ok(Message::ReplayEnd) => stream.replay_ended(self.clock.now_ms(), steps),
            Err(error) => self.refuse(&error),
        }
    }

    fn refuse(&self, error: &hearth_router::events::FrameError) {
        tracing::debug!(endpoint = %self.endpoint, %error, "no message of an engine");
        counter!("hearth_router_messages_refused_total").increment(1);
    }

    fn forget(&mut self, reason: ClearReason) {
        tracing::info!(endpoint = %self.endpoint, reason = reason.as_str(), "what a worker holds is not known any more");
        counter!("hearth_router_workers_cleared_total", "reason" => reason.as_str()).increment(1);
        self.feed.clear(self.clock.now_ms());
    }
}

impl Address {
    /// Whether its port takes a connection.
    async fn answers(&self) -> bool {
        let patience = Duration::from_millis(PUBLISHER_CONNECT_MS);
        matches!(timeout(patience, TcpStream::connect(self.authority())).await, Ok(Ok(_)))
    }
}

fn options() -> SocketOptions {
    let mut options = SocketOptions::default();
    options.connect_timeout(Duration::from_millis(PUBLISHER_CONNECT_MS));
    options
}

/// What a replay sends next; nothing if there is none.
async fn answer(replay: &mut Option<DealerSocket>) -> Result<ZmqMessage, ZmqError> {
    match replay {
        Some(socket) => socket.recv().await,
        None => std::future::pending().await,
    }
}

async fn until(deadline: Option<tokio::time::Instant>) {
    match deadline {
        Some(deadline) => sleep_until(deadline).await,
        None => std::future::pending().await,
    }
}
