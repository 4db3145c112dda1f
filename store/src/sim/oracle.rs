//! What a store may say and do, checked against everything that was asked of it in all its lives.
//!
//! The oracle knows no part of the store: it sees calls and answers, deltas, the index on disk and the
//! medium. Where threads could have seen either of two orders it accepts both.

use std::collections::BTreeMap;

use hearth_proto::limits::DEADLINE_GRACE_MS;
use hearth_proto::{BlockDelta, Tier};

use super::block::{Block, NOW, Sound};
use super::content::{NAMES, Name, PAYLOAD_BYTES_MIN, Version, claim, is};
use super::history::{Broken, History, broken};
use super::medium::{Durable, Medium};
use super::rng::Rng;
use super::workload::{Answer, Call, Kind, payload_len};
use crate::arena::Lease;
use crate::delta::DeltaStatus;
use crate::error::{GetError, PutError, ReserveError};
use crate::store::{GetOutcome, MissReason, Store};

#[derive(Default)]
pub(super) struct Oracle {
    pub(super) step: u64,
    pub(super) history: History,
    blocks: Vec<Block>,
    deltas: Vec<BlockDelta>,
    /// Records that were judged damaged or stale in this life.
    judged: u64,
    pub(super) now_us: u64,
    pub(super) hits: u64,
    pub(super) misses: u64,
    pub(super) acknowledged: u64,
    pub(super) durable: u64,
}

impl Oracle {
    pub(super) fn new() -> Self {
        let absent = Block { absent_at: NOW, ..Block::default() };
        Self { step: 1, blocks: vec![absent; NAMES as usize], ..Self::default() }
    }

    /// A payload for a put: often one that the name had before.
    pub(super) fn choose_version(&mut self, name: Name, rng: &mut Rng) -> (Version, usize) {
        let known = match rng.below(10) {
            0..=3 => self.history.latest(name),
            4 | 5 => self.history.some_version(name, rng),
            _ => None,
        };
        match known {
            Some(known) => known,
            None => {
                let same = self.history.latest(name).filter(|_| rng.below(10) < 8);
                let len = same.map_or_else(|| payload_len(rng), |(_, len)| len);
                (self.history.new_version(), len)
            }
        }
    }

    /// Other bytes for a name, of the same length if it had any.
    pub(super) fn replace_version(&mut self, name: Name) -> (Version, usize) {
        let len = self.history.latest(name).map_or(PAYLOAD_BYTES_MIN, |(_, len)| len);
        (self.history.new_version(), len)
    }

    pub(super) fn began(&mut self, call: &Call) {
        match call.kind {
            Kind::Put { version, len, .. } => self.history.put_began(call.name, version, len),
            Kind::Remove => {
                let block = &mut self.blocks[call.name.0 as usize];
                block.removes += 1;
                block.pinned_until_us = 0;
            }
            _ => {}
        }
    }

    /// A call of which nobody will hear any more: it did what it did.
    pub(super) fn abandoned(&mut self, call: &Call) {
        match call.kind {
            Kind::Put { version, .. } => self.history.put_ended(call.name, version, self.step, true),
            Kind::Remove => self.blocks[call.name.0 as usize].removes -= 1,
            _ => {}
        }
    }

