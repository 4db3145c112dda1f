//! Histories that are fine, and the same with one answer that no cluster may give.

use super::super::history::Header;
use super::super::model::{Operation, Said};
use super::*;

const BEGAN_MS: u64 = 1_000_000;

/// Times are in milliseconds since the history began.
fn record(client: u32, (from, to): (u64, u64), operation: Operation, said: Said) -> Record {
    let outcome = Outcome::Said { at_ns: to * NS_PER_MS, said };
    Record { client, key: 1, operation, began_ns: from * NS_PER_MS, outcome }
}

fn unknown(client: u32, from: u64, operation: Operation) -> Record {
    Record { client, key: 1, operation, began_ns: from * NS_PER_MS, outcome: Outcome::Unknown }
}

fn claim(client: u32, times: (u64, u64), said: Said) -> Record {
    record(client, times, Operation::Claim { claimant: client, ttl_ms: 500 }, said)
}

fn renew(client: u32, times: (u64, u64), token: u64, said: Said) -> Record {
    record(client, times, Operation::Renew { token, ttl_ms: 500 }, said)
}

fn pin(times: (u64, u64), end_ms: u64) -> Record {
    record(1, times, Operation::Pin { ttl_ms: 1_000 }, Said::Pinned { end_ms: BEGAN_MS + end_ms })
}

fn unpin(times: (u64, u64), changed: bool) -> Record {
    record(2, times, Operation::Unpin, Said::Done { changed })
}

fn granted(token: u64, end_ms: u64) -> Said {
    Said::Granted { token, end_ms: BEGAN_MS + end_ms }
}

fn held(claimant: u32, end_ms: u64) -> Said {
    Said::Held { claimant, end_ms: BEGAN_MS + end_ms }
}

fn report(times: (u64, u64), sequence: u64, next: u64) -> Record {
    let operation = Operation::Report { incarnation: 1, sequence, reset: sequence == 1 };
    record(1, times, operation, Said::Applied { next })
}

fn read(times: (u64, u64), last: u64) -> Record {
    record(2, times, Operation::Read, Said::Value { last })
}

fn verdict(clocks_jump: bool, records: &[Record]) -> Verdict {
    let header = Header { seed: 0, began_ms: BEGAN_MS, clocks_jump };
    check(&History { header, records: records.to_vec() }).verdict
}

#[track_caller]
fn passes(records: &[Record]) {
    assert_eq!(verdict(false, records), Verdict::Linearizable);
    assert_eq!(verdict(true, records), Verdict::Linearizable);
}

/// Whatever the clocks do.
#[track_caller]
fn fails(records: &[Record]) {
    assert!(matches!(verdict(false, records), Verdict::Violation { .. }), "with one clock");
    assert!(matches!(verdict(true, records), Verdict::Violation { .. }), "with clocks that jump");
}

/// While all clocks are right; one that jumps explains it.
#[track_caller]
fn fails_by_the_clock(records: &[Record]) {
    assert!(matches!(verdict(false, records), Verdict::Violation { .. }), "with one clock");
    assert_eq!(verdict(true, records), Verdict::Linearizable);
}

#[test]
fn two_claims_at_once_have_one_winner() {
    passes(&[claim(1, (0, 10), granted(1, 505)), claim(2, (5, 8), held(1, 505))]);
    fails(&[claim(1, (0, 10), granted(1, 505)), claim(2, (5, 8), granted(2, 506))]);
    // What began after the other ended cannot come before it.
    fails(&[claim(1, (0, 4), held(2, 505)), claim(2, (5, 8), granted(1, 505))]);
    fails(&[claim(1, (0, 10), granted(1, 505)), claim(2, (5, 8), held(1, 506))]);
}

#[test]
fn a_claim_that_ends_early_shows() {
    let first = claim(1, (0, 10), granted(1, 505));
    passes(&[first.clone(), claim(2, (510, 520), granted(2, 1_015))]);
    // Its own answers say that the time had not come.
    fails(&[first.clone(), claim(2, (300, 310), granted(2, 805))]);
    // The clocks say it.
    fails_by_the_clock(&[first.clone(), claim(2, (300, 310), granted(2, 1_005))]);
    fails_by_the_clock(&[first, renew(1, (300, 310), 1, Said::Gone)]);
}

#[test]
fn a_claim_that_does_not_end_shows() {
    let first = claim(1, (0, 10), granted(1, 505));
    passes(&[first.clone(), claim(2, (490, 500), held(1, 505))]);
    fails_by_the_clock(&[first.clone(), claim(2, (600, 610), held(1, 505))]);
    fails_by_the_clock(&[first.clone(), renew(1, (600, 610), 1, granted(1, 1_000))]);
    // Renewed in time it lasts.
    let renewed = renew(1, (400, 410), 1, granted(1, 905));
    passes(&[first.clone(), renewed.clone(), claim(2, (600, 610), held(1, 905))]);
    fails(&[first, renewed, claim(2, (700, 710), granted(2, 904))]);
}

#[test]
fn a_claim_lasts_as_long_as_was_asked() {
    fails_by_the_clock(&[claim(1, (0, 10), granted(1, 100))]);
    fails_by_the_clock(&[claim(1, (0, 10), granted(1, 600))]);
}

