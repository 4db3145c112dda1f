//! A block has one claimant at a time: a claim that was granted is nobody else's until it has ended by replicated
//! time, was given back or its block has come, it lasts that long, and no token is given twice.
//!
//! *Source*: INV-LINEAR; DESIGN.md, section 4, Claims; `proto/hearth/v1/command.proto`, ClaimGranted: "no two grants
//! share one".

use std::collections::BTreeMap;

use bytes::Bytes;
use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::{BlockId, BlockKey, Fingerprint, GroupId, NamespaceId, v1};

use super::Seen;
use super::history::{Entry, History};
use super::reports::added_names;

/// A claim as the log has it.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Live {
    claimant: Bytes,
    token: u64,
    expires_at_ms: u64,
    /// The block may have come, which ends the claim: whether a report counted is not asked here.
    may_have_ended: bool,
}

type Claims = BTreeMap<BlockId, Live>;

/// The claims after each entry, and every token with what it was given for.
#[derive(Default)]
pub(super) struct OneClaimant {
    next_index: u64,
    now: Claims,
    /// After the entries that changed them.
    after: BTreeMap<u64, Claims>,
    tokens: BTreeMap<u64, (BlockId, Bytes)>,
    looked: BTreeMap<(usize, u8), u64>,
}

impl OneClaimant {
    pub(super) fn check(&mut self, seen: &[Seen], history: &History) -> Result<(), String> {
        for (index, entry) in history.from(GroupId::DIRECTORY, self.next_index) {
            self.follow(entry).map_err(|what| {
                format!("INV-LINEAR: one claimant: entry {index}: {what}: {:?}", entry.applied)
            })?;
            self.next_index = index + 1;
            if self.after.last_key_value().is_none_or(|(_, last)| *last != self.now) {
                self.after.insert(index, self.now.clone());
            }
        }
        seen.iter().try_for_each(|node| self.compare(node))
    }

    /// Holds what a node has against the log.
    fn compare(&mut self, node: &Seen) -> Result<(), String> {
        let Some((applied, _)) = node.group(GroupId::DIRECTORY).applied else { return Ok(()) };
        let life = (node.machine.index, node.machine.life());
        if applied >= self.next_index || self.looked.insert(life, applied) == Some(applied) {
            return Ok(());
        }
        let Some((_, expected)) = self.after.range(..=applied).next_back() else { return Ok(()) };
        let found = node.cluster.claimed(GroupId::DIRECTORY);
        let known = found.iter().all(|claim| {
            expected.get(&claim.block).is_some_and(|live| {
                (&live.claimant, live.token, live.expires_at_ms)
                    == (&claim.claimant, claim.token, claim.expires_at_ms)
            })
        });
        let there = |id: &BlockId| found.iter().any(|claim| claim.block == *id);
        if known && expected.iter().all(|(id, live)| live.may_have_ended || there(id)) {
            return Ok(());
        }
        Err(format!(
            "INV-LINEAR: one claimant: after entry {applied} {} has the claims {found:?}, the log has {expected:?}",
            node.machine.name
        ))
    }

    fn follow(&mut self, entry: &Entry) -> Result<(), &'static str> {
        let now_ms = entry.time_ms();
        if entry.moves_time() {
            self.now.retain(|_, live| live.expires_at_ms > now_ms);
        }
        match (entry.body(), entry.outcome()) {
            (Some(Body::ClaimPrefill(ask)), Some(outcome)) => self.claimed(now_ms, ask, outcome),
            (Some(Body::RenewClaim(renew)), Some(outcome)) => {
                let id = block(renew.namespace_id, &renew.key);
                let live = self.now.get_mut(&id).filter(|live| live.token == renew.token);
                match (live, outcome) {
                    (Some(live), Kind::ClaimGranted(granted)) => prolong(now_ms, live, granted, renew.ttl_ms),
                    (None, Kind::ClaimGranted(_)) => Err("a claim that has ended is renewed"),
                    (Some(live), Kind::ClaimGone(_)) if !live.may_have_ended => {
                        Err("a claim is gone before its end")
                    }
                    (Some(_), Kind::ClaimGone(_)) => {
                        self.now.remove(&id);
                        Ok(())
                    }
                    _ => Ok(()),
                }
            }
            (Some(Body::ReleaseClaim(release)), Some(Kind::Done(done))) => {
                let id = block(release.namespace_id, &release.key);
                let live = self.now.get(&id).filter(|live| live.token == release.token);
                match (live, done.changed) {
                    (None, true) => Err("a claim is given back by one who does not have it"),
                    (Some(live), false) if !live.may_have_ended => Err("a claim is gone before its end"),
                    (Some(_), _) => {
                        self.now.remove(&id);
                        Ok(())
                    }
                    (None, false) => Ok(()),
                }
            }
            (Some(Body::BlockReport(report)), _) => {
                let names = added_names(report);
                let come = self.now.iter_mut().filter(|(id, _)| names.contains(&Fingerprint::of(id)));
                come.for_each(|(_, live)| live.may_have_ended = true);
                Ok(())
            }
            (Some(Body::ResyncHolder(_)), _) => {
                self.now.values_mut().for_each(|live| live.may_have_ended = true);
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn claimed(&mut self, now_ms: u64, ask: &v1::ClaimPrefill, outcome: &Kind) -> Result<(), &'static str> {
        let id = block(ask.namespace_id, &ask.key);
        match (self.now.get_mut(&id), outcome) {
            (Some(live), Kind::ClaimGranted(granted)) if live.token == granted.token => {
                if live.claimant != ask.claimant {
                    return Err("two claimants have one token");
                }
                prolong(now_ms, live, granted, ask.ttl_ms)
            }
            (Some(live), Kind::ClaimGranted(_)) if !live.may_have_ended => {
                Err("a block is claimed already and granted to another one")
            }
            (_, Kind::ClaimGranted(granted)) => {
                let newest = self.tokens.last_key_value().map_or(0, |(token, _)| *token);
                if granted.token <= newest {
                    return Err("a token is given again, or is not greater than those before");
                }
                if granted.expires_at_ms != now_ms + ask.ttl_ms {
                    return Err("a claim does not last as long as was asked");
                }
                self.tokens.insert(granted.token, (id, ask.claimant.clone()));
                let (claimant, token) = (ask.claimant.clone(), granted.token);
                let expires_at_ms = granted.expires_at_ms;
                self.now.insert(id, Live { claimant, token, expires_at_ms, may_have_ended: false });
                Ok(())
            }
            (Some(live), Kind::ClaimHeld(held))
                if (&live.claimant, live.expires_at_ms) == (&held.claimant, held.expires_at_ms) =>
            {
                Ok(())
            }
            (_, Kind::ClaimHeld(_)) => Err("a block is held by a claim that is not there"),
            _ => Ok(()),
        }
    }
}

/// A claim that is renewed ends as late as it did, or as late as is asked now.
fn prolong(
    now_ms: u64,
    live: &mut Live,
    granted: &v1::ClaimGranted,
    ttl_ms: u64,
) -> Result<(), &'static str> {
    if (granted.token, granted.expires_at_ms) != (live.token, live.expires_at_ms.max(now_ms + ttl_ms)) {
        return Err("a claim that is renewed does not last as long as was asked");
    }
    live.expires_at_ms = granted.expires_at_ms;
    // It is there.
    live.may_have_ended = false;
    Ok(())
}

fn block(namespace: u32, key: &[u8]) -> BlockId {
    let key = BlockKey::try_from(key).expect("clients name blocks by their keys");
    BlockId { namespace: NamespaceId(namespace), key }
}
