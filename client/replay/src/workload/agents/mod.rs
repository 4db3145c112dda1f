//! Our own coding-agent sessions, made from a seed: what they are like, in numbers.
//!
//! A session is a loop of model call and tool call over a context that only grows, now and then
//! broken: compacted near the window's limit, re-made after the set-up, or shortened because the
//! reasoning of a finished turn is dropped. Sub-agents run beside it with shorter prompts.

mod session;

use hearth_proto::Priority;
use rand::SeedableRng;
use rand_chacha::ChaCha12Rng;

use super::{Quantiles, Session, TreeFull, Workload};
use session::Author;

/// What the generated sessions are like. The defaults are fitted.
///
/// *Source*: 348 anonymised Claude Code sessions with 21,359 requests (callanjfox/kv-cache-tester,
/// Apache-2.0), measured over whole 64-token blocks. Quantile tables are those measurements,
/// rounded, and drawn in a little where a straight line to the tail would overstate it. What that
/// trace cannot show is marked *assumed*. The long context against the short answer agrees with the about 100:1 that Manus reports ("Context Engineering for AI Agents", 2025).
#[derive(Clone, Debug)]
pub struct AgentParams {
    /// Tokens in one block.
    pub block_tokens: u32,
    /// Versions of the harness in use at once; sessions of one version share their set-up.
    pub versions: u32,
    /// Tool definitions of a version, in tokens: the first part of every prompt.
    pub tool_tokens: Quantiles,
    /// System prompt of a version, in tokens: follows the tools.
    pub system_tokens: Quantiles,
    /// Model calls of one session, without those of its sub-agents.
    pub requests: Quantiles,
    /// Tokens that the first prompt of a new session has after the set-up.
    pub opening_tokens: Quantiles,
    /// Share of sessions of at most [`AgentParams::long_session_requests`] that go on from an
    /// older one, whose context their first prompt brings along.
    pub resumed_share_short: f64,
    /// The same share among longer sessions.
    pub resumed_share_long: f64,
    /// Number of requests beyond which a session counts as long.
    pub long_session_requests: u64,
    /// Tokens of the first prompt of a resumed session.
    pub resumed_tokens: Quantiles,
    /// Tokens of one answer, reasoning included.
    pub output_tokens: Quantiles,
    /// Tokens that come back from tools, or from the user, between two requests.
    pub result_tokens: Quantiles,
    /// Factors on `result_tokens` for the first two steps of a new session and for the three after
    /// them: the agent reads its way in.
    pub reading_in: (f64, f64),
    /// Share of requests that begin a new turn, that is, bring words of the user.
    pub turn_share: f64,
    /// Seconds from one request to the next within a turn: the model's time and the tool's.
    pub tool_gap_s: Quantiles,
    /// Seconds from one request to the next when the user has been away.
    pub pause_s: Quantiles,
    /// Share of requests before which the user has been away.
    pub pause_share: f64,
    /// Tokens of context at which a session is compacted.
    pub compact_at_tokens: Quantiles,
    /// The same for sessions with a large window.
    pub compact_at_tokens_large: Quantiles,
    /// Share of sessions with a large window, besides those that already start beyond a small one.
    pub large_window_share: f64,
    /// Tokens of the summary that takes the place of the conversation.
    pub summary_tokens: Quantiles,
    /// Share of requests at which all after the set-up is re-made: tools reordered, a reminder put
    /// in front, an early message edited.
    pub rebuild_share: f64,
    /// Share of sessions whose model drops the reasoning of a turn from the prompt when the next
    /// turn begins; the blocks after it are re-made. Always 1 for templates such as Qwen3's.
    pub reasoning_dropped_share: f64,
    /// Share of answers that reason before they speak.
    pub reasoning_share: f64,
    /// Share of such an answer's tokens that are reasoning. *Assumed.*
    pub reasoning_part: Quantiles,
    /// Share of sessions that use sub-agents.
    pub subagent_session_share: f64,
    /// Sub-agents of such a session.
    pub subagents: Quantiles,
    /// Model calls of one sub-agent.
    pub subagent_requests: Quantiles,
    /// Tools and system prompt of a sub-agent, in tokens; shared between sub-agents of a version,
    /// not with their parents.
    pub subagent_setup_tokens: (u64, u64),
    /// Tokens that the first prompt of a sub-agent has after its set-up.
    pub subagent_opening_tokens: Quantiles,
    /// Factor on `result_tokens` in sub-agents: they are sent to read.
    pub subagent_reading: f64,
    /// What the harness says of the set-up. *Assumed.*
    pub priority_setup: Priority,
    /// What the harness says of the conversation. *Assumed.*
    pub priority_conversation: Priority,
    /// What the harness says of a sub-agent's conversation. *Assumed.*
    pub priority_subagent: Priority,
    /// What the harness says of reasoning that will be dropped. *Assumed.*
    pub priority_dropped: Priority,
}

