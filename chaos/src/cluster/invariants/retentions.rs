//! What was said last of how a block is kept holds on every node until it ends by replicated time, through crashes
//! and snapshots.
//!
//! *Source*: DESIGN.md, section 1.4: "the cluster replicates it, and every tier on every node evicts by it";
//! `proto/hearth/v1/command.proto`, SetRetention.

use std::collections::BTreeMap;

use hearth_cluster::sim::RetentionView;
use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::{BlockId, BlockKey, GroupId, NamespaceId};

use super::Seen;
use super::history::{Entry, History};

/// Priority, and the end; zero is never.
type Said = BTreeMap<BlockId, (u8, u64)>;

/// What was said, after the entries that changed it.
#[derive(Default)]
pub(super) struct RetentionsLast {
    next_index: u64,
    now: Said,
    after: BTreeMap<u64, Said>,
    looked: BTreeMap<(usize, u8), u64>,
}

impl RetentionsLast {
    pub(super) fn check(&mut self, seen: &[Seen], history: &History) -> Result<(), String> {
        for (index, entry) in history.from(GroupId::DIRECTORY, self.next_index) {
            self.next_index = index + 1;
            self.follow(entry);
            if self.after.last_key_value().is_none_or(|(_, last)| *last != self.now) {
                self.after.insert(index, self.now.clone());
            }
        }
        seen.iter().try_for_each(|node| self.compare(node))
    }

    fn follow(&mut self, entry: &Entry) {
        let now_ms = entry.time_ms();
        if entry.moves_time() {
            self.now.retain(|_, (_, expires_at_ms)| *expires_at_ms == 0 || *expires_at_ms > now_ms);
        }
        let (Some(Body::SetRetention(set)), Some(Kind::Done(_))) = (entry.body(), entry.outcome()) else {
            return;
        };
        let expires_at_ms = if set.duration_ms == 0 { 0 } else { now_ms + set.duration_ms };
        let (keys, _) = set.keys.as_chunks::<32>();
        for key in keys {
            let id = BlockId { namespace: NamespaceId(set.namespace_id), key: BlockKey(*key) };
            self.now.insert(id, (set.priority as u8, expires_at_ms));
        }
    }

    /// Holds a node's copy against the log.
    fn compare(&mut self, node: &Seen) -> Result<(), String> {
        let Some((applied, _)) = node.group(GroupId::DIRECTORY).applied else { return Ok(()) };
        let life = (node.machine.index, node.machine.life());
        if applied >= self.next_index || self.looked.insert(life, applied) == Some(applied) {
            return Ok(());
        }
        let Some((_, said)) = self.after.range(..=applied).next_back() else { return Ok(()) };
        let view = |(block, (priority, expires_at_ms)): (&BlockId, &(u8, u64))| RetentionView {
            block: *block,
            priority: *priority,
            expires_at_ms: *expires_at_ms,
        };
        let expected: Vec<_> = said.iter().map(view).collect();
        let found = node.cluster.retained(GroupId::DIRECTORY);
        if found == expected {
            return Ok(());
        }
        Err(format!(
            "retentions: after entry {applied} {} keeps {found:?}, the log says {expected:?}",
            node.machine.name
        ))
    }
}
