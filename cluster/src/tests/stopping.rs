//! A group that stops while it has commands in its hands.

use hearth_proto::v1::command::Body;
use hearth_proto::{GroupId, v1};
use prost::Message;

use super::harness::found_three;
use crate::config::Tuning;
use crate::raft::LocalProposal;
use crate::state::command;

const COMMANDS: usize = 64;

/// The others may have been sent it, and commit it: whoever is told that it was not taken does it twice.
#[test]
fn what_a_group_had_in_its_hands_when_it_stopped_is_unknown() {
    let members = found_three(Tuning::default());
    let leader = members[0].cluster().group(GroupId::DIRECTORY).unwrap().leader().unwrap();
    let leading = members.iter().find(|member| member.id == leader).unwrap();
    let command = command::new(Body::AdvanceTime(v1::AdvanceTime {}));
    let (given, afterwards) = leading.block_on(async |cluster| {
        let group = cluster.group(GroupId::DIRECTORY).unwrap();
        let mut given = Vec::new();
        for _ in 0..COMMANDS {
            given.push(group.begin_propose(command.encode_to_vec().into()).await);
        }
        group.shutdown().await;
        let outcomes = futures::future::join_all(given.into_iter().map(|pending| pending.outcome())).await;
        (outcomes, group.propose(&command).await)
    });
    let is_unknown = |outcome: &LocalProposal| matches!(outcome, LocalProposal::Unknown);
    assert!(given.iter().any(is_unknown), "it stopped with nothing in its hands: {given:?}");
    let is_true =
        |outcome: &LocalProposal| is_unknown(outcome) || matches!(outcome, LocalProposal::Applied(..));
    assert!(given.iter().all(is_true), "INV-IDEMPOTENT: {given:?}");
    assert!(matches!(afterwards, LocalProposal::Stopped(_)), "{afterwards:?}");
}
