//! Claims, pins, retentions, namespaces and policies over real processes.

use std::process::Command;
use std::time::{Duration, Instant};

use hearth_client::{CallError, Chain, Claim, Client, Flight, Grant, Watch};
use hearth_proto::limits::{DEADLINE_GRACE_MS, REPLICAS_MAX};
use hearth_proto::v1::RefusalReason;
use hearth_proto::{AckLevel, Priority, Retention};
use hearth_tests::blocks::{chain, get_all, put_all};
use hearth_tests::{ClusterOptions, NodeOptions, TestCluster, sibling_binary};
use serde_json::Value;

const BLOCK: usize = 64 << 10;
const PATIENCE: Duration = Duration::from_secs(60);
/// What the deadline's grace is given on top for scheduling on a shared machine.
const SCHEDULING: Duration = Duration::from_millis(450);

fn part(chain: &Chain, positions: std::ops::Range<usize>) -> Chain {
    Chain::from_keys(chain.keys()[positions].to_vec()).expect("not empty")
}

async fn claimed(client: &Client, chain: &Chain, claimant: &[u8], ttl: Duration) -> Grant {
    let answer = client.claim(chain, claimant, ttl, None).await.expect("the cluster has a leader");
    match answer.claim {
        Claim::Granted(grant) => grant,
        other => panic!("not granted: {other:?}"),
    }
}

