//! The table of transfers, without a device: the test performs what it is handed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU32, Ordering};

use proptest::prelude::*;
use proptest::sample::Index;

use super::*;
use crate::device::transfers::{PLACES_MIN, Submission, Transfers, Work};

const PLACES: usize = 16;
const SECTOR: usize = hearth_proto::limits::SECTOR_BYTES;

fn arena() -> Arc<Arena> {
    Arena::new(8 << 20, 1 << 20).unwrap()
}

fn used_bytes(arena: &Arena) -> u64 {
    lock(arena.slots()).used_bytes()
}

fn read(arena: &Arc<Arena>, len: usize, urgency: Urgency, deadline: Instant) -> (Request, ReadEnd) {
    let (done, end) = ReadDone::new();
    let slot = arena.allocate(len, class_of(len)).unwrap();
    (Request::Read { offset: 0, slot, urgency, deadline, done }, end)
}

fn write(block: &Arc<HostBlock>) -> Request {
    Request::Write { offset: 0, block: Arc::clone(block), done: Box::new(drop) }
}

fn tell(transfers: &mut Transfers) {
    while let Some(ended) = transfers.pop_ended() {
        ended.tell();
    }
}

fn submit_all(transfers: &mut Transfers, now: Instant) -> Vec<Submission> {
    std::iter::from_fn(|| transfers.next(now)).collect()
}

fn len_of(submission: &Submission) -> usize {
    match &submission.work {
        Work::Read(span) | Work::Write(span) => span.len,
        Work::Sync | Work::Discard { .. } => 0,
    }
}

fn name_of(submission: &Submission) -> &'static str {
    match submission.work {
        Work::Read(_) => "read",
        Work::Write(_) => "write",
        Work::Sync => "sync",
        Work::Discard { .. } => "discard",
    }
}

fn finish(transfers: &mut Transfers, submission: &Submission) {
    transfers.complete(submission.place, Ok(len_of(submission)));
    tell(transfers);
}

/// The answer of a read that has ended.
fn answer(end: ReadEnd) -> Result<SlotMut, io::ErrorKind> {
    end.wait().map_err(|error| error.kind())
}

#[test]
fn a_stream_of_urgent_reads_keeps_no_write_waiting_for_more_than_a_turn_of_the_table() {
    for places in [PLACES_MIN, 16, 64] {
        let (arena, now) = (arena(), Instant::now());
        let mut transfers = Transfers::new(places);
        let block = block(&arena, 100, 1);
        let mut flying = std::collections::VecDeque::new();
        let push_read = |transfers: &mut Transfers| {
            let (request, end) = read(&arena, 100, Urgency::Urgent, now + TIMEOUT);
            std::mem::forget(end);
            transfers.push(request);
        };
        for _ in 0..2 * places {
            push_read(&mut transfers);
        }
        flying.extend(submit_all(&mut transfers, now));
        for _ in 0..50 {
            transfers.push(write(&block));
            let mut completions = 0;
            loop {
                let begun = submit_all(&mut transfers, now);
                let wrote = begun.iter().any(|one| matches!(one.work, Work::Write(_)));
                flying.extend(begun);
                if wrote {
                    break;
                }
                let oldest = flying.pop_front().unwrap();
                finish(&mut transfers, &oldest);
                push_read(&mut transfers);
                completions += 1;
                assert!(completions <= places, "a write waits behind {completions} reads");
            }
        }
    }
}

#[test]
fn a_burst_of_writes_does_not_keep_a_read_waiting_at_all() {
    for places in [PLACES_MIN, 16, 64] {
        let (arena, now) = (arena(), Instant::now());
        let mut transfers = Transfers::new(places);
        let block = block(&arena, 100, 1);
        for _ in 0..10_000 {
            transfers.push(write(&block));
        }
        let begun = submit_all(&mut transfers, now);
        assert!(begun.len() < places, "{} of {places}", begun.len());
        let (request, _end) = read(&arena, 100, Urgency::Background, now + TIMEOUT);
        transfers.push(request);
        let begun = submit_all(&mut transfers, now);
        assert!(matches!(&begun[..], [Submission { work: Work::Read(_), .. }]), "{begun:?}");
    }
}

