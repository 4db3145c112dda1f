//! The fabric of Hearth: moves blocks between the memories of an engine and of a node.
//!
//! One trait for each end. A [`Mover`] is the client's end: it asks a peer for blocks and gives it
//! blocks, each block completing on its own and every call by its deadline. A [`BlockService`] is what
//! the server's end asks in turn: leases of bytes to send, slots to receive into. What lies between is
//! a transport; [`tcp`] is one. What is outstanding, what answers it and what may be believed is
//! decided in [`session`], which is pure and shared by all transports.
//!
//! The fabric stores nothing and retries nothing.

mod block_buf;
mod call;
mod mover;
mod service;
pub mod session;
pub mod tcp;

pub use block_buf::BlockBuf;
pub use call::{GetStream, PutStream};
pub use hearth_proto::frame::{BlockStatus, TierBits};
pub use mover::{GetCompletion, GetItem, Got, Mover, PeerInfo, PutAck, PutCompletion, PutItem};
pub use service::{BlockService, GetHit, GetRequest, PutRequest};
pub use tcp::{ConnectError, EndError, TcpMover, TcpOptions, TcpTimeouts, serve_tcp, serve_tcp_with};
