//! No pin takes a namespace beyond its quota, none is refused that lies within it, and every node counts alike what
//! is pinned (INV-PIN, INV-TENANT).
//!
//! *Source*: DESIGN.md, section 7, INV-PIN: "bounded by quota"; `proto/hearth/v1/command.proto`, NamespaceSpec.

use std::collections::BTreeMap;

use hearth_proto::v1::RefusalReason;
use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::{GroupId, NamespaceId, v1};

use super::Seen;
use super::history::{Entry, History};
use super::tenancy::{Tenancy, Tenants};

/// How far the log and the nodes were looked at.
#[derive(Default)]
pub(super) struct PinQuota {
    next_index: u64,
    looked: BTreeMap<(usize, u8), u64>,
}

impl PinQuota {
    pub(super) fn check(
        &mut self,
        seen: &[Seen],
        history: &History,
        tenancy: &Tenancy,
    ) -> Result<(), String> {
        for (index, entry) in history.from(GroupId::CONTROL, self.next_index) {
            let Some(after) = tenancy.after(index) else { break };
            self.next_index = index + 1;
            follow(&tenancy.before(index, entry), after, entry)
                .map_err(|what| format!("INV-PIN: quota: entry {index}: {what}: {:?}", entry.applied))?;
        }
        seen.iter().try_for_each(|node| self.compare(node, tenancy))
    }

    /// Holds what a node counts against the log.
    fn compare(&mut self, node: &Seen, tenancy: &Tenancy) -> Result<(), String> {
        let Some((applied, _)) = node.group(GroupId::CONTROL).applied else { return Ok(()) };
        let life = (node.machine.index, node.machine.life());
        let Some(expected) = tenancy.after(applied) else { return Ok(()) };
        if self.looked.insert(life, applied) == Some(applied) {
            return Ok(());
        }
        for namespace in expected.namespaces() {
            let pins = node.cluster.pins(NamespaceId(namespace));
            let found = (pins.pinned_bytes, Some(pins.pin_quota_bytes));
            let counted = (expected.pinned_bytes(namespace), expected.quota(namespace));
            if found != counted {
                return Err(format!(
                    "INV-PIN: quota: after entry {applied} {} counts {found:?} of namespace {namespace}, the log says \
                     {counted:?}",
                    node.machine.name
                ));
            }
        }
        Ok(())
    }
}

fn follow(before: &Tenants, after: &Tenants, entry: &Entry) -> Result<(), String> {
    match (entry.body(), entry.outcome()) {
        (Some(Body::PinBlocks(pin)), Some(Kind::Pinned(pinned))) => {
            let namespace = pin.namespace_id;
            let (used, quota) = (after.pinned_bytes(namespace), before.quota(namespace));
            if quota.is_none_or(|quota| used > quota) {
                return Err(format!("namespace {namespace} pins {used} bytes and may pin {quota:?}"));
            }
            if pinned.pinned_bytes != used {
                return Err(format!("it pins {used} bytes and the caller is told another number"));
            }
            Ok(())
        }
        (Some(Body::PinBlocks(pin)), Some(Kind::Refused(refused)))
            if refused.reason() == RefusalReason::Quota =>
        {
            let (others, size) = others_and_own(before, pin);
            match before.quota(pin.namespace_id) {
                Some(quota) if others + size <= quota => {
                    Err(format!("{size} bytes are refused beside {others}, and {quota} may be pinned"))
                }
                _ => Ok(()),
            }
        }
        (Some(Body::DeleteNamespace(delete)), Some(Kind::Done(v1::Done { changed: true }))) => {
            match before.pinned_bytes(delete.namespace_id) {
                0 => Ok(()),
                bytes => Err(format!("a namespace is removed that pins {bytes} bytes")),
            }
        }
        _ => Ok(()),
    }
}

/// What the other pins of a pin's namespace cost, and what it costs itself.
fn others_and_own(before: &Tenants, pin: &v1::PinBlocks) -> (u64, u64) {
    let replaced = before.pins.get(&(pin.namespace_id, pin.pin_id.clone())).map_or(0, |pin| pin.size_bytes);
    let size = if pin.keys.is_empty() { replaced } else { pin.size_bytes };
    (before.pinned_bytes(pin.namespace_id) - replaced, size)
}
