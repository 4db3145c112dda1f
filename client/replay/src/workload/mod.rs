//! What is replayed: sessions of requests over one tree of prefix blocks.
//!
//! Every source (our generator, each trace format) ends in the same [`Workload`]. Blocks that two
//! prompts share are one node of one tree, so a trace of 40 million block references is held as
//! the million and a half blocks that differ. This module does no timing and talks to no store.

pub mod agents;
mod distribution;
mod reader;
mod tree;

use std::time::Duration;

use hearth_proto::Priority;

pub use distribution::{Quantiles, QuantilesError};
pub use reader::{ReadError, TraceFormat, read_trace};
pub use tree::{BlockTree, Scope, Tip, TreeFull};

/// Sessions of requests, and the blocks that their prompts are made of.
#[derive(Clone, Debug)]
pub struct Workload {
    /// Where the workload came from, fit for a report: no paths.
    pub name: String,
    /// Tokens in one block.
    pub block_tokens: u32,
    /// Every block that any request names.
    pub tree: BlockTree,
    /// The sessions, in the order in which they are admitted.
    pub sessions: Vec<Session>,
}

/// One conversation: its requests are sent strictly in order.
#[derive(Clone, Debug)]
pub struct Session {
    /// When the session begins, since the start of the workload. `None` when the source does not
    /// know: the session then begins when the replay has room for it.
    pub start: Option<Duration>,
    /// The requests, oldest first.
    pub requests: Vec<Request>,
}

/// One prompt as it reaches an engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// When the request is sent, since the start of its session.
    pub at: Duration,
    /// Time from the answer to the request before it until it is sent: tools run, or a user reads.
    /// `None` when the source does not say.
    pub think: Option<Duration>,
    /// The last block of the prompt.
    pub prompt: Tip,
    /// The last block that exists once the answer is decoded; equal to `prompt` when the source
    /// does not say which blocks the answer fills.
    pub output: Tip,
    /// Tokens of the prompt.
    pub input_tokens: u64,
    /// Tokens of the answer.
    pub output_tokens: u64,
    /// What the harness says about keeping the blocks, in order, from the start of the chain.
    pub ranges: Box<[PriorityRange]>,
}

/// A run of blocks of one chain that share a retention priority.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PriorityRange {
    /// Index of the first block after the run; the run begins where the one before it ends.
    pub end_block: u32,
    /// The priority of every block of the run.
    pub priority: Priority,
}

/// The part of a workload that is replayed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Slice {
    /// Sessions left out at the front.
    pub skip: usize,
    /// Sessions kept after those; `None` keeps all.
    pub sessions: Option<usize>,
    /// Requests kept, counted session by session; `None` keeps all.
    pub requests: Option<usize>,
}

impl Request {
    /// The priority of the block at `index` of the chain.
    pub fn priority_at(&self, index: usize) -> Priority {
        let run = self.ranges.iter().find(|range| index < range.end_block as usize);
        run.map_or(Priority::DEFAULT, |range| range.priority)
    }
}

impl Workload {
    /// Requests in all sessions together.
    pub fn request_count(&self) -> usize {
        self.sessions.iter().map(|session| session.requests.len()).sum()
    }

    /// Keeps only what `slice` names. The tree stays whole, because chains point into it.
    #[must_use]
    pub fn slice(mut self, slice: Slice) -> Self {
        self.sessions.drain(..slice.skip.min(self.sessions.len()));
        if let Some(sessions) = slice.sessions {
            self.sessions.truncate(sessions);
        }
        if let Some(mut left) = slice.requests {
            for session in &mut self.sessions {
                session.requests.truncate(left);
                left -= session.requests.len();
            }
            self.sessions.retain(|session| !session.requests.is_empty());
        }
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(requests: usize) -> Session {
        let request = Request {
            at: Duration::ZERO,
            think: None,
            prompt: Tip::ROOT,
            output: Tip::ROOT,
            input_tokens: 1,
            output_tokens: 1,
            ranges: Box::new([]),
        };
        Session { start: None, requests: vec![request; requests] }
    }

    fn workload(sessions: &[usize]) -> Workload {
        Workload {
            name: "test".into(),
            block_tokens: 64,
            tree: BlockTree::new(),
            sessions: sessions.iter().map(|&requests| session(requests)).collect(),
        }
    }

    #[test]
    fn a_slice_keeps_what_it_names() {
        let sizes = |slice| {
            let sliced = workload(&[3, 4, 5]).slice(slice);
            sliced.sessions.iter().map(|session| session.requests.len()).collect::<Vec<_>>()
        };
        assert_eq!(sizes(Slice::default()), [3, 4, 5]);
        assert_eq!(sizes(Slice { skip: 1, ..Slice::default() }), [4, 5]);
        assert_eq!(sizes(Slice { skip: 9, ..Slice::default() }), [0; 0]);
        assert_eq!(sizes(Slice { skip: 1, sessions: Some(1), requests: None }), [4]);
        assert_eq!(sizes(Slice { requests: Some(5), ..Slice::default() }), [3, 2]);
        assert_eq!(sizes(Slice { requests: Some(3), ..Slice::default() }), [3]);
    }

    #[test]
    fn a_priority_is_that_of_the_run_and_the_default_after_the_last() {
        let priority = |value| Priority::new(value).expect("in range");
        let mut request = session(1).requests.remove(0);
        request.ranges = Box::new([
            PriorityRange { end_block: 2, priority: priority(90) },
            PriorityRange { end_block: 3, priority: priority(5) },
        ]);
        let values: Vec<u8> = (0..4).map(|index| request.priority_at(index).value()).collect();
        assert_eq!(values, [90, 90, 5, 35]);
    }
}
