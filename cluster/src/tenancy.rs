//! Namespaces, the policy, pins and retentions: what callers and operators change, and read back.

use std::time::Instant;

use futures::future::try_join_all;
use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::{BlockId, BlockKey, GroupId, NamespaceId, Priority, Retention, v1};
use rustc_hash::FxHashSet;

use crate::cluster::Cluster;
use crate::error::ProposeError;
use crate::fresh::Freshness;
use crate::refusal::CommandError;
use crate::state::{Control, State, command};

/// What a pin came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PinAnswer {
    /// Replicated time at which it ends by itself.
    pub expires_at_ms: u64,
    /// What the namespace pins now.
    pub pinned_bytes: u64,
    /// What it may pin.
    pub pin_quota_bytes: u64,
    /// Blocks that nobody holds; they are pinned as soon as they come.
    pub absent_blocks: usize,
}

/// What blocks are charged with when they are pinned.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Charge {
    size_bytes: u64,
    absent_blocks: usize,
}

impl Cluster {
    /// Makes a namespace or changes it; false if it was so already.
    ///
    /// # Errors
    /// [`CommandError`]; repeating it is harmless.
    pub async fn put_namespace(
        &self,
        spec: v1::NamespaceSpec,
        deadline: Instant,
    ) -> Result<bool, CommandError> {
        self.change_control(Body::PutNamespace(v1::PutNamespace { spec: Some(spec) }), deadline).await
    }

    /// How blocks of a namespace are kept that are put without a retention, as this node's copy of the control state
    /// has it.
    pub fn default_retention(&self, namespace: NamespaceId) -> Retention {
        let default = self.peek_control(|control| {
            let spec = control.tenancy().namespaces().find(namespace)?;
            let priority =
                u8::try_from(spec.default_priority).ok().and_then(|value| Priority::new(value).ok())?;
            let duration_ms = Some(spec.default_duration_ms).filter(|duration_ms| *duration_ms > 0);
            Some(Retention { priority, duration_ms })
        });
        default.flatten().unwrap_or_default()
    }

    /// Removes a namespace; false if there is none of that name.
    ///
    /// # Errors
    /// [`CommandError`]: one that has pins is not removed, nor the one that is always there.
    pub async fn delete_namespace(&self, name: &str, deadline: Instant) -> Result<bool, CommandError> {
        // Without a leader it would say that there is none of a namespace that it has not heard of yet.
        if !self.refresh_control(deadline).await {
            let (group, silent) = (GroupId::CONTROL, self.silent_voters(&self.0.control));
            return Err(ProposeError::NoLeader { group, silent }.into());
        }
        let id = self.peek_control(|control| {
            control.tenancy().namespaces().find_by_name(name).map(|spec| spec.namespace_id)
        });
        let Some(namespace_id) = id.flatten() else { return Ok(false) };
        self.change_control(Body::DeleteNamespace(v1::DeleteNamespace { namespace_id }), deadline).await
    }

    /// Waits until this node's copy of the control state has all that was acknowledged before. False if that
    /// cannot be had in time, as without a leader: what is read then is as old as it is.
    pub async fn refresh_control(&self, deadline: Instant) -> bool {
        self.read_control(&Freshness::Linearizable, deadline, |_| ()).await.is_ok()
    }

    /// Every namespace, by id, with what it pins, as this node's copy has it.
    pub fn namespaces(&self) -> Vec<v1::NamespaceUse> {
        let list = |control: &Control| {
            let tenancy = control.tenancy();
            let in_use = |spec: &v1::NamespaceSpec| v1::NamespaceUse {
                pinned_bytes: tenancy.pins().used(NamespaceId(spec.namespace_id)).bytes,
                spec: Some(spec.clone()),
            };
            tenancy.namespaces().all().map(in_use).collect()
        };
        self.peek_control(list).unwrap_or_default()
    }

