//! Which codec a layout gets.
//!
//! All blocks of a layout are alike, so the sampler tries the codecs on the first blocks of a layout and
//! on few of the later ones, and gives the layout what the latest trials say. The store does not know
//! layouts; namespace and payload length stand for one. It decides; others encode
//! ([`Plan::carry_out`]), without holding whatever lock the sampler is behind.

use std::collections::BTreeMap;

use hearth_proto::NamespaceId;
use hearth_proto::limits::{
    CODEC_LAYOUTS_MAX, CODEC_PLANES_PERMILLE_LEAD, CODEC_SAVING_PERMILLE_MARGIN, CODEC_SAVING_PERMILLE_MIN,
    CODEC_TRIAL_EVERY, CODEC_TRIALS_FIRST, SECTOR_BYTES,
};

use super::{Codec, Outcome, Plan, Trial, record_sectors, stored_len_max};

/// How much work compression may cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Compression {
    /// None: every block is stored raw.
    Off,
    /// Plain lz4, which costs next to nothing where it does not help: it finds empty and repeated parts.
    #[default]
    Fast,
    /// Byte planes too: a seventh of bf16 data for nearly two CPU seconds per GB written.
    Dense,
}

/// What stands for a layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct LayoutClass {
    pub(crate) namespace: NamespaceId,
    pub(crate) payload_len: u32,
}

/// What became of the blocks of one layout since the store was opened.
///
/// *Units*: bytes are those of records on NVMe: footers and padding are in them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayoutCompression {
    /// The tenant.
    pub namespace: NamespaceId,
    /// Length of each payload.
    pub payload_len: u32,
    /// What the layout's next block is encoded with.
    pub codec: Codec,
    /// Blocks on which the codecs were tried.
    pub sampled: u64,
    /// Blocks written.
    pub blocks: u64,
    /// Blocks of those that were not stored raw.
    pub blocks_encoded: u64,
    /// What all of them would take if they were stored raw.
    pub raw_bytes: u64,
    /// What they take.
    pub stored_bytes: u64,
}

/// Decides, for each layout, from trials.
pub(crate) struct Sampler {
    compression: Compression,
    layouts: BTreeMap<LayoutClass, Layout>,
}

impl Sampler {
    pub(crate) fn new(compression: Compression) -> Self {
        Self { compression, layouts: BTreeMap::new() }
    }

    /// Says what to do with the next block of a layout.
    pub(crate) fn plan(&mut self, class: LayoutClass) -> Plan {
        let hopeless = stored_len_max(class.payload_len as usize).is_none();
        if self.compression == Compression::Off || hopeless {
            return Plan::Raw;
        }
        if !self.has_room() && !self.layouts.contains_key(&class) {
            return Plan::Raw;
        }
        let layout = self.layouts.entry(class).or_default();
        layout.planned += 1;
        if layout.is_trial_due(layout.planned) {
            return Plan::Trial(self.compression);
        }
        match layout.codec.unwrap_or_default() {
            Codec::Raw => Plan::Raw,
            codec => Plan::Encode(codec),
        }
    }

    fn has_room(&self) -> bool {
        self.layouts.len() < CODEC_LAYOUTS_MAX
    }

    /// Whether [`Sampler::plan`] would have the next block of a layout stored raw.
    pub(crate) fn is_next_raw(&self, class: LayoutClass) -> bool {
        if self.compression == Compression::Off {
            return true;
        }
        match self.layouts.get(&class) {
            Some(layout) => {
                !layout.is_trial_due(layout.planned + 1) && layout.codec.unwrap_or_default() == Codec::Raw
            }
            None => !self.has_room() || stored_len_max(class.payload_len as usize).is_none(),
        }
    }

    /// Notes that a block of a layout, the next of which is stored raw, was stored so.
    pub(crate) fn count_raw(&mut self, class: LayoutClass) {
        if self.compression == Compression::Off {
            return;
        }
        self.plan(class);
        self.observe(
            class,
            &Outcome { codec: Codec::Raw, stored_len: class.payload_len as usize, trial: None },
        );
    }

