//! A write that was acknowledged is committed, at the index that the client was told, and stays so (INV-ACK).

use std::collections::VecDeque;

use hearth_proto::v1;
use prost::Message;

use super::committed::Committed;
use crate::workload::Acknowledged;

/// Acknowledged writes of which no node that is up has shown the entry yet.
#[derive(Default)]
pub(super) struct AcknowledgedSurvive(VecDeque<Acknowledged>);

impl AcknowledgedSurvive {
    pub(super) fn check(&mut self, new: &[Acknowledged], committed: &Committed) -> Result<(), String> {
        self.0.extend(new.iter().cloned());
        let mut waiting = VecDeque::new();
        for written in self.0.drain(..) {
            let Some(entry) = committed.entry(written.group, written.index) else {
                waiting.push_back(written);
                continue;
            };
            let said = entry.command.as_ref().map(|bytes| v1::Command::decode(&bytes[..]));
            let asked = written.command.as_ref().map(|command| &command.body);
            let same = matches!(&said, Some(Ok(said)) if asked.is_none_or(|asked| said.body == *asked));
            if !same {
                return Err(format!("INV-ACK: acknowledged was {written:?}, committed there is {said:?}"));
            }
        }
        self.0 = waiting;
        Ok(())
    }

    /// Everything has healed: what is acknowledged is committed now.
    pub(super) fn finish(&self) -> Result<(), String> {
        self.0.front().map_or(Ok(()), |lost| Err(format!("INV-ACK: an acknowledged write is gone: {lost:?}")))
    }
}
