//! Who votes, who leaves, and who is never let in again.

use std::time::Instant;

use hearth_proto::v1::raft_client::RaftClient;
use hearth_proto::{DirectoryGroups, GroupId, NodeId, Tier, v1};
use v1::RefusalReason;

use super::harness::{
    CLUSTER, LIMIT, Member, block, eventually, found_three, found_three_split, join, sees, try_join,
};
use crate::cluster::Cluster;
use crate::config::Tuning;
use crate::error::{JoinError, MemberError, OperateError, ProposeError};
use crate::raft::pre_vote_request;

fn groups_of(members: &[Member]) -> Vec<GroupId> {
    members[0].cluster().all_groups().map(|group| group.id()).collect()
}

fn voters(member: &Member, group: GroupId) -> Vec<u64> {
    member.cluster().group(group).unwrap().membership().voters.iter().map(|node| node.0).collect()
}

/// Waits until `member` knows exactly these voters of every group, and no change under way.
fn await_voters(member: &Member, expected: &[u64]) {
    for group in member.cluster().all_groups() {
        eventually(&format!("voters {expected:?} of group {}", group.id()), || {
            let members = group.membership();
            !members.joint && members.voters.iter().map(|node| node.0).eq(expected.iter().copied())
        });
    }
}

fn is_member(member: &Member, node: u64) -> bool {
    member.cluster().all_groups().any(|group| {
        let members = group.membership();
        members.voters.iter().chain(&members.learners).any(|id| id.0 == node)
    })
}

fn drain(member: &Member, node: u64, undo: bool) -> Result<bool, OperateError> {
    member.block_on(async |cluster: &Cluster| {
        cluster.drain_node(NodeId(node), undo, Instant::now() + LIMIT).await
    })
}

fn remove(member: &Member, node: u64, force: bool) -> Result<bool, OperateError> {
    member.block_on(async |cluster: &Cluster| {
        cluster.remove_node(NodeId(node), force, Instant::now() + LIMIT).await
    })
}

fn reason(error: &OperateError) -> RefusalReason {
    let OperateError::Propose(ProposeError::Refused { reason, .. }) = error else { panic!("{error}") };
    *reason
}

fn state_of(member: &Member, node: u64) -> v1::NodeState {
    member.cluster().nodes().iter().find(|of| of.node_id == node).unwrap().state()
}

/// Loses voters soon, so that tests need not wait long.
fn impatient() -> Tuning {
    Tuning { node_down_after_ms: 1_500, voter_lost_after_ms: 1_000, ..Tuning::default() }
}

#[test]
fn a_removed_node_leaves_every_group_stops_and_never_gets_in_again() {
    let mut members = found_three_split(Tuning::default(), DirectoryGroups::new(2).unwrap());
    members[2].source.add(block(1), Tier::Nvme);
    eventually("its block", || sees(&members[0], 1, &[(3, Tier::Nvme)]));
    let refused = remove(&members[1], 3, false).unwrap_err();
    assert_eq!(reason(&refused), RefusalReason::NotDrained, "{refused}");
    assert!(drain(&members[1], 3, false).unwrap() && !drain(&members[0], 3, false).unwrap());
    eventually("draining", || state_of(&members[0], 3) == v1::NodeState::Draining);
    assert!(sees(&members[0], 1, &[(3, Tier::Nvme)]), "a node that is drained serves what it has");
    assert!(remove(&members[1], 3, false).unwrap());
    assert!(!remove(&members[1], 3, false).unwrap(), "INV-IDEMPOTENT");
    assert_eq!(members[2].member_result(), Err(MemberError::Removed { node: NodeId(3) }));
    assert_eq!(members[2].cluster().incarnation(), None);
    for member in &members[..2] {
        await_voters(member, &[1, 2]);
        eventually("it is no member", || !is_member(member, 3));
        eventually("its replicas are gone", || sees(member, 1, &[]));
    }
    // Its process comes back: it hears the same, and disturbs nobody.
    let terms = |member: &Member| -> Vec<u64> { member.cluster().groups().iter().map(|g| g.term).collect() };
    let before = terms(&members[0]);
    members[2].kill();
    members[2].start(2, true);
    assert_eq!(members[2].member_result(), Err(MemberError::Removed { node: NodeId(3) }));
    assert_eq!(terms(&members[0]), before, "a removed node began an election");
    // Whatever it sends is not looked at, while the same from a member is.
    let ask = |from: u64| {
        let address = format!("http://{}", members[0].addresses.control);
        let request = pre_vote_request(CLUSTER, GroupId::DIRECTORY, NodeId(1), NodeId(from));
        members[1].block_on(async |_| RaftClient::connect(address).await.unwrap().pre_vote(request).await)
    };
    let refused = ask(3).unwrap_err();
    assert!(refused.message().contains("node 3 was removed"), "{refused}");
    ask(2).unwrap();
    let refused = try_join(&members[0], 3, |_| ()).map(|_| ()).unwrap_err();
    assert!(
        matches!(&refused, JoinError::Refused { detail, .. } if detail.contains("empty data folder")),
        "{refused}"
    );
    // With an empty folder it is another node.
    let anew = join(&members[0], 33, |_| ());
    assert_eq!(anew.id, NodeId(4));
    await_voters(&anew, &[1, 2, 4]);
}

