//! Tells the directory what this node holds: the inventory after each registration, then changes.

use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use hearth_proto::limits::{PROPOSE_ATTEMPT_MS, REPORT_DELTAS_MAX};
use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::{BlockDelta, GroupId, Incarnation, v1};

use crate::cluster::Cluster;
use crate::error::{MemberError, ProposeError};
use crate::member::pause;
use crate::source::{BlockSource, DeltaStatus};
use crate::state::command;

/// What the directory said to a report.
enum Reported {
    Applied,
    /// Only the inventory will do.
    Gap,
    /// This incarnation has nothing to say any more.
    Fenced,
}

impl Cluster {
    /// Reports for each incarnation of this process in turn.
    pub(crate) async fn report_blocks(&self, source: &dyn BlockSource) -> MemberError {
        let mut registered = self.0.registered.subscribe();
        loop {
            let incarnation = *registered.borrow_and_update();
            let report = async {
                match incarnation {
                    Some(incarnation) => self.report_incarnation(incarnation, source).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                // What a dropped report had taken is in the next incarnation's inventory.
                changed = registered.changed() => if changed.is_err() {
                    return MemberError::Stopped { detail: "the member is gone".into() };
                },
                error = report => return error,
            }
        }
    }

    async fn report_incarnation(&self, incarnation: Incarnation, source: &dyn BlockSource) -> MemberError {
        let mut deltas = Vec::with_capacity(REPORT_DELTAS_MAX);
        loop {
            let reported = match self.report_inventory(incarnation, source).await {
                Ok(Reported::Applied) => self.report_deltas(incarnation, source, &mut deltas).await,
                other => other,
            };
            match reported {
                Ok(Reported::Applied | Reported::Gap) => {
                    tracing::info!(%incarnation, "the directory asks for the inventory");
                }
                // The registration learns of it too, and ends this.
                Ok(Reported::Fenced) => return std::future::pending().await,
                Err(error) => return error,
            }
        }
    }

    async fn report_inventory(
        &self,
        incarnation: Incarnation,
        source: &dyn BlockSource,
    ) -> Result<Reported, MemberError> {
        let inventory = source.inventory();
        // An empty inventory is news too: the directory must drop what it had.
        let mut pieces: Vec<&[BlockDelta]> = inventory.chunks(REPORT_DELTAS_MAX).collect();
        if pieces.is_empty() {
            pieces.push(&[]);
        }
        for (position, piece) in pieces.into_iter().enumerate() {
            let reported = self.report(incarnation, position == 0, piece).await?;
            if !matches!(reported, Reported::Applied) {
                return Ok(reported);
            }
        }
        Ok(Reported::Applied)
    }

    /// Reports changes until only an inventory will do.
    async fn report_deltas(
        &self,
        incarnation: Incarnation,
        source: &dyn BlockSource,
        deltas: &mut Vec<BlockDelta>,
    ) -> Result<Reported, MemberError> {
        loop {
            source.ready().await;
            deltas.clear();
            let status = source.take_deltas(REPORT_DELTAS_MAX, deltas);
            if status == DeltaStatus::Overflowed {
                return Ok(Reported::Gap);
            }
            if deltas.is_empty() {
                continue;
            }
            for piece in deltas.chunks(REPORT_DELTAS_MAX) {
                let reported = self.report(incarnation, false, piece).await?;
                if !matches!(reported, Reported::Applied) {
                    return Ok(reported);
                }
            }
        }
    }

    /// Sends one report until its fate is known. Its number makes repeating it harmless (INV-IDEMPOTENT).
    async fn report(
        &self,
        incarnation: Incarnation,
        reset: bool,
        deltas: &[BlockDelta],
    ) -> Result<Reported, MemberError> {
        let sequence = self.0.report_sequence.fetch_add(1, Ordering::Relaxed) + 1;
        let report = command::new(Body::BlockReport(v1::BlockReport {
            node_id: self.node_id().0,
            incarnation: incarnation.0,
            sequence,
            reset,
            deltas: command::pack_deltas(deltas),
        }));
        loop {
            let deadline = Instant::now() + Duration::from_millis(PROPOSE_ATTEMPT_MS);
            match self.propose(GroupId::DIRECTORY, report.clone(), deadline).await {
                Ok((_, Kind::ReportApplied(_))) => return Ok(Reported::Applied),
                Ok((_, Kind::ReportGap(_))) => return Ok(Reported::Gap),
                Ok((_, Kind::Superseded(_))) => return Ok(Reported::Fenced),
                Ok(_) => {
                    let detail = "a report had the outcome of another command".into();
                    return Err(MemberError::Refused { node: self.node_id(), detail });
                }
                Err(ProposeError::Refused { detail }) => {
                    return Err(MemberError::Refused { node: self.node_id(), detail });
                }
                Err(ProposeError::Stopped { detail, .. }) => return Err(MemberError::Stopped { detail }),
                Err(ProposeError::NoLeader { .. } | ProposeError::Unknown { .. }) => pause().await,
            }
        }
    }
}
