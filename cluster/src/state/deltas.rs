//! Packs and unpacks the deltas of a block report.
//!
//! Two forms, which `command.proto` specifies: single deltas with whole keys, and runs of fingerprints that have
//! everything else in common.

use bytes::Bytes;
use hearth_proto::{BlockDelta, BlockId, BlockKey, Fingerprint, NamespaceId, Tier, v1};

/// Bytes of one delta that is packed alone.
pub(crate) const DELTA_BYTES: usize = 42;
/// Bytes before the keys of a run.
const RUN_BYTES: usize = 14;
const KEY_BYTES: usize = 32;

/// A change of what a node holds, as the directory takes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NamedDelta {
    pub(crate) name: Fingerprint,
    pub(crate) tier: Tier,
    pub(crate) added: bool,
    /// In bytes.
    pub(crate) payload_len: u32,
}

/// Packs deltas one by one, in the order given.
pub(crate) fn pack_deltas(deltas: impl ExactSizeIterator<Item = BlockDelta>) -> Bytes {
    let mut out = Vec::with_capacity(deltas.len() * DELTA_BYTES);
    for delta in deltas {
        let mut record = [0; DELTA_BYTES];
        record[..4].copy_from_slice(&delta.id.namespace.0.to_le_bytes());
        record[4..36].copy_from_slice(&delta.id.key.0);
        record[36] = delta.tier as u8;
        record[37] = u8::from(delta.added);
        record[38..].copy_from_slice(&delta.payload_len.to_le_bytes());
        out.extend_from_slice(&record);
    }
    out.into()
}

/// Packs deltas as runs, in the order given.
pub(crate) fn pack_runs(deltas: impl ExactSizeIterator<Item = BlockDelta>) -> Bytes {
    // Few runs are the rule; where each is one delta long, this grows once.
    let mut out: Vec<u8> = Vec::with_capacity(deltas.len() * Fingerprint::BYTES + 8 * RUN_BYTES);
    let mut run: Option<(Shared, usize)> = None;
    for delta in deltas {
        let shared = Shared::of(&delta);
        match &run {
            Some((current, _)) if *current == shared => {}
            _ => {
                close(&mut out, run);
                run = Some((shared, out.len()));
                out.extend_from_slice(&shared.encode());
            }
        }
        out.extend_from_slice(&Fingerprint::of(&delta.id).to_bytes());
    }
    close(&mut out, run);
    out.into()
}

/// Writes the number of blocks into the head of the run that ends here.
fn close(out: &mut [u8], run: Option<(Shared, usize)>) {
    if let Some((_, from)) = run {
        let count = (out.len() - from - RUN_BYTES) / Fingerprint::BYTES;
        out[from + 10..from + RUN_BYTES].copy_from_slice(&(count as u32).to_le_bytes());
    }
}

/// The deltas of a report in their order, without copying the whole; `None` if they are malformed.
pub(crate) fn deltas_of(report: &v1::BlockReport) -> Option<impl Iterator<Item = NamedDelta>> {
    let (records, rest) = report.deltas.as_chunks::<DELTA_BYTES>();
    if !rest.is_empty() || records.iter().any(|record| unpack(record).is_none()) {
        return None;
    }
    if Runs(&report.runs).any(|run| run.is_none()) {
        return None;
    }
    let in_runs = Runs(&report.runs).flatten().flat_map(|(shared, names)| {
        names.iter().map(move |name| shared.delta(Fingerprint::from_bytes(shared.namespace, name)))
    });
    Some(records.iter().filter_map(unpack).chain(in_runs))
}

fn unpack(record: &[u8; DELTA_BYTES]) -> Option<NamedDelta> {
    let (namespace, rest) = record.split_first_chunk::<4>()?;
    let (key, rest) = rest.split_first_chunk::<KEY_BYTES>()?;
    let (tail, _) = rest.split_first_chunk::<6>()?;
    let shared = Shared::decode(*namespace, *tail)?;
    let id = BlockId { namespace: shared.namespace, key: BlockKey(*key) };
    Some(shared.delta(Fingerprint::of(&id)))
}

/// What the deltas of a run have in common.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Shared {
    namespace: NamespaceId,
    tier: Tier,
    added: bool,
    payload_len: u32,
}

impl Shared {
    fn of(delta: &BlockDelta) -> Self {
        let BlockDelta { id, tier, added, payload_len } = *delta;
        Self { namespace: id.namespace, tier, added, payload_len }
    }

    /// The head of a run that is still empty.
    fn encode(self) -> [u8; RUN_BYTES] {
        let mut head = [0; RUN_BYTES];
        head[..4].copy_from_slice(&self.namespace.0.to_le_bytes());
        head[4] = self.tier as u8;
        head[5] = u8::from(self.added);
        head[6..10].copy_from_slice(&self.payload_len.to_le_bytes());
        head
    }

