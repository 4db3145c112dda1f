//! Claims: who may compute a block that nobody holds, so that everybody else waits and loads it.

use std::collections::hash_map::Entry;

use bytes::Bytes;
use hearth_proto::{BlockId, Fingerprint, limits, v1};
use rustc_hash::FxHashMap;
use smallvec::SmallVec;
use v1::RefusalReason;

use super::BlockMap;
use super::ends::Ends;
use super::outcome::{self, claim_gone, claim_granted, claim_held, done, refused};
use super::record::{RecordError, RecordKey};
use crate::mutant::{self, Mutant};

/// Bytes of a claim's record before the claimant: token and end.
const HEAD_BYTES: usize = 16;

/// The right to compute a block, until it ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) claimant: Bytes,
    /// Names this grant: no other claim of the group, past or future, has the same.
    pub(crate) token: u64,
    pub(crate) expires_at_ms: u64,
}

/// Every claim of a group; none of them has expired.
#[derive(Debug, Default)]
pub(crate) struct Claims {
    by_block: BlockMap<Claim>,
    /// Derived: reports name blocks so.
    by_name: FxHashMap<Fingerprint, SmallVec<[BlockId; 1]>>,
    ends: Ends<BlockId>,
    /// Blocks whose claims ended since that was last asked for.
    ended: Vec<BlockId>,
}

impl Claims {
    /// The claim on a block.
    pub(crate) fn find(&self, id: &BlockId) -> Option<&Claim> {
        self.by_block.get(id)
    }

    /// Every claimed block, in no order that means anything.
    pub(crate) fn blocks(&self) -> impl Iterator<Item = &BlockId> {
        self.by_block.keys()
    }

    /// When the first claim ends.
    pub(super) fn first_end_ms(&self) -> Option<u64> {
        self.ends.first_ms()
    }

    pub(super) fn take_ended(&mut self) -> Vec<BlockId> {
        std::mem::take(&mut self.ended)
    }

    pub(super) fn end_due(&mut self, now_ms: u64) {
        while let Some(id) = self.ends.first_due(now_ms) {
            self.end(&id);
        }
    }

    /// Ends the claims on the blocks of this fingerprint: on every replica the same, however they came to be there.
    pub(super) fn end_named(&mut self, name: &Fingerprint) {
        // Every block that comes to a node is asked of, and hardly one is claimed.
        if !self.by_name.is_empty()
            && let Some(ids) = self.by_name.remove(name)
        {
            ids.iter().for_each(|id| {
                self.end(id);
            });
        }
    }

    /// Ends the claim on a block, if there is one.
    fn end(&mut self, id: &BlockId) -> bool {
        let Some(claim) = self.by_block.remove(id) else { return false };
        if let Entry::Occupied(mut ids) = self.by_name.entry(Fingerprint::of(id)) {
            ids.get_mut().retain(|other| other != id);
            if ids.get().is_empty() {
                ids.remove();
            }
        }
        self.ends.remove(claim.expires_at_ms, *id);
        self.ended.push(*id);
        true
    }

    /// Grants a claim on a block, or says why not. `is_held` says whether a replica of it counts;
    /// `next_token` is used by a new grant alone.
    pub(super) fn claim(
        &mut self,
        now_ms: u64,
        id: BlockId,
        ask: &v1::ClaimPrefill,
        is_held: bool,
        next_token: impl FnOnce() -> u64,
    ) -> v1::Outcome {
        if !(1..=limits::CLAIMANT_BYTES_MAX).contains(&ask.claimant.len()) {
            let detail = format!("the name of a claimant is 1 to {} bytes", limits::CLAIMANT_BYTES_MAX);
            return refused(RefusalReason::Malformed, detail);
        }
        if let Some(refusal) = absurd(ask.ttl_ms) {
            return refusal;
        }
        if is_held {
            return outcome::block_present();
        }
        let full = self.by_block.len() >= limits::CLAIMS_MAX;
        let token = match self.by_block.get(&id) {
            Some(held) if held.claimant != ask.claimant => {
                return claim_held(held.claimant.clone(), held.expires_at_ms);
            }
            Some(own) => own.token,
            None if full => {
                let limit = limits::CLAIMS_MAX;
                let detail = format!("{limit} blocks are claimed already; compute without a claim");
                return refused(RefusalReason::Limit, detail);
            }
            None => {
                let token = next_token();
                // It ends with this very moment, so that what follows has one way to move the end.
                let claim = Claim { claimant: ask.claimant.clone(), token, expires_at_ms: now_ms };
                self.insert(id, claim);
                token
            }
        };
        self.prolong(now_ms, &id, token, ask.ttl_ms)
    }

