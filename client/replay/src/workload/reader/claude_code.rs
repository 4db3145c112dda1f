//! Coding-agent sessions as kv-cache-tester records them: one session a line.
//!
//! Block ids are unique within a session only, so a session is their scope. `tool_tokens` and
//! `system_tokens` say how long the set-up at the start of the prompt is; it is the same for every
//! session of one harness version, so those blocks are named by model and lengths instead, and are
//! shared. Sub-agents are sessions of their own, placed after their parent.

use std::borrow::Cow;

use hearth_proto::Priority;
use rustc_hash::{FxHashMap, FxHashSet};
use serde::Deserialize;

use super::{LineFault, LineReader, check_prompt, trace_time};
use crate::workload::{BlockTree, PriorityRange, Request, Scope, Session, Tip, TreeFull, Workload};

/// What a harness would say of the set-up: every session needs it.
const PRIORITY_SETUP: u8 = 90;
/// What a harness would say of a conversation: its own next turn needs it.
const PRIORITY_CONVERSATION: u8 = 60;

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    id: Cow<'a, str>,
    block_size: u32,
    #[serde(borrow)]
    hash_id_scope: Option<Cow<'a, str>>,
    #[serde(default)]
    tool_tokens: u64,
    #[serde(default)]
    system_tokens: u64,
    #[serde(borrow)]
    requests: Vec<Entry<'a>>,
}

/// A request, or a sub-agent with requests of its own, timed from its own start.
#[derive(Deserialize)]
struct Entry<'a> {
    t: f64,
    #[serde(borrow)]
    model: Option<Cow<'a, str>>,
    #[serde(rename = "in")]
    input_tokens: Option<u64>,
    #[serde(rename = "out", default)]
    output_tokens: u64,
    hash_ids: Option<Vec<u64>>,
    think_time: Option<f64>,
    #[serde(default)]
    tool_tokens: u64,
    #[serde(default)]
    system_tokens: u64,
    requests: Option<Vec<Entry<'a>>>,
}

/// What makes two set-ups the same: the model and the lengths of both parts.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Setup {
    model: String,
    tool_tokens: u64,
    system_tokens: u64,
}

/// The blocks of one line, by the ids that the line uses.
struct Ids {
    scope: Scope,
    tips: FxHashMap<(Tip, u64), Tip>,
    /// The chain of the request before, to follow without a look-up what it shares with the next.
    last: Vec<(u64, Tip)>,
    /// Set-ups that a prompt has already vouched for; `None` when ids are global and need no names.
    setups: Option<FxHashSet<Setup>>,
}

impl Ids {
    fn local(scope: Scope) -> Self {
        Self { scope, tips: FxHashMap::default(), last: Vec::new(), setups: Some(FxHashSet::default()) }
    }

    fn global() -> Self {
        Self { scope: Scope::new(&[b"global"]), tips: FxHashMap::default(), last: Vec::new(), setups: None }
    }
}

pub(super) struct Reader {
    tree: BlockTree,
    sessions: Vec<Session>,
    shared: FxHashMap<(Tip, Scope, u64), Tip>,
    global: Ids,
    block_tokens: Option<u32>,
}

fn wrong(wrong: String, mend: &'static str) -> LineFault {
    LineFault::Wrong { wrong, mend }
}

impl LineReader for Reader {
    fn take(&mut self, line: &[u8], number: u64) -> Result<(), LineFault> {
        let line: Line<'_> = serde_json::from_slice(line)?;
        self.check_block_size(line.block_size)?;
        let mut ids = match line.hash_id_scope.as_deref() {
            // The number keeps two sessions apart that were given one name.
            None | Some("local") => {
                Ids::local(Scope::new(&[b"session", line.id.as_bytes(), &number.to_le_bytes()]))
            }
            Some("global") => std::mem::replace(&mut self.global, Ids::global()),
            Some(other) => {
                let wrong_scope = format!("hash_id_scope is {other:?}");
                return Err(wrong(wrong_scope, "it must be \"local\" or \"global\""));
            }
        };
        let parent = self.sessions.len();
        self.sessions.push(Session { start: None, requests: Vec::new() });
        for entry in &line.requests {
            match &entry.requests {
                Some(requests) => {
                    let mut session = Session { start: None, requests: Vec::with_capacity(requests.len()) };
                    for request in requests {
                        let read = self.request(request, entry.tool_tokens, entry.system_tokens, &mut ids)?;
                        push_in_order(&mut session, read)?;
                    }
                    if !session.requests.is_empty() {
                        self.sessions.push(session);
                    }
                }
                None => {
                    let read = self.request(entry, line.tool_tokens, line.system_tokens, &mut ids)?;
                    push_in_order(&mut self.sessions[parent], read)?;
                }
            }
        }
        // Sessions without a request have nothing to replay.
        if self.sessions[parent].requests.is_empty() {
            self.sessions.remove(parent);
        }
        if ids.setups.is_none() {
            self.global = ids;
        }
        Ok(())
    }

    fn finished_sessions(&self) -> usize {
        self.sessions.len()
    }

    fn finish(self: Box<Self>, name: String) -> Workload {
        Workload {
            name,
            block_tokens: self.block_tokens.unwrap_or(64),
            tree: self.tree,
            sessions: self.sessions,
        }
    }
}

