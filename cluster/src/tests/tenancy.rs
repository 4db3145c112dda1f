//! Claims, pins and retentions among real members.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use hearth_proto::{BlockId, GroupId, NamespaceId, Priority, Retention, Tier, v1};

use super::harness::{LIMIT, Member, block, eventually, found_three, key, sees};
use crate::config::Tuning;
use crate::error::ProposeError;
use crate::refusal::CommandError;
use crate::{BlockKeeper, ClaimState, Grant, WatchEnd};

const DEFAULT: NamespaceId = NamespaceId::DEFAULT;

fn claim(member: &Member, number: u8, claimant: &'static str, ttl_ms: u64) -> ClaimState {
    let claimed = member.block_on(async |cluster| {
        let deadline = Instant::now() + LIMIT;
        cluster.claim(DEFAULT, key(number), Bytes::from(claimant), ttl_ms, deadline).await
    });
    let seen = || member.cluster().groups();
    claimed.unwrap_or_else(|error| panic!("{error} on node {}: {:?}", member.id, seen())).state
}

fn granted(state: ClaimState) -> Grant {
    let ClaimState::Granted(grant) = state else { panic!("not granted: {state:?}") };
    grant
}

fn is_held_by(state: &ClaimState, by: &str) -> bool {
    matches!(state, ClaimState::Held { claimant, .. } if claimant == by)
}

/// Waits on every member at once.
fn watch_all(members: &[&Member], number: u8) -> Vec<WatchEnd> {
    std::thread::scope(|scope| {
        let waits: Vec<_> = members
            .iter()
            .map(|member| {
                scope.spawn(|| {
                    member.block_on(async |cluster| {
                        let deadline = Instant::now() + LIMIT;
                        cluster.watch_claim(DEFAULT, key(number), deadline, || false).await.unwrap()
                    })
                })
            })
            .collect();
        waits.into_iter().map(|wait| wait.join().unwrap()).collect()
    })
}

fn leader_of(members: &[Member], group: GroupId) -> usize {
    let leader = members[0].cluster().group(group).unwrap().leader().unwrap();
    members.iter().position(|member| member.id == leader).unwrap()
}

#[test]
fn of_all_who_wait_for_a_dead_claimant_one_gets_the_block_and_the_others_its_bytes() {
    let members = found_three(Tuning::default());
    let all: Vec<&Member> = members.iter().collect();
    let first = granted(claim(all[0], 1, "dead", 700));
    assert_eq!(granted(claim(all[1], 1, "dead", 700)).token, first.token, "INV-IDEMPOTENT");
    for member in &all {
        assert!(is_held_by(&claim(member, 1, "other", 700), "dead"));
    }
    // Nobody renews it: the leader ends it, and every member tells who waits there.
    assert_eq!(watch_all(&all, 1), [WatchEnd::Free, WatchEnd::Free, WatchEnd::Free]);
    let names = ["w1", "w2", "w3"];
    let claims: Vec<ClaimState> = std::thread::scope(|scope| {
        let asked: Vec<_> = all
            .iter()
            .zip(names)
            .map(|(member, name)| scope.spawn(|| claim(member, 1, name, 60_000)))
            .collect();
        asked.into_iter().map(|asked| asked.join().unwrap()).collect()
    });
    let won: Vec<_> = claims.iter().filter(|state| matches!(state, ClaimState::Granted(_))).collect();
    assert_eq!(won.len(), 1, "INV-LINEAR: {claims:?}");
    assert!(granted(won[0].clone()).token > first.token);
    let renew_first = members[2].block_on(async |cluster| {
        cluster.renew_claim(DEFAULT, key(1), first.token, 700, Instant::now() + LIMIT).await
    });
    assert_eq!(renew_first, Ok(None), "the dead one's token is void");
    let publish = || members[1].source.add(block(1), Tier::Host);
    std::thread::scope(|scope| {
        let watching = scope.spawn(|| watch_all(&all, 1));
        publish();
        assert_eq!(watching.join().unwrap(), [WatchEnd::Present, WatchEnd::Present, WatchEnd::Present]);
    });
    assert_eq!(claim(all[0], 1, "late", 700), ClaimState::Present);
}

