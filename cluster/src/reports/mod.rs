//! Tells the directory what this node holds: after each registration, and after it missed something, what
//! differs from what it knows; then changes.

mod feed;

use std::collections::VecDeque;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_proto::limits::{
    PROPOSE_ATTEMPT_MS, REPORT_DELTAS_MAX, REPORT_LINGER_MS, REPORT_QUEUE_MAX, REPORTS_IN_FLIGHT_MAX,
    RESYNC_RANGES,
};
use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::{BlockDelta, Incarnation, NodeId, v1};
use prost::Message;
use rustc_hash::FxHashSet;
use tokio::sync::{Notify, mpsc};

use self::feed::{Feed, News};
use crate::cluster::Cluster;
use crate::error::{MemberError, ProposeError};
use crate::member::pause;
use crate::offload::{blocking_send, spawn_blocking};
use crate::pipe::Pipe;
use crate::raft::{Group, LocalProposal};
use crate::source::{BlockSource, DeltaStatus};
use crate::state::deltas::{pack_deltas, pack_runs};
use crate::state::{Digests, command};

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
    pub(crate) async fn report_blocks(&self, source: &Arc<dyn BlockSource>) -> MemberError {
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

    async fn report_incarnation(
        &self,
        incarnation: Incarnation,
        source: &Arc<dyn BlockSource>,
    ) -> MemberError {
        let count = self.0.directories.len();
        let feeds: Vec<Feed> =
            (0..count).map(|_| Feed::new((REPORT_QUEUE_MAX / count).max(REPORT_DELTAS_MAX))).collect();
        let lacking = Notify::new();
        lacking.notify_one();
        let report_to =
            |(position, feed)| Box::pin(self.report_to_group(incarnation, position, feed, source, &lacking));
        let reports = feeds.iter().enumerate().map(report_to);
        tokio::select! {
            (error, ..) = futures::future::select_all(reports) => error,
            error = self.share_inventory(source, &feeds, &lacking) => error,
            error = self.share_changes(&**source, &feeds, &lacking) => error,
        }
    }

    /// Takes the inventory whenever groups lack it, once for all of them, for ever.
    async fn share_inventory(
        &self,
        source: &Arc<dyn BlockSource>,
        feeds: &[Feed],
        lacking: &Notify,
    ) -> MemberError {
        let groups = self.directory_groups();
        loop {
            lacking.notified().await;
            let awaiting: Vec<bool> = feeds.iter().map(Feed::awaits_inventory).collect();
            if !awaiting.contains(&true) {
                continue;
            }
            let source = Arc::clone(source);
            // Millions of blocks may be held, and heartbeats must go on.
            let taken = spawn_blocking(move || {
                // The more groups the fewer blocks each of them has.
                let parts = (Digests::PARTS_MAX / groups.count() as usize).max(1);
                let parts = parts.next_power_of_two();
                let mut digests = vec![Digests::new(parts); groups.count() as usize];
                let _ = source.for_each_held(&mut |delta| {
                    digests[groups.position_of(&delta.id.key)].add(&delta.id, delta.tier);
                    ControlFlow::Continue(())
                });
                digests
            });
            let digests = match taken.await {
                Ok(digests) => digests,
                Err(error) => return MemberError::Stopped { detail: format!("the inventory: {error}") },
            };
            let awaiting = feeds.iter().zip(digests).zip(awaiting).filter(|(_, awaits)| *awaits);
            awaiting.for_each(|((feed, digests), _)| feed.give_inventory(digests));
        }
    }

    /// Moves changes of what is held to the feeds of their groups, for ever.
    async fn share_changes(&self, source: &dyn BlockSource, feeds: &[Feed], lacking: &Notify) -> MemberError {
        let groups = self.directory_groups();
        let mut deltas = Vec::with_capacity(REPORT_DELTAS_MAX);
        let mut shares: Vec<Vec<BlockDelta>> = vec![Vec::new(); feeds.len()];
        loop {
            source.ready().await;
            let mut lost = false;
            for feed in feeds {
                if !feed.has_room().await {
                    feed.lack_inventory();
                    lost = true;
                }
            }
            if source.take_deltas(REPORT_DELTAS_MAX, &mut deltas) == DeltaStatus::Overflowed {
                deltas.clear();
                feeds.iter().for_each(Feed::lack_inventory);
                lost = true;
            }
            if let [feed] = feeds {
                feed.push(deltas.drain(..));
            } else {
                deltas.drain(..).for_each(|delta| shares[groups.position_of(&delta.id.key)].push(delta));
                feeds.iter().zip(&mut shares).for_each(|(feed, share)| feed.push(share.drain(..)));
            }
            if lost {
                lacking.notify_one();
            }
            // A source that is always ready must not keep the groups from being told.
            tokio::task::yield_now().await;
        }
    }

    /// Tells a group what it is to know, as long as it listens to this incarnation.
    async fn report_to_group(
        &self,
        incarnation: Incarnation,
        position: usize,
        feed: &Feed,
        source: &Arc<dyn BlockSource>,
        lacking: &Notify,
    ) -> MemberError {
        let mut to = GroupReports { cluster: self, incarnation, position, feed, sent: None, way: None };
        loop {
            let reported = match feed.next().await {
                News::Inventory(digests) => to.resync(digests, source).await,
                News::Changes(deltas) => to.report(deltas, true).await,
            };
            match reported {
                Ok(Reported::Applied) => {}
                Ok(Reported::Gap) => {
                    tracing::info!(%incarnation, position, "the directory asks for the inventory");
                    feed.lack_inventory();
                    lacking.notify_one();
                }
                // The registration learns of it too, and ends this.
                Ok(Reported::Fenced) => return std::future::pending().await,
                Err(error) => return error,
            }
        }
    }
}

