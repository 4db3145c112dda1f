//! Single-flight prefill: claims on missing blocks, and waiting until they end.

use std::time::Instant;

use bytes::Bytes;
use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::{BlockId, BlockKey, GroupId, LogIndex, NamespaceId, v1};

use crate::cluster::Cluster;
use crate::error::{ProposeError, Silent};
use crate::raft::{Applied, Group};
use crate::refusal::CommandError;
use crate::state::{Replica, State, command};

/// The right to compute a block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grant {
    /// Names this grant in all that follows.
    pub token: u64,
    /// Replicated time at which it ends by itself.
    pub expires_at_ms: u64,
}

/// What a block's claim was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClaimState {
    /// The caller has it.
    Granted(Grant),
    /// Somebody else has it, until then unless it is renewed.
    Held {
        /// Who.
        claimant: Bytes,
        /// Replicated time at which it ends by itself.
        expires_at_ms: u64,
    },
    /// The block is there: load it.
    Present,
}

/// The answer to a claim, and where in which log it stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClaimAnswer {
    /// What came of it.
    pub state: ClaimState,
    /// The group that the block belongs to.
    pub group: GroupId,
    /// Whoever has applied the group's log up to here sees it too.
    pub log_index: LogIndex,
}

/// Why a wait ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum WatchEnd {
    /// Somebody holds the block: look it up.
    Present,
    /// Nobody holds it and nobody claims it: claim it. Of all who are told so, one will get it.
    Free,
    /// It was still claimed at the deadline.
    Held {
        /// By whom.
        claimant: Bytes,
        /// Replicated time at which the claim ends by itself.
        expires_at_ms: u64,
    },
}

impl Cluster {
    /// Asks for the right to compute a block that a lookup did not find. The same claimant gets the same
    /// claim again; of several claimants one gets it, whatever happens to leaders meanwhile (INV-LINEAR).
    ///
    /// # Errors
    /// [`CommandError`]; after `Uncommitted(Unknown)` the caller claims again, which is harmless.
    ///
    /// # Cancel safety
    /// A claim that is dropped may still be granted, and then ends by itself.
    pub async fn claim(
        &self,
        namespace: NamespaceId,
        key: BlockKey,
        claimant: Bytes,
        ttl_ms: u64,
        deadline: Instant,
    ) -> Result<ClaimAnswer, CommandError> {
        self.check_namespace(namespace)?;
        let group = self.directory_of(&key)?;
        let id = BlockId { namespace, key };
        let mut gone = self.gone_holders(group, &id);
        loop {
            let ask = v1::ClaimPrefill {
                namespace_id: namespace.0,
                key: key.0.to_vec().into(),
                claimant: claimant.clone(),
                ttl_ms,
                gone: gone.clone(),
            };
            let command = command::new(Body::ClaimPrefill(ask));
            let (log_index, kind) = self.commit(group.id(), command, deadline).await?;
            let state = match kind {
                Kind::ClaimGranted(granted) => ClaimState::Granted(grant(&granted)),
                Kind::ClaimHeld(held) => {
                    ClaimState::Held { claimant: held.claimant, expires_at_ms: held.expires_at_ms }
                }
                Kind::BlockPresent(_) => ClaimState::Present,
                other => return Err(CommandError::unexpected(&other)),
            };
            // Who waits or looks here next is to see what this answer saw.
            let is_seen = matches!(state, ClaimState::Granted(_))
                || group.wait_applied(log_index, deadline).await == Applied::Reached;
            // It came, if only to a node that is known to be gone by now.
            let gone_now = self.gone_holders(group, &id);
            if state == ClaimState::Present && is_seen && gone_now != gone {
                gone = gone_now;
                continue;
            }
            return Ok(ClaimAnswer { state, group: group.id(), log_index });
        }
    }

