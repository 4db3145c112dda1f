//! Real members over loopback: each one in a runtime of its own, so that stopping it is as sudden
//! for the others as the end of its process.

mod damage;
mod fresh;
mod harness;
mod members;
mod split;
mod stopping;
mod tenancy;
mod upgrade;

use std::time::{Duration, Instant};

use hearth_proto::{ClusterId, GroupId, Incarnation, NamespaceId, NodeId, Tier, v1};

use crate::config::Tuning;
use crate::error::{JoinError, MemberError, StartError};
use crate::join::{JoinRequest, request_join};
pub(crate) use harness::copy_dir;
use harness::{CLUSTER, LIMIT, Member, block, eventually, found_three, key, sees};

fn voters(member: &Member, group: GroupId) -> usize {
    member.cluster().group(group).unwrap().members().0.len()
}

#[test]
fn joined_nodes_become_voters_and_see_each_others_blocks() {
    let members = found_three(Tuning::default());
    for member in &members {
        for group in [GroupId::CONTROL, GroupId::DIRECTORY] {
            eventually("three voters", || voters(member, group) == 3);
        }
        eventually("ready", || member.cluster().is_ready());
    }
    members[1].source.add(block(1), Tier::Host);
    members[1].source.add(block(1), Tier::Nvme);
    members[2].source.add(block(1), Tier::Nvme);
    let expected = [(2, Tier::Host), (2, Tier::Nvme), (3, Tier::Nvme)];
    for member in &members {
        eventually("the replicas of block 1", || sees(member, 1, &expected));
        let answer = member.cluster().lookup(NamespaceId::DEFAULT, &[key(2), key(1), key(3)]);
        assert_eq!(answer.replicas.iter().map(|found| found.len()).collect::<Vec<_>>(), [0, 3, 0]);
        assert!(
            answer.applied[0].1.0 > 0
                && answer.staleness.is_some_and(|staleness| staleness < Duration::from_secs(5)),
            "{answer:?}"
        );
        let other_tenant = member.cluster().lookup(NamespaceId(7), &[key(1)]);
        assert!(other_tenant.replicas[0].is_empty(), "INV-TENANT");
    }
    members[1].source.remove(block(1), Tier::Host);
    eventually("the retraction", || sees(&members[0], 1, &expected[1..]));
    let nodes = members[2].cluster().nodes();
    let listed: Vec<_> = nodes.iter().map(|node| (node.node_id, node.state(), node.voter)).collect();
    assert_eq!(listed, [1, 2, 3].map(|id| (id, v1::NodeState::Up, true)));
    let groups = members[2].cluster().groups();
    assert_eq!(
        groups.iter().map(|group| (group.group_id, group.blocks)).collect::<Vec<_>>(),
        [(0, 0), (1, 1)]
    );
}

#[test]
fn joining_is_idempotent_and_its_failures_are_told_apart() {
    let mut members = found_three(Tuning::default());
    let addresses = members[1].addresses.clone();
    let request = |uuid: u8, expected_cluster| JoinRequest {
        node_uuid: [uuid; 16],
        name: "again".into(),
        zone: String::new(),
        addresses: addresses.clone(),
        expected_cluster,
        expected_directory_groups: None,
    };
    let join = |seed: &str, request: JoinRequest, limit: Duration| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(request_join(seed, request, Instant::now() + limit))
    };
    let seeds: Vec<String> = members.iter().map(|member| member.addresses.control.clone()).collect();
    for seed in &seeds {
        let grant = join(seed, request(2, Some(CLUSTER)), LIMIT).unwrap();
        assert_eq!((grant.cluster_id, grant.node_id), (CLUSTER, NodeId(2)));
    }
    let other = ClusterId([0xee; 16]);
    let error = join(&seeds[2], request(2, Some(other)), LIMIT).unwrap_err();
    assert!(matches!(error, JoinError::OtherCluster { found: CLUSTER, expected, .. } if expected == other));
    assert!(
        error.to_string().contains(&CLUSTER.to_string()) && error.to_string().contains(&other.to_string())
    );
    let begun = Instant::now();
    let nobody = "127.0.0.1:1";
    let error = join(nobody, request(9, None), Duration::from_millis(300)).unwrap_err();
    assert!(matches!(&error, JoinError::Unreachable { seed, .. } if seed == nobody), "{error}");
    assert!(begun.elapsed() < Duration::from_millis(300 + 500), "INV-DEADLINE: {:?}", begun.elapsed());
    let error = join("not an address", request(9, None), LIMIT).unwrap_err();
    assert!(matches!(error, JoinError::BadAddress { .. }), "{error}");
    members[0].kill();
    members[1].kill();
    let error = join(&seeds[2], request(9, None), Duration::from_secs(2)).unwrap_err();
    assert!(matches!(error, JoinError::NoLeader { .. }), "{error}");
}