#[test]
fn of_two_nodes_one_can_be_removed_and_the_last_one_cannot() {
    let mut members = found_three(Tuning::default());
    assert!(remove(&members[0], 3, true).unwrap());
    await_voters(&members[0], &[1, 2]);
    assert_eq!(members[2].member_result(), Err(MemberError::Removed { node: NodeId(3) }));
    assert!(remove(&members[0], 1, true).unwrap(), "node 2 can go on alone");
    await_voters(&members[1], &[2]);
    assert_eq!(members[0].member_result(), Err(MemberError::Removed { node: NodeId(1) }));
    let refused = remove(&members[1], 2, true).unwrap_err();
    assert_eq!(reason(&refused), RefusalReason::LastVoter, "{refused}");
    members[1].source.add(block(1), Tier::Host);
    eventually("it serves alone", || sees(&members[1], 1, &[(2, Tier::Host)]));
}

#[test]
fn a_removal_that_would_cost_the_quorum_is_refused_and_names_who_is_down() {
    let mut members = found_three(impatient());
    members[2].kill();
    eventually("node 3 is down", || state_of(&members[0], 3) == v1::NodeState::Down);
    let refused = remove(&members[0], 2, true).unwrap_err();
    assert_eq!(reason(&refused), RefusalReason::LastVoter);
    assert!(refused.to_string().contains("of its other voters, 3 are down"), "{refused}");
    assert!(remove(&members[0], 3, true).unwrap(), "who is down can be removed");
    await_voters(&members[1], &[1, 2]);
}

#[test]
fn a_voter_that_is_lost_for_good_is_replaced_in_every_group() {
    let mut members = found_three_split(impatient(), DirectoryGroups::new(2).unwrap());
    let fourth = join(&members[0], 4, |_| ());
    eventually("the fourth is a learner everywhere", || {
        let learns = |group: &GroupId| {
            let members = fourth.cluster().group(*group).unwrap().membership();
            members.learners == [NodeId(4)]
        };
        groups_of(&members).iter().all(learns)
    });
    members[1].kill();
    for member in [&members[0], &members[2], &fourth] {
        await_voters(member, &[1, 3, 4]);
    }
    // The quorum is that of the new voters now.
    members[0].kill();
    fourth.source.add(block(1), Tier::Host);
    eventually("the group goes on without two of the first", || sees(&members[2], 1, &[(4, Tier::Host)]));
    members[1].start(2, true);
    members[1].source.add(block(2), Tier::Host);
    eventually("the lost one is back, as a learner or in the place of another that is lost", || {
        sees(&fourth, 2, &[(2, Tier::Host)])
    });
    await_voters(&fourth, &[2, 3, 4]);
}

