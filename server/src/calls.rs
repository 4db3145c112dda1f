//! What the services of the metadata share: the deadline of a call, the keys that it names, and what a
//! failure looks like to the caller.

use std::time::{Duration, Instant};

use hearth_cluster::{CommandError, ProposeError};
use hearth_proto::limits::{CALL_DEADLINE_MS_DEFAULT, CALL_DEADLINE_MS_MAX, CHAIN_BLOCKS_MAX};
use hearth_proto::{BlockKey, v1};
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use v1::RefusalReason;

/// Carries the reason of a refusal, by its name in the protocol.
const REFUSAL_HEADER: &str = "hearth-refusal";
/// What is left of a call's time for its answer to arrive in.
const ANSWER_TIME: Duration = Duration::from_millis(20);

/// When a call must be answered so that the answer is there by the deadline that it came with (INV-DEADLINE).
pub(crate) fn deadline_of(metadata: &MetadataMap) -> Instant {
    let asked = metadata.get("grpc-timeout").and_then(|value| parse_timeout(value.to_str().ok()?));
    let limit = asked.unwrap_or(Duration::from_millis(CALL_DEADLINE_MS_DEFAULT));
    let limit = limit.min(Duration::from_millis(CALL_DEADLINE_MS_MAX));
    Instant::now() + limit - ANSWER_TIME.min(limit / 4)
}

/// When a call gives up waiting for the newest state, so that it still can answer with what this node has.
pub(crate) fn refresh_deadline_of(metadata: &MetadataMap) -> Instant {
    let now = Instant::now();
    now + deadline_of(metadata).saturating_duration_since(now) / 2
}

/// *Source*: gRPC over HTTP/2, "Timeout": up to eight digits and a unit.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = digits.parse().ok().filter(|_| digits.len() <= 8)?;
    Some(match unit {
        "H" => Duration::from_secs(count * 3_600),
        "M" => Duration::from_secs(count * 60),
        "S" => Duration::from_secs(count),
        "m" => Duration::from_millis(count),
        "u" => Duration::from_micros(count),
        "n" => Duration::from_nanos(count),
        _ => return None,
    })
}

/// Checks one key: bytes from a peer are parsed and refused, never trusted.
pub(crate) fn key_of(bytes: &[u8]) -> Result<BlockKey, Status> {
    BlockKey::try_from(bytes).map_err(|e| malformed(e.to_string()))
}

/// Checks the keys of a call that names at least so many.
pub(crate) fn keys_of(keys: &[impl AsRef<[u8]>], least: usize) -> Result<Vec<BlockKey>, Status> {
    let count = keys.len();
    if !(least..=CHAIN_BLOCKS_MAX).contains(&count) {
        return Err(malformed(format!(
            "a call names {least} to {CHAIN_BLOCKS_MAX} blocks, and this one names {count}; split the chain"
        )));
    }
    keys.iter().map(|key| key_of(key.as_ref())).collect()
}

/// The 16 bytes that a caller names a pin by.
pub(crate) fn pin_id_of(bytes: &[u8]) -> Result<[u8; 16], Status> {
    bytes.try_into().map_err(|_| malformed(format!("the id of a pin is 16 bytes, not {}", bytes.len())))
}

/// A request that can never succeed as it is.
pub(crate) fn malformed(detail: impl Into<String>) -> Status {
    refused(RefusalReason::Malformed, detail)
}

