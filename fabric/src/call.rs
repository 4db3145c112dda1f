//! A request as its caller holds it: the answers so far, and the deadline.
//!
//! The deadline is kept here, at the caller, and not by a task of the connection: whatever the peer or
//! the connection does, the caller's own timer ends the call (INV-DEADLINE).

use std::collections::VecDeque;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use hearth_proto::frame::BlockStatus;
use tokio::sync::mpsc;
use tokio::time::Sleep;

use crate::mover::{GetCompletion, PutCompletion};
use crate::session::{Outcome, Route};

/// The end of a connection that a call belongs to.
pub(crate) trait Ledger: Send + Sync {
    /// Forgets a request, tells the peer if that spares it work, and says what had not completed.
    fn abandon(&self, request_id: u64, why: BlockStatus) -> Vec<Outcome>;
}

/// The channel is as long as the request has outcomes, so it is never full; a caller that left is no
/// concern of the session.
impl Route for mpsc::Sender<Outcome> {
    fn deliver(&self, outcome: Outcome) {
        let _caller_left = self.try_send(outcome);
    }
}

/// A request in flight.
pub(crate) struct Call {
    answers: mpsc::Receiver<Outcome>,
    /// What the request had not completed when it was abandoned; given out after `answers`.
    unanswered: VecDeque<Outcome>,
    /// `None` once the request is closed.
    open: Option<OpenCall>,
}

struct OpenCall {
    request_id: u64,
    ledger: Arc<dyn Ledger>,
    timer: Pin<Box<Sleep>>,
}

impl Call {
    pub(crate) fn open(
        request_id: u64,
        ledger: Arc<dyn Ledger>,
        answers: mpsc::Receiver<Outcome>,
        deadline: Instant,
    ) -> Self {
        let timer = Box::pin(tokio::time::sleep_until(deadline.into()));
        Self { answers, unanswered: VecDeque::new(), open: Some(OpenCall { request_id, ledger, timer }) }
    }

    /// A request that ended before it was sent.
    pub(crate) fn ended(outcomes: Vec<Outcome>) -> Self {
        let (_, answers) = mpsc::channel(1);
        Self { answers, unanswered: outcomes.into(), open: None }
    }

    /// The next outcome, `None` after the last.
    ///
    /// *Cancel safety*: an outcome is taken only by returning it.
    pub(crate) async fn next(&mut self) -> Option<Outcome> {
        if let Some(call) = &mut self.open {
            tokio::select! {
                biased;
                answer = self.answers.recv() => match answer {
                    Some(outcome) => return Some(outcome),
                    None => self.open = None,
                },
                () = &mut call.timer => {
                    let missing = call.ledger.abandon(call.request_id, BlockStatus::DeadlineExceeded);
                    self.unanswered = missing.into();
                    self.open = None;
                }
            }
        }
        // The request is closed: what was delivered before that comes first.
        self.answers.try_recv().ok().or_else(|| self.unanswered.pop_front())
    }
}

impl Drop for Call {
    fn drop(&mut self) {
        if let Some(call) = self.open.take() {
            call.ledger.abandon(call.request_id, BlockStatus::Disconnected);
        }
    }
}

/// The blocks of a get, each as it completes.
///
/// *Cancel safety*: dropping the stream cancels what is missing.
pub struct GetStream(pub(crate) Call);

impl GetStream {
    /// The next block to complete, in any order; `None` after all have.
    ///
    /// *Cancel safety*: a completion is taken only by returning it.
    pub async fn next(&mut self) -> Option<GetCompletion> {
        match self.0.next().await? {
            Outcome::Got(completion) => Some(completion),
            other => unreachable!("the session answers a get with {other:?}"),
        }
    }
}

/// The blocks of a put, each as it completes.
///
/// *Cancel safety*: dropping the stream stops what was not yet sent.
pub struct PutStream(pub(crate) Call);

impl PutStream {
    /// The next block to complete, in any order; `None` after all have.
    ///
    /// *Cancel safety*: a completion is taken only by returning it.
    pub async fn next(&mut self) -> Option<PutCompletion> {
        match self.0.next().await? {
            Outcome::Put(completion) => Some(completion),
            other => unreachable!("the session answers a put with {other:?}"),
        }
    }
}
