//! Why what a caller asked of the replicated state was not done.

use hearth_proto::{Classified, ErrorKind, limits, v1};
use v1::RefusalReason;
use v1::outcome::Kind;

use crate::error::ProposeError;

/// Why a namespace, pin, claim, retention or policy was not changed, or not awaited.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// The state refused it; the detail says what to do.
    #[error("{detail}")]
    Refused {
        /// What kind of mend it takes.
        reason: RefusalReason,
        /// The reason, as every replica gives it.
        detail: String,
    },
    /// It was not committed, or is not known to be.
    #[error(transparent)]
    Uncommitted(#[from] ProposeError),
    /// What a pin would cost is not known.
    #[error("nobody holds any of these blocks, so what pinning them costs is not known; put them first")]
    NothingHeld,
    /// Too many calls wait on this node: ask another one, or again later.
    #[error("{} calls wait for claims here already; ask another node", limits::WAITERS_MAX)]
    TooManyWaiters,
    /// The block changed hands all the while: ask again.
    #[error("blocks of the chain came and went while they were claimed; claim again")]
    Unsettled,
}

impl CommandError {
    pub(crate) fn unknown_namespace(id: hearth_proto::NamespaceId) -> Self {
        let detail = format!("there is no namespace {id}; make it first");
        Self::Refused { reason: RefusalReason::UnknownNamespace, detail }
    }

    /// What an outcome that no such command has comes to.
    pub(crate) fn unexpected(kind: &Kind) -> Self {
        match kind {
            Kind::Refused(refused) => {
                Self::Refused { reason: refused.reason(), detail: refused.detail.clone() }
            }
            _ => Self::Refused {
                reason: RefusalReason::Unspecified,
                detail: "the command had the outcome of another one; update this node".into(),
            },
        }
    }
}

impl Classified for CommandError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Refused { reason: RefusalReason::Limit, .. } => ErrorKind::Retry,
            Self::Refused { .. } => ErrorKind::FixRequest,
            Self::Uncommitted(error) => error.kind(),
            Self::NothingHeld | Self::Unsettled => ErrorKind::Retry,
            Self::TooManyWaiters => ErrorKind::Reroute,
        }
    }
}
