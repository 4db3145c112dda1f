//! Names of the records that a state consists of, as bytes that sort like the names.

use hearth_proto::NodeId;

const CLUSTER: u8 = 1;
const NODE: u8 = 2;
const HOLDER: u8 = 3;
// 4 was a block of its own.
const BLOCKS: u8 = 5;

/// Names one record of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum RecordKey {
    /// Control: the identity of the cluster.
    Cluster,
    /// Control: one node.
    Node(NodeId),
    /// Directory: how far a node's reports were applied.
    Holder(NodeId),
    /// Directory: many blocks with their replicas.
    Blocks,
}

/// A record on disk or in a snapshot that cannot be what was written.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a state record is damaged: {0}")]
pub(crate) struct RecordError(pub(crate) &'static str);

impl RecordKey {
    /// The key's bytes.
    pub(crate) fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(9);
        self.encode_to(&mut out);
        out
    }

    fn encode_to(&self, out: &mut Vec<u8>) {
        match self {
            Self::Cluster => out.push(CLUSTER),
            Self::Node(id) => {
                out.push(NODE);
                out.extend_from_slice(&id.0.to_be_bytes());
            }
            Self::Holder(id) => {
                out.push(HOLDER);
                out.extend_from_slice(&id.0.to_be_bytes());
            }
            Self::Blocks => out.push(BLOCKS),
        }
    }

    pub(crate) fn decode(bytes: &[u8]) -> Result<Self, RecordError> {
        let (&kind, rest) = bytes.split_first().ok_or(RecordError("an empty key"))?;
        let node = || {
            let id = rest.try_into().map_err(|_| RecordError("a node id of the wrong length"))?;
            Ok(NodeId(u64::from_be_bytes(id)))
        };
        match kind {
            CLUSTER if rest.is_empty() => Ok(Self::Cluster),
            NODE => node().map(Self::Node),
            HOLDER => node().map(Self::Holder),
            BLOCKS if rest.is_empty() => Ok(Self::Blocks),
            _ => Err(RecordError("a key of an unknown kind")),
        }
    }
}
