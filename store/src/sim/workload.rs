//! What the callers of a simulated store ask of it.

use std::future::pending;
use std::time::{Duration, Instant};

use hearth_proto::{AckLevel, Priority, Retention, Urgency};

use super::content::{NAMES, Name, PAYLOAD_BYTES_MIN, Version, fill};
use super::rng::Rng;
use super::tasks::Work;
use crate::arena::Lease;
use crate::error::{GetError, PutError, ReserveError};
use crate::store::{GetOutcome, PutMeta, PutOutcome, Store};

/// One call of a store, as the oracle knows it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Call {
    pub(super) number: u64,
    pub(super) kind: Kind,
    pub(super) name: Name,
    /// The step of the simulation in which it began.
    pub(super) began: u64,
    pub(super) deadline_us: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Put {
        version: Version,
        len: usize,
        durable: bool,
        keep: KeepAsked,
        pause_us: u64,
    },
    Get(Urgency),
    GetHost,
    Remove,
    Flush,
    /// Takes a slot and lets it go.
    Reserve {
        len: usize,
        pause_us: u64,
    },
    /// Keeps a block on the node for a time.
    Pin {
        duration_us: u64,
    },
    Close,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct KeepAsked {
    pub(super) priority: u8,
    pub(super) duration_ms: Option<u64>,
    pub(super) depth: u32,
}

/// How a call ended.
pub(super) enum Answer {
    Put(Result<PutOutcome, PutError>),
    /// No slot to put into.
    NoSlot(ReserveError),
    Got(Result<GetOutcome, GetError>),
    GotHost(Option<Lease>),
    Removed(bool),
    /// True if the pin was taken.
    Pinned(bool),
    Done,
}

impl Kind {
    pub(super) fn choose(rng: &mut Rng, same: impl FnOnce(&mut Rng) -> (Version, usize)) -> Self {
        match rng.below(100) {
            0..=44 => {
                let (version, len) = same(rng);
                let keep = KeepAsked {
                    priority: rng.pick(&[0, 35, 50, 50, 50, 80, 100]),
                    duration_ms: rng.pick(&[None, None, Some(1), Some(5_000)]),
                    depth: rng.below(4) as u32,
                };
                let pause_us = pause(rng);
                Self::Put { version, len, durable: rng.below(2) == 0, keep, pause_us }
            }
            45..=79 => Self::Get(rng.pick(&[Urgency::Background, Urgency::Normal, Urgency::Urgent])),
            80..=84 => Self::GetHost,
            85..=92 => Self::Remove,
            93 | 94 => Self::Flush,
            95 | 96 => Self::Pin { duration_us: rng.pick(&[1_000, 50_000, 5_000_000]) },
            _ => Self::Reserve { len: payload_len(rng), pause_us: pause(rng) },
        }
    }

    /// A put with nothing unusual.
    pub(super) fn put((version, len): (Version, usize), durable: bool) -> Self {
        let keep = KeepAsked { priority: 50, duration_ms: None, depth: 0 };
        Self::Put { version, len, durable, keep, pause_us: 0 }
    }

    pub(super) fn number(&self) -> u64 {
        match self {
            Self::Put { version, len, durable, .. } => {
                u64::from(version.0) << 32 | (*len as u64) << 1 | u64::from(*durable)
            }
            Self::Get(urgency) => 1 | u64::from(urgency.to_wire()) << 3,
            Self::GetHost => 2,
            Self::Remove => 3,
            Self::Flush => 4,
            Self::Reserve { .. } => 5,
            Self::Close => 6,
            Self::Pin { duration_us } => 7 | duration_us << 3,
        }
    }

    pub(super) fn name(&self) -> &'static str {
        match self {
            Self::Put { durable: true, .. } => "put durable",
            Self::Put { .. } => "put",
            Self::Get(_) => "get",
            Self::GetHost => "get_host",
            Self::Remove => "remove",
            Self::Flush => "flush",
            Self::Reserve { .. } => "reserve",
            Self::Close => "close",
            Self::Pin { .. } => "pin",
        }
    }
}

/// A name; a few are asked for more often than the others.
pub(super) fn choose_name(rng: &mut Rng, churns: bool) -> Name {
    let among = if churns { 2 } else { rng.pick(&[4, u64::from(NAMES)]) };
    Name(rng.below(among) as u32)
}

/// How long a call may take.
pub(super) fn patience_us(rng: &mut Rng) -> u64 {
    rng.pick(&[0, 500, 5_000, 100_000, 2_000_000, 2_000_000])
}

/// Lengths of records from one to five sectors, with and without padding.
pub(super) fn payload_len(rng: &mut Rng) -> usize {
    let sectors = rng.pick(&[1, 1, 2, 2, 2, 3, 5]) as usize;
    let most = sectors * 4_096 - 128;
    match rng.below(3) {
        0 => most,
        1 => most - rng.index(200),
        _ => most - rng.index(4_096 - 128 - PAYLOAD_BYTES_MIN),
    }
}

fn pause(rng: &mut Rng) -> u64 {
    rng.pick(&[0, 0, 0, 200, 20_000])
}

/// The call itself.
pub(super) fn perform(store: &Store, call: &Call, deadline: Instant) -> Work {
    let store = store.clone();
    let Call { kind, name, .. } = *call;
    match kind {
        Kind::Put { version, len, durable, keep, pause_us } => Box::pin(async move {
            let mut slot = match store.reserve(len, deadline).await {
                Ok(slot) => slot,
                Err(error) => return Answer::NoSlot(error),
            };
            fill(&mut slot, name, version);
            wait(&store, pause_us).await;
            let priority = Priority::new(keep.priority).unwrap_or(Priority::DEFAULT);
            let retention = Retention { priority, duration_ms: keep.duration_ms };
            let meta = PutMeta { crc32: crc32fast::hash(&slot), retention, depth: keep.depth };
            let ack = if durable { AckLevel::Durable } else { AckLevel::Host };
            Answer::Put(store.put(name.id(), slot, meta, ack, deadline).await)
        }),
        Kind::Get(urgency) => {
            Box::pin(async move { Answer::Got(store.get_with(&name.id(), urgency, deadline).await) })
        }
        Kind::GetHost => Box::pin(async move { Answer::GotHost(store.get_host(&name.id())) }),
        Kind::Remove => Box::pin(async move { Answer::Removed(store.remove(&name.id()).await) }),
        Kind::Flush => Box::pin(async move {
            store.flush().await;
            Answer::Done
        }),
        Kind::Reserve { len, pause_us } => Box::pin(async move {
            match store.reserve(len, deadline).await {
                Ok(slot) => {
                    wait(&store, pause_us).await;
                    drop(slot);
                    Answer::Done
                }
                Err(error) => Answer::NoSlot(error),
            }
        }),
        Kind::Pin { duration_us } => Box::pin(async move {
            Answer::Pinned(store.pin(&name.id(), Duration::from_micros(duration_us)).is_ok())
        }),
        Kind::Close => Box::pin(async move {
            store.close().await;
            Answer::Done
        }),
    }
}

async fn wait(store: &Store, pause_us: u64) {
    if pause_us > 0 {
        let clock = &store.core().clock;
        let until = clock.now() + Duration::from_micros(pause_us);
        // Nothing else ends it.
        let _ = clock.timeout_at(until, pending::<()>()).await;
    }
}
