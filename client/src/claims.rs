//! Single-flight prefill: of all workers that miss a block one computes it, and the others load it.

use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_proto::limits::{CLAIM_ROUNDS_MAX, GRPC_MESSAGE_BYTES_MAX};
use hearth_proto::v1::claims_client::ClaimsClient;
use hearth_proto::{BlockKey, v1};
use v1::claim_response::Result as Claimed;
use v1::renew_response::Result as Renewed;
use v1::watch_response::Result as Watched;

use crate::ask::{CallError, Turn};
use crate::chain::Chain;
use crate::client::Client;

/// The right to compute a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Grant {
    /// The block.
    pub key: BlockKey,
    /// Names this grant in all that follows.
    pub token: u64,
    /// Replicated time at which it ends by itself, in milliseconds since the Unix epoch.
    pub expires_at_ms: u64,
}

/// Who computes the first block of a chain that nobody holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Claim {
    /// The whole chain is held: load it.
    Present,
    /// The caller does.
    Granted(Grant),
    /// Somebody else does.
    Held {
        /// The block.
        key: BlockKey,
        /// Who.
        claimant: Bytes,
        /// Replicated time at which the claim ends by itself.
        expires_at_ms: u64,
    },
}

/// The answer to a claim.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ClaimAnswer {
    /// Blocks of the chain, from its beginning, that are held somewhere.
    pub present_blocks: usize,
    /// About the block after those.
    pub claim: Claim,
}

/// Why a wait for a block ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Watch {
    /// Somebody holds it: look it up.
    Present,
    /// Nobody holds it and nobody claims it: claim it.
    Free,
    /// It was still claimed when the time was up.
    Held,
}

/// What a worker does about a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Flight {
    /// Load all of it.
    Load,
    /// Load what is held from the beginning and compute the rest: nobody else does while the claim holds.
    Compute {
        /// Blocks that are held, from the beginning.
        present_blocks: usize,
        /// The claim on the block after those.
        grant: Grant,
    },
    /// Compute what a lookup does not find: the cluster could not say in time who does (INV-HARMLESS).
    Alone,
}

impl Client {
    /// Asks for the right to compute the first block of a chain that nobody holds. The same `claimant`, 1 to
    /// 128 bytes unique among workers, gets the same claim again. It ends with `ttl` unless it is renewed,
    /// and when the block is put.
    ///
    /// # Errors
    /// [`CallError`]; an engine that gets one computes without a claim.
    pub async fn claim(
        &self,
        chain: &Chain,
        claimant: &[u8],
        ttl: Duration,
        patience: Option<Duration>,
    ) -> Result<ClaimAnswer, CallError> {
        let request = v1::ClaimRequest {
            keys: chain.keys().iter().map(|key| key.0.to_vec().into()).collect(),
            claimant: Bytes::copy_from_slice(claimant),
            ttl_ms: millis(ttl),
        };
        let call = async |channel, request| {
            let service = ClaimsClient::new(channel).max_encoding_message_size(GRPC_MESSAGE_BYTES_MAX);
            { service }.claim(request).await
        };
        let answer = self.ask(request, self.deadline(patience), Turn::Share, call).await?;
        let present_blocks = (answer.present_blocks as usize).min(chain.len());
        let key = chain.keys().get(present_blocks).copied();
        let claim = match (answer.result, key) {
            (Some(Claimed::Granted(granted)), Some(key)) => Claim::Granted(grant(key, &granted)),
            (Some(Claimed::Held(held)), Some(key)) => {
                Claim::Held { key, claimant: held.claimant, expires_at_ms: held.expires_at_ms }
            }
            (None, None) => Claim::Present,
            _ => return Err(CallError::Unknown { detail: "the answer was about another chain".into() }),
        };
        Ok(ClaimAnswer { present_blocks, claim })
    }

