//! What the exit status says.

use std::process::ExitCode;

use hearth_client::{CallError, DiscoverError, RequestError, StatusError};
use hearth_proto::{Classified, ErrorKind, IdError};
use hearth_replay::RunError;

/// The meaning of each exit status; clap itself exits with 2 on a bad command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All that was asked was done.
    Done = 0,
    /// Something failed that none of the others names, such as one node among others.
    Failed = 1,
    /// The request can never succeed as it is.
    BadRequest = 2,
    /// At least one block asked for was not found, or not stored.
    Missed = 3,
    /// No member of the cluster could be reached.
    Unreachable = 4,
    /// Bytes came back wrong, or a goal asked for was missed.
    Wrong = 5,
}

/// The table of exit statuses, for `--help`.
pub(crate) const HELP: &str = "Exit status:\n  0  done\n  1  failed, or not every node answered `status`\n  2  the request is wrong: mend it\n  \
    3  some block was missed or not stored\n  4  no member of the cluster could be reached\n  \
    5  a replay got wrong bytes or none at all, or missed a goal of --check";

/// A command line that can never succeed as it is, found beyond what clap checks.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub(crate) struct BadRequest(pub(crate) String);

impl Exit {
    /// The status that an error's cause asks for.
    pub(crate) fn of(error: &anyhow::Error) -> Self {
        for cause in error.chain() {
            if let Some(discover) = cause.downcast_ref::<DiscoverError>() {
                return match discover {
                    DiscoverError::Unreachable { .. } => Self::Unreachable,
                    _ => Self::BadRequest,
                };
            }
            if let Some(call) = cause.downcast_ref::<CallError>() {
                return match call.kind() {
                    ErrorKind::FixRequest => Self::BadRequest,
                    _ => Self::Failed,
                };
            }
            if cause.is::<StatusError>() {
                return Self::Unreachable;
            }
            if cause.is::<BadRequest>()
                || cause.is::<RequestError>()
                || cause.is::<IdError>()
                || cause.is::<RunError>()
            {
                return Self::BadRequest;
            }
        }
        Self::Failed
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
