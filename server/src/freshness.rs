//! How new an answer must be, as a request says it, and what is said when it cannot be.

use hearth_cluster::{Freshness, ReadError};
use hearth_proto::limits::DIRECTORY_GROUPS_MAX;
use hearth_proto::v1;
use tonic::Status;

/// What a request asks for.
///
/// # Errors
/// `InvalidArgument` if it names more groups than a cluster has, or asks in a way of a later build.
pub(crate) fn freshness_of(message: Option<v1::Freshness>) -> Result<Freshness, Status> {
    let freshness = Freshness::from_wire(message).ok_or_else(|| {
        Status::invalid_argument("this build does not know how new the answer is to be; ask a newer node")
    })?;
    match &freshness {
        Freshness::AtLeast(indexes) if indexes.len() > DIRECTORY_GROUPS_MAX as usize + 1 => {
            Err(Status::invalid_argument("a read names each group once"))
        }
        _ => Ok(freshness),
    }
}

/// `Aborted` says: this answer is not to be had now, and the node is well.
pub(crate) fn status_of(error: &ReadError) -> Status {
    match error {
        ReadError::UnknownGroup { .. } => Status::invalid_argument(error.to_string()),
        _ => Status::aborted(format!("{error}; ask again, or for an answer of any age")),
    }
}