#[test]
fn syncs_and_discards_run_one_at_a_time_and_leave_writes_their_places() {
    let (arena, now) = (arena(), Instant::now());
    let mut transfers = Transfers::new(PLACES_MIN);
    let block = block(&arena, 100, 1);
    for n in 0..100 {
        transfers.push(Request::Discard { offset: n * 4_096, len: 4_096, done: Box::new(drop) });
    }
    for _ in 0..100 {
        transfers.push(write(&block));
        let (request, end) = read(&arena, 100, Urgency::Urgent, now + TIMEOUT);
        std::mem::forget(end);
        transfers.push(request);
    }
    let (mut flying, mut most) = (Vec::new(), BTreeMap::new());
    loop {
        flying.extend(submit_all(&mut transfers, now));
        let mut counts = BTreeMap::new();
        for one in &flying {
            *counts.entry(name_of(one)).or_insert(0) += 1;
        }
        // As long as there are discards.
        if !counts.contains_key("discard") {
            break;
        }
        assert!(counts["write"] >= 2, "{counts:?}");
        for (name, count) in counts {
            let most = most.entry(name).or_insert(0);
            *most = count.max(*most);
        }
        let oldest = flying.remove(0);
        finish(&mut transfers, &oldest);
        transfers.push(write(&block));
    }
    assert_eq!((most["sync"], most["discard"]), (1, 1), "{most:?}");
}

#[test]
fn late_reads_end_however_many_urgent_ones_there_are() {
    let (arena, now) = (arena(), Instant::now());
    let mut transfers = Transfers::new(PLACES);
    for _ in 0..100 {
        let (request, end) = read(&arena, 100, Urgency::Urgent, now + TIMEOUT);
        std::mem::forget(end);
        transfers.push(request);
    }
    let soon = now + Duration::from_millis(5);
    let (request, end) = read(&arena, 100, Urgency::Background, soon);
    transfers.push(request);
    submit_all(&mut transfers, now);
    assert!(transfers.pop_ended().is_none());
    assert!(transfers.next(soon).is_none(), "the table is full");
    tell(&mut transfers);
    assert_eq!(answer(end).unwrap_err(), io::ErrorKind::TimedOut);
}

#[test]
fn a_read_whose_waiter_is_gone_is_not_begun() {
    let (arena, now) = (arena(), Instant::now());
    let mut transfers = Transfers::new(PLACES);
    let (request, end) = read(&arena, 100, Urgency::Normal, now + TIMEOUT);
    transfers.push(request);
    drop(end);
    assert!(transfers.next(now).is_none());
    tell(&mut transfers);
    assert!(transfers.is_idle());
    assert_eq!(used_bytes(&arena), 0, "INV-LEAK");
}

#[test]
fn a_read_in_flight_keeps_its_slot_although_its_waiter_is_gone() {
    let (arena, now) = (arena(), Instant::now());
    let mut transfers = Transfers::new(PLACES);
    let (request, end) = read(&arena, 100, Urgency::Normal, now + TIMEOUT);
    transfers.push(request);
    let submission = transfers.next(now).unwrap();
    drop(end);
    assert!(transfers.next(now + 2 * TIMEOUT).is_none());
    tell(&mut transfers);
    assert_eq!(used_bytes(&arena), SECTOR as u64, "the kernel may still write there");
    finish(&mut transfers, &submission);
    assert_eq!(used_bytes(&arena), 0, "INV-LEAK");
}

