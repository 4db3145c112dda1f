//! A directory that several groups share.

use std::time::Duration;

use hearth_proto::{BlockKey, DirectoryGroups, GroupId, NamespaceId, NodeId, Tier, v1};

use super::harness::{Member, block, eventually, found_three_split, key, sees};
use crate::config::Tuning;
use crate::error::StartError;

const BLOCKS: u8 = 120;

fn groups() -> DirectoryGroups {
    DirectoryGroups::new(3).unwrap()
}

/// A cluster whose members hold the blocks in turn.
fn found_and_fill() -> Vec<Member> {
    let members = found_three_split(Tuning::default(), groups());
    for number in 0..BLOCKS {
        members[usize::from(number % 3)].source.add(block(number), Tier::Nvme);
    }
    for member in &members {
        eventually("every block", || sees_all(member, &[1, 2, 3]));
    }
    members
}

/// Whether every block is found on the node that holds it, if that is one of `up`, and nowhere else.
fn sees_all(member: &Member, up: &[u64]) -> bool {
    let keys: Vec<BlockKey> = (0..BLOCKS).map(key).collect();
    let answer = member.cluster().lookup(NamespaceId::DEFAULT, &keys);
    (0..BLOCKS).zip(answer.replicas.iter()).all(|(number, found)| {
        let holder = u64::from(number % 3) + 1;
        let expected = up.contains(&holder).then_some(NodeId(holder));
        found.iter().map(|view| view.node).eq(expected)
    })
}

#[test]
fn several_groups_are_reported_to_and_looked_up_as_one_directory() {
    let mut members = found_and_fill();
    let statuses = members[0].cluster().groups();
    let held: Vec<u64> = statuses.iter().map(|group| group.blocks).collect();
    assert_eq!((held.len(), held.iter().sum::<u64>()), (4, u64::from(BLOCKS)));
    assert!(held[1..].iter().all(|blocks| *blocks > u64::from(BLOCKS) / 6), "{held:?}");
    let answer = members[2].cluster().lookup(NamespaceId::DEFAULT, &[key(0), key(1), key(2), key(3), key(4)]);
    let asked: Vec<GroupId> = answer.applied.iter().map(|(group, _)| *group).collect();
    assert!(asked.len() > 1 && asked.is_sorted(), "{asked:?}");
    assert!(answer.staleness.is_some_and(|staleness| staleness < Duration::from_secs(5)));
    // What a node claimed goes from every group when it is gone, and comes back to every group.
    members[2].kill();
    eventually("the end of its replicas", || sees_all(&members[0], &[1, 2]));
    members[2].start(2, true);
    for member in &members {
        eventually("every block again", || sees_all(member, &[1, 2, 3]));
    }
    // All of them begin anew from what is on disk.
    members.iter_mut().for_each(Member::crash);
    members.iter_mut().for_each(|member| member.start(3, true));
    for member in &members {
        eventually("every block after all were down", || sees_all(member, &[1, 2, 3]));
    }
}

#[test]
fn a_group_that_has_no_majority_holds_up_no_other() {
    let mut members = found_and_fill();
    let broken = GroupId(2);
    for member in &mut members[..2] {
        // As if its disk had failed for this group alone: the member's work would end all of them.
        member.pause();
        member.block_on(async |cluster| cluster.group(broken).unwrap().shutdown().await);
    }
    let added = BLOCKS..BLOCKS + 60;
    added.clone().for_each(|number| members[2].source.add(block(number), Tier::Host));
    let (held_up, others): (Vec<u8>, Vec<u8>) =
        added.partition(|number| groups().group_of(&key(*number)) == broken);
    assert!(held_up.len() > 5 && others.len() > 5);
    for number in others {
        eventually("what other groups hold", || sees(&members[2], number, &[(3, Tier::Host)]));
    }
    assert!(held_up.iter().all(|number| sees(&members[2], *number, &[])), "INV-ACK: no majority took it");
}

#[test]
fn a_directory_is_never_split_otherwise_than_it_was() {
    let mut members = found_three_split(Tuning::default(), groups());
    members[1].kill();
    let change = DirectoryGroups::new(4).unwrap();
    let refused = members[1].try_start(|config| config.directory_groups = change).unwrap_err();
    assert!(matches!(refused, StartError::OtherDirectoryGroups { found: 3, expected: 4 }), "{refused}");
    members[1].try_start(|_| ()).unwrap();
}

#[test]
fn nodes_that_would_take_the_groups_for_others_are_not_admitted() {
    let members = found_three_split(Tuning::default(), groups());
    let address = format!("http://{}", members[0].addresses.control);
    let join = |command_version, expected_directory_groups| {
        let request = v1::JoinRequest {
            node_uuid: vec![9; 16].into(),
            control_address: "127.0.0.1:1".into(),
            command_version,
            expected_directory_groups,
            ..Default::default()
        };
        let address = address.clone();
        let answer = members[0].block_on(async |_| {
            let mut client = v1::cluster_client::ClusterClient::connect(address).await.unwrap();
            client.join(request).await.unwrap().into_inner()
        });
        match answer.result {
            Some(v1::join_response::Result::Refused(refused)) => refused.detail,
            other => panic!("{other:?}"),
        }
    };
    assert!(join(0, 0).contains("this build knows nothing"), "a build of before there could be several");
    assert!(join(2, 4).contains("3 directory groups, not 4"));
    assert_eq!(members[0].cluster().nodes().len(), 3, "none of them was admitted");
}