    /// Prolongs a claim; `None` if it is held no longer.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub async fn renew_claim(
        &self,
        namespace: NamespaceId,
        key: BlockKey,
        token: u64,
        ttl_ms: u64,
        deadline: Instant,
    ) -> Result<Option<Grant>, CommandError> {
        let group = self.directory_of(&key)?;
        let key = key.0.to_vec().into();
        let renew = v1::RenewClaim { namespace_id: namespace.0, key, token, ttl_ms };
        match self.commit(group.id(), command::new(Body::RenewClaim(renew)), deadline).await?.1 {
            Kind::ClaimGranted(granted) => Ok(Some(grant(&granted))),
            Kind::ClaimGone(_) => Ok(None),
            other => Err(CommandError::unexpected(&other)),
        }
    }

    /// Gives a claim back; false if it was held no longer.
    ///
    /// # Errors
    /// As [`Self::claim`].
    pub async fn release_claim(
        &self,
        namespace: NamespaceId,
        key: BlockKey,
        token: u64,
        deadline: Instant,
    ) -> Result<bool, CommandError> {
        let group = self.directory_of(&key)?;
        let key = key.0.to_vec().into();
        let release = v1::ReleaseClaim { namespace_id: namespace.0, key, token };
        match self.commit(group.id(), command::new(Body::ReleaseClaim(release)), deadline).await?.1 {
            Kind::Done(done) => Ok(done.changed),
            other => Err(CommandError::unexpected(&other)),
        }
    }

    /// Waits until a block is there or its claim has ended, as this node learns it. `is_held_here` says
    /// what this node's own store has, which the directory may not know yet.
    ///
    /// # Errors
    /// [`CommandError::TooManyWaiters`], or `Uncommitted(Stopped)` if nothing is learned here any more.
    ///
    /// # Cancel safety
    /// Whoever is dropped waits no longer.
    pub async fn watch_claim(
        &self,
        namespace: NamespaceId,
        key: BlockKey,
        deadline: Instant,
        is_held_here: impl Fn() -> bool,
    ) -> Result<WatchEnd, CommandError> {
        let group = self.directory_of(&key)?;
        let id = BlockId { namespace, key };
        let waiter = group.news().waiters.register(id).ok_or(CommandError::TooManyWaiters)?;
        loop {
            let woken = waiter.woken();
            if is_held_here() || self.lookup(namespace, &[key]).replicas.iter().any(|found| !found.is_empty())
            {
                return Ok(WatchEnd::Present);
            }
            let Some((claimant, expires_at_ms)) = claim_on(group, &id) else { return Ok(WatchEnd::Free) };
            if let Some(detail) = group.failure() {
                return Err(ProposeError::Stopped { group: group.id(), detail }.into());
            }
            if tokio::time::timeout_at(deadline.into(), woken).await.is_err() {
                return Ok(WatchEnd::Held { claimant, expires_at_ms });
            }
        }
    }

    /// The group that a block belongs to.
    pub(crate) fn directory_of(&self, key: &BlockKey) -> Result<&Group, CommandError> {
        let id = self.directory_groups().group_of(key);
        let group = self.group(id).ok_or(ProposeError::NoLeader { group: id, silent: Silent::default() })?;
        Ok(group)
    }

    /// The holders of a block, as the directory has them, that serve no more and never will: an incarnation
    /// that ended does not come back. One that this node has not heard of yet is not among them.
    fn gone_holders(&self, group: &Group, id: &BlockId) -> Vec<v1::HolderIncarnation> {
        let control = self.0.control.replicated();
        let directory = group.replicated();
        let (State::Control(control), State::Directory(directory)) = (&control.state, &directory.state)
        else {
            return Vec::new();
        };
        let is_gone = |replica: &Replica| {
            let known = control.node(replica.node).map_or(0, |node| node.incarnation);
            let serving = control.serving_incarnation(replica.node);
            replica.incarnation.0 <= known && serving != Some(replica.incarnation)
        };
        let gone = directory.replicas(id).into_iter().filter(is_gone);
        gone.map(|replica| v1::HolderIncarnation {
            node_id: replica.node.0,
            incarnation: replica.incarnation.0,
        })
        .collect()
    }
}

fn claim_on(group: &Group, id: &BlockId) -> Option<(Bytes, u64)> {
    let replicated = group.replicated();
    let State::Directory(directory) = &replicated.state else { return None };
    directory.timed().claims().find(id).map(|claim| (claim.claimant.clone(), claim.expires_at_ms))
}

fn grant(granted: &v1::ClaimGranted) -> Grant {
    Grant { token: granted.token, expires_at_ms: granted.expires_at_ms }
}