#[test]
fn a_driver_that_fails_gives_back_what_waits_and_never_what_is_in_flight() {
    let (arena, now) = (arena(), Instant::now());
    let mut transfers = Transfers::new(PLACES);
    let mut ends = Vec::new();
    for _ in 0..PLACES {
        let (request, end) = read(&arena, 100, Urgency::Normal, now + TIMEOUT);
        transfers.push(request);
        ends.push(end);
    }
    let written = block(&arena, 100, 1);
    let (done, wait) = done();
    transfers.push(Request::Write { offset: 0, block: written, done });
    let in_flight = submit_all(&mut transfers, now).len();
    assert!(in_flight < PLACES + 1);
    transfers.abandon();
    tell(&mut transfers);
    for end in ends {
        assert_eq!(answer(end).unwrap_err(), io::ErrorKind::NotConnected);
    }
    assert_eq!(wait.wait().unwrap_err().kind(), io::ErrorKind::NotConnected);
    assert!(transfers.is_idle());
    assert_eq!(used_bytes(&arena), (in_flight * SECTOR) as u64);
}

/// Submits a read of four sectors and reports `results` until it ends.
fn read_with(results: impl IntoIterator<Item = io::Result<usize>>) -> (u32, Result<SlotMut, io::ErrorKind>) {
    let (arena, now) = (arena(), Instant::now());
    let mut transfers = Transfers::new(PLACES);
    let (request, end) = read(&arena, 4 * SECTOR - 200, Urgency::Normal, now + TIMEOUT);
    transfers.push(request);
    let mut submissions = 0;
    for result in results {
        // Too late to begin, but it has begun.
        let Some(submission) = transfers.next(now + 2 * TIMEOUT * submissions) else { break };
        submissions += 1;
        transfers.complete(submission.place, result);
    }
    assert!(transfers.is_idle(), "after {submissions} submissions");
    tell(&mut transfers);
    (submissions, answer(end))
}

fn errno(number: i32) -> io::Result<usize> {
    Err(io::Error::from_raw_os_error(number))
}

#[test]
fn a_read_ends_as_its_completions_say() {
    for (name, results, expected) in [
        ("in one piece", vec![Ok(4 * SECTOR)], Ok(())),
        ("sector by sector", (0..4).map(|_| Ok(SECTOR)).collect(), Ok(())),
        ("from within a sector", vec![Ok(SECTOR + 5), Ok(3 * SECTOR)], Ok(())),
        ("after interruptions", vec![errno(libc::EINTR), errno(libc::EAGAIN), Ok(4 * SECTOR)], Ok(())),
        ("nothing", vec![Ok(0)], Err(io::ErrorKind::UnexpectedEof)),
        ("an end at a sector's", vec![Ok(2 * SECTOR), Ok(0)], Err(io::ErrorKind::UnexpectedEof)),
        ("an end within a sector", vec![Ok(SECTOR + 5), Ok(5)], Err(io::ErrorKind::UnexpectedEof)),
        ("interrupted for ever", (0..100).map(|_| errno(libc::EINTR)).collect(), Err(io::ErrorKind::Other)),
    ] {
        let given = results.len();
        let (submissions, ended) = read_with(results);
        assert_eq!(ended.map(drop), expected, "{name}");
        assert_eq!(submissions as usize, given.min(64), "{name}");
    }
}

#[test]
fn an_error_is_final() {
    for number in [libc::EIO, libc::ENOSPC, libc::EINVAL, libc::ENODEV, libc::EFAULT] {
        let (submissions, ended) = read_with([Ok(SECTOR), errno(number), Ok(3 * SECTOR)]);
        assert!(ended.is_err(), "INV-EIO: errno {number}");
        assert_eq!(submissions, 2, "INV-EIO: errno {number} is not tried again");
    }
}

#[test]
fn a_short_write_goes_on_where_it_stopped() {
    let (arena, now) = (arena(), Instant::now());
    let mut transfers = Transfers::new(PLACES);
    let (done, wait) = done();
    let block = block(&arena, 4 * SECTOR - 200, 1);
    let address = block.slot().record_address();
    transfers.push(Request::Write { offset: 40_960, block, done });
    let mut reached = 0;
    for count in [SECTOR, 2 * SECTOR + 7, SECTOR] {
        let Some(Submission { place, work: Work::Write(span) }) = transfers.next(now) else {
            panic!("a write is due")
        };
        assert_eq!(span.start, reached);
        assert_eq!(span.offset, 40_960 + reached as u64);
        assert_eq!(span.address, address.wrapping_add(reached));
        assert_eq!(span.len, 4 * SECTOR - reached);
        transfers.complete(place, Ok(count));
        reached += count - count % SECTOR;
    }
    let sync = transfers.next(now).unwrap();
    assert!(matches!(sync.work, Work::Sync), "{sync:?}");
    tell(&mut transfers);
    assert!(wait.has_ended().is_none(), "written is not durable");
    finish(&mut transfers, &sync);
    wait.wait().unwrap();
}

