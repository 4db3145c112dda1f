//! Memory that is fetched ahead of its use.
#![allow(unsafe_code)] // The processor's hint has no safe form.

/// Bytes that come from memory at a time.
const LINE_BYTES: usize = 64;

/// Asks for the lines of memory at an address. A hint: it changes nothing, waits for nothing, and whatever the
/// address is, it does no harm.
pub(crate) fn prefetch(address: usize, lines: usize) {
    for line in 0..lines {
        prefetch_line(address.wrapping_add(line * LINE_BYTES));
    }
}

#[cfg(target_arch = "x86_64")]
fn prefetch_line(address: usize) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: the instruction reads nothing that the program could see, and never faults.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(std::ptr::without_provenance(address)) };
}

#[cfg(not(target_arch = "x86_64"))]
fn prefetch_line(_address: usize) {}
