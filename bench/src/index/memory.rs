//! Bytes that are allocated, counted only while somebody asks.
#![allow(unsafe_code)] // An allocator is.

use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};

use mimalloc::MiMalloc;

/// mimalloc, as in hearthd, with a counter in front of it.
pub(crate) struct Counting;

static IS_COUNTED: AtomicBool = AtomicBool::new(false);
static BYTES: AtomicI64 = AtomicI64::new(0);

fn count(bytes: i64) {
    if IS_COUNTED.load(Ordering::Relaxed) {
        BYTES.fetch_add(bytes, Ordering::Relaxed);
    }
}

// SAFETY: every call goes on to mimalloc as it came.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promises are the same.
        unsafe { MiMalloc.alloc(layout) }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as i64);
        // SAFETY: the caller's promises are the same.
        unsafe { MiMalloc.alloc_zeroed(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        count(-(layout.size() as i64));
        // SAFETY: the caller's promises are the same.
        unsafe { MiMalloc.dealloc(pointer, layout) }
    }

    unsafe fn realloc(&self, pointer: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        count(size as i64 - layout.size() as i64);
        // SAFETY: the caller's promises are the same.
        unsafe { MiMalloc.realloc(pointer, layout, size) }
    }
}

/// Counts from zero on until it is dropped. What was allocated before must not be let go of meanwhile.
pub(super) struct Counted;

impl Counted {
    pub(super) fn start() -> Self {
        BYTES.store(0, Ordering::Relaxed);
        IS_COUNTED.store(true, Ordering::Relaxed);
        Self
    }

    /// Bytes that were allocated since the start and are still.
    pub(super) fn bytes(&self) -> i64 {
        BYTES.load(Ordering::Relaxed)
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        IS_COUNTED.store(false, Ordering::Relaxed);
    }
}
