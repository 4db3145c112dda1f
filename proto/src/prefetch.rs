//! Memory that is fetched ahead of its use.
#![allow(unsafe_code)] // The processor's hint has no safe form.

/// Asks for the line of memory that a value begins in, and does not wait for it.
#[cfg(all(target_arch = "x86_64", not(miri)))]
#[inline]
pub fn prefetch<T>(value: &T) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: the instruction reads nothing that the program could see, and never faults.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::from_ref(value).cast()) };
}

/// There is no stable form of the hint: whoever comes first waits.
#[cfg(not(all(target_arch = "x86_64", not(miri))))]
pub fn prefetch<T>(_value: &T) {}
