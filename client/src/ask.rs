//! Calls that change something: asked of one member, or of the next when it does not answer. Every one of
//! them may be repeated (INV-IDEMPOTENT).

use std::time::Instant;

use hearth_proto::limits::CALL_ATTEMPTS_MAX;
use hearth_proto::{Classified, ErrorKind, v1};
use tonic::transport::Channel;
use tonic::{Code, Request, Response, Status};

use crate::client::{Client, cause_of, share_of};
use crate::error::RequestError;

/// Carries the reason of a refusal, by its name in the protocol.
const REFUSAL_HEADER: &str = "hearth-refusal";

/// Why a call was not done, or is not known to be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CallError {
    /// The request can never succeed as it is.
    #[error(transparent)]
    Request(#[from] RequestError),
    /// The cluster refused it; the detail says what to do.
    #[error("{detail}")]
    Refused {
        /// What kind of mend it takes.
        reason: v1::RefusalReason,
        /// What the cluster said.
        detail: String,
    },
    /// No member did it in time; nothing was changed.
    #[error("no member of the cluster did it: {detail}")]
    Unavailable {
        /// What the last one said, or why it said nothing.
        detail: String,
    },
    /// It may or may not have been done. Repeating it is harmless.
    #[error("it is unknown whether it was done: {detail}; repeating it is harmless")]
    Unknown {
        /// What the last member said, or why it said nothing.
        detail: String,
    },
}

impl Classified for CallError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Request(error) => error.kind(),
            Self::Refused { reason: v1::RefusalReason::Limit | v1::RefusalReason::Unspecified, .. }
            | Self::Unavailable { .. }
            | Self::Unknown { .. } => ErrorKind::Retry,
            Self::Refused { .. } => ErrorKind::FixRequest,
        }
    }
}

/// How long one member may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Turn {
    /// Its share of the time, so that there is some left for the next.
    Share,
    /// All of it: the call is there to wait.
    Whole,
}

impl Client {
    /// Asks members until one does it or refuses it, or the deadline is there.
    pub(crate) async fn ask<Q: Clone, A>(
        &self,
        request: Q,
        deadline: Instant,
        turn: Turn,
        call: impl AsyncFn(Channel, Request<Q>) -> Result<Response<A>, Status>,
    ) -> Result<A, CallError> {
        self.refresh_nodes_if_old();
        let routers = self.inner.topology.routers();
        let mut attempts = CALL_ATTEMPTS_MAX as usize;
        // Once it may have been done, no later failure tells that it was not.
        let mut may_be_done = false;
        let mut detail = "every one that is known failed a moment ago".to_owned();
        for (position, router) in routers.iter().enumerate() {
            let asked = Instant::now();
            if attempts == 0 || asked >= deadline {
                break;
            }
            if !router.admits(asked) {
                continue;
            }
            let until = match turn {
                Turn::Share => share_of(deadline, attempts.min(routers.len() - position)),
                Turn::Whole => deadline,
            };
            attempts -= 1;
            let mut request = Request::new(request.clone());
            request.set_timeout(until.saturating_duration_since(asked));
            let answer = tokio::time::timeout_at(until.into(), call(router.channel.clone(), request)).await;
            match answer {
                Ok(Ok(answer)) => {
                    router.succeeded();
                    return Ok(answer.into_inner());
                }
                Ok(Err(status)) => match outcome_of(&status) {
                    Outcome::Refused(refused) => {
                        router.succeeded();
                        return Err(refused);
                    }
                    outcome => {
                        // It could not be reached, or broke off: that is said by this side of the connection.
                        if std::error::Error::source(&status).is_some() {
                            router.failed();
                        }
                        may_be_done |= matches!(outcome, Outcome::Unknown);
                        detail = format!("{}: {}", router.address, cause_of(&status));
                    }
                },
                Err(_) => {
                    router.was_silent(asked, until);
                    may_be_done = true;
                    detail = format!("{}: no answer in time", router.address);
                }
            }
        }
        Err(if may_be_done { CallError::Unknown { detail } } else { CallError::Unavailable { detail } })
    }
}

enum Outcome {
    Refused(CallError),
    NotDone,
    Unknown,
}

fn outcome_of(status: &Status) -> Outcome {
    match status.code() {
        // A member that cannot, or a connection that could not be made.
        Code::Unavailable => Outcome::NotDone,
        Code::Unknown | Code::Cancelled | Code::DeadlineExceeded | Code::Internal => Outcome::Unknown,
        _ => {
            let name = status.metadata().get(REFUSAL_HEADER).and_then(|name| name.to_str().ok());
            let reason = name.and_then(v1::RefusalReason::from_str_name).unwrap_or_default();
            Outcome::Refused(CallError::Refused { reason, detail: status.message().to_owned() })
        }
    }
}