#[test]
fn a_claim_outlives_its_leader_and_ends_when_it_is_released() {
    let mut members = found_three(Tuning::default());
    let grant = granted(claim(&members[0], 2, "a", 600_000));
    let gone = leader_of(&members, GroupId::DIRECTORY);
    members[gone].kill();
    let left: Vec<&Member> = members.iter().filter(|member| member.id.0 as usize != gone + 1).collect();
    assert!(is_held_by(&claim(left[0], 2, "b", 1_000), "a"), "INV-ACK");
    assert_eq!(granted(claim(left[1], 2, "a", 600_000)).token, grant.token);
    let released = left[0].block_on(async |cluster| {
        let deadline = Instant::now() + LIMIT;
        let wrong = cluster.release_claim(DEFAULT, key(2), grant.token + 1, deadline).await.unwrap();
        (wrong, cluster.release_claim(DEFAULT, key(2), grant.token, deadline).await.unwrap())
    });
    assert_eq!(released, (false, true));
    assert_eq!(watch_all(&left, 2), [WatchEnd::Free, WatchEnd::Free]);
    assert!(granted(claim(left[1], 2, "b", 1_000)).token > grant.token);
}

#[test]
fn a_block_that_only_a_dead_node_has_can_be_claimed() {
    let mut members = found_three(Tuning::default());
    members[2].source.add(block(3), Tier::Nvme);
    for member in &members {
        eventually("the block", || sees(member, 3, &[(3, Tier::Nvme)]));
    }
    assert_eq!(claim(&members[0], 3, "a", 1_000), ClaimState::Present);
    members[2].kill();
    for member in &members[..2] {
        eventually("the end of its replica", || sees(member, 3, &[]));
    }
    let first = granted(claim(&members[0], 3, "a", 60_000));
    assert!(is_held_by(&claim(&members[1], 3, "b", 1_000), "a"));
    // It comes back with its block: whoever still asks is told to load it, and nobody computes it again.
    members[2].start(2, true);
    eventually("the block again", || sees(&members[0], 3, &[(3, Tier::Nvme)]));
    assert_eq!(claim(&members[0], 3, "b", 1_000), ClaimState::Present);
    assert!(first.token > 0);
}

#[test]
fn without_a_leader_every_call_says_so_by_its_deadline() {
    let mut members = found_three(Tuning::default());
    members[0].kill();
    members[1].kill();
    let limit = Duration::from_millis(400);
    let (claimed, pinned, namespace, elapsed) = members[2].block_on(async |cluster| {
        let begun = Instant::now();
        let deadline = begun + limit;
        let claimed = cluster.claim(DEFAULT, key(1), Bytes::from("a"), 1_000, deadline).await;
        let deadline = Instant::now() + limit;
        let pinned = cluster.pin(DEFAULT, [1; 16], &[key(1)], 5_000, |_| Some(1), deadline).await;
        let deadline = Instant::now() + limit;
        let spec = v1::NamespaceSpec { name: "a".into(), ..Default::default() };
        let namespace = cluster.put_namespace(spec, deadline).await;
        (claimed, pinned, namespace, begun.elapsed())
    });
    // The first may still have been on its way to a leader that is gone.
    let (group, control) = (GroupId::DIRECTORY, GroupId::CONTROL);
    let lost = |error: CommandError, group: GroupId| {
        let of = match error {
            CommandError::Uncommitted(
                ProposeError::NoLeader { group, .. } | ProposeError::Unknown { group, .. },
            ) => group,
            other => panic!("{other}"),
        };
        assert_eq!(of, group);
    };
    lost(claimed.unwrap_err(), group);
    lost(pinned.unwrap_err(), control);
    lost(namespace.unwrap_err(), control);
    assert!(elapsed < limit * 3 + Duration::from_secs(1), "INV-DEADLINE: {elapsed:?}");
}