/// Times of a session never fall: its requests are sent in the order of the file.
fn push_in_order(session: &mut Session, request: Request) -> Result<(), LineFault> {
    match session.requests.last() {
        Some(before) if before.at > request.at => Err(wrong(
            format!("request {} is earlier than the one before it", session.requests.len() + 1),
            "sort the requests of the session by `t`",
        )),
        _ => {
            session.requests.push(request);
            Ok(())
        }
    }
}

impl Reader {
    pub(super) fn new() -> Self {
        Self {
            tree: BlockTree::new(),
            sessions: Vec::new(),
            shared: FxHashMap::default(),
            global: Ids::global(),
            block_tokens: None,
        }
    }

    fn check_block_size(&mut self, block_size: u32) -> Result<(), LineFault> {
        let first = *self.block_tokens.get_or_insert(block_size);
        if block_size == 0 {
            return Err(wrong("block_size is 0".into(), "give the tokens of one block, such as 64"));
        }
        if block_size != first {
            return Err(wrong(
                format!("block_size is {block_size}, the first line has {first}"),
                "replay sessions of different block sizes apart",
            ));
        }
        Ok(())
    }

    fn request(
        &mut self,
        entry: &Entry<'_>,
        tool_tokens: u64,
        system_tokens: u64,
        ids: &mut Ids,
    ) -> Result<Request, LineFault> {
        let missing =
            |field: &str| wrong(format!("missing field `{field}` in a request"), "add it to the request");
        let hash_ids = entry.hash_ids.as_deref().ok_or_else(|| missing("hash_ids"))?;
        let input_tokens = entry.input_tokens.ok_or_else(|| missing("in"))?;
        let block_tokens = u64::from(self.block_tokens.unwrap_or(64));
        check_prompt(hash_ids.len(), block_tokens, input_tokens)?;
        let at = trace_time(entry.t)?;
        let think = entry.think_time.map(trace_time).transpose()?;
        let setup = Setup { model: entry.model.as_deref().unwrap_or("").into(), tool_tokens, system_tokens };
        let prompt = self.chain(hash_ids, setup, block_tokens, ids)?;
        let setup_blocks =
            (tool_tokens.saturating_add(system_tokens) / block_tokens).min(hash_ids.len() as u64) as u32;
        let priority = |value| Priority::new(value).expect("the constants lie within 0 to 100");
        let ranges = [
            PriorityRange { end_block: setup_blocks, priority: priority(PRIORITY_SETUP) },
            PriorityRange { end_block: hash_ids.len() as u32, priority: priority(PRIORITY_CONVERSATION) },
        ];
        let output_tokens = entry.output_tokens;
        Ok(Request {
            at,
            think,
            prompt,
            output: prompt,
            input_tokens,
            output_tokens,
            ranges: Box::new(ranges),
        })
    }

    /// The chain of `hash_ids`, with what is new added to the tree.
    fn chain(
        &mut self,
        hash_ids: &[u64],
        setup: Setup,
        block_tokens: u64,
        ids: &mut Ids,
    ) -> Result<Tip, TreeFull> {
        let known = ids.last.iter().zip(hash_ids).take_while(|((id, _), asked)| id == *asked).count();
        ids.last.truncate(known);
        let mut tip = ids.last.last().map_or(Tip::ROOT, |&(_, tip)| tip);
        // Only the first prompt of a set-up can vouch for it: another that begins otherwise, under
        // the same name, is another prompt.
        let begins = hash_ids.first().is_some_and(|&id| !ids.tips.contains_key(&(Tip::ROOT, id)));
        let first_of_setup = |setups: &mut FxHashSet<Setup>| setups.insert(setup.clone());
        let shares = begins && setup.tool_tokens > 0 && ids.setups.as_mut().is_some_and(first_of_setup);
        let tool_blocks = (setup.tool_tokens / block_tokens) as usize;
        let setup_blocks = (setup.tool_tokens.saturating_add(setup.system_tokens) / block_tokens) as usize;
        let tools = [setup.model.as_bytes(), &setup.tool_tokens.to_le_bytes()];
        let tools_scope = Scope::new(&[b"tools", tools[0], tools[1]]);
        let system_scope = Scope::new(&[b"system", tools[0], tools[1], &setup.system_tokens.to_le_bytes()]);
        for (index, &id) in hash_ids.iter().enumerate().skip(known) {
            tip = match ids.tips.get(&(tip, id)) {
                Some(&tip) => tip,
                None => {
                    let parent = tip;
                    let made = if shares && index < setup_blocks {
                        let scope = if index < tool_blocks { tools_scope } else { system_scope };
                        self.shared_block(parent, scope, index as u64)?
                    } else {
                        self.tree.push(parent, &ids.scope, id)?
                    };
                    ids.tips.insert((parent, id), made);
                    made
                }
            };
            ids.last.push((id, tip));
        }
        Ok(tip)
    }

    fn shared_block(&mut self, parent: Tip, scope: Scope, index: u64) -> Result<Tip, TreeFull> {
        if let Some(&tip) = self.shared.get(&(parent, scope, index)) {
            return Ok(tip);
        }
        let tip = self.tree.push(parent, &scope, index)?;
        self.shared.insert((parent, scope, index), tip);
        Ok(tip)
    }
}