/// What a failure looks like to the caller.
pub(crate) fn status_of(error: &CommandError) -> Status {
    let detail = error.to_string();
    match error {
        CommandError::Refused { reason, .. } => refused(*reason, detail),
        CommandError::NothingHeld => Status::failed_precondition(detail),
        CommandError::TooManyWaiters => refused(RefusalReason::Limit, detail),
        CommandError::Unsettled => Status::aborted(detail),
        CommandError::Uncommitted(ProposeError::NoLeader { .. }) => Status::unavailable(format!(
            "{detail}: it has no majority at the moment; nothing was changed, try again later"
        )),
        CommandError::Uncommitted(ProposeError::Unknown { .. }) => {
            Status::unknown(format!("{detail}; repeat the same request, which is harmless"))
        }
        // What a disk or a log said of this node's files is for its own log.
        CommandError::Uncommitted(ProposeError::Stopped { group, .. }) => Status::unavailable(format!(
            "group {group} has stopped on this node; ask another node, and see this one's log"
        )),
        CommandError::Uncommitted(ProposeError::Refused { .. }) => Status::failed_precondition(detail),
    }
}

pub(crate) fn refused(reason: RefusalReason, detail: impl Into<String>) -> Status {
    let code = match reason {
        RefusalReason::Malformed => Code::InvalidArgument,
        RefusalReason::UnknownNamespace | RefusalReason::UnknownPin | RefusalReason::UnknownNode => {
            Code::NotFound
        }
        RefusalReason::Quota | RefusalReason::Limit | RefusalReason::ClusterFull => Code::ResourceExhausted,
        _ => Code::FailedPrecondition,
    };
    let mut status = Status::new(code, detail);
    if let Ok(name) = reason.as_str_name().parse() {
        status.metadata_mut().insert(REFUSAL_HEADER, name);
    }
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_is_answered_before_the_time_that_it_names_has_passed() {
        for (text, time) in [
            ("2S", Some(Duration::from_secs(2))),
            ("1500m", Some(Duration::from_millis(1_500))),
            ("99999999u", Some(Duration::from_micros(99_999_999))),
            ("3M", Some(Duration::from_secs(180))),
            ("", None),
            ("S", None),
            ("5", None),
            ("-5m", None),
            ("123456789m", None),
            ("5\u{e4}", None),
        ] {
            assert_eq!(parse_timeout(text), time, "{text:?}");
        }
        let with = |text: &'static str| {
            let mut metadata = MetadataMap::new();
            metadata.insert("grpc-timeout", text.parse().expect("ascii"));
            let now = Instant::now();
            deadline_of(&metadata).saturating_duration_since(now)
        };
        assert!(with("1S") < Duration::from_secs(1) && with("1S") > Duration::from_millis(900));
        assert!(with("4m") < Duration::from_millis(4) && with("99999999H") < Duration::from_secs(601));
    }

    #[test]
    fn a_chain_too_long_or_a_key_cut_short_is_refused() {
        let keys = vec![vec![1_u8; 32]; CHAIN_BLOCKS_MAX + 1];
        let refused = keys_of(&keys, 1).expect_err("one too many");
        assert_eq!(refused.code(), Code::InvalidArgument);
        assert!(refused.message().contains("4097; split the chain"), "{}", refused.message());
        assert_eq!(keys_of(&keys[1..], 1).map(|keys| keys.len()).ok(), Some(CHAIN_BLOCKS_MAX));
        assert_eq!(keys_of(&keys[..0], 0).map(|keys| keys.len()).ok(), Some(0));
        for bad in [&keys[..0], &[vec![1_u8; 31]]] {
            assert_eq!(keys_of(bad, 1).map_err(|status| status.code()), Err(Code::InvalidArgument));
        }
        assert!(pin_id_of(&[1; 16]).is_ok() && pin_id_of(&[1; 17]).is_err());
    }

    #[test]
    fn a_refusal_names_its_reason_to_programs_and_people() {
        let error = CommandError::Refused { reason: RefusalReason::Quota, detail: "too much".into() };
        let status = status_of(&error);
        assert_eq!((status.code(), status.message()), (Code::ResourceExhausted, "too much"));
        let reason = status.metadata().get(REFUSAL_HEADER).and_then(|name| name.to_str().ok());
        assert_eq!(reason.and_then(RefusalReason::from_str_name), Some(RefusalReason::Quota));
    }
}
