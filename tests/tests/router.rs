//! A node as the router's indexer: engines that publish what they hold, and routers that ask for it.

mod engine;

use std::sync::Mutex;
use std::time::Duration;

use hearth_router::catalog::hashes::local_hashes;
use hearth_tests::{ClusterOptions, TestCluster, http_get, http_post};
use serde_json::{Value, json};

use crate::engine::{Engine, batch, stored};

const PATIENCE: Duration = Duration::from_secs(60);
const CALL: Duration = Duration::from_secs(10);
const BLOCK: u32 = 16;

async fn one_node() -> TestCluster {
    TestCluster::start(ClusterOptions { nodes: 1, ..ClusterOptions::default() })
        .await
        .expect("one node starts")
}

/// One that is called "e", and holds one block.
async fn one_engine() -> (TestCluster, Engine) {
    let cluster = one_node().await;
    let port = cluster.nodes[0].http_port;
    let mut engine = Engine::start().await;
    register(port, &engine, "e").await;
    engine.stored(&[1], None, &tokens(0..1), "GPU").await;
    wait_held(port, "e", [1, 1, 1]).await;
    (cluster, engine)
}

async fn post(port: u16, path: &str, request: &Value) -> (u16, Value) {
    let (code, body) = http_post(port, path, request.to_string().as_bytes(), CALL).await.expect("it answers");
    (code, serde_json::from_str(&body).unwrap_or(Value::String(body)))
}

async fn register(port: u16, engine: &Engine, instance: &str) {
    let request = json!({
        "type": "vLLM", "modelname": "m", "instance_id": instance, "block_size": BLOCK, "dp_rank": 0,
        "endpoint": engine.endpoint, "replay_endpoint": engine.replay_endpoint,
    });
    let (code, answer) = post(port, "/register", &request).await;
    assert_eq!((code, &answer["instance_id"]), (201, &json!(instance)), "{answer}");
}

fn tokens(blocks: std::ops::Range<u32>) -> Vec<u32> {
    (blocks.start * BLOCK..blocks.end * BLOCK).collect()
}

/// What each instance holds of so many blocks, as Mooncake's words have it.
async fn held(port: u16, blocks: u32) -> Value {
    let ask = json!({ "model": "m", "block_size": BLOCK, "token_ids": tokens(0..blocks) });
    let (code, answer) = post(port, "/query", &ask).await;
    if code == 200 { answer["default"].clone() } else { answer }
}

