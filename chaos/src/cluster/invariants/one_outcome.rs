//! A command does the same on every node that applies it, in every life, and whoever proposed it is told just that.
//!
//! *Source*: INV-LINEAR; DESIGN.md, section 4: "`cluster/state` is a pure function: `apply(state, command) ->
//! outcome`".

use super::history::History;
use crate::workload::Acknowledged;
use crate::world::{Heard, World};

/// Answers of which no node has been heard to have applied the entry yet.
#[derive(Default)]
pub(super) struct OneOutcome {
    waiting: Vec<Acknowledged>,
}

impl OneOutcome {
    pub(super) fn check(
        &mut self,
        world: &World,
        heard: &[Heard],
        acknowledged: &[Acknowledged],
        history: &History,
    ) -> Result<(), String> {
        for Heard { machine, applied, .. } in heard {
            let Some(first) = history.entry(applied.group, applied.index) else { continue };
            if first.applied.outcome != applied.outcome {
                let (name, other) = (&world.machines[*machine].name, &world.machines[first.machine].name);
                return Err(format!(
                    "one outcome: group {}: entry {} did {:?} on {name} and {:?} on {other}",
                    applied.group, applied.index, applied.outcome.kind, first.applied.outcome.kind
                ));
            }
        }
        self.waiting.extend_from_slice(acknowledged);
        let mut waiting = std::mem::take(&mut self.waiting);
        for answer in &waiting {
            let Some(entry) = history.entry(answer.group, answer.index) else { continue };
            if entry.outcome() != Some(&answer.outcome) {
                return Err(format!(
                    "INV-LINEAR: a client was told {answer:?}, and the entry did {:?}",
                    entry.outcome()
                ));
            }
        }
        waiting.retain(|answer| history.entry(answer.group, answer.index).is_none());
        self.waiting = waiting;
        Ok(())
    }

    /// Everything has healed: what is acknowledged is applied now.
    pub(super) fn finish(&self) -> Result<(), String> {
        let lost = self.waiting.first();
        lost.map_or(Ok(()), |lost| {
            Err(format!("INV-ACK: nobody has applied what was acknowledged: {lost:?}"))
        })
    }
}
