//! Chat requests as Mooncake published them: one request a line, ids of 512-token blocks that are
//! unique in the whole file, no names of sessions.
//!
//! Which session a request belongs to is read from its prefix: it goes on where the request that
//! first had its deepest known block left off. The first block alone proves nothing: it is a
//! system prompt that all share.

use std::time::Duration;

use rustc_hash::FxHashMap;
use serde::Deserialize;

use super::{LineFault, LineReader, check_prompt, trace_time};
use crate::workload::{BlockTree, Request, Scope, Session, Tip, Workload};

const BLOCK_TOKENS: u64 = 512;

#[derive(Deserialize)]
struct Line {
    timestamp: f64,
    input_length: u64,
    #[serde(default)]
    output_length: u64,
    hash_ids: Vec<u64>,
}

pub(super) struct Reader {
    tree: BlockTree,
    scope: Scope,
    sessions: Vec<Session>,
    /// From a chain and the id that follows it to the block.
    tips: FxHashMap<(Tip, u64), Tip>,
    /// The session whose request first had the block, placed at the index of its tip.
    owners: Vec<u32>,
    last_at: Duration,
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            tree: BlockTree::new(),
            scope: Scope::new(&[b"mooncake"]),
            sessions: Vec::new(),
            tips: FxHashMap::default(),
            owners: vec![0],
            last_at: Duration::ZERO,
        }
    }
}

impl LineReader for Reader {
    fn take(&mut self, line: &[u8], _number: u64) -> Result<(), LineFault> {
        let line: Line = serde_json::from_slice(line)?;
        let at = trace_time(line.timestamp / 1_000.0)?;
        if at < self.last_at {
            let wrong = "earlier than the line before it".into();
            return Err(LineFault::Wrong { wrong, mend: "sort the lines by `timestamp`" });
        }
        self.last_at = at;
        check_prompt(line.hash_ids.len(), BLOCK_TOKENS, line.input_length)?;
        let mut tip = Tip::ROOT;
        let mut session = None;
        let mut fresh = self.sessions.len() as u32;
        for (index, &id) in line.hash_ids.iter().enumerate() {
            match self.tips.get(&(tip, id)) {
                Some(&known) => {
                    tip = known;
                    if index > 0 {
                        session = Some(self.owners[known.index()]);
                    }
                }
                None => {
                    fresh = session.unwrap_or(fresh);
                    let made = self.tree.push(tip, &self.scope, id)?;
                    self.tips.insert((tip, id), made);
                    self.owners.push(fresh);
                    tip = made;
                }
            }
        }
        let session = session.unwrap_or(self.sessions.len() as u32) as usize;
        if session == self.sessions.len() {
            self.sessions.push(Session { start: Some(at), requests: Vec::new() });
        }
        let session = &mut self.sessions[session];
        let start = session.start.unwrap_or_default();
        session.requests.push(Request {
            at: at - start,
            think: None,
            prompt: tip,
            output: tip,
            input_tokens: line.input_length,
            output_tokens: line.output_length,
            ranges: Box::new([]),
        });
        Ok(())
    }

    /// Any later line may still go on with any session.
    fn finished_sessions(&self) -> usize {
        0
    }

    fn finish(self: Box<Self>, name: String) -> Workload {
        Workload { name, block_tokens: BLOCK_TOKENS as u32, tree: self.tree, sessions: self.sessions }
    }
}