#[test]
fn a_write_that_takes_nothing_fails() {
    let (arena, now) = (arena(), Instant::now());
    let mut transfers = Transfers::new(PLACES);
    let (done, wait) = done();
    transfers.push(Request::Write { offset: 0, block: block(&arena, 100, 1), done });
    let submission = transfers.next(now).unwrap();
    transfers.complete(submission.place, Ok(0));
    tell(&mut transfers);
    assert_eq!(wait.wait().unwrap_err().kind(), io::ErrorKind::WriteZero);
}

/// Pushes a write and gives the waiter's end.
fn push_write(transfers: &mut Transfers, arena: &Arc<Arena>) -> Wait {
    let (done, wait) = done();
    transfers.push(Request::Write { offset: 0, block: block(arena, 100, 1), done });
    wait
}

fn next_named(transfers: &mut Transfers, name: &str) -> Submission {
    let submission = transfers.next(Instant::now()).expect("something is due");
    assert_eq!(name_of(&submission), name);
    submission
}

#[test]
fn a_write_ends_with_a_sync_that_began_after_it() {
    let arena = arena();
    let mut transfers = Transfers::new(PLACES);
    let first = push_write(&mut transfers, &arena);
    let write = next_named(&mut transfers, "write");
    finish(&mut transfers, &write);
    let sync = next_named(&mut transfers, "sync");
    let second = push_write(&mut transfers, &arena);
    let write = next_named(&mut transfers, "write");
    finish(&mut transfers, &write);
    assert!(transfers.next(Instant::now()).is_none(), "one sync at a time");
    finish(&mut transfers, &sync);
    first.has_ended().expect("the sync covers it").unwrap();
    assert!(second.has_ended().is_none(), "it ended while the sync ran");
    let sync = next_named(&mut transfers, "sync");
    finish(&mut transfers, &sync);
    second.has_ended().expect("the second sync covers it").unwrap();
    assert!(transfers.is_idle());
}

#[test]
fn writes_that_come_together_share_a_sync() {
    let arena = arena();
    let mut transfers = Transfers::new(PLACES);
    let waits: Vec<_> = (0..8).map(|_| push_write(&mut transfers, &arena)).collect();
    let writes = submit_all(&mut transfers, Instant::now());
    assert_eq!(writes.len(), 8);
    for write in &writes[..4] {
        assert!(transfers.next(Instant::now()).is_none());
        finish(&mut transfers, write);
    }
    let sync = next_named(&mut transfers, "sync");
    writes[4..].iter().for_each(|write| finish(&mut transfers, write));
    finish(&mut transfers, &sync);
    assert_eq!(waits.iter().filter(|wait| wait.has_ended().is_some()).count(), 4);
}

#[test]
fn a_failed_sync_costs_what_it_covered_what_ended_meanwhile_and_what_was_in_flight() {
    let arena = arena();
    let mut transfers = Transfers::new(PLACES);
    let covered = push_write(&mut transfers, &arena);
    let write = next_named(&mut transfers, "write");
    finish(&mut transfers, &write);
    let sync = next_named(&mut transfers, "sync");
    let meanwhile = push_write(&mut transfers, &arena);
    let in_flight = push_write(&mut transfers, &arena);
    let writes = submit_all(&mut transfers, Instant::now());
    finish(&mut transfers, &writes[0]);
    let later = push_write(&mut transfers, &arena);
    transfers.complete(sync.place, errno(libc::EIO));
    tell(&mut transfers);
    for lost in [covered, meanwhile] {
        assert_eq!(lost.wait().unwrap_err().raw_os_error(), Some(libc::EIO));
    }
    finish(&mut transfers, &writes[1]);
    in_flight.wait().expect_err("a part of it may have been done before the sync");
    let write = next_named(&mut transfers, "write");
    finish(&mut transfers, &write);
    let sync = next_named(&mut transfers, "sync");
    finish(&mut transfers, &sync);
    later.wait().expect("it began after the sync failed");
}

