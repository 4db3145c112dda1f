//! Writes one session after another into a block tree.

use std::time::Duration;

use hearth_proto::Priority;
use rand::{Rng, SeedableRng};
use rand_chacha::ChaCha12Rng;
use rustc_hash::FxHashMap;

use super::AgentParams;
use crate::workload::{BlockTree, PriorityRange, Request, Scope, Session, Tip, TreeFull};

/// Keeps what sessions share: the tree, and the set-up of each version.
pub(super) struct Author<'a> {
    params: &'a AgentParams,
    seed: u64,
    tree: BlockTree,
    versions: Vec<Version>,
    setups: FxHashMap<(u32, Role), Tip>,
}

/// Tokens of tools and system prompt of one harness version.
#[derive(Clone, Copy)]
struct Version {
    setup_tokens: u64,
}

#[derive(Clone, Copy, PartialEq, Eq, Hash)]
enum Role {
    Main,
    Subagent,
}

/// The context of one conversation, as tokens and as the chain of its full blocks.
struct Context {
    scope: Scope,
    next_id: u64,
    block_tokens: u64,
    tokens: u64,
    tip: Tip,
    setup_tokens: u64,
    setup_tip: Tip,
}

/// The reasoning of the turn in progress, which may be dropped when it ends.
#[derive(Default)]
struct TurnReasoning {
    begins_at_tokens: Option<u64>,
    tokens: u64,
}

/// The answer to one request, in tokens.
struct Answer {
    tokens: u64,
    reasoning: u64,
}

impl Context {
    /// Appends `tokens` that no other context has.
    fn grow(&mut self, tree: &mut BlockTree, tokens: u64) -> Result<(), TreeFull> {
        self.tokens += tokens;
        for _ in tree.depth(self.tip) as u64..self.tokens / self.block_tokens {
            self.tip = tree.push(self.tip, &self.scope, self.next_id)?;
            self.next_id += 1;
        }
        Ok(())
    }

    /// Forgets everything after the first `tokens`.
    fn cut(&mut self, tree: &BlockTree, tokens: u64) {
        self.tokens = self.tokens.min(tokens);
        self.tip = tree.truncated(self.tip, (self.tokens / self.block_tokens) as usize);
    }

    /// Goes back to the set-up, then appends `tokens`.
    fn restart(&mut self, tree: &mut BlockTree, tokens: u64) -> Result<(), TreeFull> {
        self.tokens = self.setup_tokens;
        self.tip = self.setup_tip;
        self.grow(tree, tokens)
    }
}

impl<'a> Author<'a> {
    pub(super) fn new(params: &'a AgentParams, seed: u64) -> Self {
        // Stream 0 belongs to what sessions share.
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        let versions = (0..params.versions.max(1))
            .map(|_| Version {
                setup_tokens: params.tool_tokens.draw_count(&mut rng)
                    + params.system_tokens.draw_count(&mut rng),
            })
            .collect();
        Self { params, seed, tree: BlockTree::new(), versions, setups: FxHashMap::default() }
    }

    pub(super) fn into_tree(self) -> BlockTree {
        self.tree
    }

    /// Writes session `number` and its sub-agents to the end of `sessions`.
    pub(super) fn write_session(
        &mut self,
        number: u64,
        rng: &mut ChaCha12Rng,
        sessions: &mut Vec<Session>,
    ) -> Result<(), TreeFull> {
        let params = self.params;
        let version = rng.random_range(0..self.versions.len()) as u32;
        let count = params.requests.draw_count(rng).max(1);
        let long = count > params.long_session_requests;
        let resumed =
            rng.random_bool(if long { params.resumed_share_long } else { params.resumed_share_short });
        let opening = if resumed { &params.resumed_tokens } else { &params.opening_tokens }.draw_count(rng);
        let mut context = self.open(version, Role::Main, number, 0)?;
        let opening = if resumed { opening.saturating_sub(context.setup_tokens) } else { opening };
        context.grow(&mut self.tree, opening.max(params.block_tokens.into()))?;
        let limit = self.compaction_limit(context.tokens, rng);
        let drops_reasoning = rng.random_bool(params.reasoning_dropped_share);

        let mut requests = Vec::with_capacity(count as usize);
        let mut reasoning = TurnReasoning::default();
        let mut at = Duration::ZERO;
        for step in 0..count {
            let answer = self.answer(rng);
            let request =
                self.request(&mut context, at, &answer, drops_reasoning, params.priority_conversation)?;
            if answer.reasoning > 0 {
                reasoning.begins_at_tokens.get_or_insert(request.input_tokens);
                reasoning.tokens += answer.reasoning;
            }
            requests.push(request);
            at += self.gap(rng);
            if rng.random_bool(params.turn_share) {
                let finished = std::mem::take(&mut reasoning);
                if drops_reasoning {
                    self.drop_reasoning(&mut context, &finished)?;
                }
            }
            let factor = match step {
                0 | 1 if !resumed => params.reading_in.0,
                2..=4 if !resumed => params.reading_in.1,
                _ => 1.0,
            };
            let result = (params.result_tokens.draw(rng) * factor) as u64;
            if context.tokens + result > limit {
                context.restart(&mut self.tree, params.summary_tokens.draw_count(rng))?;
                reasoning = TurnReasoning::default();
            } else if rng.random_bool(params.rebuild_share) {
                let tokens = context.tokens + result - context.setup_tokens;
                context.restart(&mut self.tree, tokens)?;
                reasoning = TurnReasoning::default();
            } else {
                context.grow(&mut self.tree, result)?;
            }
        }
        sessions.push(Session { start: None, requests });
        if rng.random_bool(params.subagent_session_share) {
            for index in 0..params.subagents.draw_count(rng) {
                let session = self.subagent(version, number, index + 1, rng)?;
                sessions.push(session);
            }
        }
        Ok(())
    }