    /// Replays what the store reports of its holdings.
    pub(super) fn follow(&mut self, store: &Store, medium: &Medium) -> Result<(), Broken> {
        let mut deltas = std::mem::take(&mut self.deltas);
        deltas.clear();
        if store.take_deltas(usize::MAX, &mut deltas) == DeltaStatus::Overflowed {
            return broken("INV-PUBLISH", "the queue of deltas overflowed");
        }
        let mut lost_sound = Vec::new();
        let mut lost_others = false;
        let mut applied = Ok(());
        for delta in &deltas {
            match self.apply(delta) {
                Err(broken) => applied = Err(broken),
                Ok(Some(durable)) => lost_sound.push(durable),
                Ok(None) => lost_others |= delta.tier == Tier::Nvme && !delta.added,
            }
        }
        let published = deltas.iter().filter(|delta| delta.tier == Tier::Nvme && delta.added);
        let looked = published.map(|delta| self.look_at_published(Name::of(&delta.id), medium));
        applied = applied.and(looked.collect());
        self.deltas = deltas;
        applied?;
        if lost_others || !lost_sound.is_empty() {
            let stats = store.stats();
            let judged = stats.corrupt_blocks + stats.stale_blocks;
            let newly = judged > std::mem::replace(&mut self.judged, judged);
            let excused = lost_others || lost_sound.iter().any(|durable| medium.may_misread(durable));
            if judged > 0 || medium.errors() > 0 {
                // So does the pin of a damaged block; which one that was is not told.
                self.blocks.iter_mut().for_each(|block| block.pinned_until_us = 0);
            }
            if newly && !excused {
                return broken("INV-ACK", format!("what is whole was judged damaged: {lost_sound:?}"));
            }
        }
        let is_lost = |block: &Block| block.held_at != NOW && block.pinned_until_us > self.now_us;
        match self.blocks.iter().position(is_lost) {
            Some(name) => broken("INV-PIN", format!("name {name} is pinned and not held any more")),
            None => Ok(()),
        }
    }

    /// What the store reported in the last step.
    pub(super) fn deltas(&self) -> &[BlockDelta] {
        &self.deltas
    }

    /// Takes in one delta; says which sound replica it took away.
    fn apply(&mut self, delta: &BlockDelta) -> Result<Option<Durable>, Broken> {
        let name = Name::of(&delta.id);
        let block = &mut self.blocks[name.0 as usize];
        let held = if delta.tier == Tier::Host { &mut block.host } else { &mut block.nvme };
        if std::mem::replace(held, delta.added) == delta.added {
            return broken("INV-PUBLISH", format!("{name:?}: a delta repeats what is known: {delta:?}"));
        }
        block.settle(self.step);
        match delta.tier {
            Tier::Nvme => Ok(block.sound.take().map(|sound| sound.durable)),
            _ => Ok(None),
        }
    }

    /// What was published in this step and is still there survives every crash.
    fn look_at_published(&mut self, name: Name, medium: &Medium) -> Result<(), Broken> {
        let block = &mut self.blocks[name.0 as usize];
        if !block.nvme {
            return Ok(());
        }
        match medium.durable(name) {
            Ok(durable) => block.sound = durable.map(|durable| Sound { durable, since: self.step }),
            Err(why) => return broken("INV-PUBLISH", format!("{name:?} was published on NVMe: {why}")),
        }
        Ok(())
    }

    /// Compares what was reported bit by bit with what the store says it holds.
    pub(super) fn compare(&self, store: &Store) -> Result<(), Broken> {
        let mut held = vec![(false, false); self.blocks.len()];
        for delta in store.inventory() {
            let block = &mut held[Name::of(&delta.id).0 as usize];
            if delta.tier == Tier::Host { block.0 = true } else { block.1 = true }
        }
        for (number, (block, held)) in self.blocks.iter().zip(&held).enumerate() {
            if (block.host, block.nvme) != *held {
                let (host, nvme) = (block.host, block.nvme);
                let detail = format!("name {number}: the deltas say {host} {nvme}, the inventory {held:?}");
                return broken("INV-PUBLISH", detail);
            }
        }
        let stats = store.stats();
        let counted =
            |tier: fn(&Block) -> bool| self.blocks.iter().filter(|block| tier(block)).count() as u64;
        let expected = (counted(|block| block.host), counted(|block| block.nvme));
        if (stats.host_blocks, stats.nvme_blocks) != expected {
            return broken("INV-LEAK", format!("{expected:?} blocks are held, and {stats:?} counted"));
        }
        Ok(())
    }

