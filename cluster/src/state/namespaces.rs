//! The tenants of a cluster: what each may use, and what its blocks get when nobody says.

use std::collections::BTreeMap;

use hearth_proto::{NamespaceId, Priority, limits, v1};
use prost::Message;
use v1::RefusalReason;

use super::outcome::{done, refused};
use super::record::{RecordError, RecordKey};

/// The name of the namespace that is there from the start.
const DEFAULT_NAME: &str = "default";

/// Every namespace, by id.
#[derive(Debug)]
pub(crate) struct Namespaces {
    by_id: BTreeMap<NamespaceId, v1::NamespaceSpec>,
    /// What namespace 0 is until somebody changes it: the same on every replica of every build.
    default_spec: v1::NamespaceSpec,
}

impl Default for Namespaces {
    fn default() -> Self {
        let default_spec = v1::NamespaceSpec {
            namespace_id: NamespaceId::DEFAULT.0,
            name: DEFAULT_NAME.into(),
            pin_quota_bytes: limits::DEFAULT_PIN_QUOTA_BYTES,
            default_priority: u32::from(Priority::DEFAULT.value()),
            ..Default::default()
        };
        Self { by_id: BTreeMap::new(), default_spec }
    }
}

impl Namespaces {
    /// One namespace.
    pub(crate) fn find(&self, id: NamespaceId) -> Option<&v1::NamespaceSpec> {
        self.by_id.get(&id).or_else(|| (id == NamespaceId::DEFAULT).then_some(&self.default_spec))
    }

    /// The namespace of this name.
    pub(crate) fn find_by_name(&self, name: &str) -> Option<&v1::NamespaceSpec> {
        self.all().find(|spec| spec.name == name)
    }

    /// Every namespace, by id.
    pub(crate) fn all(&self) -> impl Iterator<Item = &v1::NamespaceSpec> {
        let stored = self.by_id.contains_key(&NamespaceId::DEFAULT);
        (!stored).then_some(&self.default_spec).into_iter().chain(self.by_id.values())
    }

    /// Makes a namespace or changes it. `last_id` is the highest id that was ever given.
    pub(super) fn put(&mut self, put: &v1::PutNamespace, last_id: &mut u32) -> v1::Outcome {
        let Some(spec) = &put.spec else {
            return refused(RefusalReason::Malformed, "the namespace is missing");
        };
        if let Err(detail) = check(spec) {
            return refused(RefusalReason::Malformed, detail);
        }
        let named = self.find_by_name(&spec.name).map(|spec| spec.namespace_id);
        let id = match (spec.namespace_id, named) {
            (0, Some(id)) => id,
            (0, None) => match self.next_id(*last_id) {
                Ok(id) => id,
                Err(refusal) => return refusal,
            },
            (id, _) if self.find(NamespaceId(id)).is_none() => {
                let detail = format!("there is no namespace {id}; leave the id out to make a new one");
                return refused(RefusalReason::UnknownNamespace, detail);
            }
            (id, Some(other)) if other != id => {
                let detail = format!("namespace {other} is called {:?} already; choose another", spec.name);
                return refused(RefusalReason::InUse, detail);
            }
            (id, _) => id,
        };
        let spec = v1::NamespaceSpec { namespace_id: id, ..spec.clone() };
        if self.find(NamespaceId(id)) == Some(&spec) {
            return done(false);
        }
        if id > *last_id {
            *last_id = id;
        }
        self.by_id.insert(NamespaceId(id), spec);
        done(true)
    }

    /// Removes a namespace that pins nothing.
    pub(super) fn delete(&mut self, id: NamespaceId, pins: usize) -> v1::Outcome {
        if id == NamespaceId::DEFAULT {
            return refused(RefusalReason::InUse, "the namespace \"default\" is always there");
        }
        let Some(spec) = self.by_id.get(&id) else { return done(false) };
        if pins > 0 {
            let detail = format!("namespace {:?} has {pins} pins; unpin them first", spec.name);
            return refused(RefusalReason::InUse, detail);
        }
        self.by_id.remove(&id);
        done(true)
    }

    fn next_id(&self, last_id: u32) -> Result<u32, v1::Outcome> {
        let room = self.all().count() < limits::NAMESPACES_MAX;
        last_id.checked_add(1).filter(|_| room).ok_or_else(|| {
            let detail = format!("a cluster has at most {} namespaces; delete one", limits::NAMESPACES_MAX);
            refused(RefusalReason::Limit, detail)
        })
    }

    pub(super) fn read_record(&self, id: NamespaceId, out: &mut Vec<u8>) -> bool {
        self.by_id.get(&id).map(|spec| spec.encode_raw(out)).is_some()
    }

    pub(super) fn restore(&mut self, id: NamespaceId, value: &[u8]) -> Result<(), RecordError> {
        let spec = v1::NamespaceSpec::decode(value)
            .map_err(|_| RecordError("the record of a namespace is unreadable"))?;
        if spec.namespace_id != id.0 || self.by_id.insert(id, spec).is_some() {
            return Err(RecordError("a namespace lies under another id or is there twice"));
        }
        Ok(())
    }

    pub(super) fn record_keys(&self) -> impl Iterator<Item = RecordKey> {
        self.by_id.keys().map(|id| RecordKey::Namespace(*id))
    }
}

fn check(spec: &v1::NamespaceSpec) -> Result<(), String> {
    let limit = limits::NAMESPACE_NAME_BYTES_MAX;
    let is_name = |text: &str| {
        text.len() <= limit && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte))
    };
    if spec.name.is_empty() || !is_name(&spec.name) {
        return Err(format!("the name of a namespace is 1 to {limit} letters, digits, '-', '_' or '.'"));
    }
    if !is_name(&spec.sharing_group) {
        return Err(format!("the name of a sharing group is up to {limit} letters, digits, '-', '_' or '.'"));
    }
    if spec.name == DEFAULT_NAME && spec.namespace_id != NamespaceId::DEFAULT.0 {
        return Err("\"default\" is the name of namespace 0".into());
    }
    if spec.default_priority > u32::from(Priority::MAX.value()) {
        return Err(format!("a priority is 0 to 100, not {}", spec.default_priority));
    }
    if spec.default_duration_ms > limits::RETENTION_MS_MAX {
        return Err(format!("a duration is up to {} ms; 0 is without end", limits::RETENTION_MS_MAX));
    }
    if spec.replicas > limits::REPLICAS_MAX {
        return Err(format!("a block has up to {} copies, not {}", limits::REPLICAS_MAX, spec.replicas));
    }
    if spec.quota_bytes != 0 && spec.floor_bytes.max(spec.pin_quota_bytes) > spec.quota_bytes {
        return Err("the floor and the pin quota lie within the quota".into());
    }
    Ok(())
}
