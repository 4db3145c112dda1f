//! Blocks whose bytes follow from their keys, so that every get can be checked byte for byte.

use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use hearth_client::{
    BlockBuf, BlockResult, Chain, Client, GetOptions, MissReason, PutBlock, PutOptions, PutResult,
};
use hearth_proto::{AckLevel, BlockKey, LayoutId, PrefixHash, Tier};
use hearth_replay::content;

/// A chain of `count` blocks that no other `seed` gives.
///
/// # Panics
/// If `count` is not between 1 and 4,096.
pub fn chain(seed: u64, count: usize) -> Chain {
    let keys = (0..count as u64)
        .map(|index| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&seed.to_le_bytes());
            bytes[8..].copy_from_slice(&index.to_le_bytes());
            let prefix = PrefixHash::new(&bytes).expect("16 bytes are a prefix hash");
            BlockKey::derive(LayoutId([0x7e; 32]), &prefix)
        })
        .collect();
    Chain::from_keys(keys).expect("the count is within the limits")
}

/// The bytes that belong to a chain's blocks, `len` bytes each.
pub fn blocks(chain: &Chain, len: usize) -> Vec<PutBlock> {
    let block = |(index, key): (usize, &BlockKey)| {
        let mut payload = vec![0; len];
        content::fill(key, &mut payload);
        PutBlock::new(index, payload)
    };
    chain.keys().iter().enumerate().map(block).collect()
}

/// Puts every block of a chain.
///
/// # Errors
/// If one is not stored.
pub async fn put_all(client: &Client, chain: &Chain, len: usize, ack: AckLevel) -> anyhow::Result<()> {
    let options = PutOptions { ack, patience: Some(Duration::from_secs(20)) };
    let results = client.put(chain, &blocks(chain, len), options).await?;
    match results.iter().position(|result| !matches!(result, PutResult::Stored { .. })) {
        Some(index) => bail!("block {index} of {} was not stored: {:?}", results.len(), results[index]),
        None => Ok(()),
    }
}

/// What a verified get of a whole chain found.
#[derive(Debug, Default)]
pub struct Got {
    /// Blocks that came with exactly their bytes, by the tier that had them.
    pub hits: Vec<(usize, Tier)>,
    /// Blocks that did not come, and why.
    pub misses: Vec<(usize, MissReason)>,
    /// How long the lookup and the get took together.
    pub elapsed: Duration,
}

/// Looks a chain up and gets every block, checking every byte.
///
/// # Errors
/// If a byte is wrong, or a block completes twice or never (INV-BYTES).
pub async fn get_all(client: &Client, chain: &Chain, len: usize, patience: Duration) -> anyhow::Result<Got> {
    let started = Instant::now();
    let lookup = client.lookup(chain, Some(patience)).await;
    let left = patience.saturating_sub(started.elapsed());
    let buffers = (0..chain.len()).map(|index| (index, BlockBuf::with_capacity(len))).collect();
    let mut got = Got::default();
    let mut wrong = None;
    client
        .get(&lookup, buffers, GetOptions::within(left), |index, result| match result {
            BlockResult::Hit(hit) => {
                let bytes = hit.buffer.as_slice();
                if content::verify(&chain.keys()[index], len, bytes).is_err() {
                    wrong = Some(index);
                }
                got.hits.push((index, hit.tier));
            }
            BlockResult::Miss { reason, .. } => got.misses.push((index, reason)),
        })
        .await
        .context("the request is well formed")?;
    got.elapsed = started.elapsed();
    if let Some(index) = wrong {
        bail!("block {index} came with wrong bytes");
    }
    let mut seen: Vec<usize> = got.hits.iter().map(|h| h.0).chain(got.misses.iter().map(|m| m.0)).collect();
    seen.sort_unstable();
    if seen != (0..chain.len()).collect::<Vec<_>>() {
        bail!("{} blocks were asked for and these completed: {seen:?}", chain.len());
    }
    Ok(got)
}
