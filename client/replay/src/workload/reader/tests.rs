use super::*;
use crate::oracle::Oracle;
use crate::workload::{Session, Tip};
use proptest::prelude::*;
use std::io::Write;
use std::time::Duration;
use tempfile::NamedTempFile;

fn trace(text: &str) -> NamedTempFile {
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(text.as_bytes()).unwrap();
    file
}

fn read(text: &str) -> Result<(TraceFormat, Workload), ReadError> {
    read_trace(trace(text).path(), Slice::default())
}

fn hashes(workload: &Workload, session: usize, request: usize) -> Vec<String> {
    let mut chain = vec![];
    workload.tree.chain_into(workload.sessions[session].requests[request].prompt, &mut chain);
    chain.iter().map(|&tip| workload.tree.prefix_hash(tip).to_string()).collect()
}

fn common(a: &[String], b: &[String]) -> usize {
    a.iter().zip(b).take_while(|(a, b)| a == b).count()
}

/// Tools of 2 blocks, a system prompt of 1, and whatever requests are given.
fn session(id: &str, requests: &str) -> String {
    format!(
        r#"{{"id":"{id}","models":["m"],"block_size":64,"hash_id_scope":"local","tool_tokens":128,"system_tokens":70,"requests":[{requests}],"totals":{{}}}}"#
    ) + "\n"
}

fn request(t: f64, ids: &[u64]) -> String {
    let tokens = ids.len() * 64 + 5;
    format!(
        r#"{{"t":{t},"type":"n","model":"m","in":{tokens},"out":9,"hash_ids":{ids:?},"stop":"tool_use"}}"#
    )
}

#[test]
fn sessions_share_their_set_up_and_nothing_else() {
    let text = session("a", &request(0.0, &[1, 2, 3, 4, 5])) + &session("b", &request(0.0, &[1, 2, 3, 4, 5]));
    let (format, workload) = read(&text).unwrap();
    assert_eq!(format, TraceFormat::ClaudeCode);
    assert_eq!(workload.block_tokens, 64);
    assert_eq!(common(&hashes(&workload, 0, 0), &hashes(&workload, 1, 0)), 3);
    assert_eq!(workload.tree.block_count(), 3 + 2 + 2);
}

#[test]
fn a_set_up_of_another_model_or_length_is_another_set_up() {
    let first = session("a", &request(0.0, &[1, 2, 3, 4]));
    let other_model = session("b", &request(0.0, &[1, 2, 3, 4]).replace("\"m\"", "\"n\""));
    let other_system =
        session("c", &request(0.0, &[1, 2, 3, 4])).replace("\"system_tokens\":70", "\"system_tokens\":71");
    let (_, workload) = read(&(first + &other_model + &other_system)).unwrap();
    assert_eq!(common(&hashes(&workload, 0, 0), &hashes(&workload, 1, 0)), 0);
    assert_eq!(common(&hashes(&workload, 0, 0), &hashes(&workload, 2, 0)), 2, "only the tools are the same");
}

#[test]
fn a_second_beginning_in_one_session_is_not_taken_for_the_set_up() {
    let requests = [request(0.0, &[1, 2, 3, 4]), request(1.0, &[9, 10, 11, 12])].join(",");
    let (_, workload) = read(&session("a", &requests)).unwrap();
    assert_eq!(common(&hashes(&workload, 0, 0), &hashes(&workload, 0, 1)), 0);
}

#[test]
fn turns_go_on_branch_and_keep_their_times() {
    let requests =
        [request(0.0, &[1, 2, 3, 4]), request(2.5, &[1, 2, 3, 4, 5]), request(9.0, &[1, 2, 3, 6])].join(",");
    let (_, workload) = read(&session("a", &requests)).unwrap();
    let chain = |number| hashes(&workload, 0, number);
    assert_eq!(common(&chain(0), &chain(1)), 4);
    assert_eq!(common(&chain(1), &chain(2)), 3);
    let times: Vec<_> =
        workload.sessions[0].requests.iter().map(|request| request.at.as_secs_f64()).collect();
    assert_eq!(times, [0.0, 2.5, 9.0]);
    assert!(workload.sessions[0].requests.iter().all(|request| request.think.is_none()));
    assert_eq!(workload.sessions[0].requests[1].input_tokens, 325);
    let priorities: Vec<_> =
        (0..5).map(|at| workload.sessions[0].requests[1].priority_at(at).value()).collect();
    assert_eq!(priorities, [90, 90, 90, 60, 60]);
}

