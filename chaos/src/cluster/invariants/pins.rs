//! A pin that was acknowledged is in every later state of every node, through crashes and snapshots, until the
//! replicated time has passed its end or it was ended, and in none after that (INV-PIN).
//!
//! *Source*: DESIGN.md, section 7, INV-PIN: "pins survive failover, expire by replicated time, and are bounded by
//! quota"; `proto/hearth/v1/command.proto`, PinBlocks.

use std::collections::{BTreeMap, BTreeSet};

use hearth_proto::v1::RefusalReason;
use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::{GroupId, NamespaceId};

use super::Seen;
use super::history::{Entry, History};
use super::tenancy::{Tenancy, Tenants};
use crate::workload::PinAnswered;

/// How far the log was looked at, and every pin that it made.
#[derive(Default)]
pub(super) struct PinsLast {
    next_index: u64,
    made: BTreeSet<PinAnswered>,
    looked: BTreeMap<(usize, u8), u64>,
}

impl PinsLast {
    pub(super) fn check(
        &mut self,
        seen: &[Seen],
        history: &History,
        tenancy: &Tenancy,
        answered: &[PinAnswered],
    ) -> Result<(), String> {
        for (index, entry) in history.from(GroupId::CONTROL, self.next_index) {
            if index >= tenancy.len() {
                break;
            }
            self.next_index = index + 1;
            self.follow(&tenancy.before(index, entry), entry)
                .map_err(|what| format!("INV-PIN: entry {index}: {what}: {:?}", entry.applied))?;
        }
        for answer in answered {
            if !self.made.contains(answer) {
                return Err(format!("INV-PIN: a client was told of a pin that was never made: {answer:?}"));
            }
        }
        seen.iter().try_for_each(|node| self.compare(node, tenancy))
    }

    fn follow(&mut self, before: &Tenants, entry: &Entry) -> Result<(), &'static str> {
        match (entry.body(), entry.outcome()) {
            (Some(Body::PinBlocks(pin)), Some(outcome)) => {
                let is_there = before.pins.contains_key(&(pin.namespace_id, pin.pin_id.clone()));
                match outcome {
                    Kind::Pinned(_) if pin.keys.is_empty() && !is_there => Err("a pin that ended is renewed"),
                    Kind::Pinned(pinned) if pinned.expires_at_ms != entry.time_ms() + pin.ttl_ms => {
                        Err("a pin does not last as long as was asked")
                    }
                    Kind::Pinned(pinned) => {
                        self.made.insert(PinAnswered {
                            pin_id: pin.pin_id.clone(),
                            expires_at_ms: pinned.expires_at_ms,
                            pinned_bytes: pinned.pinned_bytes,
                        });
                        Ok(())
                    }
                    Kind::Refused(refused) if refused.reason() == RefusalReason::UnknownPin && is_there => {
                        Err("a pin is gone before its end")
                    }
                    _ => Ok(()),
                }
            }
            (Some(Body::UnpinBlocks(unpin)), Some(Kind::Done(done))) => {
                let is_there = before.pins.contains_key(&(unpin.namespace_id, unpin.pin_id.clone()));
                if is_there == done.changed { Ok(()) } else { Err("a pin is there or not, against the log") }
            }
            _ => Ok(()),
        }
    }

    /// Holds a node's copy against the log.
    fn compare(&mut self, node: &Seen, tenancy: &Tenancy) -> Result<(), String> {
        let Some((applied, _)) = node.group(GroupId::CONTROL).applied else { return Ok(()) };
        let life = (node.machine.index, node.machine.life());
        let Some(expected) = tenancy.after(applied) else { return Ok(()) };
        if self.looked.insert(life, applied) == Some(applied) {
            return Ok(());
        }
        for namespace in expected.namespaces() {
            let (found, expected) =
                (node.cluster.pins(NamespaceId(namespace)).pins, expected.listed(namespace));
            if found != expected {
                let name = &node.machine.name;
                return Err(format!(
                    "INV-PIN: after entry {applied} {name} has the pins {found:?} of namespace {namespace}, the log \
                     has {expected:?}"
                ));
            }
        }
        Ok(())
    }
}