#[test]
fn what_can_never_be_is_refused_with_its_reason() {
    let members = found_three(Tuning::default());
    members[0].block_on(async |cluster| {
        let deadline = Instant::now() + LIMIT;
        let reason = |error: CommandError| match error {
            CommandError::Refused { reason, .. } => reason,
            other => panic!("{other:?}"),
        };
        let stranger = NamespaceId(9);
        let claim = async |namespace, ttl_ms| {
            reason(cluster.claim(namespace, key(1), Bytes::from("a"), ttl_ms, deadline).await.unwrap_err())
        };
        assert_eq!(claim(stranger, 1_000).await, v1::RefusalReason::UnknownNamespace);
        assert_eq!(claim(DEFAULT, u64::MAX).await, v1::RefusalReason::Malformed);
        let pin = async |namespace, len| {
            cluster.pin(namespace, [1; 16], &[key(1)], 5_000, |_| len, deadline).await.unwrap_err()
        };
        assert_eq!(reason(pin(stranger, Some(1)).await), v1::RefusalReason::UnknownNamespace);
        assert_eq!(reason(pin(DEFAULT, Some(u32::MAX)).await), v1::RefusalReason::Quota);
        assert_eq!(pin(DEFAULT, None).await, CommandError::NothingHeld);
        let retention = Retention { priority: Priority::MAX, duration_ms: Some(u64::MAX) };
        let refused = cluster.set_retention(DEFAULT, &[key(1)], retention, deadline).await;
        assert_eq!(reason(refused.unwrap_err()), v1::RefusalReason::Malformed);
        assert_eq!(cluster.delete_namespace("nobody", deadline).await, Ok(false));
        let refused = cluster.delete_namespace("default", deadline).await;
        assert_eq!(reason(refused.unwrap_err()), v1::RefusalReason::InUse);
    });
}

/// A store that remembers what it was told.
#[derive(Default)]
struct Told {
    pins: Mutex<BTreeMap<BlockId, Duration>>,
    retentions: Mutex<BTreeMap<BlockId, Retention>>,
}

impl BlockKeeper for Told {
    fn pinned(&self) -> Vec<BlockId> {
        self.pins.lock().unwrap().keys().copied().collect()
    }

    fn pin(&self, id: &BlockId, duration: Option<Duration>) {
        let mut pins = self.pins.lock().unwrap();
        match duration {
            Some(duration) => pins.insert(*id, duration),
            None => pins.remove(id),
        };
    }

    fn retain(&self, id: &BlockId, retention: Retention) {
        self.retentions.lock().unwrap().insert(*id, retention);
    }
}

fn keep(member: &Member) -> Arc<Told> {
    let told = Arc::new(Told::default());
    let keeper = told.clone();
    member.block_on(async |cluster| {
        let cluster = cluster.clone();
        tokio::spawn(async move { cluster.keep_blocks(keeper).await });
    });
    told
}

fn pin(member: &Member, id: u8, numbers: &[u8], ttl_ms: u64) {
    let keys: Vec<_> = numbers.iter().map(|number| key(*number)).collect();
    member
        .block_on(async |cluster| {
            let deadline = Instant::now() + LIMIT;
            cluster.pin(DEFAULT, [id; 16], &keys, ttl_ms, |_| Some(10), deadline).await
        })
        .expect("the control group has a leader");
}