#[test]
fn another_node_leads_after_the_leader_is_gone_and_nothing_acknowledged_is_lost() {
    let mut members = found_three(Tuning::default());
    for number in 0..200 {
        members[usize::from(number % 3)].source.add(block(number), Tier::Nvme);
    }
    let all = |member: &Member, at: [u64; 3]| {
        (0..200).all(|number| match at[usize::from(number % 3)] {
            0 => true,
            node => sees(member, number, &[(node, Tier::Nvme)]),
        })
    };
    for member in &members {
        eventually("every block", || all(member, [1, 2, 3]));
    }
    let leader = members[0].cluster().group(GroupId::DIRECTORY).unwrap().leader().unwrap();
    let gone = members.iter().position(|member| member.id == leader).unwrap();
    members[gone].kill();
    let mut at = [1, 2, 3];
    at[gone] = 0;
    let left: Vec<&Member> = members.iter().filter(|member| member.id != leader).collect();
    left[0].source.add(block(201), Tier::Host);
    let expected = [(left[0].id.0, Tier::Host)];
    for member in &left {
        eventually("a new report", || sees(member, 201, &expected));
        assert!(all(member, at), "INV-ACK: an acknowledged report is gone");
        let new_leader = member.cluster().group(GroupId::DIRECTORY).unwrap().leader();
        assert!(new_leader.is_some() && new_leader != Some(leader));
    }
    for member in &left {
        let vanished = || sees(member, u8::try_from(gone).unwrap(), &[]);
        eventually("the end of the dead node's replicas", vanished);
    }
}

#[test]
fn a_silent_node_loses_its_replicas_and_brings_them_back_with_a_new_incarnation() {
    let mut members = found_three(Tuning::default());
    members[2].source.add(block(1), Tier::Nvme);
    members[1].source.add(block(1), Tier::Nvme);
    let both = [(2, Tier::Nvme), (3, Tier::Nvme)];
    eventually("both replicas", || sees(&members[0], 1, &both));
    assert_eq!(members[2].cluster().incarnation(), Some(Incarnation(1)));
    members[2].pause();
    for member in &members {
        eventually("node 3 is hidden", || sees(member, 1, &both[..1]));
    }
    assert!(members[2].cluster().incarnation().is_none() && !members[2].cluster().is_ready());
    members[2].source.add(block(2), Tier::Host);
    members[2].resume();
    for member in &members {
        eventually("node 3 is back", || sees(member, 1, &both) && sees(member, 2, &[(3, Tier::Host)]));
    }
    assert_eq!(members[2].cluster().incarnation(), Some(Incarnation(2)));
    let answer = members[0].cluster().lookup(NamespaceId::DEFAULT, &[key(1)]);
    assert_eq!(answer.replicas[0][1].incarnation, Incarnation(2));
}

#[test]
fn a_node_declared_down_while_alive_registers_again_by_itself() {
    let members = found_three(Tuning::default());
    members[1].source.add(block(4), Tier::Host);
    eventually("the replica", || sees(&members[0], 4, &[(2, Tier::Host)]));
    let down = v1::NodeDown { node_id: 2, incarnation: 1 };
    let command = crate::state::command::new(v1::command::Body::NodeDown(down));
    let proposed = members[2]
        .block_on(async |cluster| cluster.propose(GroupId::CONTROL, command, Instant::now() + LIMIT).await);
    assert!(matches!(proposed.unwrap().1, v1::outcome::Kind::Marked(v1::NodeMarked { changed: true })));
    eventually("its new incarnation", || members[1].cluster().incarnation() == Some(Incarnation(2)));
    for member in &members {
        eventually("the replica again", || {
            let found = member.cluster().lookup(NamespaceId::DEFAULT, &[key(4)]);
            found.replicas[0].first().is_some_and(|replica| replica.incarnation == Incarnation(2))
        });
    }
}