    /// Replaces the policy of the cluster; false if it was so already.
    ///
    /// # Errors
    /// [`CommandError`]; repeating it is harmless.
    pub async fn put_policy(
        &self,
        policy: v1::ClusterPolicy,
        deadline: Instant,
    ) -> Result<bool, CommandError> {
        self.change_control(Body::PutPolicy(v1::PutPolicy { policy: Some(policy) }), deadline).await
    }

    /// The policy of the cluster and the newest command version in its logs, as this node's copy has them.
    pub fn policy(&self) -> v1::PolicyResponse {
        let record = self.peek_control(|control| control.cluster_record().cloned()).flatten();
        let record = record.unwrap_or_default();
        v1::PolicyResponse {
            policy: Some(record.policy.unwrap_or_default()),
            // As logs were before anybody said so.
            finalized_version: Some(record.finalized_version).filter(|version| *version != 0).unwrap_or(2),
        }
    }

    /// Keeps blocks from eviction on every node that holds them, or renews a pin; without keys, as it is.
    /// `own_len` says how long the payload of a block is that this node's own store has.
    ///
    /// # Errors
    /// [`CommandError`]; repeating it is harmless (INV-IDEMPOTENT).
    ///
    /// # Cancel safety
    /// A pin that is dropped may still be made, and then ends by itself.
    pub async fn pin(
        &self,
        namespace: NamespaceId,
        pin_id: [u8; 16],
        keys: &[BlockKey],
        ttl_ms: u64,
        own_len: impl Fn(&BlockId) -> Option<u32>,
        deadline: Instant,
    ) -> Result<PinAnswer, CommandError> {
        let charge = if keys.is_empty() { Charge::default() } else { self.charge(namespace, keys, own_len)? };
        let pin = v1::PinBlocks {
            pin_id: pin_id.to_vec().into(),
            namespace_id: namespace.0,
            keys: command::pack_keys(keys),
            size_bytes: charge.size_bytes,
            ttl_ms,
        };
        let (log_index, kind) =
            self.commit(GroupId::CONTROL, command::new(Body::PinBlocks(pin)), deadline).await?;
        let Kind::Pinned(pinned) = kind else { return Err(CommandError::unexpected(&kind)) };
        self.0.control.wait_applied(log_index, deadline).await;
        let quota = |control: &Control| {
            control.tenancy().namespaces().find(namespace).map_or(0, |spec| spec.pin_quota_bytes)
        };
        Ok(PinAnswer {
            expires_at_ms: pinned.expires_at_ms,
            pinned_bytes: pinned.pinned_bytes,
            pin_quota_bytes: self.peek_control(quota).unwrap_or_default(),
            absent_blocks: charge.absent_blocks,
        })
    }

    /// Ends a pin; false if there was none, or none any more.
    ///
    /// # Errors
    /// [`CommandError`]; repeating it is harmless.
    pub async fn unpin(
        &self,
        namespace: NamespaceId,
        pin_id: [u8; 16],
        deadline: Instant,
    ) -> Result<bool, CommandError> {
        let unpin = v1::UnpinBlocks { pin_id: pin_id.to_vec().into(), namespace_id: namespace.0 };
        self.change_control(Body::UnpinBlocks(unpin), deadline).await
    }

    /// The pins of a namespace, as this node's copy has them.
    pub fn pins(&self, namespace: NamespaceId) -> v1::PinsResponse {
        let list = |control: &Control| {
            let (pins, namespaces) = (control.tenancy().pins(), control.tenancy().namespaces());
            let listed = pins.of(namespace).map(|(id, pin)| v1::Pin {
                pin_id: id.to_vec().into(),
                blocks: u32::try_from(pin.keys.len()).unwrap_or(u32::MAX),
                size_bytes: pin.size_bytes,
                expires_at_ms: pin.expires_at_ms,
            });
            v1::PinsResponse {
                pins: listed.collect(),
                pinned_bytes: pins.used(namespace).bytes,
                pin_quota_bytes: namespaces.find(namespace).map_or(0, |spec| spec.pin_quota_bytes),
                time_ms: control.time_ms(),
            }
        };
        self.peek_control(list).unwrap_or_default()
    }

