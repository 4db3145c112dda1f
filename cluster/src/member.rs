//! What a member does in the background: register, send heartbeats, report blocks, and lead.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_proto::limits::{HEARTBEAT_MS, PROPOSE_ATTEMPT_MS, PROPOSE_RETRY_MS};
use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::{GroupId, Incarnation, NodeId, v1};
use tokio_util::sync::CancellationToken;
use tonic::Request;
use v1::heartbeat_response::Result as Beat;

use crate::cluster::Cluster;
use crate::error::{MemberError, ProposeError};
use crate::source::BlockSource;
use crate::state::command;

impl Cluster {
    /// Does a member's work until `shutdown`: registers (again, whenever it was declared down), sends
    /// heartbeats, reports what `source` holds, and does the leader's duties while this node leads.
    ///
    /// # Errors
    /// [`MemberError`]. After `Stopped` the groups are shut down already: the node leads and votes
    /// nothing any more and is soon declared down, and may go on serving blocks to those who ask it
    /// (INV-HARMLESS). After the others it must stop serving at once and [`Self::shutdown`].
    ///
    /// # Cancel safety
    /// Dropping it stops the work; the cluster declares the node down after a while. It may be
    /// run again later, but not twice at a time.
    pub async fn run_member(
        &self,
        source: Arc<dyn BlockSource>,
        shutdown: CancellationToken,
    ) -> Result<(), MemberError> {
        let result = tokio::select! {
            // First, so that groups that stop because the node does are no failure.
            biased;
            () = shutdown.cancelled() => Ok(()),
            error = self.stay_registered() => Err(error),
            error = self.report_blocks(&source) => Err(error),
            error = self.do_duties() => Err(error),
        };
        if let Err(MemberError::Stopped { .. }) = &result {
            // The groups share a disk and a node: one that still runs must not lead here.
            self.shutdown().await;
        } else {
            self.0.registered.send_replace(None);
        }
        result
    }

    async fn stay_registered(&self) -> MemberError {
        loop {
            let incarnation = match self.register().await {
                Ok(incarnation) => incarnation,
                Err(error) => return error,
            };
            tracing::info!(node = %self.node_id(), %incarnation, "registered");
            self.0.registered.send_replace(Some(incarnation));
            if let Some(newer) = self.beat_until_down(incarnation).await {
                return MemberError::Superseded { node: self.node_id(), newer };
            }
            tracing::warn!(node = %self.node_id(), %incarnation, "was declared down, registers again");
            self.0.registered.send_replace(None);
        }
    }

    async fn register(&self) -> Result<Incarnation, MemberError> {
        let config = &self.0.config;
        let register = v1::RegisterNode {
            node_id: config.node_id.0,
            boot_id: config.boot_id.to_vec().into(),
            name: config.name.clone(),
            control_address: config.addresses.control.clone(),
            data_address: config.addresses.data.clone(),
            host_capacity_bytes: config.host_capacity_bytes,
            nvme_capacity_bytes: config.nvme_capacity_bytes,
            ..Default::default()
        };
        let command = command::new(Body::RegisterNode(register));
        let node = config.node_id;
        loop {
            let deadline = Instant::now() + Duration::from_millis(PROPOSE_ATTEMPT_MS);
            match self.propose(GroupId::CONTROL, command.clone(), deadline).await {
                Ok((_, Kind::Registered(registered))) => return Ok(Incarnation(registered.incarnation)),
                Ok((_, Kind::Superseded(by))) => {
                    return Err(MemberError::Superseded { node, newer: Incarnation(by.incarnation) });
                }
                Ok(_) => {
                    let detail = "a registration had the outcome of another command".into();
                    return Err(MemberError::Refused { node, detail });
                }
                Err(ProposeError::Refused { detail }) => return Err(MemberError::Refused { node, detail }),
                Err(ProposeError::Stopped { detail, .. }) => return Err(MemberError::Stopped { detail }),
                Err(error) => tracing::debug!(%node, %error, "not registered yet"),
            }
        }
    }

    /// Sends heartbeats until the cluster no longer counts this incarnation as up. Gives the newer
    /// incarnation if another process took over.
    async fn beat_until_down(&self, incarnation: Incarnation) -> Option<Incarnation> {
        let mut ticks = tokio::time::interval(Duration::from_millis(HEARTBEAT_MS));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let beat = v1::HeartbeatRequest {
            cluster_id: self.cluster_id().0.to_vec().into(),
            node_id: self.node_id().0,
            incarnation: incarnation.0,
            boot_id: self.0.config.boot_id.to_vec().into(),
        };
        loop {
            ticks.tick().await;
            match self.send_beat(&beat).await {
                Some(Beat::Superseded(by)) => return Some(Incarnation(by.incarnation)),
                Some(Beat::RegisterAgain(_)) => return None,
                Some(Beat::Heard(_) | Beat::NotLeader(_)) | None => {}
            }
        }
    }

    /// One heartbeat to the control leader, and to the one that it names if it does not lead any more.
    async fn send_beat(&self, beat: &v1::HeartbeatRequest) -> Option<Beat> {
        let mut leader = self.known_leader(&self.0.control);
        let mut answer = None;
        for _ in 0..2 {
            let (id, address) = leader.take()?;
            let result = if id == self.node_id() {
                self.hear(beat)
            } else {
                self.beat_there(id, &address, beat.clone()).await?
            };
            if let Beat::NotLeader(other) = &result
                && other.leader_id != 0
            {
                leader = Some((NodeId(other.leader_id), other.leader_address.clone()));
            }
            answer = Some(result);
            if leader.is_none() {
                break;
            }
        }
        answer
    }

    async fn beat_there(&self, leader: NodeId, address: &str, beat: v1::HeartbeatRequest) -> Option<Beat> {
        let mut client = self.0.peers.cluster_service(leader, address).ok()?;
        let limit = Duration::from_millis(HEARTBEAT_MS);
        let mut request = Request::new(beat);
        request.set_timeout(limit);
        match tokio::time::timeout(limit, client.heartbeat(request)).await {
            Ok(Ok(response)) => response.into_inner().result,
            Ok(Err(status)) => {
                tracing::debug!(%leader, %status, "a heartbeat failed");
                None
            }
            Err(_) => None,
        }
    }
}

/// Waits before something that failed is tried again.
pub(crate) async fn pause() {
    tokio::time::sleep(Duration::from_millis(PROPOSE_RETRY_MS)).await;
}
