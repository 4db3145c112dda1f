//! What clients do meanwhile: each operation is one more kind of thing that the cluster must not forget.

mod admitter;
mod caller;
mod claimant;
mod keeper;
mod reader;
mod reporter;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::{GroupId, v1};

use self::caller::Caller;
pub(crate) use self::reader::{Answer, Asked, Read};
pub(crate) use self::reporter::{REPORTERS, mark, reporter};
use crate::world::world;

/// Readers.
const READERS: u64 = 2;

/// How far the log of each group goes that clients know of.
pub(crate) type Floor = BTreeMap<GroupId, u64>;

/// A write that a client was told is done.
#[derive(Clone, Debug)]
pub(crate) struct Acknowledged {
    pub(crate) group: GroupId,
    pub(crate) index: u64,
    /// `None` if a node made the command of what the client asked.
    pub(crate) command: Option<v1::Command>,
    pub(crate) outcome: Kind,
}

/// What a client was told of a pin by a node that did not say where it stands.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct PinAnswered {
    pub(crate) pin_id: Bytes,
    pub(crate) expires_at_ms: u64,
    pub(crate) pinned_bytes: u64,
}

/// How much the clients did.
#[derive(Clone, Copy, Debug, Default, serde::Serialize)]
pub(crate) struct Done {
    pub(crate) acknowledged: u64,
    pub(crate) claims_granted: u64,
    pub(crate) pins_made: u64,
    pub(crate) reads: u64,
}

/// What the clients know.
#[derive(Debug, Default)]
pub(crate) struct Ledger {
    /// Acknowledged writes that no checker has taken yet.
    acknowledged: Vec<Acknowledged>,
    /// Reads and pins that no checker has taken yet.
    reads: Vec<Read>,
    pinned: Vec<PinAnswered>,
    /// What a client was told that cannot be.
    wrong: Vec<String>,
    /// The last acknowledged report of each reporter.
    pub(crate) reported: BTreeMap<u64, u64>,
    /// The last entries that clients were told of.
    pub(crate) newest: Floor,
    /// Linearizable reads that each machine has answered.
    pub(crate) served: BTreeMap<usize, u64>,
    pub(crate) done: Done,
}

/// The clients' common ledger.
#[derive(Clone, Debug, Default)]
pub(crate) struct Clients(Arc<Mutex<Ledger>>);

impl Clients {
    pub(crate) fn ledger(&self) -> MutexGuard<'_, Ledger> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes what was acknowledged since the last call.
    pub(crate) fn take_acknowledged(&self) -> Vec<Acknowledged> {
        std::mem::take(&mut self.ledger().acknowledged)
    }

    pub(crate) fn take_reads(&self) -> Vec<Read> {
        std::mem::take(&mut self.ledger().reads)
    }

    pub(crate) fn take_pinned(&self) -> Vec<PinAnswered> {
        std::mem::take(&mut self.ledger().pinned)
    }

    pub(crate) fn wrong(&self) -> Option<String> {
        self.ledger().wrong.first().cloned()
    }

    /// All clients, on one host.
    pub(crate) async fn live(self) -> turmoil::Result {
        for number in 0..REPORTERS {
            tokio::spawn(reporter::report(self.clone(), number));
        }
        for number in 0..claimant::CLAIMANTS {
            tokio::spawn(claimant::claim(self.clone(), number));
        }
        for number in 0..keeper::KEEPERS {
            tokio::spawn(keeper::keep(self.clone(), number));
        }
        for _ in 0..READERS {
            tokio::spawn(reader::read(self.clone()));
        }
        tokio::spawn(keeper::change_namespaces(self.clone()));
        tokio::spawn(admitter::admit(self.clone()));
        std::future::pending().await
    }

    /// Proposes a command until it is acknowledged.
    async fn write(&self, caller: &mut Caller, group: GroupId, command: v1::Command) -> Kind {
        let (index, outcome) = caller.write(group, &command).await;
        self.acknowledge(Acknowledged { group, index, command: Some(command), outcome: outcome.clone() });
        outcome
    }

    fn acknowledge(&self, written: Acknowledged) {
        world().note(&format!("acknowledged at {}/{}: {:?}", written.group, written.index, written.outcome));
        let mut ledger = self.ledger();
        ledger.done.acknowledged += 1;
        ledger.done.claims_granted += u64::from(matches!(written.outcome, Kind::ClaimGranted(_)));
        ledger.done.pins_made += u64::from(matches!(written.outcome, Kind::Pinned(_)));
        ledger.knows(written.group, written.index);
        ledger.acknowledged.push(written);
    }

    fn was_pinned(&self, pinned: PinAnswered) {
        world().note(&format!("told of {pinned:?}"));
        let mut ledger = self.ledger();
        ledger.done.pins_made += 1;
        ledger.pinned.push(pinned);
    }

    fn was_read(&self, read: Read) {
        world().note(&format!("{} answers {read:?}", world().machines[read.machine].name));
        let mut ledger = self.ledger();
        ledger.done.reads += 1;
        if matches!(read.asked, Asked::Linearizable(_)) {
            *ledger.served.entry(read.machine).or_default() += 1;
            // Whoever reads after this one must not see less.
            if let Answer::Lookup(index) = read.answer {
                ledger.knows(GroupId::DIRECTORY, index);
            }
        }
        ledger.reads.push(read);
    }

    fn wrong_answer(&self, what: String) {
        self.ledger().wrong.push(what);
    }
}

impl Ledger {
    fn knows(&mut self, group: GroupId, index: u64) {
        let newest = self.newest.entry(group).or_default();
        *newest = index.max(*newest);
    }
}

fn command(version: u32, body: Body) -> v1::Command {
    v1::Command { version, stamp_ms: 0, body: Some(body) }
}
