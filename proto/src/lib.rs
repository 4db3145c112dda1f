//! The ground floor of Hearth: identifiers, limits, error kinds, the protobuf services and the
//! data-plane frames. Everything here is pure: no clock, no randomness, no files, no sockets.

pub mod block;
mod directory_groups;
mod error;
mod fingerprint;
pub mod frame;
pub mod hex;
mod ids;
pub mod layout;
pub mod limits;
mod prefetch;
mod retention;
pub mod size;
mod urgency;

pub use block::{BlockDelta, BlockId, BlockKey, PrefixHash};
pub use directory_groups::{DirectoryGroups, DirectoryGroupsError};
pub use error::{Classified, ErrorKind};
pub use fingerprint::Fingerprint;
pub use ids::{ClusterId, Generation, GroupId, IdError, Incarnation, LogIndex, NamespaceId, NodeId};
pub use layout::{Layout, LayoutId};
pub use prefetch::prefetch;
pub use retention::{AckLevel, Priority, Retention, Tier};
pub use urgency::Urgency;

/// The protobuf messages and tonic services, package `hearth.v1`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
pub mod v1 {
    tonic::include_proto!("hearth.v1");
}
