//! How the operations on an object are said to a cluster, and what its answers mean.

use bytes::Bytes;
use hearth_proto::v1;
use hearth_proto::{GroupId, Tier};
use v1::command::Body;
use v1::freshness;
use v1::outcome::Kind;

use super::model::{Operation, Said, report_holds_block};

/// Blocks that spell the number of a holder's last report, a bit each.
const BITS: u64 = 16;
/// The largest number of a report that can be spelled.
pub(super) const SEQUENCE_MAX: u64 = (1 << BITS) - 1;
/// The version of commands that bring their time with them.
const TIMED: u32 = 3;

/// The node that reports for an object: it was admitted and sends heartbeats, and has no process of its own.
#[derive(Clone, Debug)]
pub(super) struct Reporter {
    pub(super) node_id: u64,
    pub(super) incarnation: u64,
    pub(super) boot_id: Bytes,
}

/// What an answer of the cluster comes to.
pub(super) enum Answered {
    Said(Said),
    /// Nothing was done, and may be later.
    NotNow,
    /// None of the answers that the operation has.
    Strange,
}

/// The group that keeps an object of this operation, and the command that does it; `None` for what is read.
pub(super) fn command(
    key: u64,
    reporter: &Reporter,
    operation: &Operation,
) -> Option<(GroupId, v1::Command)> {
    let of = |group: GroupId, version: u32, body: Body| {
        Some((group, v1::Command { version, stamp_ms: 0, body: Some(body) }))
    };
    let timed = |body: Body| of(GroupId::DIRECTORY, TIMED, body);
    match *operation {
        Operation::Read => None,
        Operation::Report { incarnation, sequence, reset } => {
            let of_holder = v1::BlockReport { node_id: reporter.node_id, incarnation, ..Default::default() };
            let deltas = deltas(key, sequence);
            let report = v1::BlockReport { sequence, reset, deltas, ..of_holder };
            of(GroupId::DIRECTORY, 1, Body::BlockReport(report))
        }
        Operation::Claim { claimant, ttl_ms } => timed(Body::ClaimPrefill(v1::ClaimPrefill {
            namespace_id: 0,
            key: claimed_block(key),
            claimant: claimant.to_string().into_bytes().into(),
            ttl_ms,
            gone: Vec::new(),
        })),
        Operation::Renew { token, ttl_ms } => timed(Body::RenewClaim(v1::RenewClaim {
            namespace_id: 0,
            key: claimed_block(key),
            token,
            ttl_ms,
        })),
        Operation::Release { token } => {
            timed(Body::ReleaseClaim(v1::ReleaseClaim { namespace_id: 0, key: claimed_block(key), token }))
        }
        Operation::Pin { ttl_ms } => {
            of(GroupId::CONTROL, TIMED, Body::PinBlocks(pin(key, ttl_ms, claimed_block(key))))
        }
        Operation::Repin { ttl_ms } => {
            of(GroupId::CONTROL, TIMED, Body::PinBlocks(pin(key, ttl_ms, Bytes::new())))
        }
        Operation::Unpin => {
            let unpin = v1::UnpinBlocks { pin_id: pin_id(key), namespace_id: 0 };
            of(GroupId::CONTROL, TIMED, Body::UnpinBlocks(unpin))
        }
    }
}

/// What an outcome says.
pub(super) fn answered(kind: &Kind) -> Answered {
    let said = match kind {
        Kind::ReportApplied(applied) => Said::Applied { next: applied.next_sequence },
        Kind::ReportGap(gap) => Said::Gap { next: gap.next_sequence },
        Kind::Superseded(by) => Said::Superseded { incarnation: by.incarnation },
        Kind::ClaimGranted(granted) => Said::Granted { token: granted.token, end_ms: granted.expires_at_ms },
        Kind::ClaimHeld(held) => {
            let claimant = std::str::from_utf8(&held.claimant).ok().and_then(|name| name.parse().ok());
            let Some(claimant) = claimant else { return Answered::Strange };
            Said::Held { claimant, end_ms: held.expires_at_ms }
        }
        Kind::BlockPresent(_) => Said::Present,
        Kind::ClaimGone(_) => Said::Gone,
        Kind::Pinned(pinned) => Said::Pinned { end_ms: pinned.expires_at_ms },
        Kind::Done(done) => Said::Done { changed: done.changed },
        Kind::Refused(refused) => match refused.reason() {
            v1::RefusalReason::UnknownPin => Said::Gone,
            // A leader that has not heard yet which commands its cluster knows.
            v1::RefusalReason::Version => return Answered::NotNow,
            _ => return Answered::Strange,
        },
        _ => return Answered::Strange,
    };
    Answered::Said(said)
}