impl Default for AgentParams {
    fn default() -> Self {
        let priority = |value| Priority::new(value).expect("the defaults lie within 0 to 100");
        let table = Quantiles::of_percentiles;
        Self {
            block_tokens: 64,
            versions: 6,
            tool_tokens: table([
                7_401., 7_655., 9_056., 9_292., 10_667., 12_439., 12_589., 12_974., 13_136., 15_184., 16_022.,
            ]),
            system_tokens: table([
                498., 699., 1_573., 1_906., 2_227., 2_770., 2_988., 3_515., 4_283., 5_964., 6_530.,
            ]),
            requests: table([3., 3., 4., 6., 15., 36., 87., 144., 198., 306., 440.]),
            opening_tokens: table([
                110., 159., 458., 563., 2_620., 3_779., 5_183., 6_889., 10_739., 15_778., 16_300.,
            ]),
            resumed_share_short: 0.60,
            resumed_share_long: 0.21,
            long_session_requests: 60,
            resumed_tokens: table([
                35_760., 37_982., 43_254., 57_018., 70_943., 113_888., 216_739., 370_773., 479_161.,
                716_145., 790_000.,
            ]),
            output_tokens: table([20., 59., 90., 105., 139., 215., 423., 869., 1_510., 3_606., 16_000.]),
            result_tokens: table([4., 8., 12., 20., 50., 250., 1_000., 2_900., 5_600., 15_500., 60_000.]),
            reading_in: (9.0, 4.0),
            turn_share: 0.16,
            tool_gap_s: table([3., 6., 7., 8., 11., 17., 34., 92., 165., 620., 4_000.]),
            pause_s: table([2., 5., 10., 19., 70., 222., 892., 2_795., 6_826., 46_359., 77_000.]),
            pause_share: 0.03,
            compact_at_tokens: table([
                70_000., 105_000., 140_000., 144_000., 150_000., 155_000., 163_000., 165_000., 167_000.,
                168_000., 170_000.,
            ]),
            compact_at_tokens_large: table([
                330_000., 335_000., 345_000., 370_000., 430_000., 520_000., 640_000., 740_000., 800_000.,
                880_000., 950_000.,
            ]),
            large_window_share: 0.04,
            summary_tokens: table([
                100., 300., 1_500., 3_000., 14_000., 26_000., 38_000., 52_000., 60_000., 67_000., 70_000.,
            ]),
            rebuild_share: 0.010,
            reasoning_dropped_share: 0.05,
            reasoning_share: 0.45,
            reasoning_part: table([0.1, 0.1, 0.15, 0.2, 0.35, 0.5, 0.65, 0.8, 0.85, 0.9, 0.9]),
            subagent_session_share: 0.03,
            subagents: table([1., 1., 1., 1., 2., 4., 5., 6., 8., 8., 8.]),
            subagent_requests: table([2., 2., 2., 4., 7., 11., 14., 22., 24., 38., 38.]),
            subagent_setup_tokens: (7_771, 952),
            subagent_opening_tokens: table([
                100., 150., 200., 400., 800., 1_500., 3_000., 6_000., 8_000., 9_500., 10_000.,
            ]),
            subagent_reading: 3.0,
            priority_setup: priority(90),
            priority_conversation: priority(60),
            priority_subagent: priority(40),
            priority_dropped: priority(5),
        }
    }
}

/// Makes `sessions` coding-agent sessions and their sub-agents from `seed`.
///
/// Pure: equal arguments give equal workloads, hash for hash. Workloads of different seeds share
/// no block.
///
/// # Errors
/// [`TreeFull`] when the sessions name more blocks than can be numbered; the caller asks for fewer.
pub fn generate(params: &AgentParams, sessions: usize, seed: u64) -> Result<Workload, TreeFull> {
    let mut author = Author::new(params, seed);
    let mut made: Vec<Session> = Vec::new();
    for number in 0..sessions {
        // A stream of its own for each session: session 7 is the same in a run of 8 and of 800.
        let mut rng = ChaCha12Rng::seed_from_u64(seed);
        rng.set_stream(number as u64 + 1);
        author.write_session(number as u64, &mut rng, &mut made)?;
    }
    Ok(Workload {
        name: format!("{sessions} generated coding-agent sessions, seed {seed}"),
        block_tokens: params.block_tokens,
        tree: author.into_tree(),
        sessions: made,
    })
}

#[cfg(test)]
mod tests;