fn reason(error: CallError) -> RefusalReason {
    match error {
        CallError::Refused { reason, detail } if !detail.is_empty() => reason,
        other => panic!("not refused with a reason: {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn one_of_many_waiters_takes_over_from_a_killed_claimant_and_the_others_load() {
    const WAITERS: usize = 24;
    let mut cluster = TestCluster::start(ClusterOptions::default()).await.expect("three nodes start");
    let missing = chain(1, 4);
    let ttl = Duration::from_millis(900);
    let owner = cluster.client(0).await.expect("node 0 answers");
    let grant = claimed(&owner, &missing, b"dead", ttl).await;
    // It renews its claim, and says so each time, until it is killed.
    let (renewed, mut renewals) = tokio::sync::mpsc::channel(1);
    let claimant = tokio::spawn(async move {
        while let Ok(Some(_)) = owner.renew(&grant, ttl, None).await {
            if renewed.send(()).await.is_err() {
                return;
            }
        }
    });
    let mut waiters = tokio::task::JoinSet::new();
    for number in 0..WAITERS {
        let (client, missing) = (cluster.client(number % 3).await.expect("it answers"), missing.clone());
        waiters.spawn(async move {
            let name = format!("waiter {number}");
            let flight = client.single_flight(&missing, name.as_bytes(), PATIENCE, Some(PATIENCE)).await;
            (number, flight)
        });
    }
    // The claim goes on across the death of the leader that granted it.
    let leader = cluster.wait_leader(1).await.expect("the directory has a leader");
    cluster.nodes[leader].kill().expect("the leader was running");
    cluster.nodes[leader].launch().expect("it starts again");
    for _ in 0..10 {
        tokio::time::timeout(PATIENCE, renewals.recv()).await.expect("renewals go on").expect("it is alive");
    }
    assert!(waiters.try_join_next().is_none(), "nobody computes what somebody else does");
    claimant.abort();

    let (winner, flight) = waiters.join_next().await.expect("they wait").expect("no panic");
    let Flight::Compute { present_blocks: 0, grant: won } = flight else { panic!("{winner}: {flight:?}") };
    assert!(won.token > grant.token, "each grant has a token of its own");
    let client = cluster.client(winner % 3).await.expect("it answers");
    assert_eq!(client.renew(&grant, ttl, None).await, Ok(None), "the dead one's claim is void");
    // What was claimed is put last, so that nobody takes what follows it for missing.
    put_all(&client, &part(&missing, 1..4), BLOCK, AckLevel::Durable).await.expect("stored");
    assert!(waiters.try_join_next().is_none(), "exactly one waiter got the claim");
    put_all(&client, &part(&missing, 0..1), BLOCK, AckLevel::Durable).await.expect("stored");
    while let Some(waiter) = waiters.join_next().await {
        let (number, flight) = waiter.expect("no panic");
        assert_eq!(flight, Flight::Load, "waiter {number}");
    }
    for node in &mut cluster.nodes {
        node.wait_ready(PATIENCE).await.expect("all of them serve");
    }
    let reader = cluster.client((winner + 1) % 3).await.expect("it answers");
    let got = get_all(&reader, &missing, BLOCK, PATIENCE).await.expect("never wrong bytes");
    assert_eq!(got.hits.len(), missing.len(), "{:?}", got.misses);
    assert_eq!(client.release(&won, None).await, Ok(false), "publishing ended it");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_block_whose_only_holder_died_is_computed_once_more() {
    let mut cluster = TestCluster::start(ClusterOptions::default()).await.expect("three nodes start");
    let lost = chain(2, 3);
    let holder = cluster.client(2).await.expect("node 2 answers");
    put_all(&holder, &lost, BLOCK, AckLevel::Host).await.expect("stored on node 2");
    let [first, second] = [0, 1].map(|home| cluster.client(home));
    let (first, second) = (first.await.expect("it answers"), second.await.expect("it answers"));
    let present = first.claim(&lost, b"a", PATIENCE, None).await.expect("the cluster has a leader");
    assert_eq!((present.present_blocks, present.claim), (3, Claim::Present));

    cluster.nodes[2].kill().expect("node 2 was running");
    TestCluster::wait_until("the death is known", PATIENCE, async || {
        first.lookup(&lost, None).await.held_prefix() == 0
            && second.lookup(&lost, None).await.held_prefix() == 0
    })
    .await
    .expect("NodeDown hides what the node held");
    let grant = claimed(&first, &lost, b"a", PATIENCE).await;
    let other = second.claim(&lost, b"b", PATIENCE, None).await.expect("the cluster has a leader");
    assert!(matches!(&other.claim, Claim::Held { claimant, .. } if claimant == "a"), "{other:?}");
    // Given back, it is free for whoever waits.
    let key = lost.keys()[0];
    let (watched, released) = tokio::join!(second.watch(key, Some(PATIENCE)), first.release(&grant, None));
    assert_eq!((watched, released), (Ok(Watch::Free), Ok(true)));
    claimed(&second, &lost, b"b", PATIENCE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn pins_and_retentions_hold_through_kill_9_of_the_leader_and_of_the_holder() {
    let node = NodeOptions {
        host_capacity: "128MiB".into(),
        nvme_capacity: "256MiB".into(),
        ..NodeOptions::default()
    };
    let options = ClusterOptions { node, ..ClusterOptions::default() };
    let mut cluster = TestCluster::start(options).await.expect("three nodes start");
    let len = 1 << 20;
    let leader = cluster.wait_leader(0).await.expect("the control group has a leader");
    let (holder, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let (pinned, retained, plain) = (chain(10, 32), chain(11, 32), chain(12, 32));
    let writer = cluster.client(holder).await.expect("the node answers");
    for chain in [&pinned, &retained, &plain] {
        put_all(&writer, chain, len, AckLevel::Durable).await.expect("stored");
    }
    let operator = cluster.client(other).await.expect("the node answers");
    TestCluster::wait_until("the blocks are known", PATIENCE, async || {
        operator.lookup(&pinned, None).await.held_prefix() == 32
    })
    .await
    .expect("the directory spreads");
    let ttl = Duration::from_secs(3_600);
    let answer = operator.pin([7; 16], &pinned, ttl, None).await.expect("within the quota");
    assert_eq!((answer.pinned_bytes, answer.absent_blocks), (32 << 20, 0));
    let high = Retention { priority: Priority::new(90).expect("in range"), duration_ms: None };
    operator.set_retention(&retained, high, None).await.expect("the cluster has a leader");

    cluster.nodes[leader].kill().expect("the leader was running");
    let listed = operator.pins(None).await.expect("the node answers");
    assert_eq!(listed.pins.len(), 1, "INV-PIN: what was acknowledged needs no leader to be read");
    let renewed = operator.renew_pin([7; 16], ttl, Some(PATIENCE)).await.expect("another leader takes over");
    assert_eq!((renewed.pinned_bytes, renewed.expires_at_ms > answer.expires_at_ms), (32 << 20, true));
    // The node remembers its pins no longer than its process; the cluster tells it again.
    cluster.nodes[leader].launch().expect("it starts again");
    cluster.nodes[holder].kill().expect("the holder was running");
    cluster.nodes[holder].launch().expect("the holder starts again");
    for node in &mut cluster.nodes {
        node.wait_ready(PATIENCE).await.expect("the cluster is whole again");
    }
    let writer = cluster.client(holder).await.expect("the node answers");
    let metric = pinned_on(&cluster, holder).await;
    assert!(metric.is_ok(), "{metric:?}");
    flood(&writer, 100, len).await;
    assert_eq!(held(&writer, &pinned, len).await, 32, "pinned blocks are never evicted");
    assert_eq!(held(&writer, &retained, len).await, 32, "what is worth more leaves later");
    assert!(held(&writer, &plain, len).await < 32, "others made room");

    assert_eq!(operator.unpin([7; 16], None).await, Ok(true));
    assert_eq!(operator.unpin([7; 16], None).await, Ok(false), "INV-IDEMPOTENT");
    TestCluster::wait_until("the store lets go", PATIENCE, async || {
        flood(&writer, 200, len).await;
        held(&writer, &pinned, len).await < 32
    })
    .await
    .expect("what is not pinned any more is evicted like any other");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_without_a_retention_has_the_one_of_its_namespace() {
    let node = NodeOptions {
        host_capacity: "128MiB".into(),
        nvme_capacity: "256MiB".into(),
        ..NodeOptions::default()
    };
    let options = ClusterOptions { nodes: 1, node, ..ClusterOptions::default() };
    let cluster = TestCluster::start(options).await.expect("one node starts");
    let client = cluster.client(0).await.expect("it answers");
    let len = 1 << 20;
    let (valued, plain) = (chain(20, 32), chain(21, 32));
    let namespaces = client.namespaces().await.expect("it answers");
    let mut spec = namespaces[0].spec.clone().expect("the default namespace is always there");
    spec.default_priority = 90;
    assert_eq!(client.put_namespace(spec.clone()).await, Ok(true));
    put_all(&client, &valued, len, AckLevel::Durable).await.expect("stored");
    spec.default_priority = u32::from(Priority::DEFAULT.value());
    assert_eq!(client.put_namespace(spec).await, Ok(true));
    put_all(&client, &plain, len, AckLevel::Durable).await.expect("stored");
    flood(&client, 300, len).await;
    assert_eq!(held(&client, &valued, len).await, 32, "what is worth more leaves later");
    assert!(held(&client, &plain, len).await < 32, "others made room");
}

/// Puts more than the node has room for.
async fn flood(client: &Client, seed: u64, len: usize) {
    for seed in seed..seed + 6 {
        put_all(client, &chain(seed, 64), len, AckLevel::Durable).await.expect("a full store makes room");
    }
}

async fn held(client: &Client, chain: &Chain, len: usize) -> usize {
    get_all(client, chain, len, PATIENCE).await.expect("never wrong bytes").hits.len()
}

/// Waits until the store of a node keeps the 32 pinned blocks.
async fn pinned_on(cluster: &TestCluster, index: usize) -> anyhow::Result<()> {
    let port = cluster.nodes[index].http_port;
    TestCluster::wait_until("the store is told of the pins", PATIENCE, async || {
        let metrics = hearth_tests::http_get(port, "/metrics", Duration::from_secs(5)).await;
        let wanted = format!("hearth_pinned_bytes {}", 32 << 20);
        metrics.is_ok_and(|(_, metrics)| metrics.lines().any(|line| line == wanted))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn what_can_never_be_is_refused_with_its_reason_and_nothing_changes() {
    let cluster =
        TestCluster::start(ClusterOptions { nodes: 1, ..Default::default() }).await.expect("a node starts");
    let client = cluster.client(0).await.expect("the node answers");
    let some = chain(3, 2);
    for ttl in [Duration::ZERO, Duration::from_millis(99), Duration::from_secs(601), Duration::MAX] {
        let refused = client.claim(&some, b"a", ttl, None).await.expect_err("an absurd time");
        assert_eq!(reason(refused), RefusalReason::Malformed, "{ttl:?}");
    }
    for claimant in [&b""[..], &[7; 129]] {
        let refused = client.claim(&some, claimant, PATIENCE, None).await.expect_err("no such claimant");
        assert_eq!(reason(refused), RefusalReason::Malformed);
    }
    let ttl = Duration::from_secs(60);
    let absent = client.pin([1; 16], &some, ttl, None).await.expect_err("nobody holds them");
    assert!(absent.to_string().contains("put them first"), "{absent}");
    put_all(&client, &some, BLOCK, AckLevel::Host).await.expect("stored");
    for ttl in [Duration::ZERO, Duration::from_secs(31 * 24 * 3_600)] {
        let refused = client.pin([1; 16], &some, ttl, None).await.expect_err("an absurd time");
        assert_eq!(reason(refused), RefusalReason::Malformed, "{ttl:?}");
    }
    let unknown = client.renew_pin([1; 16], ttl, None).await.expect_err("there is none");
    assert_eq!(reason(unknown), RefusalReason::UnknownPin);
    let pinned = client.pin([1; 16], &some, ttl, None).await.expect("a node knows its own blocks");
    assert_eq!(pinned.pinned_bytes, 2 * BLOCK as u64);
    let mut default = client.namespaces().await.expect("it answers").remove(0).spec.expect("one is listed");
    default.pin_quota_bytes = 3 * BLOCK as u64;
    assert_eq!(client.put_namespace(default).await, Ok(true));
    let refused = client.pin([2; 16], &some, ttl, None).await.expect_err("over the quota");
    assert!(refused.to_string().contains("raise its pin quota"), "{refused}");
    assert_eq!(reason(refused), RefusalReason::Quota);
    let listed = client.pins(None).await.expect("the node answers");
    assert_eq!((listed.pins.len(), listed.pinned_bytes), (1, 2 * BLOCK as u64));
    let absurd = Retention { priority: Priority::MAX, duration_ms: Some(u64::MAX) };
    let refused = client.set_retention(&some, absurd, None).await.expect_err("an absurd time");
    assert_eq!(reason(refused), RefusalReason::Malformed);
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_majority_calls_say_so_in_time_and_an_engine_computes_alone() {
    let mut cluster = TestCluster::start(ClusterOptions::default()).await.expect("three nodes start");
    let client = cluster.client(0).await.expect("node 0 answers");
    for node in &mut cluster.nodes[1..] {
        node.kill().expect("the node was running");
    }
    let some = chain(4, 2);
    let patience = Duration::from_millis(900);
    let in_time =
        |begun: Instant| begun.elapsed() <= patience + Duration::from_millis(DEADLINE_GRACE_MS) + SCHEDULING;
    let begun = Instant::now();
    let error = client.claim(&some, b"a", PATIENCE, Some(patience)).await.expect_err("there is no majority");
    assert!(matches!(error, CallError::Unavailable { .. } | CallError::Unknown { .. }), "{error:?}");
    assert!(in_time(begun), "INV-DEADLINE: {:?}", begun.elapsed());
    let begun = Instant::now();
    let flight = client.single_flight(&some, b"a", PATIENCE, Some(patience)).await;
    assert_eq!(flight, Flight::Alone, "INV-HARMLESS");
    assert!(in_time(begun), "INV-DEADLINE: {:?}", begun.elapsed());
    // Once the node knows that it has no leader, nothing is unknown about it, and the error says why.
    TestCluster::wait_until("the lack of a leader is told", PATIENCE, async || {
        let error = client.unpin([1; 16], Some(patience)).await.expect_err("there is no majority");
        matches!(&error, CallError::Unavailable { .. }) && error.to_string().contains("no leader of group 0")
    })
    .await
    .expect("a typed error names the group");
    assert_eq!(client.pins(None).await.expect("what is known is read").pins.len(), 0);
}

fn hearth(address: &str, arguments: &[&str]) -> (Option<i32>, String, String) {
    let output = Command::new(sibling_binary("hearth").expect("hearth is built"))
        .args(["--addr", address])
        .args(arguments)
        .output()
        .expect("hearth runs");
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (output.status.code(), text(&output.stdout), text(&output.stderr))
}

fn json(address: &str, arguments: &[&str]) -> Value {
    let arguments = [arguments, &["-o", "json"]].concat();
    let (code, out, error) = hearth(address, &arguments);
    assert_eq!(code, Some(0), "{arguments:?}: {error}");
    serde_json::from_str(&out).unwrap_or_else(|e| panic!("not JSON ({e}): {out}"))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_operator_manages_namespaces_pins_and_the_policy_from_any_node() {
    let cluster = TestCluster::start(ClusterOptions::default()).await.expect("three nodes start");
    let [here, there] = [0, 2].map(|index| cluster.nodes[index].control_address());
    let changed = |address: &str, arguments: &[&str]| json(address, arguments)["changed"] == true;
    let put = ["namespace", "put", "team-a", "--quota", "1GiB", "--pin-quota", "1MiB"];
    assert!(changed(&here, &put) && !changed(&here, &put), "INV-IDEMPOTENT");
    // Another node may not have heard of it yet, and must not put its defaults in the place of what was said.
    assert!(changed(&there, &["namespace", "put", "team-a", "--replicas", "2"]));
    let listed = json(&here, &["namespace", "list"]);
    let names: Vec<_> = listed["namespaces"].as_array().expect("a list").iter().map(|n| &n["name"]).collect();
    assert_eq!(names, ["default", "team-a"]);
    let team = &listed["namespaces"][1];
    assert_eq!((&team["pin_quota_bytes"], &team["replicas"]), (&Value::from(1 << 20), &Value::from(2)));
    assert!(hearth(&there, &["namespace", "list"]).1.contains("team-a"));
    assert!(changed(&here, &["namespace", "delete", "team-a"]));
    assert!(!changed(&there, &["namespace", "delete", "team-a"]));
    let (code, _, error) = hearth(&here, &["namespace", "delete", "default"]);
    assert!(code == Some(2) && error.contains("always there"), "{code:?} {error}");
    let (code, _, error) = hearth(&here, &["namespace", "put", "no spaces please"]);
    assert!(code == Some(2) && error.contains("letters, digits"), "{code:?} {error}");

    assert!(changed(&here, &["policy", "set", "--replicas", "2", "--ramp", "30"]));
    assert!(changed(&there, &["policy", "set", "--repair-rate", "1MiB"]));
    let policy = json(&here, &["policy", "show"]);
    assert_eq!(policy["replicas"], 2);
    assert_eq!((&policy["ramp_ms"], &policy["repair_bytes_per_second"]), (&30_000.into(), &(1 << 20).into()));
    assert!(hearth(&here, &["policy", "show"]).1.contains("30 s"));
    let (code, _, error) = hearth(&here, &["policy", "set", "--replicas", "99"]);
    assert!(code == Some(2) && error.contains(&format!("up to {REPLICAS_MAX} replicas")), "{code:?} {error}");

    let folder = tempfile::tempdir().expect("a temporary folder");
    let file = folder.path().join("kv.bin");
    std::fs::write(&file, [7; 3_000]).expect("writable");
    let hashes = ["aa".repeat(16), "bb".repeat(16), "cc".repeat(16)];
    let path = file.to_str().expect("a printable path");
    let put = ["put", path, "--block-bytes", "1500", "--hash", &hashes[0], "--hash", &hashes[1]];
    assert_eq!(hearth(&here, &put).0, Some(0));
    let pin = ["pin", &hashes[0], &hashes[1], &hashes[2], "--ttl", "600"];
    let pinned = json(&here, &pin);
    let id = pinned["pin_id"].as_str().expect("a name");
    assert_eq!((&pinned["absent_blocks"], &pinned["pinned_bytes"]), (&1.into(), &4_500.into()));
    assert_eq!(json(&here, &pin)["pin_id"], id, "the same blocks renew the same pin");
    let pins = json(&here, &["pins"]);
    assert_eq!((&pins["pins"][0]["pin_id"], &pins["pins"][0]["blocks"]), (&id.into(), &3.into()));
    assert!(hearth(&here, &["pins"]).1.contains("600 s") || hearth(&here, &["pins"]).1.contains("599 s"));
    assert!(changed(&here, &["retain", &hashes[0], "--priority", "90", "--ttl", "60"]));
    assert!(changed(&there, &["unpin", id]) && !changed(&there, &["unpin", id]));
    let (code, _, error) = hearth(&here, &["pin", &hashes[0], "--ttl", "0"]);
    assert!(code == Some(2) && error.contains("a pin holds"), "{code:?} {error}");
    let (code, _, error) = hearth(&here, &["unpin", "xyz"]);
    assert!(code == Some(2) && error.contains("32 hexadecimal digits"), "{code:?} {error}");
    assert!(hearth(&here, &["namespace", "put", "default", "--pin-quota", "1000"]).0 == Some(0));
    let (code, _, error) = hearth(&here, &pin);
    assert!(code == Some(2) && error.contains("may pin 1000 bytes"), "{code:?} {error}");
}