#[test]
fn a_change_of_voters_that_its_leader_left_half_done_is_finished_by_the_next() {
    let mut members = found_three(Tuning::default());
    let fourth = join(&members[0], 4, |_| ());
    let group = GroupId::DIRECTORY;
    eventually("the fourth is a learner", || {
        fourth.cluster().group(group).unwrap().membership().learners == [NodeId(4)]
    });
    let leader = members[0].cluster().group(group).unwrap().leader().unwrap();
    let at = members.iter().position(|member| member.id == leader).unwrap();
    let gone = members.iter().find(|member| member.id != leader).unwrap().id;
    // Without its duties the leader does not finish it itself.
    members[at].pause();
    members[at].block_on(async |cluster| {
        cluster.group(group).unwrap().begin_change(NodeId(4), gone).await;
    });
    assert!(members[at].cluster().group(group).unwrap().membership().joint);
    members[at].kill();
    let mut expected: Vec<u64> = [1, 2, 3, 4].into_iter().filter(|id| *id != gone.0).collect();
    expected.sort_unstable();
    for member in members.iter().filter(|member| member.id != leader).chain([&fourth]) {
        eventually("the change is finished", || {
            !member.cluster().group(group).unwrap().membership().joint && voters(member, group) == expected
        });
    }
}

#[test]
fn a_leader_that_is_drained_leads_no_more_and_votes_again_when_that_is_undone() {
    let members = found_three(Tuning::default());
    let fourth = join(&members[0], 4, |_| ());
    await_voters(&fourth, &[1, 2, 3]);
    let leader = members[0].cluster().group(GroupId::CONTROL).unwrap().leader().unwrap();
    assert!(drain(&fourth, leader.0, false).unwrap());
    let rest: Vec<u64> = [1, 2, 3, 4].into_iter().filter(|id| *id != leader.0).collect();
    await_voters(&fourth, &rest);
    for group in groups_of(&members) {
        let leads = || fourth.cluster().group(group).unwrap().leader();
        eventually("another one leads", || leads().is_some_and(|leads| leads != leader));
    }
    assert!(drain(&fourth, leader.0, true).unwrap());
    eventually("up again", || state_of(&fourth, leader.0) == v1::NodeState::Up);
    await_voters(&fourth, &rest);
}

#[test]
fn a_drained_node_stays_so_when_it_restarts() {
    let mut members = found_three(impatient());
    assert!(drain(&members[0], 3, false).unwrap());
    members[2].kill();
    eventually("down", || state_of(&members[0], 3) == v1::NodeState::Down);
    members[2].start(2, true);
    eventually("back", || state_of(&members[0], 3) == v1::NodeState::Draining);
}

#[test]
fn an_observer_holds_the_log_and_never_votes_and_voters_go_where_no_other_fails_with_them() {
    let mut members = found_three(Tuning::default());
    let observer = join(&members[0], 4, |member| member.never_votes = true);
    eventually("the observer is registered", || observer.cluster().incarnation().is_some());
    members[1].source.add(block(1), Tier::Host);
    eventually("it has the directory", || sees(&observer, 1, &[(2, Tier::Host)]));
    assert!(remove(&members[0], 3, true).unwrap());
    assert_eq!(members[2].member_result(), Err(MemberError::Removed { node: NodeId(3) }));
    // Two voters and an observer: the next node votes, the observer does not.
    await_voters(&observer, &[1, 2]);
    let fifth = join(&members[0], 5, |member| member.zone = "far".into());
    await_voters(&observer, &[1, 2, 5]);
    let zone = |node: u64| fifth.cluster().nodes().iter().find(|of| of.node_id == node).unwrap().zone.clone();
    eventually("its zone", || zone(5) == "far");
    // One of the two of the same zone goes for a node of a third.
    let sixth = join(&members[0], 6, |member| member.zone = "farther".into());
    eventually("three zones", || {
        let voters = voters(&sixth, GroupId::DIRECTORY);
        voters.contains(&5) && voters.contains(&6) && voters.len() == 3 && !voters.contains(&4)
    });
}

#[test]
fn a_removed_node_that_only_knows_a_leader_that_is_gone_hears_of_its_removal_from_another() {
    let mut members = found_three(impatient());
    let fourth = join(&members[0], 4, |_| ());
    await_voters(&fourth, &[1, 2, 3]);
    members[2].kill();
    assert!(remove(&members[0], 3, true).unwrap());
    await_voters(&fourth, &[1, 2, 4]);
    eventually("it is no member", || !is_member(&fourth, 3));
    // Whoever led when it was last there leads no more.
    members[0].kill();
    let leads = || fourth.cluster().group(GroupId::CONTROL).unwrap().leader();
    eventually("another one leads", || leads().is_some_and(|leads| leads != NodeId(1)));
    members[2].start(2, true);
    assert_eq!(members[2].member_result(), Err(MemberError::Removed { node: NodeId(3) }));
}
