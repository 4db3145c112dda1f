//! Claims and pins that are granted while a leader is missing, and have to outlast the faults that follow.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hearth_client::{CallError, Claim, Client, Grant};
use hearth_tests::TestCluster;
use hearth_tests::blocks::chain;

use super::{BLOCKS, PATIENCE, millis};

/// Longer than a run of this.
const PIN_TTL: Duration = Duration::from_secs(24 * 3_600);
/// Longer than the rounds that a claim lives.
const CLAIM_TTL: Duration = Duration::from_secs(600);
/// Faults that each claim has to outlast.
const CLAIMS: usize = 8;
/// Numbers of the chains that nobody puts begin here.
const CLAIMED_FROM: u64 = 1 << 32;
const CLAIMANT: &[u8] = b"failover";

/// What was promised, and what became of it.
#[derive(Debug, Default)]
pub(super) struct Promises {
    /// With the round in which each was granted.
    claims: VecDeque<(u64, Grant)>,
    pins: Vec<([u8; 16], u64)>,
    pub(super) claims_granted: u64,
    pub(super) claims_lost: u64,
    /// Milliseconds from a fault to a claim granted after it.
    pub(super) claim_ms: Vec<f64>,
}

impl Promises {
    pub(super) fn pins_granted(&self) -> u64 {
        self.pins.len() as u64
    }

    /// Claims a block that nobody holds, however long it takes, and says how long after `begun`.
    pub(super) async fn claim(&mut self, client: &Client, round: u64, begun: Instant) -> anyhow::Result<()> {
        let absent = chain(CLAIMED_FROM + round, 1);
        let claim = until_answered(async || client.claim(&absent, CLAIMANT, CLAIM_TTL, Some(PATIENCE)).await);
        match claim.await?.claim {
            Claim::Granted(grant) => {
                self.claim_ms.push(millis(begun.elapsed()));
                self.claims.push_back((round, grant));
                self.claims_granted += 1;
                Ok(())
            }
            other => anyhow::bail!("nobody else claims, and the answer was {other:?}"),
        }
    }

    /// Pins the blocks that this round put, asks for every claim in another's name and renews it, and gives the
    /// oldest back.
    pub(super) async fn keep(&mut self, client: &Client, round: u64) -> anyhow::Result<()> {
        let mut pin_id = [0xfa; 16];
        pin_id[..8].copy_from_slice(&round.to_le_bytes());
        let put = chain(round, BLOCKS);
        let pinned = until_answered(async || client.pin(pin_id, &put, PIN_TTL, Some(PATIENCE)).await);
        self.pins.push((pin_id, pinned.await?.expires_at_ms));
        for (granted_in, grant) in std::mem::take(&mut self.claims) {
            let absent = chain(CLAIMED_FROM + granted_in, 1);
            let rival =
                until_answered(async || client.claim(&absent, b"rival", CLAIM_TTL, Some(PATIENCE)).await);
            let is_ours = matches!(rival.await?.claim, Claim::Held { claimant, .. } if claimant == CLAIMANT);
            let kept = until_answered(async || client.renew(&grant, CLAIM_TTL, Some(PATIENCE)).await);
            match kept.await? {
                Some(kept) if kept.token == grant.token && is_ours => {
                    self.claims.push_back((granted_in, kept));
                }
                _ => self.claims_lost += 1,
            }
        }
        if self.claims.len() > CLAIMS
            && let Some((_, oldest)) = self.claims.pop_front()
        {
            until_answered(async || client.release(&oldest, Some(PATIENCE)).await).await?;
        }
        Ok(())
    }

    /// Pins that a node does not know as they were granted, the worst node's.
    pub(super) async fn pins_lost(&self, cluster: &TestCluster) -> anyhow::Result<u64> {
        let mut worst = 0;
        for node in 0..cluster.nodes.len() {
            let known = cluster.client(node).await?.pins(Some(PATIENCE)).await?.pins;
            let is_lost = |(pin_id, expires_at_ms): &&([u8; 16], u64)| {
                !known.iter().any(|pin| {
                    pin.pin_id == pin_id.as_slice()
                        && pin.expires_at_ms == *expires_at_ms
                        && pin.blocks == BLOCKS as u32
                })
            };
            worst = worst.max(self.pins.iter().filter(is_lost).count() as u64);
        }
        Ok(worst)
    }
}

/// Asks again while it is unknown what became of the question: all of these may be repeated.
async fn until_answered<T>(ask: impl AsyncFn() -> Result<T, CallError>) -> anyhow::Result<T> {
    let mut tries = 0;
    loop {
        match ask().await {
            Err(CallError::Unknown { .. } | CallError::Unavailable { .. }) if tries < 20 => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            answer => return Ok(answer?),
        }
    }
}