    /// Takes in what became of a block. The blocks of layouts that are not tracked are not counted.
    pub(crate) fn observe(&mut self, class: LayoutClass, outcome: &Outcome) {
        let Some(layout) = self.layouts.get_mut(&class) else { return };
        let payload_len = class.payload_len as usize;
        layout.blocks += 1;
        layout.blocks_encoded += u64::from(outcome.codec != Codec::Raw);
        layout.stored_sectors += record_sectors(outcome.stored_len) as u64;
        if let Some(trial) = &outcome.trial {
            layout.sampled += 1;
            layout.window.add(trial, payload_len);
            if layout.sampled >= u64::from(CODEC_TRIALS_FIRST) {
                let records = u64::from(layout.window.trials) * record_sectors(payload_len) as u64;
                let (lz4, planes) = (layout.window.lz4_saved, layout.window.planes_saved);
                layout.codec = Some(choose(layout.codec, records, lz4, planes));
            }
        }
    }

    /// What became of the blocks of each layout, in the order of namespaces and lengths.
    pub(crate) fn report(&self) -> Vec<LayoutCompression> {
        let bytes = |sectors: u64| sectors * SECTOR_BYTES as u64;
        let line = |(class, layout): (&LayoutClass, &Layout)| LayoutCompression {
            namespace: class.namespace,
            payload_len: class.payload_len,
            codec: layout.codec.unwrap_or_default(),
            sampled: layout.sampled,
            blocks: layout.blocks,
            blocks_encoded: layout.blocks_encoded,
            raw_bytes: bytes(layout.blocks * record_sectors(class.payload_len as usize) as u64),
            stored_bytes: bytes(layout.stored_sectors),
        };
        self.layouts.iter().map(line).collect()
    }
}

#[derive(Default)]
struct Layout {
    /// `None` until enough trials are in.
    codec: Option<Codec>,
    window: Window,
    planned: u64,
    sampled: u64,
    blocks: u64,
    blocks_encoded: u64,
    stored_sectors: u64,
}

impl Layout {
    /// Whether the codecs are tried on the block of this number.
    fn is_trial_due(&self, number: u64) -> bool {
        number <= u64::from(CODEC_TRIALS_FIRST) || number.is_multiple_of(CODEC_TRIAL_EVERY)
    }
}

/// Sums over the latest trials.
#[derive(Default)]
struct Window {
    trials: u32,
    lz4_saved: u64,
    planes_saved: u64,
}

impl Window {
    /// Adds a trial. A full window is halved first, so that old trials fade.
    fn add(&mut self, trial: &Trial, payload_len: usize) {
        if self.trials >= 2 * CODEC_TRIALS_FIRST {
            self.trials /= 2;
            self.lz4_saved /= 2;
            self.planes_saved /= 2;
        }
        let (lz4, planes) = trial.saved_sectors(payload_len);
        self.trials += 1;
        self.lz4_saved += lz4;
        self.planes_saved += planes;
    }
}

/// The codec for records of so many sectors, of which the codecs save so many. Each bar is higher for a
/// codec that is not `current`, so that what lies near a bar does not go back and forth.
pub(super) fn choose(current: Option<Codec>, records: u64, lz4_saved: u64, planes_saved: u64) -> Codec {
    let permille = |saved: u64| saved * 1_000 / records.max(1);
    let (lz4, planes) = (permille(lz4_saved), permille(planes_saved));
    let margin = |codec| match current {
        Some(other) if other != codec => CODEC_SAVING_PERMILLE_MARGIN,
        _ => 0,
    };
    let lz4_pays = lz4 >= CODEC_SAVING_PERMILLE_MIN + margin(Codec::Lz4);
    let planes_margin = margin(Codec::PlanesLz4);
    let planes_pay = planes >= CODEC_SAVING_PERMILLE_MIN + planes_margin;
    let planes_lead = planes >= lz4 + CODEC_PLANES_PERMILLE_LEAD + planes_margin;
    match (lz4_pays, planes_pay) {
        (true, true) if planes_lead => Codec::PlanesLz4,
        (true, _) => Codec::Lz4,
        (false, true) => Codec::PlanesLz4,
        (false, false) => Codec::Raw,
    }
}
