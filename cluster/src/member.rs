//! What a member does in the background: register, send heartbeats, report blocks, and lead.

use std::sync::Arc;
use std::time::{Duration, Instant};

use hearth_proto::limits::{HEARTBEAT_MS, PROPOSE_ATTEMPT_MS, PROPOSE_RETRY_MS};
use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::{GroupId, Incarnation, NodeId, v1};
use tokio_util::sync::CancellationToken;
use tonic::Request;
use v1::RefusalReason;
use v1::heartbeat_response::Result as Beat;

use crate::cluster::Cluster;
use crate::error::{MemberError, ProposeError};
use crate::source::BlockSource;
use crate::state::{State, command};

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
            match self.beat_until_down(incarnation).await {
                Beaten::Superseded(newer) => {
                    return MemberError::Superseded { node: self.node_id(), newer };
                }
                Beaten::Removed => return MemberError::Removed { node: self.node_id() },
                Beaten::Changed => continue,
                Beaten::Down => {}
            }
            tracing::warn!(node = %self.node_id(), %incarnation, "was declared down, registers again");
            self.0.registered.send_replace(None);
        }
    }

    async fn register(&self) -> Result<Incarnation, MemberError> {
        let config = &self.0.config;
        let mut says_all = self.can_say_all().await;
        if !says_all && config.never_votes {
            tracing::warn!(
                "this cluster does not know observers yet: this node registers once every node runs a build that \
                 does and `hearth upgrade finalize` was run"
            );
        }
        // One that said less than all of itself might be made a voter.
        while !says_all && config.never_votes {
            pause().await;
            says_all = self.can_say_all().await;
        }
        let register = v1::RegisterNode {
            node_id: config.node_id.0,
            boot_id: config.boot_id.to_vec().into(),
            name: config.name.clone(),
            control_address: config.addresses.control.clone(),
            data_address: config.addresses.data.clone(),
            host_capacity_bytes: config.host_capacity_bytes,
            nvme_capacity_bytes: config.nvme_capacity_bytes,
            zone: if says_all { config.zone.clone() } else { String::new() },
            command_version: self.newest_version(),
            never_votes: says_all && config.never_votes,
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
                Err(ProposeError::Refused { reason: RefusalReason::NodeRemoved, .. }) => {
                    self.await_release().await;
                    return Err(MemberError::Removed { node });
                }
                Err(ProposeError::Refused { detail, .. }) => {
                    return Err(MemberError::Refused { node, detail });
                }
                Err(ProposeError::Stopped { detail, .. }) => return Err(MemberError::Stopped { detail }),
                Err(error) => tracing::debug!(%node, %error, "not registered yet"),
            }
        }
    }

    /// Whether the cluster can be told zones and observers, for a node with one to tell.
    async fn can_say_all(&self) -> bool {
        let config = &self.0.config;
        let nothing_to_tell = config.zone.is_empty() && !config.never_votes;
        nothing_to_tell || self.may_say(command::MEMBERSHIP_SINCE).await
    }

    /// Sends heartbeats until the cluster no longer counts this incarnation as up, or knows it wrongly.
    async fn beat_until_down(&self, incarnation: Incarnation) -> Beaten {
        let mut ticks = ticks();
        let beat = self.beat(incarnation);
        let mut asked = 0;
        loop {
            ticks.tick().await;
            match self.send_beat(&beat, &mut asked).await {
                Some(Beat::Superseded(by)) => return Beaten::Superseded(Incarnation(by.incarnation)),
                Some(Beat::RegisterAgain(_)) => return Beaten::Down,
                Some(Beat::Removed(_)) => return Beaten::Removed,
                Some(Beat::Heard(_) | Beat::NotLeader(_)) | None => {}
            }
            if self.is_known_wrongly(incarnation) {
                return Beaten::Changed;
            }
        }
    }

    /// Whether the cluster could be told by now what it could not be told before.
    fn is_known_wrongly(&self, incarnation: Incarnation) -> bool {
        let (config, replicated) = (&self.0.config, self.0.control.replicated());
        let State::Control(control) = &replicated.state else { return false };
        let Some(known) = control.node(self.node_id()) else { return false };
        control.finalized_version() >= command::MEMBERSHIP_SINCE
            && control.serving_incarnation(self.node_id()) == Some(incarnation)
            && (known.zone != config.zone || known.never_votes != config.never_votes)
    }

    /// A removed node goes on voting where it has to: its groups may need it to agree that it goes.
    async fn await_release(&self) {
        self.0.registered.send_replace(None);
        tracing::warn!(node = %self.node_id(), "was removed; waits until its groups do without it");
        let mut ticks = ticks();
        let beat = self.beat(Incarnation(0));
        let mut asked = 0;
        loop {
            ticks.tick().await;
            if let Some(Beat::Removed(_)) = self.send_beat(&beat, &mut asked).await {
                return;
            }
        }
    }

    fn beat(&self, incarnation: Incarnation) -> v1::HeartbeatRequest {
        v1::HeartbeatRequest {
            cluster_id: self.cluster_id().0.to_vec().into(),
            node_id: self.node_id().0,
            incarnation: incarnation.0,
            boot_id: self.0.config.boot_id.to_vec().into(),
            command_version: self.newest_version(),
        }
    }

    /// One heartbeat to the control leader, and to the one that it names if it does not lead any more.
    /// Whoever knows no leader asks the members that it knows, the next one each time.
    async fn send_beat(&self, beat: &v1::HeartbeatRequest, asked: &mut usize) -> Option<Beat> {
        let known = self.known_leader(&self.0.control);
        match self.send_beat_to(known, beat).await {
            None => self.send_beat_to(self.another_member(asked), beat).await,
            answered => answered,
        }
    }

    async fn send_beat_to(
        &self,
        mut leader: Option<(NodeId, String)>,
        beat: &v1::HeartbeatRequest,
    ) -> Option<Beat> {
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

/// Why a node stops sending the heartbeats of an incarnation.
enum Beaten {
    /// Declared down: it registers again.
    Down,
    /// It can say more of itself now: it registers again, as the same incarnation.
    Changed,
    Superseded(Incarnation),
    Removed,
}

fn ticks() -> tokio::time::Interval {
    let mut ticks = tokio::time::interval(Duration::from_millis(HEARTBEAT_MS));
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    ticks
}

/// Waits before something that failed is tried again.
pub(crate) async fn pause() {
    tokio::time::sleep(Duration::from_millis(PROPOSE_RETRY_MS)).await;
}