#[test]
fn every_store_is_told_of_pins_and_retentions_and_again_when_it_starts() {
    let mut members = found_three(Tuning::default());
    let told: Vec<Arc<Told>> = members.iter().map(keep).collect();
    pin(&members[0], 1, &[1, 2], 600_000);
    pin(&members[1], 2, &[2, 3], 1_500);
    let retention = Retention { priority: Priority::MAX, duration_ms: None };
    members[2].block_on(async |cluster| {
        cluster.set_retention(DEFAULT, &[key(5)], retention, Instant::now() + LIMIT).await.unwrap();
    });
    for told in &told {
        eventually("the retention", || told.retentions.lock().unwrap().get(&block(5)) == Some(&retention));
        // The short pin ends by replicated time, and what another pin still covers stays.
        eventually("the end of the short pin", || told.pinned() == [block(1), block(2)]);
    }
    // The leader of the control group dies: what it acknowledged stays, and goes on ending (INV-PIN).
    let gone = leader_of(&members, GroupId::CONTROL);
    members[gone].kill();
    let left = (gone + 1) % 3;
    assert_eq!(members[left].cluster().pins(DEFAULT).pins.len(), 1, "INV-ACK");
    pin(&members[left], 3, &[7], 1_500);
    eventually("the pin after it", || told[left].pinned().contains(&block(7)));
    eventually("its end", || !told[left].pinned().contains(&block(7)));
    members[gone].start(2, true);
    let again = keep(&members[gone]);
    eventually("all of it again", || {
        again.pinned() == [block(1), block(2)] && again.retentions.lock().unwrap().contains_key(&block(5))
    });
    let unpinned = members[left].block_on(async |cluster| {
        let deadline = Instant::now() + LIMIT;
        (cluster.unpin(DEFAULT, [1; 16], deadline).await, cluster.unpin(DEFAULT, [1; 16], deadline).await)
    });
    assert_eq!(unpinned, (Ok(true), Ok(false)));
    eventually("the end of all pins", || again.pinned().is_empty());
    assert_eq!(members[left].cluster().pins(DEFAULT).pinned_bytes, 0);
    // A block that comes later is told of when it comes.
    again.retentions.lock().unwrap().clear();
    members[gone].cluster().blocks_came(&[block(5), block(6)]);
    eventually("what came", || again.retentions.lock().unwrap().keys().eq([&block(5)]));
}

#[test]
fn pins_and_namespaces_come_by_snapshot_and_an_idle_log_does_not_grow() {
    let tuning = Tuning { snapshot_every_entries: 60, snapshot_keep_entries: 5, ..Tuning::default() };
    let mut members = found_three(tuning);
    members[2].kill();
    for id in 0..150 {
        pin(&members[0], id, &[id, 1], 600_000);
    }
    members[0].block_on(async |cluster| {
        let spec = v1::NamespaceSpec { name: "a".into(), pin_quota_bytes: 7, ..Default::default() };
        let deadline = Instant::now() + LIMIT;
        assert_eq!(cluster.put_namespace(spec.clone(), deadline).await, Ok(true));
        assert_eq!(cluster.put_namespace(spec, deadline).await, Ok(false), "INV-IDEMPOTENT");
        let policy = v1::ClusterPolicy { replicas: 2, ..Default::default() };
        assert_eq!(cluster.put_policy(policy, deadline).await, Ok(true));
    });
    let purged = || members[0].cluster().group(GroupId::CONTROL).unwrap().purged_index();
    eventually("the log is purged", || purged().is_some_and(|purged| purged > 100));
    members[2].start(2, true);
    let told = keep(&members[2]);
    let all = |member: &Member| {
        let cluster = member.cluster();
        (cluster.pins(DEFAULT), cluster.namespaces(), cluster.policy())
    };
    eventually("all by snapshot", || all(&members[2]) == all(&members[0]));
    assert_eq!(members[2].cluster().pins(DEFAULT).pins.len(), 150);
    eventually("the store is told", || told.pinned().len() == 150);
    let last = || {
        let groups = members.iter().map(|member| member.cluster().groups());
        groups.map(|groups| groups.iter().map(|group| group.last_log_index).collect::<Vec<_>>()).max()
    };
    eventually("nobody proposes", || {
        let before = last();
        // The window of a measurement: twice the longest pause between looks at what is due.
        std::thread::sleep(Duration::from_millis(2 * hearth_proto::limits::EXPIRY_MS_MAX));
        last() == before
    });
}