    pub(super) fn renew(&mut self, now_ms: u64, id: BlockId, renew: &v1::RenewClaim) -> v1::Outcome {
        match absurd(renew.ttl_ms) {
            Some(refusal) => refusal,
            None => self.prolong(now_ms, &id, renew.token, renew.ttl_ms),
        }
    }

    pub(super) fn release(&mut self, id: BlockId, token: u64) -> v1::Outcome {
        let is_held = self.by_block.get(&id).is_some_and(|claim| claim.token == token);
        done(is_held && self.end(&id))
    }

    /// Moves the end of a claim on, never back: a request that comes late takes nothing away.
    fn prolong(&mut self, now_ms: u64, id: &BlockId, token: u64, ttl_ms: u64) -> v1::Outcome {
        let is_own = |claim: &Claim| claim.token == token || mutant::is(Mutant::ExpiredClaimRenewed);
        let Some(claim) = self.by_block.get_mut(id).filter(|claim| is_own(claim)) else {
            return claim_gone();
        };
        self.ends.remove(claim.expires_at_ms, *id);
        claim.expires_at_ms = claim.expires_at_ms.max(now_ms.saturating_add(ttl_ms));
        self.ends.insert(claim.expires_at_ms, *id);
        claim_granted(token, claim.expires_at_ms)
    }

    fn insert(&mut self, id: BlockId, claim: Claim) {
        self.ends.insert(claim.expires_at_ms, id);
        self.by_name.entry(Fingerprint::of(&id)).or_default().push(id);
        self.by_block.insert(id, claim);
    }

    pub(super) fn read_record(&self, id: &BlockId, out: &mut Vec<u8>) -> bool {
        let Some(claim) = self.by_block.get(id) else { return false };
        out.extend_from_slice(&claim.token.to_le_bytes());
        out.extend_from_slice(&claim.expires_at_ms.to_le_bytes());
        out.extend_from_slice(&claim.claimant);
        true
    }

    pub(super) fn restore(&mut self, id: BlockId, value: &[u8]) -> Result<(), RecordError> {
        let damaged = RecordError("the record of a claim is cut or there twice");
        let (head, claimant) = value.split_at_checked(HEAD_BYTES).ok_or(damaged.clone())?;
        let ([token, expires_at], []) = head.as_chunks::<8>() else { return Err(damaged) };
        if !(1..=limits::CLAIMANT_BYTES_MAX).contains(&claimant.len()) || self.by_block.contains_key(&id) {
            return Err(damaged);
        }
        let claim = Claim {
            claimant: Bytes::copy_from_slice(claimant),
            token: u64::from_le_bytes(*token),
            expires_at_ms: u64::from_le_bytes(*expires_at),
        };
        self.insert(id, claim);
        Ok(())
    }

    pub(super) fn record_keys(&self) -> impl Iterator<Item = RecordKey> {
        self.by_block.keys().map(|id| RecordKey::Claim(*id))
    }
}

/// Refuses a duration that would keep a block from everybody, or that nobody could renew in time.
fn absurd(ttl_ms: u64) -> Option<v1::Outcome> {
    let (min, max) = (limits::CLAIM_TTL_MS_MIN, limits::CLAIM_TTL_MS_MAX);
    (!(min..=max).contains(&ttl_ms)).then(|| {
        let detail = format!("a claim holds {min} to {max} ms before it is renewed, not {ttl_ms}");
        refused(RefusalReason::Malformed, detail)
    })
}
