//! Reads that say how new they must be: never older, on time, and an error when it cannot be.

use std::time::{Duration, Instant};

use hearth_proto::limits::DEADLINE_GRACE_MS;
use hearth_proto::v1::command::Body;
use hearth_proto::{GroupId, LogIndex, NamespaceId, NodeId, Tier, v1};

use super::harness::{LIMIT, Member, block, eventually, found_three, key, sees};
use crate::config::Tuning;
use crate::error::ProposeError;
use crate::fresh::{Freshness, ReadError};
use crate::lookup::LookupAnswer;
use crate::state::command;

/// The machine that runs the tests may be slow to wake a thread; INV-DEADLINE leaves it some time.
const GRACE: Duration = Duration::from_millis(DEADLINE_GRACE_MS * 20);

fn read(
    member: &Member,
    number: u8,
    freshness: &Freshness,
    limit: Duration,
) -> Result<LookupAnswer, ReadError> {
    let deadline = Instant::now() + limit;
    let read = member.block_on(async |cluster| {
        cluster.lookup_fresh(NamespaceId::DEFAULT, &[key(number)], freshness, deadline).await
    });
    assert!(Instant::now() < deadline + GRACE, "INV-DEADLINE");
    read
}

fn is_at(answer: &LookupAnswer, node: NodeId) -> bool {
    answer.replicas[0].first().is_some_and(|replica| replica.node == node)
}

#[test]
fn a_linearizable_read_on_a_follower_finds_what_the_leader_has_already() {
    let members = found_three(Tuning::default());
    let leader = members[0].cluster().group(GroupId::DIRECTORY).unwrap().leader().unwrap();
    let leading = members.iter().find(|member| member.id == leader).unwrap();
    let followers: Vec<&Member> = members.iter().filter(|member| member.id != leader).collect();
    // A follower hears that an entry is committed with a later message than the leader applies it.
    for number in 0..100 {
        leading.source.add(block(number), Tier::Host);
        eventually("the leader has it", || sees(leading, number, &[(leader.0, Tier::Host)]));
        for member in &followers {
            let found = read(member, number, &Freshness::Linearizable, LIMIT).unwrap();
            assert!(is_at(&found, leader), "INV-LINEAR: block {number} is not found on {}", member.id);
        }
    }
}

#[test]
fn a_follower_that_was_away_answers_linearizable_reads_only_when_it_has_caught_up() {
    let mut members = found_three(Tuning::default());
    let leader = members[0].cluster().group(GroupId::DIRECTORY).unwrap().leader().unwrap();
    let away = members.iter().position(|member| member.id != leader).unwrap();
    let at = members.iter().position(|member| member.id == leader).unwrap();
    members[away].kill();
    for number in 0..50 {
        members[at].source.add(block(number), Tier::Nvme);
        eventually("a report", || sees(&members[at], number, &[(leader.0, Tier::Nvme)]));
    }
    members[away].start(2, true);
    let found = read(&members[away], 49, &Freshness::Linearizable, LIMIT).unwrap();
    assert!(is_at(&found, leader), "INV-LINEAR");
    let nodes = members[away].block_on(async |cluster| {
        cluster.nodes_fresh(&Freshness::Linearizable, Instant::now() + LIMIT).await
    });
    assert_eq!(nodes.unwrap().len(), 3);
}

#[test]
fn a_read_at_an_index_waits_for_it_and_no_longer_than_its_deadline() {
    let members = found_three(Tuning::default());
    members[0].source.add(block(1), Tier::Host);
    eventually("the first report", || sees(&members[0], 1, &[(1, Tier::Host)]));
    let reached = members[0].cluster().lookup(NamespaceId::DEFAULT, &[key(1)]).applied;
    for member in &members {
        let found = read(member, 1, &Freshness::AtLeast(reached.clone()), LIMIT).unwrap();
        assert!(is_at(&found, NodeId(1)), "what was read at an index is found at it everywhere");
    }
    let ahead = LogIndex(reached[0].1.0 + 1_000);
    let ask = Freshness::AtLeast(vec![(GroupId::DIRECTORY, ahead)]);
    let refused = read(&members[1], 1, &ask, Duration::from_millis(200)).unwrap_err();
    assert!(
        matches!(refused, ReadError::Behind { group: GroupId::DIRECTORY, wanted, applied }
            if wanted == ahead && applied >= reached[0].1),
        "{refused}"
    );
    let nowhere = Freshness::AtLeast(vec![(GroupId(9), LogIndex(1))]);
    let refused = read(&members[1], 1, &nowhere, LIMIT).unwrap_err();
    assert_eq!(refused, ReadError::UnknownGroup { group: GroupId(9) });
}

#[test]
fn without_a_quorum_reads_of_any_age_go_on_and_the_rest_say_what_is_missing() {
    let mut members = found_three(Tuning::default());
    members[0].source.add(block(1), Tier::Nvme);
    for member in &members {
        eventually("the report", || sees(member, 1, &[(1, Tier::Nvme)]));
    }
    let leader = members[0].cluster().group(GroupId::DIRECTORY).unwrap().leader().unwrap();
    for member in members.iter_mut().filter(|member| member.id != leader) {
        member.kill();
    }
    let left = members.iter().find(|member| member.id == leader).unwrap();
    // At once, while it still takes itself for the leader, and after it has noticed.
    let limit = Duration::from_millis(700);
    let refused = read(left, 1, &Freshness::Linearizable, limit).unwrap_err();
    assert!(matches!(refused, ReadError::NotConfirmed { .. }), "{refused}");
    eventually("it names both that are gone", || {
        let refused = read(left, 1, &Freshness::Linearizable, limit).unwrap_err();
        matches!(&refused, ReadError::NotConfirmed { silent, .. } if silent.0.len() == 2)
    });
    let any = read(left, 1, &Freshness::Any, Duration::ZERO).unwrap();
    assert!(is_at(&any, NodeId(1)), "INV-HARMLESS: what is known is still found");
    let command =
        command::new(Body::PurgeClaims(v1::PurgeClaims { node_id: 9, incarnation: 1, forget: false }));
    let begun = Instant::now();
    let proposed = left
        .block_on(async |cluster| cluster.propose(GroupId::DIRECTORY, command, Instant::now() + limit).await);
    assert!(begun.elapsed() < limit + GRACE, "INV-DEADLINE");
    let Err(ProposeError::NoLeader { silent, .. } | ProposeError::Unknown { silent, .. }) = &proposed else {
        panic!("{proposed:?}")
    };
    assert_eq!(silent.0.len(), 2, "a writer is told which voters are missing");
}