#[test]
fn what_a_session_thought_before_a_request_is_read_and_believed_within_reason() {
    let thought =
        |think: f64| request(9.0, &[1, 2]).replace("\"out\"", &format!("\"think_time\":{think},\"out\""));
    let text = session("a", &[request(0.0, &[1]), thought(2.5)].join(","));
    let (_, workload) = read(&text).unwrap();
    let thinks: Vec<_> = workload.sessions[0].requests.iter().map(|request| request.think).collect();
    assert_eq!(thinks, [None, Some(Duration::from_millis(2_500))]);
    let error = read(&session("a", &thought(-1.0))).expect_err("no such time").to_string();
    assert!(error.contains("a time of -1 s"), "{error}");
}

#[test]
fn sub_agents_are_sessions_of_their_own_and_share_the_ids_of_their_parent() {
    let agent = |t: f64, ids: &[u64]| {
        let requests = request(0.0, ids);
        format!(
            r#"{{"t":{t},"type":"subagent","agent_id":"x","tool_tokens":64,"system_tokens":0,"requests":[{requests}]}}"#
        )
    };
    let requests = [request(0.0, &[1, 2, 3, 4]), agent(1.0, &[50, 51]), agent(2.0, &[50, 52])].join(",");
    let (_, workload) = read(&session("a", &requests)).unwrap();
    assert_eq!(workload.sessions.iter().map(|session| session.requests.len()).collect::<Vec<_>>(), [1, 1, 1]);
    assert_eq!(common(&hashes(&workload, 1, 0), &hashes(&workload, 2, 0)), 1);
    assert_eq!(common(&hashes(&workload, 0, 0), &hashes(&workload, 1, 0)), 0);
}

#[test]
fn global_ids_mean_the_same_block_on_every_line() {
    let line = |id, ids: &[u64]| session(id, &request(0.0, ids)).replace("local", "global");
    let (_, workload) =
        read(&(line("a", &[1, 2, 3, 4]) + &line("b", &[1, 2, 3, 5]) + &line("c", &[1, 2, 3, 4, 6]))).unwrap();
    assert_eq!(common(&hashes(&workload, 0, 0), &hashes(&workload, 1, 0)), 3);
    assert_eq!(common(&hashes(&workload, 0, 0), &hashes(&workload, 2, 0)), 4);
    assert_eq!(workload.tree.block_count(), 6);
}

#[test]
fn a_compressed_trace_reads_as_a_plain_one() {
    let text = session("a", &request(0.0, &[1, 2, 3, 4, 5]));
    let mut encoder = xz2::write::XzEncoder::new(vec![], 1);
    encoder.write_all(text.as_bytes()).unwrap();
    let mut file = NamedTempFile::new().unwrap();
    file.write_all(&encoder.finish().unwrap()).unwrap();
    let (_, packed) = read_trace(file.path(), Slice::default()).unwrap();
    let (_, plain) = read(&text).unwrap();
    assert_eq!(hashes(&packed, 0, 0), hashes(&plain, 0, 0));
}

