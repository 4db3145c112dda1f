//! What is asked of a pool: how much of a chain each worker holds.

use std::sync::Arc;

use hearth_proto::limits::{QUERY_ATTEMPTS_MAX, QUERY_BLOCKS_MAX};
use hearth_proto::{Classified, ErrorKind};

use super::answer::Answer;
use super::hashes;
use super::pool::Pool;
use crate::index::Matches;

/// A chain, in one of the ways in which router authors name them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query<'a> {
    /// By its tokens. Those behind the last whole block are left out.
    Tokens {
        /// The tokens, from the start of the prompt.
        tokens: &'a [u32],
        /// What keeps it apart from equal ones, if anything.
        salt: Option<&'a str>,
    },
    /// By hashes that stand for each block and all before it, as Mooncake's RFC #1403 has them. Where engines tell of
    /// no tokens, these are the engines' own.
    SequenceHashes(&'a [u64]),
    /// By hashes of each block's tokens alone, as Dynamo has them.
    LocalHashes(&'a [u64]),
}

/// A query that cannot be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum QueryError {
    /// It asks for too many blocks. The caller asks for fewer.
    #[error("a query has {QUERY_BLOCKS_MAX} blocks at the most, not {blocks}: ask for the first ones")]
    TooManyBlocks {
        /// How many it asks for.
        blocks: usize,
    },
}

impl Classified for QueryError {
    fn kind(&self) -> ErrorKind {
        ErrorKind::FixRequest
    }
}

impl Pool {
    /// Finds how much of a chain each worker holds, and puts it in the place of what the answer said.
    ///
    /// Waits for no report: only for workers that come or go, and only if that happens again and again. While reports
    /// are taken in, each block of one is seen or not.
    ///
    /// # Errors
    /// [`QueryError`]; the answer is that of nothing then.
    pub fn query(&self, query: Query<'_>, answer: &mut Answer) -> Result<(), QueryError> {
        answer.reset(self.key().block_size());
        let mut rolled = std::mem::take(&mut answer.chain);
        let outcome = self.roll(query, &mut rolled, &mut answer.bytes).map(|()| {
            let chain = match query {
                Query::SequenceHashes(hashes) => hashes,
                Query::Tokens { .. } | Query::LocalHashes(_) => &rolled,
            };
            answer.blocks = chain.len();
            self.search(answer, |matches| self.index.find(chain, matches));
        });
        answer.chain = rolled;
        if outcome.is_err() {
            answer.roster = None;
        }
        outcome
    }

    /// Works out the hashes of a chain that is not named by them.
    fn roll(&self, query: Query<'_>, rolled: &mut Vec<u64>, bytes: &mut Vec<u8>) -> Result<(), QueryError> {
        let block_size = self.key().block_size();
        let blocks = match query {
            Query::Tokens { tokens, .. } => tokens.len() / block_size as usize,
            Query::SequenceHashes(hashes) | Query::LocalHashes(hashes) => hashes.len(),
        };
        if blocks > QUERY_BLOCKS_MAX {
            return Err(QueryError::TooManyBlocks { blocks });
        }
        rolled.clear();
        let mut last = None;
        let mut push = |local| {
            let block = hashes::next(last, local);
            last = Some(block);
            rolled.push(block);
        };
        match query {
            Query::Tokens { tokens, salt } => {
                let seed = self.block_seed(salt);
                hashes::for_each_local(tokens, block_size, seed, bytes, push);
            }
            Query::LocalHashes(locals) => locals.iter().for_each(|local| push(*local)),
            Query::SequenceHashes(_) => {}
        }
        Ok(())
    }

    /// Searches with a roster that is the present one all the while.
    pub(super) fn search(&self, answer: &mut Answer, mut find: impl FnMut(&mut Matches)) {
        for _ in 0..QUERY_ATTEMPTS_MAX {
            if !answer.roster.as_deref().is_some_and(|roster| self.board.is_present(roster)) {
                answer.set_roster(Arc::clone(&self.board.read()));
            }
            find(&mut answer.matches);
            // Otherwise a member's number may have gone to another worker meanwhile.
            if answer.roster.as_deref().is_some_and(|roster| self.board.is_present(roster)) {
                return;
            }
        }
        let present = self.board.read();
        answer.set_roster(Arc::clone(&present));
        find(&mut answer.matches);
    }
}
