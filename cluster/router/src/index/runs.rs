//! The runs of an index, by number. A number may be given to another run as soon as its run is gone: whoever comes to
//! one looks at the hashes of its body.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use crossbeam_epoch::Guard;

use super::body::Body;
use crate::swap::{Array, Words};

/// Runs in the first of the arrays; each has as many as all before it, and the first twice.
const FIRST: u32 = 1 << FIRST_BITS;
const FIRST_BITS: u32 = 8;
/// Bits of a run's number.
pub(super) const NUMBER_BITS: u32 = 28;
const NUMBER_LAST: u32 = (1 << NUMBER_BITS) - 1;
const ARRAYS: usize = (NUMBER_BITS - FIRST_BITS) as usize + 1;

/// One run: consecutive blocks of a chain.
#[derive(Debug)]
pub(super) struct Run {
    writer: Mutex<Writer>,
    body: Words,
    /// When it was last asked for.
    pub(super) used: AtomicU32,
}

/// What only who changes the run needs.
#[derive(Debug, Default)]
pub(super) struct Writer {
    /// Blocks that members hold, each counted for each of them.
    pub(super) held: u32,
    /// Blocks that members have let go of since it was last looked at which are held by nobody.
    pub(super) removed: u32,
}

impl Run {
    const fn new() -> Self {
        Self {
            writer: Mutex::new(Writer { held: 0, removed: 0 }),
            body: Words::none(),
            used: AtomicU32::new(0),
        }
    }

    /// What can be read of it; none of a number that is no run's.
    #[inline]
    pub(super) fn body<'g>(&'g self, guard: &'g Guard) -> Option<Body<'g>> {
        self.body.get(guard).map(Body::of)
    }

    /// Keeps all others from changing it.
    pub(super) fn lock(&self) -> MutexGuard<'_, Writer> {
        self.writer.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts another body in the place of its own. Only who has the lock does it.
    pub(super) fn replace(&self, body: Option<Array>, guard: &Guard) {
        self.body.replace(body, guard);
    }

    /// Notes that it was asked for.
    #[inline]
    pub(super) fn touch(&self, now: u32) {
        if self.used.load(Ordering::Relaxed) != now {
            self.used.store(now, Ordering::Relaxed);
        }
    }
}

/// All runs.
#[derive(Debug)]
pub(super) struct Runs {
    arrays: [OnceLock<Box<[Run]>>; ARRAYS],
    numbers: Mutex<Numbers>,
}

#[derive(Debug)]
struct Numbers {
    free: Vec<u32>,
    /// Those from one up to it have been given: no run has the number zero, nor the last one.
    next: u32,
}

impl Runs {
    pub(super) fn new() -> Self {
        Self {
            arrays: [const { OnceLock::new() }; ARRAYS],
            numbers: Mutex::new(Numbers { free: Vec::new(), next: 1 }),
        }
    }

    /// The run with this number, if it was ever given.
    #[inline]
    pub(super) fn get(&self, number: u32) -> Option<&Run> {
        let (array, at) = place(number);
        self.arrays.get(array)?.get()?.get(at)
    }

    /// Takes a number for a new run; `None` if there are no more.
    pub(super) fn take(&self) -> Option<(u32, &Run)> {
        let number = {
            let mut numbers = self.lock();
            match numbers.free.pop() {
                Some(number) => number,
                None if numbers.next < NUMBER_LAST => {
                    numbers.next += 1;
                    numbers.next - 1
                }
                None => return None,
            }
        };
        let (array, at) = place(number);
        let runs = self.arrays.get(array)?.get_or_init(|| (0..len_of(array)).map(|_| Run::new()).collect());
        Some((number, &runs[at]))
    }

    /// Gives the number of a run back that is gone.
    pub(super) fn give_back(&self, number: u32) {
        self.lock().free.push(number);
    }

    /// Numbers that have been given are below it.
    pub(super) fn end(&self) -> u32 {
        self.lock().next
    }

    /// Runs that are there.
    pub(super) fn len(&self) -> usize {
        let numbers = self.lock();
        numbers.next as usize - 1 - numbers.free.len()
    }

    /// Bytes of memory, without the bodies.
    pub(super) fn bytes(&self) -> usize {
        let arrays = self.arrays.iter().filter_map(OnceLock::get);
        arrays.map(|runs| size_of_val(&**runs)).sum::<usize>()
            + self.lock().free.capacity() * size_of::<u32>()
    }

    fn lock(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The array that a number is in, and where.
#[inline]
fn place(number: u32) -> (usize, usize) {
    match (number >> FIRST_BITS).checked_ilog2() {
        None => (0, number as usize),
        Some(doubled) => (doubled as usize + 1, (number - (FIRST << doubled)) as usize),
    }
}

fn len_of(array: usize) -> u32 {
    FIRST << array.saturating_sub(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_number_has_a_place_of_its_own() {
        let mut expected = (0, 0);
        for number in 0..100_000 {
            assert_eq!(place(number), expected, "{number}");
            expected.1 += 1;
            if expected.1 == len_of(expected.0) as usize {
                expected = (expected.0 + 1, 0);
            }
        }
        let last = place(NUMBER_LAST);
        assert_eq!(last, (ARRAYS - 1, len_of(ARRAYS - 1) as usize - 1));
    }

    #[test]
    fn numbers_are_given_again() {
        let runs = Runs::new();
        let taken: Vec<u32> = (0..600).map(|_| runs.take().unwrap().0).collect();
        assert!(taken.iter().copied().eq(1..601));
        runs.give_back(17);
        assert_eq!((runs.len(), runs.take().unwrap().0, runs.len(), runs.end()), (599, 17, 600, 601));
        assert!(runs.get(600).is_some() && runs.get(1 << 27).is_none());
    }
}
