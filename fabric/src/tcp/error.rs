//! Why a connection was not made, or why it ended.

use std::io;

use hearth_proto::frame::{BlockStatus, FrameError, Goodbye, GoodbyeReason};
use hearth_proto::{Classified, ErrorKind};

use crate::session::Violation;

/// Why no connection was made.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    /// The address cannot be reached.
    #[error("the node cannot be reached")]
    Unreachable(#[source] io::Error),
    /// The deadline passed first.
    #[error("the node did not answer by the deadline")]
    DeadlineExceeded,
    /// The peer answered that it will not talk to us.
    #[error("the node refused the connection: {reason} ({text})")]
    Refused {
        /// Why.
        reason: GoodbyeReason,
        /// The peer's words.
        text: String,
    },
    /// What answers is not a node of the cluster that was asked for.
    #[error("the node answered for another cluster")]
    WrongCluster,
    /// What answers does not speak the protocol, or the connection broke while greeting.
    #[error("the greeting failed")]
    Greeting(#[source] EndError),
}

impl Classified for ConnectError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Unreachable(_) => ErrorKind::Reroute,
            Self::DeadlineExceeded => ErrorKind::Retry,
            Self::Refused { reason, .. } => reason.kind(),
            Self::WrongCluster => ErrorKind::Stop,
            Self::Greeting(error) => error.kind(),
        }
    }
}

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum EndError {
    /// The peer closed it.
    #[error("the peer closed the connection")]
    Closed,
    /// The socket failed.
    #[error("the socket failed")]
    Io(#[from] io::Error),
    /// The peer stood still in the middle of a frame.
    #[error("the peer stood still in the middle of a frame")]
    Stalled,
    /// The peer said nothing for too long.
    #[error("the peer said nothing for too long")]
    Idle,
    /// The peer sent what is not a frame.
    #[error("the peer sent what is not a frame")]
    Frame(#[from] FrameError),
    /// The peer sent a frame that has no place here.
    #[error("the peer sent a frame that has no place here")]
    Unexpected,
    /// The peer sent an answer that nobody asked for.
    #[error("the peer sent an answer that nobody asked for")]
    Violation(#[from] Violation),
    /// This end will not talk to the peer.
    #[error("the peer was refused: {}", .0.reason)]
    Refused(Goodbye),
    /// The peer said goodbye.
    #[error("the peer said goodbye: {}", .0.reason)]
    Goodbye(Goodbye),
}

impl EndError {
    /// What the requests complete with that were outstanding.
    pub(crate) fn status(&self) -> BlockStatus {
        match self {
            Self::Goodbye(goodbye) => match goodbye.reason {
                GoodbyeReason::ShuttingDown => BlockStatus::ShuttingDown,
                GoodbyeReason::Overloaded => BlockStatus::Overloaded,
                _ => BlockStatus::Disconnected,
            },
            _ => BlockStatus::Disconnected,
        }
    }

    /// What a server says to the peer before it closes; `None` if the peer is gone.
    pub(crate) fn goodbye(&self) -> Option<Goodbye> {
        let reason = match self {
            Self::Closed | Self::Io(_) | Self::Stalled | Self::Goodbye(_) => return None,
            Self::Idle => GoodbyeReason::Idle,
            Self::Frame(FrameError::Version { .. }) => GoodbyeReason::WrongVersion,
            Self::Frame(_) | Self::Unexpected | Self::Violation(_) => GoodbyeReason::ProtocolError,
            Self::Refused(goodbye) => return Some(goodbye.clone()),
        };
        let text = match self {
            Self::Frame(error) => error.to_string(),
            other => other.to_string(),
        };
        Some(Goodbye::new(reason, &text))
    }
}

impl Classified for EndError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Closed | Self::Io(_) | Self::Stalled | Self::Idle => ErrorKind::Retry,
            Self::Frame(error) => error.kind(),
            Self::Unexpected | Self::Violation(_) => ErrorKind::Retry,
            Self::Refused(goodbye) | Self::Goodbye(goodbye) => goodbye.reason.kind(),
        }
    }
}