    /// Checks an answer; gives the lease that came with it.
    pub(super) fn check(
        &mut self,
        call: &Call,
        answer: Answer,
        now_us: u64,
        medium: &Medium,
    ) -> Result<Option<Lease>, Broken> {
        let pause_us = match call.kind {
            Kind::Put { pause_us, .. } | Kind::Reserve { pause_us, .. } => pause_us,
            _ => 0,
        };
        let late_us = call.deadline_us + pause_us + DEADLINE_GRACE_MS * 1_000;
        let bounded = !matches!(call.kind, Kind::Flush | Kind::Remove | Kind::Close);
        if bounded && now_us > late_us {
            return broken("INV-DEADLINE", format!("{call:?} ended at {now_us} us"));
        }
        let early = now_us < call.deadline_us;
        match answer {
            Answer::Put(result) => self.check_put(call, result, early, medium).map(|()| None),
            Answer::NoSlot(error) => {
                if let Kind::Put { version, .. } = call.kind {
                    self.history.put_ended(call.name, version, self.step, false);
                }
                match error {
                    ReserveError::Closed => Ok(None),
                    ReserveError::Deadline if !early => Ok(None),
                    error => broken("INV-DEADLINE", format!("{call:?} got no slot: {error}")),
                }
            }
            Answer::Got(Ok(GetOutcome::Hit(lease))) | Answer::GotHost(Some(lease)) => {
                self.check_hit(call, &lease)?;
                Ok(Some(lease))
            }
            Answer::Got(Ok(GetOutcome::Miss(reason))) => self.check_miss(call, reason).map(|()| None),
            Answer::GotHost(None) => Ok(None),
            Answer::Got(Err(GetError::Deadline)) if early => {
                broken("INV-DEADLINE", format!("{call:?} gave up early"))
            }
            Answer::Removed(held) => self.check_removed(call, held).map(|()| None),
            Answer::Pinned(pinned) => {
                self.pinned(call, pinned);
                Ok(None)
            }
            Answer::Got(Err(_)) | Answer::Done => Ok(None),
        }
    }

    fn check_put(
        &mut self,
        call: &Call,
        result: Result<crate::store::PutOutcome, PutError>,
        early: bool,
        medium: &Medium,
    ) -> Result<(), Broken> {
        let Kind::Put { version, durable, .. } = call.kind else {
            return broken("INV-BYTES", "the answer belongs to no put");
        };
        let nothing_stored = match &result {
            Ok(outcome) => outcome.existed,
            Err(error) => matches!(error, PutError::Overloaded | PutError::Conflict { .. }),
        };
        self.history.put_ended(call.name, version, self.step, !nothing_stored);
        let block = &self.blocks[call.name.0 as usize];
        match result {
            Ok(outcome) => {
                self.acknowledged += 1;
                self.history.generation_is(outcome.generation, call.name, version)?;
                if block.held_at < call.began || durable && block.nvme_at < call.began {
                    return broken("INV-ACK", format!("{call:?} was acknowledged and is not held"));
                }
                if durable && block.nvme_at == NOW {
                    self.durable += 1;
                    if let Err(why) = medium.durable(call.name) {
                        return broken("INV-ACK", format!("{call:?} was acknowledged as durable: {why}"));
                    }
                }
                Ok(())
            }
            Err(PutError::Conflict { .. }) if block.held_at < call.began => {
                broken("INV-BYTES", format!("{call:?} was refused for the sake of what is not held"))
            }
            Err(PutError::UnknownDurability) if early => {
                broken("INV-DEADLINE", format!("{call:?} gave up early"))
            }
            Err(error @ (PutError::ChecksumMismatch { .. } | PutError::ForeignSlot | PutError::NoNvme)) => {
                broken("INV-BYTES", format!("{call:?} was refused: {error}"))
            }
            Err(_) => Ok(()),
        }
    }

