//! Names of the records that a state consists of, as bytes that sort like the names.

use hearth_proto::{BlockId, BlockKey, NamespaceId, NodeId};

const CLUSTER: u8 = 1;
const NODE: u8 = 2;
const HOLDER: u8 = 3;
const BLOCKS: u8 = 5;
const NAMESPACE: u8 = 16;
const PIN: u8 = 17;
const CLOCK: u8 = 18;
const CLAIM: u8 = 19;
const RETENTION: u8 = 20;

/// What a caller names a pin by.
pub(crate) type PinId = [u8; 16];

/// Names one record of a state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum RecordKey {
    /// Control: the identity of the cluster.
    Cluster,
    /// Control: one node.
    Node(NodeId),
    /// Directory: how far the reports of the node with this number were applied.
    Holder(u16),
    /// Directory: many blocks with their replicas.
    Blocks,
    /// Control: what a namespace may use.
    Namespace(NamespaceId),
    /// Control: one pin of a namespace.
    Pin(NamespaceId, PinId),
    /// Directory: the replicated time, and the last number given out.
    Clock,
    /// Directory: who may compute a missing block.
    Claim(BlockId),
    /// Directory: how a block is kept, whatever its puts said.
    Retention(BlockId),
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
            Self::Holder(number) => {
                out.push(HOLDER);
                out.extend_from_slice(&number.to_be_bytes());
            }
            Self::Blocks => out.push(BLOCKS),
            Self::Namespace(id) => {
                out.push(NAMESPACE);
                out.extend_from_slice(&id.0.to_be_bytes());
            }
            Self::Pin(namespace, pin) => {
                out.push(PIN);
                out.extend_from_slice(&namespace.0.to_be_bytes());
                out.extend_from_slice(pin);
            }
            Self::Clock => out.push(CLOCK),
            Self::Claim(id) => encode_block(CLAIM, id, out),
            Self::Retention(id) => encode_block(RETENTION, id, out),
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
            HOLDER => {
                let number =
                    rest.try_into().map_err(|_| RecordError("a holder's number of the wrong length"))?;
                Ok(Self::Holder(u16::from_be_bytes(number)))
            }
            BLOCKS if rest.is_empty() => Ok(Self::Blocks),
            NAMESPACE => match decode_namespace(rest)? {
                (namespace, []) => Ok(Self::Namespace(namespace)),
                _ => Err(RecordError("a namespace id of the wrong length")),
            },
            PIN => {
                let (namespace, pin) = decode_namespace(rest)?;
                let pin = pin.try_into().map_err(|_| RecordError("a pin id of the wrong length"))?;
                Ok(Self::Pin(namespace, pin))
            }
            CLOCK if rest.is_empty() => Ok(Self::Clock),
            CLAIM => decode_block(rest).map(Self::Claim),
            RETENTION => decode_block(rest).map(Self::Retention),
            _ => Err(RecordError("a key of an unknown kind")),
        }
    }
}

fn encode_block(kind: u8, id: &BlockId, out: &mut Vec<u8>) {
    out.push(kind);
    out.extend_from_slice(&id.namespace.0.to_be_bytes());
    out.extend_from_slice(&id.key.0);
}

fn decode_namespace(bytes: &[u8]) -> Result<(NamespaceId, &[u8]), RecordError> {
    let (namespace, rest) = bytes.split_first_chunk::<4>().ok_or(RecordError("a key without a namespace"))?;
    Ok((NamespaceId(u32::from_be_bytes(*namespace)), rest))
}

fn decode_block(bytes: &[u8]) -> Result<BlockId, RecordError> {
    let (namespace, key) = decode_namespace(bytes)?;
    let key = key.try_into().map_err(|_| RecordError("a block key of the wrong length"))?;
    Ok(BlockId { namespace, key: BlockKey(key) })
}