/// Asks where the blocks are that spell the number of an object's last report.
pub(super) fn lookup(key: u64) -> v1::LookupRequest {
    let linearizable = freshness::Kind::Linearizable(v1::Linearizable {});
    v1::LookupRequest {
        keys: (0..BITS).map(|bit| block(key, bit)).collect(),
        freshness: Some(v1::Freshness { kind: Some(linearizable) }),
    }
}

/// The number that the answer spells.
pub(super) fn read(reporter: &Reporter, found: &v1::LookupResponse) -> Said {
    let holds = |block: &v1::BlockReplicas| {
        let is_it = |replica: &v1::Replica| {
            (replica.node_id, replica.incarnation) == (reporter.node_id, reporter.incarnation)
        };
        u64::from(block.replicas.iter().any(is_it))
    };
    let last = found.blocks.iter().rev().fold(0, |number, block| number << 1 | holds(block));
    Said::Value { last }
}

/// Every report says all that the holder has, or has not.
fn deltas(key: u64, sequence: u64) -> Bytes {
    let bits = (0..BITS).map(|bit| (block(key, bit), sequence >> bit & 1 == 1));
    let claimed = (claimed_block(key), report_holds_block(sequence));
    let mut deltas = Vec::new();
    for (block, added) in bits.chain([claimed]) {
        deltas.extend_from_slice(&0_u32.to_le_bytes());
        deltas.extend_from_slice(&block);
        deltas.extend_from_slice(&[Tier::Host as u8, u8::from(added)]);
        deltas.extend_from_slice(&1_u32.to_le_bytes());
    }
    deltas.into()
}

fn pin(key: u64, ttl_ms: u64, keys: Bytes) -> v1::PinBlocks {
    v1::PinBlocks {
        pin_id: pin_id(key),
        namespace_id: 0,
        size_bytes: u64::from(!keys.is_empty()),
        keys,
        ttl_ms,
    }
}

fn pin_id(key: u64) -> Bytes {
    claimed_block(key).slice(..16)
}

/// The block that an object's claims are about, or its pin.
fn claimed_block(key: u64) -> Bytes {
    block(key, BITS)
}

/// Spread over the ranges of the directory, as keys of blocks are.
fn block(key: u64, number: u64) -> Bytes {
    let seed = (key << 8 | number).wrapping_add(1);
    let mut bytes = [0x5c; 32];
    bytes[..8].copy_from_slice(&seed.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes());
    bytes[8..16].copy_from_slice(&seed.to_le_bytes());
    bytes.to_vec().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lookup_reads_the_number_that_a_report_spelled() {
        let reporter = Reporter { node_id: 7, incarnation: 1, boot_id: Bytes::new() };
        for sequence in [1, 2, 300, SEQUENCE_MAX] {
            let operation = Operation::Report { incarnation: 1, sequence, reset: true };
            let (_, command) = command(3, &reporter, &operation).unwrap();
            let Some(Body::BlockReport(report)) = command.body else { panic!() };
            let added =
                |key: &Bytes| report.deltas.chunks(42).any(|delta| delta[4..36] == key[..] && delta[37] == 1);
            let here = v1::Replica { node_id: 7, incarnation: 1, tier: 2 };
            let elsewhere = v1::Replica { node_id: 8, incarnation: 1, tier: 2 };
            let replicas = |key: &Bytes| if added(key) { vec![here] } else { vec![elsewhere] };
            let asked = lookup(3);
            let blocks = asked.keys.iter().map(|key| v1::BlockReplicas { replicas: replicas(key) });
            let found = v1::LookupResponse { blocks: blocks.collect(), ..Default::default() };
            assert_eq!(read(&reporter, &found), Said::Value { last: sequence });
            assert_eq!(added(&claimed_block(3)), report_holds_block(sequence));
        }
    }
}