/// Sends what is held and chosen in pieces of a few reports, until nobody takes them any more.
fn send_held(
    source: &dyn BlockSource,
    is_chosen: impl Fn(&BlockDelta) -> bool,
    pieces: &mpsc::Sender<Vec<BlockDelta>>,
) {
    let mut piece = Vec::new();
    let broken = source.for_each_held(&mut |delta| {
        if is_chosen(&delta) {
            piece.push(delta);
        }
        if piece.len() < REPORT_DELTAS_MAX * REPORTS_IN_FLIGHT_MAX {
            return ControlFlow::Continue(());
        }
        match blocking_send(pieces, std::mem::take(&mut piece)) {
            Ok(()) => ControlFlow::Continue(()),
            Err(_) => ControlFlow::Break(()),
        }
    });
    if broken.is_continue() && !piece.is_empty() {
        // Whoever is gone needs no news.
        blocking_send(pieces, piece).ok();
    }
}

/// Resolves once this node knows that the one which was known to lead does not lead any more.
async fn deposed(group: &Group, leader: Option<NodeId>) {
    match leader {
        Some(leader) => group.deposed(leader).await,
        None => std::future::pending().await,
    }
}

/// The reports of one incarnation to one directory group.
struct GroupReports<'a> {
    cluster: &'a Cluster,
    incarnation: Incarnation,
    position: usize,
    feed: &'a Feed,
    /// When the last report was sent.
    sent: Option<Instant>,
    /// The way to the leader, and who that is, as long as it lasts.
    way: Option<(Pipe, Option<NodeId>)>,
}

