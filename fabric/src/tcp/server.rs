//! Accepts connections, bounds their number, and ends them all before it returns.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use hearth_proto::frame::{Body, Goodbye, GoodbyeReason};
use hearth_proto::limits::{ACCEPT_PAUSE_MS, CONNECTIONS_MAX, REFUSALS_MAX};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::batch::Batch;
use super::connection::Connection;
use super::reader::FrameReader;
use super::timeouts::TcpTimeouts;
use crate::service::BlockService;

/// Serves blocks on `listener` until `shutdown` fires; then lets the requests in work finish, says
/// goodbye, and returns when every connection has ended.
///
/// *Cancel safety*: dropping the future ends all connections at once.
pub async fn serve_tcp<S: BlockService>(listener: TcpListener, service: Arc<S>, shutdown: CancellationToken) {
    serve_tcp_with(listener, service, shutdown, TcpTimeouts::default()).await;
}

/// [`serve_tcp`] with other time-outs than the defaults.
pub async fn serve_tcp_with<S: BlockService>(
    listener: TcpListener,
    service: Arc<S>,
    shutdown: CancellationToken,
    timeouts: TcpTimeouts,
) {
    let mut connections = JoinSet::new();
    let mut refusals = JoinSet::new();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => break,
            Some(_) = connections.join_next(), if !connections.is_empty() => {}
            Some(_) = refusals.join_next(), if !refusals.is_empty() => {}
            accepted = listener.accept() => match accepted {
                Ok((stream, peer)) if connections.len() < CONNECTIONS_MAX => {
                    let service = Arc::clone(&service);
                    connections.spawn(serve_connection(stream, peer, service, shutdown.clone(), timeouts));
                }
                Ok((stream, _)) if refusals.len() < REFUSALS_MAX => {
                    refusals.spawn(refuse(stream, timeouts));
                }
                Ok(_) => tracing::warn!("fabric: a connection beyond the limit was dropped"),
                Err(error) => {
                    tracing::warn!(error = &error as &dyn std::error::Error, "fabric: accept failed");
                    tokio::time::sleep(Duration::from_millis(ACCEPT_PAUSE_MS)).await;
                }
            },
        }
    }
    drop(listener);
    let drained =
        tokio::time::timeout(timeouts.drain, async { while connections.join_next().await.is_some() {} });
    if drained.await.is_err() {
        tracing::warn!(connections = connections.len(), "fabric: connections were cut off at shutdown");
    }
    connections.shutdown().await;
    refusals.shutdown().await;
}

/// Greets a client, serves it, and says goodbye.
async fn serve_connection<S: BlockService>(
    stream: TcpStream,
    peer: SocketAddr,
    service: Arc<S>,
    shutdown: CancellationToken,
    timeouts: TcpTimeouts,
) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(error = &error as &dyn std::error::Error, "fabric: connection lost at once");
        return;
    }
    let (input, output) = stream.into_split();
    let reader = FrameReader::new(input, timeouts.stall);
    let namespace = service.namespace(peer);
    Connection { reader, output, service, namespace, shutdown, timeouts }.serve().await;
}

/// Tells a client that there is no room for it.
async fn refuse(stream: TcpStream, timeouts: TcpTimeouts) {
    let (input, output) = stream.into_split();
    let goodbye = Goodbye::new(GoodbyeReason::Overloaded, "too many connections");
    let mut batch = Batch::<&[u8]>::new();
    batch.push(0, &Body::Goodbye(goodbye), None);
    if batch.write(&output, timeouts.linger).await.is_ok() {
        // Dropping the half ends the stream after what was written; the reading half lives on.
        drop(output);
        FrameReader::new(input, timeouts.stall).linger(timeouts.linger).await;
    }
}
