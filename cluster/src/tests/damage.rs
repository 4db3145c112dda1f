//! Members whose files were damaged: they do not vote from what is left, say what to do, and the rest goes on.

use std::path::PathBuf;
use std::time::Instant;

use hearth_proto::{GroupId, NodeId, Tier};

use super::harness::{LIMIT, Member, block, eventually, found_three, join, sees};
use crate::config::Tuning;
use crate::error::StartError;

fn file_in(member: &Member, folder: &str, wanted: impl Fn(&str) -> bool) -> PathBuf {
    let entries = std::fs::read_dir(member.dir().join(folder)).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> =
        entries.filter(|path| wanted(path.file_name().unwrap().to_str().unwrap())).collect();
    found.sort();
    found.pop().expect("there is such a file")
}

fn flip(path: &PathBuf, at: impl Fn(usize) -> usize) {
    let mut bytes = std::fs::read(path).unwrap();
    let at = at(bytes.len());
    bytes[at] ^= 0x10;
    std::fs::write(path, bytes).unwrap();
}

#[track_caller]
fn refuses_to_start(member: &Member) {
    let refused = member.try_start(|_| ()).unwrap_err();
    assert!(
        matches!(&refused, StartError::Damaged { .. }) && refused.to_string().contains("hearth node remove"),
        "{refused}"
    );
}

#[test]
fn a_member_with_a_damaged_log_stays_out_and_is_replaced_by_itself_anew() {
    let mut members = found_three(Tuning::default());
    for number in 0..20 {
        members[0].source.add(block(number), Tier::Nvme);
        eventually("a report", || sees(&members[2], number, &[(1, Tier::Nvme)]));
    }
    members[2].crash();
    flip(&file_in(&members[2], "rocksdb", |name| name.ends_with(".log")), |size| size / 2);
    refuses_to_start(&members[2]);
    let removed = members[0]
        .block_on(async |cluster| cluster.remove_node(NodeId(3), true, Instant::now() + LIMIT).await);
    assert!(removed.unwrap());
    let anew = join(&members[0], 33, |_| ());
    eventually("it votes in its place", || {
        let voters = anew.cluster().group(GroupId::DIRECTORY).unwrap().membership().voters;
        voters == [NodeId(1), NodeId(2), NodeId(4)]
    });
    eventually("it has what the other had", || sees(&anew, 19, &[(1, Tier::Nvme)]));
}

#[test]
fn a_member_with_a_damaged_or_missing_snapshot_stays_out() {
    let tuning = Tuning { snapshot_every_entries: 30, snapshot_keep_entries: 2, ..Tuning::default() };
    let mut members = found_three(tuning);
    for number in 0..100 {
        members[0].source.add(block(number), Tier::Nvme);
        eventually("a report", || sees(&members[2], number, &[(1, Tier::Nvme)]));
    }
    let group = |member: &Member| member.cluster().group(GroupId::DIRECTORY).unwrap().purged_index();
    eventually("the log is purged", || group(&members[2]).is_some());
    members[2].kill();
    let snapshot =
        file_in(&members[2], "snapshots", |name| name.starts_with("1-") && name.ends_with(".snap"));
    let good = std::fs::read(&snapshot).unwrap();
    for at in [0, 9, 21, good.len() / 2, good.len() - 1] {
        flip(&snapshot, |_| at);
        refuses_to_start(&members[2]);
        assert!(snapshot.exists(), "nothing is removed that somebody may want to look at");
        std::fs::write(&snapshot, &good).unwrap();
    }
    std::fs::remove_file(&snapshot).unwrap();
    refuses_to_start(&members[2]);
    std::fs::write(&snapshot, &good).unwrap();
    members[2].start(2, true);
    eventually("it is as before", || sees(&members[2], 99, &[(1, Tier::Nvme)]));
}
