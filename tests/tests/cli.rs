//! The `hearth` program against a real cluster: answers, documents, exit statuses.

use std::process::Command;

use hearth_tests::{ClusterOptions, TestCluster, http_get, sibling_binary};
use serde_json::Value;

struct Run {
    code: Option<i32>,
    out: Vec<u8>,
    error: String,
}

impl Run {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.out)
            .unwrap_or_else(|e| panic!("not JSON ({e}): {}", String::from_utf8_lossy(&self.out)))
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.out).into_owned()
    }
}

fn hearth(address: &str, arguments: &[&str]) -> Run {
    let output = Command::new(sibling_binary("hearth").expect("hearth is built"))
        .args(["--addr", address])
        .args(arguments)
        .output()
        .expect("hearth runs");
    Run {
        code: output.status.code(),
        out: output.stdout,
        error: String::from_utf8_lossy(&output.stderr).into_owned(),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_goes_in_and_comes_out_the_same() {
    let cluster = TestCluster::start(ClusterOptions::default()).await.expect("three nodes start");
    let (here, there) = (cluster.nodes[0].control_address(), cluster.nodes[1].control_address());
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (source, copy) = (folder.path().join("kv.bin"), folder.path().join("copy.bin"));
    let content: Vec<u8> = (0..2_500_001u32).map(|i| (i.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    std::fs::write(&source, &content).expect("writable");
    let source = source.to_str().expect("a printable path");

    let put = hearth(&here, &["put", source, "--block-bytes", "512KiB", "-o", "json"]);
    assert_eq!(put.code, Some(0), "{}", put.error);
    let document = put.json();
    let hashes: Vec<&str> =
        document["blocks"].as_array().expect("a list").iter().filter_map(|b| b["hash"].as_str()).collect();
    assert_eq!(hashes.len(), 5);

    let mut arguments = vec!["get", "--out", copy.to_str().expect("a printable path")];
    arguments.extend(&hashes);
    let mut got = hearth(&there, &arguments);
    for _ in 0..100 {
        if got.code == Some(0) {
            break;
        }
        // The directory has not told the other node yet; each try is a whole process.
        got = hearth(&there, &arguments);
    }
    assert_eq!(got.code, Some(0), "{}{}", got.text(), got.error);
    assert!(std::fs::read(&copy).expect("it was written") == content, "the copy differs");

    let report = hearth(&there, &["get", hashes[0], "-o", "json"]).json();
    let block = &report["blocks"][0];
    assert!(block["node"].is_u64() && block["tier"].is_string() && block["miss"].is_null(), "{report}");
    assert_eq!(block["bytes"], 512 << 10);

    let mut arguments = vec!["locate", "-o", "json"];
    arguments.extend(&hashes);
    let located = hearth(&there, &arguments);
    assert_eq!(located.code, Some(0), "{}", located.error);
    assert_eq!(located.json()["held_prefix"], 5);

    let again = hearth(&here, &["put", source, "--block-bytes", "512KiB", "-o", "json"]);
    assert!(
        again.json()["blocks"].as_array().expect("a list").iter().all(|b| b["existed"] == true),
        "INV-IDEMPOTENT: a repeated put finds its blocks"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_missing_has_an_exit_status_of_its_own() {
    let cluster =
        TestCluster::start(ClusterOptions { nodes: 1, ..Default::default() }).await.expect("a node starts");
    let address = cluster.nodes[0].control_address();
    let absent = "00112233445566778899aabbccddeeff";
    for command in ["get", "locate"] {
        let run = hearth(&address, &[command, absent]);
        assert_eq!(run.code, Some(3), "{command}: {}{}", run.text(), run.error);
    }
    assert!(hearth(&address, &["get", absent]).text().contains("not_stored"));
    let report = hearth(&address, &["get", absent, "-o", "json"]).json();
    assert_eq!(report["blocks"][0], serde_json::json!({"hash": absent, "miss": "not_stored"}));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_with_a_gap_is_not_written_and_an_older_one_stays() {
    let cluster =
        TestCluster::start(ClusterOptions { nodes: 1, ..Default::default() }).await.expect("a node starts");
    let address = cluster.nodes[0].control_address();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = |name: &str| folder.path().join(name).to_str().expect("a printable path").to_owned();
    let (source, copy) = (path("kv.bin"), path("copy.bin"));
    std::fs::write(&source, [7; 3_000]).expect("writable");
    let (first, last, absent) = ("aa".repeat(16), "bb".repeat(16), "cc".repeat(16));
    let put = ["put", &source, "--block-bytes", "2000", "--hash", &first, "--hash", &last];
    assert_eq!(hearth(&address, &put).code, Some(0));

    let with_gap = |out: &str| hearth(&address, &["get", &first, &absent, &last, "--out", out]);
    let run = with_gap(&copy);
    assert_eq!(run.code, Some(3), "{}", run.error);
    assert!(run.error.contains("1 of 3") && run.error.contains("was not written"), "{}", run.error);
    std::fs::write(&copy, "older").expect("writable");
    let run = with_gap(&copy);
    assert_eq!(run.code, Some(3), "{}", run.error);
    assert!(run.error.contains("left as it was"), "{}", run.error);
    assert_eq!(std::fs::read(&copy).expect("it is still there"), b"older");
    let run = with_gap("-");
    assert_eq!((run.code, run.out.len()), (Some(3), 2_000), "what follows a gap has no place: {}", run.error);

    let run = hearth(&address, &["get", &first, &last, "--out", &copy]);
    assert_eq!(run.code, Some(0), "{}", run.error);
    assert_eq!(std::fs::read(&copy).expect("it was written"), [7; 3_000]);
    let left: Vec<_> = std::fs::read_dir(folder.path()).expect("the folder is there").collect();
    assert_eq!(left.len(), 2, "nothing is left beside the file: {left:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_put_that_can_never_be_done_is_a_bad_request() {
    let cluster =
        TestCluster::start(ClusterOptions { nodes: 1, ..Default::default() }).await.expect("a node starts");
    let address = cluster.nodes[0].control_address();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let path = folder.path().join("kv.bin");
    std::fs::write(&path, [7; 5_000]).expect("writable");
    let path = path.to_str().expect("a printable path");
    for (flags, named) in [
        (["--block-bytes", "1GiB"], "--block-bytes"),
        (["--block-bytes", "0"], "--block-bytes"),
        (["--block-bytes", "1"], "larger --block-bytes"),
        (["--hash", "00112233445566778899aabbccddeeff"], ""),
    ] {
        let mut arguments = vec!["put", path];
        arguments.extend(flags);
        if named.is_empty() {
            arguments.extend(["--block-bytes", "2500"]);
        }
        let run = hearth(&address, &arguments);
        assert_eq!(run.code, Some(2), "{arguments:?}: {}", run.error);
        let named = if named.is_empty() { "one --hash per block" } else { named };
        assert!(run.error.contains(named), "{arguments:?}: {}", run.error);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn status_and_nodes_agree_with_the_processes() {
    let mut cluster = TestCluster::start(ClusterOptions::default()).await.expect("three nodes start");
    let address = cluster.nodes[0].control_address();
    let nodes = hearth(&address, &["nodes", "-o", "json"]).json();
    let listed = nodes["nodes"].as_array().expect("a list");
    assert_eq!(listed.len(), 3);
    assert!(listed.iter().all(|n| n["state"] == "up" && n["voter"] == true), "{nodes}");
    let status = hearth(&address, &["status", "-o", "json"]);
    assert_eq!(status.code, Some(0), "{}", status.error);
    let table = hearth(&address, &["status"]).text();
    assert!(table.contains("GROUP") && table.contains("LEADER"), "{table}");

    cluster.nodes[2].kill().expect("node 2 was running");
    let status = hearth(&address, &["status", "-o", "json"]);
    assert_eq!(status.code, Some(1), "a node that does not answer shows in the exit status");
    assert!(hearth(&address, &["status"]).text().contains("no answer"), "the table says which");
    let silent =
        status.json()["nodes"].as_array().expect("a list").iter().filter(|n| n["error"].is_string()).count();
    assert_eq!(silent, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn health_metrics_and_version_are_served() {
    let cluster =
        TestCluster::start(ClusterOptions { nodes: 1, ..Default::default() }).await.expect("a node starts");
    let patience = std::time::Duration::from_secs(5);
    let port = cluster.nodes[0].http_port;
    for path in ["/livez", "/readyz"] {
        assert_eq!(http_get(port, path, patience).await.expect("it answers").0, 200, "{path}");
    }
    let (code, metrics) = http_get(port, "/metrics", patience).await.expect("it answers");
    assert_eq!(code, 200);
    for name in ["hearth_gets_total", "hearth_tier_capacity_bytes{tier=\"host\"}", "hearth_raft_leader"] {
        assert!(metrics.contains(name), "{name} is not in:\n{metrics}");
    }
    let (code, version) = http_get(port, "/version", patience).await.expect("it answers");
    assert_eq!(code, 200);
    assert!(version.contains(env!("CARGO_PKG_VERSION")), "{version}");
    assert_eq!(http_get(port, "/nothing", patience).await.expect("it answers").0, 404);
}

#[test]
fn every_command_teaches_and_every_shell_completes() {
    let help = hearth("127.0.0.1:1", &["--help"]);
    assert!(help.text().contains("Exit status"), "{}", help.text());
    for command in [
        "status",
        "nodes",
        "put",
        "get",
        "locate",
        "pin",
        "unpin",
        "pins",
        "retain",
        "namespace",
        "policy",
        "replay",
        "completion",
    ] {
        let help = hearth("127.0.0.1:1", &[command, "--help"]);
        assert_eq!(help.code, Some(0), "{command}: {}", help.error);
        assert!(help.text().contains("Example"), "{command} shows no example");
    }
    for shell in ["bash", "zsh", "fish"] {
        let script = hearth("127.0.0.1:1", &["completion", shell]);
        assert!(script.code == Some(0) && script.text().contains("locate"), "{shell}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_checks_every_byte_and_reports() {
    let cluster = TestCluster::start(ClusterOptions::default()).await.expect("three nodes start");
    let address = cluster.nodes[0].control_address();
    let folder = tempfile::tempdir().expect("a temporary folder");
    let (plot, trace) = (folder.path().join("replay.svg"), folder.path().join("trace.jsonl"));
    let requests: Vec<String> = (0..20)
        .map(|i| {
            let ids: Vec<String> = (0..=i).map(|id| id.to_string()).collect();
            let (ids, tokens) = (ids.join(","), (i + 1) * 512);
            format!(r#"{{"timestamp":{i},"input_length":{tokens},"output_length":1,"hash_ids":[{ids}]}}"#)
        })
        .collect();
    std::fs::write(&trace, requests.join("\n")).expect("writable");
    let run = hearth(
        &address,
        &[
            "replay",
            "--trace",
            trace.to_str().expect("a printable path"),
            "--plot",
            plot.to_str().expect("a printable path"),
            "--concurrency",
            "1",
            "-o",
            "json",
        ],
    );
    assert_eq!(run.code, Some(0), "{}", run.error);
    let report = run.json();
    assert_eq!(report["wrong"], 0);
    let figure = |name: &str| {
        let figures = report["figures"].as_array().expect("a list");
        figures.iter().find(|f| f["name"] == name).unwrap_or_else(|| panic!("no {name} in {report}")).clone()
    };
    let hits = figure("hit rate, blocks");
    assert!(hits["ours"].as_f64().expect("a number") > 0.0, "{hits}");
    let drawn = std::fs::read_to_string(&plot).expect("the plot was written");
    assert!(drawn.starts_with("<svg") && drawn.trim_end().ends_with("</svg>"));

    let broken = folder.path().join("broken.jsonl");
    std::fs::write(&broken, format!("{}\nnot a request\n", requests[0])).expect("writable");
    let run = hearth(&address, &["replay", "--trace", broken.to_str().expect("a printable path")]);
    assert_eq!(run.code, Some(2), "{}", run.error);
    assert!(run.error.contains("line 2"), "{}", run.error);
    let run = hearth(&address, &["replay", "--trace", "/nonexistent/trace"]);
    assert_eq!(run.code, Some(2), "{}", run.error);
    assert_eq!(run.error.matches("No such file").count(), 1, "a cause is told once: {}", run.error);
}