async fn wait_held(port: u16, instance: &str, expected: [u32; 3]) {
    let expected = expected.map(|blocks| json!(blocks * BLOCK));
    let last = Mutex::new(Value::Null);
    let met = TestCluster::wait_until("the events are taken in", PATIENCE, async || {
        let answer = held(port, 100).await;
        let found = &answer[instance];
        let is_met = [&found["GPU"], &found["CPU"], &found["longest_matched"]] == expected.each_ref();
        *last.lock().expect("nobody broke") = answer;
        is_met
    });
    let met = met.await;
    assert!(
        met.is_ok(),
        "{instance} is not found to hold {expected:?}: {}",
        last.lock().expect("nobody broke")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_engines_publish_is_found_by_tokens_and_by_hashes() {
    let cluster = one_node().await;
    let port = cluster.nodes[0].http_port;
    let (mut first, mut second) = (Engine::start().await, Engine::start().await);
    // What was stored before anybody listened is asked for.
    first.stored(&[11, 12, 13], None, &tokens(0..3), "GPU").await;
    register(port, &first, "first").await;
    register(port, &second, "second").await;
    wait_held(port, "first", [3, 3, 3]).await;
    // The same blocks under other names, as with another seed of the engine's hashes.
    second.stored(&[91, 92], None, &tokens(0..2), "GPU").await;
    wait_held(port, "second", [2, 2, 2]).await;
    // A block that leaves the accelerator and stays with the host, and a chain that goes on there.
    first.stored(&[11, 12, 13], None, &tokens(0..3), "CPU").await;
    first.removed(&[12], "GPU").await;
    first.stored(&[14], Some(13), &tokens(3..4), "CPU").await;
    wait_held(port, "first", [1, 4, 4]).await;

    // As Dynamo asks: by the hash of each block's tokens.
    let locals = local_hashes(&tokens(0..4), BLOCK, None, None);
    let ask = json!({ "model_name": "m", "block_hashes": locals });
    let (code, answer) = post(port, "/query_by_hash", &ask).await;
    assert_eq!((code, &answer["instances"]["first"]["cpu"]), (200, &json!(4 * BLOCK)), "{answer}");
    assert_eq!(answer["scores"], json!({ "first": { "0": BLOCK }, "second": { "0": 2 * BLOCK } }));
    assert_eq!(answer["instances"]["second"]["dp"], json!({ "0": 2 * BLOCK }));

    let (code, workers) = http_get(port, "/workers?model_name=m", CALL).await.expect("it answers");
    let workers: Value = serde_json::from_str(&workers).expect("JSON");
    assert_eq!((code, workers.as_array().map(Vec::len)), (200, Some(2)), "{workers}");
    let (code, metrics) = http_get(port, "/metrics", CALL).await.expect("it answers");
    assert!(code == 200 && metrics.contains("hearth_router_workers{model=\"m\""), "{metrics}");

    let gone = json!({ "modelname": "m", "instance_id": "second", "block_size": BLOCK });
    let (code, answer) = post(port, "/unregister", &gone).await;
    assert_eq!((code, &answer["removed_instances"]), (200, &json!(["second|default|0"])), "{answer}");
    assert_eq!(held(port, 4).await.as_object().map(|found| found.len()), Some(1));
    assert_eq!(post(port, "/unregister", &gone).await.0, 404);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_missed_is_asked_for_and_the_dead_are_forgotten() {
    let (cluster, mut engine) = one_engine().await;
    let port = cluster.nodes[0].http_port;
    engine.lose(batch(&[stored(&[2, 3], Some(1), &tokens(1..3), "GPU")]));
    engine.stored(&[4], Some(3), &tokens(3..4), "GPU").await;
    wait_held(port, "e", [4, 4, 4]).await;
    // What nobody can read costs what is known of its engine, and no more.
    engine.publish(vec![0xc1; 100]).await;
    wait_held(port, "e", [0, 0, 0]).await;
    engine.stored(&[1, 2], None, &tokens(0..2), "GPU").await;
    wait_held(port, "e", [2, 2, 2]).await;

    drop(engine);
    wait_held(port, "e", [0, 0, 0]).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_asked_is_refused_with_a_reason() {
    let (cluster, _engine) = one_engine().await;
    let port = cluster.nodes[0].http_port;
    let registration = |block_size: Value, endpoint: &str| json!({ "model_name": "m", "instance_id": 1, "block_size": block_size, "endpoint": endpoint });
    let hashes: Vec<u64> = (0..100_000).collect();
    for (path, request, expected, says) in [
        ("/register", json!([]), 400, "no JSON that is known"),
        ("/register", registration(json!(0), "tcp://h:1"), 400, "from 1"),
        ("/register", registration(json!(-1), "tcp://h:1"), 400, "no JSON that is known"),
        ("/register", registration(json!(16), "tcp://*:5557"), 400, "name of its host"),
        ("/register", registration(json!(16), "http://h:1"), 400, "tcp://host:port"),
        ("/query", json!({ "model": "other", "token_ids": [1] }), 404, "no worker is registered"),
        ("/query", json!({ "model": "m" }), 400, "`token_ids` is missing"),
        ("/query", json!({ "model": "m", "token_ids": [-1] }), 400, "no JSON that is known"),
        ("/query_by_hash", json!({ "model": "m", "seq_hashes": hashes }), 413, "at the most"),
        (
            "/query_by_hash",
            json!({ "model": "m", "block_hashes": [1], "cache_salt": "s" }),
            400,
            "leave `cache_salt`",
        ),
        ("/unregister", json!({ "model": "m", "instance_id": "nobody" }), 404, "see /workers"),
    ] {
        let (code, answer) = post(port, path, &request).await;
        let reason = answer["error"].as_str().unwrap_or_default();
        assert!(code == expected && reason.contains(says), "{path}: {code} {answer}");
    }
    let (code, _) = http_post(port, "/query", &vec![b' '; 9 << 20], CALL).await.expect("it answers");
    assert_eq!(code, 413);
    // A port that answers in another language is tried again and again, and said to be wrong.
    let elsewhere = json!({
        "model_name": "m", "instance_id": "http", "block_size": BLOCK, "endpoint": format!("tcp://127.0.0.1:{port}"),
    });
    assert_eq!(post(port, "/register", &elsewhere).await.0, 201);
    TestCluster::wait_until("the mistake is shown", PATIENCE, async || {
        let (_, workers) = http_get(port, "/workers", CALL).await.expect("it answers");
        let workers: Value = serde_json::from_str(&workers).expect("JSON");
        let shown = workers.as_array().into_iter().flatten().find(|worker| worker["instance_id"] == "http");
        shown.is_some_and(|worker| worker["status"] == "pending" && worker["last_error"].is_string())
    })
    .await
    .expect("its status says so");
    let nothing = json!({ "model": "m", "seq_hashes": [] });
    let (code, answer) = post(port, "/query_by_hash", &nothing).await;
    assert_eq!((code, &answer["default"]["e"]["longest_matched"]), (200, &json!(0)));
    assert_eq!(held(port, 1).await["e"]["GPU"], json!(BLOCK), "nobody else is hurt");
}
