//! How new an answer must be and by when, as a request says it, and what is said when it cannot be.

use std::time::{Duration, Instant};

use hearth_cluster::{Freshness, ReadError};
use hearth_proto::limits::{CALL_DEADLINE_MS_DEFAULT, CALL_DEADLINE_MS_MAX, DIRECTORY_GROUPS_MAX};
use hearth_proto::v1;
use tonic::Status;
use tonic::metadata::MetadataMap;

/// What a request asks for.
///
/// # Errors
/// `InvalidArgument` if it names more groups than a cluster has.
pub(crate) fn freshness_of(message: Option<v1::Freshness>) -> Result<Freshness, Status> {
    let freshness = Freshness::from_wire(message);
    match &freshness {
        Freshness::AtLeast(indexes) if indexes.len() > DIRECTORY_GROUPS_MAX as usize + 1 => {
            Err(Status::invalid_argument("a read names each group once"))
        }
        _ => Ok(freshness),
    }
}

/// When the answer must be on its way: a tenth before the caller's deadline, so that an error that says why
/// arrives in time as well.
pub(crate) fn deadline_of(metadata: &MetadataMap) -> Instant {
    let given = metadata.get("grpc-timeout").and_then(|value| value.to_str().ok()).and_then(parse_timeout);
    let default = Duration::from_millis(CALL_DEADLINE_MS_DEFAULT);
    let limit = given.unwrap_or(default).min(Duration::from_millis(CALL_DEADLINE_MS_MAX));
    Instant::now() + limit * 9 / 10
}

/// Up to eight digits and a unit, as gRPC over HTTP/2 has it.
fn parse_timeout(text: &str) -> Option<Duration> {
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    let count: u64 = (1..=8).contains(&digits.len()).then(|| digits.parse().ok())??;
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

/// `Aborted` says: this answer is not to be had now, and the node is well.
pub(crate) fn status_of(error: &ReadError) -> Status {
    match error {
        ReadError::UnknownGroup { .. } => Status::invalid_argument(error.to_string()),
        _ => Status::aborted(format!("{error}; ask again, or for an answer of any age")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_limits_are_read_as_grpc_writes_them() {
        assert_eq!(parse_timeout("250m"), Some(Duration::from_millis(250)));
        assert_eq!(parse_timeout("2S"), Some(Duration::from_secs(2)));
        assert_eq!(parse_timeout("99999999H"), Some(Duration::from_secs(99_999_999 * 3_600)));
        for bad in ["", "m", "5", "123456789m", "-1S", "5x", "٥m"] {
            assert_eq!(parse_timeout(bad), None, "{bad:?}");
        }
    }
}
