//! Memory that is read without waiting and replaced as a whole.
#![allow(unsafe_code)] // What the collector asks of its callers is kept here, and nowhere else.

use std::mem::MaybeUninit;
use std::sync::atomic::{AtomicU64, Ordering};

use crossbeam_epoch::{Atomic, Guard, Owned, Shared};

/// An array of words, or none. Whoever reads it has it until the guard is let go of, whatever takes its place.
#[derive(Debug)]
pub(crate) struct Words(Atomic<[MaybeUninit<AtomicU64>]>);

impl Words {
    pub(crate) const fn none() -> Self {
        Self(Atomic::null())
    }

    /// What is there now.
    #[inline]
    pub(crate) fn get<'g>(&'g self, guard: &'g Guard) -> Option<&'g [AtomicU64]> {
        let words = self.0.load(Ordering::Acquire, guard);
        // SAFETY: it came from `Array`, which writes each word, and only `replace` and `drop` destroy it: the first
        // when no guard is left that may have seen it, the second when nobody borrows `self`.
        unsafe { words.as_ref() }.map(written)
    }

    /// Puts another array, or none, in its place. What was there is let go of when nobody can be reading it.
    pub(crate) fn replace(&self, words: Option<Array>, guard: &Guard) {
        let words = words.map_or(Shared::null(), |words| words.0.into_shared(guard));
        let before = self.0.swap(words, Ordering::AcqRel, guard);
        if !before.is_null() {
            // SAFETY: nobody comes to it from here any more, and this is the only one that took it out.
            unsafe { guard.defer_destroy(before) };
        }
    }
}

impl Drop for Words {
    fn drop(&mut self) {
        let words = std::mem::replace(&mut self.0, Atomic::null());
        // SAFETY: nobody else borrows `self`, so nobody is reading it.
        drop(unsafe { words.try_into_owned() });
    }
}

/// An array that nobody else reads yet.
#[derive(Debug)]
pub(crate) struct Array(Owned<[MaybeUninit<AtomicU64>]>);

impl Array {
    /// So many zeros.
    pub(crate) fn zeroed(len: usize) -> Self {
        let mut words = Owned::<[MaybeUninit<AtomicU64>]>::init(len);
        for word in words.iter_mut() {
            word.write(AtomicU64::new(0));
        }
        Self(words)
    }
}

impl std::ops::Deref for Array {
    type Target = [AtomicU64];

    fn deref(&self) -> &[AtomicU64] {
        written(&self.0)
    }
}

/// The words of an array that [`Array::zeroed`] made.
#[inline]
fn written(words: &[MaybeUninit<AtomicU64>]) -> &[AtomicU64] {
    // SAFETY: every word was written when the array was made, and `MaybeUninit` has the layout of what it holds.
    unsafe { &*(std::ptr::from_ref(words) as *const [AtomicU64]) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_read_outlives_its_replacement() {
        let words = Words::none();
        let guard = crossbeam_epoch::pin();
        assert!(words.get(&guard).is_none());
        let array = Array::zeroed(3);
        array[1].store(7, Ordering::Relaxed);
        words.replace(Some(array), &guard);
        let read = words.get(&guard).expect("it is there");
        words.replace(Some(Array::zeroed(1)), &guard);
        assert_eq!(read.iter().map(|word| word.load(Ordering::Relaxed)).collect::<Vec<_>>(), [0, 7, 0]);
        assert_eq!(words.get(&guard).map(<[_]>::len), Some(1));
        words.replace(None, &guard);
        assert!(words.get(&guard).is_none());
    }
}