fn chat(at: u64, ids: &[u64]) -> String {
    let tokens = ids.len() * 512 - 100;
    format!(r#"{{"timestamp": {at}, "input_length": {tokens}, "output_length": 7, "hash_ids": {ids:?}}}"#)
        + "\n"
}

#[test]
fn chat_requests_become_sessions_by_their_prefix() {
    let text =
        chat(0, &[0, 1, 2]) + &chat(10, &[0, 3, 4]) + "\n" + &chat(3_000, &[0, 1, 2, 5]) + &chat(4_000, &[0]);
    let (format, workload) = read(&text).unwrap();
    assert_eq!(format, TraceFormat::Mooncake);
    assert_eq!(workload.block_tokens, 512);
    let starts = |session: &Session| (session.start.unwrap().as_millis(), session.requests.len());
    assert_eq!(workload.sessions.iter().map(starts).collect::<Vec<_>>(), [(0, 2), (10, 1), (4_000, 1)]);
    assert_eq!(workload.sessions[0].requests[1].at, Duration::from_secs(3));
    assert_eq!(common(&hashes(&workload, 0, 0), &hashes(&workload, 1, 0)), 1);
    assert_eq!(workload.tree.block_count(), 6);
}

#[test]
fn faults_name_the_file_the_line_what_is_wrong_and_the_mend() {
    let good = session("a", &request(0.0, &[1, 2, 3, 4]));
    let cases = [
        ("{\"id\":\"b\"}\n".to_owned(), "missing field"),
        ("{\"id\":\"b\",\"block_size\":6".to_owned(), "fetch the file again"),
        (good.replace("\"block_size\":64", "\"block_size\":32"), "block_size is 32"),
        (good.replace("local", "lokal"), "hash_id_scope is \"lokal\""),
        (good.replace("\"t\":0", "\"t\":-1"), "a time of -1 s"),
        (good.replace("\"t\":0", "\"t\":1e15"), "at most ten years"),
        (good.replace("\"in\":261", "\"in\":18446744073709551615"), "correct the number of tokens"),
        (good.replace("\"in\":261", "\"in\":100"), "4 blocks of 64 tokens for 100 tokens"),
        (good.replace("\"hash_ids\"", "\"hashes\""), "missing field `hash_ids`"),
        (session("b", &[request(5.0, &[1]), request(4.0, &[1])].join(",")), "sort the requests"),
    ];
    for (bad, wanted) in cases {
        let file = trace(&(good.clone() + "\n" + &bad));
        let error = read_trace(file.path(), Slice::default()).expect_err(wanted);
        let text = error.to_string();
        assert!(matches!(error, ReadError::Line { line: 3, .. }), "{text}");
        assert!(text.contains(wanted), "{text}");
        assert!(text.contains(&file.path().display().to_string()), "{text}");
    }
    let unsorted = chat(9, &[1]) + &chat(8, &[1]);
    assert!(read(&unsorted).expect_err("unsorted").to_string().contains("sort the lines by `timestamp`"));
}

#[test]
fn set_ups_of_absurd_length_overflow_nothing() {
    let huge = format!("\"tool_tokens\":{0},\"system_tokens\":{0}", u64::MAX);
    let text =
        session("a", &request(0.0, &[1, 2])).replace("\"tool_tokens\":128,\"system_tokens\":70", &huge);
    let (_, workload) = read(&text).unwrap();
    assert_eq!(workload.tree.block_count(), 2);
}

#[test]
fn what_is_no_trace_is_refused_with_the_formats_that_are() {
    for bad in ["", "hello\n", "[1]\n", "{\"a\":1}\n", "{\"timestamp\":1}\n"] {
        let error = read(bad).expect_err(bad);
        assert!(matches!(error, ReadError::Format { .. }), "{error}");
        assert!(error.to_string().contains("kv-cache-tester"), "{error}");
    }
    let missing = read_trace(Path::new("/nowhere/trace.jsonl"), Slice::default()).expect_err("no such file");
    assert!(matches!(missing, ReadError::File { .. }));
}

#[test]
fn a_slice_stops_reading_early() {
    let text =
        session("a", &request(0.0, &[1])) + &session("b", &request(0.0, &[1, 2])) + "this is no JSON\n";
    let slice = Slice { skip: 1, sessions: Some(1), requests: None };
    let (_, workload) = read_trace(trace(&text).path(), slice).unwrap();
    assert_eq!(workload.sessions.len(), 1);
    assert_eq!(workload.tree.depth(workload.sessions[0].requests[0].prompt), 2);
}

proptest! {
    /// Chains as traces have them: each id stands for one place in one tree.
    #[test]
    fn the_reader_finds_the_prefixes_that_the_ids_say(
        cuts in prop::collection::vec((0usize..12, 1usize..6), 1..20),
    ) {
        let mut next = 0;
        let mut chains: Vec<Vec<u64>> = vec![];
        for (cut, fresh) in cuts {
            let mut chain = chains.last().cloned().unwrap_or_default();
            chain.truncate(cut);
            chain.extend((0..fresh as u64).map(|offset| next + offset + 1));
            next += fresh as u64;
            chains.push(chain);
        }
        let text: Vec<_> = chains.iter().enumerate().map(|(at, ids)| request(at as f64, ids)).collect();
        let (_, workload) = read(&session("p", &text.join(","))).unwrap();
        let mut oracle = Oracle::new(&workload.tree);
        let mut seen = std::collections::HashSet::new();
        for (number, ids) in chains.iter().enumerate() {
            let tip = workload.sessions[0].requests[number].prompt;
            prop_assert_ne!(tip, Tip::ROOT);
            prop_assert_eq!(workload.tree.depth(tip), ids.len());
            let want = ids.iter().take_while(|id| seen.contains(*id)).count();
            prop_assert_eq!(oracle.observe(&workload.tree, tip, tip), want);
            seen.extend(ids.iter().copied());
        }
    }

    #[test]
    fn no_bytes_make_the_reader_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut file = NamedTempFile::new().unwrap();
        file.write_all(&bytes).unwrap();
        let _ = read_trace(file.path(), Slice::default());
    }
}
