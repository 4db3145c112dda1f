//! Builds that know different versions in one cluster: nothing is said that one of them does not know.

use std::time::Instant;

use hearth_proto::{GroupId, NodeId, Tier, v1};
use v1::RefusalReason;

use super::harness::{LIMIT, Member, block, eventually, found_three, join, sees, try_join};
use crate::config::Tuning;
use crate::error::{MemberError, OperateError, ProposeError};
use crate::state::command::VERSION;

/// A build that knows the version before this one's.
fn older() -> Tuning {
    Tuning { command_version: 2, ..Tuning::default() }
}

fn finalize(member: &Member, version: u32) -> Result<(u32, bool), OperateError> {
    member.block_on(async |cluster| cluster.finalize_version(version, Instant::now() + LIMIT).await)
}

fn drain(member: &Member, node: u64) -> Result<bool, OperateError> {
    member.block_on(async |cluster| cluster.drain_node(NodeId(node), false, Instant::now() + LIMIT).await)
}

#[track_caller]
fn refused(error: &OperateError, texts: &[&str]) {
    let OperateError::Propose(ProposeError::Refused { reason: RefusalReason::Version, detail }) = error
    else {
        panic!("{error}")
    };
    assert!(texts.iter().all(|text| detail.contains(text)), "{detail}");
}

#[test]
fn nodes_are_upgraded_one_by_one_and_the_new_version_is_used_once_all_know_it() {
    let mut members = found_three(older());
    members[2].source.add(block(1), Tier::Nvme);
    eventually("old and new know reports", || sees(&members[0], 1, &[(3, Tier::Nvme)]));
    for (at, left) in [(0, [2, 3].as_slice()), (1, &[3]), (2, &[])] {
        refused(&drain(&members[1], 2).unwrap_err(), &["needs version 3", "cluster is at 2"]);
        members[at].kill();
        members[at].tuning = Tuning::default();
        members[at].zone = "east".into();
        members[at].start(2, true);
        eventually("it is registered", || members[at].cluster().incarnation().is_some());
        for node in left {
            eventually("whoever holds it up is named", || {
                let error = finalize(&members[at], VERSION).unwrap_err();
                error.to_string().contains(&format!("node {node} n{node} (knows 2)"))
            });
        }
    }
    // The leader may have to hear each of them first.
    eventually("all know it", || matches!(finalize(&members[0], 0), Ok((VERSION, _))));
    assert_eq!(finalize(&members[1], VERSION).unwrap(), (VERSION, false), "INV-IDEMPOTENT");
    let unknown = finalize(&members[0], VERSION + 1).unwrap_err();
    let [wanted, known] = [VERSION + 1, VERSION].map(|version| version.to_string());
    let texts = [format!("not every node knows version {wanted}"), format!("node 1 n1 (knows {known})")];
    refused(&unknown, &texts.each_ref().map(String::as_str));
    assert!(drain(&members[1], 2).unwrap());
    for member in &members {
        eventually("what could not be said before is said now", || {
            let nodes = member.cluster().nodes();
            nodes.iter().all(|node| node.zone == "east" && node.command_version == VERSION)
        });
    }
    // The build before this one is not let in any more, neither as itself nor as another.
    members[2].kill();
    members[2].tuning = older();
    members[2].start(3, true);
    let stopped = members[2].member_result().unwrap_err();
    assert!(
        matches!(&stopped, MemberError::Refused { detail, .. } if detail.contains("start a newer build")),
        "{stopped}"
    );
    // Any build says what it knows when it asks to join; this one says the newest, so it gets in.
    assert_eq!(join(&members[0], 9, |_| ()).id, NodeId(4));
}

#[test]
fn a_new_cluster_begins_with_all_that_its_founder_knows() {
    let members = found_three(Tuning::default());
    for member in &members {
        eventually("the version", || member.cluster().finalized_version() == VERSION);
    }
    let old = found_three(older());
    assert_eq!(old[0].cluster().finalized_version(), 2);
}

#[test]
fn a_command_that_a_leader_does_not_know_is_not_taken() {
    let members = found_three(Tuning::default());
    let leader = members[0].cluster().group(GroupId::CONTROL).unwrap().leader().unwrap();
    let member = members.iter().find(|member| member.id != leader).unwrap();
    let future = v1::Command { version: VERSION + 1, ..Default::default() };
    let asked = member.block_on(async |cluster| {
        let (id, address) = cluster.known_leader(cluster.group(GroupId::CONTROL).unwrap()).unwrap();
        let request = v1::ProposeRequest {
            cluster_id: cluster.cluster_id().0.to_vec().into(),
            group_id: 0,
            command: Some(future),
        };
        cluster.0.peers.cluster_service(id, &address).unwrap().propose(request).await
    });
    let Some(v1::propose_response::Result::Applied(answer)) = asked.unwrap().into_inner().result else {
        panic!()
    };
    let Some(v1::outcome::Kind::Refused(refused)) = answer.outcome.unwrap().kind else { panic!() };
    assert_eq!((answer.log_index, refused.reason()), (0, RefusalReason::Version));
    let expected = format!("needs version {} and the cluster is at {VERSION}", VERSION + 1);
    assert!(refused.detail.contains(&expected), "{}", refused.detail);
}

#[test]
fn a_build_that_knows_too_little_is_told_so_when_it_asks_to_join() {
    use hearth_proto::v1::cluster_client::ClusterClient;

    let members = found_three(Tuning::default());
    let request = v1::JoinRequest { node_uuid: vec![7; 16].into(), command_version: 2, ..Default::default() };
    let address = format!("http://{}", members[0].addresses.control);
    let answer = members[1].block_on(async |_| {
        ClusterClient::connect(address).await.unwrap().join(request).await.unwrap().into_inner()
    });
    let Some(v1::join_response::Result::Refused(refused)) = answer.result else { panic!("{answer:?}") };
    let expected = format!("cluster is at version {VERSION} and this build knows 2");
    assert!(refused.detail.contains(&expected), "{}", refused.detail);
    assert_eq!(try_join(&members[0], 8, |_| ()).unwrap().id, NodeId(4), "this build knows enough");
}
