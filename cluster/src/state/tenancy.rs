//! What the control group knows besides its nodes: namespaces, pins, the policy and the replicated time.

use hearth_proto::{NamespaceId, limits, v1};
use v1::RefusalReason;
use v1::command::Body;

use super::namespaces::Namespaces;
use super::outcome::{self, done, refused};
use super::pins::Pins;
use super::record::{RecordError, RecordKey};

/// Namespaces and pins; the policy and the time lie in the record of the cluster.
#[derive(Debug, Default)]
pub(crate) struct Tenancy {
    namespaces: Namespaces,
    pins: Pins,
}

impl Tenancy {
    pub(crate) fn namespaces(&self) -> &Namespaces {
        &self.namespaces
    }

    pub(crate) fn pins(&self) -> &Pins {
        &self.pins
    }

    pub(super) fn pins_mut(&mut self) -> &mut Pins {
        &mut self.pins
    }

    /// Moves the replicated time on, never back, and ends what has expired.
    pub(super) fn advance(&mut self, cluster: &mut v1::ClusterRecord, stamp_ms: u64) {
        if stamp_ms > cluster.time_ms {
            cluster.time_ms = stamp_ms;
            self.pins.end_due(stamp_ms);
        }
    }

    pub(super) fn apply(&mut self, cluster: &mut v1::ClusterRecord, body: &Body) -> v1::Outcome {
        match body {
            Body::PutNamespace(put) => self.namespaces.put(put, &mut cluster.last_namespace_id),
            Body::DeleteNamespace(delete) => {
                let id = NamespaceId(delete.namespace_id);
                self.namespaces.delete(id, self.pins.used(id).pins)
            }
            Body::PinBlocks(pin) => {
                let namespace = self.namespaces.find(NamespaceId(pin.namespace_id));
                self.pins.pin(cluster.time_ms, pin, namespace)
            }
            Body::UnpinBlocks(unpin) => self.pins.unpin(unpin),
            Body::PutPolicy(put) => put_policy(cluster, put),
            Body::AdvanceTime(_) => done(true),
            _ => outcome::wrong_group(),
        }
    }

    pub(super) fn read_record(&self, key: &RecordKey, out: &mut Vec<u8>) -> bool {
        match key {
            RecordKey::Namespace(id) => self.namespaces.read_record(*id, out),
            RecordKey::Pin(namespace, id) => self.pins.read_record(*namespace, *id, out),
            _ => false,
        }
    }

    pub(super) fn restore(&mut self, key: RecordKey, value: &[u8]) -> Result<(), RecordError> {
        match key {
            RecordKey::Namespace(id) => self.namespaces.restore(id, value),
            RecordKey::Pin(namespace, id) => self.pins.restore(namespace, id, value),
            _ => Err(RecordError("a directory record in the control group")),
        }
    }

    pub(super) fn record_keys(&self) -> impl Iterator<Item = RecordKey> {
        self.namespaces.record_keys().chain(self.pins.record_keys())
    }
}

fn put_policy(cluster: &mut v1::ClusterRecord, put: &v1::PutPolicy) -> v1::Outcome {
    let Some(policy) = put.policy else {
        return refused(RefusalReason::Malformed, "the policy is missing");
    };
    let (copies, ramp_ms) = (limits::REPLICAS_MAX, limits::RAMP_MS_MAX);
    if policy.replicas > copies || policy.ramp_ms > ramp_ms {
        let detail = format!("a policy asks for up to {copies} replicas and a ramp of up to {ramp_ms} ms");
        return refused(RefusalReason::Malformed, detail);
    }
    let changes = cluster.policy.unwrap_or_default() != policy;
    if changes {
        cluster.policy = Some(policy);
    }
    done(changes)
}
