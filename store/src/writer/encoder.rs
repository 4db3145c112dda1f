//! The form in which a block goes to NVMe: as it lies in the arena, or encoded in a slot of its own.

use std::sync::Arc;

use hearth_proto::BlockId;
use hearth_proto::limits::CODEC_BLOCK_SAVING_DIVISOR;

use crate::arena::HostBlock;
use crate::codec::{Codec, Coder, LayoutClass, Outcome, Plan, record_sectors, stored_len_max};
use crate::core::Core;
use crate::nvme::Nvme;
use crate::slab::{FOOTER_BYTES, Footer};
use crate::sync::lock;

/// Encodes blocks, one at a time.
pub(super) struct Encoder {
    coder: Coder,
    scratch: Vec<u8>,
}

impl Encoder {
    pub(super) fn new() -> Self {
        Self { coder: Coder::new(), scratch: Vec::new() }
    }

    /// The encoded record of a block; `None` if the block is to be written as it is, because that is
    /// what pays for its layout, or because the arena has no room for a second form now.
    pub(super) fn record(
        &mut self,
        core: &Core,
        nvme: &Nvme,
        id: &BlockId,
        block: &HostBlock,
    ) -> Option<Arc<HostBlock>> {
        let payload = block.slot().payload();
        let layout = LayoutClass { namespace: id.namespace, payload_len: block.payload_len().get() };
        let plan = lock(&nvme.sampler).plan(layout);
        let mut outcome = self.carry_out(plan, payload);
        let record = self.seal(core, block, &outcome);
        outcome = match &record {
            // What it takes on the disk, rounding included.
            Some(record) => Outcome { stored_len: record.slot().record_len() - FOOTER_BYTES, ..outcome },
            None => Outcome { codec: Codec::Raw, stored_len: payload.len(), ..outcome },
        };
        lock(&nvme.sampler).observe(layout, &outcome);
        record
    }

    fn carry_out(&mut self, plan: Plan, payload: &[u8]) -> Outcome {
        let room = stored_len_max(payload.len()).filter(|_| plan != Plan::Raw).unwrap_or(0);
        if self.scratch.len() < room {
            self.scratch.resize(room, 0);
        }
        plan.carry_out(&mut self.coder, payload, &mut self.scratch)
    }

    fn seal(&self, core: &Core, block: &HostBlock, outcome: &Outcome) -> Option<Arc<HostBlock>> {
        if outcome.codec == Codec::Raw {
            return None;
        }
        let payload_len = block.payload_len().get();
        let footer = Footer::decode(block.slot().record().last_chunk()?).ok()?;
        // A slot of the same size: others would take whole extents of the arena for a short while.
        let mut slot = core.try_reserve(payload_len as usize)?;
        slot.narrow(encoded_class(payload_len as usize, outcome.stored_len));
        let stored_len = u32::try_from(outcome.stored_len).ok()?;
        slot.store(
            &self.scratch[..outcome.stored_len],
            &Footer { codec: outcome.codec, stored_len, ..footer },
        );
        Some(Arc::new(HostBlock::new(slot.into_slot(), block.generation(), block.crc32())))
    }
}

/// Sectors of an encoded record. Lengths vary from block to block, and an extent serves one size: they are
/// rounded so that a layout has few sizes.
fn encoded_class(payload_len: usize, stored_len: usize) -> u32 {
    let raw = record_sectors(payload_len);
    let step = (raw / CODEC_BLOCK_SAVING_DIVISOR).max(1);
    let sectors = record_sectors(stored_len).next_multiple_of(step).min(raw);
    u32::try_from(sectors).expect("payloads are bounded by BLOCK_BYTES_MAX")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn encoded_records_of_a_layout_have_few_sizes() {
        let sizes: std::collections::BTreeSet<_> =
            (1..1 << 20).step_by(997).map(|stored_len| encoded_class(1 << 20, stored_len)).collect();
        assert!(sizes.len() <= CODEC_BLOCK_SAVING_DIVISOR + 2, "{sizes:?}");
        assert!(sizes.iter().all(|sectors| *sectors <= 257));
        assert_eq!(encoded_class(8_000, 100), 1);
    }
}
