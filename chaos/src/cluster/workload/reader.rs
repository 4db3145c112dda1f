//! Asks any node for answers that are as new as it says.

use bytes::Bytes;
use hearth_proto::v1::freshness::Kind as Fresh;
use hearth_proto::{GroupId, v1};
use tonic::Request;

use super::caller::{Caller, pause, within};
use super::{Clients, Floor};
use crate::source::{BLOCKS, block};
use crate::world::world;

/// An answer, and what had to be in it.
#[derive(Clone, Debug)]
pub(crate) struct Read {
    /// Who answered.
    pub(crate) machine: usize,
    pub(crate) asked: Asked,
    pub(crate) answer: Answer,
}

/// How new the answer had to be.
#[derive(Clone, Debug)]
pub(crate) enum Asked {
    Any,
    AtLeast(u64),
    /// No older than what was acknowledged when it was asked: so far in the log of each group.
    Linearizable(Floor),
}

#[derive(Clone, Debug)]
pub(crate) enum Answer {
    /// The entry of the directory's log that a lookup reflects.
    Lookup(u64),
    /// The pins of the first namespace.
    Pins(v1::PinsResponse),
}

/// Reads from whichever node, for ever.
pub(super) async fn read(clients: Clients) {
    let mut caller = Caller::new();
    loop {
        let machine = caller.any_node();
        let kind = world().rng().below(100);
        let floor = clients.ledger().newest.clone();
        let of_directory = floor.get(&GroupId::DIRECTORY).copied().unwrap_or(0);
        let (asked, answer) = match kind {
            0..45 => {
                let fresh = Fresh::Linearizable(v1::Linearizable {});
                (Asked::Linearizable(floor), look_up(&mut caller, machine, Some(fresh)).await)
            }
            45..75 => {
                let pins = caller.nodes[machine].retention.pins(Request::new(v1::PinsRequest {}));
                (Asked::Linearizable(floor), within(pins).await.map(Answer::Pins))
            }
            75..90 => {
                let index = v1::GroupIndex { group_id: GroupId::DIRECTORY.0, index: of_directory };
                let fresh = Fresh::AtLeast(v1::AtLeast { indexes: vec![index] });
                (Asked::AtLeast(of_directory), look_up(&mut caller, machine, Some(fresh)).await)
            }
            _ => (Asked::Any, look_up(&mut caller, machine, None).await),
        };
        if let Some(answer) = answer {
            clients.was_read(Read { machine, asked, answer });
        }
        if world().is_quiet() { pause(40, 200).await } else { pause(10, 120).await }
    }
}

async fn look_up(caller: &mut Caller, machine: usize, fresh: Option<Fresh>) -> Option<Answer> {
    let keys: Vec<Bytes> = (0..BLOCKS).map(|number| block(number).key.0.to_vec().into()).collect();
    let freshness = fresh.map(|kind| v1::Freshness { kind: Some(kind) });
    let request = Request::new(v1::LookupRequest { keys, freshness });
    let found = within(caller.nodes[machine].directory.lookup(request)).await?;
    found.applied.first().map(|of_group| Answer::Lookup(of_group.index))
}