    /// A sub-agent: a set-up of its own, one question, a few calls, no user.
    fn subagent(
        &mut self,
        version: u32,
        number: u64,
        index: u64,
        rng: &mut ChaCha12Rng,
    ) -> Result<Session, TreeFull> {
        let params = self.params;
        let mut context = self.open(version, Role::Subagent, number, index)?;
        context.grow(&mut self.tree, params.subagent_opening_tokens.draw_count(rng))?;
        let mut requests = Vec::new();
        let mut at = Duration::ZERO;
        for _ in 0..params.subagent_requests.draw_count(rng).max(1) {
            let answer = self.answer(rng);
            requests.push(self.request(&mut context, at, &answer, false, params.priority_subagent)?);
            at += Duration::from_secs_f64(params.tool_gap_s.draw(rng));
            context
                .grow(&mut self.tree, (params.result_tokens.draw(rng) * params.subagent_reading) as u64)?;
        }
        Ok(Session { start: None, requests })
    }

    /// A context that holds the set-up of `version` and nothing else yet.
    fn open(&mut self, version: u32, role: Role, number: u64, index: u64) -> Result<Context, TreeFull> {
        let block_tokens = u64::from(self.params.block_tokens);
        let setup_tokens = match role {
            Role::Main => self.versions[version as usize].setup_tokens,
            Role::Subagent => self.params.subagent_setup_tokens.0 + self.params.subagent_setup_tokens.1,
        };
        let setup_tip = self.setup(version, role, setup_tokens / block_tokens)?;
        let scope =
            Scope::new(&[b"agent", &self.seed.to_le_bytes(), &number.to_le_bytes(), &index.to_le_bytes()]);
        Ok(Context {
            scope,
            next_id: 0,
            block_tokens,
            tokens: setup_tokens,
            tip: setup_tip,
            setup_tokens,
            setup_tip,
        })
    }

    fn setup(&mut self, version: u32, role: Role, blocks: u64) -> Result<Tip, TreeFull> {
        if let Some(&tip) = self.setups.get(&(version, role)) {
            return Ok(tip);
        }
        let role_name: &[u8] = match role {
            Role::Main => b"main",
            Role::Subagent => b"subagent",
        };
        let scope = Scope::new(&[b"setup", &self.seed.to_le_bytes(), &version.to_le_bytes(), role_name]);
        let mut tip = Tip::ROOT;
        for id in 0..blocks {
            tip = self.tree.push(tip, &scope, id)?;
        }
        self.setups.insert((version, role), tip);
        Ok(tip)
    }

    /// Tokens at which the session is compacted; a session that starts beyond that has a large window.
    fn compaction_limit(&self, tokens: u64, rng: &mut ChaCha12Rng) -> u64 {
        let small = self.params.compact_at_tokens.draw_count(rng);
        let large = self.params.compact_at_tokens_large.draw_count(rng);
        let lucky = rng.random_bool(self.params.large_window_share);
        if lucky || tokens > small { large.max(tokens + tokens / 10) } else { small }
    }

    fn answer(&self, rng: &mut ChaCha12Rng) -> Answer {
        let tokens = self.params.output_tokens.draw_count(rng);
        let part = self.params.reasoning_part.draw(rng);
        let reasons = rng.random_bool(self.params.reasoning_share);
        Answer { tokens, reasoning: if reasons { (tokens as f64 * part) as u64 } else { 0 } }
    }

    fn gap(&self, rng: &mut ChaCha12Rng) -> Duration {
        let away = rng.random_bool(self.params.pause_share);
        let table = if away { &self.params.pause_s } else { &self.params.tool_gap_s };
        Duration::from_secs_f64(table.draw(rng))
    }

    /// The request for the context as it stands; afterwards the context holds the answer too.
    fn request(
        &mut self,
        context: &mut Context,
        at: Duration,
        answer: &Answer,
        drops_reasoning: bool,
        conversation: Priority,
    ) -> Result<Request, TreeFull> {
        let (input_tokens, prompt) = (context.tokens, context.tip);
        context.grow(&mut self.tree, answer.tokens)?;
        let block = |tokens: u64| (tokens / context.block_tokens) as u32;
        let mut ranges = vec![
            PriorityRange { end_block: block(context.setup_tokens), priority: self.params.priority_setup },
            PriorityRange { end_block: block(input_tokens), priority: conversation },
        ];
        if drops_reasoning && answer.reasoning > 0 {
            let end_block = block(input_tokens + answer.reasoning);
            ranges.push(PriorityRange { end_block, priority: self.params.priority_dropped });
        }
        ranges.push(PriorityRange { end_block: block(context.tokens), priority: conversation });
        Ok(Request {
            at,
            think: None,
            prompt,
            output: context.tip,
            input_tokens,
            output_tokens: answer.tokens,
            ranges: ranges.into_boxed_slice(),
        })
    }

    /// Takes the reasoning of a finished turn out of the prompt; what followed it moves up, so its
    /// blocks are re-made.
    fn drop_reasoning(&mut self, context: &mut Context, turn: &TurnReasoning) -> Result<(), TreeFull> {
        let Some(begins_at) = turn.begins_at_tokens else { return Ok(()) };
        let kept = context.tokens - begins_at - turn.tokens;
        context.cut(&self.tree, begins_at);
        context.grow(&mut self.tree, kept)
    }
}
