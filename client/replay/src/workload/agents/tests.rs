use super::*;
use crate::oracle::Oracle;
use crate::workload::Tip;
use proptest::prelude::*;

fn quantile(values: &mut [f64], share: f64) -> f64 {
    values.sort_by(f64::total_cmp);
    values[((values.len() as f64 * share) as usize).min(values.len() - 1)]
}

/// Checks that the quantiles of `values` lie within `band` (a share) of what was measured.
fn assert_fits(what: &str, mut values: Vec<f64>, band: f64, measured: &[(f64, f64)]) {
    for &(share, want) in measured {
        let got = quantile(&mut values, share);
        assert!((got / want - 1.0).abs() <= band, "{what} at {share}: {got} against the measured {want}");
    }
}

#[test]
fn the_sessions_are_like_the_measured_ones() {
    // Five times as many sessions as were measured, so that the draw of one seed matters little;
    // sub-agents were measured apart.
    let params = AgentParams { subagent_session_share: 0.0, ..AgentParams::default() };
    let workload = generate(&params, 1_740, 1).unwrap();
    let sessions = &workload.sessions;
    let requests: Vec<_> = sessions.iter().flat_map(|session| &session.requests).collect();
    let gaps = sessions.iter().flat_map(|session| session.requests.windows(2));

    let column = |value: fn(&crate::workload::Request) -> u64| -> Vec<f64> {
        requests.iter().map(|request| value(request) as f64).collect()
    };
    assert_fits(
        "input tokens",
        column(|request| request.input_tokens),
        0.15,
        &[(0.25, 65_743.), (0.5, 102_094.), (0.75, 137_686.), (0.95, 321_199.)],
    );
    assert_fits(
        "output tokens",
        column(|request| request.output_tokens),
        0.05,
        &[(0.25, 139.), (0.5, 215.), (0.75, 423.), (0.95, 1_510.)],
    );
    assert_fits(
        "gap",
        gaps.map(|pair| (pair[1].at - pair[0].at).as_secs_f64()).collect(),
        0.25,
        &[(0.25, 11.), (0.5, 18.), (0.75, 38.), (0.95, 310.)],
    );
    assert_fits(
        "requests",
        sessions.iter().map(|session| session.requests.len() as f64).collect(),
        0.15,
        &[(0.25, 15.), (0.5, 36.), (0.75, 87.), (0.95, 198.)],
    );
}

#[test]
fn a_seed_means_the_same_workload_on_every_version() {
    let workload = generate(&AgentParams::default(), 8, 42).unwrap();
    let last = workload.sessions[7].requests.last().unwrap();
    let golden = (
        workload.request_count(),
        workload.tree.block_count(),
        workload.tree.prefix_hash(last.output).to_string(),
    );
    assert_eq!(
        golden,
        (446, 33572, "15ac7af9985032d9bc9a7f34a1bbe394792b2778e5f194393c4a8a67ef41072d".to_owned())
    );
}

#[test]
fn an_infinite_cache_would_hit_as_often_as_measured() {
    let workload = generate(&AgentParams::default(), 348, 1).unwrap();
    let mut oracle = Oracle::new(&workload.tree);
    let (mut hits, mut blocks) = (0, 0);
    for request in workload.sessions.iter().flat_map(|session| &session.requests) {
        hits += oracle.observe(&workload.tree, request.prompt, request.prompt);
        blocks += workload.tree.depth(request.prompt);
    }
    let rate = hits as f64 / blocks as f64;
    assert!(
        (rate - 0.964).abs() < 0.01,
        "an infinite cache would hit {rate:.4} of the blocks, measured 0.964"
    );
}

#[test]
fn subagents_make_the_measured_share_of_requests() {
    let params = AgentParams::default();
    let workload = generate(&params, 3_000, 3).unwrap();
    let setup = params.subagent_setup_tokens.0 + params.subagent_setup_tokens.1;
    let is_subagent = |session: &&Session| session.requests[0].ranges[0].end_block == (setup / 64) as u32;
    let requests: usize =
        workload.sessions.iter().filter(is_subagent).map(|session| session.requests.len()).sum();
    let share = requests as f64 / workload.request_count() as f64;
    assert!((0.012..0.032).contains(&share), "sub-agents sent {share:.4} of the requests, measured 0.0206");
}

