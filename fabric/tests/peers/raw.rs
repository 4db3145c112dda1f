//! One end of a connection that says exactly what a test tells it to.

use std::time::Duration;

use hearth_proto::frame::{Body, Header, Hello, HelloAck, VERSION, VERSION_MIN};
use hearth_proto::limits::{BLOCK_BYTES_MAX, FRAME_HEADER_BYTES};
use hearth_proto::{ClusterId, NodeId};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::support::{CLUSTER, INCARNATION, in_time};

/// How often a trickling peer moves anything; well within any stall.
pub(crate) const TRICKLE: Duration = Duration::from_millis(30);

/// A frame and its payload, as bytes.
pub(crate) fn frame(request_id: u64, body: &Body, payload: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::new();
    body.encode(request_id, payload.len() as u32, &mut bytes);
    bytes.extend_from_slice(payload);
    bytes
}

/// A frame whose header states another version.
pub(crate) fn frame_of_version(version: u16, body: &Body) -> Vec<u8> {
    let mut bytes = frame(0, body, &[]);
    bytes[4..6].copy_from_slice(&version.to_le_bytes());
    let crc = crc32fast::hash(&bytes[..28]);
    bytes[28..32].copy_from_slice(&crc.to_le_bytes());
    bytes
}

pub(crate) fn hello(cluster_id: ClusterId) -> Body {
    Body::Hello(Hello { version_min: VERSION_MIN, version_max: VERSION, cluster_id })
}

pub(crate) fn hello_ack(cluster_id: ClusterId) -> Body {
    hello_ack_of(VERSION, cluster_id)
}

pub(crate) fn hello_ack_of(version: u16, cluster_id: ClusterId) -> Body {
    Body::HelloAck(HelloAck {
        version,
        block_bytes_max: BLOCK_BYTES_MAX as u32,
        node_id: NodeId(1),
        incarnation: INCARNATION,
        cluster_id,
    })
}

pub(crate) struct Raw(pub(crate) TcpStream);

impl Raw {
    pub(crate) async fn connect(addr: &str) -> Self {
        Self(in_time(TcpStream::connect(addr)).await.expect("the server listens"))
    }

    /// Connects and is greeted.
    pub(crate) async fn greeted(addr: &str) -> Self {
        let mut raw = Self::connect(addr).await;
        raw.say(&frame(0, &hello(CLUSTER), &[])).await;
        let (_, body) = raw.hear().await.expect("an answer to hello");
        assert!(matches!(body, Body::HelloAck(_)), "{body:?}");
        raw
    }

    /// Accepts a client and greets it.
    pub(crate) async fn accept(listener: &TcpListener) -> Self {
        let mut raw = Self(in_time(listener.accept()).await.expect("a client comes").0);
        let (_, body) = raw.hear().await.expect("a hello");
        assert!(matches!(body, Body::Hello(_)), "{body:?}");
        raw.say(&frame(0, &hello_ack(CLUSTER), &[])).await;
        raw
    }

    pub(crate) async fn say(&mut self, bytes: &[u8]) {
        in_time(self.0.write_all(bytes)).await.expect("the peer takes what it is sent");
    }

    /// Sends a byte at a time, far less than is bearable but never nothing for long, until the peer
    /// closes; it takes hours to send all that the tests have to say.
    pub(crate) async fn trickle_until_closed(&mut self, bytes: &[u8]) {
        let mut pace = tokio::time::interval(TRICKLE);
        let trickled = async {
            for byte in bytes {
                pace.tick().await;
                if self.0.write_all(std::slice::from_ref(byte)).await.is_err() {
                    return;
                }
            }
            panic!("the peer took all of it");
        };
        in_time(trickled).await;
    }

    /// The next frame without its payload; `None` if the peer closed.
    pub(crate) async fn hear(&mut self) -> Option<(Header, Body)> {
        let mut head = [0; FRAME_HEADER_BYTES];
        in_time(self.0.read_exact(&mut head)).await.ok()?;
        let header = Header::decode(&head).expect("the peer speaks the protocol");
        let mut body = vec![0; header.body_len as usize];
        in_time(self.0.read_exact(&mut body)).await.ok()?;
        Some((header, Body::decode(&header, &body).expect("the peer speaks the protocol")))
    }

    pub(crate) async fn hear_payload(&mut self, header: &Header) -> Vec<u8> {
        let mut payload = vec![0; header.payload_len as usize];
        in_time(self.0.read_exact(&mut payload)).await.expect("the payload follows its head");
        payload
    }

    /// Waits until the peer closes, whatever it says before.
    pub(crate) async fn closed(&mut self) {
        let mut sink = vec![0; 65_536];
        in_time(async { while matches!(self.0.read(&mut sink).await, Ok(count) if count > 0) {} }).await;
    }
}
