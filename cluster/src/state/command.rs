//! Builds commands, each in the oldest format that can say it.

use bytes::Bytes;
use hearth_proto::limits::CHAIN_BLOCKS_MAX;
use hearth_proto::{BlockKey, v1};
use v1::command::Body;

/// The newest command format that this build applies.
pub(crate) const VERSION: u32 = 3;

/// The first that knows of several directory groups.
pub(crate) const SPLIT_SINCE: u32 = 2;

/// The first that moves the replicated time. Builds of before kept none, so what they may have applied must
/// not move it either: all replicas have to agree on it.
pub(crate) const TIME_SINCE: u32 = 3;
/// The first that knows of zones, observers, drained and removed nodes, and of finalized versions.
pub(crate) const MEMBERSHIP_SINCE: u32 = 3;

/// The first that compares what a node holds with what the directory has of it.
pub(crate) const RESYNC_SINCE: u32 = 3;

/// The first whose reports name blocks by their fingerprints.
pub(crate) const RUNS_SINCE: u32 = 3;

/// A command that a leader can stamp and propose, in the oldest format that can say it.
pub(crate) fn new(body: Body) -> v1::Command {
    let version = match &body {
        Body::FoundCluster(found) => match &found.first_node {
            Some(first) if !first.zone.is_empty() => MEMBERSHIP_SINCE,
            _ if found.directory_groups > 1 => SPLIT_SINCE,
            _ => 1,
        },
        Body::AdmitNode(admit) if !admit.zone.is_empty() => MEMBERSHIP_SINCE,
        Body::RegisterNode(register) if !register.zone.is_empty() || register.never_votes => MEMBERSHIP_SINCE,
        Body::DrainNode(_) | Body::RemoveNode(_) | Body::FinalizeVersion(_) => MEMBERSHIP_SINCE,
        Body::BlockReport(report) if !report.runs.is_empty() => RUNS_SINCE,
        Body::ResyncHolder(_) => RESYNC_SINCE,
        Body::PutNamespace(_)
        | Body::DeleteNamespace(_)
        | Body::PinBlocks(_)
        | Body::UnpinBlocks(_)
        | Body::PutPolicy(_)
        | Body::ClaimPrefill(_)
        | Body::RenewClaim(_)
        | Body::ReleaseClaim(_)
        | Body::SetRetention(_)
        | Body::AdvanceTime(_) => TIME_SINCE,
        _ => 1,
    };
    v1::Command { version, stamp_ms: 0, body: Some(body) }
}

/// Reads block keys that lie one after the other; `None` if there are too many or one is cut.
pub(crate) fn unpack_keys(bytes: &[u8]) -> Option<Vec<BlockKey>> {
    let (keys, rest) = bytes.as_chunks::<32>();
    (rest.is_empty() && keys.len() <= CHAIN_BLOCKS_MAX).then(|| keys.iter().copied().map(BlockKey).collect())
}

/// Lays block keys one after the other.
pub(crate) fn pack_keys<'a>(keys: impl IntoIterator<Item = &'a BlockKey>) -> Bytes {
    let packed: Vec<u8> = keys.into_iter().flat_map(|key| key.0).collect();
    packed.into()
}