#[derive(Clone, Debug)]
enum Action {
    Read {
        urgency: usize,
        deadline_ms: u64,
        sectors: usize,
    },
    Write {
        sectors: usize,
    },
    Discard,
    /// Drops the waiter of a read.
    Abandon(Index),
    /// Submits what is due.
    Submit,
    /// Completes something that is in flight.
    Complete(Index, Report),
    Wait(u64),
}

#[derive(Clone, Copy, Debug)]
enum Report {
    Full,
    Short(usize),
    Errno(i32),
}

fn report() -> impl Strategy<Value = Report> {
    prop_oneof![
        6 => Just(Report::Full),
        2 => (0..20_000_usize).prop_map(Report::Short),
        2 => prop::sample::select(vec![libc::EIO, libc::EINTR, libc::EAGAIN]).prop_map(Report::Errno),
    ]
}

fn action() -> impl Strategy<Value = Action> {
    prop_oneof![
        4 => (0..3_usize, 1..50_u64, 1..5_usize)
            .prop_map(|(urgency, deadline_ms, sectors)| Action::Read { urgency, deadline_ms, sectors }),
        3 => (1..5_usize).prop_map(|sectors| Action::Write { sectors }),
        1 => Just(Action::Discard),
        1 => any::<Index>().prop_map(Action::Abandon),
        4 => Just(Action::Submit),
        6 => (any::<Index>(), report()).prop_map(|(which, report)| Action::Complete(which, report)),
        1 => (1..20_u64).prop_map(Action::Wait),
    ]
}

/// A table, and what the test knows of it.
struct Model {
    arena: Arc<Arena>,
    transfers: Transfers,
    now: Instant,
    began: Instant,
    /// How often each request that is no read ended.
    others: Vec<Arc<AtomicU32>>,
    /// Waiters of reads that have not ended.
    reads: Vec<ReadEnd>,
    flying: Vec<Submission>,
    /// Where the memory in flight lies.
    lent: BTreeSet<usize>,
    trace: Vec<String>,
}

impl Model {
    fn new() -> Self {
        let now = Instant::now();
        Self {
            arena: arena(),
            transfers: Transfers::new(PLACES),
            now,
            began: now,
            others: Vec::new(),
            reads: Vec::new(),
            flying: Vec::new(),
            lent: BTreeSet::new(),
            trace: Vec::new(),
        }
    }

    fn done(&mut self) -> Done {
        let count = Arc::new(AtomicU32::new(0));
        self.others.push(Arc::clone(&count));
        Box::new(move |_| {
            count.fetch_add(1, Ordering::SeqCst);
        })
    }

    fn run(&mut self, action: &Action) {
        match action {
            Action::Read { urgency, deadline_ms, sectors } => {
                let deadline = self.now + Duration::from_millis(*deadline_ms);
                let (request, end) =
                    read(&self.arena, sectors * SECTOR - 200, Urgency::ALL[*urgency], deadline);
                if let Request::Read { slot, .. } = &request {
                    assert!(!self.lent.contains(&slot.slot().record_address().addr()), "memory in flight");
                }
                self.reads.push(end);
                self.transfers.push(request);
            }
            Action::Write { sectors } => {
                let block = block(&self.arena, sectors * SECTOR - 200, 1);
                assert!(!self.lent.contains(&block.slot().record_address().addr()), "memory in flight");
                let done = self.done();
                self.transfers.push(Request::Write { offset: 0, block, done });
            }
            Action::Discard => {
                let done = self.done();
                self.transfers.push(Request::Discard { offset: 0, len: 4_096, done });
            }
            Action::Abandon(which) if !self.reads.is_empty() => {
                self.reads.swap_remove(which.index(self.reads.len()));
            }
            Action::Submit => self.submit(),
            Action::Complete(which, report) if !self.flying.is_empty() => {
                let submission = self.flying.swap_remove(which.index(self.flying.len()));
                self.complete(&submission, *report);
            }
            Action::Wait(ms) => self.now += Duration::from_millis(*ms),
            Action::Abandon(_) | Action::Complete(..) => {}
        }
        tell(&mut self.transfers);
        assert!(self.transfers.in_flight() <= PLACES, "INV-BOUND");
    }