#[test]
fn sessions_of_one_version_share_their_set_up_and_nothing_else() {
    let params = AgentParams { versions: 1, subagent_session_share: 0.0, ..AgentParams::default() };
    let workload = generate(&params, 2, 9).unwrap();
    let [a, b] = [0, 1].map(|number| &workload.sessions[number].requests[0]);
    let setup = a.ranges[0].end_block as usize;
    let tree = &workload.tree;
    assert!(setup > 100);
    assert_eq!(tree.truncated(a.prompt, setup), tree.truncated(b.prompt, setup));
    assert_ne!(tree.truncated(a.prompt, setup + 1), tree.truncated(b.prompt, setup + 1));
}

#[test]
fn dropped_reasoning_breaks_the_prefix_where_it_began() {
    let params = AgentParams {
        reasoning_dropped_share: 1.0,
        turn_share: 1.0,
        reasoning_share: 1.0,
        rebuild_share: 0.0,
        subagent_session_share: 0.0,
        ..AgentParams::default()
    };
    let workload = generate(&params, 6, 5).unwrap();
    let tree = &workload.tree;
    let mut breaks = 0;
    for pair in workload.sessions.iter().flat_map(|session| session.requests.windows(2)) {
        let (before, after) = (&pair[0], &pair[1]);
        let compacted = after.input_tokens < before.input_tokens;
        let answered = tree.depth(before.output) > tree.depth(before.prompt);
        if !compacted && answered {
            assert_eq!(tree.truncated(after.prompt, tree.depth(before.prompt)), before.prompt);
            let next = |tip| tree.truncated(tip, tree.depth(before.prompt) + 1);
            assert_ne!(next(after.prompt), next(before.output));
            breaks += 1;
        }
    }
    assert!(breaks > 20, "only {breaks} answers filled a block");
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(12))]

    #[test]
    fn a_seed_gives_the_same_bytes_and_another_seed_others(seed: u64) {
        let params = AgentParams::default();
        let first = generate(&params, 3, seed).unwrap();
        let again = generate(&params, 3, seed).unwrap();
        let other = generate(&params, 3, seed ^ 1).unwrap();
        let last = |workload: &Workload| {
            let request = workload.sessions[0].requests.last().unwrap();
            workload.tree.prefix_hash(request.output)
        };
        prop_assert_eq!(last(&first), last(&again));
        prop_assert_ne!(last(&first), last(&other));
        for (a, b) in first.sessions.iter().zip(&again.sessions) {
            prop_assert_eq!(&a.requests, &b.requests);
        }
    }

    #[test]
    fn chains_agree_with_tokens_and_times_never_fall(seed: u64) {
        let workload = generate(&AgentParams::default(), 4, seed).unwrap();
        for session in &workload.sessions {
            prop_assert!(session.requests.windows(2).all(|pair| pair[0].at <= pair[1].at));
            for request in &session.requests {
                prop_assert_ne!(request.prompt, Tip::ROOT);
                prop_assert_eq!(workload.tree.depth(request.prompt) as u64, request.input_tokens / 64);
                let total = (request.input_tokens + request.output_tokens) / 64;
                prop_assert_eq!(workload.tree.depth(request.output) as u64, total);
                let prompt = workload.tree.truncated(request.output, workload.tree.depth(request.prompt));
                prop_assert_eq!(prompt, request.prompt);
                prop_assert!(request.ranges.windows(2).all(|pair| pair[0].end_block <= pair[1].end_block));
            }
        }
    }

    #[test]
    fn a_session_does_not_depend_on_how_many_follow(seed: u64) {
        let params = AgentParams { subagent_session_share: 0.0, ..AgentParams::default() };
        let few = generate(&params, 1, seed).unwrap();
        let more = generate(&params, 3, seed).unwrap();
        let hashes = |workload: &Workload| -> Vec<_> {
            let requests = &workload.sessions[0].requests;
            requests.iter().map(|request| workload.tree.prefix_hash(request.output)).collect()
        };
        prop_assert_eq!(hashes(&few), hashes(&more));
    }
}