    /// Changes how blocks are kept, wherever they lie and come to.
    ///
    /// # Errors
    /// [`CommandError`]; it may have been done for some of the blocks, and repeating it is harmless.
    pub async fn set_retention(
        &self,
        namespace: NamespaceId,
        keys: &[BlockKey],
        retention: Retention,
        deadline: Instant,
    ) -> Result<(), CommandError> {
        self.check_namespace(namespace)?;
        let groups = self.directory_groups();
        let mut shares: Vec<Vec<&BlockKey>> = vec![Vec::new(); groups.count() as usize];
        keys.iter().for_each(|key| shares[groups.position_of(key)].push(key));
        let told = groups.ids().zip(shares).filter(|(_, share)| !share.is_empty());
        try_join_all(told.map(async |(group, share)| {
            let set = v1::SetRetention {
                namespace_id: namespace.0,
                keys: command::pack_keys(share),
                priority: u32::from(retention.priority.value()),
                duration_ms: retention.duration_ms.unwrap_or(0),
            };
            match self.commit(group, command::new(Body::SetRetention(set)), deadline).await?.1 {
                Kind::Done(_) => Ok(()),
                other => Err(CommandError::unexpected(&other)),
            }
        }))
        .await
        .map(drop)
    }

    pub(crate) fn check_namespace(&self, namespace: NamespaceId) -> Result<(), CommandError> {
        let is_known = |control: &Control| control.tenancy().namespaces().find(namespace).is_some();
        match self.peek_control(is_known) {
            Some(true) => Ok(()),
            _ => Err(CommandError::unknown_namespace(namespace)),
        }
    }

    /// Commits a change of the control group, and waits until it shows here.
    async fn change_control(&self, body: Body, deadline: Instant) -> Result<bool, CommandError> {
        let (log_index, kind) = self.commit(GroupId::CONTROL, command::new(body), deadline).await?;
        let Kind::Done(done) = kind else { return Err(CommandError::unexpected(&kind)) };
        self.0.control.wait_applied(log_index, deadline).await;
        Ok(done.changed)
    }

    /// What pinning blocks costs: their payloads, as far as anybody has them. Blocks of one pin are of one
    /// layout and so of one size: those that nobody has are charged like the largest of the others.
    fn charge(
        &self,
        namespace: NamespaceId,
        keys: &[BlockKey],
        own_len: impl Fn(&BlockId) -> Option<u32>,
    ) -> Result<Charge, CommandError> {
        let ids: FxHashSet<BlockId> = keys.iter().map(|key| BlockId { namespace, key: *key }).collect();
        let in_directory = |id: &BlockId| {
            let group = self.directory_of(&id.key).ok()?;
            let replicated = group.replicated();
            let State::Directory(directory) = &replicated.state else { return None };
            directory.payload_len(id)
        };
        let lens: Vec<u64> =
            ids.iter().filter_map(|id| own_len(id).or_else(|| in_directory(id))).map(u64::from).collect();
        let largest = lens.iter().max().ok_or(CommandError::NothingHeld)?;
        let absent_blocks = ids.len() - lens.len();
        let size_bytes = lens.iter().sum::<u64>() + largest * absent_blocks as u64;
        Ok(Charge { size_bytes, absent_blocks })
    }

    /// Reads this node's copy of the control state as it is. Entries wait while `read` runs.
    pub(crate) fn peek_control<T>(&self, read: impl FnOnce(&Control) -> T) -> Option<T> {
        let replicated = self.0.control.replicated();
        match &replicated.state {
            State::Control(control) => Some(read(control)),
            State::Directory(_) => None,
        }
    }
}