impl GroupReports<'_> {
    /// Has the group compare what it knows with what is held, range by range, and reports what differs.
    async fn resync(
        &mut self,
        digests: Digests,
        source: &Arc<dyn BlockSource>,
    ) -> Result<Reported, MemberError> {
        if !self.cluster.may_say(command::RESYNC_SINCE).await {
            return self.begin_anew(source).await;
        }
        let digests = digests.coarsened();
        let parts = digests.parts();
        let mut differing = FxHashSet::default();
        for first in (0..Digests::RANGES).step_by(RESYNC_RANGES) {
            let ranges = first..(first + RESYNC_RANGES).min(Digests::RANGES);
            let resync = v1::ResyncHolder {
                node_id: self.cluster.node_id().0,
                incarnation: self.incarnation.0,
                sequence: self.next_sequence(),
                first_range: ranges.start as u32,
                ranges: ranges.len() as u32,
                tiers: digests.tiers(ranges),
                parts: parts as u32,
            };
            match self.tell(command::new(Body::ResyncHolder(resync))).await? {
                Kind::HolderResynced(resynced) => {
                    let tiers = resynced.differing.into_iter();
                    differing
                        .extend(tiers.flat_map(|tier| tier.ranges.into_iter().map(move |r| (tier.tier, r))));
                }
                other => return self.reported(other),
            }
        }
        tracing::debug!(position = self.position, differing = differing.len(), "what is held was compared");
        if differing.is_empty() {
            return Ok(Reported::Applied);
        }
        let differs = move |delta: &BlockDelta| {
            differing.contains(&(i32::from(delta.tier as u8), Digests::place(&delta.id, parts)))
        };
        self.report_held(source, differs).await
    }

    /// Has the group forget what it knows and reports all that is held: builds that do not compare know this.
    async fn begin_anew(&mut self, source: &Arc<dyn BlockSource>) -> Result<Reported, MemberError> {
        let begin = v1::BlockReport {
            node_id: self.cluster.node_id().0,
            incarnation: self.incarnation.0,
            sequence: self.next_sequence(),
            reset: true,
            ..Default::default()
        };
        let begun = self.tell(command::new(Body::BlockReport(begin))).await?;
        match self.reported(begun)? {
            Reported::Applied => self.report_held(source, |_| true).await,
            other => Ok(other),
        }
    }

    /// Reports what is held of this group's and chosen.
    async fn report_held(
        &mut self,
        source: &Arc<dyn BlockSource>,
        is_chosen: impl Fn(&BlockDelta) -> bool + Send + 'static,
    ) -> Result<Reported, MemberError> {
        let (pieces, mut told) = mpsc::channel(1);
        let (source, groups) = (Arc::clone(source), self.cluster.directory_groups());
        let position = self.position;
        let is_wanted =
            move |delta: &BlockDelta| groups.position_of(&delta.id.key) == position && is_chosen(delta);
        let visit = spawn_blocking(move || send_held(&*source, is_wanted, &pieces));
        while let Some(piece) = told.recv().await {
            // Changes wait: one that this piece does not know of must not come before it.
            match self.report(piece, false).await? {
                Reported::Applied => {}
                other => return Ok(other),
            }
        }
        match visit.await {
            Ok(()) => Ok(Reported::Applied),
            Err(error) => Err(MemberError::Stopped { detail: format!("the inventory: {error}") }),
        }
    }

    /// Reports these changes, and if `go_on` those that come meanwhile. Full reports go one after the other without
    /// waiting; one that is not full waits for the answers, and grows while it does.
    async fn report(&mut self, deltas: Vec<BlockDelta>, go_on: bool) -> Result<Reported, MemberError> {
        let group = &self.cluster.0.directories[self.position];
        let linger = Duration::from_millis(REPORT_LINGER_MS);
        let mut deltas = VecDeque::from(deltas);
        // Sent anew, in their order, whenever the way to the leader ends: their numbers make that harmless
        // (INV-IDEMPOTENT).
        let mut unanswered: VecDeque<Bytes> = VecDeque::new();
        let mut heard = Instant::now();
        loop {
            let due = self.sent.map_or_else(Instant::now, |sent| sent + linger);
            if go_on && unanswered.is_empty() && deltas.len() < REPORT_DELTAS_MAX && due > Instant::now() {
                tokio::select! {
                    () = tokio::time::sleep_until(due.into()) => {}
                    more = self.feed.changes() => deltas.extend(more),
                }
                continue;
            }
            while !deltas.is_empty()
                && (unanswered.is_empty()
                    || deltas.len() >= REPORT_DELTAS_MAX && unanswered.len() < REPORTS_IN_FLIGHT_MAX)
            {
                let report = self.encode(&mut deltas);
                if let Some((pipe, _)) = &mut self.way {
                    pipe.send(report.clone()).await;
                }
                if unanswered.is_empty() {
                    heard = Instant::now();
                }
                unanswered.push_back(report);
                self.sent = Some(Instant::now());
            }
            if unanswered.is_empty() {
                return Ok(Reported::Applied);
            }
            let patience = Duration::from_millis(PROPOSE_ATTEMPT_MS);
            let Some((open, leader)) = &mut self.way else {
                if let Some(reason) = group.failure() {
                    return Err(MemberError::Stopped { detail: reason });
                }
                let leader = group.leader();
                match self.cluster.open_pipe(group).await {
                    None => pause().await,
                    Some(mut pipe) => {
                        for report in &unanswered {
                            pipe.send(report.clone()).await;
                        }
                        heard = Instant::now();
                        self.way = Some((pipe, leader));
                    }
                }
                continue;
            };
            let leader = *leader;
            tokio::select! {
                biased;
                answer = tokio::time::timeout_at((heard + patience).into(), open.next()) => match answer {
                    Ok(Some(LocalProposal::Applied(_, outcome))) => {
                        unanswered.pop_front();
                        heard = Instant::now();
                        self.feed.note_progress();
                        match self.reported(self.outcome(outcome)?)? {
                            Reported::Applied => {}
                            other => {
                                // Answers to what was sent behind it must not be taken for later ones'.
                                self.way = None;
                                return Ok(other);
                            }
                        }
                    }
                    Ok(Some(LocalProposal::Stopped(detail))) => return Err(MemberError::Stopped { detail }),
                    Ok(Some(LocalProposal::NotLeader(_) | LocalProposal::Unknown) | None) | Err(_) => {
                        self.way = None;
                        pause().await;
                    }
                },
                // A leader that was stopped answers nothing, and its connection lives on.
                () = deposed(group, leader) => self.way = None,
                more = self.feed.changes(), if go_on && deltas.len() < REPORT_DELTAS_MAX => deltas.extend(more),
            }
        }
    }

    /// The next report of these changes.
    fn encode(&self, deltas: &mut VecDeque<BlockDelta>) -> Bytes {
        let count = deltas.len().min(REPORT_DELTAS_MAX);
        let mut report = v1::BlockReport {
            node_id: self.cluster.node_id().0,
            incarnation: self.incarnation.0,
            sequence: self.next_sequence(),
            reset: false,
            ..Default::default()
        };
        if self.cluster.finalized_version() >= command::RUNS_SINCE {
            report.runs = pack_runs(deltas.drain(..count));
        } else {
            report.deltas = pack_deltas(deltas.drain(..count));
        }
        command::new(Body::BlockReport(report)).encode_to_vec().into()
    }

    fn next_sequence(&self) -> u64 {
        self.cluster.0.report_sequences[self.position].fetch_add(1, Ordering::Relaxed) + 1
    }

    fn outcome(&self, outcome: v1::Outcome) -> Result<Kind, MemberError> {
        let refused = |detail| MemberError::Refused { node: self.cluster.node_id(), detail };
        match outcome.kind {
            Some(Kind::Refused(reason)) => Err(refused(reason.detail)),
            Some(kind) => Ok(kind),
            None => Err(refused("the leader gave an outcome of a later version".into())),
        }
    }

    fn reported(&self, kind: Kind) -> Result<Reported, MemberError> {
        match kind {
            Kind::ReportApplied(_) => Ok(Reported::Applied),
            Kind::ReportGap(_) => Ok(Reported::Gap),
            Kind::Superseded(_) => Ok(Reported::Fenced),
            _ => {
                let detail = "a report had the outcome of another command".into();
                Err(MemberError::Refused { node: self.cluster.node_id(), detail })
            }
        }
    }

    /// Proposes a command until its fate is known.
    async fn tell(&mut self, command: v1::Command) -> Result<Kind, MemberError> {
        let group = self.cluster.0.directories[self.position].id();
        loop {
            let deadline = Instant::now() + Duration::from_millis(PROPOSE_ATTEMPT_MS);
            match self.cluster.propose(group, command.clone(), deadline).await {
                Ok((_, kind)) => {
                    self.feed.note_progress();
                    return Ok(kind);
                }
                Err(ProposeError::Refused { detail, .. }) => {
                    return Err(MemberError::Refused { node: self.cluster.node_id(), detail });
                }
                Err(ProposeError::Stopped { detail, .. }) => return Err(MemberError::Stopped { detail }),
                Err(ProposeError::NoLeader { .. } | ProposeError::Unknown { .. }) => pause().await,
            }
        }
    }
}
