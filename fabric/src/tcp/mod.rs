//! The fabric over TCP: frames with their payload, many requests sharing a connection.
//!
//! Payloads go from the lease to the kernel and from the kernel to the caller's buffer, with no copy
//! between; headers share the system calls of the payloads. Each end of a connection has one task that
//! reads and one that writes. Neither waits for the other, so that a peer that does not read hurts
//! only itself.

mod batch;
mod client;
mod connection;
mod driver;
mod error;
mod mover;
mod patience;
mod reader;
mod server;
mod timeouts;

pub use error::{ConnectError, EndError};
pub use mover::{TcpMover, TcpOptions};
pub use server::{serve_tcp, serve_tcp_with};
pub use timeouts::TcpTimeouts;