#[test]
fn all_three_restarted_from_disk_have_what_was_acknowledged() {
    let mut members = found_three(Tuning::default());
    for number in 0..100 {
        members[1].source.add(block(number), Tier::Nvme);
    }
    let last = |member: &Member| sees(member, 99, &[(2, Tier::Nvme)]);
    for member in &members {
        eventually("the reports", || last(member));
    }
    for member in &mut members {
        member.crash();
    }
    // Without a member's work nobody registers or reports: what is found comes from disk.
    for member in &mut members {
        member.start(1, false);
    }
    for member in &members {
        eventually("a leader", || member.cluster().group(GroupId::DIRECTORY).unwrap().leader().is_some());
        eventually("every block", || (0..100).all(|number| sees(member, number, &[(2, Tier::Nvme)])));
        assert_eq!(member.cluster().nodes().len(), 3);
    }
    for member in &mut members {
        member.block_on(async |cluster| cluster.shutdown().await);
        member.kill();
        member.start(2, true);
    }
    for member in &members {
        eventually("the next incarnation", || member.cluster().incarnation() == Some(Incarnation(2)));
    }
    for member in &members {
        eventually("every block again", || (0..100).all(|number| sees(member, number, &[(2, Tier::Nvme)])));
    }
}

#[test]
fn a_node_that_moved_is_found_at_its_new_address() {
    let mut members = found_three(Tuning::default());
    members[2].kill();
    let before = members[2].addresses.control.clone();
    members[2].move_away();
    members[2].start(2, true);
    let moved = members[2].addresses.control.clone();
    assert_ne!(before, moved);
    let address = |member: &Member| member.cluster().nodes()[2].control_address.clone();
    for member in &members[..2] {
        eventually("the new address", || address(member) == moved);
    }
    // It gets the log there again, from whoever leads.
    members[0].source.add(block(8), Tier::Host);
    eventually("a report made after the move", || sees(&members[2], 8, &[(1, Tier::Host)]));
}

#[test]
fn a_follower_too_far_behind_for_the_log_catches_up_by_snapshot() {
    let tuning = Tuning { snapshot_every_entries: 60, snapshot_keep_entries: 5, ..Tuning::default() };
    let mut members = found_three(tuning);
    eventually("three voters", || voters(&members[0], GroupId::DIRECTORY) == 3);
    members[0].source.add(block(0), Tier::Nvme);
    eventually("the first report", || sees(&members[2], 0, &[(1, Tier::Nvme)]));
    members[2].kill();
    let applied = |member: &Member| member.cluster().groups()[1].applied_index;
    let behind = applied(&members[0]);
    // One report each: the next block goes out once the one before is known.
    for number in 1..=180 {
        members[0].source.add(block(number), Tier::Nvme);
        eventually("a report", || sees(&members[0], number, &[(1, Tier::Nvme)]));
    }
    let purged = |member: &Member| member.cluster().group(GroupId::DIRECTORY).unwrap().purged_index();
    eventually("the log is purged", || purged(&members[0]).is_some_and(|purged| purged > behind + 10));
    members[2].start(2, true);
    eventually("it has caught up", || applied(&members[2]) >= applied(&members[0]));
    assert!(purged(&members[2]).is_some_and(|purged| purged > behind), "it was sent the log, not a snapshot");
    assert!((0..=180).all(|number| sees(&members[2], number, &[(1, Tier::Nvme)])));
    members[1].source.add(block(200), Tier::Host);
    eventually("reports after the snapshot", || sees(&members[2], 200, &[(2, Tier::Host)]));
}

#[test]
fn of_two_processes_with_one_identity_the_older_one_stops() {
    let mut members = found_three(Tuning::default());
    members[2].kill();
    let mut copy = members[2].copy();
    members[2].start(2, true);
    eventually("the original is registered", || members[2].cluster().incarnation() == Some(Incarnation(2)));
    copy.start(3, true);
    let stopped = members[2].member_result();
    assert_eq!(stopped, Err(MemberError::Superseded { node: NodeId(3), newer: Incarnation(3) }));
    assert_eq!(members[2].cluster().incarnation(), None);
    assert_eq!(copy.cluster().incarnation(), Some(Incarnation(3)));
}

