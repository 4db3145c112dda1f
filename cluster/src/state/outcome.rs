//! Short ways to write outcomes.

use bytes::Bytes;
use hearth_proto::{Incarnation, NodeId, Tier, v1};
use v1::outcome::Kind;

use super::command;

fn of(kind: Kind) -> v1::Outcome {
    v1::Outcome { kind: Some(kind) }
}

pub(super) fn refused(reason: v1::RefusalReason, detail: impl Into<String>) -> v1::Outcome {
    of(Kind::Refused(v1::CommandRefused { reason: reason.into(), detail: detail.into() }))
}

pub(super) fn future_version(version: u32) -> v1::Outcome {
    let known = command::VERSION;
    refused(
        v1::RefusalReason::FutureVersion,
        format!("the command has version {version}, this build knows {known}"),
    )
}

pub(super) fn wrong_group() -> v1::Outcome {
    refused(v1::RefusalReason::WrongGroup, "the command belongs to another group")
}

pub(super) fn admitted(node: NodeId) -> v1::Outcome {
    of(Kind::Admitted(v1::NodeAdmitted { node_id: node.0 }))
}

pub(super) fn registered(incarnation: u64) -> v1::Outcome {
    of(Kind::Registered(v1::NodeRegistered { incarnation }))
}

pub(super) fn superseded(incarnation: Incarnation) -> v1::Outcome {
    of(Kind::Superseded(v1::NodeSuperseded { incarnation: incarnation.0 }))
}

pub(super) fn marked(changed: bool) -> v1::Outcome {
    of(Kind::Marked(v1::NodeMarked { changed }))
}

pub(super) fn done(changed: bool) -> v1::Outcome {
    of(Kind::Done(v1::Done { changed }))
}

pub(super) fn report_applied(next_sequence: u64) -> v1::Outcome {
    of(Kind::ReportApplied(v1::ReportApplied { next_sequence }))
}

pub(super) fn report_gap(next_sequence: u64) -> v1::Outcome {
    of(Kind::ReportGap(v1::ReportGap { next_sequence }))
}

pub(super) fn purged(claims: u64, more: bool) -> v1::Outcome {
    of(Kind::ClaimsPurged(v1::ClaimsPurged { claims, more }))
}

/// For each tier, by position, the ranges that differ.
pub(super) fn resynced(next_sequence: u64, differing: Vec<Vec<u32>>) -> v1::Outcome {
    let tiers = Tier::ALL.into_iter().zip(differing).filter(|(_, ranges)| !ranges.is_empty());
    let differing =
        tiers.map(|(tier, ranges)| v1::TierRanges { tier: i32::from(tier as u8), ranges }).collect();
    of(Kind::HolderResynced(v1::HolderResynced { next_sequence, differing }))
}

pub(super) fn pinned(expires_at_ms: u64, pinned_bytes: u64) -> v1::Outcome {
    of(Kind::Pinned(v1::Pinned { expires_at_ms, pinned_bytes }))
}

pub(super) fn claim_granted(token: u64, expires_at_ms: u64) -> v1::Outcome {
    of(Kind::ClaimGranted(v1::ClaimGranted { token, expires_at_ms }))
}

pub(super) fn claim_held(claimant: Bytes, expires_at_ms: u64) -> v1::Outcome {
    of(Kind::ClaimHeld(v1::ClaimHeld { claimant, expires_at_ms }))
}

pub(super) fn claim_gone() -> v1::Outcome {
    of(Kind::ClaimGone(v1::ClaimGone {}))
}

pub(super) fn block_present() -> v1::Outcome {
    of(Kind::BlockPresent(v1::BlockPresent {}))
}