#[test]
fn an_ended_claim_is_never_renewed_and_no_token_comes_twice() {
    let first = claim(1, (0, 10), granted(1, 505));
    let second = claim(2, (600, 610), granted(2, 1_105));
    passes(&[first.clone(), second.clone(), renew(1, (620, 630), 1, Said::Gone)]);
    fails(&[first.clone(), second, renew(1, (620, 630), 1, granted(1, 1_125))]);
    fails(&[first.clone(), claim(2, (600, 610), granted(1, 1_105))]);
    let elsewhere = Record { key: 2, ..claim(2, (600, 610), granted(1, 1_105)) };
    fails(&[first, elsewhere]);
}

#[test]
fn what_nobody_knows_may_have_happened_or_not() {
    let first = claim(1, (0, 1), granted(1, 500));
    let released = unknown(1, 2, Operation::Release { token: 1 });
    for said in [granted(2, 511), held(1, 500)] {
        passes(&[first.clone(), released.clone(), claim(2, (10, 11), said)]);
    }
    let asked = Operation::Claim { claimant: 1, ttl_ms: 500 };
    fails(&[claim(2, (0, 1), held(1, 500)), unknown(1, 5, asked.clone())]);
    // The answer that nobody heard named a token, which shows later.
    passes(&[
        unknown(1, 0, asked.clone()),
        claim(2, (10, 11), held(1, 505)),
        claim(1, (20, 21), granted(9, 520)),
        renew(1, (30, 31), 9, granted(9, 531)),
    ]);
    fails(&[
        unknown(1, 0, asked),
        claim(2, (10, 11), held(1, 505)),
        claim(1, (20, 21), granted(9, 520)),
        claim(1, (30, 31), granted(10, 530)),
    ]);
}

#[test]
fn a_pin_that_is_lost_or_stays_shows() {
    passes(&[pin((0, 10), 1_005), unpin((900, 910), true), unpin((920, 930), false)]);
    fails_by_the_clock(&[pin((0, 10), 1_005), unpin((900, 910), false)]);
    fails(&[pin((0, 10), 1_005), unpin((500, 510), true), unpin((520, 530), true)]);
    fails_by_the_clock(&[pin((0, 10), 1_005), unpin((1_100, 1_110), true)]);
    passes(&[pin((0, 10), 1_005), unpin((1_100, 1_110), false)]);
}

#[test]
fn a_pin_is_renewed_only_while_it_is_there() {
    let repin = |times, said| record(3, times, Operation::Repin { ttl_ms: 1_000 }, said);
    let pinned = |end_ms| Said::Pinned { end_ms: BEGAN_MS + end_ms };
    passes(&[pin((0, 10), 1_005), repin((500, 510), pinned(1_505)), unpin((1_400, 1_410), true)]);
    fails(&[pin((0, 10), 1_005), unpin((20, 30), true), repin((500, 510), pinned(1_505))]);
    passes(&[pin((0, 10), 1_005), repin((1_100, 1_110), Said::Gone)]);
    fails_by_the_clock(&[pin((0, 10), 1_005), repin((1_100, 1_110), pinned(2_105))]);
    // A second pin takes the place of the first one, and may end earlier.
    let short = record(1, (20, 30), Operation::Pin { ttl_ms: 100 }, pinned(125));
    passes(&[pin((0, 10), 1_005), short, unpin((200, 210), false)]);
}

#[test]
fn an_old_answer_of_a_read_shows() {
    let reports = [report((0, 1), 1, 2), report((2, 3), 2, 3)];
    let with = |read: Record| [reports.as_slice(), &[read]].concat();
    passes(&with(read((4, 5), 2)));
    fails(&with(read((4, 5), 1)));
    fails(&with(read((4, 5), 3)));
    fails(&with(read((4, 5), 0)));
    let with = |read: Record| [&[read], reports.as_slice()].concat();
    for last in 0..=2 {
        passes(&with(read((0, 5), last)));
    }
    // Two reads, one after the other, do not go back.
    fails(&[report((0, 10), 1, 2), read((2, 3), 1), read((4, 5), 0)]);
    // A read without an answer says nothing.
    passes(&[report((0, 1), 1, 2), unknown(2, 2, Operation::Read), read((3, 4), 1)]);
}

#[test]
fn a_lost_report_shows() {
    passes(&[report((0, 1), 1, 2), report((2, 3), 2, 3), report((4, 5), 1, 3)]);
    fails(&[report((0, 1), 1, 2), report((2, 3), 2, 3), report((4, 5), 1, 2)]);
}

#[test]
fn a_block_that_comes_ends_its_claim() {
    let first = claim(1, (0, 1), granted(1, 500));
    let came = report((2, 3), 1, 2);
    passes(&[first.clone(), came.clone(), claim(2, (4, 5), Said::Present)]);
    passes(&[first.clone(), came.clone(), renew(1, (4, 5), 1, Said::Gone)]);
    fails(&[first.clone(), came.clone(), claim(2, (4, 5), held(1, 500))]);
    fails(&[first.clone(), came.clone(), renew(1, (4, 5), 1, granted(1, 504))]);
    let went = report((6, 7), 2, 3);
    passes(&[first, came, went, claim(2, (8, 9), granted(2, 508))]);
}
