//! Nodes that report and do not exist: each report is one change of which the next one tells whether it was done.

use std::time::Duration;

use hearth_proto::v1::command::Body;
use hearth_proto::v1::outcome::Kind;
use hearth_proto::{BlockId, GroupId, NodeId, Tier, v1};

use super::caller::Caller;
use super::{Clients, command};
use crate::source::{BLOCKS, block};
use crate::world::world;

/// Reporters that there are.
pub(crate) const REPORTERS: u64 = 2;
/// A reporter is a node that reports and does not exist.
const REPORTER: u64 = 1 << 40;

/// A reporter's name in the directory.
pub(crate) fn reporter(number: u64) -> NodeId {
    NodeId(REPORTER + number)
}

/// The block by which a reporter says how far it is: only the latest is held.
pub(crate) fn mark(reporter: u64, sequence: u64) -> BlockId {
    block(1_000_000 * (reporter + 1) + sequence)
}

/// Reports one change after the other, never two at a time; says some of it again later, as a network does.
pub(super) async fn report(clients: Clients, number: u64) {
    let mut caller = Caller::new();
    let (mut incarnation, mut reset) = (1, true);
    for sequence in 1.. {
        let outcome = tell(&clients, &mut caller, report_of(number, incarnation, sequence, reset)).await;
        match &outcome {
            Kind::ReportApplied(applied) if applied.next_sequence == sequence + 1 => {}
            // It was done already, and more after it: nobody else reports under this name.
            other => clients.wrong_answer(format!(
                "INV-ACK: report {sequence} of reporter {number} follows acknowledged ones and got {other:?}"
            )),
        }
        clients.ledger().reported.insert(number, sequence);
        reset = false;
        let (again, ahead, renew, pause) = {
            let mut rng = world().rng();
            let longest = if world().is_quiet() { 400 } else { 150 };
            (rng.chance(30), rng.chance(10), rng.chance(5), rng.between(5, longest))
        };
        if again && sequence > 1 {
            tell(&clients, &mut caller, report_of(number, incarnation, sequence - 1, false)).await;
        }
        if ahead {
            // One that overtook the report before it, as if that was lost.
            let early = report_of(number, incarnation, sequence + 2, false);
            let outcome = tell(&clients, &mut caller, early).await;
            if !matches!(&outcome, Kind::ReportGap(gap) if gap.next_sequence == sequence + 1) {
                clients.wrong_answer(format!("INV-IDEMPOTENT: a report ahead of {sequence} got {outcome:?}"));
            }
        }
        if renew {
            let late = report_of(number, incarnation, sequence + 1, false);
            incarnation += 1;
            tell(&clients, &mut caller, report_of(number, incarnation, sequence, true)).await;
            // What the former life still had on its way must find itself fenced.
            let outcome = tell(&clients, &mut caller, late).await;
            if !matches!(outcome, Kind::Superseded(_)) {
                clients.wrong_answer(format!("INV-FENCE: a report of a former incarnation got {outcome:?}"));
            }
        }
        tokio::time::sleep(Duration::from_millis(pause)).await;
    }
}

async fn tell(clients: &Clients, caller: &mut Caller, report: v1::Command) -> Kind {
    clients.write(caller, GroupId::DIRECTORY, report).await
}

/// The report of a number: adds its own mark, takes away the one before, and changes one of a few blocks. It
/// follows from its arguments alone.
fn report_of(reporter_number: u64, incarnation: u64, sequence: u64, reset: bool) -> v1::Command {
    let mut deltas = Vec::new();
    pack(&mut deltas, &mark(reporter_number, sequence), Tier::Nvme, true);
    if sequence > 1 {
        pack(&mut deltas, &mark(reporter_number, sequence - 1), Tier::Nvme, false);
    }
    let number = sequence.wrapping_mul(7) % BLOCKS;
    pack(&mut deltas, &block(number), Tier::Host, !sequence.is_multiple_of(3));
    let report = v1::BlockReport {
        node_id: reporter(reporter_number).0,
        incarnation,
        sequence,
        reset,
        deltas: deltas.into(),
        ..Default::default()
    };
    command(1, Body::BlockReport(report))
}

/// Appends a delta as reports pack it: namespace, key, tier, whether it was added, length.
fn pack(out: &mut Vec<u8>, id: &BlockId, tier: Tier, added: bool) {
    out.extend_from_slice(&id.namespace.0.to_le_bytes());
    out.extend_from_slice(&id.key.0);
    out.extend_from_slice(&[tier as u8, u8::from(added)]);
    out.extend_from_slice(&4_096u32.to_le_bytes());
}
