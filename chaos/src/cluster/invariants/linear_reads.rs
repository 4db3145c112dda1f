//! A linearizable read shows every write that was acknowledged before it was asked, whichever node answers: it is
//! the state after an entry that is no earlier than those, and that somebody has applied (INV-LINEAR). Reads of one's
//! own writes show those.
//!
//! *Source*: Herlihy and Wing, "Linearizability: A Correctness Condition for Concurrent Objects", TOPLAS 1990; Ongaro,
//! "Consensus: Bridging Theory and Practice", section 6.4 (ReadIndex); DESIGN.md, section 4, Reads.

use hearth_proto::{GroupId, v1};

use super::history::History;
use super::tenancy::{Tenancy, Tenants};
use crate::workload::{Answer, Asked, Floor, Read};
use crate::world::World;

/// Looks at the answers that came.
pub(super) fn check(
    world: &World,
    reads: &[Read],
    history: &History,
    tenancy: &Tenancy,
) -> Result<(), String> {
    for read in reads {
        look(read, history, tenancy).map_err(|what| {
            format!("INV-LINEAR: read: {what}; {} gave {read:?}", world.machines[read.machine].name)
        })?;
    }
    Ok(())
}

fn look(read: &Read, history: &History, tenancy: &Tenancy) -> Result<(), String> {
    let least = |floor: &Floor, group: GroupId| floor.get(&group).copied().unwrap_or(0);
    match (&read.answer, &read.asked) {
        (Answer::Lookup(index), asked) => {
            let least = match asked {
                Asked::Any => 0,
                Asked::AtLeast(index) => *index,
                Asked::Linearizable(floor) => least(floor, GroupId::DIRECTORY),
            };
            let last = history.last(GroupId::DIRECTORY);
            match index {
                index if *index < least => {
                    Err(format!("it shows the log up to {index}, acknowledged was {least}"))
                }
                index if *index > last => {
                    Err(format!("it shows the log up to {index}, and nobody has applied more than {last}"))
                }
                _ => Ok(()),
            }
        }
        (Answer::Pins(found), Asked::Linearizable(floor)) => {
            let least = least(floor, GroupId::CONTROL);
            match tenancy.from(least).iter().any(|state| shows(state, found)) {
                true => Ok(()),
                false => Err(format!("the pins were never so from entry {least} on")),
            }
        }
        (Answer::Pins(_), _) => Ok(()),
    }
}

fn shows(state: &Tenants, found: &v1::PinsResponse) -> bool {
    (state.time_ms, state.pinned_bytes(0), state.quota(0))
        == (found.time_ms, found.pinned_bytes, Some(found.pin_quota_bytes))
        && state.listed(0) == found.pins
}
