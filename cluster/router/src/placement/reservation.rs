//! What is said between routers about the workers that requests were placed on.

use hearth_proto::limits::{PLACEMENT_TOKENS_MAX, RESERVATION_MS_MAX, RESERVATIONS_MAX};
use hearth_proto::{Classified, ErrorKind, Urgency};

use super::choose::Placement;
use super::range::{RangeError, check_count};
use super::request::Request;
use super::work::PrefillWork;
use super::worker::WorkerId;

/// One request, unique in the cluster. A request that is placed anew is another one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u128);

/// A worker is expected to serve a request until it is over, or until some time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reservation {
    /// The request.
    pub request: RequestId,
    /// The worker that it was placed on.
    pub worker: WorkerId,
    /// How urgent it is.
    pub urgency: Urgency,
    /// Tokens that the worker computes; at least one.
    pub new_tokens: u32,
    /// Tokens before those.
    pub cached_tokens: u32,
    /// Blocks that prompt and expected output take up.
    pub blocks: u32,
    /// When it ends by itself, in milliseconds since 1970. Routers' clocks have to agree to within what the sender
    /// leaves of [`RESERVATION_MS_MAX`].
    pub expires_ms: u64,
}

/// What one router tells the others, and itself. Each change may come twice, late, in any order, or not at all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Change {
    /// A request was placed.
    Reserve(Reservation),
    /// Its prompt was computed; its output is being generated.
    PrefillDone(RequestId),
    /// It is over.
    Complete(RequestId),
}

/// What a change did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Applied {
    /// It was new.
    Changed,
    /// It was known.
    Known,
    /// It came for a request that is over.
    Late,
}

/// A reservation that was not taken in.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
pub enum ReserveError {
    /// A number in it is out of its range; who sent it is broken.
    #[error(transparent)]
    Range(#[from] RangeError),
    /// It was over before it came. It has no effect; whoever placed the request just now has a wrong clock.
    #[error("the reservation ended at {expires_ms} ms, and it is {now_ms} ms")]
    Expired {
        /// When it ended.
        expires_ms: u64,
        /// When it came.
        now_ms: u64,
    },
    /// The request has another reservation. That one stands; place the request under another number.
    #[error("the request is placed on worker {worker} already, or otherwise; place it under another number")]
    Taken {
        /// The worker that it is reserved on.
        worker: WorkerId,
    },
    /// There are [`RESERVATIONS_MAX`]. The request can be served nonetheless, but is not reckoned with; try again when
    /// others are over.
    #[error("{RESERVATIONS_MAX} requests have reservations already")]
    Full,
}

impl Classified for ReserveError {
    fn kind(&self) -> ErrorKind {
        match self {
            Self::Range(error) => error.kind(),
            Self::Expired { .. } | Self::Taken { .. } => ErrorKind::FixRequest,
            Self::Full => ErrorKind::Retry,
        }
    }
}

impl Reservation {
    /// The reservation of a request that was placed, until some time in milliseconds since 1970.
    pub fn of(request: &Request, placement: &Placement, id: RequestId, expires_ms: u64) -> Self {
        Self {
            request: id,
            worker: placement.worker,
            urgency: request.urgency,
            new_tokens: placement.plan.new_tokens,
            cached_tokens: placement.plan.cached_tokens,
            blocks: placement.blocks,
            expires_ms,
        }
    }

    /// What it takes to compute its prompt, if its numbers are in their ranges.
    pub(super) fn check(&self, now_ms: u64) -> Result<PrefillWork, ReserveError> {
        let work = PrefillWork::new(self.new_tokens, self.cached_tokens)?;
        check_count("blocks of a request", u64::from(self.blocks), 0, 2 * u64::from(PLACEMENT_TOKENS_MAX))?;
        if self.expires_ms <= now_ms {
            return Err(ReserveError::Expired { expires_ms: self.expires_ms, now_ms });
        }
        check_count("milliseconds of a reservation", self.expires_ms - now_ms, 1, RESERVATION_MS_MAX)?;
        Ok(work)
    }
}