    /// Prolongs a claim while the work goes on; `None` if it is held no longer.
    ///
    /// # Errors
    /// [`CallError`]; the work may go on, and what it puts is as good without the claim.
    pub async fn renew(
        &self,
        grant_held: &Grant,
        ttl: Duration,
        patience: Option<Duration>,
    ) -> Result<Option<Grant>, CallError> {
        let Grant { key, token, .. } = *grant_held;
        let request = v1::RenewRequest { key: key.0.to_vec().into(), token, ttl_ms: millis(ttl) };
        let call = async |channel, request| ClaimsClient::new(channel).renew(request).await;
        match self.ask(request, self.deadline(patience), Turn::Share, call).await?.result {
            Some(Renewed::Granted(granted)) => Ok(Some(grant(key, &granted))),
            Some(Renewed::Gone(_)) | None => Ok(None),
        }
    }

    /// Gives a claim back, for instance when the work failed; false if it was held no longer.
    ///
    /// # Errors
    /// [`CallError`]; the claim ends by itself.
    pub async fn release(&self, grant: &Grant, patience: Option<Duration>) -> Result<bool, CallError> {
        let request = v1::ReleaseRequest { key: grant.key.0.to_vec().into(), token: grant.token };
        let call = async |channel, request| ClaimsClient::new(channel).release(request).await;
        let answer = self.ask(request, self.deadline(patience), Turn::Share, call).await?;
        Ok(answer.released)
    }

    /// Waits until a block that somebody computes is there, or its claim has ended.
    ///
    /// # Errors
    /// [`CallError`]; whoever waits no longer computes the block.
    pub async fn watch(&self, key: BlockKey, patience: Option<Duration>) -> Result<Watch, CallError> {
        let deadline = self.deadline(patience);
        let request = v1::WatchRequest { key: key.0.to_vec().into(), wait_ms: 0 };
        let call = async |channel, request| ClaimsClient::new(channel).watch(request).await;
        match self.ask(request, deadline, Turn::Whole, call).await?.result {
            Some(Watched::Present(_)) => Ok(Watch::Present),
            Some(Watched::Free(_)) => Ok(Watch::Free),
            Some(Watched::Held(_)) | None => Ok(Watch::Held),
        }
    }

    /// What to do about a chain: claims its first missing block, or waits for whoever computes it, within
    /// `patience`. Never an error, and never later than that: a cluster that cannot say is answered by
    /// [`Flight::Alone`].
    pub async fn single_flight(
        &self,
        chain: &Chain,
        claimant: &[u8],
        ttl: Duration,
        patience: Option<Duration>,
    ) -> Flight {
        let deadline = self.deadline(patience);
        let left = || Some(deadline.saturating_duration_since(Instant::now()));
        let mut watched = 0;
        while watched < chain.len() + CLAIM_ROUNDS_MAX && left() != Some(Duration::ZERO) {
            let key = match self.claim(chain, claimant, ttl, left()).await {
                Ok(ClaimAnswer { claim: Claim::Present, .. }) => return Flight::Load,
                Ok(ClaimAnswer { claim: Claim::Granted(grant), present_blocks }) => {
                    return Flight::Compute { present_blocks, grant };
                }
                Ok(ClaimAnswer { claim: Claim::Held { key, .. }, .. }) => key,
                Err(error) => {
                    tracing::debug!(%error, "computing without a claim");
                    return Flight::Alone;
                }
            };
            match self.watch(key, left()).await {
                Ok(Watch::Present | Watch::Free) => watched += 1,
                Ok(Watch::Held) => return Flight::Alone,
                Err(error) => {
                    tracing::debug!(%error, "computing without waiting");
                    return Flight::Alone;
                }
            }
        }
        Flight::Alone
    }
}

fn grant(key: BlockKey, granted: &v1::ClaimGranted) -> Grant {
    Grant { key, token: granted.token, expires_at_ms: granted.expires_at_ms }
}

pub(crate) fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