#[test]
fn a_folder_starts_only_the_node_it_belongs_to() {
    let mut members = found_three(Tuning::default());
    members[1].kill();
    let refused = members[1].try_start(|config| config.cluster_id = ClusterId([1; 16])).unwrap_err();
    assert!(matches!(refused, StartError::OtherCluster { found: CLUSTER, .. }), "{refused}");
    let refused = members[1].try_start(|config| config.node_id = NodeId(3)).unwrap_err();
    assert!(matches!(refused, StartError::OtherNode { found: NodeId(2), expected: NodeId(3) }), "{refused}");
    members[1].damage(|database| database.db().put(b"identity", b"HEARTHMD\x05\0\0\0later").unwrap());
    let refused = members[1].try_start(|_| ()).unwrap_err();
    assert!(matches!(refused, StartError::NewerFormat { found: 5, supported: 4 }), "{refused}");
}

#[test]
fn lost_deltas_are_made_good_by_the_inventory() {
    let members = found_three(Tuning::default());
    members[1].source.add(block(1), Tier::Host);
    eventually("the first", || sees(&members[0], 1, &[(2, Tier::Host)]));
    members[1].source.lose(block(1), Tier::Host, block(2));
    for member in &members {
        eventually("the inventory", || sees(member, 1, &[]) && sees(member, 2, &[(2, Tier::Host)]));
    }
}

#[test]
fn a_member_whose_work_was_interrupted_goes_on_reporting() {
    let mut members = found_three(Tuning::default());
    members[1].source.add(block(1), Tier::Host);
    eventually("the first", || sees(&members[0], 1, &[(2, Tier::Host)]));
    members[1].pause();
    members[1].source.add(block(2), Tier::Host);
    members[1].resume();
    for member in &members {
        eventually("the second", || {
            sees(member, 2, &[(2, Tier::Host)]) && sees(member, 1, &[(2, Tier::Host)])
        });
    }
}

#[test]
fn a_member_whose_group_stopped_says_so() {
    let mut members = found_three(Tuning::default());
    let leader = members[0].cluster().group(GroupId::DIRECTORY).unwrap().leader().unwrap();
    let leading = members.iter().find(|member| member.id == leader).unwrap();
    // A command that only a later build can apply, committed in spite of the checks before the log.
    let future = v1::Command { version: crate::state::command::VERSION + 1, ..Default::default() };
    leading.block_on(async |cluster| {
        let directory = cluster.group(GroupId::DIRECTORY).unwrap();
        tokio::time::timeout(LIMIT, directory.propose(&future)).await.expect("an answer in time")
    });
    // The others may be left without a quorum before they hear that it was committed.
    let stopped = members[usize::try_from(leader.0 - 1).unwrap()].member_result();
    assert!(
        matches!(&stopped, Err(MemberError::Stopped { detail }) if detail.contains(&format!("version {}", crate::state::command::VERSION + 1))),
        "{stopped:?}"
    );
    let cluster = members[usize::try_from(leader.0 - 1).unwrap()].cluster();
    assert!(!cluster.is_ready(), "a member that cannot go on does not pretend to");
    let failure = cluster.failure().unwrap();
    assert!(failure.contains("group 1 has stopped: its log or state cannot be"), "{failure}");
    for group in cluster.groups() {
        assert!(group.leader == 0 && !group.stopped.is_empty(), "no group is led here: {group:?}");
    }
}

#[test]
fn messages_for_another_cluster_node_or_version_are_refused() {
    use hearth_proto::v1::raft_client::RaftClient;

    let members = found_three(Tuning::default());
    let good = v1::RaftRequest {
        cluster_id: CLUSTER.0.to_vec().into(),
        group_id: 1,
        target: 1,
        payload: bytes::Bytes::new(),
        payload_version: 2,
    };
    let address = format!("http://{}", members[0].addresses.control);
    let vote = |request: v1::RaftRequest| {
        let address = address.clone();
        members[1].block_on(async |_| {
            RaftClient::connect(address).await.unwrap().vote(request).await.unwrap_err().to_string()
        })
    };
    let (ours, other) = (CLUSTER.to_string(), ClusterId([2; 16]).to_string());
    let refused = vote(v1::RaftRequest { cluster_id: vec![2; 16].into(), ..good.clone() });
    assert!(refused.contains(&ours) && refused.contains(&other), "{refused}");
    let refused = vote(v1::RaftRequest { target: 2, ..good.clone() });
    assert!(refused.contains("this is node 1, not node 2"), "{refused}");
    let refused = vote(v1::RaftRequest { payload_version: 3, ..good.clone() });
    assert!(refused.contains("version 3, this build knows 2"), "{refused}");
    let refused = vote(v1::RaftRequest { group_id: 9, ..good.clone() });
    assert!(refused.contains("no group 9"), "{refused}");
    assert!(vote(good).contains("unreadable payload"));
}
