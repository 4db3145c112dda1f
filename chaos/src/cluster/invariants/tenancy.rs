//! What is pinned and what may be, after each entry of the control group, as the outcomes say. No invariant by
//! itself: pins, quotas and reads are held against it.

use std::collections::BTreeMap;

use bytes::Bytes;
use hearth_proto::limits::DEFAULT_PIN_QUOTA_BYTES;
use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::{GroupId, v1};

use super::history::{Entry, History};

/// Bytes of a block's key.
const KEY_BYTES: usize = 32;

/// One pin.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Pin {
    pub(super) blocks: usize,
    pub(super) size_bytes: u64,
    pub(super) expires_at_ms: u64,
}

/// Namespaces and pins at one moment.
#[derive(Clone, Debug, Default)]
pub(super) struct Tenants {
    pub(super) time_ms: u64,
    pub(super) pins: BTreeMap<(u32, Bytes), Pin>,
    /// The name of each namespace but those that nobody changed, and what it may pin.
    namespaces: BTreeMap<u32, (String, u64)>,
    last_id: u32,
}

/// The state after each entry.
#[derive(Default)]
pub(super) struct Tenancy(Vec<Tenants>);

impl Tenancy {
    pub(super) fn follow(&mut self, history: &History) {
        let from = self.0.len() as u64;
        for (_, entry) in history.from(GroupId::CONTROL, from) {
            let mut next = self.0.last().cloned().unwrap_or_default();
            next.apply(entry);
            self.0.push(next);
        }
    }

    /// The entries that were followed.
    pub(super) fn len(&self) -> u64 {
        self.0.len() as u64
    }

    /// The state after an entry.
    pub(super) fn after(&self, index: u64) -> Option<&Tenants> {
        self.0.get(usize::try_from(index).ok()?)
    }

    /// The state before an entry, without what ended just then.
    pub(super) fn before(&self, index: u64, entry: &Entry) -> Tenants {
        let mut before =
            index.checked_sub(1).and_then(|index| self.after(index)).cloned().unwrap_or_default();
        before.advance(entry);
        before
    }

    /// The states from an entry on.
    pub(super) fn from(&self, index: u64) -> &[Tenants] {
        self.0.get(usize::try_from(index).unwrap_or(usize::MAX)..).unwrap_or_default()
    }
}

impl Tenants {
    fn advance(&mut self, entry: &Entry) {
        self.time_ms = entry.time_ms();
        if entry.moves_time() {
            self.pins.retain(|_, pin| pin.expires_at_ms > entry.time_ms());
        }
    }

    fn apply(&mut self, entry: &Entry) {
        self.advance(entry);
        match (entry.body(), entry.outcome()) {
            (Some(Body::PinBlocks(pin)), Some(Kind::Pinned(pinned))) => {
                let id = (pin.namespace_id, pin.pin_id.clone());
                let renewed = self.pins.get(&id).filter(|_| pin.keys.is_empty());
                let (blocks, size_bytes) = renewed
                    .map_or_else(|| (count(&pin.keys), pin.size_bytes), |pin| (pin.blocks, pin.size_bytes));
                self.pins.insert(id, Pin { blocks, size_bytes, expires_at_ms: pinned.expires_at_ms });
            }
            (Some(Body::UnpinBlocks(unpin)), Some(Kind::Done(_))) => {
                self.pins.remove(&(unpin.namespace_id, unpin.pin_id.clone()));
            }
            (Some(Body::PutNamespace(put)), Some(Kind::Done(v1::Done { changed: true }))) => {
                let spec = put.spec.clone().unwrap_or_default();
                let named = self.namespaces.iter().find(|(_, (name, _))| *name == spec.name);
                let id = match named.map(|(id, _)| *id) {
                    Some(id) => id,
                    None if spec.name == "default" => 0,
                    None => self.last_id + 1,
                };
                self.last_id = self.last_id.max(id);
                self.namespaces.insert(id, (spec.name, spec.pin_quota_bytes));
            }
            (Some(Body::DeleteNamespace(delete)), Some(Kind::Done(_))) => {
                self.namespaces.remove(&delete.namespace_id);
            }
            _ => {}
        }
    }

    /// The pins of a namespace as a list of them has them.
    pub(super) fn listed(&self, namespace: u32) -> Vec<v1::Pin> {
        let of = self.pins.iter().filter(|((of, _), _)| *of == namespace);
        of.map(|((_, id), pin)| v1::Pin {
            pin_id: id.clone(),
            blocks: pin.blocks as u32,
            size_bytes: pin.size_bytes,
            expires_at_ms: pin.expires_at_ms,
        })
        .collect()
    }

    /// What a namespace pins.
    pub(super) fn pinned_bytes(&self, namespace: u32) -> u64 {
        let of = self.pins.iter().filter(|((of, _), _)| *of == namespace);
        of.map(|(_, pin)| pin.size_bytes).sum()
    }

    /// What a namespace may pin; `None` if there is none of this id.
    pub(super) fn quota(&self, namespace: u32) -> Option<u64> {
        let changed = self.namespaces.get(&namespace).map(|(_, quota)| *quota);
        changed.or_else(|| (namespace == 0).then_some(DEFAULT_PIN_QUOTA_BYTES))
    }

    /// Every namespace.
    pub(super) fn namespaces(&self) -> impl Iterator<Item = u32> {
        (!self.namespaces.contains_key(&0)).then_some(0).into_iter().chain(self.namespaces.keys().copied())
    }
}

/// Different keys of a pin.
fn count(keys: &[u8]) -> usize {
    let (keys, _) = keys.as_chunks::<KEY_BYTES>();
    keys.iter().collect::<std::collections::BTreeSet<_>>().len()
}
