//! What a directory group knows besides replicas, all of which ends by replicated time: claims on missing
//! blocks, and how blocks are kept.

use hearth_proto::{BlockId, BlockKey, Fingerprint, NamespaceId, limits, v1};
use v1::RefusalReason;
use v1::command::Body;

use super::claims::Claims;
use super::directory::Directory;
use super::outcome::{self, done, refused};
use super::record::{RecordError, RecordKey};
use super::retentions::Retentions;
use crate::mutant::{self, Mutant};

/// The replicated time of a group, and what ends by it.
#[derive(Debug, Default)]
pub(crate) struct Timed {
    /// The latest stamp that was applied.
    time_ms: u64,
    /// The last token or number given out; the next one is greater.
    last_number: u64,
    claims: Claims,
    retentions: Retentions,
}

impl Timed {
    /// The replicated time.
    pub(crate) fn time_ms(&self) -> u64 {
        self.time_ms
    }

    pub(crate) fn claims(&self) -> &Claims {
        &self.claims
    }

    pub(super) fn claims_mut(&mut self) -> &mut Claims {
        &mut self.claims
    }

    pub(crate) fn retentions(&self) -> &Retentions {
        &self.retentions
    }

    pub(super) fn retentions_mut(&mut self) -> &mut Retentions {
        &mut self.retentions
    }

    /// When the first thing ends.
    pub(super) fn first_end_ms(&self) -> Option<u64> {
        self.claims.first_end_ms().into_iter().chain(self.retentions.first_end_ms()).min()
    }

    /// Moves the replicated time on, never back, and ends what has expired.
    pub(super) fn advance(&mut self, stamp_ms: u64) {
        let latest_ms = if mutant::is(Mutant::TimeGoesBack) { stamp_ms } else { self.time_ms.max(stamp_ms) };
        self.time_ms = latest_ms;
        let late_ms = if mutant::is(Mutant::ExpiredClaimKept) { 200 } else { 0 };
        self.claims.end_due(self.time_ms.saturating_sub(late_ms));
        self.retentions.end_due(self.time_ms);
    }

    /// A block has come to some node: whoever claimed it is done.
    pub(super) fn published(&mut self, name: &Fingerprint) {
        self.claims.end_named(name);
    }

    /// Applies a command; `is_held` is what [`is_held`] says of it.
    pub(super) fn apply(&mut self, body: &Body, is_held: bool) -> v1::Outcome {
        let now_ms = self.time_ms;
        let last = &mut self.last_number;
        let mut next_number = || {
            *last += 1;
            *last
        };
        let unnamed = || refused(RefusalReason::Malformed, "the key of a block is 32 bytes");
        match body {
            Body::ClaimPrefill(ask) => {
                let Some(id) = block(ask.namespace_id, &ask.key) else { return unnamed() };
                if ask.gone.len() > limits::NODES_MAX {
                    return refused(
                        RefusalReason::Malformed,
                        "a block has no more holders than there are nodes",
                    );
                }
                self.claims.claim(now_ms, id, ask, is_held, next_number)
            }
            Body::RenewClaim(renew) => match block(renew.namespace_id, &renew.key) {
                Some(id) => self.claims.renew(now_ms, id, renew),
                None => unnamed(),
            },
            Body::ReleaseClaim(release) => match block(release.namespace_id, &release.key) {
                Some(id) => self.claims.release(id, release.token),
                None => unnamed(),
            },
            Body::SetRetention(set) => self.retentions.set(now_ms, set, &mut next_number),
            Body::AdvanceTime(_) => done(true),
            _ => outcome::wrong_group(),
        }
    }

    pub(super) fn read_record(&self, key: &RecordKey, out: &mut Vec<u8>) -> bool {
        match key {
            RecordKey::Clock => {
                out.extend_from_slice(&self.time_ms.to_le_bytes());
                let forgotten = mutant::is(Mutant::TokenGivenAgain);
                out.extend_from_slice(&(if forgotten { 0 } else { self.last_number }).to_le_bytes());
                self.has_clock()
            }
            RecordKey::Claim(id) => self.claims.read_record(id, out),
            RecordKey::Retention(id) => self.retentions.read_record(id, out),
            _ => false,
        }
    }

    pub(super) fn restore(&mut self, key: RecordKey, value: &[u8]) -> Result<(), RecordError> {
        match key {
            RecordKey::Clock => {
                let ([time_ms, last_number], []) = value.as_chunks::<8>() else {
                    return Err(RecordError("the record of the clock has the wrong length"));
                };
                self.time_ms = u64::from_le_bytes(*time_ms);
                self.last_number = u64::from_le_bytes(*last_number);
                Ok(())
            }
            RecordKey::Claim(id) => self.claims.restore(id, value),
            RecordKey::Retention(id) => self.retentions.restore(id, value),
            _ => Err(RecordError("a control record in a directory group")),
        }
    }

    fn has_clock(&self) -> bool {
        self.time_ms != 0 || self.last_number != 0
    }

    pub(super) fn record_keys(&self) -> impl Iterator<Item = RecordKey> {
        let clock = self.has_clock().then_some(RecordKey::Clock);
        clock.into_iter().chain(self.claims.record_keys()).chain(self.retentions.record_keys())
    }
}

/// Whether the block that a command claims is held by a node that serves, as far as the directory can tell.
///
/// It does not know which nodes serve: whoever claims says which of the holders are gone. That is no guess
/// that may be overtaken, because an incarnation that has ended never serves again; and a holder that it
/// does not name, since it had not heard of its end or of its replica, counts. So a block whose replicas are
/// all on dead nodes can be claimed, and one that came while the claim was on its way cannot.
pub(super) fn is_held(directory: &Directory, body: &Body) -> bool {
    let Body::ClaimPrefill(ask) = body else { return false };
    let Some(id) = block(ask.namespace_id, &ask.key) else { return false };
    directory.replicas(&id).into_iter().any(|replica| {
        let is_gone = |gone: &v1::HolderIncarnation| {
            gone.node_id == replica.node.0 && gone.incarnation == replica.incarnation.0
        };
        !ask.gone.iter().any(is_gone)
    })
}

fn block(namespace: u32, key: &[u8]) -> Option<BlockId> {
    let key = BlockKey::try_from(key).ok()?;
    Some(BlockId { namespace: NamespaceId(namespace), key })
}