    fn submit(&mut self) {
        while let Some(submission) = self.transfers.next(self.now) {
            if let Work::Read(span) | Work::Write(span) = &submission.work {
                let record = span.address.wrapping_sub(span.start).addr();
                assert!(self.lent.insert(record), "one transfer at a time uses a slot");
            }
            let at = (self.now - self.began).as_millis();
            self.trace.push(format!("{at} {:?} {}", submission.place, len_of(&submission)));
            self.flying.push(submission);
        }
    }

    fn complete(&mut self, submission: &Submission, report: Report) {
        if let Work::Read(span) | Work::Write(span) = &submission.work {
            self.lent.remove(&span.address.wrapping_sub(span.start).addr());
        }
        let result = match report {
            Report::Full => Ok(len_of(submission)),
            Report::Short(count) => Ok(count.min(len_of(submission))),
            Report::Errno(number) => errno(number),
        };
        self.trace.push(format!("{:?} {report:?}", submission.place));
        self.transfers.complete(submission.place, result);
    }

    /// Completes everything and checks that everything has ended.
    fn finish(mut self) -> Vec<String> {
        while !self.transfers.is_idle() {
            self.submit();
            for submission in std::mem::take(&mut self.flying) {
                self.complete(&submission, Report::Full);
            }
            tell(&mut self.transfers);
        }
        for end in std::mem::take(&mut self.reads) {
            // What a table says that dropped a request.
            assert_ne!(answer(end).err(), Some(io::ErrorKind::NotConnected), "every read is answered");
        }
        for (n, count) in self.others.iter().enumerate() {
            assert_eq!(count.load(Ordering::SeqCst), 1, "request {n} ends exactly once");
        }
        assert_eq!(used_bytes(&self.arena), 0, "INV-LEAK");
        self.trace
    }
}

fn play(actions: &[Action]) -> Vec<String> {
    let mut model = Model::new();
    for action in actions {
        model.run(action);
    }
    model.finish()
}

proptest! {
    #[test]
    fn every_request_ends_exactly_once_and_its_memory_is_its_own_until_then(
        actions in prop::collection::vec(action(), 1..300),
    ) {
        let trace = play(&actions);
        prop_assert_eq!(trace, play(&actions), "the same calls have the same outcome");
    }

    #[test]
    fn the_most_urgent_read_begins_first_and_then_the_one_with_the_earliest_deadline(
        reads in prop::collection::vec((0..3_usize, 1..20_u64), 1..100),
    ) {
        let (arena, now) = (arena(), Instant::now());
        let mut transfers = Transfers::new(PLACES);
        let mut expected = Vec::new();
        let mut ends = Vec::new();
        for (arrival, (urgency, deadline_s)) in reads.into_iter().enumerate() {
            let deadline = now + Duration::from_secs(deadline_s);
            let (request, end) = read(&arena, 100, Urgency::ALL[urgency], deadline);
            let Request::Read { slot, .. } = &request else { unreachable!("it is a read") };
            expected.push((urgency, deadline, arrival, slot.slot().record_address()));
            ends.push(end);
            transfers.push(request);
        }
        expected.sort_unstable();
        for (.., address) in expected {
            let Submission { place, work } = transfers.next(now).expect("a read is due");
            let Work::Read(span) = work else { panic!("only reads were asked for") };
            prop_assert_eq!(span.address, address);
            transfers.complete(place, Ok(span.len));
            tell(&mut transfers);
        }
    }
}