    /// Bytes are those of a put under this name that may have been stored, was not removed, and is the
    /// one that the generation stands for.
    fn check_hit(&mut self, call: &Call, lease: &Lease) -> Result<(), Broken> {
        self.hits += 1;
        let Some((name, version)) = claim(lease).filter(|(name, _)| *name == call.name) else {
            return broken("INV-BYTES", format!("{call:?} got other bytes: {:?}", claim(lease)));
        };
        if !is(lease, name, version) || lease.crc32() != crc32fast::hash(lease) {
            return broken("INV-BYTES", format!("{call:?} got bytes that are like those of {version:?}"));
        }
        self.history.may_be_read(name, version, call.began)?;
        self.history.generation_is(lease.generation(), name, version)?;
        let block = &self.blocks[name.0 as usize];
        match block.sound {
            Some(Sound { durable, since })
                if since < call.began && durable.generation != lease.generation() =>
            {
                broken("INV-FENCE", format!("{call:?} got {:?}, on NVMe is {durable:?}", lease.generation()))
            }
            _ => Ok(()),
        }
    }

    fn check_miss(&mut self, call: &Call, reason: MissReason) -> Result<(), Broken> {
        self.misses += 1;
        match self.blocks[call.name.0 as usize].absent_at >= call.began {
            true => Ok(()),
            false => broken("INV-ACK", format!("{call:?} missed what was held all the time: {reason:?}")),
        }
    }

    /// Notes a pin, if nothing came in between that may have ended it.
    fn pinned(&mut self, call: &Call, pinned: bool) {
        let Kind::Pin { duration_us } = call.kind else { return };
        let block = &mut self.blocks[call.name.0 as usize];
        if pinned && block.removes == 0 && block.absent_at < call.began {
            // It began when its deadline was, and moves the end of one before.
            block.pinned_until_us = call.deadline_us + duration_us;
        }
    }

    fn check_removed(&mut self, call: &Call, held: bool) -> Result<(), Broken> {
        let block = &self.blocks[call.name.0 as usize];
        if block.absent_at < call.began {
            return broken("INV-REMOVE", format!("{call:?} left the block where it was"));
        }
        if held && block.held_at < call.began {
            return broken("INV-REMOVE", format!("{call:?} removed what was not there"));
        }
        self.blocks[call.name.0 as usize].removes -= 1;
        self.history.removed(call.name, call.began, self.step);
        Ok(())
    }

    /// Takes in what a store holds that just opened, and compares it with what it must hold.
    pub(super) fn reopened(&mut self, store: &Store, medium: &Medium) -> Result<(), Broken> {
        let step = self.step;
        let mut found = BTreeMap::new();
        for delta in store.inventory() {
            found.insert(Name::of(&delta.id), delta.tier);
        }
        self.judged = 0;
        for (number, block) in self.blocks.iter_mut().enumerate() {
            let name = Name(number as u32);
            let sound = block.sound.filter(|_| block.nvme).map(|sound| sound.durable);
            // A slot that was ready and could not be read costs its whole extent.
            let expected = sound.filter(|durable| medium.errors() == 0 && !medium.may_misread(durable));
            block.pinned_until_us = 0;
            block.removes = 0;
            block.host = false;
            block.nvme = found.get(&name).is_some_and(|tier| *tier == Tier::Nvme);
            block.sound = None;
            block.settle(step);
            let Some(durable) = expected else { continue };
            if !block.nvme {
                return broken("INV-ACK", format!("{name:?} did not survive: {durable:?}"));
            }
            match medium.durable(name) {
                // A write that failed may have left the same record in another slot.
                Ok(Some(found)) if found.generation == durable.generation => {
                    block.sound = Some(Sound { durable: found, since: step });
                }
                other => return broken("INV-ACK", format!("{name:?} {durable:?} is now {other:?}")),
            }
        }
        Ok(())
    }

    /// The payload that was put last under a name.
    pub(super) fn latest(&self, name: Name) -> Option<(Version, usize)> {
        self.history.latest(name)
    }

    /// The names that some tier holds.
    pub(super) fn held(&self) -> Vec<Name> {
        let is_held = |name: &Name| self.blocks[name.0 as usize].held_at == NOW;
        (0..NAMES).map(Name).filter(is_held).collect()
    }
}