    /// Namespace; tier, whether it was added, and the payload's length.
    fn decode(namespace: [u8; 4], [tier, added, length @ ..]: [u8; 6]) -> Option<Self> {
        let added = match added {
            0 => false,
            1 => true,
            _ => return None,
        };
        Some(Self {
            namespace: NamespaceId(u32::from_le_bytes(namespace)),
            tier: Tier::from_wire(tier)?,
            added,
            payload_len: u32::from_le_bytes(length),
        })
    }

    fn delta(self, name: Fingerprint) -> NamedDelta {
        NamedDelta { name, tier: self.tier, added: self.added, payload_len: self.payload_len }
    }
}

/// What the deltas of a run have in common, and their fingerprints.
type Run<'a> = (Shared, &'a [[u8; Fingerprint::BYTES]]);

/// The runs that are packed here; the last item is `None` if the bytes are malformed.
struct Runs<'a>(&'a [u8]);

impl<'a> Runs<'a> {
    fn split(bytes: &'a [u8]) -> Option<(Run<'a>, &'a [u8])> {
        let (namespace, rest) = bytes.split_first_chunk::<4>()?;
        let (tail, rest) = rest.split_first_chunk::<6>()?;
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let count = u32::from_le_bytes(*count) as usize;
        let (names, rest) = rest.split_at_checked(count.checked_mul(Fingerprint::BYTES)?)?;
        // An empty run says nothing, and nobody packs it.
        let shared = Shared::decode(*namespace, *tail).filter(|_| count > 0)?;
        Some(((shared, names.as_chunks().0), rest))
    }
}

impl<'a> Iterator for Runs<'a> {
    type Item = Option<Run<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let split = Self::split(self.0);
        self.0 = split.map_or(&[], |(_, rest)| rest);
        Some(split.map(|(run, _)| run))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn delta() -> impl Strategy<Value = BlockDelta> {
        (any::<u8>(), 0..2u32, 0..4usize, any::<bool>(), 1..3u32).prop_map(
            |(key, namespace, tier, added, payload_len)| BlockDelta {
                id: BlockId { namespace: NamespaceId(namespace), key: BlockKey([key; KEY_BYTES]) },
                tier: Tier::ALL[tier],
                added,
                payload_len,
            },
        )
    }

    fn named(delta: &BlockDelta) -> NamedDelta {
        let BlockDelta { id, tier, added, payload_len } = *delta;
        NamedDelta { name: Fingerprint::of(&id), tier, added, payload_len }
    }

    fn unpacked(deltas: Bytes, runs: Bytes) -> Option<Vec<NamedDelta>> {
        deltas_of(&v1::BlockReport { deltas, runs, ..Default::default() }).map(Iterator::collect)
    }

    proptest! {
        #[test]
        fn what_is_packed_is_unpacked_in_its_order(
            alone in prop::collection::vec(delta(), 0..20),
            in_runs in prop::collection::vec((delta(), 1..6usize), 0..12),
        ) {
            let in_runs: Vec<BlockDelta> =
                in_runs.into_iter().flat_map(|(delta, count)| std::iter::repeat_n(delta, count)).collect();
            let packed = (pack_deltas(alone.iter().copied()), pack_runs(in_runs.iter().copied()));
            prop_assert_eq!(unpacked(packed.0, packed.1), Some(alone.iter().chain(&in_runs).map(named).collect()));
        }

        #[test]
        fn bytes_of_whatever_kind_are_refused_or_read(bytes in prop::collection::vec(0..3u8, 0..200)) {
            let bytes = Bytes::from(bytes);
            if let Some(deltas) = unpacked(Bytes::new(), bytes.clone()) {
                prop_assert!(deltas.len() * Fingerprint::BYTES < bytes.len().max(1));
            }
        }
    }

    #[test]
    fn malformed_runs_are_refused() {
        let id = BlockId { namespace: NamespaceId(7), key: BlockKey([1; KEY_BYTES]) };
        let delta = BlockDelta { id, tier: Tier::Nvme, added: true, payload_len: 9 };
        let good = pack_runs([delta, delta].into_iter());
        assert_eq!(good.len(), RUN_BYTES + 2 * Fingerprint::BYTES);
        assert_eq!(good[..RUN_BYTES], [7, 0, 0, 0, 3, 1, 9, 0, 0, 0, 2, 0, 0, 0]);
        let flip = |at: usize, value: u8| {
            let mut bad = good.to_vec();
            bad[at] = value;
            bad
        };
        let bad = [
            good[1..].to_vec(),
            good[..good.len() - 1].to_vec(),
            [&good[..], &[0]].concat(),
            flip(4, 0),
            flip(4, 5),
            flip(5, 2),
            flip(10, 0),
            flip(10, 3),
            flip(13, 0xff),
        ];
        for bytes in bad {
            assert_eq!(unpacked(Bytes::new(), bytes.clone().into()), None, "{bytes:?}");
        }
    }
}
