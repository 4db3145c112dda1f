//! Tells the directory what this node holds: the inventory after each registration, then changes.

use std::sync::atomic::Ordering;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use hearth_proto::limits::{PROPOSE_ATTEMPT_MS, REPORT_DELTAS_MAX, REPORT_QUEUE_MAX};
use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::{BlockDelta, Incarnation, v1};
use tokio::sync::Notify;

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

/// What is to be reported to one directory group. Groups do not wait for each other: one without a leader
/// holds up nothing but itself.
#[derive(Default)]
struct Feed {
    queue: Mutex<Queue>,
    filled: Notify,
}

#[derive(Default)]
struct Queue {
    deltas: Vec<BlockDelta>,
    /// True if the group missed something, so that only the inventory will do.
    lacks_inventory: bool,
}

/// What a group is told next.
enum News {
    Inventory,
    Changes(Vec<BlockDelta>),
}

impl Feed {
    fn push(&self, deltas: impl Iterator<Item = BlockDelta>) {
        let mut queue = self.lock();
        if !queue.lacks_inventory {
            queue.deltas.extend(deltas);
        }
        if queue.deltas.len() > REPORT_QUEUE_MAX {
            queue.lack();
        }
        let is_news = queue.lacks_inventory || !queue.deltas.is_empty();
        drop(queue);
        if is_news {
            self.filled.notify_one();
        }
    }

    fn lack_inventory(&self) {
        self.lock().lack();
        self.filled.notify_one();
    }

    /// Waits for something to tell. An inventory that is taken after this has everything that was dropped.
    async fn next(&self) -> News {
        loop {
            {
                let mut queue = self.lock();
                if std::mem::take(&mut queue.lacks_inventory) {
                    return News::Inventory;
                }
                if !queue.deltas.is_empty() {
                    return News::Changes(std::mem::take(&mut queue.deltas));
                }
            }
            self.filled.notified().await;
        }
    }

    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Queue {
    fn lack(&mut self) {
        self.deltas = Vec::new();
        self.lacks_inventory = true;
    }
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
        let feeds: Vec<Feed> = self.directory_groups().ids().map(|_| Feed::default()).collect();
        feeds.iter().for_each(Feed::lack_inventory);
        // Each is as large as everything that is held, so they are taken one after the other.
        let inventory_turn = tokio::sync::Mutex::new(());
        let report_to = |(position, feed)| {
            Box::pin(self.report_to_group(incarnation, position, feed, source, &inventory_turn))
        };
        let reports = feeds.iter().enumerate().map(report_to);
        tokio::select! {
            (error, ..) = futures::future::select_all(reports) => error,
            error = self.share_changes(source, &feeds) => error,
        }
    }

    /// Moves changes of what is held to the feeds of their groups, for ever.
    async fn share_changes(&self, source: &dyn BlockSource, feeds: &[Feed]) -> MemberError {
        let groups = self.directory_groups();
        let mut deltas = Vec::with_capacity(REPORT_DELTAS_MAX);
        let mut shares: Vec<Vec<BlockDelta>> = vec![Vec::new(); feeds.len()];
        loop {
            source.ready().await;
            if source.take_deltas(REPORT_DELTAS_MAX, &mut deltas) == DeltaStatus::Overflowed {
                deltas.clear();
                feeds.iter().for_each(Feed::lack_inventory);
                continue;
            }
            for delta in deltas.drain(..) {
                shares[groups.position_of(&delta.id.key)].push(delta);
            }
            feeds.iter().zip(&mut shares).for_each(|(feed, share)| feed.push(share.drain(..)));
        }
    }

    /// Tells a group what it is to know, as long as it listens to this incarnation.
    async fn report_to_group(
        &self,
        incarnation: Incarnation,
        position: usize,
        feed: &Feed,
        source: &dyn BlockSource,
        inventory_turn: &tokio::sync::Mutex<()>,
    ) -> MemberError {
        loop {
            let reported = match feed.next().await {
                News::Inventory => {
                    let share = {
                        let _turn = inventory_turn.lock().await;
                        self.inventory_of(position, source)
                    };
                    self.report_all(incarnation, position, true, &share).await
                }
                News::Changes(deltas) => self.report_all(incarnation, position, false, &deltas).await,
            };
            match reported {
                Ok(Reported::Applied) => {}
                Ok(Reported::Gap) => {
                    tracing::info!(%incarnation, position, "the directory asks for the inventory");
                    feed.lack_inventory();
                }
                // The registration learns of it too, and ends this.
                Ok(Reported::Fenced) => return std::future::pending().await,
                Err(error) => return error,
            }
        }
    }

    /// What is held of the blocks of a group.
    fn inventory_of(&self, position: usize, source: &dyn BlockSource) -> Vec<BlockDelta> {
        let groups = self.directory_groups();
        let mut inventory = source.inventory();
        inventory.retain(|delta| groups.position_of(&delta.id.key) == position);
        inventory
    }

    /// Reports changes, or with `reset` an inventory, in as many reports as it takes.
    async fn report_all(
        &self,
        incarnation: Incarnation,
        position: usize,
        reset: bool,
        deltas: &[BlockDelta],
    ) -> Result<Reported, MemberError> {
        // An empty inventory is news too: the directory must drop what it had.
        let (first, rest) = deltas.split_at(deltas.len().min(REPORT_DELTAS_MAX));
        let mut reported = self.report(incarnation, position, reset, first).await?;
        for piece in rest.chunks(REPORT_DELTAS_MAX) {
            if !matches!(reported, Reported::Applied) {
                break;
            }
            reported = self.report(incarnation, position, false, piece).await?;
        }
        Ok(reported)
    }

    /// Sends one report until its fate is known. Its number makes repeating it harmless (INV-IDEMPOTENT).
    async fn report(
        &self,
        incarnation: Incarnation,
        position: usize,
        reset: bool,
        deltas: &[BlockDelta],
    ) -> Result<Reported, MemberError> {
        let group = self.0.directories[position].id();
        let sequence = self.0.report_sequences[position].fetch_add(1, Ordering::Relaxed) + 1;
        let report = command::new(Body::BlockReport(v1::BlockReport {
            node_id: self.node_id().0,
            incarnation: incarnation.0,
            sequence,
            reset,
            deltas: command::pack_deltas(deltas),
        }));
        loop {
            let deadline = Instant::now() + Duration::from_millis(PROPOSE_ATTEMPT_MS);
            match self.propose(group, report.clone(), deadline).await {
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
