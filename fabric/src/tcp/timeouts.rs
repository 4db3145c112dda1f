//! How long an end of a connection waits for the other.

use std::time::Duration;

use hearth_proto::limits::{
    CONNECTION_IDLE_MS_MAX, DRAIN_MS_MAX, FRAME_STALL_MS_MAX, HANDSHAKE_MS_MAX, LINGER_MS_MAX,
    SLOT_WAIT_MS_MAX, TRANSFER_BYTES_PER_SECOND_MIN,
};

/// How long an end of a connection waits for the other. The defaults are the constants of
/// `hearth_proto::limits`; deadlines of requests are apart from these.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TcpTimeouts {
    /// Server: until a new connection has said hello.
    pub handshake: Duration,
    /// Both: while a frame once begun makes no progress, read or written. As a whole it has this long
    /// and what its bytes take at `TRANSFER_BYTES_PER_SECOND_MIN`.
    pub stall: Duration,
    /// Server: between two frames.
    pub idle: Duration,
    /// Server: for a slot, while a put holds up its connection.
    pub slot_wait: Duration,
    /// Server: for the requests in work, when it shuts down.
    pub drain: Duration,
    /// Server: for a refused peer to read why.
    pub linger: Duration,
}

impl Default for TcpTimeouts {
    fn default() -> Self {
        Self {
            handshake: Duration::from_millis(HANDSHAKE_MS_MAX),
            stall: Duration::from_millis(FRAME_STALL_MS_MAX),
            idle: Duration::from_millis(CONNECTION_IDLE_MS_MAX),
            slot_wait: Duration::from_millis(SLOT_WAIT_MS_MAX),
            drain: Duration::from_millis(DRAIN_MS_MAX),
            linger: Duration::from_millis(LINGER_MS_MAX),
        }
    }
}

/// How long a peer may take to move `bytes` as a whole, however often it moves a few of them.
pub(super) fn transfer_time_max(stall: Duration, bytes: usize) -> Duration {
    stall + Duration::from_millis(bytes as u64 * 1_000 / TRANSFER_BYTES_PER_SECOND_MIN)
}
