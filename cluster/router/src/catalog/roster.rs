//! Which workers a pool has, and which members of its index they are.
//!
//! Queries read a roster that does not change: they keep the one they have until there is another. A number goes from
//! one worker to another in this order: a roster without the first is published, the index forgets what it held, the
//! number is given back, and a roster with the second is published. Whoever finds after a query that the roster is
//! still the one it had has mixed up nobody.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::WorkerKey;
use super::levels::Levels;
use super::worker::Worker;
use crate::index::Member;

/// Numbers of rosters: no two have the same, whatever their pools.
static STAMPS: AtomicU64 = AtomicU64::new(1);

/// The workers at one time, in the order of their keys.
#[derive(Debug)]
pub(super) struct Roster {
    stamp: u64,
    rows: Vec<Row>,
}

#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) worker: Arc<Worker>,
    pub(super) levels: Levels,
}

/// Where the present roster is found.
#[derive(Debug)]
pub(super) struct Board {
    roster: RwLock<Arc<Roster>>,
    /// The present roster's stamp.
    stamp: AtomicU64,
    numbers: Mutex<Numbers>,
}

#[derive(Debug, Default)]
struct Numbers {
    free: BinaryHeap<Reverse<u16>>,
    /// Those below it have been given.
    next: u16,
}

impl Roster {
    fn new(rows: Vec<Row>) -> Self {
        Self { stamp: STAMPS.fetch_add(1, Ordering::Relaxed), rows }
    }

    pub(super) fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// The numbers of its members are below it.
    pub(super) fn members_end(&self) -> usize {
        let all = self.rows.iter().flat_map(|row| row.levels.distinct());
        all.map(|(_, member)| usize::from(member.0) + 1).max().unwrap_or(0)
    }

    pub(super) fn worker(&self, key: &WorkerKey) -> Option<&Arc<Worker>> {
        self.place(key).ok().map(|at| &self.rows[at].worker)
    }

    fn place(&self, key: &WorkerKey) -> Result<usize, usize> {
        self.rows.binary_search_by(|row| row.worker.key().cmp(key))
    }
}

impl Board {
    pub(super) fn new() -> Self {
        let roster = Roster::new(Vec::new());
        Self {
            stamp: AtomicU64::new(roster.stamp),
            roster: RwLock::new(Arc::new(roster)),
            numbers: Mutex::default(),
        }
    }

    /// The present roster, which stays the present one for as long as this is kept.
    pub(super) fn read(&self) -> RwLockReadGuard<'_, Arc<Roster>> {
        self.roster.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether a roster is still the present one.
    #[inline]
    pub(super) fn is_present(&self, roster: &Roster) -> bool {
        self.stamp.load(Ordering::Acquire) == roster.stamp
    }

    /// Adds a worker, unless it is there: then that one is given. None if there would be more than so many.
    pub(super) fn add(&self, worker: Worker, workers_max: usize) -> Option<Arc<Worker>> {
        let mut present = self.write();
        let at = match present.place(worker.key()) {
            Ok(at) => return Some(Arc::clone(&present.rows[at].worker)),
            Err(_) if present.rows.len() >= workers_max => return None,
            Err(at) => at,
        };
        let worker = Arc::new(worker);
        let mut rows = present.rows.clone();
        rows.insert(at, Row { worker: Arc::clone(&worker), levels: Levels::default() });
        self.publish(&mut present, rows);
        Some(worker)
    }

    /// Takes a worker out.
    pub(super) fn remove(&self, key: &WorkerKey) -> Option<Arc<Worker>> {
        let mut present = self.write();
        let at = present.place(key).ok()?;
        let mut rows = present.rows.clone();
        let row = rows.remove(at);
        self.publish(&mut present, rows);
        Some(row.worker)
    }

    /// Says which members a worker is now. Nothing comes of it if the worker is gone.
    pub(super) fn set_levels(&self, worker: &Worker, levels: Levels) {
        let mut present = self.write();
        let Ok(at) = present.place(worker.key()) else { return };
        if std::ptr::eq(&*present.rows[at].worker, worker) {
            let mut rows = present.rows.clone();
            rows[at].levels = levels;
            self.publish(&mut present, rows);
        }
    }

    /// The lowest number that no member has.
    pub(super) fn take_number(&self) -> Option<Member> {
        let mut numbers = self.numbers();
        if let Some(Reverse(number)) = numbers.free.pop() {
            return Some(Member(number));
        }
        let number = numbers.next;
        numbers.next = number.checked_add(1)?;
        Some(Member(number))
    }

    /// Gives the number of a member back that the index has forgotten.
    pub(super) fn give_back(&self, member: Member) {
        self.numbers().free.push(Reverse(member.0));
    }

    fn publish(&self, present: &mut Arc<Roster>, rows: Vec<Row>) {
        *present = Arc::new(Roster::new(rows));
        self.stamp.store(present.stamp, Ordering::Release);
    }

    fn write(&self) -> RwLockWriteGuard<'_, Arc<Roster>> {
        self.roster.write().unwrap_or_else(PoisonError::into_inner)
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
